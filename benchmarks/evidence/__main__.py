"""The command: run what is missing, then write the page.

python -m benchmarks.evidence --data PATH [--hours H] [--task A] [--plan NAME] [--quick] [--page]

A stopped run goes on where it was: rows in benchmarks/results are not run again.
Without the data folder nothing is run, and the page is written from the rows there are.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.evidence.cells import COLUMNS, KEY, Unit, run_unit
from benchmarks.evidence.confirmation import CONFIRMATION, FURTHER, SETTINGS
from benchmarks.evidence.page import write_page
from benchmarks.evidence.protocol import PLAN, QUICK

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "evidence.csv"
CONFIRMED = RESULTS.with_name("confirmation.csv")
FURTHER_DRAWS = RESULTS.with_name("further_draws.csv")
REGRESSION_SETTINGS = RESULTS.with_name("regression_settings.csv")
OTHER = ("confirmation", "further", "settings")
"""Plans whose rows stand on the page by themselves."""
QUICK_RESULTS = ROOT / "out" / "evidence" / "evidence.csv"
PLANS = {
    "confirmation": (CONFIRMATION, CONFIRMED),
    "further": (FURTHER, FURTHER_DRAWS),
    "settings": (SETTINGS, REGRESSION_SETTINGS),
    "main": (PLAN, RESULTS),
}


def read_rows(path: Path) -> dict[tuple, dict]:
    """Rows by their key."""
    if not path.exists():
        return {}
    with path.open(newline="") as f:
        return {tuple(row[name] for name in KEY): row for row in csv.DictReader(f)}


def append_rows(path: Path, rows: list[dict]) -> None:
    """Add rows in a single write, so that a stopped run leaves whole rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if not path.exists():
        writer.writeheader()
    writer.writerows(rows)
    with path.open("a") as f:
        f.write(text.getvalue())
        f.flush()
        os.fsync(f.fileno())


def units_of(plan, task: str | None) -> list[Unit]:
    """The plan's units in their order, each once."""
    units = {}
    for block in plan:
        if task not in (None, block.task):
            continue
        for seed in block.seeds:
            for data in block.sets:
                for name in block.competitors:
                    unit = Unit(block, data, seed, name)
                    units.setdefault(tuple(unit.key(noise) for noise in block.noises), unit)
    return list(units.values())


def seconds_left(units: list[Unit], rows: dict[tuple, dict]) -> float:
    """Estimate from what rows of the same kind have cost; from all rows where there are none."""
    spent = defaultdict(list)
    for row in rows.values():
        kind = tuple(row[name] for name in ("task", "data", "n", "width", "competitor"))
        for part in (kind, kind[:1] + kind[-1:], kind[:1], ()):
            spent[part].append(float(row["seconds"]))
    total = 0.0
    for unit in units:
        for noise in unit.missing(rows):
            key = dict(zip(KEY, unit.key(noise)))
            kind = tuple(key[name] for name in ("task", "data", "n", "width", "competitor"))
            known = (kind, kind[:1] + kind[-1:], kind[:1], ())
            costs = next((spent[part] for part in known if part in spent), [0.0])
            total += sum(costs) / len(costs)
    return total


def run(plan, folder: Path, path: Path, hours: float, task: str | None) -> None:
    """Run units until all have rows, or no more may be started."""
    began = time.time()
    rows = read_rows(path)
    left = [unit for unit in units_of(plan, task) if unit.missing(rows)]
    while left and time.time() - began < hours * 3600:
        unit = left.pop(0)
        noises = unit.missing(rows)
        new = run_unit(unit, noises, folder, rows)
        append_rows(path, new)
        rows |= {tuple(row[name] for name in KEY): row for row in new}
        scores = " ".join(row["test"] for row in new)
        print(
            f"{time.strftime('%H:%M')} {unit.block.task} {unit.data} n={unit.block.n} "
            f"{unit.block.hidden} seed {unit.seed} {unit.competitor}: {scores} | "
            f"{len(left)} left, about {seconds_left(left, rows) / 3600:.1f} h",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--hours", type=float, default=24.0, help="start nothing after so long")
    parser.add_argument("--task", choices=list("ABCD"), help="run this task alone")
    parser.add_argument("--plan", choices=list(PLANS), help="run this plan alone")
    parser.add_argument("--quick", action="store_true", help="a small plan, results in out/")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    args = parser.parse_args()
    if not args.data.is_dir() and not args.page:
        print(f"No folder {args.data}: nothing is run. --data names the folder of the data sets.")
    elif args.quick and not args.page:
        run(QUICK, args.data, QUICK_RESULTS, min(args.hours, 0.15), args.task)
    elif not args.page:
        end = time.time() + 3600 * args.hours
        for name in [args.plan] if args.plan else PLANS:
            plan, path = PLANS[name]
            run(plan, args.data, path, (end - time.time()) / 3600, args.task)
    page = QUICK_RESULTS.with_suffix(".md") if args.quick else ROOT / "docs" / "evidence.md"
    rows = read_rows(QUICK_RESULTS if args.quick else RESULTS)
    others = [{} if args.quick else read_rows(PLANS[name][1]) for name in OTHER]
    write_page(rows.values(), *(more.values() for more in others), page)
    print(f"Wrote {page}.")


if __name__ == "__main__":
    main()
