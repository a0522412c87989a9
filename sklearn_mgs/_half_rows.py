"""The rows of a mini-batch's two halves, those that make the kernel first."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_mgs._data import Batch

__all__ = ["HalfRows"]


class HalfRows:
    """A mini-batch in an order in which both halves' parts of the kernel come first.

    Parameters
    ----------
    batch : Batch
        The mini-batch.
    size : int or None
        The first so many samples of each half make its kernel; None: all.

    Attributes
    ----------
    batch : Batch
        The same samples in that order.
    n_kernel : int
        Samples that make the kernels, the first ones.
    blocks : list of (slice, float or Tensor)
        Rows of each half's kernel, and the half's share of the mini-batch's weight.
    """

    def __init__(self, batch: Batch, size: int | None):
        n = batch.n_samples
        middle = n // 2
        a, b = (half if size is None else min(size, half) for half in (middle, n - middle))
        self._cuts = a, a + b, b + middle
        self.batch, self.n_kernel = batch, a + b
        share: float | Tensor = middle / n
        if batch.sample_weight is not None:
            share = batch.sample_weight[:middle].sum() / batch.sample_weight.sum()
        self.blocks = [(slice(0, a), share), (slice(a, a + b), 1 - share)]
        if self.n_kernel < n:
            X, y, weight = (
                None
                if t is None
                else torch.cat([t[:a], t[middle : middle + b], t[a:middle], t[middle + b :]])
                for t in (batch.X, batch.y, batch.sample_weight)
            )
            self.batch = batch._replace(X=X, y=y, sample_weight=weight)

    def restored(self, rows: Tensor) -> Tensor:
        """Rows of that order, in the order of the mini-batch."""
        if self.n_kernel == self.batch.n_samples:
            return rows
        a, b, c = self._cuts
        return torch.cat([rows[:a], rows[b:c], rows[a:b], rows[c:]])

    def sums_of_products(self, pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        """Each half's sum of ``Gᵀ A`` over pairs (n, m), (n, k) of all or the kernels' rows."""
        total = None
        for G, A in pairs:
            for start, size in self._segments(len(G)):
                g, a = (x[start : start + 2 * size].view(2, size, -1) for x in (G, A))
                total = torch.bmm(g.mT, a) if total is None else total.baddbmm_(g.mT, a)
            if len(G) % 2:  # the second half has one more
                total[1].addmm_(G[-1:].mT, A[-1:])
        return total.unbind()

    def _segments(self, n: int) -> list[tuple[int, int]]:
        """Where as many rows of the first half lie before as many of the second."""
        kernel, middle = self._cuts[0], n // 2
        if kernel == middle:
            return [(0, middle)]
        return [(0, kernel), (2 * kernel, middle - kernel)]
