"""MLPClassifierCV and MLPRegressorCV: the answer of GridSearchCV, and what is theirs alone."""

import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import cpu_count, parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris, make_regression
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from sklearn_mgs import MLPClassifier, MLPRegressor
from sklearn_mgs.metrics import make_mgs_scorer, mgs_score
from sklearn_mgs.model_selection import one_standard_error
from sklearn_mgs.search import MLPClassifierCV, MLPRegressorCV, _memory
from sklearn_mgs.search import _search as search_module
from sklearn_mgs.search._memory import model_bytes

rng = np.random.RandomState(0)
X, y = load_iris(return_X_y=True)
X, y = StandardScaler().fit_transform(X)[::2], y[::2].copy()
y[rng.rand(len(y)) < 0.3] = 0
X_reg, y_reg = make_regression(60, 4, noise=10, random_state=0)
y_reg = y_reg / y_reg.std()

STRENGTHS = [0.0, 0.1, 1.0, 10.0]
PARAMS = {
    "hidden_layer_sizes": (8,),
    "learning_rate_init": 0.02,
    "batch_size": 16,
    "max_iter": 8,
    "random_state": 0,
}
BOTH = {"accuracy": "accuracy", "mgs": make_mgs_scorer("effective_rank")}


def classifier(**params):
    return MLPClassifierCV(**{**PARAMS, "mgs_strengths": STRENGTHS, "cv": 3, **params})


def regressor(**params):
    return MLPRegressorCV(**{**PARAMS, "mgs_strengths": STRENGTHS, "cv": 3, **params})


def assert_same_search(ours, theirs):
    """Same table (but for the times), choice, and final weights."""
    for key, column in theirs.cv_results_.items():
        if key.endswith("_time"):
            assert ours.cv_results_[key].shape == column.shape
        elif key == "params":
            assert ours.cv_results_[key] == column
        else:
            assert_allclose(np.asarray(ours.cv_results_[key], float), np.asarray(column, float))
    assert set(ours.cv_results_) == set(theirs.cv_results_)
    for name in ("best_index_", "best_params_", "n_splits_", "multimetric_"):
        assert getattr(ours, name) == getattr(theirs, name)
    if hasattr(theirs, "best_score_"):
        assert_allclose(ours.best_score_, theirs.best_score_)
    assert ours.mgs_strength_ == theirs.best_params_["mgs_strength"]
    for a, b in zip(ours.coefs_, theirs.best_estimator_.coefs_):
        assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scoring": "neg_log_loss"},
        {"scoring": make_mgs_scorer("cosine", max_samples=10)},
        {"scoring": BOTH, "refit": "mgs"},
        {"scoring": BOTH, "refit": one_standard_error()},
        {"scoring": ["accuracy", "neg_log_loss"], "refit": "neg_log_loss"},
        {"scoring": lambda estimator, X, y: estimator.predict(X)[0] == 0},
        {"scoring": lambda estimator, X, y: np.inf if estimator.mgs_strength == 1 else 0.0},
        {"cv": KFold(4, shuffle=True, random_state=1)},
    ],
    ids=range(9),
)
def test_classifier_is_grid_search(options):
    grid = {"refit": True, "cv": 3, **options}
    theirs = GridSearchCV(MLPClassifier(**PARAMS), {"mgs_strength": STRENGTHS}, **grid).fit(X, y)
    assert_same_search(classifier(**options).fit(X, y), theirs)


def test_regressor_is_grid_search():
    theirs = GridSearchCV(MLPRegressor(**PARAMS), {"mgs_strength": STRENGTHS}, cv=3)
    assert_same_search(regressor().fit(X_reg, y_reg), theirs.fit(X_reg, y_reg))


