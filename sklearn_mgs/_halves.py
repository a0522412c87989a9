"""Coherence of a mini-batch's two halves from one pass, where that is possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce

import torch
from torch import Tensor, nn

from sklearn_mgs._cosines import inner_products
from sklearn_mgs._optimizer import regularized_weights
from sklearn_mgs.gram import Tape
from sklearn_mgs.gram._layers import check_samples_apart, evaluating

__all__ = ["HalvesTape", "forget_gradients", "one_pass_suffices"]

TOLERANCE = 1e3
"""Relative difference of values that are equal but for rounding, in machine epsilons."""


class HalvesTape:
    """Context of a pass that records what the products of the halves' gradients are made of.

    The gradient ``Σ g_i a_iᵀ`` of a linear layer's weight, over the samples of a half, has the
    squared norm ``Σ_ij ⟨a_i, a_j⟩ ⟨g_i, g_j⟩``: the halves' gradients need not be formed. With an
    MGS penalty the weight is used twice, in ``z_i = W a_i`` and in ``p_i = Wᵀ d_i``, and its
    gradient is ``Σ g_i a_iᵀ + d_i u_iᵀ``: as many samples more. Of a convolution's weight, and
    where that costs less, they are.

    Parameters
    ----------
    module : torch.nn.Module
        A network for which `one_pass_suffices`.
    n : int
        Samples in the mini-batch.
    size : int or None
        The first so many samples of each half make its kernel; None: all.
    layers : list of torch.nn.Module, default=None
        The layers of a former tape of the same network, which saves the search for them.

    Attributes
    ----------
    layers : list of torch.nn.Module
        The layers whose weights are trained, as far as they are covered.
    halves : tuple of two slices
        The first ``n // 2`` samples, and the others.
    shares : tuple of two floats
        Share of each half in the mini-batch.
    rows : list of slice
        Samples that make the halves' kernels; one slice if all do.
    """

    def __init__(
        self,
        module: nn.Module,
        n: int,
        size: int | None = None,
        layers: list[nn.Module] | None = None,
    ):
        self.module, self.n = module, n
        self.halves = slice(0, n // 2), slice(n // 2, n)
        self.shares = n // 2 / n, 1 - n // 2 / n
        self.rows = _kernel_rows(n, size)
        self._sizes = n, sum(rows.stop - rows.start for rows in self.rows)
        if layers is None:
            layers = [m for m in module.modules() if _is_covered(m)]
        self.layers = layers

    def __enter__(self) -> HalvesTape:
        self._calls: dict[nn.Module, list[_Call]] = {m: [] for m in self.layers}
        self._handles = [m.register_forward_hook(self._record) for m in self.layers]
        return self

    def __exit__(self, *exc) -> None:
        for handle in self._handles:
            handle.remove()

    def _record(self, layer, args, output) -> None:
        if output.requires_grad:  # else no gradient comes this way
            self._calls[layer].append(_Call(layer, args, output))

    def watch(self, tape: Tape) -> None:
        """Record the adjoints of relative gradients' products, before the backward pass."""
        rows = {m: (c for c in calls if c.d is not None) for m, calls in self._calls.items()}
        for layer, product in tape.products:
            call = next(rows.get(layer, iter(())), None)
            if call is not None:
                product.register_hook(call.v.append)

    @torch.no_grad()
    def products(self) -> Tensor | None:
        """Gram matrix (2, 2) of the halves' parts of the weights' gradients.

        None if a layer has not been called, or not with one row for each sample, or not in
        the precision of its weight.
        """
        for calls in self._calls.values():
            plain = all(call.is_plain(self._sizes) for call in calls)
            if not (plain and any(call.is_used for call in calls)):
                return None
        by_rows, formed = [], []
        for calls in self._calls.values():
            (by_rows if _rows_cost_less(calls) else formed).append(calls)
        products = [_products_of_rows(*calls) for calls in by_rows]
        if formed:
            parts = [_first_half(calls).flatten() for calls in formed]
            wholes = [calls[0].layer.weight.grad.flatten() for calls in formed]
            products.append(_products_of_halves(parts, wholes))
        return reduce(torch.add, products)


