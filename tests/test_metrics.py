"""mgs_score against gradients taken sample by sample, and its scorer in scikit-learn's tools."""

import pickle

import numpy as np
import pytest
import torch
from sklearn import config_context, neural_network
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import permutation_importance
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    StratifiedKFold,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import EpochScoring
from skorch.dataset import Dataset
from torch import nn

import sklearn_mgs
from sklearn_mgs._resolve import resolved
from sklearn_mgs.metrics import make_mgs_scorer, mgs_score

METRICS = ("trace", "logdet", "det", "effective_rank", "cosine")
X, y = make_classification(90, 6, n_informative=4, n_classes=3, random_state=0)
y_text = np.array(["b", "c", "a"])[y]
X32 = X.astype(np.float32)


def ours(**kwargs):
    return sklearn_mgs.MLPClassifier((7,), max_iter=3, random_state=0, **kwargs)


def theirs():
    return neural_network.MLPClassifier((7,), max_iter=3, random_state=0)


def net(kind=NeuralNetClassifier, n_outputs=3):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Dropout(0.3), nn.Linear(7, n_outputs))
    criterion = nn.CrossEntropyLoss if kind is NeuralNetClassifier else nn.MSELoss
    return kind(module, criterion=criterion, max_epochs=2, verbose=0, train_split=None)


# name -> (unfitted estimator, the X it takes, the y it takes)
ESTIMATORS = {
    "ours": (ours, X, y_text),
    "ours, regression": (
        lambda: sklearn_mgs.MLPRegressor(hidden_layer_sizes=(7,), max_iter=3, random_state=0),
        X,
        X[:, :2],
    ),
    "scikit-learn": (theirs, X, y_text),
    "scikit-learn, regression": (
        lambda: neural_network.MLPRegressor(hidden_layer_sizes=(7,), max_iter=3),
        X,
        X[:, 0],
    ),
    "skorch": (net, X32, y),
    "skorch, regression": (lambda: net(NeuralNetRegressor, 1), X32, X32[:, :1]),
    "pipeline of ours": (lambda: make_pipeline(StandardScaler(), ours()), X, y_text),
    "pipeline of skorch": (lambda: make_pipeline(StandardScaler(), net()), X32, y),
    "calibrated": (
        lambda: CalibratedClassifierCV(make_pipeline(StandardScaler(), ours()), ensemble=False),
        X,
        y_text,
    ),
    "transformed target": (
        lambda: TransformedTargetRegressor(
            sklearn_mgs.MLPRegressor(hidden_layer_sizes=(7,), max_iter=3),
            transformer=StandardScaler(),
        ),
        X,
        X[:, 0],
    ),
    "search": (lambda: GridSearchCV(ours(), {"alpha": [0.1]}, cv=2), X, y_text),
}
CLASSIFIERS = [k for k, (_, _, target) in ESTIMATORS.items() if target is y or target is y_text]

estimators = pytest.mark.parametrize("name", ESTIMATORS)


def fitted(name):
    make, data, target = ESTIMATORS[name]
    return make().fit(data, target), data, target


def loop_gradients(module, inputs, chosen=None):
    """Gradients (n, C, P) in float64, one output of one sample at a time."""
    module, inputs = module.double(), inputs.double()
    parameters = list(module.parameters())
    rows = []
    for x in inputs:
        outputs = module(x[None])[0]
        grads = [torch.autograd.grad(f, parameters, retain_graph=True) for f in outputs]
        rows.append(torch.stack([torch.cat([g.flatten() for g in gs]) for gs in grads]))
    return torch.stack(rows).numpy()


def by_hand(K, metric):
    """The formulas of the user guide in NumPy."""
    n, mean = len(K), np.trace(K) / len(K)
    eigenvalues = np.linalg.eigvalsh(K)
    if metric == "effective_rank":
        p = eigenvalues[eigenvalues > 1e-12 * mean] / eigenvalues.sum()
        return np.exp(-np.sum(p * np.log(p)))
    if metric == "cosine":
        R = K / np.sqrt(np.outer(np.diag(K), np.diag(K)))
        return (R.sum() - n) / (n * (n - 1))
    logdet = np.mean(np.log(eigenvalues + 1e-4 * mean))
    return {"trace": mean, "logdet": logdet, "det": np.exp(logdet)}[metric]


