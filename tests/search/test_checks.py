"""scikit-learn's own checks, on a small search: two strengths, two folds."""

import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from sklearn_mgs.search import MLPClassifierCV, MLPRegressorCV

SMALL = {
    "hidden_layer_sizes": (8,),
    "mgs_strengths": [0.0, 0.01],
    "learning_rate_init": 0.1,
    "max_iter": 30,
    "cv": 2,
}
ESTIMATORS = [MLPClassifierCV(**SMALL), MLPRegressorCV(**SMALL)]


@parametrize_with_checks(ESTIMATORS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_checks_are_many_and_none_is_expected_to_fail(estimator):
    assert sum(1 for _ in estimator_checks_generator(estimator, mark=None)) >= 50
