"""The data losses of many networks at once.

Each is the negative log-likelihood of its link's own family, so that the gradient with respect to
the linear outputs, here called residual, is always the predicted mean minus the target.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LOSSES", "target_matrix"]


def _log_loss(f: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
    # Along the last dimension log_softmax is slow where classes are few.
    log_p = f.mT.contiguous().log_softmax(-2).mT.contiguous()
    return -(T * log_p).sum(-1), log_p.exp() - T


def _binary_log_loss(f: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
    losses = F.binary_cross_entropy_with_logits(f, T, reduction="none")
    return losses.sum(-1), f.sigmoid() - T


def _squared_error(f: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
    residual = f - T
    return residual.square().sum(-1) / 2, residual


def _poisson(f: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
    residual = f.exp() - T
    return (torch.xlogy(T, T) - T * f + residual).sum(-1), residual


LOSSES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "log_loss": _log_loss,
    "binary_log_loss": _binary_log_loss,
    "squared_error": _squared_error,
    "poisson": _poisson,
}
"""Losses (..., n) and residuals (..., n, C) of linear outputs and targets (..., n, C)."""


def target_matrix(loss: str, y: Tensor, outputs: Tensor, smoothing: float) -> Tensor:
    """Targets (M, n, C), those of classes as (smoothed) probabilities."""
    if loss == "log_loss":
        y = torch.zeros_like(outputs).scatter_(2, y.unsqueeze(2), 1.0)
        return y if not smoothing else y * (1 - smoothing) + smoothing / outputs.shape[2]
    return y if not smoothing else y * (1 - smoothing) + smoothing / 2
