"""Mini-batches of many models at once, each from its own fold."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_mgs._data import Samples

__all__ = ["BatchedBatch", "BatchedSamples"]


class BatchedBatch(NamedTuple):
    """One mini-batch of each of M models, all of n samples."""

    X: Tensor  # (M, n, n_features)
    y: Tensor  # (M, n) or (M, n, n_outputs)
    sample_weight: Tensor | None  # (M, n)
    weight_sum: Tensor | float  # (M,)

    @property
    def n_samples(self) -> int:
        """Samples of one model."""
        return self.X.shape[1]

    def shares(self, size: int | None = None) -> Tensor | float:
        """Each sample's share of the weight of the first `size`: shape (M, n, 1), or a number."""
        if self.sample_weight is None:
            return 1 / min(self.n_samples, size or self.n_samples)
        weight = self.sample_weight[:, :size]
        total = weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        return (weight / total).unsqueeze(2)

    def part(self, rows: slice) -> BatchedBatch:
        """Some of the samples of each model."""
        n = rows.indices(self.n_samples)
        weight = None if self.sample_weight is None else self.sample_weight[:, rows]
        weight_sum = float(n[1] - n[0]) if weight is None else weight.sum(1)
        return BatchedBatch(self.X[:, rows], self.y[:, rows], weight, weight_sum)


class BatchedSamples:
    """The training samples of folds of one size, as M models see them.

    Parameters
    ----------
    folds : list of Samples
        Each fold's.
    fold_of : list of int
        The position in `folds` of each model's.
    """

    def __init__(self, folds: list[Samples], fold_of: list[int]):
        self.folds = folds
        self.fold_of = torch.tensor(fold_of, device=folds[0].device)

    def __len__(self) -> int:
        return len(self.folds[0])

    def on_device(self, index) -> Tensor:
        """Indices where the samples are."""
        return self.folds[0].on_device(index)

    def batch(self, index, where: Tensor | None = None) -> BatchedBatch | None:
        """The samples that `index` names, of each model's fold; None if they have no weight."""
        parts = [fold.batch(index, where) for fold in self.folds]
        if parts[0].weight_sum == 0:
            return None
        X, y = self._gather([p.X for p in parts]), self._gather([p.y for p in parts])
        if parts[0].sample_weight is None:
            return BatchedBatch(X, y, None, parts[0].weight_sum)
        weight = self._gather([p.sample_weight for p in parts])
        weight_sum = torch.tensor([p.weight_sum for p in parts], dtype=weight.dtype)
        return BatchedBatch(X, y, weight, weight_sum.to(weight.device)[self.fold_of])

    def _gather(self, parts: list[Tensor]) -> Tensor:
        """From the folds' tensors to the models'."""
        if len(parts) == 1:
            return parts[0].expand(len(self.fold_of), *parts[0].shape)
        return torch.stack(parts).index_select(0, self.fold_of)
