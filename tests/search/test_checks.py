"""scikit-learn's own checks, on a small search: two strengths, two folds."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_mgs.search import MLPClassifierCV, MLPRegressorCV

SMALL = {
    "hidden_layer_sizes": (8,),
    "mgs_strengths": [0.0, 0.01],
    "learning_rate_init": 0.1,
    "max_iter": 30,
    "cv": 2,
}
ESTIMATORS = [MLPClassifierCV(**SMALL), MLPRegressorCV(**SMALL)]
N_CHECKS = 100  # of both together, at least: scikit-learn has 129 of them in 1.9


@parametrize_with_checks(ESTIMATORS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_the_checks_ran():
    marks = test_scikit_learn_check.pytestmark
    (cases,) = [m.args[1] for m in marks if m.name == "parametrize"]
    assert sum(1 for _ in cases) > N_CHECKS