def test_several_lists():
    lists = {"alpha": [0.0, 1.0], "l1": [0.0, 0.5], "mgs_strength": [0.0, 1.0]}
    theirs = GridSearchCV(MLPClassifier(**PARAMS), lists, cv=3).fit(X, y)
    ours = classifier(mgs_strengths=[0.0, 1.0], alphas=[0.0, 1.0], l1s=[0.0, 0.5]).fit(X, y)
    assert_same_search(ours, theirs)


def test_coherent_regularisation():
    params = {**PARAMS, "alpha": 1.0, "l1": 0.5, "coherence_threshold": 0.9}
    theirs = GridSearchCV(MLPClassifier(**params), {"mgs_strength": STRENGTHS}, cv=3)
    assert_same_search(classifier(**params).fit(X, y), theirs.fit(X, y))


def test_class_weight_and_early_stopping():
    params = {**PARAMS, "class_weight": "balanced", "early_stopping": True, "n_iter_no_change": 2}
    theirs = GridSearchCV(MLPClassifier(**params), {"mgs_strength": STRENGTHS}, cv=3)
    assert_same_search(classifier(**params).fit(X, y), theirs.fit(X, y))


@pytest.mark.parametrize(
    ("search", "estimator"), [(MLPClassifierCV, MLPClassifier), (MLPRegressorCV, MLPRegressor)]
)
def test_it_takes_the_parameters_of_the_estimator(search, estimator):
    ours, theirs = search().get_params(), estimator().get_params()
    assert set(theirs) - set(ours) == {"mgs_strength", "compile"}
    assert all(ours[name] == theirs[name] for name in set(theirs) & set(ours))


def test_groups():
    groups = np.arange(len(y)) % 5
    theirs = GridSearchCV(MLPClassifier(**PARAMS), {"mgs_strength": STRENGTHS}, cv=GroupKFold(3))
    ours = classifier(cv=GroupKFold(3)).fit(X, y, groups=groups)
    assert_same_search(ours, theirs.fit(X, y, groups=groups))


def test_a_class_that_a_fold_lacks():
    lacking = [
        (np.flatnonzero(y != 2), np.flatnonzero(y == 2)),
        (np.arange(40), np.arange(40, 75)),
    ]
    theirs = GridSearchCV(MLPClassifier(**PARAMS), {"mgs_strength": STRENGTHS}, cv=lacking)
    assert_same_search(classifier(cv=lacking).fit(X, y), theirs.fit(X, y))


@pytest.mark.parametrize("random_state", [np.random.RandomState(3), 3], ids=["instance", "int"])
def test_random_state(random_state):
    theirs = GridSearchCV(
        MLPClassifier(**{**PARAMS, "random_state": random_state}),
        {"mgs_strength": STRENGTHS},
        cv=3,
    )
    ours = classifier(random_state=random_state).fit(X, y)
    assert_same_search(ours, theirs.fit(X, y))


def test_without_random_state_candidates_share_a_seed_and_global_ones_stay():
    np.random.seed(0)  # noqa: NPY002
    before = torch.random.get_rng_state()
    search = classifier(random_state=None, mgs_strengths=[0.3, 0.3], dropout=0.1).fit(X, y)
    assert_array_equal(search.scores_[:, 0], search.scores_[:, 1])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.random.randint(10**6) == np.random.RandomState(0).randint(10**6)  # noqa: NPY002


def test_sample_weight_counts_in_training_and_in_scoring():
    weight = rng.randint(1, 4, len(y)).astype(float)
    search = classifier(scoring=BOTH, refit="accuracy").fit(X, y, sample_weight=weight)
    for split, (train, test) in enumerate(StratifiedKFold(3).split(X, y)):
        for i, strength in enumerate(STRENGTHS):
            lone = MLPClassifier(**PARAMS, mgs_strength=strength)
            lone.fit(X[train], y[train], weight[train])
            score = lone.score(X[test], y[test], weight[test])
            assert_allclose(search.scores_["accuracy"][split, i], score)
            rank = -mgs_score(lone, X[test], metric="effective_rank")
            assert_allclose(search.scores_["mgs"][split, i], rank)
    final = MLPClassifier(**PARAMS, mgs_strength=search.mgs_strength_).fit(X, y, weight)
    assert_array_equal(search.coefs_[0], final.coefs_[0])


