"""Many multilayer perceptrons of one shape, with a leading dimension for the model.

Samples come last: what is said of each sample alone is then a row that all units share, which
vector instructions read as it lies in memory; so are a loss's classes, which are few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_mgs.search._buffers import Buffers
from sklearn_mgs.search._flat import Flat

__all__ = ["BatchedMLP", "Pass", "times"]


class _Activation(NamedTuple):
    """Value, in place of z; slope in terms of it, curvature of both; None where 1 and 0."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor | None], Tensor] | None
    curvature: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None


def _step(a: Tensor, out: Tensor | None) -> Tensor:
    return torch.sign(a.detach(), out=out)


def _tanh_slope(a: Tensor, out: Tensor | None) -> Tensor:  # 1 - a²
    return torch.addcmul(a.new_ones(()), a, a, value=-1, out=out)


def _tanh_curvature(a: Tensor, slope: Tensor, out: Tensor | None) -> Tensor:  # -2 a φ'
    return torch.mul(a, slope, out=out).mul_(-2)


def _logistic_slope(a: Tensor, out: Tensor | None) -> Tensor:  # a - a²
    return torch.addcmul(a, a, a, value=-1, out=out)


def _logistic_curvature(a: Tensor, slope: Tensor, out: Tensor | None) -> Tensor:  # φ' - 2 a φ'
    return torch.addcmul(slope, a, slope, value=-2, out=out)


_ACTIVATIONS = {
    "identity": _Activation(lambda z: z, None, None),
    "relu": _Activation(torch.relu_, _step, None),
    "tanh": _Activation(torch.tanh_, _tanh_slope, _tanh_curvature),
    "logistic": _Activation(torch.sigmoid_, _logistic_slope, _logistic_curvature),
}


@dataclass
class Pass:
    """What a forward pass leaves, layer by layer.

    Attributes
    ----------
    inputs : list of Tensor of shape (M, in, n)
        Inputs of each linear layer.
    slopes, curvatures : list of (Tensor of shape (M, out, n) or None)
        First and second derivative of what each hidden layer's output goes through: activation
        and dropout. None where it is 1, or 0.
    output : Tensor of shape (M, n_outputs, n)
        Linear outputs.
    """

    inputs: list[Tensor]
    slopes: list[Tensor | None] = field(default_factory=list)
    curvatures: list[Tensor | None] = field(default_factory=list)
    output: Tensor | None = None

    def first(self, n: int) -> Pass:
        """The pass of the first `n` samples."""

        def cut(tensors):
            return [t if t is None else t[:, :, :n] for t in tensors]

        return Pass(
            cut(self.inputs), cut(self.slopes), cut(self.curvatures), self.output[:, :, :n]
        )


