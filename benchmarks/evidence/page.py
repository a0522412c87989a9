"""docs/evidence.md from the rows alone: the words of template.md with tables and figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.evidence.competitors import COMPETITORS
from benchmarks.evidence.confirmed import confirmation, further_draws, regression_settings
from benchmarks.evidence.figures import draw_noise, draw_ranks
from benchmarks.evidence.goals import goals
from benchmarks.evidence.markdown import (
    METHODS,
    OUTSIDE,
    VARIANTS,
    accuracies,
    conditions,
    markdown,
    rank_rows,
    seeds_of,
)
from benchmarks.evidence.protocol import USUAL
from benchmarks.evidence.published import mnist1d, regression
from benchmarks.evidence.stats import (
    Table,
    critical_difference,
    holm,
    is_noisy,
    make_table,
    wilcoxon_p,
    win_tie_loss,
)

TEMPLATE = Path(__file__).with_name("template.md")
LAYERS = ["none", "L2", "input Jacobian", *VARIANTS]


def write_page(rows, confirming, further, settings, path: Path) -> None:
    """Write the page to `path` and its figures to the folder ``images`` beside it.

    The rows are those of the plan, of the confirmation, of its further draws, and of the
    regressions whose training was chosen too.
    """
    rows, confirming, further, settings = map(list, (rows, confirming, further, settings))
    images = path.parent / "images"
    parts = {
        "state": state(rows),
        "goals": markdown(["goal", "measured", ""], goals(rows)),
        "confirmation": confirmation(confirming, images / "evidence_confirmation.png"),
        "further": further_draws(further),
        "settings": regression_settings(settings),
        "tabular": tabular(rows, images / "evidence_ranks.png"),
        "layers": layers(rows),
        "mnist": mnist(rows, images / "evidence_mnist.png"),
        "mnist1d": mnist1d(rows, images / "evidence_mnist1d.png"),
        "regression": regression(rows),
        "clean_tuning": clean_tuning(rows),
        "cost": cost(rows),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"{{{{{name}}}}}", part or "Not run yet.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def state(rows: list[dict]) -> str:
    """How much has been run."""
    lines = []
    for task in "ABCD":
        mine = [r for r in rows if r["task"] == task and not r["competitor"].endswith("published")]
        hours = sum(float(row["seconds"]) for row in mine) / 3600
        n_sets = len({(row["data"], row["n"], row["width"]) for row in mine})
        n_seeds = len({row["seed"] for row in mine})
        names = len({row["competitor"] for row in mine})
        lines.append([task, str(n_sets), str(names), str(n_seeds), str(len(mine)), f"{hours:.1f}"])
    header = ["task", "data sets (sizes, widths)", "competitors", "seeds at most", "rows", "hours"]
    return markdown(header, lines)


# ------------------------------------------------------------------- classification


def tabular(rows: list[dict], image: Path) -> str:
    """Task C: mean ranks, who beats whom, the diagram, outside references."""
    table = make_table(rows, "C", [name for name in METHODS if name in USUAL])
    if not table:
        return ""
    parts = conditions(table)
    noisy, clean = parts["noise ≥ 0.2"], parts["noise 0"]
    draw_ranks({"noise 0": clean, "noise ≥ 0.2": noisy}, image)
    cd = critical_difference(len(table.competitors), len(noisy.cells))
    pieces = [
        f"Mean ranks of {len(table.competitors)} methods, lower is better "
        f"({len(clean.cells)} data sets, {seeds_of(table)}); the last column ranks each data "
        f"set's mean over the noisy levels. Differences below {cd:.2f} are within chance "
        f"(Nemenyi, 5 %).",
        markdown(["method", *parts], rank_rows(parts, "noise ≥ 0.2")),
        f"![Critical-difference diagrams of the tabular sets](images/{image.name})",
    ]
    for title, part in (("noise ≥ 0.2", noisy), ("noise 0", clean)):
        pieces += [
            f"Data sets won / tied / lost at {title}, and the p-value of Wilcoxon's signed-rank "
            f"test over data sets, two-sided, with Holm's correction within the column:",
            versus(part),
        ]
    wider = make_table(rows, "C", METHODS)
    if len(wider.competitors) > len(table.competitors):
        parts = conditions(wider)
        pieces += [
            f"Mean ranks of all {len(wider.competitors)} methods ({seeds_of(wider)}):",
            markdown(["method", *parts], rank_rows(parts, "noise ≥ 0.2")),
        ]
    outside = make_table(rows, "C", ["L2", "MGS trace", "MGS first", *OUTSIDE])
    if set(outside.competitors) & set(OUTSIDE):
        pieces += ["Mean accuracy beside outside references:", mean_scores(conditions(outside))]
    return "\n\n".join(pieces)


def versus(table: Table) -> str:
    """MGS methods, in columns, against all others."""
    mine = [name for name in table.competitors if name in VARIANTS]
    others = [name for name in table.competitors if name not in VARIANTS]
    columns = []
    for name in mine:
        a = table.column(name)
        p_values = holm([wilcoxon_p(a, table.column(other)) for other in others])
        counts = [win_tie_loss(a, table.column(other)) for other in others]
        columns.append([f"{w} / {t} / {n}, p = {p:.2g}" for (w, t, n), p in zip(counts, p_values)])
    return markdown(["against", *mine], [list(line) for line in zip(others, *columns)])


def mean_scores(columns: dict[str, Table]) -> str:
    """Mean accuracy over data sets under each condition."""
    names = next(iter(columns.values())).competitors
    means = {title: table.scores.mean(0) for title, table in columns.items()}
    lines = [[name, *(f"{m[i]:.3f}" for m in means.values())] for i, name in enumerate(names)]
    return markdown(["method", *columns], lines)


def layers(rows: list[dict]) -> str:
    """Tasks B and C: which layers' gradients, which centring."""
    pieces = []
    for task, where in (("C", "Tabular sets"), ("B", "MNIST")):
        table = make_table(rows, task, LAYERS)
        if table:
            parts = conditions(table)
            if task == "B":
                parts["noise ≥ 0.2"] = table.where(is_noisy)
            pieces += [
                f"{where}, mean ranks ({len(table.cells)} cells of data set, size and noise, "
                f"{seeds_of(table)}):",
                markdown(["method", *parts], rank_rows(parts, "noise ≥ 0.2")),
            ]
    return "\n\n".join(pieces)


