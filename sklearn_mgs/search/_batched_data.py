"""Mini-batches of many models at once, each from its own fold."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_mgs._data import Samples

__all__ = ["BatchedBatch", "BatchedSamples"]


class BatchedBatch(NamedTuple):
    """One mini-batch of each of the F folds that M models train on, all of n samples."""

    X: Tensor  # (F, n, n_features)
    y: Tensor  # (F, n) or (F, n, n_outputs)
    sample_weight: Tensor | None  # (M, n)
    weight_sum: Tensor | float  # (M,)
    fold_of: Tensor  # (M,)

    @property
    def n_samples(self) -> int:
        """Samples of one model."""
        return self.X.shape[1]

    def shares(self) -> Tensor | float:
        """Each sample's share of the weight: shape (M, 1, n), or a number."""
        if self.sample_weight is None:
            return 1 / self.n_samples
        weight = self.sample_weight.unsqueeze(1)
        return weight / weight.sum(2, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)

    def part(self, rows: slice) -> BatchedBatch:
        """Some of the samples of each model."""
        n = rows.indices(self.n_samples)
        weight = None if self.sample_weight is None else self.sample_weight[:, rows]
        weight_sum = float(n[1] - n[0]) if weight is None else weight.sum(1)
        return BatchedBatch(self.X[:, rows], self.y[:, rows], weight, weight_sum, self.fold_of)

    def of_models(self, parts: Tensor, out: Tensor | None = None) -> Tensor:
        """From the folds' (F, …) to the models' (M, …); with one fold, no copies."""
        if len(parts) == 1:
            return parts.expand(len(self.fold_of), *parts.shape[1:])
        return torch.index_select(parts, 0, self.fold_of, out=out)


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
        first = parts[0]
        if first.weight_sum == 0:
            return None
        X, y, weight = (
            None if part[0] is None else part[0][None] if len(part) == 1 else torch.stack(part)
            for part in zip(*(p[:3] for p in parts))
        )
        batch = BatchedBatch(X, y, weight, first.weight_sum, self.fold_of)
        if weight is None:
            return batch
        weight_sum = torch.tensor([p.weight_sum for p in parts], dtype=weight.dtype)
        weight_sum = batch.of_models(weight_sum.to(weight.device))
        return batch._replace(sample_weight=batch.of_models(weight), weight_sum=weight_sum)
