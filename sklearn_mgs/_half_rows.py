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
        The mini-batch; without weights if `size` leaves samples out.
    size : int or None
        The first so many samples of each half make the kernel; None: all.

    Attributes
    ----------
    batch : Batch
        The same samples in that order.
    n_kernel : int
        Samples that make the kernel, the first ones.
    kernel_weight : Tensor of shape (n_kernel,) or None
        How they weigh; None: alike. Each half's weigh as much as the half.
    of_halves : pair of pairs of lists of slice
        Rows of each half: among all samples, and among those of the kernel.
    """

    def __init__(self, batch: Batch, size: int | None):
        n = batch.n_samples
        middle = n // 2
        a, b = (half if size is None else min(size, half) for half in (middle, n - middle))
        self._cuts = a, a + b, b + middle
        self.batch, self.n_kernel = batch, a + b
        self.of_halves = (
            (_filled(slice(0, a), slice(a + b, b + middle)), [slice(0, a)]),
            (_filled(slice(a, a + b), slice(b + middle, n)), [slice(a, a + b)]),
        )
        if self.n_kernel < n:
            X, y = (
                torch.cat([t[:a], t[middle : middle + b], t[a:middle], t[middle + b :]])
                for t in (batch.X, batch.y)
            )
            self.batch = batch._replace(X=X, y=y)
        self.kernel_weight = batch.sample_weight
        if middle * b != (n - middle) * a:
            share = torch.full((a + b,), middle / a, dtype=batch.X.dtype, device=batch.X.device)
            share[a:] = (n - middle) / b
            self.kernel_weight = share

    def restored(self, rows: Tensor) -> Tensor:
        """Rows of that order, in the order of the mini-batch."""
        if self.n_kernel == self.batch.n_samples:
            return rows
        a, b, c = self._cuts
        return torch.cat([rows[:a], rows[b:c], rows[a:b], rows[c:]])


def _filled(*parts: slice) -> list[slice]:
    return [part for part in parts if part.stop > part.start]
