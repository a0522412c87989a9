"""The tasks that stand beside published numbers: MNIST-1D and the UCI regressions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.evidence.competitors import COMPETITORS, MEANS
from benchmarks.evidence.figures import draw_errors
from benchmarks.evidence.markdown import METHODS, OUTSIDE, bold, markdown
from benchmarks.evidence.protocol import MAIN
from benchmarks.evidence.stats import Table, make_table

PUBLISHED = {
    "clean labels": {"47": 41.01, "61": 41.24, "104": 38.61, "177": 38.09, "300": 37.25},
    "noisy labels": {"47": 54.05, "61": 54.02, "104": 50.23, "177": 47.88, "300": 45.47},
}
"""Task A, the published unregularised net: test error in per cent by width."""
DRAWN = (*MAIN, "input Jacobian")
"""Methods in the figure of task A: the main ones and the strongest rival."""


def mnist1d(rows: list[dict], image: Path) -> str:
    """Task A: test error beside the published numbers."""
    columns = _columns(rows)
    if not columns:
        return ""
    panels = {}
    for (w, noise), column in columns.items():
        found = {name: values for name, values in column.items() if name in DRAWN}
        if noise == 0.15 and len(found) > 2:
            title = f"40-{w}-{w}-10, {100 * noise:g} % of labels redrawn"
            panels[title] = found, PUBLISHED["clean labels"][w]
    pieces = ["Test error in %, mean ± standard error (seeds).", errors(rows, PUBLISHED)]
    if panels:
        draw_errors(panels, image)
        pieces += [
            f"![Test errors on MNIST-1D](images/{image.name})",
            "The main methods and the strongest rival: large dots are means, small ones seeds. "
            "The dotted line is the published error of the net without a regulariser that was "
            "trained on *clean* labels.",
        ]
    return "\n\n".join(pieces)


def _columns(rows: list[dict]) -> dict[tuple, dict[str, list[float]]]:
    """Task A: test errors in % by width and noise, and by method."""
    columns: dict[tuple, dict[str, list[float]]] = {}
    for row in rows:
        if row["task"] == "A":
            cell = row["width"].split("x")[0], float(row["noise"])
            column = columns.setdefault(cell, {})
            column.setdefault(row["competitor"], []).append(100 * (1 - float(row["test"])))
    return dict(sorted(columns.items(), key=lambda item: (int(item[0][0]), item[0][1])))


def errors(rows: list[dict], published: dict[str, dict[str, float]] | None = None) -> str:
    """Task A: a table of the errors, with those published by width below."""
    columns = _columns(rows)
    names = [name for name in COMPETITORS if any(name in column for column in columns.values())]
    lines = [[name, *(_error(column.get(name)) for column in columns.values())] for name in names]
    for kind, values in (published or {}).items():
        shown = {"clean labels": {0.0, 0.15}, "noisy labels": {0.15}}[kind]
        numbers = (f"{values[w]:.2f}" if noise in shown else "" for w, noise in columns)
        lines.append([f"published, none, {kind}", *numbers])
    return markdown(["method", *(f"h = {w}, noise {noise:g}" for w, noise in columns)], lines)


def _error(values: list[float] | None) -> str:
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread} ({len(values)})"


def regression(rows: list[dict]) -> str:
    """Task D: errors by data set, clean and noisy, beside the published MC dropout."""
    pieces = []
    for noise, title in ((0.0, "Clean targets"), (1.0, "Target noise of one standard deviation")):
        here = [row for row in rows if row["task"] == "D" and float(row["noise"]) == noise]
        table = make_table(here, "D", [*METHODS, "MGS hidden", *OUTSIDE, *MEANS])
        if not table:
            continue
        ranks = table.ranks.mean(0)
        lines = [
            [
                table.competitors[i],
                *(_rmse(table, j, i) for j in range(len(table.cells))),
                f"{ranks[i]:.2f}",
            ]
            for i in np.argsort(ranks)
        ]
        header = [
            "method",
            *(f"{cell[0]} ({n})" for cell, n in zip(table.cells, table.n_seeds)),
            "mean rank",
        ]
        pieces += [
            f"{title}: test RMSE, in brackets the number of published splits.",
            markdown(header, lines),
        ]
    return "\n\n".join(pieces)


def _rmse(table: Table, cell: int, competitor: int) -> str:
    scores = table.scores[cell]
    error = table.errors[cell, competitor]
    text = f"{-scores[competitor]:.3g}" + ("" if np.isnan(error) else f" ± {error:.2g}")
    return bold(text, scores[competitor] == scores.max())
