"""Sample and class weights: equal to repeated samples where the batch is whole."""

import numpy as np
import pytest
from sklearn.ensemble import AdaBoostClassifier
from sklearn.utils import compute_sample_weight, shuffle

from sklearn_mgs import MLPClassifier, MLPRegressor

WHOLE = {
    "hidden_layer_sizes": (6, 4),
    "activation": "tanh",
    "learning_rate_init": 0.02,
    "max_iter": 5,
    "batch_size": 10_000,
    "random_state": 2,
    "alpha": 0.3,
}

pytestmark = pytest.mark.filterwarnings("ignore:Got `batch_size`")


def classifier(**parameters):
    return MLPClassifier(**{**WHOLE, **parameters})


def regressor(**parameters):
    return MLPRegressor(**{**WHOLE, **parameters})


def assert_same_weights(a, b, atol=1e-9):
    for u, v in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_):
        np.testing.assert_allclose(u, v, rtol=0, atol=atol)


REGULARIZERS = [
    {},
    {"mgs_strength": 0.5},
    {"mgs_strength": 0.5, "mgs_centered": True},
    {"mgs_strength": 0.5, "mgs_layers": "balanced"},
    {"mgs_strength": 0.5, "mgs_layers": "balanced", "mgs_centered": "class"},
    {"mgs_strength": 0.5, "mgs_outputs": "random"},
    {"mgs_strength": 0.5, "mgs_metric": "det"},
    {"mgs_strength": 0.5, "mgs_metric": "det", "mgs_centered": True, "mgs_layers": "hidden"},
    {"mgs_strength": 0.5, "mgs_metric": "det", "mgs_centered": "class", "mgs_outputs": "all"},
    {"gradient_strength": 0.3, "l1": 0.2, "label_smoothing": 0.1},
    {"coherence_threshold": 0.5, "coherence": "total", "l1": 0.2},
    {"coherence_threshold": 0.9, "coherence": "trend", "l1": 0.2},
]


@pytest.fixture(scope="module")
def many():
    """More samples than the 256 on which the penalty's unit is measured."""
    rng = np.random.RandomState(0)
    X = rng.randn(420, 4)
    return X, (X @ rng.randn(4, 3)).argmax(1)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=str)
def test_integer_weights_equal_repeated_samples(blobs, regularizer, solver):
    X, y = blobs
    repeats = np.random.RandomState(1).randint(0, 4, len(X))
    weighted = classifier(solver=solver, **regularizer).fit(X, y, repeats)
    repeated = classifier(solver=solver, **regularizer).fit(
        *shuffle(X.repeat(repeats, 0), y.repeat(repeats), random_state=0)
    )
    assert_same_weights(weighted, repeated)
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-9)


@pytest.mark.parametrize("metric", ["trace", "det"])
@pytest.mark.parametrize("max_weight", [1, 3])
def test_weights_equal_repetition_beyond_the_calibration_subset(many, metric, max_weight):
    X, y = many
    repeats = np.random.RandomState(1).randint(0, max_weight + 1, len(X))
    clf = {"mgs_strength": 0.5, "mgs_metric": metric, "max_iter": 2}
    weighted = classifier(**clf).fit(X, y, repeats)
    repeated = classifier(**clf).fit(X.repeat(repeats, 0), y.repeat(repeats))
    np.testing.assert_allclose(
        weighted.history_[:, "mgs_penalty"], repeated.history_[:, "mgs_penalty"], rtol=1e-9
    )
    assert_same_weights(weighted, repeated)


@pytest.mark.parametrize("regularizer", [{}, {"mgs_strength": 0.3}], ids=str)
def test_weights_equal_repetition_under_early_stopping(many, regularizer):
    X, y = many
    repeats = np.random.RandomState(1).randint(0, 3, len(X))
    parameters = {"early_stopping": True, "max_iter": 15, **regularizer}
    weighted = classifier(**parameters).fit(X, y, repeats)
    repeated = classifier(**parameters).fit(X.repeat(repeats, 0), y.repeat(repeats))
    np.testing.assert_allclose(weighted.validation_scores_, repeated.validation_scores_)
    assert_same_weights(weighted, repeated)


