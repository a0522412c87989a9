"""One cell's data: split, noise, and the parts on which candidates are tuned and refitted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.evidence import fresh
from benchmarks.evidence.confirmation import KEEL
from benchmarks.evidence.train import Part

CATEGORICAL = {"german", "car"}
"""Sets whose columns of few values are categories coded as integers."""


@dataclass
class Problem:
    """A training set with noise in its labels, and clean test samples.

    Attributes
    ----------
    X, y : ndarray
        Training samples and their noisy labels, or targets.
    y_clean : ndarray
        The same without noise.
    X_test, y_test : ndarray
        Test samples, clean.
    seed : int
    unit : float
        What an error of one is in the target's own unit.
    """

    X: np.ndarray
    y: np.ndarray
    y_clean: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    seed: int
    unit: float = 1.0

    def tuning(self, share: float) -> tuple[Part, np.ndarray]:
        """The part to tune on, which predicts validation and test samples, and who validates."""
        order = np.random.default_rng([self.seed, 2]).permutation(len(self.y))
        n = max(1, round(share * len(self.y)))
        held_out, rest = order[:n], order[n:]
        evaluated = np.concatenate([self.X[held_out], self.X_test])
        return Part(self.X[rest], self.y[rest], evaluated, self.seed), held_out

    def whole(self) -> Part:
        """All training samples, to predict the test samples."""
        return Part(self.X, self.y, self.X_test, self.seed)

    def score(self, prediction: np.ndarray | None, truth: np.ndarray, regression: bool) -> float:
        """Accuracy, or minus the root mean squared error in the target's unit; more is better."""
        if prediction is None:
            return float("nan")
        if regression:
            return -self.unit * float(np.sqrt(np.mean((prediction - truth) ** 2)))
        return float(np.mean(prediction == truth))


def load_problem(folder: Path, task: str, name: str, n: int, noise: float, seed: int) -> Problem:
    """The data of a cell; `n` training samples at most, 0: all."""
    X, y, X_test, y_test = {"A": _mnist1d, "B": _mnist, "C": _tabular, "D": _regression}[task](
        folder, name, n, seed
    )
    rng = np.random.default_rng([seed, 1])
    if task == "D":
        mean, unit = y.mean(), y.std()
        y, y_test = (y - mean) / unit, (y_test - mean) / unit
        return Problem(X, add_noise(y, noise, rng), y, X_test, y_test, seed, float(unit))
    return Problem(X, redraw(y, noise, rng), y, X_test, y_test, seed)


def redraw(y: np.ndarray, share: float, rng) -> np.ndarray:
    """Labels, each replaced by a uniform draw of all classes with probability `share`.

    Shares nest: with one seed, the labels replaced at a smaller share are among those replaced at
    a larger one, by the same draws.
    """
    drawn = rng.random(len(y)) < share
    return np.where(drawn, rng.integers(0, y.max() + 1, len(y)), y)


def add_noise(y: np.ndarray, deviation: float, rng) -> np.ndarray:
    """Targets with Gaussian noise, the same for every deviation but for its size."""
    return y + deviation * rng.standard_normal(len(y)).astype(y.dtype)


@lru_cache(maxsize=2)
def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as f:
        return {name: f[name] for name in f.files}


def _mnist1d(folder, name, n, seed):
    """The published split, on which only noise and initial weights vary; or a set of its own."""
    if name == "mnist1d_generated":
        return fresh.generated_mnist1d(seed)
    d = _arrays(folder / "mnist1d_16k.npz")
    X, X_test = (d[k].astype(np.float32) for k in ("X_train", "X_test"))
    return X, d["y_train"].astype(int), X_test, d["y_test"].astype(int)


def _mnist(folder, name, n, seed):
    """As many training images of each class, as far as `n` allows; all 10000 test images.

    Of Fashion-MNIST, which is a small part here, the test images are all the others.
    """
    file = "fashion_mnist_3k.npz" if name == "fashion_mnist" else "mnist.npz"
    d = _arrays(folder / file)
    X, y, X_test, y_test = d["X_train"], d["y_train"], d["X_test"], d["y_test"]
    if name == "mnist":
        X, _, y, _ = train_test_split(X, y, train_size=n, stratify=y, random_state=seed)
    elif name == "mnist_unused":
        X, y, X_test, y_test = fresh.unused_mnist(X, y, n, seed)
    else:
        X, y = np.concatenate([X, X_test]), np.concatenate([y, y_test])
        X, X_test, y, y_test = train_test_split(X, y, train_size=n, stratify=y, random_state=seed)
    X, X_test = (a.reshape(len(a), -1).astype(np.float32) / 255 for a in (X, X_test))
    return X, y.astype(int), X_test, y_test.astype(int)


def _tabular(folder, name, n, seed):
    """At most `n` training samples and two thirds of all, stratified; the rest is for testing."""
    X, y = fresh.keel(name) if name in KEEL else _pmlb(folder, name)
    n = min(n, round(2 / 3 * len(y)))
    train, test = train_test_split(np.arange(len(y)), train_size=n, stratify=y, random_state=seed)
    scaler = StandardScaler().fit(X[train])
    return scaler.transform(X[train]), y[train], scaler.transform(X[test]), y[test]


def _pmlb(folder, name):
    d = _arrays(folder / "cls" / f"{name}.npz")
    X, y = d["X"].astype(np.float32), d["y"].astype(int)
    return (_one_hot(X) if name in CATEGORICAL else X), y


def _one_hot(X: np.ndarray) -> np.ndarray:
    few = np.array([len(np.unique(column)) <= 12 for column in X.T])
    coded = OneHotEncoder(sparse_output=False, dtype=np.float32).fit_transform(X[:, few])
    return np.hstack([X[:, ~few], coded])


def _regression(folder, name, n, seed):
    """The published split of that number."""
    d = _arrays(folder / "reg" / f"{name}.npz")
    train, test = d["train_idx"][seed], d["test_idx"][seed]
    X, y = d["X"].astype(np.float32), d["y"].astype(np.float32)
    scaler = StandardScaler().fit(X[train])
    return scaler.transform(X[train]), y[train], scaler.transform(X[test]), y[test]


def published_score(folder: Path, name: str, seed: int) -> float:
    """Minus the RMSE that Gal's MC dropout is published to have on that split."""
    return -float(_arrays(folder / "reg" / f"{name}.npz")["gal_test_MC_rmse"][seed])
