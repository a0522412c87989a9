"""Ranks and tests over the rows of the results."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata, studentized_range, wilcoxon

COMPLETE = 0.8
"""A competitor takes part in a table if it has this share of the cells that the median one has."""


@dataclass
class Table:
    """Mean test scores of competitors in cells; a cell is one data set under one condition.

    Attributes
    ----------
    competitors : list of str
    cells : list of tuple
        (data set, n, width, noise).
    scores : ndarray of shape (n_cells, n_competitors)
        Greater is better; means over seeds that all competitors have.
    errors : ndarray of shape (n_cells, n_competitors)
        Standard errors over those seeds; not a number with one seed.
    n_seeds : ndarray of shape (n_cells,)
    """

    competitors: list[str]
    cells: list[tuple]
    scores: np.ndarray
    errors: np.ndarray
    n_seeds: np.ndarray

    def __bool__(self) -> bool:
        return bool(self.cells)

    @property
    def ranks(self) -> np.ndarray:
        """Rank of each competitor in each cell: 1 is best, equals share their mean."""
        return rankdata(-self.scores.round(10), axis=1)

    def where(self, keep) -> Table:
        """The cells for which ``keep(cell)`` holds."""
        index = [i for i, cell in enumerate(self.cells) if keep(cell)]
        return Table(
            self.competitors,
            [self.cells[i] for i in index],
            self.scores[index],
            self.errors[index],
            self.n_seeds[index],
        )

    def per_set(self) -> Table:
        """One cell per data set: the mean over its conditions."""
        groups = defaultdict(list)
        for i, cell in enumerate(self.cells):
            groups[cell[0]].append(i)
        # A data set without some condition would be compared on others: it is left out.
        most = max(map(len, groups.values()), default=0)
        groups = {name: index for name, index in groups.items() if len(index) == most}
        return Table(
            self.competitors,
            [(name,) for name in groups],
            np.array([self.scores[index].mean(0) for index in groups.values()]),
            np.full((len(groups), len(self.competitors)), np.nan),
            np.array([self.n_seeds[index].min() for index in groups.values()]),
        )

    def column(self, competitor: str) -> np.ndarray:
        """Scores of one competitor in all cells."""
        return self.scores[:, self.competitors.index(competitor)]


def is_noisy(cell: tuple) -> bool:
    """Whether a cell's labels are noisy."""
    return cell[3] >= 0.2


def make_table(rows, task: str, names, score: str = "test") -> Table:
    """The cells and seeds in which all of the task's (nearly complete) competitors have a row."""
    found: dict[tuple, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["task"] == task and row["competitor"] in names:
            cell = (row["data"], int(row["n"]), row["width"], float(row["noise"]))
            found[cell, int(row["seed"])][row["competitor"]] = float(row[score])
    has = {name: {cell for (cell, _), by in found.items() if name in by} for name in names}
    usual = np.median([len(cells) for cells in has.values() if cells] or [0])
    competitors = [name for name in names if has[name] and len(has[name]) >= COMPLETE * usual]
    values = defaultdict(list)
    for (cell, _), by in sorted(found.items()):
        if all(name in by for name in competitors):
            values[cell].append([by[name] for name in competitors])
    arrays = [np.array(v) for v in values.values()]
    return Table(
        competitors,
        list(values),
        np.array([a.mean(0) for a in arrays]).reshape(len(values), len(competitors)),
        np.array([_standard_error(a) for a in arrays]).reshape(len(values), len(competitors)),
        np.array([len(a) for a in arrays]),
    )


def _standard_error(a: np.ndarray) -> np.ndarray:
    if len(a) < 2:
        return np.full(a.shape[1], np.nan)
    return a.std(0, ddof=1) / len(a) ** 0.5


def win_tie_loss(a: np.ndarray, b: np.ndarray) -> tuple[int, int, int]:
    """Cells in which `a` is better, equal and worse."""
    difference = (a - b).round(10)
    return int((difference > 0).sum()), int((difference == 0).sum()), int((difference < 0).sum())


def wilcoxon_p(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of the signed-rank test; 1 if they are equal everywhere."""
    difference = (a - b).round(10)
    return float(wilcoxon(difference).pvalue) if difference.any() else 1.0


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction: the adjusted p-values, in the given order."""
    order = np.argsort(p_values)
    adjusted, running = np.empty(len(order)), 0.0
    for i, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - i) * p_values[index]))
        adjusted[index] = running
    return adjusted.tolist()


def critical_difference(n_competitors: int, n_cells: int) -> float:
    """Nemenyi's critical difference of mean ranks at 5 % (Demšar 2006)."""
    q = studentized_range.ppf(0.95, n_competitors, np.inf) / 2**0.5
    return float(q * (n_competitors * (n_competitors + 1) / (6 * n_cells)) ** 0.5)
