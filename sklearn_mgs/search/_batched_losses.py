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
    log_p = f.log_softmax(1)
    return (T * log_p).neg_(), log_p.exp().sub_(T)


def _binary_log_loss(f: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
    losses = F.binary_cross_entropy_with_logits(f, T, reduction="none")
    return losses, f.sigmoid() - T


def _squared_error(f: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
    residual = f - T
    return residual.square() / 2, residual


def _poisson(f: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
    residual = f.exp() - T
    return torch.xlogy(T, T) - T * f + residual, residual


LOSSES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "log_loss": _log_loss,
    "binary_log_loss": _binary_log_loss,
    "squared_error": _squared_error,
    "poisson": _poisson,
}
"""Losses, to be summed over C, and residuals of linear outputs and targets (M, C, n)."""


def target_matrix(loss: str, y: Tensor, outputs: Tensor, smoothing: float) -> Tensor:
    """Targets (F, C, n), those of classes (F, n) as (smoothed) probabilities; else y (F, n, C)."""
    C = outputs.shape[1]
    if loss == "log_loss":
        y = outputs.new_zeros(len(y), C, y.shape[1]).scatter_(1, y.unsqueeze(1), 1.0)
        return y if not smoothing else y * (1 - smoothing) + smoothing / C
    y = y.mT
    return y if not smoothing else y * (1 - smoothing) + smoothing / 2
