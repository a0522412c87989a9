"""Inside scikit-learn: pipelines, searches, meta-estimators, metadata routing."""

import numpy as np
import pytest
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostRegressor,
    BaggingClassifier,
    StackingClassifier,
    VotingRegressor,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_mgs import MLPClassifier, MLPRegressor

SMALL = {
    "hidden_layer_sizes": (6,),
    "learning_rate_init": 0.02,
    "max_iter": 5,
    "batch_size": 8,
    "random_state": 0,
}
STRENGTHS = [0.0, 0.1, 1.0]


def classifier(**parameters):
    return MLPClassifier(**{**SMALL, **parameters})


def regressor(**parameters):
    return MLPRegressor(**{**SMALL, **parameters})


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


# --------------------------------------------------------------------------- searches


def test_search_in_parallel_equals_search_in_turn(blobs):
    pipeline = make_pipeline(StandardScaler(), classifier())
    grid = {
        "mlpclassifier__mgs_strength": STRENGTHS,
        "mlpclassifier__mgs_metric": ["trace", "det"],
    }
    searches = [
        GridSearchCV(
            pipeline,
            grid,
            cv=3,
            n_jobs=n_jobs,
            scoring=["accuracy", "neg_log_loss"],
            refit="neg_log_loss",
            return_train_score=True,
        ).fit(*blobs)
        for n_jobs in (1, 2)
    ]
    for name, values in searches[0].cv_results_.items():
        if "score" in name and "time" not in name:
            np.testing.assert_array_equal(values, searches[1].cv_results_[name])
    one, two = (search.best_estimator_[-1] for search in searches)
    np.testing.assert_array_equal(one.coefs_[0], two.coefs_[0])
    strength_0 = searches[0].cv_results_["mean_test_neg_log_loss"][[0, 3]]
    assert strength_0[0] == strength_0[1]  # the metric of a penalty that is off plays no part
    assert len(np.unique(searches[0].cv_results_["mean_test_neg_log_loss"])) == 5


@pytest.mark.parametrize("resource", ["n_samples", "max_iter"])
def test_halving_search(blobs, resource):
    search = HalvingGridSearchCV(
        classifier(),
        {"mgs_strength": STRENGTHS},
        cv=2,
        n_jobs=2,
        factor=3,
        random_state=0,
        resource=resource,
        min_resources=12 if resource == "n_samples" else 2,
        max_resources=36 if resource == "n_samples" else 6,
    ).fit(*blobs)
    assert search.n_iterations_ == 2
    assert search.best_params_["mgs_strength"] in STRENGTHS


def test_search_over_every_regulariser(blobs):
    grid = [
        {"alpha": [1.0]},
        {"l1": [0.1], "coherence_threshold": [0.0]},
        {"dropout": [0.2]},
        {"input_noise": [0.2]},
        {"label_smoothing": [0.1]},
        {"jacobian_strength": [0.1]},
        {"gradient_strength": [0.1]},
        {"early_stopping": [True]},
        {"mgs_strength": [0.1], "mgs_layers": ["first", "hidden", "balanced"]},
        {"mgs_strength": [0.1], "mgs_centered": [True, "class"]},
    ]
    search = GridSearchCV(
        classifier(hidden_layer_sizes=(6, 5)),
        grid,
        cv=2,
        scoring="neg_log_loss",
        error_score="raise",
    ).fit(*blobs)
    scores = search.cv_results_["mean_test_score"]
    assert len(np.unique(scores)) == len(scores) == 13


def test_cross_validation_and_curves(blobs, line):
    X, y = blobs
    clf = make_pipeline(StandardScaler(), classifier(mgs_strength=0.1))
    result = cross_validate(clf, X, y, cv=3, return_estimator=True, return_train_score=True)
    for estimator, score in zip(result["estimator"], result["train_score"]):
        assert estimator[-1].n_iter_ == 5
        assert 0 <= score <= 1
    assert cross_val_predict(clf, X, y, cv=3, method="predict_proba").shape == (40, 3)
    train, _ = validation_curve(
        regressor(), *line, param_name="mgs_strength", param_range=STRENGTHS, cv=2
    )
    assert train.shape == (3, 2)
    sizes, *_ = learning_curve(clf, X, y, train_sizes=[0.5, 1.0], cv=3, shuffle=True)
    assert list(sizes) == [13, 26]
    _, train, _ = learning_curve(
        classifier(), X, y, train_sizes=[0.5, 1.0], cv=2, exploit_incremental_learning=True
    )
    assert np.isfinite(train).all()


# -------------------------------------------------------------------------- ensembles


