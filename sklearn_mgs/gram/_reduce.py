"""From the layers' factors to the kernel, its trace, and what each layer contributes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sklearn_mgs.gram._centering import center, group_sums
from sklearn_mgs.gram._shares import Factors

__all__ = [
    "balanced",
    "divisor",
    "gram",
    "is_autocasting",
    "no_autocast",
    "repeated_logdet",
    "spread",
    "squares",
    "weighted_gram",
]

LayerFactors = Mapping[str, list[Factors]]
Weights = Mapping[str, float]


def is_autocasting(device: torch.device) -> bool:
    """Whether operations on `device` are cast to a lower precision; some devices have none."""
    kind = device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Context in which the kernel's products keep their precision."""
    if is_autocasting(device):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _total(terms: list[Tensor], scale: float) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total if scale == 1.0 else scale * total


def _sum_layers(factors: LayerFactors, weights: Weights, share) -> Tensor:
    """Weighted sum over layers of the sum over a layer's factors of ``share(factor)``."""
    terms = [
        _total([share(f) for f in factors[name]], weight)
        for name, weight in weights.items()
        if name in factors
    ]
    if not terms:
        raise ValueError(f"The outputs depend on none of the layers {list(weights)}.")
    return _total(terms, 1.0)


def gram(factors: LayerFactors, weights: Weights, other: LayerFactors | None = None) -> Tensor:
    """Kernel (n, n), or (n, m) with the m samples of `other`."""
    if other is None:
        return _sum_layers(factors, weights, Factors.gram)
    partner = {id(f): g for name in factors for f, g in zip(factors[name], other[name])}
    return _sum_layers(factors, weights, lambda f: f.gram(partner[id(f)]))


def squares(factors: LayerFactors, weights: Weights) -> Tensor:
    """Diagonal (n,) of the kernel."""
    return _sum_layers(factors, weights, Factors.squares)


def spread(
    factors: LayerFactors,
    weights: Weights,
    B: Tensor | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Sum of the squared norms, (weighted and) taken around the means of the groups `B`."""
    diagonal = squares(factors, weights)
    total = (diagonal if sample_weight is None else sample_weight * diagonal).sum()
    if B is None:
        return total
    S = group_sums(B, sample_weight).to(total.dtype)
    return total - _sum_layers(factors, weights, lambda f: f.combined_squares(S))


def weighted_gram(K: Tensor, B: Tensor | None, sample_weight: Tensor | None) -> Tensor:
    """Centre `K` and multiply entry (i, j) by ``sqrt(w_i w_j)``.

    Its eigenvalues that are not zero are those of the kernel of repeated samples.
    """
    if B is not None:
        K = center(K, B, sample_weight)
    if sample_weight is None:
        return K
    root = sample_weight.sqrt()
    return root[:, None] * K * root


def divisor(sample_weight: Tensor) -> Tensor:
    """Sum of the weights, or 1 where there is none to divide by."""
    total = sample_weight.sum()
    return torch.where(total > 0, total, 1.0)


def repeated_logdet(K: Tensor, sample_weight: Tensor, jitter: float) -> Tensor:
    """Metric "logdet" of the kernel in which sample i stands ``w_i`` times, from the weighted one.

    Of the ``N = sum(w)`` eigenvalues of the repeated kernel all but n are zero, so that
    ``N logdet = log det(K + δ I) + (N - n) log δ`` with ``δ = ε tr(K)/N``. Weights whose mean,
    zeros left out, is below 1 are scaled up to it: no kernel has a part of an eigenvalue.
    """
    n = K.shape[-1]
    N = torch.maximum(sample_weight.sum(), (sample_weight > 0).sum()).clamp_min(1.0)
    K = K * (N / divisor(sample_weight))
    shift = jitter * K.diagonal().sum() / N + torch.finfo(K.dtype).tiny
    eye = torch.eye(n, dtype=K.dtype, device=K.device)
    L, _ = torch.linalg.cholesky_ex(K + shift * eye, check_errors=False)
    return (2 * L.diagonal().log().sum() + (N - n) * shift.log()) / N


def balanced(traces: Mapping[str, float]) -> dict[str, float]:
    """Weights that make the layers' traces equal, and the kernel their average.

    A layer without any gradient can't be balanced and weighs nothing.
    """
    alive = [name for name, trace in traces.items() if trace > 0]
    if not alive:
        raise ValueError(
            "layers=\"balanced\" divides by each layer's trace, but every layer's is zero or "
            "not finite; check the parameters and the samples."
        )
    return {name: 1 / (len(alive) * traces[name]) if name in alive else 0.0 for name in traces}
