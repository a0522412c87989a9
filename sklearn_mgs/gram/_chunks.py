"""Sums over chunks of samples in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["check_chunk_size", "parts", "recomputed", "with_halved_chunks"]

T = TypeVar("T")


def check_chunk_size(chunk_size) -> None:
    """Raise a ValueError unless it is None or a number of samples."""
    if chunk_size is not None and not (isinstance(chunk_size, Integral) and int(chunk_size) > 0):
        raise ValueError(
            f"chunk_size must be None or a number of samples, at least 1; got {chunk_size!r}."
        )


def parts(n: int, chunk_size: int) -> list[slice]:
    """Slices of at most `chunk_size` of n samples."""
    return [slice(i, min(i + chunk_size, n)) for i in range(0, n, chunk_size)]


def with_halved_chunks(compute: Callable[[int], T], chunk_size: int) -> tuple[T, int]:
    """Return ``compute(chunk_size)``, after halving it until it fits, and the size that did."""
    while True:
        try:
            return compute(chunk_size), chunk_size
        except torch.cuda.OutOfMemoryError:
            if chunk_size == 1:
                raise
            chunk_size = (chunk_size + 1) // 2
        # Outside of the handler, whose traceback holds the tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def recomputed(
    compute: Callable[[], tuple[Tensor, ...]], parameters: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return ``compute()`` without its graph, which is built again when it is differentiated."""
    return _Recomputed.apply(compute, *parameters)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, compute, *parameters):
        ctx.compute = compute
        ctx.save_for_backward(*parameters)
        with torch.no_grad():
            return compute()

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        parameters = ctx.saved_tensors
        with torch.enable_grad():
            values = ctx.compute()
            # The kernel of a linear model depends on no parameter.
            total = sum((v * g).sum() for v, g in zip(values, gradients))
            total = total + 0 * torch.stack([p.sum() for p in parameters]).sum()
        return None, *torch.autograd.grad(total, parameters)
