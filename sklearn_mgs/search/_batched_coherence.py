"""Gradient-coherent regularisation of many models at once."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_mgs._coherence import HOLDING, RENEWAL, TREND_DECAY, flushed
from sklearn_mgs._cosines import cosine_of_sum, entries, inner_products, strongest_share

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
        self.share: Tensor | None = None
        self.strongest: Tensor | None = None
        self.free: list[Tensor] | None = None
        self.sums: list[Tensor] | None = None
        self.n_steps = 0

    def keep(self, rows: Tensor) -> None:
        """Go on with the models `rows` alone."""
        self.strongest = None if self.strongest is None else self.strongest[rows]
        self.free = None if self.free is None else [f[rows] for f in self.free]
        self.sums = None if self.sums is None else [m[rows] for m in self.sums]

    def decide(self, weights, gradients, alpha, l1, coherence: Tensor | None) -> None:
        """Set `share` and `free`; strengths of shape (M, 1, 1) or None, coherence (M,)."""
        if self.measure == "trend":
            self._follow(gradients)
            if (self.n_steps - 1) % RENEWAL == 0:
                self._look(weights, alpha, l1)
            self.share = (self.strongest / _strength(alpha, l1)).clamp(max=1.0)
            return
        if coherence is None:
            products = _inner_products(gradients, _pull(weights, alpha, l1))
            coherence = cosine_of_sum(*products)
        self.share = (coherence >= self.threshold).to(weights[0].dtype)[:, None, None]

    def _follow(self, gradients: list[Tensor]) -> None:
        """Update the sums whose running mean is the trend."""
        if self.sums is None:
            self.sums = [torch.zeros_like(g) for g in gradients]
        self.sums = flushed(self.sums, self.n_steps)
        for m, g in zip(self.sums, gradients):
            m.lerp_(g, 1 - TREND_DECAY)
        self.n_steps += 1

    def _look(self, weights, alpha, l1) -> None:
        """Find the strengths that the trend allows, and the weights that may differ from zero."""
        missing = 1 - TREND_DECAY**self.n_steps
        sums = self.sums
        if l1 is not None:
            moved = [(w != 0) | (l1 == 0) for w in weights]  # without L1 in a model, all
            sums = [m * may for m, may in zip(sums, moved)]
        mm, mr, rr = _inner_products(sums, _pull(weights, alpha, l1))
        share = strongest_share(mm / missing**2, mr / missing, rr, self.threshold)
        share = share[:, None, None]
        self.strongest = share * _strength(alpha, l1)
        if l1 is not None and (self.n_steps - 1) % HOLDING == 0:
            least = share.clamp(max=1.0) * (l1 * missing)
            self.free = [(w != 0) | (m.abs() > least) for w, m in zip(weights, self.sums)]


def _strength(alpha: Tensor | None, l1: Tensor | None) -> Tensor | float:
    """Sum of the strengths (M, 1, 1), which moves with the mini-batch's size; 1 for none."""
    strengths = [s for s in (alpha, l1) if s is not None]
    if not strengths:
        return 1.0
    strength = torch.stack(strengths).sum(0)
    return torch.where(strength > 0, strength, 1.0)


def _pull(weights, alpha, l1) -> list[Tensor]:
    """The regularisers' gradients ``alpha w + l1 sign(w)``."""
    pull = [torch.zeros_like(w) if alpha is None else w * alpha for w in weights]
    return pull if l1 is None else [r.addcmul_(w.sign(), l1) for r, w in zip(pull, weights)]


def _inner_products(a: list[Tensor], b: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Inner products ⟨a, a⟩, ⟨a, b⟩, ⟨b, b⟩ of each model, of shape (M,)."""
    return entries(torch.func.vmap(inner_products)(a, b))
