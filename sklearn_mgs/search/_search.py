"""Training and scoring all candidates on all folds, batch by batch."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from joblib import cpu_count
from joblib.parallel import get_active_backend
from sklearn.utils import _safe_indexing
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.parallel import Parallel, delayed

from sklearn_mgs.search._batched_fit import BatchedFit
from sklearn_mgs.search._fold import Model

__all__ = [
    "Scoring",
    "apply_scorer",
    "make_batches",
    "search",
    "staying_candidates",
    "torch_threads",
]

MARGIN = 2.0
"""Standard errors by which a candidate must be behind, now and ahead, to be dropped."""


@dataclass
class Scoring:
    """Scores of a model on the samples that its fold leaves out.

    Attributes
    ----------
    scorers : dict of str to callable
        ``scorer(estimator, X, y)``; those that take a ``sample_weight`` get it.
    X, y, sample_weight : array-like
        All samples.
    splits : list of (train, test)
        Indices.
    """

    scorers: dict[str, Any]
    X: Any
    y: Any
    sample_weight: np.ndarray | None
    splits: list

    def __call__(self, model: Model) -> None:
        """Write ``model.scores`` and ``model.score_time``; not a number if its fit failed."""
        began = time.perf_counter()
        if model.failure:
            model.scores = dict.fromkeys(self.scorers, np.nan)
            return
        estimator = model.as_estimator()
        X, y, weight = self.part(model.split, 1)
        model.scores = {
            name: _score(name, scorer, estimator, X, y, weight)
            for name, scorer in self.scorers.items()
        }
        model.score_time = time.perf_counter() - began

    def part(self, split: int, side: int) -> tuple:
        """Samples, targets and weights of a split: 0 those for training, 1 those left out."""
        index = self.splits[split][side]
        weight = None if self.sample_weight is None else self.sample_weight[index]
        return _safe_indexing(self.X, index), _safe_indexing(self.y, index), weight


def apply_scorer(scorer, estimator, X, y, sample_weight=None):
    """What the scorer returns, weighted if it takes weights."""
    if sample_weight is None or not _takes_weight(scorer):
        return scorer(estimator, X, y)
    return scorer(estimator, X, y, sample_weight=sample_weight)


def _takes_weight(scorer) -> bool:
    """Whether the scorer, or the function it is made of, has a ``sample_weight`` and wants it."""
    wanted = get_routing_for_object(scorer).score.requests.get("sample_weight")
    function = getattr(scorer, "_score_func", scorer)
    return wanted is not False and "sample_weight" in signature(function).parameters


def _score(name, scorer, *arguments) -> float:
    """A score; with a warning not a number where the scorer fails, as in GridSearchCV."""
    try:
        score = apply_scorer(scorer, *arguments)
    except Exception as error:
        warnings.warn(f"The scorer {name!r} failed; its score is nan. {error!r}", stacklevel=2)
        return np.nan
    if np.ndim(score) or np.asarray(score).dtype.kind not in "buif":
        raise ValueError(f"scoring must return a number, got {score!r} from the scorer {name!r}.")
    return float(score)


def make_batches(
    models: list[Model], max_models: int, n_jobs: int, device: str = "auto"
) -> list[BatchedFit]:
    """Divide the models into batches of one shape and at most `max_models`.

    The number of batches of a shape is a multiple of `n_jobs`, if it has as many models.
    Candidates that follow one another are often dropped together: a fold's go to its batches in
    turn, so that these stay of one size.
    """
    shapes: dict[tuple, list[Model]] = {}
    for model in models:
        shapes.setdefault(model.fold.signature, []).append(model)
    batches = []
    for same in chain.from_iterable(map(_by_penalty, shapes.values())):
        rounds = -(-len(same) // (max_models * n_jobs))
        n = min(len(same), rounds * n_jobs)
        cuts = np.linspace(0, len(same), n + 1).round().astype(int)
        same = sorted(same, key=lambda m: (m.split, m.candidate % 2, m.candidate))
        batches += [BatchedFit(same[i:j], device) for i, j in pairwise(cuts)]
    return batches


def _by_penalty(models: list[Model]) -> list[list[Model]]:
    """Models without a penalty train apart, unless they are few and can't tell the difference."""
    parts = [[m for m in models if (m.params["mgs_strength"] > 0) == on] for on in (False, True)]
    est = models[0].fold.estimator
    # With the penalty random numbers are drawn in another order; the determinant may be singular.
    random = est.dropout or est.input_noise or est.jacobian_strength
    if est.mgs_metric == "trace" and not random and len(parts[0]) < len(parts[1]):
        return [models]
    return [part for part in parts if part]


