"""Gradients around a mean: of all samples, or of each sample's class."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_mgs.gram._outputs import check_targets

__all__ = ["center", "check_centered", "group_sums", "membership"]


def check_centered(centered) -> None:
    """Raise a ValueError unless `centered` is False, True or "class"."""
    if centered not in (False, True, "class"):
        raise ValueError(f'Unknown centered={centered!r}; expected False, True or "class".')


def membership(
    f: Tensor, centered, targets: Tensor | None, n_classes: int | None = None
) -> Tensor | None:
    """Which samples share a mean: indicators of shape (n_samples, n_groups), or None.

    `n_classes` is the number of classes where it is known: finding it waits for the device.
    """
    check_centered(centered)
    if not centered:
        return None
    if centered is True:
        return f.new_ones(f.shape[0], 1)
    targets = check_targets(targets, f.shape[0], 'centered="class"').to(f.device)
    if n_classes is None:
        classes, targets = targets.unique(return_inverse=True)
        n_classes = len(classes)
    return f.new_zeros(f.shape[0], n_classes).scatter_(1, targets[:, None], 1.0)


def group_sums(B: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Vectors whose combination of gradients are the groups' sums, over the root of the size.

    With them the spread is
    :math:`\sum_i w_i \|g_i - \bar g_{y_i}\|^2 = \sum_i w_i \|g_i\|^2 - \|S^\top G\|_F^2`.
    """
    S = B if weight is None else B * weight[:, None]
    return S * S.sum(0).clamp_min(torch.finfo(B.dtype).tiny).rsqrt()


def center(K: Tensor, B: Tensor, weight: Tensor | None = None) -> Tensor:
    """Kernel of the gradients minus their group's (weighted) mean; H K H for one group.

    The rounding errors of `K`, which may exceed all that is left, stay positive definite.
    """
    noise = 2 * torch.finfo(K.dtype).eps * len(K) * K.detach().diagonal().mean()
    S = B if weight is None else B * weight[:, None]
    means = S / S.sum(0).clamp_min(torch.finfo(B.dtype).tiny)  # (n, groups): G̅ = meansᵀ G
    B, means = B.to(K.dtype), means.to(K.dtype)
    K = K - B @ (means.mT @ K)
    return K - (K @ means) @ B.mT + noise * torch.eye(len(K), dtype=K.dtype, device=K.device)
