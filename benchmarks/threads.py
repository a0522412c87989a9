"""Two workers on two cores against one: threads within a worker must not be too many.

python benchmarks/threads.py [--repeats 3] [--threads 2]

Digits, five strengths, three folds, 20 epochs. A worker of two that started a thread per core, as
torch does by itself, would be slower than one worker alone.
"""

from __future__ import annotations

import torch
from joblib import parallel_config
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from timing import arguments, interleaved, row

from sklearn_mgs import MLPClassifier, MLPClassifierCV

STRENGTHS = [0, 0.01, 0.1, 1, 10]


def searches(params):
    """What is searched with, and joblib's backend."""
    return {
        "GridSearchCV, loky": (
            GridSearchCV(MLPClassifier(**params), {"mgs_strength": STRENGTHS}, cv=3),
            "loky",
        ),
        "MLPClassifierCV, threading": (
            MLPClassifierCV(mgs_strengths=STRENGTHS, cv=3, **params),
            "threading",
        ),
        "MLPClassifierCV, loky": (
            MLPClassifierCV(mgs_strengths=STRENGTHS, cv=3, **params),
            "loky",
        ),
    }


def main():
    args = arguments(__doc__, repeats=3)
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype("float32")
    params = dict(
        batch_size=64, max_iter=20, n_iter_no_change=1000, random_state=0, mgs_layers="all"
    )
    for name, (search, backend) in searches(dict(hidden_layer_sizes=(128, 128), **params)).items():

        def fit(n_jobs, search=search, backend=backend):
            with parallel_config(backend):
                search.set_params(n_jobs=n_jobs).fit(X, y)

        runs = {n: lambda n=n: fit(n) for n in (1, args.threads)}
        t = interleaved(runs, args.repeats)
        what = f"{name}: n_jobs=1 : n_jobs={args.threads}"
        detail = f"({t[1]:.1f} s : {t[args.threads]:.1f} s; torch: {torch.get_num_threads()})"
        row(what, t[1] / t[args.threads], 1, detail, at_least=True)


if __name__ == "__main__":
    main()
