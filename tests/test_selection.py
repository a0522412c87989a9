"""one_standard_error on tables made by hand and in searches; the scorer in every tool."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import permutation_importance
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

import sklearn_mgs
from sklearn_mgs.metrics import make_mgs_scorer
from sklearn_mgs.model_selection import one_standard_error

X, y = make_classification(120, 5, flip_y=0.3, random_state=0)


def results(accuracy, mgs):
    """cv_results_ of (n_candidates, n_splits) accuracies, and similarities."""
    accuracy = np.asarray(accuracy, float)
    table = {f"split{i}_test_accuracy": column for i, column in enumerate(accuracy.T)}
    table |= {f"split{i}_test_mgs": np.asarray(mgs, float) for i in range(accuracy.shape[1])}
    return table | {
        "mean_test_accuracy": accuracy.mean(1),
        "std_test_accuracy": accuracy.std(1),
        "rank_test_accuracy": np.ones(len(accuracy)),
        "mean_test_mgs": np.asarray(mgs, float),
        "std_test_mgs": np.zeros(len(mgs)),
    }


# The best mean is 0.8 with a deviation of 0.1 over four folds: one standard error is 0.05.
BEST = [0.7, 0.9, 0.7, 0.9]


@pytest.mark.parametrize(
    ("accuracy", "mgs", "chosen"),
    [
        ([BEST, [0.76] * 4, [0.74] * 4], [-3, -2, -1], 1),  # the third is too far below
        ([BEST, [0.76] * 4, [0.74] * 4], [-1, -2, -3], 0),  # the best is also the most similar
        ([[0.74] * 4, [0.76] * 4, BEST], [-1, -2, -3], 1),  # in any order
        ([[0.8] * 4, [0.7999] * 4], [-2, -1], 0),  # no spread, no tolerance
        ([BEST, [np.nan] * 4, [0.76] * 4], [-3, -1, -2], 2),  # a failed candidate
        ([BEST, [0.79] * 4, [0.76] * 4], [-3, np.nan, -2], 2),  # its similarity unknown
        ([BEST, [0.79] * 4, [0.78] * 4], [-3, -np.inf, -2], 2),
    ],
)
def test_most_similar_within_one_standard_error(accuracy, mgs, chosen):
    index = one_standard_error()(results(accuracy, mgs))
    assert index == chosen
    assert isinstance(index, int)


def test_standard_error_shrinks_with_the_folds():
    near = 0.76
    many = results([BEST * 4, [near] * 16], [-2, -1])  # the same spread, a standard error of 0.025
    assert one_standard_error()(many) == 0


def test_names_of_the_scores():
    table = {
        key.replace("accuracy", "f1").replace("mgs", "rank"): column
        for key, column in results([BEST, [0.76] * 4], [-2, -1]).items()
    }
    rule = one_standard_error("f1", mgs="rank")
    assert rule(table) == 1
    assert repr(rule) == "one_standard_error(score='f1', mgs='rank')"
    assert pickle.loads(pickle.dumps(rule)) == rule


@pytest.mark.parametrize(
    ("rule", "table", "match"),
    [
        (
            one_standard_error("f1"),
            results([BEST], [-1]),
            r"no score named 'f1', only \['accuracy', 'mgs'\]; pass scoring=\{'f1': \.\.\.\}",
        ),
        (one_standard_error(mgs="rank"), results([BEST], [-1]), "no score named 'rank'"),
        (one_standard_error(), results([BEST], [np.nan]), "No candidate has a finite 'accuracy'"),
        (one_standard_error(), results([[np.nan] * 4], [-1]), "error_score=.raise."),
    ],
)
def test_what_it_cannot_choose_from(rule, table, match):
    with pytest.raises(ValueError, match=match):
        rule(table)


@pytest.mark.parametrize("kind", [GridSearchCV, RandomizedSearchCV])
def test_search_refits_what_the_rule_names(kind):
    pipe = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=20, random_state=0))
    search = kind(
        pipe,
        {"mlpclassifier__alpha": [0.0, 1.0, 30.0]},
        scoring={"accuracy": "accuracy", "mgs": make_mgs_scorer("effective_rank")},
        refit=one_standard_error(),
        cv=3,
        **({"n_iter": 3} if kind is RandomizedSearchCV else {}),
    ).fit(X, y)
    assert search.best_index_ == one_standard_error()(search.cv_results_)
    assert search.best_params_ == search.cv_results_["params"][search.best_index_]
    assert search.predict(X).shape == y.shape


def test_strength_of_the_penalty_in_other_processes():
    search = GridSearchCV(
        sklearn_mgs.MLPClassifier((8,), max_iter=10, random_state=0),
        {"mgs_strength": [0.0, 1.0]},
        scoring={"accuracy": "accuracy", "mgs": make_mgs_scorer()},
        refit=one_standard_error(),
        cv=3,
        n_jobs=2,
    ).fit(X, y)
    without, with_penalty = search.cv_results_["mean_test_mgs"]
    assert with_penalty > without


def test_a_single_unnamed_score_is_not_enough():
    search = GridSearchCV(MLPClassifier((2,), max_iter=2), {}, refit=one_standard_error(), cv=2)
    with pytest.raises(ValueError, match=r"no score named 'accuracy', only \['score'\]"):
        search.fit(X, y)


# ----------------------------------------------------- scikit-learn's tools with this score

X32 = X.astype(np.float32)


def skorch_net(kind=NeuralNetClassifier, n_outputs=2):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, n_outputs))
    criterion = nn.CrossEntropyLoss if kind is NeuralNetClassifier else nn.MSELoss
    return kind(module, criterion=criterion, max_epochs=2, verbose=0, train_split=None)


SETTINGS = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0}


def ours():
    return sklearn_mgs.MLPClassifier(**SETTINGS)


def regressor():
    return sklearn_mgs.MLPRegressor(**SETTINGS)


# name -> (unfitted estimator, target, a parameter of it)
ESTIMATORS = {
    "ours": (ours, y, "mgs_strength"),
    "ours, regression": (regressor, X32[:, 0], "mgs_strength"),
    "scikit-learn's": (lambda: MLPClassifier(**SETTINGS), y, "alpha"),
    "scikit-learn's, regression": (lambda: MLPRegressor(**SETTINGS), X32[:, 0], "alpha"),
    "skorch": (skorch_net, y, "optimizer__weight_decay"),
    "skorch, regression": (
        lambda: skorch_net(NeuralNetRegressor, 1),
        X32[:, :1],
        "optimizer__weight_decay",
    ),
    "pipeline of ours": (
        lambda: make_pipeline(StandardScaler(), ours()),
        y,
        "mlpclassifier__mgs_strength",
    ),
    "pipeline of scikit-learn's": (
        lambda: make_pipeline(StandardScaler(), MLPClassifier(**SETTINGS)),
        y,
        "mlpclassifier__alpha",
    ),
    "pipeline of skorch": (
        lambda: make_pipeline(StandardScaler(), skorch_net()),
        y,
        "neuralnetclassifier__optimizer__weight_decay",
    ),
    "calibrated": (
        lambda: CalibratedClassifierCV(ours(), ensemble=False, cv=2),
        y,
        "estimator__mgs_strength",
    ),
    "transformed target": (
        lambda: TransformedTargetRegressor(regressor(), transformer=StandardScaler()),
        X32[:, 0],
        "regressor__mgs_strength",
    ),
}
SCORER = make_mgs_scorer("effective_rank", max_samples=20)
VALUES = [0.0, 1.0]


def search(kind, grid, **kwargs):
    def scores(estimator, X, y, param, n_jobs):
        options = {"scoring": SCORER, "cv": 2, "n_jobs": n_jobs, **kwargs}
        table = kind(estimator, {param: VALUES} if grid else {}, **options).fit(X, y).cv_results_
        return [table[key] for key in table if key.startswith("split")]

    return scores


TOOLS = {
    "GridSearchCV": search(GridSearchCV, True, return_train_score=True),
    "GridSearchCV, two scores": search(
        GridSearchCV, True, scoring={"mgs": SCORER, "trace": make_mgs_scorer()}, refit="mgs"
    ),
    "HalvingGridSearchCV": search(HalvingGridSearchCV, True, random_state=0, min_resources=60),
    "cross_val_score": lambda e, X, y, param, n_jobs: cross_val_score(
        e, X, y, scoring=SCORER, cv=2, n_jobs=n_jobs
    ),
    "cross_validate": lambda e, X, y, param, n_jobs: [
        scores
        for key, scores in cross_validate(
            e, X, y, scoring={"mgs": SCORER}, cv=2, n_jobs=n_jobs, return_train_score=True
        ).items()
        if key.endswith("_mgs")
    ],
    "learning_curve": lambda e, X, y, param, n_jobs: learning_curve(
        e, X, y, train_sizes=[0.5, 1.0], scoring=SCORER, cv=2, n_jobs=n_jobs
    )[1:],
    "validation_curve": lambda e, X, y, param, n_jobs: validation_curve(
        e, X, y, param_name=param, param_range=VALUES, scoring=SCORER, cv=2, n_jobs=n_jobs
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_tool_scores_every_estimator_in_two_processes_as_in_one(tool, name):
    make, target, param = ESTIMATORS[name]
    one, two = (np.array(TOOLS[tool](make(), X32, target, param, n)) for n in (None, 2))
    assert (one < 0).all()  # similar gradients have a low rank
    np.testing.assert_allclose(two, one, rtol=1e-4)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_labels_do_not_enter_the_score(name):
    make, target, _ = ESTIMATORS[name]
    fitted = make().fit(X32, target)
    assert SCORER(fitted, X32) == SCORER(fitted, X32, target)
    result = permutation_importance(fitted, X32, None, scoring=SCORER, n_repeats=1)
    assert result.importances.shape == (5, 1)


class Autoencoder(BaseEstimator):
    """A network that is fitted without labels."""

    def __init__(self, strength=0.0):
        self.strength = strength

    def fit(self, X, y=None):
        assert y is None
        self.estimator_ = regressor().set_params(mgs_strength=self.strength).fit(X, X)
        return self


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_without_labels(tool):
    scores = np.array(TOOLS[tool](Autoencoder(), X32, None, "strength", None))
    assert (scores < 0).all()


def test_scores_without_labels_are_those_of_each_fold():
    folds = [np.arange(60), np.arange(60, 120)]
    expected = [SCORER(Autoencoder().fit(X32[a]), X32[b]) for a, b in (folds[::-1], folds)]
    np.testing.assert_array_equal(
        cross_val_score(Autoencoder(), X32, scoring=SCORER, cv=2), expected
    )
