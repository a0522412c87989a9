"""The forward pass that the closed forms start from, and what a step draws at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sklearn_mgs._half_rows import HalfRows
from sklearn_mgs._module import MLP
from sklearn_mgs.gram._outputs import drawn

__all__ = ["ACTIVATIONS", "Draws", "Pass", "draw", "forward", "is_known"]


class _Activation:
    """An activation, with slope and curvature as functions of its *value*."""

    curvature = None


class _Identity(_Activation):
    @staticmethod
    def value(Z):
        return Z

    @staticmethod
    def slope(A):
        return torch.ones_like(A)


class _ReLU(_Activation):
    value = staticmethod(torch.relu_)

    @staticmethod
    def slope(A):
        return A.sign()


class _Tanh(_Activation):
    value = staticmethod(torch.tanh_)

    @staticmethod
    def slope(A):
        return 1 - A * A

    @staticmethod
    def curvature(A):
        return -2 * A * (1 - A * A)


class _Sigmoid(_Activation):
    value = staticmethod(torch.sigmoid_)

    @staticmethod
    def slope(A):
        return A * (1 - A)

    @staticmethod
    def curvature(A):
        return A * (1 - A) * (1 - 2 * A)


ACTIVATIONS = {nn.Identity: _Identity, nn.ReLU: _ReLU, nn.Tanh: _Tanh, nn.Sigmoid: _Sigmoid}
"""What is known of each activation module."""


def is_known(module: nn.Module) -> bool:
    """Whether it is an `MLP` as it was built, all of which is trained."""
    if not isinstance(module, MLP) or type(module).forward is not nn.Sequential.forward:
        return False
    if "forward" in vars(module) or not all(p.requires_grad for p in module.parameters()):
        return False
    kinds = [_kind(m) for m in module]
    kinds = [k for k, before in zip(kinds, ["", *kinds]) if (before, k) != ("a", "d")]
    n_linear = kinds.count("l")
    weights = {id(p) for linear in module.linears for p in (linear.weight, linear.bias)}
    in_turn = kinds == [*"la" * (n_linear - 1), "l"]
    return in_turn and len(weights) == 2 * n_linear and id(None) not in weights


def _kind(module: nn.Module) -> str:
    """A letter for a linear layer, an activation, dropout or something else."""
    if type(module) in ACTIVATIONS:
        return "a"
    return {nn.Linear: "l", nn.Dropout: "d"}.get(type(module), "?")


@dataclass
class Pass:
    """What a forward pass leaves.

    Attributes
    ----------
    inputs : list of Tensor of shape (n, in)
        Inputs of each linear layer.
    slopes : list of Tensor of shape (n, units)
        First derivative of what each hidden layer's output goes through: activation and dropout.
    outputs : Tensor of shape (n, C)
        Outputs of the network.
    """

    inputs: list[Tensor]
    slopes: list[Tensor]
    outputs: Tensor
    activations: list
    values: list[Tensor]
    masks: list[Tensor | None]

    def is_curved(self, i: int) -> bool:
        """Whether what lies below layer i has a second derivative."""
        return self.activations[i - 1].curvature is not None

    def curvature(self, i: int, n: int) -> Tensor:
        """That derivative, of the first n samples."""
        curvature = self.activations[i - 1].curvature(self.values[i - 1][:n])
        mask = self.masks[i - 1]
        return curvature if mask is None else curvature.mul_(mask[:n])


def forward(linears, activations, X: Tensor, masks: list[Tensor | None]) -> Pass:
    """Run the network; each hidden layer's values are multiplied by its mask."""
    inputs, slopes, values = [X], [], []
    for linear, activation, mask in zip(linears, activations, masks):
        A = activation.value(torch.addmm(linear.bias, inputs[-1], linear.weight.mT))
        slope = activation.slope(A)
        values.append(A)
        inputs.append(A if mask is None else A * mask)
        slopes.append(slope if mask is None else slope.mul_(mask))
    last = linears[-1]
    outputs = torch.addmm(last.bias, inputs[-1], last.weight.mT)
    return Pass(inputs, slopes, outputs, activations, values, masks)


class Draws(NamedTuple):
    """What a step draws at random; None, or nothing, of what it has no use for.

    Attributes
    ----------
    noise : Tensor of shape (n, in) or None
        Standard normal, for the inputs.
    masks : list of (Tensor of shape (n, units) or None)
        Factors of dropout, for each hidden layer.
    directions : list of Tensor of shape (C,)
        The kernel's direction in each part of the mini-batch.
    by_sample : Tensor of shape (n, C) or None
        The input-Jacobian penalty's directions.
    kernel_masks : list of Tensor
        The samples' that make the kernel, where they are not the loss's; else empty.
    """

    noise: Tensor | None
    masks: list[Tensor | None]
    directions: list[Tensor]
    by_sample: Tensor | None
    kernel_masks: list[Tensor | None]

    def ordered(self, rows: HalfRows) -> Draws:
        """The same with the samples in that order; the kernel's own are so already."""
        return self._replace(
            masks=[m if m is None else rows.ordered(m) for m in self.masks],
            by_sample=None if self.by_sample is None else rows.ordered(self.by_sample),
        )


def draw(form, X: Tensor, sizes: list[int]) -> Draws:
    """Draw for parts of the mini-batch, one after the other, as passes through each would."""
    if not form.is_random:
        return form.no_draws
    parts = [_draw_part(form, X, n) for n in sizes]
    if len(parts) == 1:
        return parts[0]
    noise, masks, directions, by_sample, kernel_masks = zip(*parts)
    if any(kernel_masks):  # as many as are kept of a part, or all, which are the loss's
        kernel_masks = [own or of_loss for own, of_loss in zip(kernel_masks, masks)]
    return Draws(
        _joined(noise),
        [_joined(of_layer) for of_layer in zip(*masks)],
        [v for drawn_for_part in directions for v in drawn_for_part],
        _joined(by_sample),
        [_joined(of_layer) for of_layer in zip(*kernel_masks)],
    )


def _draw_part(form, X: Tensor, n: int) -> Draws:
    """The same of one part, in the order in which `Objective` draws."""
    objective, rates = form.objective, form.dropout_rates
    C, size = form.linears[-1].out_features, objective.mgs_batch_size
    noise = drawn((n, X.shape[1]), X, None) if objective.input_noise else None
    masks, kernel_masks = form.no_draws.masks, []
    if any(rates):
        masks = _masks(form, rates, n, X)
        if form.weights is not None and size is not None and size < n:
            kernel_masks = _masks(form, rates, size, X)
    directions = [drawn((C,), X, None)] if form.has_random_outputs else []
    by_sample = drawn((n, C), X, None) if objective.jacobian_strength else None
    return Draws(noise, masks, directions, by_sample, kernel_masks)


def _masks(form, rates: list[float], n: int, like: Tensor) -> list[Tensor | None]:
    """Of each hidden layer, for n samples."""
    return [_mask(rate, n, linear, like) for rate, linear in zip(rates, form.linears)]


def _mask(rate: float, n: int, linear: nn.Linear, like: Tensor) -> Tensor | None:
    """Dropout's factors, drawn as torch draws them on the CPU."""
    if not rate:
        return None
    if rate == 1:
        return like.new_zeros(n, linear.out_features)
    return like.new_empty(n, linear.out_features).bernoulli_(1 - rate).div_(1 - rate)


def _joined(parts: tuple) -> Tensor | None:
    """Rows of all parts, where there are any."""
    if parts[0] is None:
        return None
    return torch.cat(parts)
