"""Per-sample gradients of any module: the definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from sklearn_mgs.gram._backends import DecomposedNorms, twice_differentiable
from sklearn_mgs.gram._chunks import check_chunk_size
from sklearn_mgs.gram._functional import call_with
from sklearn_mgs.gram._layers import check_samples_apart, evaluating, parameter_layers
from sklearn_mgs.gram._outputs import directions, output_matrix
from sklearn_mgs.gram._samples import (
    Samples,
    apply,
    batch_of_one,
    check_samples,
    first,
    n_samples,
    take,
)
from sklearn_mgs.gram._warned import without_slow_vmap

__all__ = ["choose_strategy", "jacobian", "per_sample_gradients"]


def per_sample_gradients(
    module: nn.Module, X: Samples, V: Tensor, names: Sequence[str], strategy: str = "shared"
) -> dict[str, Tensor]:
    """Gradients of v·f(x_i) with respect to the parameters called `names`.

    Parameters
    ----------
    module : torch.nn.Module
        The network f.
    X : Tensor of shape (n_samples, ...), or a tuple or dict of such
        The samples.
    V : Tensor of shape (n_directions, n_samples, n_outputs)
        The directions v.
    names : sequence of str
        Full names of parameters.
    strategy : {"shared", "expanded", "loop"}, default="shared"
        Whether torch.func maps over samples that share the parameters, or over samples each
        with its own view of them (recurrent layers need it), or a loop takes one by one.

    Returns
    -------
    gradients : dict of str to Tensor of shape (n_samples, n_directions, *parameter.shape)
        Differentiable in all parameters.
    """
    with ExitStack() as stack:
        for context in twice_differentiable(module):
            stack.enter_context(context())
        return _STRATEGIES[strategy](module, X, V, names)


def _mapped(
    module: nn.Module, X: Samples, V: Tensor, names: Sequence[str], expanded: bool = False
) -> dict[str, Tensor]:
    parameters: dict[str, Tensor] = dict(module.named_parameters())
    if expanded:
        n = n_samples(X)
        parameters = {name: p.expand(n, *p.shape) for name, p in parameters.items()}

    def gradients(parameters: dict[str, Tensor], x: Samples, v: Tensor) -> dict[str, Tensor]:
        def f(chosen):
            def call(*args, **kwargs):
                return call_with(module, {**parameters, **chosen}, args, kwargs)

            return output_matrix(apply(call, batch_of_one(x)))[0]

        pull = vjp(f, {name: parameters[name] for name in names})[1]
        return vmap(lambda u: pull(u)[0])(v)

    in_dims = (0 if expanded else None, 0, 1)
    with DecomposedNorms():
        return vmap(gradients, in_dims=in_dims, randomness="different")(parameters, X, V)


def _looped(module: nn.Module, X: Samples, V: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    named = dict(module.named_parameters())
    parameters = [named[name] for name in names]
    options = {"create_graph": torch.is_grad_enabled(), "materialize_grads": True}
    rows = []
    for i in range(n_samples(X)):
        with torch.enable_grad():
            f = output_matrix(apply(module, take(X, slice(i, i + 1))))[0]
        rows += [
            torch.autograd.grad(f, parameters, v, retain_graph=True, **options) for v in V[:, i]
        ]
    shape = n_samples(X), len(V)
    return {name: torch.stack(g).unflatten(0, shape) for name, g in zip(names, zip(*rows))}


_STRATEGIES: dict[str, Callable[..., dict[str, Tensor]]] = {
    "shared": _mapped,
    "expanded": partial(_mapped, expanded=True),
    "loop": _looped,
}


def choose_strategy(module: nn.Module, X: Samples, names: Sequence[str]) -> str:
    """Find the first strategy that agrees with the loop on two samples, gradients included."""
    x = first(X, 2)
    with evaluating(module), torch.enable_grad():
        V = directions(output_matrix(apply(module, x)).detach(), "all")
        try:
            want = _with_gradients(module, x, V, names, "loop")
        except (RuntimeError, NotImplementedError):  # has first derivatives only
            return "loop"
        for strategy in ("shared", "expanded"):
            try:
                got = without_slow_vmap(partial(_with_gradients, module, x, V, names, strategy))
            except (RuntimeError, NotImplementedError):
                continue
            if all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(got, want)):
                return strategy
    return "loop"


def _with_gradients(
    module: nn.Module, X: Samples, V: Tensor, names: Sequence[str], strategy: str
) -> list[Tensor]:
    """Gradients, and the gradients of the sum of their squares."""
    G = list(per_sample_gradients(module, X, V, names, strategy).values())
    parameters = [p for p in module.parameters() if p.requires_grad]
    # The parameters' own sum: the kernel of a linear model has no gradient.
    sums = [g.square().sum() for g in G] + [0 * p.sum() for p in parameters]
    return G + list(torch.autograd.grad(torch.stack(sums).sum(), parameters))


def jacobian(module: nn.Module, X: Samples, *, chunk_size: int | None = None) -> Tensor:
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
        If the module has no trainable parameters, its samples interact, or there are none.

    Examples
    --------
    >>> import torch
    >>> from sklearn_mgs.gram import jacobian
    >>> jacobian(torch.nn.Linear(3, 2), torch.ones(5, 3)).shape
    torch.Size([5, 2, 8])
    """
    names = [name for layer in parameter_layers(module).values() for name in layer]
    check_samples(X)
    check_samples_apart(module)
    check_chunk_size(chunk_size)
    with torch.no_grad():
        V = directions(output_matrix(apply(module, X)), "all")
    strategy = choose_strategy(module, X, names)
    step = chunk_size or n_samples(X)
    chunks = []
    for i in range(0, n_samples(X), step):
        part = slice(i, i + step)
        J = per_sample_gradients(module, take(X, part), V[:, part], names, strategy)
        chunks.append(torch.cat([J[name].unsqueeze(-1).flatten(2) for name in names], 2))
    return torch.cat(chunks)