def test_calibration(blobs):
    X, y = blobs
    clf = CalibratedClassifierCV(classifier(mgs_strength=0.1), cv=2).fit(X, y)
    np.testing.assert_allclose(clf.predict_proba(X).sum(1), 1)


def test_ensembles_pass_weights(blobs, line):
    X, y = blobs
    weight = np.linspace(0.5, 2, len(X))
    bagged = BaggingClassifier(classifier(mgs_strength=0.1), n_estimators=2, random_state=0)
    assert bagged.fit(X, y, sample_weight=weight).score(X, y) > 1 / 3
    boosted = AdaBoostRegressor(regressor(mgs_strength=0.1), n_estimators=2, random_state=0)
    assert boosted.fit(*line, sample_weight=weight).predict(X).shape == y.shape
    votes = VotingRegressor([("a", regressor()), ("b", regressor(random_state=1))])
    assert votes.fit(*line, sample_weight=weight).predict(X).shape == y.shape
    many = MultiOutputRegressor(regressor()).fit(X, X[:, :2], sample_weight=weight)
    one = regressor().fit(X, X[:, 1], weight)
    np.testing.assert_array_equal(many.predict(X)[:, 1], one.predict(X))


def test_stacking(blobs):
    stack = StackingClassifier([("mlp", classifier())], LogisticRegression(), cv=2)
    assert stack.fit(*blobs).predict_proba(blobs[0]).shape == (40, 3)


# --------------------------------------------------------------------------- metadata


def test_weights_reach_the_network_through_a_pipeline(blobs, routing):
    X, y = blobs
    weight = np.random.RandomState(0).exponential(size=len(X))
    clf = classifier().set_fit_request(sample_weight=True)
    routed = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), clf)
    routed.fit(X, y, sample_weight=weight)
    direct = classifier().fit(StandardScaler().fit_transform(X), y, weight)
    np.testing.assert_array_equal(routed[-1].coefs_[0], direct.coefs_[0])


def test_weights_are_sliced_by_a_search(blobs, routing):
    X, y = blobs
    weight = np.random.RandomState(0).exponential(size=len(X))
    clf = classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    search = GridSearchCV(clf, {"mgs_strength": [0.0, 0.1]}, cv=2)
    search.fit(X, y, sample_weight=weight)
    for k, (train, test) in enumerate(StratifiedKFold(2).split(X, y)):
        direct = classifier(mgs_strength=0.1).fit(X[train], y[train], weight[train])
        score = direct.score(X[test], y[test], weight[test])
        assert search.cv_results_[f"split{k}_test_score"][1] == score
    best = classifier(**search.best_params_).fit(X, y, weight)
    np.testing.assert_array_equal(search.best_estimator_.coefs_[0], best.coefs_[0])


def test_validation_sets_can_be_routed(blobs, routing):
    X, y = blobs
    clf = classifier(early_stopping=True).set_fit_request(X_val=True, y_val=True)
    pipeline = make_pipeline(StandardScaler(), clf)
    pipeline.fit(X, y, X_val=X[:10], y_val=y[:10])
    direct = classifier(early_stopping=True)
    direct.fit(StandardScaler().fit_transform(X), y, X_val=X[:10], y_val=y[:10])
    assert pipeline[-1].validation_scores_ == direct.validation_scores_


def test_a_pipeline_can_transform_the_validation_set(blobs, routing):
    X, y = blobs
    clf = classifier(early_stopping=True).set_fit_request(X_val=True, y_val=True)
    pipeline = make_pipeline(StandardScaler(), clf, transform_input=["X_val"])
    pipeline.fit(X, y, X_val=X[:10], y_val=y[:10])
    scaler = StandardScaler().fit(X)
    direct = classifier(early_stopping=True)
    direct.fit(scaler.transform(X), y, X_val=scaler.transform(X[:10]), y_val=y[:10])
    assert pipeline[-1].validation_scores_ == direct.validation_scores_


def test_requests_are_those_of_the_signatures(routing):
    requests = MLPClassifier().get_metadata_routing()
    assert set(requests.fit.requests) == {"sample_weight", "X_val", "y_val", "sample_weight_val"}
    assert set(requests.partial_fit.requests) == {"sample_weight", "classes"}
    assert set(requests.score.requests) == {"sample_weight"}


def test_representations(blobs):
    clf = classifier(mgs_strength=0.1).fit(*blobs)
    assert "mgs_strength=0.1" in repr(clf)
    assert "mgs_strength" in clf._repr_html_()
    assert "MLPClassifier" in make_pipeline(StandardScaler(), clf)._repr_html_()
