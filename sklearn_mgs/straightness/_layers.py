"""Which layers a module applies one after the other, where it does only that."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["applied_layers", "has_kinks", "is_piecewise_linear"]

_AFFINE = (
    *(nn.Linear, nn.Identity, nn.Flatten, nn.Unflatten),
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
)
_KINKED = (nn.ReLU, nn.LeakyReLU)
_SMOOTH = (nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.Softmax, nn.LogSoftmax)


def _is(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether the layer computes what one of these does (a subclass may not)."""
    return type(layer).forward in [kind.forward for kind in kinds]


def _is_known(layer: nn.Module) -> bool:
    if layer._forward_hooks or layer._forward_pre_hooks:  # they could change the output
        return False
    return _is(layer, _AFFINE + _KINKED + _SMOOTH)


def is_piecewise_linear(layer: nn.Module) -> bool:
    """Whether a layer, in evaluation mode, maps each sample piecewise-linearly."""
    return _is(layer, _AFFINE + _KINKED)


def has_kinks(layer: nn.Module) -> bool:
    """Whether the layer's slope changes where its input changes sign."""
    return _is(layer, _KINKED) and getattr(layer, "negative_slope", 0.0) != 1.0


@torch.no_grad()
def applied_layers(module: nn.Module, X: Tensor) -> list[nn.Module] | None:
    """Known layers that `module` applies to `X`, each to the result of the one before.

    Found by watching one forward pass, so that it does not matter how the module is written
    and how its layers are nested. None if it does anything else on the way: an operation
    that is no module, a sum of two branches, an unknown layer.
    """
    layers: list[nn.Module] = []
    state = (X, X._version)  # the version tells whether a tensor has been changed in place
    chained = True

    def is_state(tensor) -> bool:
        return tensor is state[0] and tensor._version == state[1]

    def enter(layer: nn.Module, inputs: tuple) -> None:
        nonlocal chained
        chained &= is_state(inputs[0])
        layers.append(layer)

    def leave(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        nonlocal state
        state = (output, output._version)

    known = [layer for layer in module.modules() if _is_known(layer)]
    hooks = [layer.register_forward_pre_hook(enter) for layer in known]
    hooks += [layer.register_forward_hook(leave) for layer in known]
    try:
        output = module(X)
    finally:
        for hook in hooks:
            hook.remove()
    return layers if chained and is_state(output) else None
