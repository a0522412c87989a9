"""Scikit-learn's own contract: every estimator check, on several configurations."""

import collections

import pytest
import sklearn
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from sklearn.utils.fixes import parse_version

from sklearn_mgs import MLPClassifier, MLPRegressor

SMALL = {"hidden_layer_sizes": (10,), "max_iter": 20, "random_state": 0}
FAST = {**SMALL, "learning_rate_init": 0.05}

# Regularisers that draw a number for each sample, and parts of a mini-batch, can't tell a weight
# of two from two samples; they are tested elsewhere.
CONFIGURATIONS = [
    MLPClassifier(**FAST),
    MLPClassifier(**FAST, mgs_strength=0.1),
    MLPClassifier(**FAST, mgs_strength=0.1, mgs_metric="det"),
    MLPClassifier(**FAST, mgs_strength=0.1, mgs_layers="balanced", mgs_outputs="all"),
    MLPClassifier(**FAST, mgs_strength=0.1, early_stopping=True),
    MLPClassifier(**FAST, solver="sgd", learning_rate="adaptive", l1=1e-3),
    MLPClassifier(**SMALL, solver="lbfgs", mgs_strength=0.01, activation="tanh"),
    MLPRegressor(**FAST),
    MLPRegressor(**FAST, mgs_strength=0.1, early_stopping=True),
    MLPRegressor(**FAST, mgs_strength=0.1, mgs_metric="det", mgs_layers="hidden"),
    MLPClassifier(**FAST, mgs_strength=0.1, mgs_layers="first", mgs_relative=True),
    MLPRegressor(**SMALL, solver="lbfgs", mgs_strength=0.01, activation="tanh"),
]


@parametrize_with_checks(CONFIGURATIONS)
def test_estimator_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", CONFIGURATIONS, ids=repr)
def test_checks_are_many_and_none_is_expected_to_fail(estimator):
    names = collections.Counter()
    for _, check in estimator_checks_generator(estimator, mark=None):
        names[check.func.__name__ if hasattr(check, "func") else check.__name__] += 1
    assert sum(names.values()) >= 50
    assert names["check_estimators_pickle"] == 2
    assert names["check_sample_weight_equivalence_on_dense_data"] == 1
    assert names["check_sample_weight_equivalence_on_sparse_data"] == 1


@pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.7"),
    reason="needs array_api_compat, which scikit-learn brings along since 1.7",
)
def test_the_array_api_checks_are_not_skipped():
    with sklearn.config_context(array_api_dispatch=True):  # raises without SCIPY_ARRAY_API
        assert sklearn.get_config()["array_api_dispatch"]
