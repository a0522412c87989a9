"""Training many nets at once: all candidates of a competitor, on all noise levels together."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_mgs import MLPClassifier, MLPRegressor
from sklearn_mgs.search._fold import Model, prepare_fold
from sklearn_mgs.search._memory import default_max_models, model_bytes
from sklearn_mgs.search._search import make_batches

STRENGTHS = {"mgs_strength": 0.0, "alpha": 0.0, "l1": 0.0}
"""What may differ between the nets of one batch; everything else makes a batch of its own."""


@dataclass(eq=False)
class Part:
    """Training samples, and the samples to predict."""

    X: np.ndarray
    y: np.ndarray
    X_eval: np.ndarray
    seed: int


@dataclass
class Job:
    """A net to train: one candidate on one part."""

    part: Part
    params: dict[str, Any]
    prediction: np.ndarray | None = None  # of X_eval; None if the training diverged

    @property
    def strengths(self) -> tuple:
        return tuple(self.params.get(name, value) for name, value in STRENGTHS.items())

    @property
    def shared(self) -> tuple:
        names = set(self.params) - set(STRENGTHS) - {"max_iter"}
        return tuple((name, self.params[name]) for name in sorted(names))


def train(jobs: list[Job], base: dict, regression: bool) -> float:
    """Write each job's prediction; return the seconds that took.

    Jobs that differ in ``max_iter`` alone are one training, looked at on the way.
    """
    began = time.perf_counter()
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.shared, []).append(job)
    for group in groups.values():
        _train_group(group, base, regression)
    return time.perf_counter() - began


def _train_group(jobs: list[Job], base: dict, regression: bool) -> None:
    epochs = [job.params.get("max_iter", base["max_iter"]) for job in jobs]
    folds = {id(job.part): _fold(job, base, regression, max(epochs), jobs) for job in jobs}
    models = {}
    for job in jobs:
        key = id(job.part), job.strengths
        params = dict(zip(STRENGTHS, job.strengths))
        models.setdefault(key, Model(len(models), 0, params, folds[id(job.part)]))
    batches = make_batches(list(models.values()), _max_models(folds), 1)
    for until in sorted(set(epochs)):
        for batch in batches:
            batch.train(until)
        for job, epoch in zip(jobs, epochs):
            model = models[id(job.part), job.strengths]
            if epoch == until and not model.failure:
                job.prediction = model.as_estimator().predict(job.part.X_eval)


def _fold(job: Job, base: dict, regression: bool, max_iter: int, jobs: list[Job]):
    """The part prepared for training; the penalty's unit is measured if any job needs it."""
    strongest = max(j.params.get("mgs_strength", 0.0) for j in jobs)
    params = {**base, **dict(job.shared), "max_iter": max_iter, "mgs_strength": strongest}
    kind = MLPRegressor if regression else MLPClassifier
    estimator = kind(**params, n_iter_no_change=max_iter, random_state=job.part.seed)
    return prepare_fold(estimator, job.part.X, job.part.y)


def _max_models(folds: dict) -> int:
    fold = next(iter(folds.values()))
    est = fold.estimator
    size = model_bytes(
        est._network["layers"], est._n_batch(len(fold.samples)), 1, fold.samples.dtype.itemsize
    )
    return default_max_models(size, fold.samples.device)


def fit_lone(jobs: list[Job], make_estimator) -> float:
    """The same for estimators that train alone: ``make_estimator(seed, **params)``."""
    began = time.perf_counter()
    for job in jobs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator = make_estimator(job.part.seed, **job.params).fit(job.part.X, job.part.y)
        job.prediction = estimator.predict(job.part.X_eval)
    return time.perf_counter() - began
