"""Running one unit of work: a competitor on one data set and seed, at all noise levels at once."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor

from benchmarks.evidence.competitors import COMPETITORS
from benchmarks.evidence.data import Problem, load_problem, published_score
from benchmarks.evidence.protocol import TASKS, Block, Task
from benchmarks.evidence.train import Job, fit_lone, train

KEY = ("task", "data", "n", "width", "noise", "seed", "competitor")
COLUMNS = (*KEY, "validation", "test", "chosen", "test_if_clean", "chosen_if_clean", "seconds")


@dataclass(frozen=True)
class Unit:
    """One competitor on one data set and seed of a block."""

    block: Block
    data: str
    seed: int
    competitor: str

    def key(self, noise: float) -> tuple[str, ...]:
        """What identifies a row, as text."""
        b = self.block
        width = "x".join(map(str, b.hidden))
        return tuple(
            map(str, (b.task, self.data, b.n, width, float(noise), self.seed, self.competitor))
        )

    def missing(self, rows: dict[tuple, dict]) -> list[float]:
        """Noise levels without a row."""
        return [noise for noise in self.block.noises if self.key(noise) not in rows]


def run_unit(unit: Unit, noises: list[float], folder: Path, rows: dict) -> list[dict[str, Any]]:
    """Tune, refit where the task says so, and return one row per noise level."""
    block, task = unit.block, TASKS[unit.block.task]
    problems = [
        load_problem(folder, block.task, unit.data, block.n, noise, unit.seed) for noise in noises
    ]
    if COMPETITORS[unit.competitor].lone == "published":
        pick = {"candidate": {}, "test": published_score(folder, unit.data, unit.seed)}
        chosen, seconds = [(pick, pick)], 0.0
        return _as_rows(unit, noises, chosen, seconds)
    before = _tuned_before(unit)
    if before is not None:
        chosen = [_chosen_before(rows[before.key(noise)]) for noise in noises]
        seconds = 0.0
    else:
        chosen, seconds = _tune(unit, problems, task)
    if task.refit:
        seconds += _refit(unit, problems, chosen, task)
    return _as_rows(unit, noises, chosen, seconds)


def _as_rows(unit: Unit, noises: list[float], chosen: list, seconds: float) -> list[dict]:
    return [
        dict(zip(KEY, unit.key(noise)))
        | {
            "validation": _text(noisy.get("validation")),
            "test": _text(noisy["test"]),
            "chosen": json.dumps(noisy["candidate"]),
            "test_if_clean": _text(clean["test"]),
            "chosen_if_clean": json.dumps(clean["candidate"]),
            "seconds": f"{seconds / len(noises):.1f}",
        }
        for noise, (noisy, clean) in zip(noises, chosen)
    ]


def _text(score: float | None) -> str:
    return "" if score is None else f"{score:.5g}"


def _tuned_before(unit: Unit) -> Unit | None:
    """The unit whose choice is taken over, if any: of the single net, or of the first seed."""
    of = COMPETITORS[unit.competitor].of
    if of:
        return replace(unit, competitor=of)
    return replace(unit, seed=0) if unit.block.tune_once and unit.seed > 0 else None


def _chosen_before(row: dict) -> tuple[dict, dict]:
    """What was chosen by noisy, and would have been by clean, validation labels."""
    return tuple({"candidate": json.loads(row[name])} for name in ("chosen", "chosen_if_clean"))


def _tune(unit: Unit, problems: list[Problem], task: Task) -> tuple[list, float]:
    """The best candidate by noisy and by clean validation labels, for each problem."""
    listed = COMPETITORS[unit.competitor].candidates
    candidates = [{**setting, **c} for setting in unit.block.settings for c in listed]
    parts = [problem.tuning(task.validation) for problem in problems]
    jobs = [[_job(unit, part, c) for c in candidates] for part, _ in parts]
    seconds = _train(unit, [job for some in jobs for job in some], task)
    chosen = []
    for problem, (_, held_out), some in zip(problems, parts, jobs):
        n = len(held_out)
        results = [
            {
                "candidate": candidate,
                "test": _score(problem, [job], slice(n, None), problem.y_test, task),
                "noisy": _score(problem, [job], slice(n), problem.y[held_out], task),
                "clean": _score(problem, [job], slice(n), problem.y_clean[held_out], task),
            }
            for candidate, job in zip(candidates, some)
        ]
        best = [choose(results, by) for by in ("noisy", "clean")]
        chosen.append(tuple(best))
    return chosen, seconds


def choose(results: list[dict], by: str) -> dict:
    """The candidate with the best score; among equals the last, which is the strongest."""
    scores = np.nan_to_num([r[by] for r in results], nan=-np.inf)
    best = results[len(scores) - 1 - int(scores[::-1].argmax())]
    return {"candidate": best["candidate"], "test": best["test"], "validation": best[by]}


def _refit(unit: Unit, problems: list[Problem], chosen: list, task: Task) -> float:
    """Train what was chosen on all training samples; write its test scores."""
    n_nets = COMPETITORS[unit.competitor].n_nets
    jobs: dict[tuple, list[Job]] = {}
    for i, (problem, pair) in enumerate(zip(problems, chosen)):
        parts = [replace(problem.whole(), seed=problem.seed + 1000 * k) for k in range(n_nets)]
        for pick in pair:
            key = i, json.dumps(pick["candidate"])
            jobs.setdefault(key, [_job(unit, part, pick["candidate"]) for part in parts])
    seconds = _train(unit, [job for some in jobs.values() for job in some], task)
    for i, (problem, pair) in enumerate(zip(problems, chosen)):
        for pick in pair:
            some = jobs[i, json.dumps(pick["candidate"])]
            pick["test"] = _score(problem, some, slice(None), problem.y_test, task)
    return seconds


def _score(problem: Problem, jobs: list[Job], rows: slice, truth: np.ndarray, task: Task) -> float:
    """Of the jobs' mean prediction; labels are of one job alone."""
    predictions = [job.prediction for job in jobs]
    if any(p is None for p in predictions):
        return problem.score(None, truth, task.regression)
    prediction = predictions[0] if len(jobs) == 1 else np.mean(predictions, axis=0)
    return problem.score(prediction[rows], truth, task.regression)


