"""Cross-validated search over ten strengths: all at once, against one fit after the other.

python benchmarks/cv_estimators.py [--repeats 1] [--threads 2] [--device cpu] [--float32]

Digits, ten strengths, five folds, batch 64, 50 epochs, the penalty of all layers; each contender
has `--threads` workers. They are processes, started before the clock. scikit-learn's MLP has no
penalty and searches over ten values of alpha. With `--float32` in single precision alone.
`benchmarks/halving.py` compares the choices with and without halving.
"""

from __future__ import annotations

import time
from itertools import product

import numpy as np
from joblib import Parallel, delayed
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier as ScikitLearn
from timing import arguments, interleaved, row

from sklearn_mgs import MLPClassifier, MLPClassifierCV

RATIOS = (
    ("GridSearchCV", "all at once", 5),
    ("scikit-learn", "all at once", 2),
    ("GridSearchCV", "halving", 10),
)


def start_workers(n_jobs):
    """Let the processes import what they need."""
    Parallel(n_jobs)(delayed(time.sleep)(0.5) for _ in range(2 * n_jobs))
    tiny = GridSearchCV(MLPClassifier((2,), max_iter=1), {"alpha": [0, 1]}, n_jobs=n_jobs)
    tiny.fit(np.eye(20), np.arange(20) % 2)


def contenders(X, y, args, **params):
    params = dict(batch_size=64, max_iter=50, n_iter_no_change=1000, random_state=0, **params)
    ours = dict(**params, mgs_layers="all", device=args.device)
    together = MLPClassifierCV(**ours, n_jobs=args.threads)
    values = np.concatenate([[0], np.logspace(-3, 1, 9)])

    def grid(estimator, name):
        GridSearchCV(estimator, {name: values}, n_jobs=args.threads).fit(X, y)

    return {
        "all at once": lambda: together.set_params(halving=False).fit(X, y),
        "halving": lambda: together.set_params(halving=True).fit(X, y),
        "GridSearchCV": lambda: grid(MLPClassifier(**ours), "mgs_strength"),
        "scikit-learn": lambda: grid(ScikitLearn(**params), "alpha"),
    }


def main():
    args = arguments(__doc__, repeats=1, flags=("float32",))
    X, y = load_digits(return_X_y=True)
    X = X / 16
    start_workers(args.threads)
    print(f"{'what':62} {'ratio':>8}    target", flush=True)
    dtypes = ("float32",) if args.float32 else ("float32", "float64")
    for dtype, hidden in product(dtypes, ((100,), (128, 128))):
        runs = contenders(X.astype(dtype), y, args, hidden_layer_sizes=hidden)
        t = interleaved(runs, args.repeats, warmup=0)
        for theirs, ours, target in RATIOS:
            what = f"{dtype}, {hidden}: {theirs} : {ours}"
            detail = f"({t[theirs]:.1f} s : {t[ours]:.1f} s)"
            row(what, t[theirs] / t[ours], target, detail, at_least=True)


if __name__ == "__main__":
    main()
