"""one_standard_error on tables made by hand, and inside searches."""

import pickle

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

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
