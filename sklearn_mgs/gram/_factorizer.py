"""From a module and samples to the factors of their gradients, by either implementation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from sklearn_mgs.gram._chunks import check_chunk_size, parts, with_halved_chunks
from sklearn_mgs.gram._jacobian import choose_strategy, per_sample_gradients
from sklearn_mgs.gram._layers import (
    check_samples_apart,
    evaluating,
    n_inputs,
    parameter_layers,
    resolve_layers,
)
from sklearn_mgs.gram._layerwise import LayerwiseKernel
from sklearn_mgs.gram._outputs import OUTPUTS, check_targets, directions, output_matrix
from sklearn_mgs.gram._plan import Plan, make_plan
from sklearn_mgs.gram._reduce import balanced, no_autocast, spread
from sklearn_mgs.gram._samples import Samples, apply, check_samples, first, n_samples, take
from sklearn_mgs.gram._shares import Factors

__all__ = ["IMPLEMENTATIONS", "Factorizer", "explain", "resolve_implementation"]

IMPLEMENTATIONS = ("auto", "jacobian", "layerwise", "matrix_free")


def resolve_implementation(
    module: nn.Module, X: Samples, implementation: str = "auto"
) -> tuple[str, str]:
    """Say which implementation computes the kernel, and why.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    X : Tensor of shape (n_samples, ...)
        The samples; the first one is looked at.
    implementation : {"auto", "jacobian", "layerwise", "matrix_free"}, default="auto"
        What was asked for.

    Returns
    -------
    implementation : {"jacobian", "layerwise", "matrix_free"}
        What is used.
    reason : str
        Why.

    Raises
    ------
    ValueError
        If `implementation` is unknown.

    Examples
    --------
    >>> import torch
    >>> from sklearn_mgs.gram import resolve_implementation
    >>> resolve_implementation(torch.nn.Linear(3, 2), torch.ones(5, 3))
    ('layerwise', 'rules cover 1 of 1 layers')
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"Unknown implementation {implementation!r}; expected one of {list(IMPLEMENTATIONS)}."
        )
    if implementation != "auto":
        return implementation, "as asked"
    return _resolved(module, make_plan(module, X))


def _resolved(module: nn.Module, plan: Plan) -> tuple[str, str]:
    n_layers = len(parameter_layers(module))
    reason = f"rules cover {len(plan.ruled)} of {n_layers} layers"
    return ("layerwise" if plan.ruled else "jacobian"), reason


def explain(
    module: nn.Module, X: Samples, *, outputs: str = "all", targets: Tensor | None = None
) -> dict[str, list[str]]:
    """Say for each layer how its share of the kernel is computed, and why.

    Parameters
    ----------
    module, X, outputs, targets
        As for `sklearn_mgs.gram.gram_matrix`. The answer depends on the number of samples.

    Returns
    -------
    reasons : dict of str to list of str
        By the layers' names: the form that `gram_matrix` ("gram") and `gram_trace` ("squares")
        take, with the operations of the two ways to compute it where either may be cheaper; or
        why there is no closed form.

    Examples
    --------
    >>> import torch
    >>> from sklearn_mgs.gram import explain
    >>> explain(torch.nn.Conv1d(2, 3, 5), torch.ones(4, 2, 6), outputs="sum")[""][0]
    'gram: inner products: 8.3e+02 against 9.6e+02 operations'
    """
    factorizer = Factorizer(
        module, X, outputs=outputs, targets=targets, implementation="layerwise"
    )
    with torch.no_grad():
        factors = factorizer()
    reasons: dict[str, list[str]] = {name: [] for name in factorizer.weights}
    for name in factorizer.plan.ruled:
        forms = factors[name][0].forms() if name in factors else {"gram": "no gradient"}
        reasons[name] += [f"{what}: {form}" for what, form in forms.items()]
    for parameter, why in factorizer.plan.fallback.items():
        layer, _, local = parameter.rpartition(".")
        reasons[layer].append(f"{local}: torch.func ({factorizer.plan.strategy}): {why}")
    return reasons


