"""Cross-validated search over ten strengths: all at once, against one fit after the other.

python benchmarks/cv_estimators.py [--repeats 3] [--threads 2] [--device cpu]

Digits, ten strengths, five folds, batch 64, 50 epochs; each contender has `--threads` workers.
GridSearchCV's are processes, started before the clock. scikit-learn's MLP has no penalty and
searches over ten values of alpha. The last part repeats the search with and without halving on
ten permutations of the samples: how often both choose the same, and what it costs if not.
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


def start_workers(n_jobs):
    """Let the processes import what they need."""
    Parallel(n_jobs)(delayed(time.sleep)(0.5) for _ in range(2 * n_jobs))
    tiny = GridSearchCV(MLPClassifier((2,), max_iter=1), {"alpha": [0, 1]}, n_jobs=n_jobs)
    tiny.fit(np.eye(20), np.arange(20) % 2)


def contenders(X, y, args, **params):
    params = dict(batch_size=64, max_iter=50, n_iter_no_change=1000, random_state=0, **params)
    ours = dict(**params, device=args.device)
    strengths = MLPClassifierCV(**ours)
    values = np.concatenate([[0], np.logspace(-3, 1, 9)])
    jobs = dict(n_jobs=args.threads)
    return {
        "all at once": lambda: strengths.set_params(**jobs, halving=False).fit(X, y),
        "halving": lambda: strengths.set_params(**jobs, halving=True).fit(X, y),
        "GridSearchCV": lambda: GridSearchCV(
            MLPClassifier(**ours), {"mgs_strength": values}, **jobs
        ).fit(X, y),
        "scikit-learn": lambda: GridSearchCV(ScikitLearn(**params), {"alpha": values}, **jobs).fit(
            X, y
        ),
    }


def choices(X, y, args, n_runs=10):
    """How often halving chooses what the full search chooses, and the score it loses."""
    same, lost = 0, []
    for seed in range(n_runs):
        order = np.random.RandomState(seed).permutation(len(y))
        search = MLPClassifierCV(
            (100,),
            batch_size=64,
            max_iter=50,
            n_iter_no_change=1000,
            random_state=seed,
            n_jobs=args.threads,
            device=args.device,
        )
        full = search.fit(X[order], y[order]).cv_results_["mean_test_score"]
        halved = search.set_params(halving=True).fit(X[order], y[order]).best_index_
        same += halved == full.argmax()
        lost.append(full.max() - full[halved])
    row(
        "halving: same choice, of ten", same, 9, f"(score lost: {np.max(lost):.4f})", at_least=True
    )


def main():
    args = arguments(__doc__, repeats=3)
    X, y = load_digits(return_X_y=True)
    X = X / 16
    start_workers(args.threads)
    print(f"{'what':62} {'ratio':>8}    target")
    for dtype, hidden in product(("float32", "float64"), ((100,), (128, 128))):
        runs = contenders(X.astype(dtype), y, args, hidden_layer_sizes=hidden)
        t = interleaved(runs, args.repeats, warmup=0)
        for ours, theirs, target in (
            ("all at once", "GridSearchCV", 5),
            ("all at once", "scikit-learn", 2),
            ("halving", "GridSearchCV", 10),
        ):
            what, detail = (
                f"{dtype}, {hidden}: {theirs} : {ours}",
                f"({t[theirs]:.1f} s : {t[ours]:.1f} s)",
            )
            row(what, t[theirs] / t[ours], target, detail, at_least=True)
    choices(X.astype("float32"), y, args)


if __name__ == "__main__":
    main()
