"""The table of a search's scores, in the format of scikit-learn's searches."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.stats import rankdata

__all__ = ["make_cv_results"]


def make_cv_results(candidates: list[dict], models: list, names: list[str], n_resources=None):
    """Table ``cv_results_``, a row per candidate.

    Parameters
    ----------
    candidates : list of dict
        Their parameters.
    models : list of Model
        One for each candidate and split, scored.
    names : list of str
        Names of the scores; a single one is called "score".
    n_resources : ndarray of shape (n_candidates,), default=None
        Epochs that each candidate was given, if they differ; those with more rank first.

    Returns
    -------
    cv_results : dict of str to array
    """
    table: dict = {}
    for what in ("fit_time", "score_time"):
        times = _by_split(models, len(candidates), lambda m, what=what: getattr(m, what))
        table[f"mean_{what}"], table[f"std_{what}"] = times.mean(1), times.std(1)
    for name in candidates[0]:
        values = [c[name] for c in candidates]
        table[f"param_{name}"] = np.ma.MaskedArray(values, mask=False)
    table["params"] = candidates
    if n_resources is not None:
        table["n_resources"] = n_resources
    for name in names:
        scores = _by_split(models, len(candidates), lambda m, name=name: m.scores[name])
        for split, column in enumerate(scores.T):
            table[f"split{split}_test_{name}"] = column.copy()
        table[f"mean_test_{name}"] = mean = scores.mean(1)
        table[f"std_test_{name}"] = scores.std(1)
        table[f"rank_test_{name}"] = _rank(mean, n_resources)
        if not np.isfinite(mean).all():
            warnings.warn(f"Some mean scores {name!r} are not finite: {mean}")
    return table


def _by_split(models, n_candidates: int, value) -> np.ndarray:
    """Values of shape (n_candidates, n_splits)."""
    table = np.empty((n_candidates, 1 + max(m.split for m in models)))
    for model in models:
        table[model.candidate, model.split] = value(model)
    return table


def _rank(mean: np.ndarray, n_resources) -> np.ndarray:
    """Rank 1 for the highest; without a score, or dropped earlier: behind all others."""
    order = rankdata(np.where(np.isnan(mean), -np.inf, mean), method="max")
    if n_resources is not None:
        order = order + len(mean) * rankdata(n_resources, method="dense")
    return rankdata(-order, method="min").astype(np.int32)
