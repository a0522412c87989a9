"""The rows of a mini-batch's two halves, those that make the kernel first."""

from __future__ import annotations

from functools import lru_cache

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
    even : bool, default=False
        Whether the first half of an odd number gets a sample without weight, to be as long.

    Attributes
    ----------
    batch : Batch
        The same samples in that order.
    n_kernel : int
        Samples that make the kernels, the first ones.
    """

    def __init__(self, batch: Batch, size: int | None, even: bool = False):
        n = batch.n_samples + (even and batch.n_samples % 2)
        middle = n // 2
        a, b = middle, n - middle
        if size is not None:
            a, b = min(size, a), min(size, b)
        self._cuts = a, a + b
        # Where as many rows of the first half lie before as many of the second.
        self._spans = [(0, 2 * a)] if a == middle else [(0, 2 * a), (2 * a, 2 * middle)]
        self.n_kernel, self.batch, self._order = a + b, batch, None
        self._given = batch
        if n > batch.n_samples or self.n_kernel < n:
            self._order, self._back, added = _orders(batch.n_samples, n, a, b, batch.X.device)
            weight = batch.sample_weight
            if added is not None:
                weight = torch.ones_like(batch.X[:, 0]) if weight is None else weight
            X, y, weight = (
                None if t is None else self.ordered(t) for t in (batch.X, batch.y, weight)
            )
            if added is not None:
                weight[added] = 0
            self.batch = batch._replace(X=X, y=y, sample_weight=weight, n_samples=n)

    def ordered(self, rows: Tensor) -> Tensor:
        """Rows of the mini-batch, in that order."""
        return rows if self._order is None else rows.index_select(0, self._order)

    def restored(self, rows: Tensor) -> Tensor:
        """Rows of that order, in the order of the mini-batch."""
        return rows if self._order is None else rows.index_select(0, self._back)

    @property
    def blocks(self) -> list[tuple[slice, float | Tensor]]:
        """Rows of each half's kernel, and the half's share of the mini-batch's weight."""
        a, end = self._cuts
        return list(zip((slice(0, a), slice(a, end)), _shares(self._given)))

    def sums_of_products(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Both halves' sums of ``Gᵀ A`` (2, m, k) over pairs (n, m), (n, k).

        The pairs have rows of all samples, or of those of the kernels; or matrices instead.
        """
        total = None
        for G, A in pairs:
            n = len(G)
            for start, stop in self._spans:
                if stop > n:
                    break
                whole = stop - start == n
                g, a = (G, A) if whole else (G[start:stop], A[start:stop])
                g, a = g.reshape(2, -1, G.shape[-1]).mT, a.reshape(2, -1, A.shape[-1])
                total = torch.bmm(g, a) if total is None else total.baddbmm_(g, a)
            if n % 2:  # the second half has one more
                total[1].addmm_(G[-1:].flatten(0, -2).mT, A[-1:].flatten(0, -2))
        return total


def _shares(batch: Batch) -> tuple[float | Tensor, float | Tensor]:
    """Each half's share of the mini-batch's weight."""
    n, middle = batch.n_samples, batch.n_samples // 2
    if batch.sample_weight is None:
        return middle / n, (n - middle) / n
    first, second = (t.sum() for t in batch.sample_weight.tensor_split([middle]))
    return first / (first + second), second / (first + second)


@lru_cache(maxsize=8)  # a fit has two sizes of mini-batches
def _orders(n_samples: int, n: int, a: int, b: int, device: torch.device):
    """The order of n rows, where each sample is in it, and where the added one is, if it is."""
    rows = list(range(n_samples))
    if n > n_samples:
        rows.insert(n_samples // 2, -1)
    middle = n // 2
    rows = rows[:a] + rows[middle : middle + b] + rows[a:middle] + rows[middle + b :]
    places = {i: place for place, i in enumerate(rows)}
    order = torch.tensor([max(i, 0) for i in rows], device=device)
    back = torch.tensor([places[i] for i in range(n_samples)], device=device)
    return order, back, places.get(-1)
