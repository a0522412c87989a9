"""Keep torch to kernels that can be differentiated twice, and rightly under vmap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

__all__ = ["DecomposedNorms", "twice_differentiable"]


def twice_differentiable(module: nn.Module) -> list[Callable[[], AbstractContextManager]]:
    """Contexts for the forward pass of `module` after which its gradients have gradients.

    Fused attention, and the recurrent layers of cuDNN and oneDNN, have first derivatives only.
    """
    contexts: list[Callable[[], AbstractContextManager]] = []
    if not all(_is_plain(m) for m in module.modules()):
        contexts.append(lambda: sdpa_kernel(SDPBackend.MATH))
    if any(isinstance(m, nn.RNNBase) for m in module.modules()):
        contexts.append(_native_recurrence)
    return contexts


def _is_plain(module: nn.Module) -> bool:
    """Whether its forward pass is torch's own and knows no attention."""
    own = type(module).forward.__module__.startswith("torch.nn.modules.")
    return own and not isinstance(module, nn.MultiheadAttention)


@contextmanager
def _native_recurrence() -> Iterator[None]:
    # mkldnn.flags would also touch, and warn of, settings of other devices.
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mkldnn.enabled = enabled


class DecomposedNorms(TorchFunctionMode):
    """Layer and instance normalisation from elementary operations.

    Under vmap the second derivative of torch's own is silently wrong: the statistics count as
    constants (pytorch/functorch#534).
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (F.layer_norm, torch.layer_norm):
            return _layer_norm(*args, **(kwargs or {}))
        if func is F.instance_norm:
            return _instance_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _standardised(x: Tensor, dims: list[int], eps: float) -> Tensor:
    x = x - x.mean(dims, keepdim=True)
    return x * (x.square().mean(dims, keepdim=True) + eps).rsqrt()


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5, *_):
    dims = list(range(-len(normalized_shape), 0))
    return _affine(_standardised(input, dims, eps), weight, bias)


def _instance_norm(
    input,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
):
    if not use_input_stats:
        return F.instance_norm(
            input, running_mean, running_var, weight, bias, False, momentum, eps
        )
    channels = (-1, *[1] * (input.dim() - 2))
    weight, bias = (None if p is None else p.view(channels) for p in (weight, bias))
    return _affine(_standardised(input, list(range(2, input.dim())), eps), weight, bias)
