"""What the page's tables share."""

from __future__ import annotations

from benchmarks.evidence.competitors import COMPETITORS
from benchmarks.evidence.stats import Table

VARIANTS = [name for name in COMPETITORS if name.startswith("MGS")]
RIVALS = [name for name, c in COMPETITORS.items() if not c.lone and name not in VARIANTS]
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
