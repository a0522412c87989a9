"""Which layers have a rule, found by running two samples through the module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sklearn_mgs.gram._layers import check_samples_apart, parameter_layers
from sklearn_mgs.gram._rules import find_rule

__all__ = ["Plan", "evaluating", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """How each trainable parameter's gradients are found; plain data.

    Attributes
    ----------
    ruled : dict of str to list of str
        Layers with a rule, and the local names of the parameters that it covers.
    fallback : dict of str to str
        Full names of the other parameters, and why no rule covers them.
    """

    ruled: dict[str, list[str]] = field(default_factory=dict)
    fallback: dict[str, str] = field(default_factory=dict)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put the module in evaluation mode; afterwards each submodule is as it was."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


def make_plan(module: nn.Module, X: Tensor) -> Plan:
    """Sort the trainable parameters by whether a rule covers them.

    A rule holds where the layer sees one row for each sample, in the order of the samples; so
    one and then two samples are run through the module, in evaluation mode, to look.
    """
    layers = parameter_layers(module)
    check_samples_apart(module)
    owners = _owners(module)
    calls = [_shapes(module, list(layers), X[:1].expand(n, *X.shape[1:])) for n in (1, 2)]
    plan = Plan()
    for name, parameters in layers.items():
        layer = module.get_submodule(name)
        why = _why_no_rule(layer, calls[0][name], calls[1][name])
        for parameter in parameters:
            local = parameter.rpartition(".")[2]
            shared = "" if owners[parameter] == 1 else "the parameter is shared by two layers"
            if why or shared:
                plan.fallback[parameter] = why or shared
            else:
                plan.ruled.setdefault(name, []).append(local)
    return plan


def _owners(module: nn.Module) -> dict[str, int]:
    """Count the modules that own each parameter."""
    first: dict[int, str] = {}
    count: dict[str, int] = {}
    for prefix, owner in module.named_modules():
        for local, parameter in owner.named_parameters(prefix, recurse=False):
            name = first.setdefault(id(parameter), local)
            count[name] = count.get(name, 0) + 1
    return count


def _shapes(module: nn.Module, names: list[str], X: Tensor) -> dict[str, list]:
    """Shapes of the inputs and outputs of each call of the named layers."""
    calls: dict[str, list] = {name: [] for name in names}

    def hook(name):
        def record(layer, args, kwargs, output):
            inputs = [*args, *kwargs.values()]
            ok = len(args) == 1 and all(isinstance(t, Tensor) for t in (*inputs, output))
            calls[name].append((args[0].shape, output.shape) if ok else None)

        return record

    handles = [
        module.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True)
        for name in names
    ]
    try:
        # With gradients enabled, or attention takes a short cut past its own layers.
        with evaluating(module), torch.enable_grad():
            module(X)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _why_no_rule(layer: nn.Module, one: list, two: list) -> str:
    """Reason that no rule covers the layer, or nothing."""
    if find_rule(layer) is None:
        return f"no rule for {type(layer).__name__}"
    if not set(layer._parameters) <= {"weight", "bias"}:
        return f"{type(layer).__name__} is reparametrised"
    if not one:
        return "the layer is never called: its owner uses the parameters directly"
    if len(one) != 1 or len(two) != 1 or None in one:
        return "the layer's calls are irregular"
    if len(one[0][0]) != 2:
        return "its input has positions"
    for shapes1, shapes2 in zip(one, two):
        for s1, s2 in zip(shapes1, shapes2):
            if (*s1[:1], *s2[:1]) != (1, 2) or s1[1:] != s2[1:]:
                return f"its rows are not the samples: {tuple(s1)} for one, {tuple(s2)} for two"
    return ""
