"""Per-sample gradients by torch.func: the definition, for any module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from sklearn_mgs.gram._layers import check_samples_apart, parameter_layers
from sklearn_mgs.gram._outputs import directions, output_matrix

__all__ = ["jacobian", "per_sample_gradients"]


def per_sample_gradients(
    module: nn.Module,
    X: Tensor,
    V: Tensor,
    names: Sequence[str],
    chunk_size: int | None = None,
) -> dict[str, Tensor]:
    """Gradients of v·f(x_i) with respect to the parameters called `names`.

    Parameters
    ----------
    module : torch.nn.Module
        The network f.
    X : Tensor of shape (n_samples, ...)
        The samples.
    V : Tensor of shape (n_directions, n_samples, n_outputs)
        The directions v.
    names : sequence of str
        Full names of parameters.
    chunk_size : int, default=None
        Samples at once.

    Returns
    -------
    gradients : dict of str to Tensor of shape (n_samples, n_directions, *parameter.shape)
        Differentiable in all parameters.
    """
    parameters = dict(module.named_parameters())

    def gradients(x: Tensor, v: Tensor) -> dict[str, Tensor]:
        def f(chosen):
            return output_matrix(functional_call(module, chosen, (x[None],)))[0]

        pull = vjp(f, {name: parameters[name] for name in names})[1]
        return vmap(lambda u: pull(u)[0])(v)

    mapped = vmap(gradients, in_dims=(0, 1), chunk_size=chunk_size, randomness="different")
    return mapped(X, V)


def jacobian(module: nn.Module, X: Tensor, *, chunk_size: int | None = None) -> Tensor:
    """Jacobian of each sample's outputs with respect to the trainable parameters.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    X : Tensor of shape (n_samples, ...)
        The samples.
    chunk_size : int, default=None
        Samples at once; None takes all.

    Returns
    -------
    J : Tensor of shape (n_samples, n_outputs, n_parameters)
        Parameters in order of ``module.named_parameters()``, each flattened. Differentiable.

    Raises
    ------
    ValueError
        If the module has no trainable parameters, or its samples interact.

    Examples
    --------
    >>> import torch
    >>> from sklearn_mgs.gram import jacobian
    >>> jacobian(torch.nn.Linear(3, 2), torch.ones(5, 3)).shape
    torch.Size([5, 2, 8])
    """
    names = [name for layer in parameter_layers(module).values() for name in layer]
    check_samples_apart(module)
    with torch.no_grad():
        V = directions(output_matrix(module(X)), "all")
    J = per_sample_gradients(module, X, V, names, chunk_size)
    return torch.cat([J[name].flatten(2) for name in names], 2)
