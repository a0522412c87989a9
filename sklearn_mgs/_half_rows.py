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
            n += 1
        middle = n // 2
        a, b = middle, n - middle
        if size is not None:
            a, b = min(size, a), min(size, b)
        self._cuts = a, a + b, b + middle
        # Where as many rows of the first half lie before as many of the second.
        self._spans = [(0, 2 * a)] if a == middle else [(0, 2 * a), (2 * a, 2 * middle)]
        self.n_kernel, self._n = a + b, n
        weight = batch.sample_weight
        if self._added is not None:
            weight = torch.ones_like(batch.X[:, 0]) if weight is None else weight
            i = self._added
            weight = torch.cat([weight[:i], weight.new_zeros(1), weight[i:]])
        self._weight = weight
        self.batch = batch
        if self._added is not None or self.n_kernel < n:
            X, y = self.ordered(batch.X), self.ordered(batch.y)
            weight = weight if weight is None else self._kernels_first(weight)
            self.batch = batch._replace(X=X, y=y, sample_weight=weight, n_samples=n)

    def ordered(self, rows: Tensor) -> Tensor:
        """Rows of the mini-batch, in that order."""
        if self._added is not None:
            rows = torch.cat([rows[: self._added], rows[:1], rows[self._added :]])
        return self._kernels_first(rows)

    def _kernels_first(self, rows: Tensor) -> Tensor:
        if self.n_kernel == self._n:
            return rows
        a, end, _ = self._cuts
        b, middle = end - a, self._n // 2
        parts = rows[:a], rows[middle : middle + b], rows[a:middle], rows[middle + b :]
        return torch.cat(parts)

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
