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
        n = batch.n_samples
        self._added = n // 2 if even and n % 2 else None
        if self._added is not None:
            batch, n = _with_one_more(batch, self._added), n + 1
        middle = n // 2
        a, b = middle, n - middle
        if size is not None:
            a, b = min(size, a), min(size, b)
        self._cuts = a, a + b, b + middle
        # Where as many rows of the first half lie before as many of the second.
        self._spans = [(0, 2 * a)] if a == middle else [(0, 2 * a), (2 * a, 2 * middle)]
        self.batch, self.n_kernel = batch, a + b
        self._weight = batch.sample_weight
        if self.n_kernel < n:
            X, y, weight = (
                None
                if t is None
                else torch.cat([t[:a], t[middle : middle + b], t[a:middle], t[middle + b :]])
                for t in (batch.X, batch.y, batch.sample_weight)
            )
            self.batch = batch._replace(X=X, y=y, sample_weight=weight)

    @property
    def blocks(self) -> list[tuple[slice, float | Tensor]]:
        """Rows of each half's kernel, and the half's share of the mini-batch's weight."""
        n, (a, end, _) = self.batch.n_samples, self._cuts
        first: int | Tensor = n // 2
        second: int | Tensor = n - n // 2
        if self._weight is not None:
            first, second = (t.sum() for t in self._weight.tensor_split([n // 2]))
        total = first + second
        return [(slice(0, a), first / total), (slice(a, end), second / total)]

    def restored(self, rows: Tensor) -> Tensor:
        """Rows of that order, in the order of the mini-batch."""
        if self._added is not None:
            return torch.cat([rows[: self._added], rows[self._added + 1 :]])
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


def _with_one_more(batch: Batch, i: int) -> Batch:
    """The mini-batch with its first sample once more, as the i-th and without weight."""
    X, y, weight = batch.X, batch.y, batch.sample_weight
    X, y = (torch.cat([t[:i], t[:1], t[i:]]) for t in (X, y))
    weight = X.new_ones(batch.n_samples) if weight is None else weight
    weight = torch.cat([weight[:i], weight.new_zeros(1), weight[i:]])
    return batch._replace(X=X, y=y, sample_weight=weight, n_samples=batch.n_samples + 1)
