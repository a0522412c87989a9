"""Which default `mgs_strength` costs nothing on clean labels: mean ranks over data sets.

Every estimator parameter but the strength is at its default. Each data set (at most 1000 training
samples) is split five times; strengths are ranked within each split by accuracy (with
--regression by R²) on clean test data. Inputs, and a regression's targets, are standardised.

    python benchmarks/default_strength.py --data PATH/TO/cls [--layers auto]
    python benchmarks/default_strength.py --data PATH/TO/reg --regression

The folder holds .npz files with X and y. Results accumulate in benchmarks/results; what is there
is not run again.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, wilcoxon
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_mgs import MLPClassifier, MLPRegressor

RESULTS = Path(__file__).parent / "results"
STRENGTHS = [0.0, 0.001, 0.003, 0.01, 0.03, 0.1]
SETS = (
    "banana clean1 diabetes ionosphere optdigits phoneme saheart satimage "
    "segmentation sonar vehicle wdbc wine_quality_red glass"
).split()


REGRESSIONS = "concrete energy power-plant wine-quality-red yacht".split()


def splits(path, stratify, n_splits=5, n_train=1000, n_test=1000):
    with np.load(path) as f:
        X, y = f["X"].astype(np.float32), f["y"]
    if not stratify:
        y = (y - y.mean()) / y.std()
    n_train = min(n_train, int(0.7 * len(y)))
    n_test = min(n_test, len(y) - n_train)
    for seed in range(n_splits):
        yield (
            seed,
            *train_test_split(
                X,
                y,
                train_size=n_train,
                test_size=n_test,
                stratify=y if stratify else None,
                random_state=seed,
            ),
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--layers", nargs="+", default=["auto"])
    parser.add_argument("--regression", action="store_true")
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(f"{args.data} is no folder of .npz files; nothing to run on")
    warnings.simplefilter("ignore")
    RESULTS.mkdir(exist_ok=True)
    estimator, sets = (MLPRegressor, REGRESSIONS) if args.regression else (MLPClassifier, SETS)
    path = RESULTS / f"default_strength{'_regression' if args.regression else ''}.csv"
    fields = ["set", "seed", "layers", "strength", "score"]
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(r["set"], int(r["seed"]), r["layers"], float(r["strength"])) for r in rows}
    with path.open("a", newline="") as f:
        writer = csv.DictWriter(f, fields)
        if not rows:
            writer.writeheader()
        for name in sets:
            for seed, X, X_test, y, y_test in splits(
                args.data / f"{name}.npz", not args.regression
            ):
                for layers in args.layers:
                    for strength in STRENGTHS:
                        key = (name, seed, layers, strength)
                        if key in done:
                            continue
                        model = make_pipeline(
                            StandardScaler(),
                            estimator(mgs_strength=strength, mgs_layers=layers, random_state=seed),
                        ).fit(X, y)
                        values = (*key, round(model.score(X_test, y_test), 5))
                        rows.append(dict(zip(fields, values)))
                        writer.writerow(rows[-1])
                        f.flush()
            print(name, "done", flush=True)
    for layers in args.layers:
        report([r for r in rows if r["layers"] == layers], layers)


def report(rows, layers):
    """Mean score and mean rank of each strength over data sets and splits.

    Beside them Wilcoxon's test of the data sets' means against those of strength 0.
    """
    table = {}
    for r in rows:
        table.setdefault((r["set"], int(r["seed"])), {})[float(r["strength"])] = float(r["score"])
    full = [t for t in table.values() if len(t) == len(STRENGTHS)]
    score = np.array([[t[s] for s in STRENGTHS] for t in full])
    ranks = np.array([rankdata(-a) for a in score])
    sets = np.array([name for (name, _), t in table.items() if len(t) == len(STRENGTHS)])
    means = np.array([score[sets == name].mean(0) for name in dict.fromkeys(sets)])
    print(f"\nmgs_layers={layers!r}: {len(means)} data sets, {len(full)} splits")
    print(
        f"{'mgs_strength':>12} {'mean score':>14} {'mean rank':>10} {'better/worse than 0':>20} "
        f"{'p':>6}"
    )
    for j, s in enumerate(STRENGTHS):
        change = score[:, j] - score[:, 0]
        sides = f"{(change > 0).sum()}/{(change < 0).sum()}"
        p = wilcoxon(means[:, j], means[:, 0]).pvalue if s else float("nan")
        print(
            f"{s:>12g} {score[:, j].mean():>14.4f} {ranks[:, j].mean():>10.2f} {sides:>20} "
            f"{p:6.2f}"
        )


if __name__ == "__main__":
    main()
