"""Which parameter values are allowed, alone and together."""

from __future__ import annotations

import numbers

import numpy as np
from sklearn.utils._param_validation import Interval, Options, StrOptions

from sklearn_mgs._coherence import COHERENCES

__all__ = ["CONSTRAINTS", "check_classless", "check_combinations"]

Integral, Real = numbers.Integral, numbers.Real
_NON_NEGATIVE = [Interval(Real, 0, None, closed="left")]
_POSITIVE = [Interval(Real, 0, None, closed="neither")]
_COUNT = [Interval(Integral, 1, None, closed="left")]
_FRACTION = [Interval(Real, 0, 1, closed="left")]

CONSTRAINTS: dict = {
    "hidden_layer_sizes": ["array-like", *_COUNT],
    "activation": [StrOptions({"identity", "logistic", "tanh", "relu"})],
    "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
    "alpha": _NON_NEGATIVE,
    "batch_size": [StrOptions({"auto"}), *_COUNT],
    "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
    "learning_rate_init": _POSITIVE,
    "power_t": _NON_NEGATIVE,
    "max_iter": _COUNT,
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": _NON_NEGATIVE,
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": _FRACTION,
    "beta_1": _FRACTION,
    "beta_2": _FRACTION,
    "epsilon": _POSITIVE,
    "n_iter_no_change": [*_COUNT, Options(Real, {np.inf})],
    "max_fun": _COUNT,
    "mgs_strength": _NON_NEGATIVE,
    "mgs_metric": [StrOptions({"trace", "det"})],
    "mgs_outputs": [StrOptions({"auto", "target", "all", "random", "sum"})],
    "mgs_layers": [StrOptions({"auto", "all", "hidden", "first", "balanced"})],
    "mgs_relative": ["boolean"],
    "mgs_centered": ["boolean", StrOptions({"class"})],
    "mgs_batch_size": [None, StrOptions({"auto"}), *_COUNT],
    "l1": _NON_NEGATIVE,
    "dropout": _FRACTION,
    "input_noise": _NON_NEGATIVE,
    "label_smoothing": _FRACTION,
    "jacobian_strength": _NON_NEGATIVE,
    "gradient_strength": _NON_NEGATIVE,
    "coherence_threshold": [None, Interval(Real, -1, 1, closed="both")],
    "coherence": [StrOptions(set(COHERENCES))],
    "class_weight": [None, dict, list, StrOptions({"balanced"})],
    "device": [str],
    "dtype": [StrOptions({"auto", "float32", "float64"})],
    "compile": ["boolean"],
    "callbacks": [None, list, tuple],
}
"""Constraints by parameter name, in scikit-learn's own form."""


def check_combinations(estimator, has_validation_set: bool) -> None:
    """Raise a ValueError for parameters that are allowed alone but not together."""
    p = estimator
    _check_kernel_size(p)
    if p.mgs_strength and p.mgs_layers == "hidden" and not np.size(p.hidden_layer_sizes):
        raise ValueError(
            "mgs_layers='hidden' leaves out the output layer, and there is no other with "
            "hidden_layer_sizes=(); use mgs_layers='all'."
        )
    if has_validation_set and (not p.early_stopping or p.solver == "lbfgs"):
        raise ValueError(
            f"X_val and y_val are only used for early stopping; set early_stopping=True with "
            f"solver='adam' or 'sgd', or do not pass them. Got "
            f"early_stopping={p.early_stopping}, solver={p.solver!r}."
        )
    if p.solver == "lbfgs":
        _check_lbfgs(p)


def check_classless(estimator, needed: str) -> None:
    """Raise a ValueError if the penalty asks for the classes that these targets have not."""
    p = estimator
    for name, value in (("mgs_outputs", p.mgs_outputs), ("mgs_centered", p.mgs_centered)):
        if p.mgs_strength and value in ("target", "class"):
            raise ValueError(
                f"{name}={value!r} needs {needed}. Use mgs_outputs='all' and mgs_centered=True or "
                f"False."
            )


def _check_kernel_size(p) -> None:
    """What compares samples needs two of them, in each half where halves are compared."""
    size, halves = p.mgs_batch_size, p.coherence_threshold is not None and p.coherence == "batch"
    least = 3 if halves else 2
    if not p.mgs_strength or size in (None, "auto") or size >= least:
        return
    for name, value in (("mgs_metric", p.mgs_metric), ("mgs_centered", p.mgs_centered)):
        if value not in ("trace", False):
            raise ValueError(
                f"{name}={value!r} compares samples: mgs_batch_size must be at least {least}"
                f"{' where halves are compared' if halves else ''}, got {size}."
            )


def _check_lbfgs(p) -> None:
    """L-BFGS needs a smooth, deterministic function of the weights."""
    unfit = {
        "dropout": p.dropout > 0,
        "input_noise": p.input_noise > 0,
        "l1": p.l1 > 0,
        "coherence_threshold": p.coherence_threshold is not None,
        "mgs_outputs": p.mgs_strength > 0 and p.mgs_outputs == "random",
        "mgs_batch_size": p.mgs_strength > 0 and p.mgs_batch_size not in (None, "auto"),
    }
    names = [name for name, used in unfit.items() if used]
    if names:
        raise ValueError(
            f"solver='lbfgs' minimises a smooth, deterministic function; it can't be combined "
            f"with {', '.join(names)}. Use solver='adam' or 'sgd'."
        )
