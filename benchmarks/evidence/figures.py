"""The page's figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.evidence.stats import Table, critical_difference

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = {
    "none": "0.5",
    "L2": "tab:blue",
    "dropout": "tab:green",
    "early stopping": "tab:olive",
    "input Jacobian": "tab:purple",
    "MGS trace": "tab:red",
    "MGS first": "tab:orange",
    "MGS + L2": "tab:pink",
    "MGS all, relative": "k",
}
"""The competitors that have a line in the figures of scores."""


def save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date inside: the same rows make the same file.
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def draw_ranks(tables: dict[str, Table], path: Path) -> None:
    """Critical-difference diagrams, one above the other: titles and tables with one cell a set."""
    figure, axes = plt.subplots(len(tables), 1, figsize=(8, 2.9 * len(tables)), squeeze=False)
    for ax, (title, table) in zip(axes[:, 0], tables.items()):
        _draw_diagram(ax, title, table)
    save(figure, path)


def _draw_diagram(ax, title: str, table: Table) -> None:
    ranks = table.ranks.mean(0)
    order = np.argsort(ranks)
    k = len(order)
    cd = critical_difference(k, len(table.cells))
    bars = _cliques(ranks[order], cd)
    top = 1.0 + 0.45 * len(bars)
    half = -(-k // 2)
    ax.set(xlim=(k + 0.5, 0.5), ylim=(-half - 0.5, top + 2.2))
    ax.axis("off")
    ax.set_title(f"{title} ({len(table.cells)} data sets)", fontsize=10)
    ax.plot([1, k], [top, top], color="k", lw=1)
    for tick in range(1, k + 1):
        ax.plot([tick, tick], [top, top + 0.15], color="k", lw=1)
        ax.text(tick, top + 0.25, str(tick), ha="center", va="bottom", fontsize=8)
    for i, (first, last) in enumerate(bars):
        ax.plot(ranks[order][[first, last]], [top - 0.45 * (i + 1)] * 2, color="k", lw=3)
    for place, index in enumerate(order):
        left = place < half  # the axis is reversed: the best ranks are on the right
        y = -(place if left else k - 1 - place)
        end, align = (0.4, "left") if left else (k + 0.6, "right")
        ax.plot([ranks[index], ranks[index], end], [top, y, y], color="0.6", lw=0.8)
        name = table.competitors[index]
        weight = "bold" if name.startswith("MGS") else "normal"
        text = f" {name} {ranks[index]:.2f} "
        ax.text(end, y, text, ha=align, va="center", fontsize=8, weight=weight)
    ax.plot([1, 1 + cd], [top + 1.3] * 2, color="k", lw=1.5)
    label = f"critical difference {cd:.2f}"
    ax.text(1 + cd / 2, top + 1.4, label, ha="center", va="bottom", fontsize=8)


def _cliques(ranks: np.ndarray, cd: float) -> list[tuple[int, int]]:
    """Longest runs of sorted ranks that differ by less than `cd`: first and last places."""
    runs: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = int(np.searchsorted(ranks, ranks[first] + cd)) - 1
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs


def draw_noise(table: Table, path: Path, ylabel: str) -> None:
    """Scores against noise, one panel per number of training samples."""
    sizes = sorted({cell[1] for cell in table.cells})
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(3.2 * len(sizes), 3), squeeze=False, sharey=True
    )
    for ax, n in zip(axes[0], sizes):
        part = table.where(lambda cell, n=n: cell[1] == n)
        noise = [cell[3] for cell in part.cells]
        for name in (name for name in COLORS if name in table.competitors):
            ax.plot(noise, part.column(name), ".-", color=COLORS[name], label=name)
        ax.set(title=f"{n} samples", xlabel="share of labels drawn anew", xticks=noise)
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel(ylabel)
    axes[0, -1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save(figure, path)


def draw_errors(panels: dict[str, tuple[dict[str, list[float]], float]], path: Path) -> None:
    """Test errors by method, best first: a panel for each net.

    `panels` has by title the errors of each method in %, a value per seed, and the error of the
    published net without regulariser on clean labels.
    """
    tallest = max(len(errors) for errors, _ in panels.values())
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.4 * len(panels), 1.0 + 0.28 * tallest), squeeze=False
    )
    for ax, (title, (errors, clean)) in zip(axes[0], panels.items()):
        names = sorted(errors, key=lambda name: -np.mean(errors[name]))
        for y, name in enumerate(names):
            values = errors[name]
            color = "tab:red" if name.startswith("MGS") else "0.55"
            ax.plot(np.mean(values), y, "o", color=color, ms=8)
            ax.plot(values, [y] * len(values), "k.", ms=3)
        ax.axvline(clean, color="k", ls=":", lw=1.2)
        ax.set_title(title, fontsize=10)
        ax.set(yticks=range(len(names)), yticklabels=names, xlabel="test error in %")
        ax.set_ylim(-0.7, len(names) - 0.3)
        ax.grid(axis="y", alpha=0.3)
        ax.tick_params(labelsize=8)
    figure.tight_layout()
    save(figure, path)
