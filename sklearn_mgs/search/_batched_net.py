"""Many multilayer perceptrons of one shape, with a leading dimension for the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_mgs.search._flat import Flat

__all__ = ["BatchedMLP", "Pass", "times"]


class _Activation(NamedTuple):
    """Value, in place of z; slope and curvature in terms of it, None where they are 1 and 0."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor] | None
    curvature: Callable[[Tensor], Tensor] | None


_ACTIVATIONS = {
    "identity": _Activation(lambda z: z, None, None),
    "relu": _Activation(torch.relu_, lambda a: a.detach().sign(), None),
    "tanh": _Activation(torch.tanh_, lambda a: 1 - a * a, lambda a: -2 * a * (1 - a * a)),
    "logistic": _Activation(
        torch.sigmoid_, lambda a: a * (1 - a), lambda a: a * (1 - a) * (1 - 2 * a)
    ),
}


@dataclass
class Pass:
    """What a forward pass leaves, layer by layer.

    Attributes
    ----------
    inputs : list of Tensor of shape (M, n, in)
        Inputs of each linear layer.
    slopes, curvatures : list of (Tensor of shape (M, n, out) or None)
        First and second derivative of what each hidden layer's output goes through: activation
        and dropout. None where it is 1, or 0.
    output : Tensor of shape (M, n, n_outputs)
        Linear outputs.
    """

    inputs: list[Tensor]
    slopes: list[Tensor | None] = field(default_factory=list)
    curvatures: list[Tensor | None] = field(default_factory=list)
    output: Tensor | None = None

    def first(self, n: int) -> Pass:
        """The pass of the first `n` samples."""

        def cut(tensors):
            return [t if t is None else t[:, :n] for t in tensors]

        return Pass(cut(self.inputs), cut(self.slopes), cut(self.curvatures), self.output[:, :n])


class BatchedMLP:
    """M networks of one shape; each sees its own mini-batch.

    Parameters
    ----------
    weights : list of Tensor of shape (M, in, out)
        Weights of the linear layers; copied.
    biases : list of Tensor of shape (M, 1, out)
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
    """

    def __init__(self, weights, biases, activation: str, dropout: float):
        self.activation, self.dropout = activation, dropout
        self.parameters = Flat([*weights, *biases])
        self.gradients = self.parameters.zeros_like()

    @property
    def weights(self) -> list[Tensor]:
        """Of each layer, shape (M, in, out)."""
        return self.parameters.parts[: len(self.parameters.parts) // 2]

    @property
    def biases(self) -> list[Tensor]:
        """Of each layer, shape (M, 1, out)."""
        return self.parameters.parts[len(self.parameters.parts) // 2 :]

    def keep(self, rows: Tensor) -> None:
        """Go on with the models `rows` alone."""
        self.parameters.keep(rows)
        self.gradients.keep(rows)

    def forward(self, X: Tensor, generator: torch.Generator) -> Pass:
        """Outputs for X (M, n, in), and what the gradients need."""
        value, slope, curvature = _ACTIVATIONS[self.activation]
        last = len(self.weights) - 1
        result = Pass([X])
        for layer, (W, b) in enumerate(zip(self.weights, self.biases)):
            z = torch.baddbmm(b, result.inputs[-1], W)
            if layer == last:
                result.output = z
                return result
            a = value(z)
            mask = self._mask(a, generator)
            result.inputs.append(times(a, mask))
            result.slopes.append(times(slope(a), mask) if slope else mask)
            result.curvatures.append(times(curvature(a), mask) if curvature else None)
        return result

    def _mask(self, a: Tensor, generator: torch.Generator) -> Tensor | None:
        """Dropout's factors, one draw for all models, as torch's own dropout draws on the CPU."""
        if not self.dropout:
            return None
        keep = 1 - self.dropout
        mask = torch.empty_like(a[0]).bernoulli_(keep, generator=generator).div_(keep)
        return mask.expand_as(a)

    def output_gradients(self, tape: Pass, V: Tensor) -> tuple[list[Tensor], list]:
        """Derivatives of V·f (V of shape (M, n, k, C)) with respect to each layer's output.

        Returns
        -------
        D : list of Tensor of shape (M, n * k, out)
            ``D_L = V``, ``D_l = (D_{l+1} W_{l+1}ᵀ) ∘ φ'(Z_l)``, from the first layer to the last.
        unsloped : list of Tensor
            The same without the factor φ', for all layers but the last; overwritten by D where
            neither autograd nor a curvature needs it.
        """
        M, n, k, _ = V.shape
        D: list[Tensor] = [V.reshape(M, n * k, -1)]
        unsloped: list[Tensor] = []
        for layer in reversed(range(1, len(self.weights))):
            product = torch.bmm(D[0], self.weights[layer].mT)
            needed = torch.is_grad_enabled() or tape.curvatures[layer - 1] is not None
            unsloped.insert(0, product)
            D.insert(0, times(product, tape.slopes[layer - 1], k, overwrite=not needed))
        return D, unsloped

    def input_gradients(self, tape: Pass, V: Tensor) -> Tensor:
        """Derivatives of V·f with respect to the inputs, shape (M, n * k, in)."""
        return torch.bmm(self.output_gradients(tape, V)[0][0], self.weights[0].mT)


def times(D: Tensor, factor: Tensor | None, k: int = 1, overwrite: bool = False) -> Tensor:
    """Product of D (M, n * k, out) and a factor (M, n, out); None stands for 1."""
    if factor is None:
        return D
    if k > 1:
        D = D.unflatten(1, (-1, k))
        factor = factor.unsqueeze(2)
    product = D.mul_(factor) if overwrite else D * factor
    return product if k == 1 else product.flatten(1, 2)