@pytest.mark.parametrize("kind", ["binary", "multilabel", "regression", "poisson"])
@pytest.mark.parametrize("metric", ["trace", "det"])
def test_integer_weights_equal_repeated_samples_for_other_targets(blobs, labels, kind, metric):
    X = blobs[0]
    make = regressor if kind in ("regression", "poisson") else classifier
    y = {"regression": X[:, :2] ** 2, "poisson": np.floor(X[:, 0] ** 2), **labels}[kind]
    loss = {"loss": kind} if kind == "poisson" else {}
    repeats = np.random.RandomState(1).randint(0, 3, len(X))
    parameters = {"mgs_strength": 0.2, "mgs_metric": metric, **loss}
    weighted = make(**parameters).fit(X, y, repeats)
    repeated = make(**parameters).fit(X.repeat(repeats, 0), y.repeat(repeats, 0))
    assert_same_weights(weighted, repeated)


def test_integer_weights_equal_repeated_samples_with_lbfgs(blobs):
    X, y = blobs
    repeats = np.random.RandomState(1).randint(0, 4, len(X))
    clf = {"solver": "lbfgs", "mgs_strength": 0.1, "jacobian_strength": 0.01}
    weighted = classifier(**clf).fit(X, y, repeats)
    repeated = classifier(**clf).fit(X.repeat(repeats, 0), y.repeat(repeats))
    assert_same_weights(weighted, repeated)
    assert weighted.n_iter_ == repeated.n_iter_ == 5


@pytest.mark.parametrize("regularizer", [*REGULARIZERS, {"jacobian_strength": 0.1}], ids=str)
def test_unit_weights_equal_none(blobs, regularizer):
    X, y = blobs
    clf = {"batch_size": 9, "dropout": 0.2, **regularizer}
    assert_same_weights(classifier(**clf).fit(X, y, np.ones(len(X))), classifier(**clf).fit(X, y))


@pytest.mark.parametrize("scale", [1e-3, 1 / 40, 50.0])
@pytest.mark.parametrize("layers", ["all", "balanced"])
def test_scale_of_the_weights_is_that_of_alpha(blobs, scale, layers):
    X, y = blobs
    w = np.random.RandomState(0).exponential(size=len(X))
    mgs = {"mgs_strength": 0.3, "mgs_layers": layers, "batch_size": 12}
    assert_same_weights(
        classifier(alpha=0.3 * scale, l1=0.1 * scale, **mgs).fit(X, y, scale * w),
        classifier(alpha=0.3, l1=0.1, **mgs).fit(X, y, w),
    )


def test_det_takes_small_weights_for_weights_of_mean_one(blobs):
    X, y = blobs
    det = {"mgs_strength": 0.3, "mgs_metric": "det", "alpha": 0.0, "batch_size": 12}
    plain = classifier(**det).fit(X, y)
    for scale in (1 / 40, 1e-6):
        assert_same_weights(classifier(**det).fit(X, y, np.full(len(X), scale)), plain)


@pytest.mark.parametrize("metric", ["trace", "det"])
def test_weights_that_sum_to_one_train_in_a_boosted_ensemble(blobs, metric):
    base = classifier(mgs_strength=0.1, mgs_metric=metric, alpha=1e-4, max_iter=20)
    boosted = AdaBoostClassifier(base, n_estimators=2, random_state=0).fit(*blobs)
    for clf in boosted.estimators_:
        assert all(0 < p < 1 for p in clf.history_[:, "mgs_penalty"])


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_class_weights_are_sample_weights(blobs, solver):
    X, y = blobs
    keep = np.flatnonzero((y > 0) | (np.arange(len(y)) % 3 == 0))
    X, y = X[keep], y[keep]
    w = np.random.RandomState(0).exponential(size=len(X))
    for class_weight in ("balanced", {0: 5.0, 2: 0.5, 1: 1.0}):
        by_class = compute_sample_weight(class_weight, y)
        for given, total in ((None, by_class), (w, w * by_class)):
            a = classifier(solver=solver, class_weight=class_weight).fit(X, y, given)
            b = classifier(solver=solver).fit(X, y, total)
            assert_same_weights(a, b, atol=0)