def mnist(rows: list[dict], image: Path) -> str:
    """Task B: accuracy by size and noise."""
    table = make_table(rows, "B", [*METHODS, "linear"])
    if not table:
        return ""
    draw_noise(table, image, "test accuracy")
    return "\n\n".join(
        [
            f"Test accuracy by training samples and noise ({seeds_of(table)}, 10000 test images), "
            f"and the mean rank over the noisy columns.",
            accuracies(table),
            f"![Test accuracy against noise](images/{image.name})",
        ]
    )


def clean_tuning(rows: list[dict]) -> str:
    """What clean validation labels would have gained, at the highest noise of tasks B and C."""
    lines: dict[str, list[str]] = {}
    header = ["method"]
    for task, noise in (("C", 0.4), ("B", 0.6)):
        here = [row for row in rows if row["task"] == task and float(row["noise"]) == noise]
        table = make_table(here, task, METHODS)
        if not table:
            continue
        clean = make_table(here, task, METHODS, score="test_if_clean")
        header += [f"{task}, noise {noise:g}: noisy validation", "clean validation"]
        for name in table.competitors:
            pair = [table.column(name).mean(), clean.column(name).mean()]
            lines.setdefault(name, []).extend(f"{value:.3f}" for value in pair)
    full = [[name, *values] for name, values in lines.items() if len(values) == len(header) - 1]
    return markdown(header, full)


def cost(rows: list[dict]) -> str:
    """Task C: seconds for all candidates over L2's on the same data, median over cells."""
    seconds: dict[str, dict[tuple, float]] = {}
    for row in rows:
        if row["task"] == "C" and not COMPETITORS[row["competitor"]].lone:
            cell = row["data"], row["seed"], row["noise"]
            seconds.setdefault(row["competitor"], {})[cell] = float(row["seconds"])
    decay = {cell: s for cell, s in seconds.get("L2", {}).items() if s}
    ratios = {
        name: float(np.median([mine[cell] / decay[cell] for cell in mine if cell in decay]))
        for name, mine in seconds.items()
        if set(mine) & set(decay)
    }
    lines = [[name, f"{ratios[name]:.1f}"] for name in sorted(ratios, key=ratios.get)]
    return markdown(["method", "time over L2's"], lines)
