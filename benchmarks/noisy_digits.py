"""Does it help: digits with 60 % random labels, MGS against L2 on the same budget of fits.

Train on 1000 samples, test on the rest with clean labels; (128, 128), Adam, 100 epochs. Each
method has the same number of candidates, chosen by 3-fold cross-validation on noisy labels.
Results accumulate in benchmarks/results/noisy_digits.csv; finished seeds are not run again.

    python benchmarks/noisy_digits.py [--seeds 5]
"""

from __future__ import annotations

import argparse
import csv
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_mgs import MLPClassifier

RESULTS = Path(__file__).parent / "results" / "noisy_digits.csv"
NOISE = 0.6
CANDIDATES = {
    "none": {"mgs_strength": [0.0], "alpha": [1e-4]},
    "L2": {"mgs_strength": [0.0], "alpha": [1.0, 3.0, 10.0, 30.0, 100.0, 300.0]},
    "MGS, default": {"mgs_strength": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0], "alpha": [1e-4]},
    "MGS trace": {
        "mgs_strength": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0],
        "mgs_layers": ["all"],
        "alpha": [1e-4],
    },
    "MGS trace, hidden": {
        "mgs_strength": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0],
        "mgs_layers": ["hidden"],
        "alpha": [1e-4],
    },
    "MGS trace, first": {
        "mgs_strength": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0],
        "mgs_layers": ["first"],
        "alpha": [1e-4],
    },
    "MGS det": {
        "mgs_strength": [0.1, 0.3, 1.0, 3.0, 10.0, 30.0],
        "mgs_metric": ["det"],
        "alpha": [1e-4],
    },
}


def data(seed):
    X, y = load_digits(return_X_y=True)
    X = X.astype(np.float32)
    X, X_test, y, y_test = train_test_split(X, y, train_size=1000, stratify=y, random_state=seed)
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(y)) < NOISE
    y = y.copy()
    y[wrong] = rng.integers(0, 10, wrong.sum())
    return X, y, X_test, y_test


def run(method, seed):
    X, y, X_test, y_test = data(seed)
    model = make_pipeline(
        StandardScaler(),
        MLPClassifier((128, 128), max_iter=100, n_iter_no_change=1000, random_state=seed),
    )
    grid = {f"mlpclassifier__{k}": v for k, v in CANDIDATES[method].items()}
    search = GridSearchCV(model, grid, cv=3, n_jobs=2).fit(X, y)
    chosen = max(search.best_params_.items(), key=lambda kv: len(search.param_grid[kv[0]]))
    return {
        "method": method,
        "seed": seed,
        "chosen": chosen[1],
        "noisy_cv": round(search.best_score_, 4),
        "clean_test": round(search.score(X_test, y_test), 4),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    warnings.simplefilter("ignore")
    RESULTS.parent.mkdir(exist_ok=True)
    rows = list(csv.DictReader(RESULTS.open())) if RESULTS.exists() else []
    done = {(r["method"], int(r["seed"])) for r in rows}
    for seed in seeds:
        for method in CANDIDATES:
            if (method, seed) in done:
                continue
            rows.append(run(method, seed))
            with RESULTS.open("w", newline="") as f:
                writer = csv.DictWriter(f, rows[0])
                writer.writeheader()
                writer.writerows(rows)
            print(rows[-1], flush=True)
    print(f"\n{'method':20} {'clean test accuracy, mean ± s.e.':>34} {'chosen':>24}")
    for method in CANDIDATES:
        part = [r for r in rows if r["method"] == method and int(r["seed"]) in seeds]
        a = np.array([float(r["clean_test"]) for r in part])
        error = a.std(ddof=1) / np.sqrt(len(a)) if len(a) > 1 else float("nan")
        chosen = " ".join(f"{float(r['chosen']):g}" for r in part)
        print(f"{method:20} {a.mean():>25.3f} ± {error:.3f} {chosen:>24}")


if __name__ == "__main__":
    main()
