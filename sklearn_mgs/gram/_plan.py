"""Which layers have a rule, found by running one and two samples through the module."""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_mgs.gram._backends import twice_differentiable
from sklearn_mgs.gram._jacobian import choose_strategy
from sklearn_mgs.gram._layers import check_samples_apart, evaluating, parameter_layers
from sklearn_mgs.gram._outputs import directions, output_matrix
from sklearn_mgs.gram._rules import find_rule
from sklearn_mgs.gram._samples import Samples, apply, repeated_first

__all__ = ["Plan", "make_plan", "output_gradients"]


@dataclass
class Plan:
    """How each trainable parameter's gradients are found; plain data.

    Attributes
    ----------
    ruled : dict of str to list of str
        Layers with a rule, and the local names of the parameters that it covers.
    fallback : dict of str to str
        Full names of the other parameters, and why no rule covers them.
    strategy : {"shared", "expanded", "loop"}
        How the gradients of those are found, see `per_sample_gradients`.
    batched : bool
        Whether one backward pass takes several directions at once.
    """

    ruled: dict[str, list[str]] = field(default_factory=dict)
    fallback: dict[str, str] = field(default_factory=dict)
    strategy: str = "shared"
    batched: bool = True


def make_plan(module: nn.Module, X: Samples, several_directions: bool = True) -> Plan:
    """Sort the trainable parameters by whether a rule covers them.

    A rule holds where a layer sees one row for each sample, in the order of the samples; so one
    and then two samples are run through the module, in evaluation mode, to look.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    X : Tensor of shape (n_samples, ...), or a tuple or dict of such
        The samples, of which the first is used.
    several_directions : bool, default=True
        Whether passes for several directions will be asked for.

    Returns
    -------
    plan : Plan

    Raises
    ------
    ValueError
        If the module has no trainable parameters, or its samples interact.
    """
    layers = parameter_layers(module)
    check_samples_apart(module)
    runs = [_Run(module, list(layers), repeated_first(X, n)) for n in (1, 2)]
    owners = Counter(
        id(p) for m in module.modules() for p in m._parameters.values() if p is not None
    )
    named = dict(module.named_parameters())
    plan = Plan()
    for name, parameters in layers.items():
        why = _why_no_rule(module.get_submodule(name), *(run.calls[name] for run in runs))
        for parameter in parameters:
            shared = owners[id(named[parameter])] > 1
            if why or shared:
                plan.fallback[parameter] = why or "the parameter belongs to several layers"
            else:
                plan.ruled.setdefault(name, []).append(parameter.rpartition(".")[2])
    if several_directions:
        plan.batched = runs[1].takes_batched_directions(plan.ruled)
    if plan.fallback:
        plan.strategy = choose_strategy(module, X, list(plan.fallback))
    return plan


class _Run:
    """A forward pass: the input and output of each call of the named layers."""

    def __init__(self, module: nn.Module, names: list[str], X: Samples):
        self.calls: dict[str, list[tuple[Tensor, Tensor] | None]] = {name: [] for name in names}
        handles = [
            module.get_submodule(name).register_forward_hook(self._hook(name), with_kwargs=True)
            for name in names
        ]
        try:
            # With gradients enabled, or attention takes a short cut past its own layers.
            with evaluating(module), torch.enable_grad():
                self.output = output_matrix(_guarded(module, X))
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str):
        def record(layer, args, kwargs, output):
            usual = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
            usual = usual and isinstance(output, Tensor)
            self.calls[name].append((args[0], output) if usual else None)

        return record

    def takes_batched_directions(self, names) -> bool:
        """Whether a pass for all directions at once gives what one for each does.

        Their gradients are compared too: under vmap a layer normalisation's are wrong.
        """
        outputs = [call[1] for name in names for call in self.calls[name] if call]
        V = directions(self.output.detach(), "all")[:2]
        if len(V) == 1 or not outputs:
            return True
        want = self._with_gradients(outputs, V, batched=False)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # vmap warns where it is no faster
                got = self._with_gradients(outputs, V, batched=True)
        except (RuntimeError, UserWarning, NotImplementedError):
            return False
        return all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(got, want))

    @torch.enable_grad()
    def _with_gradients(self, outputs, V: Tensor, batched: bool) -> list[Tensor]:
        D = [d for d in output_gradients(self.output, outputs, V, batched) if d is not None]
        total = sum(d.square().sum() for d in D) + 0 * self.output.sum()
        return D + list(
            torch.autograd.grad(total, outputs, retain_graph=True, materialize_grads=True)
        )


def output_gradients(f: Tensor, at, V: Tensor, batched: bool) -> list[Tensor | None]:
    """Gradients of v·f at each of `at` for the directions v of V (k, n, c), with a leading k."""
    options: dict[str, Any] = {
        "create_graph": torch.is_grad_enabled(),
        "retain_graph": True,
        "allow_unused": True,
    }
    if len(V) == 1:
        # Not with V as grad_outputs, which are checked by code that imports sympy: a second.
        with torch.enable_grad():
            total = (f * V[0]).sum()
        D = torch.autograd.grad(total, at, **options)
        return [d if d is None else d.unsqueeze(0) for d in D]
    if batched:
        return list(torch.autograd.grad(f, at, V, is_grads_batched=True, **options))
    rows = [torch.autograd.grad(f, at, v, **options) for v in V]
    return [None if D[0] is None else torch.stack(D) for D in zip(*rows)]


def _guarded(module: nn.Module, X: Samples):
    """Forward pass that can be differentiated twice."""
    with ExitStack() as stack:
        for context in twice_differentiable(module):
            stack.enter_context(context())
        return apply(module, X)


def _why_no_rule(layer: nn.Module, one: list, two: list) -> str:
    """Reason that no rule covers the layer, or nothing."""
    if find_rule(layer) is None:
        return f"no rule for {type(layer).__name__}"
    if not set(layer._parameters) <= {"weight", "bias"}:
        return f"{type(layer).__name__} is reparametrised"
    if not one:
        return "the layer is never called: its owner uses the parameters itself"
    if len(one) != len(two) or None in one:
        return "the layer's calls are irregular"
    for tensors in zip(one, two):
        for t1, t2 in zip(*tensors):
            if (*t1.shape[:1], *t2.shape[:1]) != (1, 2) or t1.shape[1:] != t2.shape[1:]:
                shapes = f"{tuple(t1.shape)} for one, {tuple(t2.shape)} for two"
                return f"its rows are not the samples: {shapes}"
    return ""
