"""What torch's operations do to functions that are linear on the pieces of a segment."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["AFFINE", "MAXIMA", "PRODUCTS", "SMOOTH", "SWITCHES", "NotWalkable", "is_random"]


class NotWalkable(Exception):
    """The exact walk cannot follow a network; the message completes "..., because"."""


AFFINE = frozenset(
    """
    add subtract sub rsub neg negative sum mean cumsum cat concat concatenate stack copy
    zeros_like ones_like clone contiguous detach alias to _to_copy type_as masked_fill where
    view reshape _unsafe_view view_as reshape_as flatten unflatten ravel unsqueeze squeeze expand
    expand_as repeat tile repeat_interleave permute transpose movedim swapaxes swapdims mT slice
    select narrow split split_with_sizes chunk unbind unfold diagonal index index_select flip roll
    im2col pixel_shuffle pixel_unshuffle pad constant_pad_nd avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d
    upsample_trilinear3d dropout feature_dropout alpha_dropout feature_alpha_dropout batch_norm
    """.split()
)
"""Affine in all their arguments together (dropout and normalisation: in evaluation mode)."""

PRODUCTS = frozenset(
    """
    mul multiply div divide true_divide addcmul mm bmm mv matmul addmm baddbmm einsum linear
    bilinear convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    """.split()
)
"""Affine in any one of their arguments (of a quotient: in the first), smooth in several."""

SMOOTH = frozenset(
    """
    exp expm1 log log1p sqrt rsqrt reciprocal pow square sin cos tan atan sinh cosh asinh tanh
    sigmoid erf silu gelu mish softplus log_sigmoid glu softmax _softmax log_softmax _log_softmax
    logsumexp layer_norm group_norm rms_norm var lstm gru rnn_tanh scaled_dot_product_attention
    """.split()
)
"""Without kinks, inside their domain."""

TRAINING = {
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), 2),
    "batch_norm": 5,
}
"""The argument that says whether these are in training mode."""


def is_random(name: str, args: tuple) -> bool:
    """Whether the operation is in training mode, where it is random or mixes the samples."""
    return name in TRAINING and bool(args[TRAINING[name]])


def _input(x: Tensor, *args) -> list[Tensor]:
    return [x]


def _leaky(x: Tensor, slope: float = 0.01) -> list[Tensor]:
    return [] if slope == 1.0 else [x]


def _bounded(x: Tensor, low=None, high=None) -> list[Tensor]:
    return [x - bound for bound in (low, high) if bound is not None]


SWITCHES: dict[str, Callable[..., list[Tensor]]] = {
    "relu": _input,
    "leaky_relu": _leaky,
    "prelu": _input,
    "abs": _input,
    "absolute": _input,
    "clamp": _bounded,
    "clip": _bounded,
    "clamp_min": _bounded,
    "clamp_max": _bounded,
    "hardtanh": lambda x, low=-1.0, high=1.0: _bounded(x, low, high),
    "relu6": lambda x: _bounded(x, 0.0, 6.0),
    "hardsigmoid": lambda x: _bounded(x, -3.0, 3.0),
    "softshrink": lambda x, bound=0.5: _bounded(x, -bound, bound),
}
"""Linear but where one of the returned quantities changes sign."""


def _pool_windows(
    x: Tensor, kernel_size, stride=(), padding=0, dilation=1, ceil_mode: bool = False
) -> Tensor:
    """Windows of a max-pooling over the last dimensions: (..., *numbers of windows, n_entries)."""
    d = len(kernel_size)
    padding, dilation = (
        [value] * d if isinstance(value, int) else list(value) * (d // len(value))
        for value in (padding, dilation)
    )
    stride = stride or kernel_size
    # Room for a window that ceil_mode begins; one that holds no entry never changes.
    after = [p + (s - 1 if ceil_mode else 0) for p, s in zip(padding, stride)]
    sides = [side for pair in zip(reversed(padding), reversed(after)) for side in pair]
    x = F.pad(x, sides, value=-torch.inf)
    first = x.ndim - d
    for i in range(d):
        span = (kernel_size[i] - 1) * dilation[i] + 1
        x = x.unfold(first + i, span, stride[i])[..., :: dilation[i]]
    return x.flatten(-d)


def _adaptive_windows(x: Tensor, output_size) -> Tensor:
    """The same of an adaptive max-pooling, where all windows are of one size."""
    sizes = x.shape[x.ndim - len(output_size) :]
    if any(size % n for size, n in zip(sizes, output_size)):
        raise NotWalkable("the windows of its adaptive max-pooling overlap")
    return _pool_windows(x, [size // n for size, n in zip(sizes, output_size)])


def _reduced(x: Tensor, dim=(), keepdim: bool = False) -> Tensor:
    """Entries that a maximum is over; `dim` may also be another tensor to compare with."""
    if isinstance(dim, Tensor):
        return torch.stack(torch.broadcast_tensors(x, dim), -1)
    dim = [dim] if isinstance(dim, int) else list(dim) or list(range(x.ndim))
    return x.movedim(dim, list(range(-len(dim), 0))).flatten(-len(dim))


MAXIMA: dict[str, Callable[..., Tensor]] = {
    **{f"max_pool{d}d": _pool_windows for d in (1, 2, 3)},
    **{f"max_pool{d}d_with_indices": _pool_windows for d in (1, 2, 3)},
    **{f"adaptive_max_pool{d}d": _adaptive_windows for d in (1, 2, 3)},
    **dict.fromkeys(("max", "amax", "maximum"), _reduced),
    **dict.fromkeys(("min", "amin", "minimum"), lambda *args: -_reduced(*args)),
}
"""Linear but where another entry along the last dimension of these becomes the largest."""
