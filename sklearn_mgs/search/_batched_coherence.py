"""Gradient-coherent regularisation of many models at once."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_mgs._coherence import TREND_DECAY, _cosine_of_sum, _products, strongest_share

__all__ = ["BatchedGate"]


class BatchedGate:
    """Decide how strongly L1 and L2 act in each model, as `CoherenceGate` does in one.

    Parameters
    ----------
    threshold, measure
        As there.

    Attributes
    ----------
    share : Tensor of shape (M, 1, 1)
        Share of its strength with which the regulariser acts at this step.
    free : list of Tensor of bool, or None
        For each weight, whether it may differ from zero after this step; None: all may.
    """

    def __init__(self, threshold: float, measure: str):
        self.threshold, self.measure = threshold, measure
        self.sums: list[Tensor] | None = None
        self.n_steps = 0

    def keep(self, rows: Tensor) -> None:
        """Go on with the models `rows` alone."""
        self.sums = None if self.sums is None else [m[rows] for m in self.sums]

    def decide(self, weights, gradients, alpha, l1, coherence: Tensor | None) -> None:
        """Set `share` and `free`; strengths of shape (M, 1, 1) or None, coherence (M,)."""
        pull = [torch.zeros_like(w) if alpha is None else w * alpha for w in weights]
        if l1 is not None:
            pull = [r.addcmul_(w.sign(), l1) for r, w in zip(pull, weights)]
        if self.measure == "trend":
            share = self._follow(gradients, pull)
        else:
            if coherence is None:
                coherence = _cosine_of_sum(*_inner_products(gradients, pull))
            share = (coherence >= self.threshold).to(weights[0].dtype)
        self.share = share[:, None, None]
        self.free = None
        if l1 is not None and self.measure == "trend":
            least = self.share * (l1 * (1 - TREND_DECAY**self.n_steps))
            self.free = [(w != 0) | (m.abs() > least) for w, m in zip(weights, self.sums)]

    def _follow(self, gradients: list[Tensor], pull: list[Tensor]) -> Tensor:
        """Update the running mean; the share that it allows."""
        if self.sums is None:
            self.sums = [torch.zeros_like(g) for g in gradients]
        for m, g in zip(self.sums, gradients):
            m.lerp_(g, 1 - TREND_DECAY)
        self.n_steps += 1
        missing = 1 - TREND_DECAY**self.n_steps
        mm, mr, rr = _inner_products(self.sums, pull)
        return strongest_share(mm / missing**2, mr / missing, rr, self.threshold)


def _inner_products(a: list[Tensor], b: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Inner products ⟨a, a⟩, ⟨a, b⟩, ⟨b, b⟩ of each model, of shape (M,)."""
    return torch.func.vmap(_products)(a, b)
