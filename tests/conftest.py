"""Settings that must precede the imports of the tests, and what tests share."""

import os

# SciPy reads it once, when it is first imported; scikit-learn's array-API checks need it.
os.environ["SCIPY_ARRAY_API"] = "1"

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification, make_regression


def pytest_collection_modifyitems(items):
    """Skip tests that need a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def blobs():
    """Forty samples of three classes, five features."""
    X, y = make_classification(40, 5, n_informative=4, n_redundant=0, n_classes=3, random_state=0)
    return X, y


@pytest.fixture(scope="session")
def line():
    """Forty samples of a linear target of unit variance, five features."""
    X, y = make_regression(40, 5, noise=5.0, random_state=0)
    return X, y / y.std()


@pytest.fixture(scope="session")
def labels(blobs):
    """Targets of every kind for the samples of `blobs`."""
    y = blobs[1]
    indicator = np.stack([y == 0, y > 0, np.arange(len(y)) % 2], axis=1).astype(int)
    return {
        "binary": (y > 0).astype(int),
        "multiclass": y,
        "multilabel": indicator,
        "strings": np.array(["ant", "bee", "cow"])[y],
        "booleans": y > 0,
    }
