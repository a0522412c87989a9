"""What the two estimators with built-in cross-validation share."""

from __future__ import annotations

import time
import warnings
from contextlib import closing
from numbers import Integral
from typing import ClassVar

import numpy as np
from joblib import effective_n_jobs
from sklearn.base import clone, is_classifier
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.metrics._scorer import _check_multimetric_scoring
from sklearn.model_selection import check_cv
from sklearn.utils import indexable
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from sklearn_mgs._base import unchanged_on_error
from sklearn_mgs._constraints import CONSTRAINTS
from sklearn_mgs._device import resolve_device
from sklearn_mgs.search._fold import Model, prepare_fold
from sklearn_mgs.search._grid import check_batchable, make_candidates, make_rungs
from sklearn_mgs.search._memory import default_max_models
from sklearn_mgs.search._progress import Progress
from sklearn_mgs.search._results import make_cv_results
from sklearn_mgs.search._search import Scoring, apply_scorer, make_batches, search, torch_threads

__all__ = ["SEARCH_CONSTRAINTS", "BaseMLPCV"]

SEARCH_CONSTRAINTS: dict = {
    **{name: values for name, values in CONSTRAINTS.items() if name != "mgs_strength"},
    "mgs_strengths": [Interval(Integral, 2, None, closed="left"), "array-like"],
    "alphas": [None, "array-like"],
    "l1s": [None, "array-like"],
    "cv": ["cv_object"],
    "scoring": [None, StrOptions(set(get_scorer_names())), callable, list, tuple, dict],
    "refit": [str, callable],
    "n_jobs": [None, Integral],
    "max_models": [None, Interval(Integral, 1, None, closed="left")],
    "halving": ["boolean", Interval(Integral, 2, None, closed="left")],
}
"""Constraints by parameter name, in scikit-learn's own form."""

HALVING_FACTOR = 2
"""With ``halving=True``, one candidate in so many goes on in any case."""

PRODUCTS_FOR_THREADS = 2_000_000
"""Multiplications of a forward pass below which training runs in one thread: more threads are no
faster then, and many times slower where other processes take the cores."""


