"""Without the penalty, scikit-learn's own MLP to the last digits; oracle: scikit-learn."""

import warnings

import numpy as np
import pytest
import sklearn
from sklearn import neural_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.fixes import parse_version

import sklearn_mgs

MODERN = parse_version(sklearn.__version__) >= parse_version("1.7")
needs_1_7 = pytest.mark.skipif(not MODERN, reason="scikit-learn's MLP has it since 1.7")

SMALL = {"hidden_layer_sizes": (7, 4), "max_iter": 12, "batch_size": 16, "random_state": 3}

ADAM = [
    {},
    {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3, "learning_rate_init": 0.02},
    {"batch_size": "auto", "alpha": 3.0},
    {"shuffle": False},
    {"hidden_layer_sizes": ()},
    {"learning_rate_init": 0.05, "max_iter": 400, "tol": 1e-2, "n_iter_no_change": 3},
]
SGD = [
    {"learning_rate": schedule, "learning_rate_init": 0.05, **momentum}
    for schedule in ("constant", "invscaling")
    for momentum in (
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterovs_momentum": False},
        {"momentum": 0.0},
        {"momentum": 0.7, "power_t": 0.2},
    )
] + [
    {
        "learning_rate": "adaptive",
        "learning_rate_init": 0.2,
        "max_iter": 150,
        "tol": 1e-2,
        "n_iter_no_change": 2,
    }
]
STOCHASTIC = [{"solver": "adam", **p} for p in ADAM] + [{"solver": "sgd", **p} for p in SGD]

ATTRIBUTES = ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_")


def pair(name, **parameters):
    parameters = {**SMALL, **parameters}
    return (
        getattr(sklearn_mgs, name)(**parameters),
        getattr(neural_network, name)(**parameters),
    )


def assert_same(ours, theirs, X, atol=1e-10):
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)
    if hasattr(theirs, "loss_curve_"):
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-10)
        np.testing.assert_allclose(ours.best_loss_, theirs.best_loss_, rtol=1e-10)
    np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=1e-10)
    for name in ATTRIBUTES:
        assert getattr(ours, name) == getattr(theirs, name), name
    method = "predict_proba" if hasattr(theirs, "predict_proba") else "predict"
    np.testing.assert_allclose(
        getattr(ours, method)(X), getattr(theirs, method)(X), rtol=0, atol=10 * atol
    )


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("parameters", STOCHASTIC, ids=str)
def test_stochastic_solvers(blobs, activation, parameters):
    ours, theirs = pair("MLPClassifier", activation=activation, **parameters)
    X, y = blobs
    assert_same(ours.fit(X, y), theirs.fit(X, y), X)


def test_the_adaptive_schedule_was_put_to_use(blobs):
    ours, _ = pair("MLPClassifier", **STOCHASTIC[-1])
    ours.fit(*blobs)
    assert ours.net_.optimizer_.param_groups[0]["lr"] < 0.2 / 5**2


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "strings", "booleans"])
def test_kinds_of_labels(blobs, labels, kind, solver):
    ours, theirs = pair("MLPClassifier", solver=solver, learning_rate_init=0.01)
    X, y = blobs[0], labels[kind]
    assert_same(ours.fit(X, y), theirs.fit(X, y), X)
    for name in ("classes_", "predict", "predict_log_proba"):
        a, b = getattr(ours, name), getattr(theirs, name)
        if callable(a):
            a, b = a(X), b(X)
        assert a.dtype == b.dtype
        if name == "predict_log_proba":
            np.testing.assert_allclose(a, b, atol=1e-9)
        else:
            np.testing.assert_array_equal(a, b)
    assert ours.score(X, y) == theirs.score(X, y)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("n_outputs", [0, 1, 3])
@pytest.mark.filterwarnings("ignore:A column-vector y")
def test_regression(line, n_outputs, solver):
    X, y = line
    if n_outputs:
        y = np.stack([(k + 1) * y + k for k in range(n_outputs)], axis=1)
    ours, theirs = pair("MLPRegressor", solver=solver)
    assert_same(ours.fit(X, y), theirs.fit(X, y), X)
    assert ours.predict(X).shape == theirs.predict(X).shape
    np.testing.assert_allclose(ours.score(X, y), theirs.score(X, y), rtol=1e-10)


@needs_1_7
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_poisson(line, solver, n_outputs):
    X, y = line
    counts = np.floor(np.exp(y))
    counts = counts if n_outputs == 1 else np.stack([counts, 2 * counts], axis=1)
    ours, theirs = pair("MLPRegressor", loss="poisson", solver=solver)
    assert_same(ours.fit(X, counts), theirs.fit(X, counts), X)


