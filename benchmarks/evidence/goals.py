"""What was to be shown, and what the rows say of it."""

from __future__ import annotations

import numpy as np

from benchmarks.evidence.competitors import COMPETITORS, MEANS
from benchmarks.evidence.markdown import seeds_of
from benchmarks.evidence.stats import (
    Table,
    critical_difference,
    holm,
    is_noisy,
    make_table,
    wilcoxon_p,
)

SINGLE = [
    name
    for name, c in COMPETITORS.items()
    if not c.lone and not c.of and not name.startswith("MGS") and name != "none"
]
"""The single regularisers that MGS is held against."""
DEFAULT = "MGS all, relative"
"""The penalty as the estimators have it by default."""
OURS = ("MGS trace", DEFAULT, "MGS + L2")
"""The methods that a goal may be met by; the first two are single regularisers."""
PUBLISHED_CLEAN = 37.25
"""Test error in % of the published unregularised net of width 300 on clean labels, task A."""
NOT_RUN = "not run yet"


def goals(rows: list[dict]) -> list[list[str]]:
    """Goal, figure and verdict."""
    return [
        _below_clean(rows),
        _beats_decay(rows),
        *(
            line
            for task, name in (("B", "MNIST"), ("C", "Tabular sets"))
            for line in (_best_rank(rows, task, name), _not_worse_clean(rows, task, name))
        ),
        _matches_mc_dropout(rows),
    ]


def confirmed(rows: list[dict], ours=(DEFAULT,)) -> list[list[str]]:
    """The same of the confirmation's rows."""
    mnist = [row for row in rows if row["task"] != "B" or row["data"] == "mnist_unused"]
    return [
        _below_own_clean(rows),
        _beats_decay(rows, ours),
        *(
            line
            for task, name in (("B", "MNIST"), ("C", "Tabular sets"))
            for line in (
                _best_rank(mnist, task, name, ours),
                _not_worse_clean(mnist, task, name, ours),
            )
        ),
        _matches_mc_dropout(rows, ours),
    ]


def on_mnist(rows: list[dict]) -> list[list[str]]:
    """The goals on MNIST, by the default penalty alone."""
    part = rows, "B", "MNIST", (DEFAULT,)
    return [_best_rank(*part), _not_worse_clean(*part)]


def on_regression(rows: list[dict]) -> list[list[str]]:
    """The goal on regression, by the default penalty, then by what was run beside it."""
    return [_matches_mc_dropout(rows, (name,)) for name in (DEFAULT, "L2", "none", *MEANS)]


def _verdict(holds: bool) -> str:
    return "met" if holds else "not met"


def _errors(rows, width: str, competitor: str, noise: str = "0.15") -> list[float]:
    """Task A, by default at the published noise: test errors in %."""
    return [
        100 * (1 - float(row["test"]))
        for row in rows
        if (row["task"], row["width"], row["noise"]) == ("A", f"{width}x{width}", noise)
        and row["competitor"] == competitor
    ]


def _seeds(values: list) -> str:
    return f"{len(values)} seed{'s' if len(values) > 1 else ''}"


def _below_clean(rows) -> list[str]:
    goal = f"MNIST-1D, h = 300, 15 % wrong labels: MGS below the clean net's {PUBLISHED_CLEAN} %"
    errors = {name: _errors(rows, "300", name) for name in OURS[:2]}
    means = {name: np.mean(e) for name, e in errors.items() if e}
    if not means:
        return [goal, "", NOT_RUN]
    figures = [f"{name} {mean:.2f} % ({_seeds(errors[name])})" for name, mean in means.items()]
    return [goal, "; ".join(figures), _verdict(min(means.values()) < PUBLISHED_CLEAN)]


def _below_own_clean(rows) -> list[str]:
    goal = "MNIST-1D, h = 300, 15 % wrong labels: below the unregularised net on clean labels"
    clean = _errors(rows, "300", "none", "0.0")
    noisy = {name: _errors(rows, "300", name) for name in (DEFAULT, "L2", "none")}
    if not clean or not noisy[DEFAULT]:
        return [goal, "", NOT_RUN]
    figures = [f"{name} {np.mean(e):.2f} % ({_seeds(e)})" for name, e in noisy.items() if e]
    figures.append(f"none on clean labels {np.mean(clean):.2f} %")
    verdict = _verdict(np.mean(noisy[DEFAULT]) < np.mean(clean))
    return [goal, "; ".join(figures), verdict]


