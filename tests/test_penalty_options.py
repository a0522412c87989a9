"""What the estimators' "auto" means: fits with it, and with what it stands for."""

import numpy as np
import pytest

from sklearn_mgs import MLPClassifier, MLPClassifierCV, MLPRegressor

rng = np.random.RandomState(0)
X = rng.randn(50, 4)
CLASSES = rng.randint(0, 3, 50)
BASE = {"hidden_layer_sizes": (6, 5), "max_iter": 3, "batch_size": 15, "random_state": 0}
BASE["mgs_strength"] = 0.5
RELATIVE = {"mgs_layers": "all", "mgs_relative": True}
BATCH = {"alpha": 0.1, "coherence_threshold": 0.1, "coherence": "batch"}


@pytest.mark.parametrize(
    ("params", "meant"),
    [
        ({}, {**RELATIVE, "mgs_batch_size": 8}),
        ({"batch_size": 20, "solver": "sgd"}, {**RELATIVE, "mgs_batch_size": 10}),
        ({"mgs_batch_size": 5}, {**RELATIVE, "mgs_batch_size": 5}),
        ({"mgs_batch_size": None}, {**RELATIVE, "mgs_batch_size": None}),
        ({"mgs_layers": "first", "mgs_relative": True}, {"mgs_batch_size": 8}),
        (BATCH, {**RELATIVE, "mgs_batch_size": 8}),
        ({"mgs_layers": "all"}, {"mgs_relative": False, "mgs_batch_size": None}),
        ({"mgs_metric": "det"}, {"mgs_layers": "all", "mgs_batch_size": None}),
        ({"mgs_centered": True}, {**RELATIVE, "mgs_batch_size": None}),
        ({"shuffle": False}, {**RELATIVE, "mgs_batch_size": None}),
        ({"batch_size": 50}, {**RELATIVE, "mgs_batch_size": None}),
        ({"batch_size": "auto"}, {**RELATIVE, "mgs_batch_size": None}),
        ({"dropout": 0.2}, {**RELATIVE, "mgs_batch_size": None}),
        ({"solver": "lbfgs"}, {**RELATIVE, "mgs_batch_size": None}),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [MLPClassifier, MLPRegressor])
def test_auto_is_what_it_stands_for(make, params, meant):
    y = CLASSES if make is MLPClassifier else X[:, 0] * X[:, 1]
    auto, explicit = (make(**{**BASE, **p}).fit(X, y) for p in (params, {**params, **meant}))
    for a, b in zip(auto.coefs_, explicit.coefs_):
        np.testing.assert_array_equal(a, b)
    one_more = {**meant, "mgs_layers": "balanced"}
    other = make(**{**BASE, **params, **one_more}).fit(X, y)
    assert abs(other.coefs_[0] - auto.coefs_[0]).max() > 1e-6  # the case can fail


@pytest.mark.parametrize("params", [{}, {**BATCH, "l1": 0.1}], ids=["", "coherent"])
def test_a_search_means_the_same(params):
    base = {k: v for k, v in BASE.items() if k != "mgs_strength"} | params
    search = MLPClassifierCV(mgs_strengths=[0.5], cv=3, **base).fit(X, CLASSES)
    lone = MLPClassifier(**BASE, **params).fit(X, CLASSES)
    for a, b in zip(search.best_estimator_.coefs_, lone.coefs_):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
