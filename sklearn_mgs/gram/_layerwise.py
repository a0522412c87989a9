"""Per-sample gradients of all layers by one recorded forward and one backward recursion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from sklearn_mgs.gram._backends import twice_differentiable
from sklearn_mgs.gram._jacobian import per_sample_gradients
from sklearn_mgs.gram._layers import check_samples_apart
from sklearn_mgs.gram._plan import Plan, output_gradients
from sklearn_mgs.gram._rules import find_rule
from sklearn_mgs.gram._samples import Samples, samples_of_call
from sklearn_mgs.gram._shares import Factors, promoted

__all__ = ["LayerwiseKernel", "Tape"]


class Tape:
    """Context in which a module's forward pass leaves its layers' inputs and outputs.

    Attributes
    ----------
    calls : list of (torch.nn.Module, Tensor, GradientEdge)
        For each call of a layer the layer, its input, and the place of its output in the graph:
        the output itself may be overwritten, as an in-place activation does.
    samples : Tensor, or tuple or dict of Tensor
        What the module was called with, where that is needed.
    products : list of (torch.nn.Module, Tensor)
        With relative gradients, of each call that has any its layer and the rows ``Wᵀ d``: what
        the weight is multiplied with outside of the layers.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        contexts: Iterable[Callable[[], AbstractContextManager]] = (),
        module: nn.Module | None = None,
    ):
        self._layers = layers
        self._contexts = contexts
        self._module = module
        self.calls: list = []
        self.products: list[tuple[nn.Module, Tensor]] = []
        self.samples: Samples

    def __enter__(self) -> Tape:
        self._stack = ExitStack()
        for context in self._contexts:
            self._stack.enter_context(context())
        # First among the hooks, before any that replaces the output.
        record = self._record
        self._handles = [x.register_forward_hook(record, prepend=True) for x in self._layers]
        if self._module is not None:
            handle = self._module.register_forward_pre_hook(self._record_samples, with_kwargs=True)
            self._handles.append(handle)
        return self

    def __exit__(self, *exc) -> None:
        for handle in self._handles:
            handle.remove()
        self._stack.close()

    def _record(self, layer, args, output) -> None:
        if output.requires_grad:  # else no gradient comes this way
            self.calls.append((layer, args[0], get_gradient_edge(output)))

    def _record_samples(self, module, args, kwargs) -> None:
        self.samples = samples_of_call(args, kwargs)


class LayerwiseKernel:
    """The kernel's factors, layer by layer, from a recorded forward pass.

    Made once for a module and used at every step. For directions V the output gradients D of
    all layers follow from one backward pass, in which no gradient of a weight is formed; they
    are differentiable, as are the recorded inputs, so an ordinary backward pass goes through
    everything made of them. The same forward pass serves the loss.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    plan : Plan
        From `make_plan`.
    layers : iterable of str
        Names of the layers that take part.
    relative : bool, default=False
        Whether gradients are those with respect to an affine map, now the identity, in front of
        each layer: relative changes ``W (I + E)`` and ``b + W e`` of its parameters. Only linear
        layers, and convolutions without groups, have them. (What unit E has is left to weights.)

    Raises
    ------
    ValueError
        If no layer has relative gradients.
    """

    def __init__(
        self, module: nn.Module, plan: Plan, layers: Iterable[str], relative: bool = False
    ):
        self.module = module
        self._plan = plan
        self._relative = relative
        self._contexts = twice_differentiable(module)
        self._ruled: dict[nn.Module, tuple] = {}
        self._batch_norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        for name in layers:
            if name in plan.ruled:
                layer = module.get_submodule(name)
                local = plan.ruled[name]
                if not relative or (_is_matrix(layer) and "weight" in local):
                    self._ruled[layer] = name, find_rule(layer), "weight" in local, "bias" in local
        self._fallback = [name for name in plan.fallback if name.rpartition(".")[0] in layers]
        if relative:
            self._fallback = []
            if not self._ruled:
                raise ValueError(
                    f"None of the layers {list(layers)} has relative gradients: only linear "
                    "layers and convolutions without groups do, with a trainable weight. Use "
                    "relative=False."
                )

    def record(self) -> Tape:
        """Context for the forward pass; a ValueError if samples interact in it."""
        if any(layer.training for layer in self._batch_norms):
            check_samples_apart(self.module)
        return Tape(self._ruled, self._contexts, self.module if self._fallback else None)

    def factors(
        self, tape: Tape, f: Tensor, V: Tensor, separate: bool = False
    ) -> dict[str, list[Factors]]:
        """Per-sample gradients of V·f by layer.

        Parameters
        ----------
        tape : Tape
            From the forward pass.
        f : Tensor of shape (n_samples, n_outputs)
            What the module returned, by `output_matrix`.
        V : Tensor of shape (n_directions, n_samples, n_outputs)
            Directions.
        separate : bool, default=False
            Whether each direction is a row of its own, next to its sample's others, instead of
            a further stretch of the sample's gradient.

        Returns
        -------
        factors : dict of str to list of Factors
            The gradients of a layer are those of its factors, one after another.

        Raises
        ------
        ValueError
            If a layer that has a rule gets other rows than one for each sample.
        """
        calls: dict[nn.Module, list] = {}
        at = [edge for _, _, edge in tape.calls]
        gradients = output_gradients(f, at, V, self._plan.batched) if at else []
        for (layer, a, _), D in zip(tape.calls, gradients):
            if D is not None:
                name, rule, weight, bias = self._ruled[layer]
                if len(a) != len(f):
                    raise ValueError(
                        f"Layer {name!r} gets {len(a)} rows for {len(f)} samples, though as many "
                        "as samples when the first two were looked at; let the module pass all "
                        "samples through it, or ask gram_matrix for implementation='jacobian'."
                    )
                a = a if torch.is_grad_enabled() else a.detach()
                pair = rule(layer, promoted(a), promoted(D), weight, bias)
                if self._relative:
                    pair = pair[0], pair[1] @ promoted(layer.weight).flatten(1)
                    tape.products.append((layer, pair[1]))
                calls.setdefault(layer, []).append(pair)
        result: dict[str, list[Factors]] = {}
        for layer, pairs in calls.items():
            name, _, _, bias = self._ruled[layer]
            A, D = _joined(pairs)
            n_inputs = getattr(layer, "num_embeddings", 0)
            result[name] = [Factors.of(A, D, bias, separate, n_inputs)]
        if self._fallback:
            names, strategy = self._fallback, self._plan.strategy
            G = per_sample_gradients(self.module, tape.samples, V, names, strategy)
            for name, g in G.items():
                layer_name = name.rpartition(".")[0]
                result.setdefault(layer_name, []).append(Factors.of_gradients(g, separate))
        return result


def _is_matrix(layer: nn.Module) -> bool:
    """Whether the layer multiplies its input, or patches of it, by its weight."""
    convolution = isinstance(layer, _ConvNd) and not layer.transposed and layer.groups == 1
    return isinstance(layer, nn.Linear) or convolution


def _joined(pairs: list[tuple[Tensor | None, Tensor]]) -> tuple[Tensor | None, Tensor]:
    """Sum of the gradients of several calls of one layer: further positions."""
    if len(pairs) == 1:
        return pairs[0]
    inputs = [A if D.dim() == 4 else A[:, None] for A, D in pairs if A is not None]
    if not inputs:
        return None, torch.stack([D for _, D in pairs]).sum(0)
    gradients = [D if D.dim() == 4 else D[:, :, None] for _, D in pairs]
    return torch.cat(inputs, 1), torch.cat(gradients, 2)
