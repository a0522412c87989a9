"""Mini-batches of many models at once, each from its own fold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_mgs._data import Batch, BatchIterator
from sklearn_mgs.search._fold import Fold

__all__ = ["BatchedBatch", "MiniBatches"]


class BatchedBatch(NamedTuple):
    """One mini-batch of each of the F folds that M models train on, of n samples at most."""

    X: Tensor  # (F, n, n_features)
    y: Tensor  # (F, n) or (F, n, n_outputs)
    sample_weight: Tensor | None  # (M, n)
    weight_sum: Tensor | float  # (M,)
    fold_of: Tensor  # (M,)
    sizes: tuple[int, ...]  # of the folds' own; samples beyond them have no weight

    @property
    def n_samples(self) -> int:
        """Samples of one model, those without weight included."""
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
        X, y = self.X[:, rows], self.y[:, rows]
        return self._replace(X=X, y=y, sample_weight=weight, weight_sum=weight_sum)

    def of_models(self, parts: Tensor, out: Tensor | None = None) -> Tensor:
        """From the folds' (F, …) to the models' (M, …); with one fold, no copies."""
        if len(parts) == 1:
            return parts.expand(len(self.fold_of), *parts.shape[1:])
        return torch.index_select(parts, 0, self.fold_of, out=out)


class MiniBatches:
    """An epoch of mini-batches per iteration, of each fold in the order of a lone fit.

    Parameters
    ----------
    folds : list of Fold
        All with the same number of mini-batches.
    """

    def __init__(self, folds: list[Fold]):
        self.folds = folds
        self.iterators = [
            BatchIterator(f.samples, f.n_batch, f.estimator.shuffle, f.estimator._random_state)
            for f in folds
        ]

    def choose(self, folds: list[Fold]) -> None:
        """Set which fold each model is of; from here on there are no others."""
        kept = [i for i, fold in enumerate(self.folds) if any(fold is f for f in folds)]
        self.folds = [self.folds[i] for i in kept]
        self.iterators = [self.iterators[i] for i in kept]
        position = {id(fold): i for i, fold in enumerate(self.folds)}
        device = folds[0].samples.device
        self.fold_of = torch.tensor([position[id(fold)] for fold in folds], device=device)

    def __len__(self) -> int:
        return len(self.iterators[0])

    def __iter__(self) -> Iterator[BatchedBatch | None]:
        """None stands for a mini-batch without any weight."""
        for parts in zip(*self.iterators):
            yield None if parts[0].weight_sum == 0 else self._joined(parts)

    def shares(self, sizes: list[tuple[int, ...]]) -> Tensor:
        """Shares (n_steps, M) of mini-batches of these sizes in the models' samples."""
        like = {"dtype": torch.float64, "device": self.fold_of.device}
        totals = [len(fold.samples) for fold in self.folds]
        each = torch.tensor(sizes, **like) / torch.tensor(totals, **like)
        return each.index_select(1, self.fold_of)

    def _joined(self, parts: tuple[Batch, ...]) -> BatchedBatch:
        sizes = tuple(part.n_samples for part in parts)
        first, n = parts[0], max(sizes)
        if min(sizes) < n:
            parts = tuple(_padded(part, n) for part in parts)
        X, y, weight = (
            None if part[0] is None else part[0][None] if len(part) == 1 else torch.stack(part)
            for part in zip(*(p[:3] for p in parts))
        )
        batch = BatchedBatch(X, y, weight, first.weight_sum, self.fold_of, sizes)
        if weight is None:
            return batch
        weight_sum = torch.tensor([p.weight_sum for p in parts], dtype=weight.dtype)
        weight_sum = batch.of_models(weight_sum.to(weight.device))
        return batch._replace(sample_weight=batch.of_models(weight), weight_sum=weight_sum)


def _padded(batch: Batch, n: int) -> Batch:
    """The mini-batch with its first sample once more, without weight, as often as it takes."""
    index = torch.arange(n, device=batch.X.device)
    weight = (index < batch.n_samples).to(batch.X.dtype)
    index = torch.where(index < batch.n_samples, index, 0)
    return batch._replace(X=batch.X[index], y=batch.y[index], sample_weight=weight)
