"""The multilayer perceptron as a torch module."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

__all__ = ["ACTIVATIONS", "MLP", "mlp_from_arrays"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}
"""Hidden activations by the names that scikit-learn's MLP uses."""


class _EmptyLinear(nn.Linear):
    def reset_parameters(self):
        """Draw nothing."""


def _linear(fan_in: int, fan_out: int, dtype: torch.dtype | None) -> nn.Linear:
    """Linear layer of unset weights, which are always written: torch's own would be drawn."""
    linear: nn.Linear = _EmptyLinear(fan_in, fan_out, dtype=dtype)
    linear.__class__ = nn.Linear  # nn.utils.skip_init would import sympy, a second of a first fit
    return linear


class MLP(nn.Sequential):
    """Fully connected network; the output is linear (logits, or regression outputs).

    Linear layers and activations alternate, each activation followed by dropout where
    ``dropout > 0``. Attributes of the children are ordinary: any tool for
    `torch.nn.Sequential` works on it. The parameters are unset until `write`.

    Parameters
    ----------
    layer_units : sequence of int
        Numbers of units, from the inputs to the outputs.
    activation : {"identity", "logistic", "tanh", "relu"}, default="relu"
        Activation of the hidden layers.
    dropout : float, default=0.0
        Probability that a hidden unit is zeroed while training.
    dtype : torch.dtype, default=None
        Type of the parameters.
    """

    def __init__(
        self,
        layer_units: Sequence[int],
        activation: str = "relu",
        dropout: float = 0.0,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        last = len(layer_units) - 2
        for i, (fan_in, fan_out) in enumerate(pairwise(layer_units)):
            self.add_module(f"linear{i}", _linear(fan_in, fan_out, dtype))
            if i < last:
                self.add_module(f"activation{i}", ACTIVATIONS[activation]())
                if dropout:
                    self.add_module(f"dropout{i}", nn.Dropout(dropout))

    @property
    def linears(self) -> list[nn.Linear]:
        """The linear layers, from the inputs to the outputs."""
        return [m for m in self if isinstance(m, nn.Linear)]

    @torch.no_grad()
    def write(self, coefs, intercepts) -> MLP:
        """Copy arrays in scikit-learn's layout, ``coefs[l]`` of shape (fan_in, fan_out)."""
        linears = self.linears
        if len(coefs) != len(linears) or len(intercepts) != len(linears):
            raise ValueError(
                f"Got {len(coefs)} coefs and {len(intercepts)} intercepts for a network of "
                f"{len(linears)} layers; pass one array per layer."
            )
        arrays = [(torch.as_tensor(c), torch.as_tensor(b)) for c, b in zip(coefs, intercepts)]
        for i, (linear, (coef, intercept)) in enumerate(zip(linears, arrays)):
            shapes = linear.weight.mT.shape, linear.bias.shape
            if (coef.shape, intercept.shape) != shapes:
                raise ValueError(
                    f"Layer {i} has coefs of shape {tuple(shapes[0])} and intercepts of shape "
                    f"{tuple(shapes[1])}; got {tuple(coef.shape)} and {tuple(intercept.shape)}."
                )
        for linear, (coef, intercept) in zip(linears, arrays):
            linear.weight.copy_(coef.mT)
            linear.bias.copy_(intercept)
        return self


def mlp_from_arrays(coefs, intercepts, activation: str = "relu") -> MLP:
    """Build the network that scikit-learn's ``coefs_`` and ``intercepts_`` describe.

    Parameters
    ----------
    coefs : list of ndarray, the l-th of shape (n_units[l], n_units[l + 1])
        Weights.
    intercepts : list of ndarray, the l-th of shape (n_units[l + 1],)
        Biases.
    activation : {"identity", "logistic", "tanh", "relu"}, default="relu"
        Activation of the hidden layers.

    Returns
    -------
    module : MLP
        In evaluation mode, in the arrays' own precision.
    """
    units = [coefs[0].shape[0], *(c.shape[1] for c in coefs)]
    dtype = torch.from_numpy(coefs[0]).dtype
    return MLP(units, activation, dtype=dtype).write(coefs, intercepts).eval()
