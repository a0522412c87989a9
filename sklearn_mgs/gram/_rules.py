"""What each kind of layer's per-sample gradients are made of, in closed form.

A rule takes a layer, the input a (n, ...) of one call of it, and the gradients D (k, n, ...) of
its output in k directions. It returns (A, D): either, for a gradient that is a sum over
positions t of outer products d_t a_tᵀ (and of d_t, for the bias), A (n, T, in) and
D (k, n, T, out); or None and whole gradients D (k, n, p). Without positions, T is left out. An
integer A (n, T) stands for its one-hot rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["find_rule"]

Rule = Callable[[nn.Module, Tensor, Tensor, bool, bool], tuple[Tensor | None, Tensor]]


def _linear(layer, a: Tensor, D: Tensor, weight: bool, bias: bool):
    if a.dim() > 2:
        a, D = a.flatten(1, -2), D.flatten(2, -2)
    return _products(a, D, weight)


def _products(A: Tensor, D: Tensor, weight: bool):
    """Leave out the weight if it takes no part: what remains is the gradient of the bias."""
    if weight:
        return A, D
    return None, D if A.dim() == 2 else D.sum(-2)


def _embedding(layer, a: Tensor, D: Tensor, weight: bool, bias: bool):
    if layer.padding_idx is not None:
        D = D * (a != layer.padding_idx)[..., None]
    a, D = a.unsqueeze(-1), D.unsqueeze(-2)  # at least one position
    return a.flatten(1), D.flatten(2, -2)


def _embedding_bag(layer, a: Tensor, D: Tensor, weight: bool, bias: bool):
    D = D.unsqueeze(-2).expand(*D.shape[:2], a.shape[1], D.shape[2])
    padding = -1 if layer.padding_idx is None else layer.padding_idx
    share = (a != padding).to(D.dtype)
    if layer.mode == "mean":
        share = share / share.sum(1, keepdim=True).clamp_min(1)
    return a, D * share[..., None]


def _prelu(layer, a: Tensor, D: Tensor, weight: bool, bias: bool):
    negative = (D * a.clamp_max(0)).flatten(2)
    if layer.num_parameters == 1:
        return None, negative.sum(2, keepdim=True)
    return None, negative.unflatten(2, (layer.num_parameters, -1)).sum(3)


def _convolution(layer, a: Tensor, D: Tensor, weight: bool, bias: bool):
    dims = len(layer.kernel_size)
    D = D.flatten(3)  # (k, n, out, T)
    if not weight:
        return None, D.sum(-1)
    A = _patches(layer, a, dims)  # (n, groups, in/groups * kernel, T)
    if layer.groups == 1:
        return A[:, 0].mT, D.mT
    D = D.unflatten(2, (layer.groups, -1))
    G = torch.einsum("kngot,ngit->kngoi", D, A).flatten(2)
    return None, torch.cat([G, D.sum(-1).flatten(2)], 2) if bias else G


def _patches(layer, a: Tensor, dims: int) -> Tensor:
    """Inputs that each output position of a convolution sees."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    a = F.pad(a, layer._reversed_padding_repeated_twice, mode=mode)
    for i in range(dims):
        dilation = layer.dilation[i]
        span = dilation * (layer.kernel_size[i] - 1) + 1
        a = a.unfold(2 + i, span, layer.stride[i])[..., ::dilation]
    # (n, in, *positions, *kernel) to (n, in, *kernel, *positions)
    a = a.permute(0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims))
    return a.flatten(2 + dims).flatten(1, 1 + dims).unflatten(1, (layer.groups, -1))


def _scale_and_shift(normalised: Tensor, D: Tensor, dims: list[int], weight: bool, bias: bool):
    """Gradients of an elementwise weight and bias, summed over the dimensions `dims` of D."""
    parts = [D * normalised] * weight + [D] * bias
    return None, torch.cat([(p.sum(dims) if dims else p).flatten(2) for p in parts], 2)


def _layer_norm(layer, a: Tensor, D: Tensor, weight: bool, bias: bool):
    normalised = F.layer_norm(a, layer.normalized_shape, eps=layer.eps)
    dims = list(range(2, D.dim() - len(layer.normalized_shape)))
    return _scale_and_shift(normalised, D, dims, weight, bias)


def _rms_norm(layer, a: Tensor, D: Tensor, weight: bool, bias: bool):
    normalised = F.rms_norm(a, layer.normalized_shape, eps=layer.eps)
    dims = list(range(2, D.dim() - len(layer.normalized_shape)))
    return _scale_and_shift(normalised, D, dims, weight, bias)


def _group_norm(layer, a: Tensor, D: Tensor, weight: bool, bias: bool):
    normalised = F.group_norm(a, layer.num_groups, eps=layer.eps)
    return _scale_and_shift(normalised, D, list(range(3, D.dim())), weight, bias)


def _batch_norm(layer, a: Tensor, D: Tensor, weight: bool, bias: bool):
    mean, variance = layer.running_mean.to(a.dtype), layer.running_var.to(a.dtype)
    normalised = F.batch_norm(a, mean, variance, eps=layer.eps)
    return _scale_and_shift(normalised, D, list(range(3, D.dim())), weight, bias)


# Keyed by the method that runs, so that a subclass which only renames a layer has its rule
# and one that computes something else has none.
_RULES: dict[Callable, Rule] = {
    nn.Linear.forward: _linear,
    nn.Embedding.forward: _embedding,
    nn.EmbeddingBag.forward: _embedding_bag,
    nn.PReLU.forward: _prelu,
    nn.Conv1d.forward: _convolution,
    nn.Conv2d.forward: _convolution,
    nn.Conv3d.forward: _convolution,
    nn.LayerNorm.forward: _layer_norm,
    nn.RMSNorm.forward: _rms_norm,
    nn.GroupNorm.forward: _group_norm,
    nn.BatchNorm1d.forward: _batch_norm,  # that of all batch normalisations
}


def find_rule(layer: nn.Module) -> Rule | None:
    """Return the rule for `layer`, or None."""
    if getattr(layer, "max_norm", None) is not None or getattr(layer, "scale_grad_by_freq", False):
        return None  # an embedding that rewrites its weight or its gradient
    if getattr(layer, "mode", None) == "max":
        return None  # of an embedding bag
    return _RULES.get(type(layer).forward)
