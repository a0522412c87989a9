"""Random pairs of samples, and the fitted network between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from sklearn_mgs._resolve import resolved
from sklearn_mgs.gram._layers import check_samples_apart
from sklearn_mgs.straightness._quadrature import Segments

__all__ = ["check_count", "pairs_of"]


def check_count(name: str, value) -> None:
    """Raise a ValueError unless `value` is an integer of at least 1."""
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1; got {value!r}.")


@contextmanager
def pairs_of(estimator, X, n_pairs, random_state) -> Iterator[Segments]:
    """The fitted network between pairs of samples: two different rows, drawn uniformly."""
    check_count("n_pairs", n_pairs)
    with resolved(estimator, X) as (module, samples):
        check_samples_apart(module)
        _check_samples(samples)
        rng = check_random_state(0 if random_state is None else random_state)
        first = rng.randint(len(samples), size=n_pairs)
        second = (first + rng.randint(1, len(samples), size=n_pairs)) % len(samples)
        pairs = torch.from_numpy(np.column_stack([first, second])).to(samples.device)
        yield Segments(module, samples, pairs)


def _check_samples(X: Tensor) -> None:
    """Raise a ValueError unless segments can be drawn between these samples."""
    if len(X) < 2:
        raise ValueError(f"A segment runs between two samples; got {len(X)}. Pass at least 2.")
    if not X.is_floating_point():
        raise ValueError(
            f"There is nothing between samples of type {X.dtype}; pass X in floating point, to a "
            "network that takes real numbers."
        )
