"""Half of each mini-batch for the default penalty's kernel, or all of it: no test data is asked.

The default takes half for its cost (`benchmarks/penalty_cost.py`). Here it is compared with the
whole mini-batch on samples that neither the plan nor the confirmation tests on: MNIST images that
the plan draws for training, MNIST-1D data sets and tabular sets generated anew. Nets, candidates
and tuning on noisy held-out labels are those of tasks B and C. The rule, fixed before the first
run: half stays unless the whole mini-batch is better at the 5 % level.

    python -m benchmarks.evidence.half_batch --data PATH/TO/data
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy.stats import wilcoxon
from sklearn.datasets import make_classification, make_gaussian_quantiles
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from benchmarks.evidence.cells import choose
from benchmarks.evidence.competitors import COMPETITORS
from benchmarks.evidence.data import Problem, redraw
from benchmarks.evidence.fresh import generated_mnist1d, unused
from benchmarks.evidence.protocol import TASKS
from benchmarks.evidence.train import Job, train

SHARES = {"half": {}, "whole": {"mgs_batch_size": None}}
NOISES = (0.0, 0.2, 0.4, 0.6)


def drawn_mnist(folder: Path):
    """Images of MNIST that some seed of the plan trains on."""
    with np.load(folder / "mnist.npz") as f:
        X, y = f["X_train"].reshape(60000, -1) / np.float32(255), f["y_train"].astype(int)
    drawn = np.setdiff1d(np.arange(len(y)), unused(y))
    return X[drawn], y[drawn]


def mnist1d(seed: int):
    """All samples of a data set drawn anew."""
    X, y, X_test, y_test = generated_mnist1d(seed)
    return np.concatenate([X, X_test]), np.concatenate([y, y_test])


def tabular(seed: int):
    """Clusters, or shells around the origin, in ten to forty columns, two to five classes."""
    rng = np.random.default_rng(seed)
    n_features, n_classes = int(rng.integers(10, 41)), int(rng.integers(2, 6))
    shape = {"n_samples": 4000, "n_features": n_features, "n_classes": n_classes}
    if seed % 3 == 0:
        X, y = make_gaussian_quantiles(**shape | {"n_features": 10}, random_state=seed)
    else:
        inner = {"n_informative": n_features // 2, "n_clusters_per_class": seed % 3}
        X, y = make_classification(**shape, **inner, random_state=seed)
    return StandardScaler().fit_transform(X).astype(np.float32), y


def cells(folder: Path):
    """Name, samples, number of them for training, seed."""
    mnist = drawn_mnist(folder)
    for n, seed in product((100, 300, 1000), range(200, 205)):
        yield "MNIST", mnist, n, seed
    for seed in range(200, 203):
        yield "MNIST-1D", mnist1d(seed), 1000, seed
    for seed in range(200, 212):
        yield "tabular", tabular(seed), 400, seed


def accuracies(X, y, n: int, seed: int) -> dict[str, list[float]]:
    """Accuracy on clean labels of what noisy held-out labels chose, for each noise level."""
    X, X_test, y, y_test = train_test_split(X, y, train_size=n, stratify=y, random_state=seed)
    X_test, y_test = X_test[:5000], y_test[:5000]
    task, candidates = TASKS["B"], COMPETITORS["MGS all, relative"].candidates
    base = {**task.fit, "hidden_layer_sizes": (64, 64), "max_iter": 200 if n < 1000 else 100}
    found = {share: [] for share in SHARES}
    for noise in NOISES:
        noisy = redraw(y, noise, np.random.default_rng([seed, 1]))
        problem = Problem(X, noisy, y, X_test, y_test, seed)
        part, held_out = problem.tuning(task.validation)
        jobs = {share: [Job(part, {**c, **SHARES[share]}) for c in candidates] for share in SHARES}
        train([job for some in jobs.values() for job in some], base, regression=False)
        for share, some in jobs.items():
            found[share].append(chosen_accuracy(problem, some, held_out))
    return found


def chosen_accuracy(problem: Problem, jobs: list[Job], held_out) -> float:
    """Accuracy of the best by noisy held-out labels."""
    truth, m = problem.y[held_out], len(held_out)
    results = [
        {
            "candidate": job,
            "noisy": problem.score(job.prediction[:m], truth, False),
            "test": problem.score(job.prediction[m:], problem.y_test, False),
        }
        for job in jobs
    ]
    return choose(results, "noisy")["test"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    differences: dict[str, list[float]] = {}
    for name, (X, y), n, seed in cells(args.data):
        found = accuracies(X, y, n, seed)
        gain = np.subtract(found["half"], found["whole"])
        differences.setdefault(name, []).extend(gain)
        print(name, n, seed, {k: np.round(v, 3).tolist() for k, v in found.items()}, flush=True)
    print("\n| data | cells | half − whole, mean accuracy | higher / equal / lower | p |")
    print("|---" * 5 + "|")
    differences["all"] = [gain for gains in differences.values() for gain in gains]
    for name, gains in differences.items():
        gains = np.array(gains)
        counts = [int(np.sum(np.sign(gains) == sign)) for sign in (1, 0, -1)]
        p = wilcoxon(gains).pvalue
        cell = f"{gains.mean():+.4f} ± {gains.std(ddof=1) / len(gains) ** 0.5:.4f}"
        print(f"| {name} | {len(gains)} | {cell} | {' / '.join(map(str, counts))} | {p:.2f} |")


if __name__ == "__main__":
    main()