@needs_1_7
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_sample_weight(blobs, name, solver):
    X, y = blobs
    weight = np.random.RandomState(0).exponential(size=len(X))
    ours, theirs = pair(name, solver=solver, alpha=0.5)
    assert_same(ours.fit(X, y, weight), theirs.fit(X, y, weight), X)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit(blobs, line, solver):
    X, y = blobs
    ours, theirs = pair("MLPClassifier", solver=solver, learning_rate="invscaling")
    for part in (slice(0, 25), slice(20, 40), slice(0, 40)):
        for estimator in (ours, theirs):
            estimator.partial_fit(X[part], y[part], classes=[0, 1, 2])
    assert_same(ours, theirs, X)
    X, y = line
    ours, theirs = pair("MLPRegressor", solver=solver)
    for _ in range(3):
        assert_same(ours.partial_fit(X, y), theirs.partial_fit(X, y), X)


def test_partial_fit_after_fit(blobs):
    ours, theirs = pair("MLPClassifier")
    X, y = blobs
    assert_same(ours.fit(X, y).partial_fit(X, y), theirs.fit(X, y).partial_fit(X, y), X)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_warm_start(blobs, solver):
    ours, theirs = pair("MLPClassifier", solver=solver, warm_start=True)
    X, y = blobs
    for _ in range(3):
        assert_same(ours.fit(X, y), theirs.fit(X, y), X)


def test_refit_starts_anew(blobs):
    ours, theirs = pair("MLPClassifier")
    X, y = blobs
    assert_same(ours.fit(X, y).fit(X, y), theirs.fit(X, y), X)


@pytest.mark.parametrize("patience", [1, 2])
def test_the_last_epoch_may_be_the_one_that_converges(blobs, patience):
    loose = {"max_iter": 3, "tol": 1e5, "n_iter_no_change": patience}
    told = []
    for kind in (neural_network.MLPClassifier, sklearn_mgs.MLPClassifier):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            told.append((kind(**loose).fit(*blobs).n_iter_, len(caught)))
    assert told == [(3, patience - 1)] * 2


def test_random_state_instance_is_advanced_alike(blobs):
    X, y = blobs
    states = np.random.RandomState(5), np.random.RandomState(5)
    ours, theirs = pair("MLPClassifier")
    for estimator, state in zip((ours, theirs), states):
        estimator.set_params(random_state=state).fit(X, y)
    assert_same(ours, theirs, X)
    assert states[0].randint(2**31) == states[1].randint(2**31)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh"])
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_lbfgs(blobs, line, name, activation):
    X, y = blobs if name == "MLPClassifier" else line
    ours, theirs = pair(name, solver="lbfgs", activation=activation, alpha=0.1, max_iter=8)
    ours.fit(X, y), theirs.fit(X, y)
    assert_same(ours, theirs, X, atol=1e-8)
    assert not hasattr(ours, "loss_curve_")


@needs_1_7
def test_lbfgs_with_weights(blobs):
    X, y = blobs
    weight = np.arange(len(X)) % 4 + 0.5
    ours, theirs = pair("MLPClassifier", solver="lbfgs", activation="tanh", alpha=1.0, max_iter=8)
    assert_same(ours.fit(X, y, weight), theirs.fit(X, y, weight), X, atol=1e-8)


def test_lbfgs_converges_to_the_same_loss(line):
    X, y = line
    ours, theirs = pair("MLPRegressor", solver="lbfgs", alpha=1.0, max_iter=500)
    ours.fit(X, y), theirs.fit(X, y)
    np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=1e-3)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 1e-6), (np.float64, 1e-10)])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_copied_weights_give_the_same_answers(blobs, labels, kind, dtype, atol, activation):
    X = blobs[0].astype(dtype)
    name, y = ("MLPRegressor", blobs[0][:, 0]) if kind == "regression" else ("MLPClassifier", None)
    y = labels[kind] if y is None else y.astype(dtype)
    ours, theirs = pair(name, activation=activation, max_iter=2)
    theirs.fit(X, y)
    ours.set_params(random_state=7).fit(X, y)
    ours.coefs_ = theirs.coefs_
    ours.intercepts_ = theirs.intercepts_
    method = "predict" if kind == "regression" else "predict_proba"
    a, b = getattr(ours, method)(X), getattr(theirs, method)(X)
    assert a.dtype == b.dtype == dtype
    np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def test_constructor_parameters_and_defaults_are_scikit_learns():
    for name in ("MLPClassifier", "MLPRegressor"):
        ours = getattr(sklearn_mgs, name)().get_params()
        theirs = getattr(neural_network, name)().get_params()
        assert theirs.items() <= ours.items()


@needs_1_7
def test_early_stopping_attributes_are_scikit_learns(blobs):
    X, y = blobs
    ours, theirs = pair("MLPClassifier", early_stopping=True)
    for estimator in (ours.fit(X, y), theirs.fit(X, y)):
        assert len(estimator.validation_scores_) == estimator.n_iter_
        assert estimator.best_validation_score_ == max(estimator.validation_scores_)
        assert estimator.best_loss_ is None
        assert len(estimator.loss_curve_) == estimator.n_iter_
    assert ours.t_ == theirs.t_
