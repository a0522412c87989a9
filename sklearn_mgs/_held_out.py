"""Choosing samples by their content, so that duplicates and weights can't tell the difference.

A sample's key is a hash of its values under the fit's seed: equal samples have equal keys, and the
order of the samples plays no part. A choice by key keeps repeated samples together, and treats a
sample of weight two as it treats the same sample given twice.
"""

from __future__ import annotations

import hashlib

import numpy as np
from scipy.sparse import issparse

__all__ = ["choose_distinct", "content_keys", "hold_out"]

_ROWS = 4096  # sparse rows made dense at once


def content_keys(X, y: np.ndarray, salt: bytes) -> np.ndarray:
    """Uniform keys, shape (n_samples,), of the rows of `X` (dense or sparse) and numeric `y`."""
    y = _bits(y.reshape(len(y), -1))
    keys = np.empty(len(y), dtype=np.uint64)
    for start in range(0, len(y), _ROWS):
        part = X[start : start + _ROWS]
        for i, row in enumerate(_bits(part.toarray() if issparse(part) else part), start):
            digest = hashlib.blake2b(row.data, digest_size=8, key=salt)
            digest.update(y[i].data)
            keys[i] = int.from_bytes(digest.digest(), "little")
    return keys


def _bits(values: np.ndarray) -> np.ndarray:
    """Equal numbers in equal bits: in double precision, and without a negative zero."""
    return np.ascontiguousarray(values, dtype=np.float64) + 0.0


def choose_distinct(keys: np.ndarray, n: int) -> np.ndarray:
    """Indices, in order, of all samples with one of the `n` smallest keys."""
    distinct = np.unique(keys)
    return np.flatnonzero(keys <= distinct[min(n, len(distinct)) - 1])


def hold_out(
    keys: np.ndarray,
    fraction: float,
    sample_weight: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Mark a share of the samples' weight, at least two distinct samples.

    Parameters
    ----------
    keys : ndarray of shape (n_samples,)
        From `content_keys`; the samples with the smallest are held out.
    fraction : float
        Share of the weight, to the nearest sample.
    sample_weight : ndarray of shape (n_samples,), default=None
        Weights; samples without any are never held out.
    groups : ndarray of shape (n_samples,), default=None
        Classes, from each of which the share is taken, if that gives two samples in all.

    Returns
    -------
    held_out : ndarray of bool of shape (n_samples,)

    Raises
    ------
    ValueError
        If fewer than two distinct samples can be held out, or none would be left.
    """
    weight = np.ones(len(keys)) if sample_weight is None else sample_weight
    held_out = np.zeros(len(keys), dtype=bool)
    if groups is not None:
        for group in np.unique(groups):
            part = groups == group
            held_out[part] = _smallest(keys[part], weight[part], fraction)
    if len(np.unique(keys[held_out])) < 2:
        held_out = _smallest(keys, weight, fraction)
    present = np.unique(keys[weight > 0])
    if len(np.unique(keys[held_out])) < 2 and len(present) > 2:
        held_out = (keys <= present[1]) & (weight > 0)
    if len(np.unique(keys[held_out])) < 2:
        raise ValueError(
            f"The validation set is too small: early stopping holds out at least 2 distinct "
            f"samples of at least 3, got n_samples={len(keys)} with {len(present)} distinct. Give "
            f"more data, pass X_val and y_val, or set early_stopping=False."
        )
    return held_out


def _smallest(keys, weight, fraction):
    """Samples with the smallest keys, as many as come closest to the fraction of the weight."""
    distinct, where = np.unique(keys, return_inverse=True)
    per_key = np.bincount(where, weights=weight, minlength=len(distinct))
    middle = np.cumsum(per_key) - per_key / 2
    return (middle <= fraction * per_key.sum())[where] & (weight > 0)