def search(
    batches, rungs, factor, scoring, main_score, n_jobs, progress
) -> tuple[list[Model], dict]:
    """Train and score all models.

    Parameters
    ----------
    batches : list of BatchedFit
        Not started.
    rungs : list of int
        Epochs after which scores are taken, and candidates dropped but for the first.
    factor : int or None
        At least one candidate in so many stays, see `staying_candidates`.
    scoring : Scoring
        Scores a model.
    main_score : str
        Name of the score that decides.
    n_jobs : int
        Batches that train at once.
    progress : Progress
        Is told.

    Returns
    -------
    models : list of Model
        Scored.
    n_resources : dict of int to int
        Epochs that each candidate was given.
    """
    staying = sorted({m.candidate for b in batches for m in b.models})
    n_resources: dict[int, int] = {}
    threads = max(1, cpu_count() // n_jobs) if n_jobs > 1 else None
    # After the first rung none is dropped, so that nobody need wait for the others there.
    for epochs in [rungs[:2], *([epoch] for epoch in rungs[2:])]:
        n_resources |= dict.fromkeys(staying, epochs[-1])
        run, trained, last = delayed(_advance), [], epochs[-1] == rungs[-1]
        tasks = (run(batch, epochs, scoring, last, progress) for batch in batches)
        progress.begin(len(batches))
        with torch_threads(threads):
            for batch in Parallel(n_jobs=n_jobs, return_as=_return_as())(tasks):
                trained.append(batch)
                progress.scored(batch.models)
        batches = trained
        models = [m for b in batches for m in b.models]
        if not last:
            scores = _by_candidate(models, staying, main_score)
            ahead = _extrapolated(*scores, rungs[rungs.index(epochs[-1]) - 1 :])
            staying = staying_candidates(scores[1], ahead, factor)
            for batch in batches:
                batch.drop(staying)
    return models, n_resources


def _return_as() -> str:
    """Results as they come, where joblib's backend can."""
    backend, _ = get_active_backend()
    return "generator_unordered" if backend.supports_return_generator else "list"


def _advance(batch, epochs, scoring, last, progress) -> BatchedFit:
    """Train one batch until each of the `epochs`, and score its models there."""
    for epoch in epochs:
        unscored = [m for m in batch.models if m.scores is None or m in batch.active]
        for model in batch.models:
            model.earlier_scores = model.scores
        batch.train(epoch, progress.epoch)
        for model in unscored:
            scoring(model)
            if model in batch.active:
                model.parameters = None  # the batch has them
            else:
                model.forget()
    if last:
        batch.release()
    return batch


def _by_candidate(models, staying, main_score) -> tuple[dict, dict]:
    """The candidates' scores on the splits, in one order: at the rung before, and now."""
    models = sorted((m for m in models if m.candidate in staying), key=lambda m: m.split)
    before: dict[int, list[float]] = {c: [] for c in staying}
    now: dict[int, list[float]] = {c: [] for c in staying}
    for model in models:
        before[model.candidate].append(model.earlier_scores[main_score])
        now[model.candidate].append(model.scores[main_score])
    return tuple({c: np.array(s) for c, s in table.items()} for table in (before, now))


def _extrapolated(before, now, epochs: list[int]) -> dict[int, np.ndarray]:
    """Scores at the last of the epochs, if they go on as from the first to the second.

    On a logarithmic scale of epochs.
    """
    share = math.log(epochs[-1] / epochs[1]) / math.log(epochs[1] / epochs[0])
    return {c: s + share * (s - before[c]) for c, s in now.items()}


def staying_candidates(scores: dict, ahead: dict, factor: int) -> list[int]:
    """Drop all but the best, and of the rest only who is clearly worse and does not catch up.

    Parameters
    ----------
    scores, ahead : dict of int to ndarray of shape (n_splits,)
        The candidates' scores now, and as they will be if they go on so.
    factor : int
        One in so many, rounded up, stays in any case: those with the best means. Of the others,
        those go that are clearly behind both now and ahead. Without a score none stays.

    Returns
    -------
    staying : list of int
        At least one candidate.
    """
    order = sorted(scores, key=lambda c: -_mean(scores[c]))
    n = -(-len(order) // factor)
    going = _clearly_behind(scores) & _clearly_behind(ahead)
    return sorted(order[:n] + [c for c in order[n:] if c not in going])


def _clearly_behind(scores: dict) -> set[int]:
    """Whose mean is behind the best by more than `MARGIN` standard errors of the differences."""
    best = max(scores, key=lambda c: _mean(scores[c]))

    def behind(c):
        if _mean(scores[c]) == -np.inf:
            return True
        error = (scores[best] - scores[c]).std() / max(1, len(scores[c]) - 1) ** 0.5
        return _mean(scores[best]) - _mean(scores[c]) > MARGIN * error

    return {c for c in scores if behind(c)}


def _mean(scores: np.ndarray) -> float:
    """Mean score; without one, below all others."""
    mean = scores.mean()
    return -np.inf if np.isnan(mean) else mean


@contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """Let torch use `n` threads inside the block and in threads begun there; None: as it does.

    Processes have a limit of their own, which joblib and dask give them.
    """
    if n is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