def _beats_decay(rows, ours=OURS) -> list[str]:
    goal = f"MNIST-1D: {_named(ours)} beats tuned L2 at every width"
    figures, holds = [], []
    for width in ("61", "104", "300"):
        decay = _errors(rows, width, "L2")
        mine = {name: _errors(rows, width, name) for name in ours}
        means = {name: np.mean(e) for name, e in mine.items() if e}
        if not decay or not means:
            continue
        best = min(means, key=means.get)
        figures.append(
            f"h = {width}: {best} {means[best]:.2f}, L2 {np.mean(decay):.2f} ({_seeds(decay)})"
        )
        holds.append(means[best] < np.mean(decay))
    if not holds:
        return [goal, "", NOT_RUN]
    rest = "" if len(holds) == 3 else ", other widths not run yet"
    return [goal, "; ".join(figures), _verdict(all(holds)) + rest]


def _named(ours) -> str:
    return "MGS, or MGS + L2," if ours == OURS else "the default penalty"


def _best_rank(rows, task: str, name: str, ours=OURS) -> list[str]:
    goal = f"{name}: best mean rank among single regularisers at noise ≥ 0.2"
    table = _against_singles(rows, task, ours).where(is_noisy)
    table = table.per_set() if task == "C" else table
    if not table:
        return [goal, "", NOT_RUN]
    ranks = dict(zip(table.competitors, table.ranks.mean(0)))
    order = sorted(ranks, key=ranks.get)
    figure = ", ".join(f"{n} {ranks[n]:.2f}" for n in order[:4])
    mine = [n for n in order if n.startswith("MGS")]
    if mine[0] not in order[:4]:
        figure += f", …, {mine[0]} {ranks[mine[0]]:.2f}"
    verdict = _verdict(order[0] == mine[0])
    if task == "B":  # sizes of one data set: no test of ranks over data sets
        return [goal, figure, verdict]
    rival = next(n for n in order if not n.startswith("MGS"))
    chance = critical_difference(len(order), len(table.cells))
    within = abs(ranks[mine[0]] - ranks[rival]) < chance
    return [goal, figure, f"{verdict}, within chance of {rival}" if within else verdict]


def _not_worse_clean(rows, task: str, name: str, ours=OURS) -> list[str]:
    goal = f"{name}: not significantly worse than the best at noise 0"
    table = _against_singles(rows, task, ours).where(lambda cell: cell[3] == 0)
    if not table:
        return [goal, "", NOT_RUN]
    ranks = dict(zip(table.competitors, table.ranks.mean(0)))
    others = [n for n in table.competitors if not n.startswith("MGS")]
    mine = min((n for n in ranks if n.startswith("MGS")), key=ranks.get)
    best = min(others, key=ranks.get)
    scores = table.column(mine)
    adjusted = holm([wilcoxon_p(scores, table.column(n)) for n in others])
    p = adjusted[others.index(best)]
    figure = f"{mine} {ranks[mine]:.2f}, {best} {ranks[best]:.2f}, p = {p:.2g}"
    if ranks[mine] > ranks[best] and len(table.cells) < 6:
        return [goal, figure, "too few cells for a test"]
    return [goal, figure, _verdict(ranks[mine] <= ranks[best] or p > 0.05)]


def _against_singles(rows, task: str, ours) -> Table:
    """Scores of the single regularisers and of MGS; empty while either has none."""
    table = make_table(rows, task, [*SINGLE, *ours])
    both = {name.startswith("MGS") for name in table.competitors} == {True, False}
    return table if both else table.where(lambda cell: False)


def _matches_mc_dropout(rows, ours=(*OURS, "MGS first", "MGS all or first")) -> list[str]:
    goal = "UCI regression, clean: within a standard error of MC dropout's RMSE on 4 of 5"
    clean = [row for row in rows if float(row["noise"]) == 0]
    figures, counts, n_cells = [], [], 0
    for name in ours:
        table = make_table(clean, "D", ["MC dropout, published", name])
        if len(table.competitors) == 2:
            theirs, mine = table.scores.T
            matched = mine >= theirs - np.nan_to_num(table.errors).max(1)
            counts.append(int(matched.sum()))
            n_cells = max(n_cells, len(matched))
            figures.append(f"{name} {counts[-1]} of {len(matched)} ({seeds_of(table)})")
    if not counts:
        return [goal, "", NOT_RUN]
    rest = "" if n_cells == 5 else ", not all sets run yet"
    return [goal, "; ".join(figures), _verdict(max(counts) >= 4) + rest]