def test_class_weights_name_the_users_own_labels(blobs, labels):
    X, y = blobs
    a = classifier(class_weight={"ant": 2.0, "bee": 1.0, "cow": 0.5}).fit(X, labels["strings"])
    b = classifier(class_weight={0: 2.0, 1: 1.0, 2: 0.5}).fit(X, y)
    assert_same_weights(a, b, atol=0)


def test_class_weights_of_several_labels(blobs, labels):
    X, y = blobs[0], labels["multilabel"]
    class_weight = [{0: 1.0, 1: 3.0}, {0: 1.0, 1: 1.0}, {0: 0.5, 1: 1.0}]
    a = classifier(class_weight=class_weight).fit(X, y)
    b = classifier().fit(X, y, np.where(y[:, 0], 3.0, 1.0) * np.where(y[:, 2], 1.0, 0.5))
    assert_same_weights(a, b, atol=0)


@pytest.mark.parametrize("mgs", [{}, {"mgs_strength": 0.3, "mgs_metric": "det"}], ids=str)
def test_a_batch_without_weight_teaches_nothing(blobs, mgs):
    X, y = blobs
    parameters = {"batch_size": 10, "shuffle": False, "solver": "sgd", **mgs}
    weight = np.ones(len(X))
    weight[10:20] = 0
    whole = classifier(**parameters).fit(X, y, weight)
    rest = weight > 0
    assert_same_weights(whole, classifier(**parameters).fit(X[rest], y[rest]), atol=1e-9)


@pytest.mark.parametrize(
    "parameters",
    [
        {"mgs_strength": 0.3, "mgs_batch_size": 4},
        {"mgs_strength": 0.3, "mgs_batch_size": 4, "mgs_metric": "det"},
        {"mgs_strength": 0.3, "coherence_threshold": 0.0, "coherence": "batch"},
        {"mgs_strength": 0.3, "coherence_threshold": 0.0, "coherence": "total"},
        {"coherence_threshold": 0.0, "coherence": "batch", "label_smoothing": 0.1},
        {"mgs_strength": 0.3, "mgs_centered": "class"},
    ],
    ids=str,
)
def test_parts_of_a_batch_without_weight(blobs, parameters):
    X, y = blobs
    weight = np.ones(len(X))
    weight[:20] = 0
    clf = classifier(shuffle=False, **parameters).fit(X, y, weight)
    assert np.isfinite(clf.loss_curve_).all()
    if clf.mgs_strength:
        assert all(0 <= p < 100 for p in clf.history_[:, "mgs_penalty"])


def test_score_takes_weights(blobs):
    X, y = blobs
    clf = classifier().fit(X, y)
    right = clf.predict(X) == y
    weight = np.where(right, 1.0, 3.0)
    assert 0 < right.mean() < 1
    np.testing.assert_allclose(clf.score(X, y, weight), right.sum() / weight.sum())


def test_class_weights_of_chunks_without_a_class():
    """As scikit-learn's SGDClassifier takes them."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 3)), np.repeat(["a", "b", "c"], 10)
    weighted = classifier(class_weight={"b": 5}).partial_fit(X, y, classes=np.unique(y))
    by_hand = classifier().partial_fit(
        X, y, classes=np.unique(y), sample_weight=np.where(y == "b", 5.0, 1.0)
    )
    part = y != "b"
    for clf in (weighted, by_hand):
        clf.partial_fit(X[part], y[part])
    np.testing.assert_allclose(weighted.coefs_[0], by_hand.coefs_[0], rtol=1e-12)
    with pytest.raises(
        ValueError, match=r"The classes, \['a', 'b', 'c'\], are not in class_weight"
    ):
        classifier(class_weight={"d": 5}).fit(X, y)