class BatchedMLP:
    """M networks of one shape; each sees its own mini-batch.

    Parameters
    ----------
    weights : list of Tensor of shape (M, out, in)
        Weights of the linear layers; copied.
    biases : list of Tensor of shape (M, out, 1)
        Their biases; copied.
    activation : {"identity", "logistic", "tanh", "relu"}
        Hidden activation.
    dropout : float
        Probability that a hidden unit is dropped, of the same units in every model: as in lone
        fits with one seed.

    Attributes
    ----------
    parameters, gradients : Flat
        Weights, then biases; their gradients.
    weights, biases : list of Tensor
        Views of `parameters`.
    buffers : Buffers
        What a pass leaves is in them, and gone after the next.
    """

    def __init__(self, weights, biases, activation: str, dropout: float):
        self.activation, self.dropout = activation, dropout
        self.parameters = Flat([*weights, *biases])
        self.gradients = self.parameters.zeros_like()
        self.buffers = Buffers(self.parameters.memory)

    @property
    def weights(self) -> list[Tensor]:
        """Of each layer, shape (M, out, in)."""
        return self.parameters.parts[: len(self.parameters.parts) // 2]

    @property
    def biases(self) -> list[Tensor]:
        """Of each layer, shape (M, out, 1)."""
        return self.parameters.parts[len(self.parameters.parts) // 2 :]

    @property
    def slopes_are_masks(self) -> bool:
        """Whether they are 0 or 1: what has been multiplied by them once need not be again."""
        return self.activation in ("identity", "relu") and not self.dropout

    def keep(self, rows: Tensor) -> None:
        """Go on with the models `rows` alone."""
        self.parameters.keep(rows)
        self.gradients = self.parameters.zeros_like()
        self.buffers.clear()

    def __getstate__(self) -> dict:
        """Without the gradients, which each step writes anew."""
        return {**vars(self), "gradients": None}

    def __setstate__(self, state: dict) -> None:
        """Make room for them again."""
        vars(self).update(state)
        self.gradients = self.parameters.zeros_like()

    def forward(self, X: Tensor, generator: torch.Generator) -> Pass:
        """Outputs for X (M, n, in), and what the gradients need."""
        value = _ACTIVATIONS[self.activation].value
        result = Pass([X.mT])
        for layer, (W, b) in enumerate(zip(self.weights, self.biases)):
            out = self.buffers(f"output{layer}", *b.shape[:2], X.shape[1])
            z = torch.baddbmm(b, W, result.inputs[-1], out=out)
            if layer == len(self.weights) - 1:
                result.output = z
                return result
            a = value(z)
            mask = self._mask(a, generator)
            self._differentiate(result, a, mask)
            result.inputs.append(times(a, mask))
        return result

    def _differentiate(self, result: Pass, a: Tensor, mask: Tensor | None) -> None:
        """Add slope and curvature of the hidden layer with the values `a`."""
        _, slope, curvature = _ACTIVATIONS[self.activation]
        layer, steep, curved = len(result.slopes), None, None
        if slope is not None:
            steep = slope(a, self.buffers(f"slope{layer}", *a.shape))
        if curvature is not None:
            curved = curvature(a, steep, self.buffers(f"curvature{layer}", *a.shape))
            curved = times(curved, mask)
        result.slopes.append(mask if steep is None else times(steep, mask))
        result.curvatures.append(curved)

    def _mask(self, a: Tensor, generator: torch.Generator) -> Tensor | None:
        """Dropout's factors, one draw for all models, as torch's own dropout draws on the CPU."""
        if not self.dropout:
            return None
        keep, (_, units, n) = 1 - self.dropout, a.shape
        mask = a.new_empty(n, units).bernoulli_(keep, generator=generator).div_(keep)
        return mask.T.expand_as(a)

    def output_gradients(
        self, tape: Pass, V: Tensor, overwrite: bool = True
    ) -> tuple[list[Tensor], list]:
        """Derivatives of V·f (V of shape (M, C, k, n)) with respect to each layer's output.

        Returns
        -------
        D : list of Tensor of shape (M, out, k * n)
            ``D_L = V``, ``D_l = (W_{l+1}ᵀ D_{l+1}) ∘ φ'(Z_l)``, from the first layer to the last.
        unsloped : list of Tensor
            The same without the factor φ', for all layers but the last; they may be overwritten
            by D where there is no curvature, and no autograd.
        """
        k = V.shape[2]
        D: list[Tensor] = [V.flatten(2)]
        unsloped: list[Tensor] = []
        for layer in reversed(range(1, len(self.weights))):
            W = self.weights[layer].mT
            out = self.buffers(f"direction{layer - 1}", *W.shape[:2], D[0].shape[2])
            product = torch.bmm(W, D[0], out=out)
            if tape.curvatures[layer - 1] is not None or not overwrite:  # needed once more
                out = self.buffers(f"sloped{layer - 1}", *product.shape)
            unsloped.insert(0, product)
            D.insert(0, times(product, tape.slopes[layer - 1], k, out=out))
        return D, unsloped

    def relative_gradients(self, D: list[Tensor], unsloped: list[Tensor]) -> list[Tensor]:
        """Derivatives with respect to each layer's input, ``Wᵀ D``."""
        W = self.weights[0].mT
        out = self.buffers("relative", *W.shape[:2], D[0].shape[2])
        return [torch.bmm(W, D[0], out=out), *unsloped]

    def input_gradients(self, tape: Pass, V: Tensor) -> Tensor:
        """Derivatives of V·f with respect to the inputs, shape (M, in, k * n)."""
        return torch.bmm(self.weights[0].mT, self.output_gradients(tape, V)[0][0])


def times(D: Tensor, factor: Tensor | None, k: int = 1, out: Tensor | None = None) -> Tensor:
    """Product of D (M, units, k * n) and a factor (M, units, n); None stands for 1."""
    if factor is None:
        return D
    if k == 1:
        return torch.mul(D, factor, out=out)
    out = None if out is None else out.unflatten(2, (k, -1))
    return torch.mul(D.unflatten(2, (k, -1)), factor.unsqueeze(2), out=out).flatten(2)
