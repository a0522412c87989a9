"""The page's part on the confirmation."""

from __future__ import annotations

from pathlib import Path

from benchmarks.evidence.figures import draw_ranks
from benchmarks.evidence.goals import OURS, confirmed, on_mnist
from benchmarks.evidence.markdown import (
    METHODS,
    accuracies,
    conditions,
    markdown,
    rank_rows,
    seeds_of,
)
from benchmarks.evidence.published import errors, regression
from benchmarks.evidence.stats import is_noisy, make_table

IMAGES = {"mnist_unused": "MNIST", "fashion_mnist": "Fashion-MNIST"}


def confirmation(rows: list[dict], image: Path) -> str:
    """Goals, and the tables behind them."""
    if not rows:
        return ""
    hours = sum(float(row["seconds"]) for row in rows) / 3600
    pieces = [
        f"{len(rows)} rows, {hours:.1f} hours of one core shared with other work:",
        markdown(["goal", "measured, the default penalty", ""], confirmed(rows)),
        "By the goals' own words MGS + L2 may meet them too. The same rows, so read:",
        markdown(["goal", "measured", ""], confirmed(rows, OURS)),
    ]
    table = make_table(rows, "C", METHODS)
    if table:
        parts = conditions(table)
        draw_ranks({"noise 0": parts["noise 0"], "noise ≥ 0.2": parts["noise ≥ 0.2"]}, image)
        pieces += [
            f"Tabular sets of KEEL, mean ranks ({len(parts['noise 0'].cells)} data sets, "
            f"{seeds_of(table)}):",
            markdown(["method", *parts], rank_rows(parts, "noise ≥ 0.2")),
            f"![Critical-difference diagrams of the confirmation](images/{image.name})",
        ]
    for data, title in IMAGES.items():
        table = make_table([row for row in rows if row["data"] == data], "B", METHODS)
        if table and table.where(is_noisy):
            pieces += [
                f"{title}, test accuracy by training samples and noise ({seeds_of(table)}):",
                accuracies(table),
            ]
    for title, part in (
        ("MNIST-1D, test error in %, mean ± standard error (data sets):", errors(rows)),
        ("", regression(rows)),
    ):
        pieces += [piece for piece in (title, part) if part and piece]
    return "\n\n".join(pieces)


def further_draws(rows: list[dict]) -> str:
    """Goals and table of the further draws of MNIST."""
    table = make_table(rows, "B", METHODS)
    if not table or not table.where(is_noisy):
        return ""
    hours = sum(float(row["seconds"]) for row in rows) / 3600
    pieces = [
        markdown(["goal", "measured, the default penalty", ""], on_mnist(rows)),
        f"Test accuracy by training samples and noise ({seeds_of(table)}; {len(rows)} rows, "
        f"{hours:.1f} hours of one core):",
        accuracies(table),
    ]
    return "\n\n".join(pieces)