@estimators
@pytest.mark.parametrize("metric", METRICS)
def test_score_is_the_metric_of_the_gradients(name, metric):
    estimator, data, _ = fitted(name)
    value = mgs_score(estimator, data, metric=metric)
    with resolved(pickle.loads(pickle.dumps(estimator)), data) as (module, inputs):
        tolerance = 1e-9 if inputs.dtype == torch.float64 else 1e-3
        J = loop_gradients(module, inputs)
    expected = by_hand(np.einsum("icp,jcp->ij", J, J), metric)
    assert isinstance(value, float)
    assert value == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_target_outputs_are_those_of_the_labels(name):
    estimator, data, target = fitted(name)
    index = np.unique(target, return_inverse=True)[1]
    value = mgs_score(estimator, data, target, outputs="target")
    with resolved(pickle.loads(pickle.dumps(estimator)), data) as (module, inputs):
        J = loop_gradients(module, inputs)[np.arange(len(data)), index]
    assert value == pytest.approx(np.mean(np.sum(J**2, 1)), rel=1e-5)


def test_missing_class_of_a_skorch_net_keeps_its_output():
    subset = y != 1
    estimator = net().fit(X32[subset], y[subset])
    value = mgs_score(estimator, X32[subset], y[subset], outputs="target")
    with resolved(estimator, X32[subset]) as (module, inputs):
        J = loop_gradients(module, inputs)[np.arange(subset.sum()), y[subset]]
    assert value == pytest.approx(np.mean(np.sum(J**2, 1)), rel=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_scikit_learns_network_scores_as_ours_with_the_same_weights(metric):
    a, b = theirs().fit(X, y), ours(dtype="float64").fit(X, y)
    b.coefs_, b.intercepts_ = a.coefs_, a.intercepts_
    assert mgs_score(a, X, metric=metric) == pytest.approx(
        mgs_score(b, X, metric=metric), rel=1e-6
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("outputs", ["all", "target", "random", "sum", "full"])
def test_scorer_is_greater_for_more_similar_gradients(metric, outputs):
    estimator = theirs().fit(X, y)
    options = {"outputs": outputs, "max_samples": 20, "random_state": 3}
    value = mgs_score(estimator, X, y, metric=metric, **options)
    sign = 1 if metric == "cosine" else -1
    assert make_mgs_scorer(metric, **options)(estimator, X, y) == sign * value


def test_trace_of_all_blocks_is_a_mean_over_samples_and_outputs():
    estimator = theirs().fit(X, y)
    full, reduced = (mgs_score(estimator, X, outputs=o) for o in ("full", "all"))
    assert 3 * full == pytest.approx(reduced, rel=1e-9)


def test_trace_does_not_depend_on_how_samples_are_chunked():
    estimator = theirs().fit(X, y)
    many = np.tile(X, (7, 1))  # more than two chunks
    assert mgs_score(estimator, many) == pytest.approx(mgs_score(estimator, X), rel=1e-9)


@pytest.mark.parametrize("kind", ["ours", "scikit-learn", "skorch"])
def test_random_state_decides_the_subsample_and_nothing_else_changes(kind):
    estimator, data, _ = fitted(kind)
    before = pickle.dumps(estimator)
    np_state, torch_state = check_random_state(None).get_state()[1].copy(), torch.get_rng_state()

    def score(**kwargs):
        return mgs_score(estimator, data, max_samples=10, **kwargs)

    assert score(random_state=1) == score(random_state=1) != score(random_state=2)
    assert score() == score(random_state=0) == score(random_state=np.random.RandomState(0))
    mgs_score(estimator, data, outputs="random")
    assert pickle.dumps(estimator) == before
    assert np.array_equal(check_random_state(None).get_state()[1], np_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_max_samples_beyond_the_samples_takes_all():
    estimator = theirs().fit(X, y)
    assert mgs_score(estimator, X, max_samples=1000) == mgs_score(estimator, X)


@pytest.mark.parametrize("max_samples", [None, 20])
@pytest.mark.parametrize("outputs", ["all", "target"])
def test_datasets_of_a_skorch_net(max_samples, outputs):
    fit, dataset = net().fit(X32, y), Dataset(X32, y)
    options = {"metric": "logdet", "max_samples": max_samples, "outputs": outputs}
    assert mgs_score(fit, dataset, y, **options) == mgs_score(fit, X32, y, **options)


def test_an_epoch_scoring_of_skorch():
    scorer = make_mgs_scorer("effective_rank", max_samples=20)
    watched = net().set_params(callbacks=[EpochScoring(scorer, on_train=True, name="rank")])
    assert watched.fit(X32, y).history[-1, "rank"] == scorer(watched, X32)


def test_labels_follow_their_samples_into_the_subsample():
    estimator = theirs().fit(X, y_text)
    options = {"outputs": "target", "max_samples": 30, "random_state": 5}
    rows = np.random.RandomState(5).permutation(90)[:30]
    expected = mgs_score(estimator, X[rows], y_text[rows], outputs="target")
    assert mgs_score(estimator, X, y_text, **options) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("scorer", "text"),
    [
        (make_mgs_scorer(), "make_mgs_scorer('trace')"),
        (
            make_mgs_scorer("cosine", outputs="sum", max_samples=9, random_state=1),
            "make_mgs_scorer('cosine', outputs='sum', max_samples=9, random_state=1)",
        ),
    ],
)
def test_scorer_shows_what_it_is_and_survives_pickling(scorer, text):
    assert repr(scorer) == text
    again = pickle.loads(pickle.dumps(scorer))
    assert again == scorer
    estimator = theirs().fit(X, y)
    assert again(estimator, X) == scorer(estimator, X)


SEARCHED = ["ours", "scikit-learn", "skorch", "pipeline of ours"]
searched = pytest.mark.parametrize("name", SEARCHED)
STRENGTH = {
    "ours": "mgs_strength",
    "scikit-learn": "alpha",
    "skorch": "optimizer__weight_decay",
    "pipeline of ours": "mlpclassifier__mgs_strength",
}
EPOCHS = {
    "ours": "max_iter",
    "scikit-learn": "max_iter",
    "skorch": "max_epochs",
    "pipeline of ours": "mlpclassifier__max_iter",
}
SCORER = make_mgs_scorer("effective_rank", max_samples=25)


@searched
def test_cross_validation_scores_the_fit_of_each_fold(name):
    make, data, target = ESTIMATORS[name]
    got = cross_validate(make(), data, target, scoring=SCORER, cv=2, return_estimator=True)
    folds = StratifiedKFold(2).split(data, target)
    expected = [SCORER(e, data[test]) for e, (_, test) in zip(got["estimator"], folds)]
    np.testing.assert_array_equal(got["test_score"], expected)


@searched
def test_search_by_two_scores(name):
    make, data, target = ESTIMATORS[name]
    search = GridSearchCV(
        make(),
        {STRENGTH[name]: [0.0, 0.1]},
        scoring={"accuracy": "accuracy", "mgs": SCORER},
        refit="mgs",
        cv=2,
        return_train_score=True,
    ).fit(data, target)
    results = search.cv_results_
    assert search.best_index_ == results["mean_test_mgs"].argmax()
    assert (results["mean_test_mgs"] < 0).all()
    assert (results["mean_train_mgs"] < 0).all()
    assert SCORER(search, data) == SCORER(search.best_estimator_, data)


@searched
def test_halving_search_with_one_score(name):
    make, data, target = ESTIMATORS[name]
    search = HalvingGridSearchCV(
        make(),
        {STRENGTH[name]: [0.0, 0.1]},
        resource=EPOCHS[name],
        min_resources=1,
        max_resources=3,
        scoring=SCORER,
        cv=2,
        random_state=0,
    ).fit(data, target)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ < 0


@searched
def test_curves(name):
    make, data, target = ESTIMATORS[name]
    curve = {"scoring": SCORER, "cv": 2}
    _, train, test = learning_curve(make(), data, target, train_sizes=[0.7, 1.0], **curve)
    assert ((train < 0) & (test < 0)).all()
    train, test = validation_curve(
        make(), data, target, param_name=STRENGTH[name], param_range=[0.0, 0.1], **curve
    )
    assert ((train < 0) & (test < 0)).all()


def test_jobs_in_other_processes_give_the_same():
    scores = [cross_val_score(ours(), X, y, scoring=SCORER, cv=2, n_jobs=n) for n in (None, 2)]
    np.testing.assert_allclose(*scores, rtol=1e-5)


def test_permutation_importance_needs_no_labels():
    result = permutation_importance(theirs().fit(X, y), X, None, scoring=SCORER, n_repeats=2)
    assert result.importances.shape == (6, 2)


@pytest.mark.parametrize("routing", [False, True])
def test_sample_weights_for_others_do_not_reach_the_scorer(routing):
    weight = np.ones(len(X))
    with config_context(enable_metadata_routing=routing):
        estimator = ours()
        if routing:
            estimator.set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
        got = cross_validate(
            estimator, X, y, scoring={"mgs": SCORER}, cv=2, params={"sample_weight": weight}
        )
    assert (got["test_mgs"] < 0).all()


def several_labels():
    target = np.column_stack([y == 0, y == 1]).astype(int)
    return neural_network.MLPClassifier((3,), max_iter=2).fit(X, target), target


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda e: mgs_score(e, X, metric="rank"), "Unknown metric 'rank'.*'effective_rank'"),
        (lambda e: mgs_score(e, X, outputs="some"), "Unknown outputs 'some'.*'target'"),
        (lambda e: make_mgs_scorer("rank"), "Unknown metric 'rank'.*'effective_rank'"),
        (lambda e: make_mgs_scorer(outputs="some"), "Unknown outputs 'some'.*'target'"),
        (lambda e: mgs_score(e, X, max_samples=0), "max_samples.*at least 1; got 0"),
        (lambda e: mgs_score(e, X, max_samples=0.5), "max_samples.*integer.*got 0.5"),
        (lambda e: mgs_score(e, X[:1], metric="cosine"), "compares pairs; got 1 sample"),
        (lambda e: mgs_score(e, X, outputs="target"), "needs y, the class labels; got None"),
        (lambda e: mgs_score(e, X, y + 1, outputs="target"), r"not fitted on: \[3\]; expected"),
        (lambda e: mgs_score(e, np.full_like(X, np.nan)), "contains NaN"),
        (
            lambda e: mgs_score(several_labels()[0], X, several_labels()[1], outputs="target"),
            r"one class label per sample; got y of shape \(90, 2\)",
        ),
        (
            lambda e: mgs_score(
                neural_network.MLPRegressor(max_iter=2).fit(X, y), X, y, outputs="target"
            ),
            "needs a classifier, and MLPRegressor has no classes_",
        ),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call(theirs().fit(X, y))


def test_labels_of_a_binary_skorch_net_are_floats():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))
    target = (y > 0).astype(np.float32)
    binary = NeuralNetBinaryClassifier(module, max_epochs=1, verbose=0, train_split=None)
    binary.fit(X32, target)
    options = {"outputs": "target", "metric": "cosine"}
    G = np.where(target, 1, -1)[:, None] * np.hstack([X32, np.ones((90, 1))])
    expected = by_hand(G @ G.T, "cosine")
    assert mgs_score(binary, X32, target, **options) == pytest.approx(expected, rel=1e-4)


def test_labels_of_a_skorch_net_are_indices():
    with pytest.raises(ValueError, match=r"needs y as class indices; got <U1.*LabelEncoder"):
        mgs_score(net().fit(X32, y), X32, y_text, outputs="target")


def test_not_fitted():
    with pytest.raises(NotFittedError, match="not fitted"):
        mgs_score(clone(ours()), X)