class Factorizer:
    """Factors of the per-sample gradients of any part of the samples.

    Parameters are those of `sklearn_mgs.gram.gram_matrix`; with `sample_weight`, layers are
    balanced by weighted means. Relative gradients (see `LayerwiseKernel`) want "layerwise".

    Attributes
    ----------
    weights : dict of str to float
        The weight of each layer.
    chunk_size : int
        Samples at once that were asked for, or whose factors fit into a quarter of a gibibyte.
    """

    def __init__(
        self,
        module: nn.Module,
        X: Samples,
        *,
        outputs: str = "all",
        targets: Tensor | None = None,
        layers: str | Mapping[str, float] = "all",
        relative: bool = False,
        implementation: str = "auto",
        generator: torch.Generator | None = None,
        sample_weight: Tensor | None = None,
        chunk_size: int | None = None,
    ):
        self.module, self.X, self.outputs = module, X, outputs
        check_samples(X)
        check_chunk_size(chunk_size)
        self.weights = resolve_layers(module, layers)
        check_samples_apart(module)
        with evaluating(module), torch.no_grad():
            self.example = output_matrix(apply(module, first(X, 1)))
        self.targets = self._checked(targets)
        self._direction = None
        if outputs == "random":
            self._direction = directions(self.example, "random", generator=generator)
        self._kernel = self._make_kernel(implementation, relative)
        if relative:
            for name in self.weights:
                self.weights[name] *= n_inputs(module.get_submodule(name))
        self.chunk_size = chunk_size or self._fitting_chunk()
        if layers == "balanced":
            balance = partial(self._balanced, sample_weight)
            self.weights, self.chunk_size = with_halved_chunks(balance, self.chunk_size)

    def _make_kernel(self, implementation: str, relative: bool) -> LayerwiseKernel | None:
        """Layerwise kernel, or None for whole gradients."""
        self.plan, owned = Plan(), parameter_layers(self.module)
        module = self.module
        if implementation not in IMPLEMENTATIONS:
            resolve_implementation(module, self.X, implementation)
        if implementation != "jacobian":
            self.plan = make_plan(module, self.X, self.outputs in ("all", "full"))
            if implementation != "auto" or _resolved(module, self.plan)[0] == "layerwise":
                return LayerwiseKernel(module, self.plan, self.weights, relative)
        self._names = [parameter for layer in self.weights for parameter in owned[layer]]
        self._strategy = choose_strategy(module, self.X, self._names)
        return None

    def _checked(self, targets: Tensor | None) -> Tensor | None:
        if self.outputs not in OUTPUTS:
            raise ValueError(f"Unknown outputs {self.outputs!r}; expected one of {list(OUTPUTS)}.")
        if self.outputs != "target":
            return targets
        targets = check_targets(targets, n_samples(self.X), 'outputs="target"')
        n_classes = max(2, self.example.shape[1])
        if targets.min() < 0 or targets.max() >= n_classes:
            raise ValueError(
                f"targets must lie in 0..{n_classes - 1} for {self.example.shape[1]} output(s); "
                f"got {int(targets.min())}..{int(targets.max())}."
            )
        return targets

    def _directions(self, f: Tensor, part: slice) -> Tensor:
        if self._direction is not None:
            return self._direction.expand(1, *f.shape)
        targets = self.targets if self.targets is None else self.targets[part]
        return directions(f, self.outputs, targets)

    def __call__(self, part: slice = slice(None)) -> dict[str, list[Factors]]:
        """Factors of the samples of `part`, by layer."""
        X, separate = take(self.X, part), self.outputs == "full"
        if self._kernel is not None:
            with self._kernel.record() as tape, torch.enable_grad():
                f = output_matrix(apply(self.module, X))
            V = self._directions(f, part)
            with no_autocast(V.device):
                return self._kernel.factors(tape, f, V, separate)
        V = self._directions(self.example.expand(n_samples(X), -1), part)
        G = per_sample_gradients(self.module, X, V, self._names, self._strategy)
        factors: dict[str, list[Factors]] = {}
        for name, g in G.items():
            layer = name.rpartition(".")[0]
            factors.setdefault(layer, []).append(Factors.of_gradients(g, separate))
        return factors

    def _balanced(self, sample_weight: Tensor | None, chunk_size: int) -> dict[str, float]:
        """Weights that balance the layers on all samples, at the present parameters."""
        total = n_samples(self.X) if sample_weight is None else sample_weight.sum()
        traces = dict.fromkeys(self.weights, 0.0)
        for part in parts(n_samples(self.X), chunk_size):
            w = None if sample_weight is None else sample_weight[part]
            with torch.no_grad():
                factors = self(part)
                for name in factors:
                    traces[name] += float(spread(factors, {name: 1.0}, None, w) / total)
        return balanced(traces)

    def _fitting_chunk(self) -> int:
        """Return how many samples' factors take a quarter of a gibibyte."""
        with torch.no_grad():
            factors = self(slice(0, 1))
        size = sum(f.size * f.D.element_size() for fs in factors.values() for f in fs)
        return max(1, min(n_samples(self.X), 2**28 // max(1, size)))