class _Call:
    """A call of a layer: its input ``a`` and the adjoint ``g`` of its output; ``d``, ``u``.

    ``v`` is that of a relative gradient's product, which is made apart, of patches as rows.
    """

    def __init__(self, layer: nn.Module, args: tuple, output: Tensor):
        self.layer = layer
        self.a: Tensor | None = None
        self.g: Tensor | None = None
        self.d: Tensor | None = None
        self.u: list[Tensor] = []
        self.v: list[Tensor] = []
        output.register_hook(self._see_output_gradient)
        if args:  # not by keyword
            self.a = args[0].detach()  # with its graph it would hold this call
            if args[0].requires_grad:
                args[0].register_hook(self._see_input_gradient)

    def _see_output_gradient(self, gradient: Tensor) -> None:
        """Take ``d``, where it will be differentiated itself, or the loss's ``g``."""
        if torch.is_grad_enabled():
            self.d = gradient.detach()
        else:
            self.g = gradient.detach()

    def _see_input_gradient(self, gradient: Tensor) -> None:
        """Wait for ``u``, the adjoint of ``p``."""
        if gradient.requires_grad:
            gradient.register_hook(self.u.append)

    def is_plain(self, sizes: tuple[int, int]) -> bool:
        """Whether it had a row for each sample, and no autocasting."""
        weight, seen = self.layer.weight, (self.a, self.g, self.d, *self.u, *self.v)
        if self.a is None or self.a.dim() != weight.dim() or len(self.a) not in sizes:
            return False
        return all(x is None or x.dtype == weight.dtype for x in seen)

    @property
    def is_used(self) -> bool:
        """Whether a gradient of the weight came this way."""
        return self.g is not None or bool(self.u or self.v)

    @property
    def is_linear(self) -> bool:
        """Whether the gradient is ``Σ g_i a_iᵀ``."""
        return isinstance(self.layer, nn.Linear) and not (self.u or self.v)

    def add_first_half(self, part: Tensor | None) -> Tensor | None:
        """Add the first half's part of the weight's gradient, as a matrix."""
        half = slice(len(self.a) // 2)
        pairs = [] if self.g is None else [(self.g, self.a)]
        for g, a in pairs + [(self.d, u) for u in self.u]:
            part = _add_gradient(part, self.layer, g[half], a[half])
        for v in self.v:
            d = self.d if self.d.dim() == 2 else self.d.flatten(2).mT  # as v has it
            part = _add_rows(part, d[half], v.squeeze(0)[half])
        return part


def _add_gradient(part: Tensor | None, layer, g: Tensor, a: Tensor) -> Tensor:
    """Add the gradient of ``Σ ⟨g_i, W a_i⟩``, W being the layer's weight."""
    if isinstance(layer, nn.Linear):
        return _add_rows(part, g, a)
    how = layer.stride, layer.padding, layer.dilation, False, [0], layer.groups
    wanted = False, True, False
    _, new, _ = torch.ops.aten.convolution_backward(g, a, layer.weight, None, *how, wanted)
    return new.flatten(1) if part is None else part.add_(new.flatten(1))


def _add_rows(part: Tensor | None, g: Tensor, a: Tensor) -> Tensor:
    """Add ``Σ g_i a_iᵀ``, over all dimensions but the last."""
    g, a = g.flatten(0, -2), a.flatten(0, -2)
    return g.mT @ a if part is None else part.addmm_(g.mT, a)


def _rows_cost_less(calls: list[_Call]) -> bool:
    """Whether the halves' parts of a layer's gradient are dearer than products of their rows."""
    call, *others = calls
    weight = call.layer.weight
    return call.is_linear and not others and len(call.a) * sum(weight.shape) < weight.numel()


def _products_of_rows(call: _Call) -> Tensor:
    """Gram matrix (2, 2) of both halves' parts in one layer, which are not formed."""
    middle = len(call.a) // 2
    (a, b), (g, h) = ((x[:middle], x[middle:]) for x in (call.a, call.g))
    pairs = ((a, a, g, g), (a, b, g, h), (b, b, h, h))
    aa, ab, bb = (((x @ y.mT) * (u @ v.mT)).sum() for x, y, u, v in pairs)
    return torch.stack([aa, ab, ab, bb]).view(2, 2)


def _first_half(calls: list[_Call]) -> Tensor:
    """The first half's part of a layer's gradient."""
    part = None
    for call in calls:
        part = call.add_first_half(part)
    return part


def _products_of_halves(firsts: list[Tensor], wholes: list[Tensor]) -> Tensor:
    """Gram matrix (2, 2) of a vector, in parts, and the rest of the whole.

    They come from those with the whole, which needs less memory, unless the rest is so small that
    rounding would swallow it. Only the CPU can be asked without waiting; elsewhere it is formed.
    """
    if firsts[0].device.type == "cpu":
        products = inner_products(firsts, wholes)
        (aa, aw), (_, ww) = products.tolist()
        ab, bb = aw - aa, aa - 2 * aw + ww
        if bb > 0.01 * (aa + ww):
            return products.new_tensor([[aa, ab], [ab, bb]])
    return inner_products(firsts, [w - a for a, w in zip(firsts, wholes)])


def _kernel_rows(n: int, size: int | None) -> list[slice]:
    """The first `size` samples of each half."""
    half = n // 2
    if size is None or size >= n - half:
        return [slice(0, n)]
    return [slice(0, min(size, half)), slice(half, half + size)]


def _is_covered(layer: nn.Module) -> bool:
    """Whether it is a linear layer, or convolution padded with zeros, that is trained."""
    forward = type(layer).forward
    if forward is nn.Linear.forward:
        return layer.weight.requires_grad
    if forward not in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward):
        return False
    padded = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return padded and layer.weight.requires_grad


