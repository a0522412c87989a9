"""The proximal step of L1: weights come nearer to zero, and those that are near it become zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["soft_threshold_"]


def _one_pass_keeps_nan() -> bool:
    """Whether torch's soft threshold leaves NaN what it is; until torch 2.5 it made it zero."""
    values = torch.full((64,), math.nan, device="cpu", dtype=torch.float32)
    return bool(F.softshrink(values, 0.5).isnan().all())


ONE_PASS = _one_pass_keeps_nan()


def soft_threshold_(w: Tensor, limit: float | Tensor) -> None:
    """Bring `w` nearer to zero by `limit`, at most to zero: ``w − clamp(w, −limit, limit)``.

    In one pass over memory where the limit is a number and the weights are on the CPU.
    """
    if not isinstance(limit, float) or not 0 <= limit < math.inf or not (ONE_PASS and w.is_cpu):
        w.sub_(w.clamp(-limit, limit))
    elif limit:
        F.softshrink(w, limit, out=w)
