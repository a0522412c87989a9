"""How often the search with halving chooses the strength that the full search chooses.

python benchmarks/halving.py [--threads 2] [--device cpu]

Digits in float32, ten strengths, five folds, batch 64, 50 epochs, on ten permutations of the
samples, each with a seed of its own. The share of the epochs that halving trains bounds what it
saves.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from timing import arguments, row

from sklearn_mgs import MLPClassifierCV


def compare(X, y, args, hidden, n_runs=10):
    """Print a row: same choices, score lost where they differ, share of the epochs."""
    same, lost, share = 0, [], []
    for seed in range(n_runs):
        order = np.random.RandomState(seed).permutation(len(y))
        search = MLPClassifierCV(
            hidden,
            batch_size=64,
            max_iter=50,
            n_iter_no_change=1000,
            random_state=seed,
            mgs_layers="all",
            n_jobs=args.threads,
            device=args.device,
        )
        full = search.fit(X[order], y[order])
        strength, scores = full.mgs_strength_, full.cv_results_["mean_test_score"]
        halved = search.set_params(halving=True).fit(X[order], y[order])
        same += halved.mgs_strength_ == strength
        lost.append(scores.max() - scores[halved.best_index_])
        share.append(halved.cv_results_["n_resources"].mean() / search.max_iter)
    detail = f"(score lost: {max(lost):.4f} at most; share of epochs: {np.mean(share):.2f})"
    row(f"{hidden}: same choice, of {n_runs}", same, 9, detail, at_least=True)


def main():
    args = arguments(__doc__, repeats=1)
    X, y = load_digits(return_X_y=True)
    for hidden in ((100,), (128, 128)):
        compare((X / 16).astype("float32"), y, args, hidden)


if __name__ == "__main__":
    main()
