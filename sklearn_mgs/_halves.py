"""Coherence of a mini-batch's two halves from one pass, where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from sklearn_mgs._coherence import inner_products
from sklearn_mgs._optimizer import regularized_weights
from sklearn_mgs.gram._layers import check_samples_apart, evaluating

__all__ = ["HalvesTape", "forget_gradients", "one_pass_suffices"]

TOLERANCE = 1e3
"""Relative difference of values that are equal but for rounding, in machine epsilons."""


class HalvesTape:
    """Context of a pass that records what the products of the halves' gradients are made of.

    The gradient ``Σ g_i a_iᵀ`` of a linear layer's weight, over the samples of a half, has the
    squared norm ``Σ_ij ⟨a_i, a_j⟩ ⟨g_i, g_j⟩``: the halves' gradients are never formed. With an
    MGS penalty the weight is used twice, in ``z_i = W a_i`` and in ``p_i = Wᵀ d_i``, and its
    gradient is ``Σ g_i a_iᵀ + d_i u_iᵀ``: as many samples more.

    Parameters
    ----------
    module : torch.nn.Module
        A network for which `one_pass_suffices`.
    """

    def __init__(self, module: nn.Module):
        self.layers = [m for m in module.modules() if _is_trained_linear(m)]
        self._calls = dict.fromkeys(self.layers, 0)
        self._seen: dict[str, dict[nn.Module, Tensor]] = {name: {} for name in "agdu"}

    def __enter__(self) -> HalvesTape:
        self._handles = [m.register_forward_hook(self._record) for m in self.layers]
        return self

    def __exit__(self, *exc) -> None:
        for handle in self._handles:
            handle.remove()

    def _record(self, layer, args, output) -> None:
        self._calls[layer] += 1
        if not (args and output.requires_grad):  # by keyword, or no gradient comes this way
            return
        self._seen["a"][layer] = args[0].detach()  # with its graph it would hold this tape
        output.register_hook(partial(self._see_output_gradient, layer))
        if args[0].requires_grad:
            args[0].register_hook(partial(self._see_input_gradient, layer))

    def _see_output_gradient(self, layer, gradient) -> None:
        """Take ``d``, where it will be differentiated itself, or the loss's ``g``."""
        self._seen["d" if torch.is_grad_enabled() else "g"][layer] = gradient.detach()

    def _see_input_gradient(self, layer, gradient) -> None:
        """Wait for ``u``, the adjoint of ``p``."""
        if gradient.requires_grad:
            gradient.register_hook(partial(self._seen["u"].__setitem__, layer))

    @torch.no_grad()
    def products(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """``⟨a, a⟩, ⟨a, b⟩, ⟨b, b⟩`` of the halves' parts a and b of the weights' gradients.

        None if a layer has not been called once, or not with one row for each sample, or not in
        the precision of its weight.
        """
        if not all(map(self._is_plain, self.layers)):
            return None
        products = torch.stack([x for m in self.layers for x in self._with_first_half(m)])
        aa, at, tt = products.view(-1, 3).sum(0).unbind()
        return aa, at - aa, tt - 2 * at + aa

    def _is_plain(self, layer: nn.Module) -> bool:
        """Whether one call led to the loss, with a row for each sample, and no autocasting."""
        if self._calls[layer] != 1 or layer not in self._seen["g"]:
            return False
        a, g = self._seen["a"][layer], self._seen["g"][layer]
        return a.dim() == 2 and a.dtype == g.dtype == layer.weight.dtype

    def _with_first_half(self, layer: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """``⟨a, a⟩, ⟨a, t⟩, ⟨t, t⟩`` of one layer, t being the gradient of all samples.

        The first half's gradient is formed only where that costs less.
        """
        a, g, d, u = (self._seen[name].get(layer) for name in "agdu")
        total, n = layer.weight.grad.flatten(), len(a)
        first = slice(n // 2)
        if u is None and n * sum(layer.weight.shape) < layer.weight.numel():
            K = (a[first] @ a.mT) * (g[first] @ g.mT)
            return K[:, first].sum(), K.sum(), torch.dot(total, total)
        part = g[first].mT @ a[first]
        if u is not None:
            part.addmm_(d[first].mT, u[first])
        part = part.flatten()
        return torch.dot(part, part), torch.dot(part, total), torch.dot(total, total)


def _is_trained_linear(layer: nn.Module) -> bool:
    return type(layer).forward is nn.Linear.forward and layer.weight.requires_grad


def one_pass_suffices(module: nn.Module, n: int, run: Callable[[slice], object], shares) -> bool:
    """Whether a `HalvesTape` finds what two passes would: both are tried, and compared.

    It does where samples have nothing to do with each other, neither in the network nor in the
    loss, and the weights are those of linear layers.

    Parameters
    ----------
    module : torch.nn.Module
        The network; run in evaluation mode, since dropout differs from pass to pass.
    n : int
        Samples in the mini-batch.
    run : callable
        Takes a slice of the samples, and runs their forward and backward pass.
    shares : list of two floats
        Share of each half in the mini-batch's loss.
    """
    weights = regularized_weights(module)
    owned = [m.weight for m in module.modules() if _is_trained_linear(m)]
    if len(owned) != len(weights) or {*map(id, owned)} != {*map(id, weights)}:
        return False
    try:
        check_samples_apart(module)
    except ValueError:
        return False
    with evaluating(module):
        forget_gradients(module)
        with HalvesTape(module) as tape:
            run(slice(0, n))
        found = tape.products()
        parts = []
        for share, part in zip(shares, (slice(0, n // 2), slice(n // 2, n))):
            forget_gradients(module)
            run(part)
            parts.append([w.grad if w.grad is None else share * w.grad for w in weights])
        forget_gradients(module)
    if found is None or any(g is None for part in parts for g in part):
        return False
    one, two = torch.stack(found), torch.stack(inner_products(*parts))
    rounding = TOLERANCE * torch.finfo(one.dtype).eps * (two[0] + two[2])
    return bool(((one - two).abs() <= rounding).all())


def forget_gradients(module: nn.Module) -> None:
    """Set all gradients to None."""
    for p in module.parameters():
        p.grad = None
