"""The kernel and its trace from chunks of the samples."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from sklearn_mgs.gram import _reduce
from sklearn_mgs.gram._centering import group_sums
from sklearn_mgs.gram._chunks import parts, recomputed
from sklearn_mgs.gram._factorizer import Factorizer
from sklearn_mgs.gram._samples import n_samples

__all__ = ["chunked_gram", "chunked_spread"]


def chunked_gram(factorizer: Factorizer, chunk_size: int) -> Tensor:
    """Kernel from blocks of chunk_size samples each.

    All chunks' factors are held, as long as they fit: with smaller chunks than the factorizer
    chose, and no graph to keep, a chunk's are made anew for each block.
    """
    weights, slices = factorizer.weights, parts(n_samples(factorizer.X), chunk_size)
    held = torch.is_grad_enabled() or chunk_size >= factorizer.chunk_size
    factors = [factorizer(part) for part in slices] if held else None
    if len(slices) == 1:
        return _reduce.gram(factors[0] if factors else factorizer(), weights)
    blocks: dict[tuple[int, int], Tensor] = {}
    for i, part in enumerate(slices):
        a = factors[i] if factors else factorizer(part)
        for j in range(i + 1):
            b = factors[j] if factors else a if i == j else factorizer(slices[j])
            blocks[i, j] = _reduce.gram(a, weights, b)
            blocks[j, i] = blocks[i, j].mT
    order = range(len(slices))
    return torch.cat([torch.cat([blocks[i, j] for j in order], 1) for i in order])


def chunked_spread(
    factorizer: Factorizer,
    chunk_size: int,
    B: Tensor | None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Spread of the gradients from chunks whose graphs are not kept, if there are several."""
    weights = factorizer.weights
    chunks = parts(n_samples(factorizer.X), chunk_size)
    if len(chunks) == 1:
        return _reduce.spread(factorizer(), weights, B, sample_weight)
    S = None if B is None else group_sums(B, sample_weight)
    parameters = [p for p in factorizer.module.parameters() if p.requires_grad]

    def compute(part: slice) -> tuple[Tensor, ...]:
        """Sum of the squares, and the sums of the groups' gradients."""
        factors = factorizer(part)
        squares = _reduce.squares(factors, weights)
        total = (squares if sample_weight is None else sample_weight[part] * squares).sum()
        if S is None:
            return (total,)
        sums = [
            w**0.5 * f.combine(S[part].to(f.D.dtype))
            for k, w in weights.items()
            for f in factors.get(k, ())
        ]
        return total, *sums

    totals = [recomputed(partial(compute, part), parameters) for part in chunks]
    diagonal, *sums = (torch.stack(terms).sum(0) for terms in zip(*totals))
    return diagonal - sum(s.square().sum() for s in sums)
