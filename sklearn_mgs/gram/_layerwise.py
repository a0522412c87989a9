"""Per-sample gradients of all layers by one recorded forward and one backward recursion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm

from sklearn_mgs.gram._jacobian import per_sample_gradients
from sklearn_mgs.gram._layers import check_samples_apart
from sklearn_mgs.gram._outputs import output_matrix
from sklearn_mgs.gram._plan import Plan
from sklearn_mgs.gram._rules import find_rule
from sklearn_mgs.gram._shares import Factors

__all__ = ["LayerwiseKernel", "Tape"]


class Tape:
    """Context in which a module's forward pass leaves its layers' inputs and outputs.

    Attributes
    ----------
    calls : list of (torch.nn.Module, Tensor, GradientEdge)
        For each call of a layer the layer, its input, and the place of its output in the graph:
        the output itself may be overwritten, as an in-place activation does.
    X : Tensor
        The module's own input, if it is recorded.
    """

    def __init__(self, layers: Iterable[nn.Module], module: nn.Module | None = None):
        self._layers = layers
        self._module = module
        self.calls: list = []
        self.X: Tensor

    def __enter__(self) -> Tape:
        hook = self._record
        # First among the hooks, before any that replaces the output.
        self._handles = [x.register_forward_hook(hook, prepend=True) for x in self._layers]
        if self._module is not None:
            self._handles.append(self._module.register_forward_pre_hook(self._record_X))
        return self

    def __exit__(self, *exc) -> None:
        for handle in self._handles:
            handle.remove()

    def _record(self, layer, args, output) -> None:
        self.calls.append((layer, args[0], get_gradient_edge(output)))

    def _record_X(self, module, args) -> None:
        self.X = args[0]


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
    """

    def __init__(self, module: nn.Module, plan: Plan, layers: Iterable[str]):
        self.module = module
        self._ruled: dict[nn.Module, tuple] = {}
        self._fallback: dict[str, list[str]] = {}
        self._batch_norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        for name in layers:
            if name in plan.ruled:
                layer = module.get_submodule(name)
                local = plan.ruled[name]
                self._ruled[layer] = name, find_rule(layer), "weight" in local, "bias" in local
        for parameter in plan.fallback:
            name = parameter.rpartition(".")[0]
            if name in layers:
                self._fallback.setdefault(name, []).append(parameter)

    def record(self) -> Tape:
        """Context for the forward pass; a ValueError if samples interact in it."""
        if any(layer.training for layer in self._batch_norms):
            check_samples_apart(self.module)
        return Tape(self._ruled, self.module if self._fallback else None)

    def factors(
        self, tape: Tape, output, V: Tensor, separate: bool = False
    ) -> dict[str, list[Factors]]:
        """Per-sample gradients of V·output by layer.

        Parameters
        ----------
        tape : Tape
            From the forward pass.
        output : Tensor
            What the module returned.
        V : Tensor of shape (n_directions, n_samples, n_outputs)
            Directions.
        separate : bool, default=False
            Whether each direction is a row of its own, next to its sample's others, instead of
            a further stretch of the sample's gradient.

        Returns
        -------
        factors : dict of str to list of Factors
            The gradients of a layer are those of its factors, one after another.
        """
        result: dict[str, list[Factors]] = {}
        f = output_matrix(output)
        for (layer, a, _), D in zip(tape.calls, self._output_gradients(f, tape, V)):
            if D is None:
                continue
            name, rule, weight, bias = self._ruled[layer]
            A, D = rule(layer, a, D)
            factors = Factors.of(A if weight else None, D, bias, separate)
            result.setdefault(name, []).append(factors)
        for name, parameters in self._fallback.items():
            G = per_sample_gradients(self.module, tape.X, V, parameters)
            result.setdefault(name, []).extend(
                Factors.of(None, g.transpose(0, 1).flatten(2), True, separate) for g in G.values()
            )
        return result

    @staticmethod
    def _output_gradients(f: Tensor, tape: Tape, V: Tensor) -> Sequence[Tensor | None]:
        if not tape.calls:
            return []
        edges = [edge for _, _, edge in tape.calls]
        differentiable = torch.is_grad_enabled()
        options = {"create_graph": differentiable, "retain_graph": True, "allow_unused": True}
        if len(V) > 1:
            return torch.autograd.grad(f, edges, V, is_grads_batched=True, **options)
        gradients = torch.autograd.grad(f, edges, V[0], **options)
        return [None if D is None else D.unsqueeze(0) for D in gradients]
