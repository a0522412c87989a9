"""Samples in memory, and mini-batches sliced from them by index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import issparse
from skorch.dataset import Dataset
from torch import Tensor
from torch.utils.data import default_collate

__all__ = ["Batch", "BatchIterator", "Samples", "as_tensor", "mini_batch_size", "stacked"]


class Batch(NamedTuple):
    """One mini-batch on the device; the two numbers are known to the host without asking it."""

    X: Tensor
    y: Tensor
    sample_weight: Tensor | None
    n_samples: int
    weight_sum: float


class Samples(Dataset):
    """Training samples, moved to the device once; a sparse `X` goes there batch by batch.

    Parameters
    ----------
    X : ndarray or csr matrix of shape (n_samples, n_features)
        Inputs.
    y : Tensor of shape (n_samples,) or (n_samples, n_outputs)
        Targets as the loss wants them.
    sample_weight : ndarray of shape (n_samples,), default=None
        Weights.
    device, dtype : torch.device and torch.dtype
        Where, and in which precision.
    """

    def __init__(self, X, y: Tensor, sample_weight=None, *, device="cpu", dtype=torch.float32):
        self.device = torch.device(device)
        self.dtype = dtype
        self.X = X if issparse(X) else as_tensor(X, dtype, self.device)
        self.y = y.to(self.device)
        self.host_weight = sample_weight
        self.weight = (
            None if sample_weight is None else as_tensor(sample_weight, dtype, self.device)
        )

    def __len__(self) -> int:
        return self.X.shape[0]

    def __getitem__(self, i: int):
        X = self.X
        X = as_tensor(X[[i]], self.dtype, self.device)[0] if issparse(X) else X[i]
        return X, self.y[i]

    def on_device(self, index: np.ndarray) -> Tensor:
        """Indices where the samples are."""
        return torch.from_numpy(index).to(self.device, non_blocking=True)

    def batch(self, index: np.ndarray | slice, where: Tensor | None = None) -> Batch:
        """Take the samples that `index` names; `where` is the same on the device, if at hand."""
        if isinstance(index, slice):
            n, at, take = index.stop - index.start, index, Tensor.__getitem__
        else:
            n, at = len(index), self.on_device(index) if where is None else where
            take = _select
        X = self.X
        X = as_tensor(X[index], self.dtype, self.device) if issparse(X) else take(X, at)
        if self.weight is None:
            return Batch(X, take(self.y, at), None, n, float(n))
        weight_sum = float(self.host_weight[index].sum())
        return Batch(X, take(self.y, at), take(self.weight, at), n, weight_sum)


def _select(x: Tensor, index: Tensor) -> Tensor:
    return x.index_select(0, index)


def mini_batch_size(batch_size: int | str, n_samples: int) -> int:
    """Samples in a mini-batch: as many as asked for, with "auto" 200, where there are enough."""
    return min(200 if batch_size == "auto" else batch_size, n_samples)


class BatchIterator:
    """Mini-batches of one epoch per iteration, in the order that scikit-learn's MLP would take.

    Parameters
    ----------
    samples : Samples
        The training samples.
    batch_size : int
        Samples in a mini-batch; the last one of an epoch may be smaller.
    shuffle : bool
        Whether to draw a new order for each epoch; the orders compound, as scikit-learn's do.
    random_state : numpy.random.RandomState
        Source of the orders.
    """

    def __init__(self, samples: Samples, batch_size: int, shuffle: bool, random_state):
        self.samples = samples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.random_state = random_state
        self.order = np.arange(len(samples), dtype=np.int64)

    def __len__(self) -> int:
        return -(-len(self.samples) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        n, size = len(self.samples), self.batch_size
        parts = [slice(start, min(start + size, n)) for start in range(0, n, size)]
        if not self.shuffle:
            yield from map(self.samples.batch, parts)
            return
        # The draw of sklearn.utils.shuffle, whose checks cost as much as some whole steps.
        permutation = np.arange(n)
        self.random_state.shuffle(permutation)
        self.order = self.order[permutation]
        where = self.samples.on_device(self.order)  # once an epoch, not once a step
        for part in parts:
            yield self.samples.batch(self.order[part], where[part])


def as_tensor(X, dtype: torch.dtype, device) -> Tensor:
    """Dense or sparse array to a tensor; memory is shared only where it may be written to."""
    X = X.toarray() if issparse(X) else np.asarray(X)
    if X.dtype == np.longdouble:
        X = X.astype(np.float64, copy=False)  # torch knows no wider floats
    if not X.flags.writeable or any(stride < 0 for stride in X.strides):
        X = X.copy()  # torch warns about read-only memory, and refuses negative strides
    if X.dtype.byteorder not in "=|" + ("<" if np.little_endian else ">"):
        X = X.astype(X.dtype.newbyteorder("="))
    return torch.as_tensor(X, dtype=dtype).to(device, non_blocking=True)


def stacked(dataset, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Inputs and targets of some samples of a torch dataset."""
    if isinstance(dataset, Samples):
        batch = dataset.batch(rows)
        return batch.X, batch.y
    with torch.random.fork_rng(devices=[]):  # augmentation may draw
        X, y = default_collate([tuple(dataset[row])[:2] for row in rows.tolist()])
    if not isinstance(X, Tensor):
        raise TypeError(
            f"The network takes a {type(X).__name__} of inputs; gradients are compared for "
            "networks of a single tensor."
        )
    return X, y
