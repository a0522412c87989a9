"""Choosing samples by their content, so that duplicates and weights can't tell the difference.

A sample's key is a hash of its values under the fit's seed: equal samples have equal keys, and the
order of the samples plays no part. A choice by key keeps repeated samples together, and treats a
sample of weight two as it treats the same sample given twice.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import issparse

__all__ = ["choose_distinct", "content_keys", "hold_out"]

_ROWS = 128  # rows hashed at once: few enough to stay in cache


def content_keys(X, y: np.ndarray, salt: bytes) -> np.ndarray:
    """Uniform keys, shape (n_samples,), of the rows of `X` (dense or sparse) and numeric `y`."""
    y = _words(y.reshape(len(y), -1))
    factors = np.random.default_rng(list(salt)).integers(
        1, 2**64, X.shape[1] + y.shape[1], dtype=np.uint64
    )
    keys = np.einsum("ij,j->i", y, factors[X.shape[1] :])
    for start in range(0, len(y), _ROWS):
        part = X[start : start + _ROWS]
        words = _words(part.toarray() if issparse(part) else part)
        keys[start : start + _ROWS] += np.einsum("ij,j->i", words, factors[: X.shape[1]])
    return _mixed(_mixed(keys))


def _words(values: np.ndarray) -> np.ndarray:
    """Numbers as 64 bits each, mixed because the low bits of most numbers are zero."""
    return _mixed(_bits(values).view(np.uint64))


def _mixed(words: np.ndarray) -> np.ndarray:
    """One round of a reversible mixing of 64-bit words, modulo 2⁶⁴ as they are."""
    words = words ^ (words >> np.uint64(32))
    words = words * np.uint64(0xD6E8FEB86659FD93)
    return words ^ (words >> np.uint64(32))


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
    if not weight[~held_out].any():
        raise ValueError(
            f"validation_fraction={fraction} holds out all {len(present)} distinct samples and "
            f"leaves none to train on. Lower it, or give more data."
        )
    return held_out


def _smallest(keys, weight, fraction):
    """Samples with the smallest keys, as many as come closest to the fraction of the weight."""
    distinct, where = np.unique(keys, return_inverse=True)
    per_key = np.bincount(where, weights=weight, minlength=len(distinct))
    middle = np.cumsum(per_key) - per_key / 2
    return (middle <= fraction * per_key.sum())[where] & (weight > 0)
