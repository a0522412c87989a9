"""The main job, from start to end, on real data: a grid search over `mgs_strength`.

scikit-learn's digits, with 40 % of the training labels replaced by random ones. Everything the
search sees is noisy, the folds it scores on as well: clean labels are used once, at the end.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
from joblib import Parallel
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from sklearn_mgs import MLPClassifier, make_mgs_scorer, mgs_score

STRENGTHS = [0.0, 0.03, 0.1, 0.3, 1.0, 3.0]
NOISE = 0.4
FOLDS = 5
FIGURE = Path("out") / "demo.png"


def noisy_digits(seed=0):
    """Training and test halves of the digits; a share of the training labels is random."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, train_size=1000, stratify=y, random_state=seed
    )
    rng = np.random.default_rng(seed)
    noisy = y_train.copy()
    wrong = rng.random(len(noisy)) < NOISE
    noisy[wrong] = rng.integers(0, 10, wrong.sum())
    return X_train, X_test, noisy, y_test


def pipeline(strength=0.0):
    """What a user would write."""
    return make_pipeline(
        StandardScaler(),
        MLPClassifier(
            hidden_layer_sizes=(128, 128),
            mgs_strength=strength,
            max_iter=60,
            batch_size=64,
            random_state=0,
        ),
    )


def search(X, y):
    """Cross-validated search, scored on noisy labels, with a bar that moves with each fit."""
    grid = GridSearchCV(
        pipeline(),
        {"mlpclassifier__mgs_strength": STRENGTHS},
        scoring={"accuracy": "accuracy", "mgs": make_mgs_scorer(max_samples=200, random_state=0)},
        refit="accuracy",
        cv=FOLDS,
        n_jobs=2,
    )
    with progress(len(STRENGTHS) * FOLDS):
        return grid.fit(X, y)


class progress:
    """Show joblib's finished tasks on a bar, for as long as the block lasts."""

    def __init__(self, total):
        self.bar = tqdm(total=total, desc="fits", unit="fit")

    def __enter__(self):
        self.original, bar = Parallel.print_progress, self.bar

        def advance(parallel):
            bar.update(parallel.n_completed_tasks - bar.n)

        Parallel.print_progress = advance

    def __exit__(self, *exception):
        Parallel.print_progress = self.original
        self.bar.close()


def table(grid, X, y, X_test, y_test):
    """One row per strength: score on noisy folds, accuracy on clean test data, gradient trace."""
    rows = []
    for strength, score in zip(STRENGTHS, grid.cv_results_["mean_test_accuracy"]):
        model = pipeline(strength).fit(X, y)
        rows.append((strength, score, model.score(X_test, y_test), mgs_score(model, X_test)))
    print(f"\n{'mgs_strength':>12} {'CV score':>9} {'clean test':>11} {'gradient trace':>15}")
    for strength, score, clean, trace in rows:
        chosen = " <- chosen" if strength == grid.best_params_[KEY] else ""
        print(f"{strength:>12g} {score:>9.3f} {clean:>11.3f} {trace:>15.1f}{chosen}")
    return rows


KEY = "mlpclassifier__mgs_strength"


def draw(rows, chosen):
    """Accuracy and gradient similarity against the strength."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    strengths, scores, clean, trace = map(np.array, zip(*rows))
    position = np.arange(len(strengths))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    left.plot(position, clean, "o-", color="tab:blue", label="clean test labels")
    left.plot(
        position, scores, "s--", color="tab:gray", label="noisy folds (what the search sees)"
    )
    left.axvline(position[list(strengths).index(chosen)], color="tab:green", lw=6, alpha=0.2)
    left.set(ylabel="accuracy", title=f"Digits, {NOISE:.0%} of the training labels random")
    left.set_ylim(0, 1)
    left.legend(loc="lower right")
    right.semilogy(position, trace, "o-", color="tab:red")
    right.set(ylabel="mean squared gradient norm, tr(K)/n", title="Lower: gradients more alike")
    for ax in (left, right):
        ax.set_xticks(position, [f"{s:g}" for s in strengths])
        ax.set_xlabel("mgs_strength")
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)


def main():
    """Run the job and print what it gained."""
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    start = time.perf_counter()
    X, X_test, y, y_test = noisy_digits()
    print(
        f"digits: {len(X)} training samples, {NOISE:.0%} of their labels replaced at random, "
        f"{len(X_test)} clean test samples; {len(STRENGTHS)} strengths x {FOLDS} folds",
        flush=True,
    )
    grid = search(X, y)
    rows = table(grid, X, y, X_test, y_test)
    chosen = grid.best_params_[KEY]
    draw(rows, chosen)
    clean = {row[0]: row[2] for row in rows}
    print(f"\nfigure: {FIGURE.resolve()}   ({time.perf_counter() - start:.0f} s)")
    print(
        f"mgs_strength={chosen:g}, chosen on noisy labels, gives {clean[chosen]:.3f} accuracy on "
        f"clean test data: {clean[chosen] - clean[0.0]:+.3f} over strength 0 ({clean[0.0]:.3f})."
    )


if __name__ == "__main__":
    main()
