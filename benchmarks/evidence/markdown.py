"""What the page's tables share."""

from __future__ import annotations

import numpy as np

from benchmarks.evidence.competitors import COMPETITORS
from benchmarks.evidence.stats import Table, is_noisy

LISTED = {name: c for name, c in COMPETITORS.items() if not c.of}
VARIANTS = [name for name in LISTED if name.startswith("MGS")]
RIVALS = [name for name, c in LISTED.items() if not c.lone and name not in VARIANTS]
METHODS = [
    *RIVALS,
    "MGS trace",
    "MGS det",
    "MGS first",
    "MGS all or first",
    "MGS all, relative",
    "MGS all, relative, random outputs",
    "MGS first, relative",
    "MGS + L2",
    "MGS all, relative + L2",
]
OUTSIDE = [name for name, c in COMPETITORS.items() if c.lone]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table; empty without rows."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seeds_of(table: Table) -> str:
    """The number of seeds, in words."""
    low, high = table.n_seeds.min(), table.n_seeds.max()
    count = f"{low}" if low == high else f"{low} to {high}"
    return f"{count} seed{'s' if high > 1 else ''}"


def bold(text: str, yes: bool) -> str:
    """Text in bold, or as it is."""
    return f"**{text}**" if yes else text


def rank_rows(columns: dict[str, Table], order_by: str) -> list[list[str]]:
    """Mean ranks under each condition, best first by one of them."""
    ranks = {title: table.ranks.mean(0) for title, table in columns.items()}
    names = columns[order_by].competitors
    order = np.argsort(ranks[order_by])
    best = {title: r.min() for title, r in ranks.items()}
    return [
        [names[i], *(bold(f"{r[i]:.2f}", r[i] == best[title]) for title, r in ranks.items())]
        for i in order
    ]


def conditions(table: Table) -> dict[str, Table]:
    """By noise, and all noisy levels as the mean of each data set."""
    levels = sorted({cell[3] for cell in table.cells})
    parts = {f"noise {level:g}": table.where(lambda c, v=level: c[3] == v) for level in levels}
    return parts | {"noise ≥ 0.2": table.where(is_noisy).per_set()}


def accuracies(table: Table) -> str:
    """Test accuracy by size and noise, and the mean rank where labels are noisy, best first."""
    ranks = table.where(is_noisy).ranks.mean(0)
    lines = []
    for i in np.argsort(ranks):
        scores = [bold(f"{s[i]:.3f}", s[i] == s.max()) for s in table.scores]
        lines.append([table.competitors[i], *scores, f"{ranks[i]:.2f}"])
    header = ["method", *(f"{n}, {noise:g}" for _, n, _, noise in table.cells), "rank, ≥ 0.2"]
    return markdown(header, lines)
