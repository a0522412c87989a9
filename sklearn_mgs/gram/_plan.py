"""Which layers have a rule, found by running one and two samples through the module."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.conv import _ConvNd

from sklearn_mgs.gram._backends import twice_differentiable
from sklearn_mgs.gram._jacobian import choose_strategy
from sklearn_mgs.gram._layers import check_samples_apart, evaluating, parameter_layers
from sklearn_mgs.gram._outputs import directions, output_matrix
from sklearn_mgs.gram._rules import find_rule
from sklearn_mgs.gram._samples import Samples, apply, first, take
from sklearn_mgs.gram._shares import Factors, promoted
from sklearn_mgs.gram._warned import without_slow_vmap

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

    A rule holds where a layer sees one row for each sample, in the order of the samples, and its
    parameters act nowhere else; so one and then two samples are run through the module, in
    evaluation mode, to look, and a gradient by each rule is compared with autograd's.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    X : Tensor of shape (n_samples, ...), or a tuple or dict of such
        The samples, of which the first two are used.
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
    runs = [_Run(module, list(layers), first(X, n)) for n in (1, 2)]
    _check_alone(module, X, *(run.output for run in runs))
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
    for name in () if _is_chain(module) else runs[1].refuted(plan.ruled):
        for local in plan.ruled.pop(name):
            plan.fallback[f"{name}.{local}".lstrip(".")] = _REFUTED
    if several_directions:
        plan.batched = runs[1].takes_batched_directions(plan.ruled)
    if plan.fallback:
        plan.strategy = choose_strategy(module, X, list(plan.fallback))
    return plan


@torch.no_grad()
def _check_alone(module: nn.Module, X: Samples, one: Tensor, two: Tensor) -> None:
    """Raise a ValueError if the output at one of two samples changes with the other beside it.

    Both are looked at: a recurrent layer that takes samples for steps changes only what follows.
    """

    def differ(a: Tensor, b: Tensor) -> bool:
        a, b = promoted(a), promoted(b)
        allowed = max(0.02, 8 * torch.finfo(one.dtype).eps) * a.norm()  # TF32, autocasting
        return a.shape == b.shape and bool((a - b).norm() > allowed)

    def alone(i: int) -> Tensor:
        with evaluating(module):
            return output_matrix(apply(module, take(first(X, 2), slice(i, i + 1))))[0]

    if len(one) != 1 or len(two) != 2:
        return
    for i, once in enumerate((one[0], alone(1))):
        if differ(once, two[i]) and not differ(once, alone(i)):  # else the module is random
            raise ValueError(
                f"The output of {type(module).__name__} at one sample changes with another beside "
                "it, so samples interact and have no gradients of their own. Samples must be "
                "apart in the first dimension: look for layers that are told another "
                "(batch_first=False, a softmax with dim=0) and for statistics of the batch."
            )


_REFUTED = "its calls alone don't make the gradient: its parameters or samples act elsewhere too"


def _is_chain(module: nn.Module) -> bool:
    """Whether torch's own layers follow one another: no other code sees parameters or samples."""
    own = all(
        type(m).__module__.startswith("torch.nn.modules.") for m in module.modules() if m != module
    )
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    return type(module).forward is nn.Sequential.forward and own and not hooked


class _Call(NamedTuple):
    """A call of a layer, and the place of its output in the graph: it may be overwritten."""

    input: Tensor
    output: Tensor
    edge: GradientEdge


class _Run:
    """A forward pass: the input and output of each call of the named layers."""

    def __init__(self, module: nn.Module, names: list[str], X: Samples):
        self.module = module
        self.calls: dict[str, list[_Call | None]] = {name: [] for name in names}
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
            if not usual:
                self.calls[name].append(None)
            elif output.requires_grad:  # else no gradient comes this way
                self.calls[name].append(_Call(args[0], output, get_gradient_edge(output)))

        return record

    @torch.no_grad()
    def refuted(self, ruled: dict[str, list[str]]) -> list[str]:
        """Layers whose rule gives another gradient of the first sample than autograd does."""
        f, calls = self.output, {name: [c for c in self.calls[name] if c] for name in ruled}
        at = [call.edge for name in ruled for call in calls[name]]
        if not at:
            return []
        v = torch.linspace(1, 2, f.shape[1], dtype=f.dtype, device=f.device)
        gradients = output_gradients(f, at, v.expand(1, *f.shape), False)
        with torch.enable_grad():
            value = (f[0] * v).sum()
        layers = {name: self.module.get_submodule(name) for name in ruled}
        tensors = [getattr(layers[name], local) for name in ruled for local in ruled[name]]
        want = iter(torch.autograd.grad(value, tensors, retain_graph=True, materialize_grads=True))
        D, errors, sizes = iter(gradients), [], []
        for name, parameters in ruled.items():
            G = [promoted(next(want).flatten()) for _ in parameters]
            sizes.append(_norm(G))
            for call in calls[name]:
                row = _row(layers[name], parameters, call, next(D))
                if row is not None:
                    G = [g - part for g, part in zip(G, row.split([len(g) for g in G]))]
            errors.append(_norm(G))
        eps = max(torch.finfo(x.dtype).eps for x in (f, *gradients) if x is not None)
        size = torch.stack(sizes)
        allowed = max(1e-3, 8 * eps) * size + 10 * eps * size.norm()
        right = (torch.stack(errors) <= allowed).tolist()
        return [name for name, holds in zip(ruled, right) if not holds]

    def takes_batched_directions(self, names) -> bool:
        """Whether a pass for all directions at once gives what one for each does, and is faster.

        Their gradients are compared too: under vmap a layer normalisation's are wrong.
        """
        if any(isinstance(layer, _ConvNd) for layer in self.module.modules()):
            return False  # vmap loops over their derivatives, and copies
        outputs = [call.output for name in names for call in self.calls[name] if call]
        V = directions(self.output.detach(), "all")[:2]
        if len(V) == 1 or not outputs:
            return True
        want = self._with_gradients(outputs, V, batched=False)
        try:
            got = without_slow_vmap(lambda: self._with_gradients(outputs, V, batched=True))
        except (RuntimeError, NotImplementedError):
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
    # Samples first in memory, where they are wanted next.
    return [None if D[0] is None else torch.stack(D, 1).transpose(0, 1) for D in zip(*rows)]


def _row(layer: nn.Module, parameters: list[str], call: _Call, D: Tensor | None) -> Tensor | None:
    """Gradient of the first sample by one call's rule."""
    if D is None:
        return None
    rule, bias = find_rule(layer), "bias" in parameters
    assert rule is not None
    a, D = promoted(call.input[:1]), promoted(D[:, :1])
    A, D = rule(layer, a, D, "weight" in parameters, bias)
    factors = Factors.of(A, D, bias, False, getattr(layer, "num_embeddings", 0))
    return factors.combine(D.new_ones(1, 1))[0]


def _norm(parts: list[Tensor]) -> Tensor:
    return torch.stack([part.norm() for part in parts]).norm()


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
        for t1, t2 in zip(*(call[:2] for call in tensors)):
            if (*t1.shape[:1], *t2.shape[:1]) != (1, 2) or t1.shape[1:] != t2.shape[1:]:
                shapes = f"{tuple(t1.shape)} for one, {tuple(t2.shape)} for two"
                return f"its rows are not the samples: {shapes}"
    return ""