def test_a_scorer_that_declines_weights_gets_none():
    weight = np.where(y == 0, 1.0, 0.2)
    with config_context(enable_metadata_routing=True):
        declines = make_scorer(accuracy_score).set_score_request(sample_weight=False)
        search = classifier(scoring={"declines": declines}, refit="declines").fit(X, y, weight)
        score = search.score(X, y, weight)
    both = {"declines": lambda e, X, y: e.score(X, y), "weighted": "accuracy"}
    expected = classifier(scoring=both, refit="declines").fit(X, y, weight)
    assert_array_equal(search.scores_["declines"], expected.scores_["declines"])
    assert np.any(search.scores_["declines"] != expected.scores_["weighted"])
    assert score == expected.best_estimator_.score(X, y)


def test_it_has_what_the_best_estimator_has():
    search = classifier().fit(pd.DataFrame(X, columns=list("abcd")), y)
    best = search.best_estimator_
    assert type(best) is MLPClassifier
    assert best.get_params() == {
        **MLPClassifier(**PARAMS).get_params(),
        "mgs_strength": search.mgs_strength_,
    }
    names = ["classes_", "n_features_in_", "feature_names_in_", "n_iter_", "loss_", "history_"]
    for name in [*names, "module_", "net_", "compression_ratio_", "out_activation_"]:
        assert np.all(getattr(search, name) == getattr(best, name))
    frame = pd.DataFrame(X, columns=list("abcd"))
    for method in ("predict", "predict_proba", "predict_log_proba"):
        assert_array_equal(getattr(search, method)(frame), getattr(best, method)(frame))
    assert search.score(frame, y) == best.score(frame, y)
    assert mgs_score(search, frame) == mgs_score(best, frame)
    assert_array_equal(pickle.loads(pickle.dumps(search)).predict(frame), best.predict(frame))
    assert_array_equal(clone(search).fit(frame, y).predict(frame), best.predict(frame))


def test_score_is_the_one_that_chose():
    search = classifier(scoring="neg_log_loss").fit(X, y)
    assert search.score(X, y) == search.scorer_["score"](search.best_estimator_, X, y)
    assert search.score(X, y) < 0
    weight = np.where(y == 0, 1.0, 0.0)
    search = classifier().fit(X, y)
    assert search.score(X, y, weight) == search.best_estimator_.score(X, y, weight)


def test_before_fit():
    search = classifier()
    with pytest.raises(NotFittedError, match="MLPClassifierCV instance is not fitted"):
        search.predict(X)
    with pytest.raises(AttributeError, match="'MLPClassifierCV' object has no attribute 'coefs_'"):
        search.coefs_.clear()


def test_default_grid():
    search = regressor(mgs_strengths=10, max_iter=1).fit(X_reg, y_reg)
    tried = search.cv_results_["param_mgs_strength"].data
    assert_allclose(tried, [0, 1e-3, 10**-2.5, 1e-2, 10**-1.5, 0.1, 10**-0.5, 1, 10**0.5, 10])


def test_it_is_a_step_of_a_pipeline_and_a_scorer_finds_it():
    pipe = make_pipeline(StandardScaler(), classifier(mgs_strengths=[0.1])).fit(X, y)
    assert pipe[-1].mgs_strength_ == 0.1
    assert mgs_score(pipe, X) > 0


# ------------------------------------------------------------------ groups and workers


@pytest.mark.parametrize("options", [{"max_models": 1}, {"max_models": 5}, {"n_jobs": 2}])
def test_division_into_batches_changes_nothing(options):
    whole, divided = classifier().fit(X, y), classifier(**options).fit(X, y)
    assert_array_equal(whole.scores_, divided.scores_)


def threads(estimator, X, y):
    return torch.get_num_threads()


