"""Public measures and the scorer, on everything that they accept."""

import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import neural_network
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetRegressor
from torch import nn

import sklearn_mgs
from sklearn_mgs.straightness import (
    gradient_deflection,
    gradient_gap_deviation,
    make_deflection_scorer,
    path_kinks,
)
from sklearn_mgs.straightness._segments import segment_statistics
from tests.straightness.written import MaskedNet, skorch_net

MEASURES = (gradient_deflection, gradient_gap_deviation, path_kinks)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    return X, (X[:, 0] * X[:, 1] > 0).astype(int)


@pytest.fixture(scope="module")
def mlp(data):
    return MLPClassifier((20, 10), max_iter=30, random_state=0).fit(*data)


def relu_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 2))


def one_unit(activation="relu"):
    """f = 2 φ(x - 1/4)."""
    net = MLPRegressor(hidden_layer_sizes=(1,), activation=activation, max_iter=1)
    net.fit([[0.0], [1.0]], [0.0, 1.0])
    net.coefs_ = [np.array([[1.0]]), np.array([[2.0]])]
    net.intercepts_ = [np.array([-0.25]), np.array([0.0])]
    return net


# ------------------------------------------------------------------------------------- values


def test_one_relu_unit():
    found = [measure(one_unit(), [[0.0], [1.0]], n_pairs=1) for measure in MEASURES]
    assert found == pytest.approx([np.sqrt(0.75), 2.0, 1.0], rel=1e-12)
    assert all(type(x) is float for x in found)


def test_relative_to_the_chord():
    X = [[0.0], [1.0]]
    relative = gradient_deflection(one_unit(), X, n_pairs=1, relative=True)
    assert relative == pytest.approx(np.sqrt(0.75) / 1.5, rel=1e-12)
    relative = gradient_gap_deviation(one_unit(), X, n_pairs=1, relative=True)
    assert relative == pytest.approx(2 / 1.5, rel=1e-12)


def test_root_mean_square_over_pairs(mlp, data):
    X, _ = data
    rng = np.random.RandomState(3)
    first = rng.randint(60, size=50)
    second = (first + rng.randint(1, 60, size=50)) % 60
    one_by_one = [
        [measure(mlp, X[[a, b]], n_pairs=1) for measure in MEASURES] for a, b in zip(first, second)
    ]
    found = [measure(mlp, X, n_pairs=50, random_state=3) for measure in MEASURES]
    expected = np.sqrt(np.square(one_by_one).mean(0))
    expected[2] = np.mean(one_by_one, axis=0)[2]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert all(x > 0 for x in found)


@pytest.mark.parametrize("measure", [gradient_deflection, gradient_gap_deviation])
def test_relative_does_not_move_with_the_outputs_scale(measure, mlp, data):
    scaled = pickle.loads(pickle.dumps(mlp))
    scaled.coefs_[-1] *= 7
    relative = measure(mlp, data[0], n_pairs=50, relative=True)
    assert measure(scaled, data[0], n_pairs=50, relative=True) == pytest.approx(relative)
    absolute = measure(mlp, data[0], n_pairs=50)
    assert measure(scaled, data[0], n_pairs=50) == pytest.approx(7 * absolute)


@pytest.mark.parametrize("relative", [False, True])
def test_constant_network_is_straight(relative, mlp, data):
    constant = pickle.loads(pickle.dumps(mlp))
    constant.coefs_[-1][:] = 0.0
    assert gradient_deflection(constant, data[0], n_pairs=9, relative=relative) == 0.0
    assert gradient_gap_deviation(constant, data[0], n_pairs=9, relative=relative) == 0.0


def test_no_chord_but_a_bend():
    tent = pickle.loads(pickle.dumps(one_unit()))
    tent.coefs_[0], tent.intercepts_[0] = np.array([[1.0, 1.0]]), np.array([0.0, -0.5])
    tent.coefs_[1] = np.array([[1.0], [-2.0]])
    assert gradient_deflection(tent, [[0.0], [1.0]], n_pairs=1) == pytest.approx(1.0)
    assert gradient_deflection(tent, [[0.0], [1.0]], n_pairs=1, relative=True) == np.inf


