"""Samples as a tensor, or as tuples, lists or dicts of them for a module of several inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor

__all__ = [
    "Samples",
    "apply",
    "batch_of_one",
    "check_samples",
    "first",
    "n_samples",
    "samples_of_call",
    "take",
]

Samples: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any]


def _parts(X) -> list:
    """What a tuple, list or dict holds."""
    if isinstance(X, Mapping):
        return [*X.values()]
    if isinstance(X, tuple | list):
        return [*X]
    raise TypeError(
        f"X must be a torch.Tensor, or a tuple or dict of such; got {type(X).__name__}. Of an "
        "array, pass torch.as_tensor(X) in the precision of the module."
    )


def _map(f: Callable[[Tensor], Tensor], X):
    if isinstance(X, Tensor):
        return f(X)
    mapped = [_map(f, x) for x in _parts(X)]
    if isinstance(X, Mapping):
        return dict(zip(X, mapped))
    return tuple(mapped) if isinstance(X, tuple) else mapped


def _any(X: Samples) -> Tensor:
    while not isinstance(X, Tensor):
        X = _parts(X)[0]
    return X


def n_samples(X: Samples) -> int:
    """Count the samples."""
    return len(_any(X))


def check_samples(X: Samples) -> None:
    """Raise a TypeError if these are no tensors, a ValueError if there are no samples."""
    if n_samples(X) == 0:
        raise ValueError("X holds no samples; expected at least one.")


def take(X: Samples, part: slice) -> Samples:
    """Some of the samples."""
    return _map(lambda x: x[part], X)


def first(X: Samples, n: int) -> Samples:
    """Return the first n samples; where there are fewer, the last is repeated."""
    return _map(lambda x: x[[min(i, len(x) - 1) for i in range(n)]], X)


def batch_of_one(X: Samples) -> Samples:
    """Give one sample, without its leading dimension, that dimension back."""
    return _map(lambda x: x[None], X)


def apply(module: Callable, X: Samples):
    """Call the module: a tuple is its positional arguments, a dict its keywords."""
    if isinstance(X, Tensor):
        return module(X)
    return module(**X) if isinstance(X, Mapping) else module(*X)


def samples_of_call(args: tuple, kwargs: dict) -> Samples:
    """Samples that a module was called with, the inverse of `apply`."""
    if args and kwargs:
        raise ValueError(
            "A module with a layer that has no closed form must be called with positional or "
            f"with keyword arguments; got {len(args)} of the one and {sorted(kwargs)}."
        )
    return kwargs or (args[0] if len(args) == 1 and isinstance(args[0], Tensor) else args)
