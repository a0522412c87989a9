"""The candidates of a search, and the epochs after which some of them may be dropped."""

from __future__ import annotations

from numbers import Integral

import numpy as np
from sklearn.model_selection import ParameterGrid

__all__ = ["check_batchable", "default_strengths", "make_candidates", "make_rungs"]


def default_strengths(n: int) -> np.ndarray:
    """Zero and ``n - 1`` values from 0.001 to 10, evenly spaced on a logarithmic scale."""
    # To twelve digits: the last ones depend on the release of NumPy.
    return np.array([0.0, *(float(f"{s:.12g}") for s in np.logspace(-3, 1, n - 1))])


def make_candidates(mgs_strengths, alphas=None, l1s=None) -> list[dict]:
    """All combinations of the values, in the order of `ParameterGrid`.

    Raises
    ------
    ValueError
        If a list is empty, or has a value that is negative, not finite or not a number.
    """
    if isinstance(mgs_strengths, Integral):
        mgs_strengths = default_strengths(mgs_strengths)
    lists = {"mgs_strength": mgs_strengths, "alpha": alphas, "l1": l1s}
    return list(ParameterGrid({k: _checked(k, v) for k, v in lists.items() if v is not None}))


def _checked(name: str, values) -> list[float]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 1 or not len(array) or not (np.isfinite(array) & (array >= 0)).all():
        plural = {"mgs_strength": "mgs_strengths", "alpha": "alphas", "l1": "l1s"}[name]
        raise ValueError(
            f"{plural} must be a list of finite numbers of at least 0, at least one of them; got "
            f"{values!r}."
        )
    return array.tolist()


def check_batchable(estimator) -> None:
    """Raise a ValueError for what only a fit of its own can do."""
    reasons = {
        "solver": (estimator.solver == "lbfgs", "each fit has its own number of evaluations"),
        "callbacks": (bool(estimator.callbacks), "a callback watches one network"),
        "warm_start": (estimator.warm_start, "a search begins anew"),
    }
    for name, (unfit, why) in reasons.items():
        if unfit:
            raise ValueError(
                f"{name}={getattr(estimator, name)!r} can't be trained in a batch of candidates: "
                f"{why}. Use GridSearchCV({type(estimator).__name__}(...), "
                f"{{'mgs_strength': [...]}}) instead."
            )


def make_rungs(n_candidates: int, max_iter: int, factor: int | None) -> list[int]:
    """Epochs after which scores are taken, ``max_iter / factor^j``, and the last.

    After the first, candidates may be dropped: as often as it takes to come from all of them to
    `factor`, dividing by it. Not earlier, because strong penalties learn slowly at first.
    """
    rungs = [max_iter]
    while factor and factor ** len(rungs) < n_candidates and rungs[0] >= factor:
        rungs.insert(0, max_iter // factor ** len(rungs))
    if len(rungs) > 1 and rungs[0] >= factor:
        rungs.insert(0, rungs[0] // factor)
    return rungs
