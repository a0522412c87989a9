"""The page's part on the confirmation."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from benchmarks.evidence.confirmation import TRAINING
from benchmarks.evidence.figures import draw_ranks
from benchmarks.evidence.goals import OURS, confirmed, on_mnist, on_regression
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


def regression_settings(rows: list[dict]) -> str:
    """Task D, the training chosen on held-out samples too: goals, errors, and what was chosen."""
    if not rows:
        return ""
    trained = [row for row in rows if row["chosen"] != "{}"]
    hours = sum(float(row["seconds"]) for row in trained) / 3600
    counts = {name: Counter() for name in dict.fromkeys(row["competitor"] for row in trained)}
    for row in trained:
        counts[row["competitor"]][_training(json.loads(row["chosen"]))] += 1
    kinds = list(map(_training, TRAINING))
    lines = [[name, *(str(count[kind]) for kind in kinds)] for name, count in counts.items()]
    return "\n\n".join(
        [
            markdown(["goal", "measured", ""], on_regression(rows)),
            regression(rows),
            f"How often each training was chosen ({len(trained)} rows, {hours:.1f} hours of one "
            f"core):",
            markdown(["method", *kinds], lines),
        ]
    )


def _training(chosen: dict) -> str:
    return f"rate {chosen['learning_rate_init']:g}, mini-batches of {chosen['batch_size']}"