def test_linear_network(data):
    linear = MLPClassifier((20,), "identity", max_iter=9, random_state=0).fit(*data)
    chord = np.ptp(linear.predict_proba(data[0]))
    assert gradient_deflection(linear, data[0]) < 1e-14 * chord
    assert gradient_gap_deviation(linear, data[0]) == 0.0
    assert path_kinks(linear, data[0]) == 0.0


@pytest.mark.parametrize("activation", ["tanh", "logistic"])
def test_smooth_networks(activation, data):
    X, y = data
    net = MLPClassifier((20,), activation, max_iter=9, random_state=0).fit(X, y)
    loose = gradient_deflection(net, X, n_pairs=20)
    assert loose == pytest.approx(gradient_deflection(net, X, n_pairs=20, tol=1e-10), rel=1e-6)
    assert path_kinks(net, X) == 0.0
    coarse, fine = (gradient_gap_deviation(net, X, n_pairs=20, n_steps=n) for n in (32, 320))
    assert coarse == pytest.approx(10 * fine, rel=0.02)


# ---------------------------------------------------------------------------------- estimators


def test_logits_not_probabilities(mlp, data):
    assert mlp.out_activation_ == "logistic"
    layers = [layer for w in zip(mlp.coefs_, mlp.intercepts_) for layer in (linear(*w), nn.ReLU())]
    X = torch.from_numpy(data[0][:2])
    expected = segment_statistics(nn.Sequential(*layers[:-1]), X, torch.tensor([[0, 1]]))
    found = gradient_deflection(mlp, data[0][:2], n_pairs=1)
    assert found == pytest.approx(expected.deflection.sqrt().item(), rel=1e-12)


def linear(coef, intercept):
    layer = nn.Linear(*coef.shape).double()
    layer.weight.data, layer.bias.data = torch.from_numpy(coef.T), torch.from_numpy(intercept)
    return layer


