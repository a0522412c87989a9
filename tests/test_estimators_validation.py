"""Losses, scores and early stopping: what they contain, and which weights are kept."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, r2_score
from torch.nn import functional as F

from sklearn_mgs import MLPClassifier, MLPRegressor

SMALL = {
    "hidden_layer_sizes": (8,),
    "learning_rate_init": 0.02,
    "max_iter": 30,
    "batch_size": 16,
    "random_state": 0,
}
PENALTIES = [
    {"mgs_strength": 5.0},
    {"mgs_strength": 5.0, "mgs_metric": "det"},
    {"jacobian_strength": 5.0},
    {"gradient_strength": 5.0},
    {"l1": 5.0},
]


def classifier(**parameters):
    return MLPClassifier(**{**SMALL, **parameters})


@pytest.fixture(scope="module")
def halves():
    """Training and validation samples of a noisy problem, with weights of the latter."""
    rng = np.random.RandomState(0)
    X = rng.randn(120, 5)
    y = (X @ rng.randn(5, 3) + rng.randn(120, 3)).argmax(1)
    return X[:60], y[:60], X[60:], y[60:], rng.exponential(size=60)


# ------------------------------------------------------------------ nothing but the loss


@pytest.mark.parametrize(
    ("solver", "penalty"),
    [
        (solver, penalty)
        for solver in ("sgd", "adam", "lbfgs")
        for penalty in PENALTIES
        if solver != "lbfgs" or "l1" not in penalty
    ],
    ids=str,
)
def test_losses_and_scores_leave_out_the_penalties(halves, solver, penalty):
    X, y, *_ = halves
    frozen = {"solver": solver, "learning_rate_init": 1e-300, "max_iter": 1, "alpha": 0.6}
    batch = {"batch_size": 60, "mgs_centered": "class"}
    clf = classifier(**frozen, **batch, **penalty).fit(X, y)
    logits = clf.module_(torch.tensor(X)).detach()
    data_loss = F.cross_entropy(logits, torch.tensor(y)).item()
    l2 = 0.6 / 2 / len(X) * sum((c**2).sum() for c in clf.coefs_)
    np.testing.assert_allclose(clf.loss_, data_loss + l2, rtol=1e-12)
    np.testing.assert_allclose(clf.history_[-1, "train_loss"], data_loss, rtol=1e-12)
    np.testing.assert_allclose(clf.history_[-1, "l2"], l2, rtol=1e-12)
    if solver != "lbfgs":
        np.testing.assert_allclose(clf.loss_curve_, [data_loss + l2], rtol=1e-12)
        assert clf.best_loss_ == clf.loss_
    assert clf.score(X, y) == accuracy_score(y, clf.predict(X))


def test_loss_of_an_epoch_is_the_mean_over_samples_as_batches_saw_them(halves):
    X, y, *_ = halves
    parameters = {"solver": "sgd", "learning_rate_init": 1e-300, "max_iter": 1, "alpha": 0.5}
    clf = classifier(**parameters, batch_size=50, shuffle=False).fit(X, y)
    logits = clf.module_(torch.tensor(X)).detach()
    losses = F.cross_entropy(logits, torch.tensor(y), reduction="none").numpy()
    squares = 0.5 / 2 * sum((c**2).sum() for c in clf.coefs_)
    expected = (losses.sum() + squares * (50 / 50 + 10 / 10)) / 60
    np.testing.assert_allclose(clf.loss_, expected, rtol=1e-12)


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_loss_of_regression_is_a_mean_over_outputs(halves, n_outputs):
    X = halves[0]
    y = X[:, :n_outputs] ** 2
    reg = MLPRegressor(**{**SMALL, "max_iter": 1, "learning_rate_init": 1e-300}, alpha=0.0)
    reg.set_params(batch_size=60, mgs_strength=3.0)
    y = y[:, 0] if n_outputs == 1 else y
    reg.fit(X, y)
    np.testing.assert_allclose(reg.loss_, ((y - reg.predict(X)) ** 2).mean() / 2, rtol=1e-12)


def test_history_has_the_penalty_only_if_it_is_on(halves):
    X, y, *_ = halves
    names = {"train_loss", "l2", "dur", "epoch", "batches", "train_batch_count"}
    plain = classifier().fit(X, y)
    assert set(plain.history_[-1]) == names
    assert set(classifier(alpha=0).fit(X, y).history_[-1]) == names - {"l2"}
    for solver in ("adam", "sgd", "lbfgs"):
        clf = classifier(mgs_strength=0.1, solver=solver).fit(X, y)
        assert "mgs_penalty" in clf.history_[-1]
        assert len(clf.history_) == clf.n_iter_
    assert "valid_score" in classifier(early_stopping=True).fit(X, y).history_[-1]


# -------------------------------------------------------------------- early stopping


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("penalty", [{}, {"mgs_strength": 0.5}], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_early_stopping_restores_the_best_epoch(halves, weighted, penalty, solver):
    X, y, X_val, y_val, w_val = halves
    w_val = w_val if weighted else None
    parameters = {"solver": solver, "n_iter_no_change": 5, "learning_rate_init": 0.1, **penalty}
    clf = classifier(early_stopping=True, **parameters)
    clf.fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=w_val)
    scores = np.array(clf.validation_scores_)
    best = int(np.flatnonzero(scores == scores.max())[-1]) + 1  # of equal scores the last
    assert best < clf.n_iter_ < clf.max_iter
    np.testing.assert_allclose(
        clf.score(X_val, y_val, w_val), clf.best_validation_score_, rtol=1e-14
    )
    assert clf.best_validation_score_ == max(clf.validation_scores_)
    until_then = classifier(**{**parameters, "max_iter": best, "n_iter_no_change": best})
    until_then.fit(X, y)
    for a, b in zip(clf.coefs_, until_then.coefs_):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(clf.loss_curve_[:best], until_then.loss_curve_)
    assert list(clf.history_[:, "valid_score"]) == clf.validation_scores_


def test_early_stopping_counts_as_scikit_learn_does(halves):
    X, y, X_val, y_val, _ = halves
    clf = classifier(early_stopping=True, n_iter_no_change=4, tol=0.03, max_iter=100)
    scores = clf.fit(X, y, X_val=X_val, y_val=y_val).validation_scores_
    best, count = -np.inf, 0
    for epoch, score in enumerate(scores, 1):
        count = count + 1 if score < best + 0.03 else 0
        best = max(best, score)
        assert (count > 4) == (epoch == clf.n_iter_)


def test_adaptive_rate_falls_on_validation_scores(halves):
    X, y, X_val, y_val, _ = halves
    clf = classifier(
        solver="sgd", learning_rate="adaptive", early_stopping=True, n_iter_no_change=1, tol=1.0
    ).fit(X, y, X_val=X_val, y_val=y_val)
    assert clf.net_.optimizer_.param_groups[0]["lr"] < 0.02 / 5**3


def test_regression_stops_by_r2(halves):
    X, y, X_val, y_val, w_val = halves
    reg = MLPRegressor(**SMALL, early_stopping=True)
    reg.fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=w_val)
    best = r2_score(y_val, reg.predict(X_val), sample_weight=w_val)
    np.testing.assert_allclose(reg.best_validation_score_, best, rtol=1e-14)


def test_several_labels_stop_by_accuracy_of_all(halves):
    X, y, X_val, y_val, _ = halves
    Y, Y_val = (np.stack([v > 0, v == 1], 1).astype(int) for v in (y, y_val))
    clf = classifier(early_stopping=True).fit(X, Y, X_val=X_val, y_val=Y_val)
    assert clf.best_validation_score_ == accuracy_score(Y_val, clf.predict(X_val))


def test_labels_of_the_validation_set_are_the_users_own(halves):
    X, y, X_val, y_val, _ = halves
    names = np.array(["ant", "bee", "cow"])
    a = classifier(early_stopping=True).fit(X, y, X_val=X_val, y_val=y_val)
    b = classifier(early_stopping=True).fit(X, names[y], X_val=X_val, y_val=names[y_val])
    assert a.validation_scores_ == b.validation_scores_


def test_a_validation_set_may_lack_a_class(halves):
    X, y, X_val, y_val, _ = halves
    some = y_val != 2
    clf = classifier(early_stopping=True, warm_start=True)
    for _ in range(2):
        clf.fit(X, y, X_val=X_val[some], y_val=y_val[some])
    assert list(clf.classes_) == [0, 1, 2]


def test_the_held_out_part_is_the_fraction_of_each_class(halves):
    X, y, *_ = halves
    whole = {"validation_fraction": 0.25, "max_iter": 3, "batch_size": "auto"}
    clf = classifier(early_stopping=True, **whole).fit(X, y)
    assert clf.t_ == 3 * (60 - 15)
    order = np.random.RandomState(1).permutation(60)
    again = classifier(early_stopping=True, **whole).fit(X[order], y[order])
    assert again.validation_scores_ == clf.validation_scores_
    np.testing.assert_allclose(again.coefs_[0], clf.coefs_[0], atol=1e-12)


def test_the_held_out_part_takes_no_part_in_training(halves):
    X, y, *_ = halves
    parameters = {"early_stopping": True, "mgs_strength": 0.1, "max_iter": 3}
    clf = classifier(**parameters).fit(X, y)
    assert clf.t_ == 3 * 54
    held_out = clf.best_validation_score_ * 6
    np.testing.assert_allclose(held_out, round(held_out), atol=1e-9)


def test_a_warm_start_holds_out_the_same_samples(halves):
    X, *_ = halves
    frozen = {**SMALL, "max_iter": 1, "learning_rate_init": 1e-300}
    reg = MLPRegressor(**frozen, early_stopping=True, warm_start=True)
    for _ in range(3):
        reg.fit(X, X[:, 0])
    assert len(set(reg.validation_scores_)) == 1


def test_lbfgs_has_no_early_stopping(halves):
    X, y, *_ = halves
    a = classifier(solver="lbfgs", early_stopping=True).fit(X, y)
    b = classifier(solver="lbfgs").fit(X, y)
    np.testing.assert_array_equal(a.coefs_[0], b.coefs_[0])


def test_partial_fit_knows_no_early_stopping(halves):
    X, y, *_ = halves
    a = classifier(early_stopping=True).partial_fit(X, y, classes=[0, 1, 2])
    b = classifier().partial_fit(X, y, classes=[0, 1, 2])
    np.testing.assert_array_equal(a.coefs_[0], b.coefs_[0])
    assert a.best_loss_ == b.best_loss_
    assert a.validation_scores_ is None
    stopped = classifier(early_stopping=True).fit(X, y)
    n_scores = len(stopped.validation_scores_)
    stopped.partial_fit(X, y)
    assert len(stopped.validation_scores_) == n_scores


@pytest.mark.filterwarnings("ignore:invalid value")
def test_no_score_of_a_network_that_overflows(halves):
    """Such a score is not a number, and never the best one."""
    X, y, X_val, y_val, _ = halves
    reg = MLPRegressor(**{**SMALL, "solver": "sgd", "max_iter": 2}, early_stopping=True)
    reg.fit(X, y, X_val=1e308 * np.sign(X_val), y_val=y_val)
    assert np.isnan(reg.validation_scores_).all()
    assert np.isfinite(reg.predict(X)).all()