class BaseMLPCV:
    """Choosing a strength by cross-validation: a mixin, left of scikit-learn's own."""

    _estimator_class: ClassVar[type]
    _default_scoring: ClassVar[str]

    # ------------------------------------------------------------------ fitting

    def _fit(self, X, y, sample_weight, groups):
        with unchanged_on_error(self):
            self._validate_params()
            lone = self._lone_estimator()
            check_batchable(lone)
            resolve_device(self.device)  # each worker resolves it again, for itself
            candidates = make_candidates(self.mgs_strengths, self.alphas, self.l1s)
            self.scorer_ = self._make_scorers(lone)
            main_score = self._main_score()
            X, y, sample_weight, groups = self._checked_data(lone, X, y, sample_weight, groups)
            scoring = Scoring(self.scorer_, X, y, sample_weight, self._splits(X, y, groups))
            self.n_splits_ = len(scoring.splits)
            given, n_products = self._search(lone, candidates, scoring, main_score)
            self._choose(main_score, given)
            began = time.perf_counter()
            best = clone(lone).set_params(**self.best_params_)
            with _enough_threads(n_products):
                self.best_estimator_ = best.fit(X, y, sample_weight=sample_weight)
            self.refit_time_ = time.perf_counter() - began
        return self

    def _lone_estimator(self):
        """The estimator that one candidate is, with the first strength that it might have."""
        names = set(self._estimator_class._get_param_names()) & set(self._get_param_names())
        params = {name: getattr(self, name) for name in names}
        return self._estimator_class(**{**params, "verbose": False})

    @staticmethod
    def _checked_data(lone, X, y, sample_weight, groups):
        """The data as given, but indexable, checked as a lone fit checks them."""
        _, checked, _ = clone(lone)._validate_input(X, y, incremental=False, reset=True)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        X, y, sample_weight, groups = indexable(X, y, sample_weight, groups)
        if np.ndim(y) == 2 and checked.ndim == 1:
            y = checked
        return X, y, sample_weight, groups

    def _splits(self, X, y, groups) -> list:
        """Indices of the training and test samples of each split."""
        cv = check_cv(self.cv, y, classifier=is_classifier(self))
        splits = list(cv.split(X, y, groups))
        if not splits:
            raise ValueError(
                f"cv gives no splits, got {self.cv!r}; an iterator gives its splits only once: "
                f"pass a list of them, or a number of folds."
            )
        return splits

    def _search(self, lone, candidates, scoring: Scoring, main_score: str):
        """Fill ``cv_results_``; return each candidate's epochs, and a network's products."""
        models = self._models(lone, candidates, scoring)
        n_products = models[0].fold.n_products
        n_jobs = effective_n_jobs(self.n_jobs)
        batches = make_batches(models, self._max_models(models, n_jobs), n_jobs, self.device)
        factor = {False: None, True: HALVING_FACTOR}.get(self.halving, self.halving)
        rungs = make_rungs(len(candidates), self.max_iter, factor)
        progress = Progress(
            rungs[-1] * len(models), main_score, len(scoring.splits), bool(self.verbose)
        )
        with closing(progress), _enough_threads(max(len(b.models) for b in batches) * n_products):
            models, n_resources = search(
                batches, rungs, factor, scoring, main_score, n_jobs, progress
            )
            progress.end()
        _warn_of_failures(models)
        given = np.array([n_resources[c] for c in range(len(candidates))])
        self.cv_results_ = make_cv_results(
            candidates, models, list(self.scorer_), given if self.halving else None
        )
        return given, n_products

    def _models(self, lone, candidates, scoring: Scoring) -> list[Model]:
        """One for each split and candidate; splits share what does not depend on strengths."""
        seed = self.random_state
        if seed is None:
            # One seed for the search: candidates differ by their strengths alone.
            seed = int(np.random.RandomState().randint(2**31 - 1))
        strength = max(c["mgs_strength"] for c in candidates)
        lone = clone(lone).set_params(mgs_strength=strength, random_state=seed)
        models = []
        for split in range(len(scoring.splits)):
            fold = prepare_fold(lone, *scoring.part(split, 0))
            models += [Model(i, split, params, fold) for i, params in enumerate(candidates)]
        return models

    def _max_models(self, models: list[Model], n_jobs: int) -> int:
        if self.max_models is not None:
            return self.max_models
        n_bytes, n_passing = models[0].fold.model_bytes()
        return default_max_models(n_bytes, resolve_device(self.device), n_jobs, n_passing)

    # ---------------------------------------------------------------- choosing

    def _make_scorers(self, lone) -> dict:
        """Scorers by name; a single one is called "score", as in scikit-learn's searches."""
        scoring = self._default_scoring if self.scoring is None else self.scoring
        if isinstance(scoring, str) or callable(scoring):
            return {"score": check_scoring(lone, scoring)}
        return _check_multimetric_scoring(lone, scoring)

    def _main_score(self) -> str:
        """The score that `refit` names, or the only one; with a callable, the first."""
        names = list(self.scorer_)
        if self.refit in names:
            return self.refit
        if not callable(self.refit) and (self.refit != "best" or len(names) > 1):
            raise ValueError(
                f"refit={self.refit!r} does not say which score decides; use one of {names}, or "
                f"a callable that takes cv_results_ and returns an index."
                + ("" if len(names) > 1 else ' With a single score, "best".')
            )
        return names[0]

    def _choose(self, main_score: str, n_resources: np.ndarray) -> None:
        """Set what is known of the best candidate, among those that were trained to the end."""
        table = self.cv_results_
        to_the_end = np.flatnonzero(n_resources == n_resources.max())
        if callable(self.refit):
            index = self.refit({k: _rows(v, to_the_end) for k, v in table.items()})
            if not isinstance(index, Integral):
                raise TypeError(f"refit must return an integer, got {index!r}.")
            if not 0 <= index < len(to_the_end):
                raise IndexError(
                    f"refit must return an index from 0 to {len(to_the_end) - 1}, got {index}."
                )
            self.best_index_ = int(to_the_end[index])
        else:
            self.best_index_ = int(table[f"rank_test_{main_score}"].argmin())
        self.best_params_ = table["params"][self.best_index_]
        self.best_score_ = table[f"mean_test_{main_score}"][self.best_index_]
        self.mgs_strength_ = self.best_params_["mgs_strength"]
        scores = {
            name: np.array([table[f"split{i}_test_{name}"] for i in range(self.n_splits_)])
            for name in self.scorer_
        }
        self.multimetric_ = len(scores) > 1 or "score" not in scores
        self.scores_ = scores if self.multimetric_ else scores["score"]

    # --------------------------------------------------------------- predicting

    def __getattr__(self, name: str):
        """Fitted attributes of the best estimator."""
        if name.endswith("_") and not name.startswith("_") and "best_estimator_" in vars(self):
            return getattr(self.best_estimator_, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _best(self):
        check_is_fitted(self, "best_estimator_")
        return self.best_estimator_

    def predict(self, X):
        """Predict with the best estimator.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions.
        """
        return self._best().predict(X)

    def score(self, X, y, sample_weight=None):
        """Score the best estimator by the score that chose it.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their labels or targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, for scorers that take them.

        Returns
        -------
        score : float
            With a callable `refit` and several scores, the first of them.
        """
        best = self._best()
        return apply_scorer(self.scorer_[self._main_score()], best, X, y, sample_weight)

    def __sklearn_tags__(self):
        """Sparse input is accepted."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _rows(column, index: np.ndarray):
    """Some rows of a column of ``cv_results_``."""
    return [column[i] for i in index] if isinstance(column, list) else column[index]


def _enough_threads(n_products: int):
    """Context in which torch uses one thread if a forward pass has few multiplications."""
    return torch_threads(1 if n_products < PRODUCTS_FOR_THREADS else None)


def _warn_of_failures(models: list[Model]) -> None:
    """As scikit-learn's searches: a warning if some fits failed, an error if all did."""
    failures = [m for m in models if m.failure]
    if not failures:
        return
    message = (
        f"{len(failures)} fits failed out of a total of {len(models)}, the first with "
        f"{failures[0].params} on split {failures[0].split}: {failures[0].failure}. Scale the "
        f"input data, or lower learning_rate_init or the strengths."
    )
    if len(failures) == len(models):
        raise ValueError(f"All the {message}")
    warnings.warn(f"{message} Their scores are nan.", FitFailedWarning)