@pytest.mark.parametrize("measure", MEASURES)
def test_pipeline_transforms_first(measure, data):
    X, y = data
    X = X * [1, 10, 100, 1000]
    pipe = make_pipeline(StandardScaler(), MLPClassifier((9,), max_iter=9, random_state=0))
    pipe.fit(X, y)
    expected = measure(pipe[-1], pipe[0].transform(X), n_pairs=20)
    assert measure(pipe, X, n_pairs=20) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_skorch_net_is_left_as_it_was(measure, data):
    net = skorch_net(relu_net)
    net.module_.train()
    X = data[0].astype("float32")
    found = measure(net, X, n_pairs=20)
    assert net.module_.training
    module = net.module_.eval().double()
    rng = np.random.RandomState(0)
    first = rng.randint(60, size=20)
    second = (first + rng.randint(1, 60, size=20)) % 60
    pairs = torch.from_numpy(np.column_stack([first, second]))
    exact = segment_statistics(module, torch.from_numpy(X).double(), pairs)
    expected = {
        gradient_deflection: exact.deflection.mean().sqrt(),
        gradient_gap_deviation: exact.gap.mean().sqrt(),
        path_kinks: exact.kinks.double().mean(),
    }
    assert found == pytest.approx(expected[measure].item(), rel=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kind", [sklearn_mgs.MLPClassifier, sklearn_mgs.MLPRegressor])
def test_this_packages_estimators(measure, kind, data):
    X, y = data
    options = {"hidden_layer_sizes": (20,), "random_state": 0}
    net = kind(max_iter=5, dropout=0.2, mgs_strength=0.1, **options).fit(X, y)
    twin = getattr(neural_network, kind.__name__)(max_iter=1, **options).fit(X, y)
    twin.coefs_, twin.intercepts_ = net.coefs_, net.intercepts_
    assert measure(net, X, n_pairs=20) == pytest.approx(measure(twin, X, n_pairs=20), rel=1e-9)


def test_this_packages_skorch_net(data):
    X = data[0].astype("float32")
    net = sklearn_mgs.MGSNeuralNetClassifier(
        relu_net, criterion=nn.CrossEntropyLoss, verbose=0, max_epochs=1, train_split=None
    )
    assert path_kinks(net.fit(X, data[1]), X, n_pairs=20) > 0


@pytest.mark.parametrize("measure", MEASURES)
def test_meta_estimators(measure, data, mlp):
    X, y = data
    net = MLPClassifier((9,), max_iter=9, random_state=0)
    search = GridSearchCV(make_pipeline(StandardScaler(), net), {"mlpclassifier__alpha": [1.0]})
    search.fit(X, y)
    best = search.best_estimator_
    expected = measure(best[-1], best[0].transform(X), n_pairs=20)
    assert measure(search, X, n_pairs=20) == expected
    target = TransformedTargetRegressor(
        MLPRegressor(hidden_layer_sizes=(9,), max_iter=9, random_state=0)
    ).fit(X, y)
    assert measure(target, X, n_pairs=20) == measure(target.regressor_, X, n_pairs=20)
    assert measure(FrozenEstimator(mlp), X, n_pairs=20) == measure(mlp, X, n_pairs=20)


def test_kinks_before_a_softmax(data):
    X = data[0].astype("float32")
    with_softmax = skorch_net(lambda: nn.Sequential(relu_net(), nn.Softmax(1)))
    without = skorch_net(relu_net)
    assert path_kinks(with_softmax, X) == path_kinks(without, X) > 0


def test_data_frame(data):
    X = pd.DataFrame(data[0], columns=list("abcd"))
    pipe = make_pipeline(
        make_column_transformer((StandardScaler(), ["d", "a"])),
        MLPClassifier((9,), max_iter=9, random_state=0),
    )
    pipe.fit(X, data[1])
    assert gradient_deflection(pipe, X, n_pairs=20) > 0


# --------------------------------------------------------------------------------- random pairs


@pytest.mark.parametrize("measure", MEASURES)
def test_random_state(measure, mlp, data):
    X, _ = data
    before = np.random.mtrand._rand.get_state(legacy=False), torch.get_rng_state()
    measure_pairs = partial(measure, mlp, X, n_pairs=20)
    assert measure_pairs(random_state=1) == measure_pairs(random_state=1)
    assert measure_pairs(random_state=1) != measure_pairs(random_state=2)
    assert measure_pairs() == measure_pairs(random_state=0)
    assert measure_pairs(random_state=np.random.RandomState(1)) == measure_pairs(random_state=1)
    after = np.random.mtrand._rand.get_state(legacy=False)
    np.testing.assert_equal(after, before[0])
    assert (torch.get_rng_state() == before[1]).all()


def test_a_pair_is_two_rows(mlp, data):
    # With two rows every pair is the same segment: any pair of a row with itself would show.
    X = data[0][:2]
    one = gradient_deflection(mlp, X, n_pairs=1)
    assert gradient_deflection(mlp, X, n_pairs=200) == pytest.approx(one, rel=1e-12)


# --------------------------------------------------------------------------------------- errors

BAD = {
    "one sample": ({"X": [[0.0]]}, "between two samples; got 1"),
    "no pairs": ({"n_pairs": 0}, "n_pairs must be an integer of at least 1; got 0"),
    "half a pair": ({"n_pairs": 1.5}, "n_pairs must be an integer of at least 1; got 1.5"),
    "NaN": ({"X": [[0.0], [np.nan]]}, "NaN"),
    "features": ({"X": [[0.0, 1.0], [1.0, 2.0]]}, "2 features"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("measure", MEASURES)
def test_bad_input(measure, changes, message):
    with pytest.raises(ValueError, match=message):
        measure(one_unit(), **{"X": [[0.0], [1.0]], **changes})


@pytest.mark.parametrize("tol", [0, -1.0, np.nan, "fine"])
def test_bad_tolerance(tol):
    with pytest.raises(ValueError, match="tol must be a positive number; got"):
        gradient_deflection(one_unit(), [[0.0], [1.0]], tol=tol)


def test_bad_steps():
    with pytest.raises(ValueError, match="n_steps must be an integer of at least 1; got 0"):
        gradient_gap_deviation(one_unit(), [[0.0], [1.0]], n_steps=0)


@pytest.mark.parametrize("measure", MEASURES)
def test_not_finite_in_skorch(measure, data):
    X = data[0].astype("float32")
    X[3, 1] = np.inf
    with pytest.raises(ValueError, match="X contains NaN or infinity"):
        measure(skorch_net(relu_net), X)


def test_nothing_between_integers():
    net = skorch_net(lambda: nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)))
    with pytest.raises(ValueError, match=r"nothing between samples of type torch\.int64"):
        gradient_deflection(net, np.array([[0, 1], [2, 3]]))


def test_batch_statistics():
    norm = partial(nn.BatchNorm1d, 4, track_running_stats=False)
    net = skorch_net(lambda: nn.Sequential(norm(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="samples interact"):
        gradient_deflection(net, np.ones((3, 4), "float32"))


def test_kinks_of_an_unknown_module(data):
    message = r"kinks of MaskedNet cannot be counted: it uses aten.gt.*known for networks that"
    with pytest.raises(ValueError, match=message):
        path_kinks(skorch_net(MaskedNet), data[0].astype("float32"))


def test_kinks_after_a_smooth_layer(data):
    layers = partial(nn.Sequential, nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(ValueError, match="kinks of Sequential cannot be counted: it applies relu"):
        path_kinks(skorch_net(layers), data[0].astype("float32"))


@pytest.mark.parametrize("measure", MEASURES)
def test_other_estimators(measure, data):
    with pytest.raises(TypeError, match="LogisticRegression"):
        measure(LogisticRegression().fit(*data), data[0])
    with pytest.raises(NotFittedError):
        measure(MLPClassifier(), data[0])


# --------------------------------------------------------------------------------------- scorer


def test_scorer_is_the_negated_deflection(mlp, data):
    scorer = make_deflection_scorer(n_pairs=20, random_state=1, relative=True)
    expected = -gradient_deflection(mlp, data[0], n_pairs=20, random_state=1, relative=True)
    assert scorer(mlp, data[0]) == scorer(mlp, *data) == expected < 0
    assert pickle.loads(pickle.dumps(scorer)) == scorer


def test_scorer_passes_the_tolerance(data):
    net = skorch_net(MaskedNet)
    X = data[0].astype("float32")
    scores = [make_deflection_scorer(n_pairs=5, tol=tol)(net, X) for tol in (0.5, 1e-5)]
    assert scores[0] != scores[1]


def test_scorer_repr():
    assert repr(make_deflection_scorer()) == "make_deflection_scorer()"
    scorer = make_deflection_scorer(n_pairs=5, random_state=3)
    assert repr(scorer) == "make_deflection_scorer(n_pairs=5, random_state=3)"


def test_scorer_in_cross_validation_and_search(data):
    scoring = {"accuracy": "accuracy", "straight": make_deflection_scorer(n_pairs=20)}
    net = MLPClassifier((9,), max_iter=9, random_state=0)
    scores = cross_validate(net, *data, scoring=scoring, cv=3)
    assert (scores["test_straight"] < 0).all()
    grid = {"activation": ["identity", "relu"]}
    search = GridSearchCV(net, grid, scoring=scoring, refit="straight", cv=3).fit(*data)
    assert search.best_params_ == {"activation": "identity"}


def test_regressor(data):
    net = NeuralNetRegressor(partial(nn.Linear, 4, 1), verbose=0).initialize()
    assert gradient_deflection(net, data[0].astype("float32"), n_pairs=20) < 1e-14