def one_pass_suffices(
    tape: HalvesTape, both: Callable[[], object], run: Callable[[slice], object]
) -> bool:
    """Whether a `HalvesTape` finds what two passes would: both are tried, and compared.

    It does where samples have nothing to do with each other, neither in the network nor in the
    loss, and the weights are those of linear layers and convolutions.

    Parameters
    ----------
    tape : HalvesTape
        Of the mini-batch; the network is run in evaluation mode, since dropout differs from pass
        to pass.
    both : callable
        Runs the forward and backward pass of both halves at once.
    run : callable
        Takes a slice of the samples, and runs their forward and backward pass.
    """
    module = tape.module
    weights = regularized_weights(module)
    owned = [m.weight for m in tape.layers]
    if len(owned) != len(weights) or {*map(id, owned)} != {*map(id, weights)}:
        return False
    try:
        check_samples_apart(module)
    except ValueError:
        return False
    parts = []
    with evaluating(module), _same_numbers(weights[0].device) as restart:
        forget_gradients(module)
        with tape:
            both()
        found = tape.products()
        restart()
        for share, part in zip(tape.shares, tape.halves):
            forget_gradients(module)
            run(part)
            parts.append([w.grad if w.grad is None else share * w.grad for w in weights])
        forget_gradients(module)
    if found is None or any(g is None for part in parts for g in part):
        return False
    expected = inner_products(*parts)
    rounding = TOLERANCE * torch.finfo(found.dtype).eps * expected.trace()
    return bool(((found - expected).abs() <= rounding).all())


@contextmanager
def _same_numbers(device: torch.device) -> Iterator[Callable[[], object]]:
    """What is drawn is drawn again after a call of the result, and all again afterwards."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type):
        restart = partial(torch.manual_seed, 0)
        restart()
        yield restart


def forget_gradients(module: nn.Module) -> None:
    """Set all gradients to None."""
    for p in module.parameters():
        p.grad = None
