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
        a, b = middle, n - middle
        if size is not None:
            a, b = min(size, a), min(size, b)
        self._cuts = a, a + b, b + middle
        # Where as many rows of the first half lie before as many of the second.
        self._spans = [(0, 2 * a)] if a == middle else [(0, 2 * a), (2 * a, 2 * middle)]
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

    def sums_of_products(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Both halves' sums of ``Gᵀ A`` (2, m, k) over pairs (n, m), (n, k).

        The pairs have rows of all samples, or of those of the kernels.
        """
        total = None
        for G, A in pairs:
            n = len(G)
            for start, stop in self._spans:
                if stop > n:
                    break
                whole = stop - start == n
                g, a = (G, A) if whole else (G[start:stop], A[start:stop])
                g, a = g.view(2, -1, G.shape[1]).mT, a.view(2, -1, A.shape[1])
                total = torch.bmm(g, a) if total is None else total.baddbmm_(g, a)
            if n % 2:  # the second half has one more
                total[1].addmm_(G[-1:].mT, A[-1:])
        return total