# ------------------------------------------------------------- candidates and estimators


def _fit_params(unit: Unit) -> dict[str, Any]:
    task = TASKS[unit.block.task]
    return {**task.fit, **unit.block.fit, "hidden_layer_sizes": unit.block.hidden}


def _job(unit: Unit, part, candidate: dict) -> Job:
    """A candidate in the estimator's own parameters."""
    base, units = _fit_params(unit), TASKS[unit.block.task].units
    params = {
        name: value * units[name] if name in units else value for name, value in candidate.items()
    }
    n_batch = min(params.get("batch_size", base["batch_size"]), len(part.X))
    if "decay" in params:
        params["alpha"] = params.pop("decay") * n_batch
    if "decay_l1" in params:
        params["l1"] = params.pop("decay_l1") * n_batch
    if "epoch_share" in params:
        params["max_iter"] = max(1, round(params.pop("epoch_share") * base["max_iter"]))
    return Job(part, params)


def _train(unit: Unit, jobs: list[Job], task: Task) -> float:
    lone = COMPETITORS[unit.competitor].lone
    if not lone:
        return train(jobs, _fit_params(unit), task.regression)
    return fit_lone(jobs, _references(unit, task)[lone])


def _references(unit: Unit, task: Task) -> dict:
    """Outside estimators by name, each as a function of seed and candidate."""
    own = _fit_params(unit)

    def mlp(seed, **params):
        kind = MLPRegressor if task.regression else MLPClassifier
        return kind(random_state=seed, **{**own, **params}, n_iter_no_change=own["max_iter"])

    def linear(seed, C):
        return Ridge(alpha=1 / C) if task.regression else LogisticRegression(C=C, max_iter=1000)

    def boosting(seed, **params):
        kind = HistGradientBoostingRegressor if task.regression else HistGradientBoostingClassifier
        return kind(random_state=seed, early_stopping=False, **params)

    return {"mlp": mlp, "linear": linear, "boosting": boosting}