def test_other_processes_change_nothing_and_share_the_cores(monkeypatch):
    # Without the limit that joblib sets in its workers, each would start a thread per core.
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    options = {"scoring": {"accuracy": "accuracy", "threads": threads}, "refit": "accuracy"}
    whole = classifier(halving=True).fit(X, y)
    grid = GridSearchCV(MLPClassifier(**PARAMS), {"mgs_strength": STRENGTHS}, cv=3, **options)
    with parallel_config("loky", n_jobs=2):
        spread = classifier(halving=True, verbose=True, **options).fit(X, y)
        grid.fit(X, y)
    assert_array_equal(whole.scores_, spread.scores_["accuracy"])
    for search in (spread, grid):
        assert set(search.cv_results_["mean_test_threads"]) == {max(1, cpu_count() // 2)}


def test_threads_of_torch_are_divided_and_restored(monkeypatch):
    monkeypatch.setattr(search_module, "cpu_count", lambda: 6)
    before, inside = torch.get_num_threads(), []

    def scorer(estimator, X, y):
        inside.append(torch.get_num_threads())
        return 0.0

    with parallel_config("threading"):
        classifier(scoring=scorer, n_jobs=2).fit(X, y)
    assert set(inside) == {3}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("hidden_layer_sizes", "expected"), [((4,), 1), ((1200, 1200), 3)])
def test_small_networks_train_in_one_thread(monkeypatch, hidden_layer_sizes, expected):
    inside, fit = [], MLPClassifier.fit
    options = {"hidden_layer_sizes": hidden_layer_sizes, "max_iter": 1, "scoring": threads}

    def recording_fit(estimator, *args, **kwargs):
        inside.append(torch.get_num_threads())
        return fit(estimator, *args, **kwargs)

    monkeypatch.setattr(MLPClassifier, "fit", recording_fit)
    before = torch.get_num_threads()
    with search_module.torch_threads(3):
        search = classifier(**options).fit(X, y)
        assert torch.get_num_threads() == 3
    assert np.all(search.scores_ == expected)
    assert inside == [expected]
    assert torch.get_num_threads() == before


@pytest.fixture
def live(monkeypatch):
    """Sizes over time of the set of models that hold memory."""
    models, sizes = set(), []
    start, release = search_module.BatchedFit.start, search_module.BatchedFit.release

    def counting_start(batch):
        start(batch)
        models.update(batch.models)
        sizes.append(len(models))

    def counting_release(batch):
        release(batch)
        models.difference_update(batch.models)
        sizes.append(len(models))

    monkeypatch.setattr(search_module.BatchedFit, "start", counting_start)
    monkeypatch.setattr(search_module.BatchedFit, "release", counting_release)
    return sizes


MANY = {
    "mgs_strengths": 500,
    "cv": 5,
    "hidden_layer_sizes": (3,),
    "max_iter": 1,
    "scoring": lambda estimator, X, y: estimator.coefs_[0][0, 0],
}


@pytest.mark.parametrize("limit", ["as asked", "as free memory allows"])
def test_five_hundred_candidates_train_in_groups(monkeypatch, live, limit):
    if limit == "as asked":
        search = classifier(**MANY, max_models=150)
    else:  # half of the free memory is for models: weights 4 * 3 + 3 * 3, biases 3 + 3
        size = model_bytes([4, 3, 3], PARAMS["batch_size"], 1, 8)
        monkeypatch.setattr(_memory, "_free_bytes", lambda device: 2 * 150 * size)
        search = classifier(**MANY)
    search.fit(X, y)
    assert search.scores_.shape == (5, 500)
    assert np.isfinite(search.scores_).all()
    assert 100 < max(live) <= 150
    assert live[-1] == 0


PEAK = """
import re, warnings
import numpy as np
from sklearn_mgs import MLPClassifierCV
warnings.simplefilter("ignore")
def peak():  # of this process: getrusage's begins with that of the process that started it
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1]) / 1024
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory's peak")


def printed(script):
    """The number that another process prints; `peak` is its memory so far in MB."""
    command = [sys.executable, "-c", PEAK + script]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@linux
@pytest.mark.parametrize("params", [{"mgs_metric": "det"}, {"gradient_strength": 0.1}], ids=str)
def test_models_take_the_memory_that_is_expected(params):
    script = f"""
from sklearn_mgs.search import _base_cv
rows = np.arange(300)
X, y = np.random.RandomState(0).randn(300, 30), rows % 10
params = dict(batch_size=300, max_iter=2, random_state=0, cv=[(rows, rows[:9])], **{params})
expected = []
def recording(n_bytes, device, n_jobs, n_passing):
    expected.append((n_bytes + n_passing) / 2**20)
    return 22
_base_cv.default_max_models = recording
for n in (2, 22):
    before = peak()
    MLPClassifierCV(mgs_strengths=np.linspace(0.1, 1, n), **params).fit(X, y)
print((peak() - before) / 20 / expected[0])
"""
    assert 0.2 < printed(script) < 1.3


@linux
def test_five_hundred_candidates_in_bounded_memory():
    script = """
def weight(estimator, X, y):
    return estimator.coefs_[0][0, 0]
X, y = np.random.RandomState(0).randn(40, 300), np.arange(40) % 2
search = MLPClassifierCV((100,), max_iter=1, random_state=0, scoring=weight)
search.set_params(mgs_strengths=2).fit(X, y)
before = peak()
search.set_params(mgs_strengths=500).fit(X, y)
assert search.scores_.shape == (5, 500)
print(peak() - before)
"""
    # Weights alone are 0.24 MB a model, 600 MB for all; with their moments 3 GB. A batch is 32 MB.
    assert printed(script) < 80


# ----------------------------------------------------------------------------- halving


@pytest.fixture
def no_margin(monkeypatch):
    monkeypatch.setattr(search_module, "MARGIN", 0.0)


@pytest.mark.usefixtures("no_margin")
def test_halving_gives_survivors_what_the_full_search_gives():
    full = classifier(max_iter=8).fit(X, y)
    halved = classifier(max_iter=8, halving=True).fit(X, y)
    given = halved.cv_results_["n_resources"]
    assert sorted(given) == [4, 4, 8, 8]
    to_the_end = given == 8
    assert_array_equal(halved.scores_[:, to_the_end], full.scores_[:, to_the_end])
    early = classifier(max_iter=4).fit(X, y).scores_
    assert_array_equal(halved.scores_[:, ~to_the_end], early[:, ~to_the_end])
    assert early.mean(0)[to_the_end].min() >= early.mean(0)[~to_the_end].max()
    ranks = halved.cv_results_["rank_test_score"]
    assert ranks[to_the_end].max() < ranks[~to_the_end].min()
    assert given[halved.best_index_] == 8


@pytest.mark.usefixtures("no_margin")
def test_halving_by_a_factor():
    def weak(estimator, X, y):
        return -estimator.mgs_strength

    search = classifier(mgs_strengths=10, max_iter=27, halving=3, scoring=weak).fit(X, y)
    assert_array_equal(search.cv_results_["n_resources"], [27] * 2 + [9] * 2 + [3] * 6)


def test_halving_keeps_who_catches_up():
    def late(estimator, X, y):  # the weak one is better until late, the strong one improves
        return 0.5 + estimator.mgs_strength * (np.log2(estimator.n_iter_) - 5.9)

    options = {"mgs_strengths": [0.01, 0.1], "alphas": [0.0, 1.0, 2.0], "scoring": late}
    search = classifier(**options, max_iter=64, n_iter_no_change=64, halving=4).fit(X, y)
    assert_array_equal(search.cv_results_["n_resources"], [64] * 6)
    assert search.mgs_strength_ == 0.1


@pytest.mark.parametrize("rule", [None, "last"])
def test_halving_keeps_who_is_not_clearly_behind(rule):
    strengths = [0.0, 0.001, 0.002, 3.0, 10.0]
    seen = []

    def weak(estimator, X, y):  # weak penalties score high, in no order
        noise = np.sin(1e5 * (1 + estimator.mgs_strength) * X[0, 0])
        return float(estimator.mgs_strength < 1) + 0.1 * noise

    def last(cv_results):
        seen.append([p["mgs_strength"] for p in cv_results["params"]])
        return len(cv_results["params"]) - 1

    refit = {"refit": last} if rule else {}
    options = {"scoring": weak, "halving": 4, "max_iter": 32, **refit}
    search = classifier(mgs_strengths=strengths, **options).fit(X, y)
    assert_array_equal(search.cv_results_["n_resources"], [32, 32, 32, 8, 8])
    if rule:  # a callable sees only what was trained to the end
        assert seen == [strengths[:3]]
        assert search.best_index_ == 2


# ----------------------------------------------------------------- failures and errors


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_progress_bar_over_epochs_and_groups_with_the_best_score(capsys, backend):
    with parallel_config(backend, n_jobs=2):
        search = classifier(verbose=True).fit(X, y)
    shown = capsys.readouterr().err
    epochs = len(STRENGTHS) * 3 * PARAMS["max_iter"]
    assert f"{epochs}/{epochs}" in shown
    assert "groups=1/2" in shown
    assert "groups=2/2" in shown
    assert f"best score={search.best_score_:.4g}" in shown
    classifier().fit(X, y)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("options", [{"early_stopping": True}, {"halving": True}], ids=str)
def test_progress_bar_is_full_in_the_end(capsys, options):
    params = {"max_iter": 60, "n_iter_no_change": 1, "learning_rate_init": 0.1, "verbose": True}
    classifier(**params, **options).fit(X, y)
    (last,) = re.findall(r"(\d+)/(\d+) \[", capsys.readouterr().err.split("\r")[-1])
    assert last[0] == last[1]
    assert int(last[0]) < 60 * 3 * len(STRENGTHS)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_fit_leaves_the_search_as_it_was(capsys, error):
    def scorer(estimator, X, y):
        raise error

    search = classifier(verbose=True)
    with pytest.raises(error):
        search.set_params(scoring=scorer).fit(X, y)
    assert capsys.readouterr().err.endswith("\n")  # the bar is closed
    with pytest.raises(NotFittedError):
        check_is_fitted(search)
    search.set_params(scoring=None).fit(X, y)
    before = dict(vars(search))
    with pytest.raises(ValueError, match="NaN"):
        search.fit(X * np.nan, y)
    with pytest.raises(error):
        search.set_params(scoring=scorer).fit(X, y)
    after = vars(search)
    assert all(after[k] is before[k] for k in before if k != "scoring")
    assert set(after) == set(before)


def test_a_scorer_that_fails_costs_its_scores_not_the_search():
    def scorer(estimator, X, y):
        if estimator.mgs_strength == 0.1:
            raise RuntimeError("no")
        return estimator.score(X, y)

    scoring = {"accuracy": "accuracy", "often": scorer}
    with pytest.warns(UserWarning, match=r"scorer 'often' failed.*RuntimeError\('no'\)"):
        ours = classifier(scoring=scoring, refit="often").fit(X, y)
    lone = MLPClassifier(**PARAMS)
    theirs = GridSearchCV(lone, {"mgs_strength": STRENGTHS}, scoring=scoring, refit="often", cv=3)
    with pytest.warns(match="non-finite"), pytest.warns(match="Scoring failed"):
        assert_same_search(ours, theirs.fit(X, y))
    assert_array_equal(np.isnan(ours.scores_["often"]), [[False, True, False, False]] * 3)


def test_a_score_that_is_no_number_is_told():
    with pytest.warns(
        UserWarning, match=r"mean scores 'score' are not finite: \[nan nan nan nan\]"
    ):
        search = classifier(scoring=lambda estimator, X, y: np.nan).fit(X, y)
    assert_array_equal(search.cv_results_["rank_test_score"], [1, 1, 1, 1])


def test_candidates_that_fail_score_nan_and_rank_last():
    options = {"mgs_strengths": [1e200, 0.0], "solver": "sgd"}
    with pytest.warns(FitFailedWarning, match="3 fits failed out of a total of 6.*scores are nan"):
        search = classifier(**options).fit(X, y)
    assert np.isnan(search.scores_[:, 0]).all()
    assert search.mgs_strength_ == 0.0
    assert_array_equal(search.cv_results_["rank_test_score"], [2, 1])
    with pytest.raises(ValueError, match=r"All the 3 fits failed.*non-finite.*learning_rate_init"):
        classifier(mgs_strengths=[1e200], solver="sgd").fit(X, y)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"solver": "lbfgs"}, r"solver='lbfgs' can't be trained in a batch.*GridSearchCV"),
        ({"callbacks": [object()]}, r"callbacks=.*one network\. Use GridSearchCV"),
        ({"warm_start": True}, "a search begins anew"),
        ({"mgs_strengths": []}, "mgs_strengths must be a list of finite numbers of at least 0"),
        ({"mgs_strengths": [-1.0]}, r"mgs_strengths must be.*got \[-1.0\]"),
        ({"mgs_strengths": [np.nan]}, "finite"),
        ({"mgs_strengths": [[0.1]]}, "list of finite numbers"),
        ({"mgs_strengths": ["a"]}, "list of finite numbers"),
        ({"alphas": [-1.0]}, "alphas must be"),
        ({"l1s": [np.inf]}, "l1s must be"),
        ({"mgs_strengths": 1}, "mgs_strengths"),
        ({"halving": 1}, "halving"),
        ({"max_models": 0}, "max_models"),
        ({"scoring": []}, "Empty list was given"),
        ({"scoring": {}}, "empty dict was passed"),
        ({"scoring": [make_mgs_scorer()]}, "elements were callables. Use a dict"),
        ({"scoring": accuracy_score}, "looks like it is a metric function"),
        ({"scoring": {"a": accuracy_score}}, "looks like it is a metric function"),
        ({"scoring": BOTH}, r"refit='best' does not say which.*\['accuracy', 'mgs'\]"),
        ({"refit": "f1"}, r"refit='f1' does not say.*\"best\""),
        ({"scoring": lambda e, X, y: [1, 2]}, r"must return a number, got \[1, 2\]"),
        ({"scoring": lambda e, X, y: "high"}, "must return a number, got 'high'"),
        ({"scoring": lambda e, X, y: 1j}, "must return a number, got 1j"),
        ({"mgs_layers": "hidden", "hidden_layer_sizes": ()}, "mgs_layers='hidden'"),
        ({"alpha": -1.0}, "alpha"),
        ({"cv": []}, "cv gives no splits"),
    ],
)
def test_what_a_search_refuses(params, match):
    with pytest.raises(ValueError, match=match):
        classifier(**params).fit(X, y)


@pytest.mark.parametrize(
    ("index", "error", "match"),
    [
        (1.0, TypeError, "refit must return an integer, got 1.0"),
        (4, IndexError, "an index from 0 to 3, got 4"),
    ],
)
def test_what_refit_may_return(index, error, match):
    with pytest.raises(error, match=match):
        classifier(refit=lambda table: index).fit(X, y)


def test_bad_data_is_found_before_training():
    with pytest.raises(ValueError, match="NaN"):
        classifier().fit(np.where(X > 2, np.nan, X), y)
    with pytest.raises(ValueError, match="Negative values"):
        classifier().fit(X, y, sample_weight=-np.ones(len(y)))
    with pytest.raises(ValueError, match="needs class labels"):
        regressor(mgs_outputs="target").fit(X_reg, y_reg)
