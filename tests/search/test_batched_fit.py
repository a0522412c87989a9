"""Each model of a batch against a lone fit with the same seed: weights, losses, epochs."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.sparse import csr_matrix
from sklearn.model_selection import KFold

from sklearn_mgs import MLPClassifier, MLPRegressor
from sklearn_mgs.search import _batched_fit as batched_fit
from sklearn_mgs.search._batched_objective import BatchedObjective
from sklearn_mgs.search._batched_optim import BatchedRegularizer
from sklearn_mgs.search._explicit_gradient import covers, explicit_gradients
from sklearn_mgs.search._fold import Model, prepare_fold
from sklearn_mgs.search._search import make_batches

rng = np.random.RandomState(0)
N = 41  # two folds of different sizes
X = rng.randn(N, 4)
CLASSES = rng.randint(0, 3, N)
BINARY = np.where(rng.rand(N) < 0.5, "a", "b")
LABELS = rng.randint(0, 2, (N, 3))
TARGET = X[:, 0] + 0.1 * rng.randn(N)
TARGETS = np.c_[TARGET, X[:, 1]]
WEIGHTS = rng.rand(N) + 0.1
COUNTS = rng.randint(0, 3, N).astype(float)  # with zeros

SPLITS = list(KFold(2).split(X))
BASE = {"hidden_layer_sizes": (6, 5), "max_iter": 5, "batch_size": 8, "random_state": 3}


def candidates(**lists):
    grid = [{"mgs_strength": s} for s in (0.0, 0.1, 3.0)]
    for name, values in lists.items():
        grid = [{**c, name: v} for c in grid for v in values]
    return grid


def batches(estimator, y, sample_weight=None, grid=None, X=X, max_models=100):
    weights = [None if sample_weight is None else sample_weight[train] for train, _ in SPLITS]
    folds = [
        prepare_fold(estimator.set_params(mgs_strength=1.0), X[train], y[train], w)
        for (train, _), w in zip(SPLITS, weights)
    ]
    models = [
        Model(i, split, params, fold)
        for split, fold in enumerate(folds)
        for i, params in enumerate(grid or candidates())
    ]
    return make_batches(models, max_models, 1)


def arrays(model):
    layers = len(model.parameters) // 2
    weights, biases = model.parameters[:layers], model.parameters[layers:]
    return [w.T.numpy() for w in weights], [b.numpy().ravel() for b in biases]


def assert_like_lone_fits(estimator_class, y, sample_weight=None, grid=None, X=X, **params):
    params = {**BASE, **params}
    trained = []
    for batch in batches(estimator_class(**params), y, sample_weight, grid, X):
        batch.train(params["max_iter"])
        trained += batch.models
    assert len(trained) == len(SPLITS) * len(grid or candidates())
    for model in trained:
        train = SPLITS[model.split][0]
        weight = None if sample_weight is None else sample_weight[train]
        lone = estimator_class(**{**params, **model.params}).fit(X[train], y[train], weight)
        assert model.n_iter == lone.n_iter_
        assert_allclose(model.loss_curve, lone.loss_curve_, rtol=1e-9, atol=1e-10)
        for ours, theirs in zip(arrays(model), (lone.coefs_, lone.intercepts_)):
            for a, b in zip(ours, theirs):
                assert_allclose(a, b, rtol=0, atol=1e-8)
        assert_allclose(model.validation_scores, lone.validation_scores_ or [], rtol=1e-12)
    return trained


def ids(params):
    return "-".join(f"{k}={v}" for k, v in params.items()) or "default"


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"activation": "tanh"},
        {"activation": "logistic", "hidden_layer_sizes": (6,)},
        {"activation": "identity"},
        {"hidden_layer_sizes": ()},
        {"shuffle": False},
        {"batch_size": "auto"},
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
        {"solver": "sgd", "learning_rate_init": 0.05},
        {"solver": "sgd", "nesterovs_momentum": False},
        {"solver": "sgd", "momentum": 0.0},
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    ],
    ids=ids,
)
def test_networks_and_optimizers(params):
    assert_like_lone_fits(MLPClassifier, CLASSES, **params)


@pytest.mark.parametrize(
    "params",
    [
        {"mgs_outputs": "all", "activation": "tanh"},
        {"mgs_outputs": "sum"},
        {"mgs_outputs": "random"},
        {"mgs_layers": "hidden", "activation": "tanh"},
        {"mgs_layers": "first"},
        {"mgs_layers": "balanced"},
        {"mgs_relative": True, "activation": "tanh"},
        {"mgs_relative": True, "mgs_layers": "first", "mgs_batch_size": 5},
        {"mgs_relative": True, "mgs_layers": "balanced", "mgs_outputs": "all"},
        {"mgs_relative": True, "mgs_metric": "det"},
        {"mgs_centered": True},
        {"mgs_centered": "class", "mgs_outputs": "all"},
        {"mgs_batch_size": 5, "activation": "tanh", "mgs_outputs": "all"},
        {"mgs_metric": "det"},
        {"mgs_metric": "det", "mgs_layers": "balanced", "mgs_outputs": "all"},
        {"mgs_metric": "det", "mgs_centered": "class", "mgs_batch_size": 5},
    ],
    ids=ids,
)
def test_penalties(params):
    assert_like_lone_fits(MLPClassifier, CLASSES, **params)


@pytest.mark.parametrize(
    "params",
    [
        {"dropout": 0.3, "activation": "identity"},
        {"dropout": 0.3, "mgs_outputs": "all", "activation": "tanh"},
        {"dropout": 0.3, "mgs_batch_size": 5},
        {"input_noise": 0.1},
        {"label_smoothing": 0.1},
        {"jacobian_strength": 0.1, "activation": "tanh"},
        {"gradient_strength": 0.1},
        {
            "dropout": 0.2,
            "input_noise": 0.1,
            "jacobian_strength": 0.1,
            "gradient_strength": 0.1,
            "mgs_outputs": "random",
            "mgs_batch_size": 5,
        },
        {"alpha": 1.0, "l1": 0.5, "coherence_threshold": 0.95, "coherence": "total"},
        {"alpha": 1.0, "l1": 0.5, "coherence_threshold": 0.2, "coherence": "batch"},
        {"alpha": 1.0, "l1": 0.5, "coherence_threshold": 0.9, "coherence": "trend"},
        {"alpha": 1.0, "coherence_threshold": 0.9, "coherence": "trend", "batch_size": 10},
        {  # zeros that are held
            "alpha": 0.0,
            "l1": 3.0,
            "coherence_threshold": 0.2,
            "coherence": "trend",
            "solver": "sgd",
            "learning_rate_init": 0.3,
        },
        {"alpha": 0.0, "coherence_threshold": 0.9, "coherence": "total"},
        {"alpha": 0.0, "coherence_threshold": 0.9, "coherence": "batch"},
        {"alpha": 0.0, "coherence_threshold": 0.9, "coherence": "trend"},
        {"alpha": 0.0},
        {"class_weight": "balanced"},
    ],
    ids=ids,
)
def test_regularisers(params):
    assert_like_lone_fits(MLPClassifier, CLASSES, **params)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_strengths_of_l1_and_l2_differ_within_a_batch(solver):
    grid = candidates(alpha=[0.0, 1.0], l1=[0.0, 0.3])
    assert_like_lone_fits(MLPClassifier, CLASSES, grid=grid, solver=solver)
    gate = {"coherence_threshold": 0.9, "coherence": "trend"}
    assert_like_lone_fits(MLPClassifier, CLASSES, grid=grid, solver=solver, **gate)


@pytest.mark.parametrize(
    ("estimator", "y", "params"),
    [
        (MLPClassifier, BINARY, {"label_smoothing": 0.2}),
        (MLPClassifier, BINARY, {"mgs_outputs": "target", "mgs_centered": "class"}),
        (MLPClassifier, LABELS, {"mgs_metric": "det"}),
        (MLPRegressor, TARGET, {}),
        (MLPRegressor, TARGETS, {}),
        (MLPRegressor, TARGETS, {"mgs_outputs": "all", "activation": "tanh"}),
        (MLPRegressor, np.abs(TARGET), {"loss": "poisson"}),
    ],
)
def test_kinds_of_targets(estimator, y, params):
    assert_like_lone_fits(estimator, y, **params)


@pytest.mark.parametrize("sample_weight", [WEIGHTS, COUNTS], ids=["weights", "counts"])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"mgs_metric": "det"},
        {"mgs_centered": True, "mgs_batch_size": 3},
        {"batch_size": 2},  # some mini-batches of counts have no weight
        {"early_stopping": True},
        {"alpha": 1.0, "l1": 0.5, "coherence_threshold": 0.2, "coherence": "batch"},
    ],
    ids=ids,
)
def test_sample_weight(params, sample_weight):
    assert_like_lone_fits(MLPClassifier, CLASSES, sample_weight, **params)


def test_sparse_samples():
    assert_like_lone_fits(MLPClassifier, CLASSES, X=csr_matrix(X))


ADAPTIVE = {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "learning_rate_init": 0.1}


@pytest.mark.parametrize(
    ("estimator", "y", "params"),
    [
        (MLPClassifier, CLASSES, {"tol": 0.02, "learning_rate_init": 0.03}),
        (MLPClassifier, CLASSES, {"early_stopping": True, "learning_rate_init": 0.1}),
        (MLPRegressor, TARGET, {"early_stopping": True, "learning_rate_init": 0.01}),
        (MLPClassifier, CLASSES, ADAPTIVE),
    ],
)
def test_each_stops_in_its_own_time(estimator, y, params):
    trained = assert_like_lone_fits(estimator, y, max_iter=40, n_iter_no_change=1, **params)
    epochs = {model.n_iter for model in trained}
    assert len(epochs) > 1
    assert min(epochs) < 40


def test_who_has_stopped_leaves_the_batch():
    params = {**BASE, "max_iter": 40, "tol": 0.02, "learning_rate_init": 0.03}
    (batch,) = batches(MLPClassifier(**params, n_iter_no_change=1), CLASSES)
    trained = []

    def on_epoch(n_models):
        trained.append(n_models)
        if batch.active:
            assert len(batch.net.weights[0]) == len(batch.active)

    batch.train(40, on_epoch)
    epochs = [model.n_iter for model in batch.models]
    assert len(set(epochs)) > 1
    assert trained == [sum(n > i for n in epochs) for i in range(max(epochs))]
    assert batch.net is None


def test_a_batch_goes_where_the_machine_that_loads_it_trains(monkeypatch):
    (batch, *_) = batches(
        MLPClassifier(**BASE, early_stopping=True), CLASSES, grid=candidates()[1:]
    )
    fresh = pickle.dumps(batch)
    batch.train(2)
    started = pickle.dumps(batch)
    monkeypatch.setattr(batched_fit, "resolve_device", lambda device: torch.device("meta"))
    for pickled in (fresh, started):
        there = pickle.loads(pickled)
        if there.net is None:
            there.start()
        held = [there.net.parameters, there.net.gradients, there.best]
        held += [there.step_size.moment, there.step_size.square]
        tensors = [flat.memory for flat in held] + [flat.parts[0] for flat in held]
        samples = there.models[0].fold.samples
        tensors += [samples.X, samples.y, there.objective.penalty.strength]
        tensors += [*there.models[0].fold.estimator.module_.parameters()]
        assert {t.device.type for t in tensors} == {there.like["device"].type} == {"meta"}
        assert samples.device.type == "meta"


def test_random_numbers_go_on_or_begin_anew_on_another_kind_of_device():
    (batch, *_) = batches(MLPClassifier(**BASE), CLASSES)
    batch.train(1)
    expected = torch.Generator().set_state(batch.torch_state)
    assert torch.equal(batch._generator().get_state(), expected.get_state())
    batch.torch_state = torch.zeros(16, dtype=torch.uint8)  # as long as a GPU's
    fresh = torch.Generator().manual_seed(batch.models[0].fold.seed + 1)
    assert torch.equal(batch._generator().get_state(), fresh.get_state())


def test_who_was_dropped_travels_no_more():
    (whole,) = batches(MLPClassifier(**BASE), CLASSES)
    (batch,) = batches(MLPClassifier(**BASE), CLASSES)
    whole.train(5)
    batch.train(2)
    batch.drop({1})
    for model in batch.models:
        assert (model.fold is None) == (model.candidate != 1)
        assert model.candidate == 1 or model.parameters is None
    batch = pickle.loads(pickle.dumps(batch))
    batch.train(5)
    for a, b in zip(whole.models, batch.models):
        if a.candidate == 1:
            assert all(torch.equal(p, q) for p, q in zip(a.parameters, b.parameters))
    batch.drop({})
    for model in batch.models:
        model.forget()
    assert len(pickle.dumps(batch)) < 10_000  # the records of its models


@pytest.mark.gpu
def test_on_a_gpu():
    params = {**BASE, "hidden_layer_sizes": (64,), "batch_size": 20}
    here = batches(MLPClassifier(**params), CLASSES)
    there = batches(MLPClassifier(**params), CLASSES)
    for a, b in zip(here, there):
        a.device, b.device = "cpu", "auto"
        a.train(2)
        b.train(2)
        b = pickle.loads(pickle.dumps(b))
        assert b.like["device"].type == "cuda"
        for batch in (a, b):
            batch.train(5)
        for x, y in zip(a.models, b.models):
            for p, q in zip(x.parameters, y.parameters):
                assert_allclose(p, q, rtol=0, atol=1e-8)


def test_a_failure_leaves_the_others_alone():
    params = {**BASE, "solver": "sgd", "learning_rate_init": 0.01}
    grid = [{"mgs_strength": s} for s in (0.1, 1e200)]
    (batch,) = batches(MLPClassifier(**params), CLASSES, grid=grid)
    batch.train(5)
    fine, failed, *_ = batch.models
    assert "non-finite weights or losses in epoch 1" in failed.failure
    train = SPLITS[fine.split][0]
    lone = MLPClassifier(**params, mgs_strength=0.1).fit(X[train], CLASSES[train])
    assert_allclose(arrays(fine)[0][0], lone.coefs_[0], rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match="non-finite"):
        MLPClassifier(**params, mgs_strength=1e200).fit(X[train], CLASSES[train])


def test_training_goes_on_after_a_pause_and_a_pickle():
    params = {**BASE, "dropout": 0.2, "early_stopping": True}
    (whole, *_) = batches(MLPClassifier(**params), CLASSES)
    (paused, *_) = batches(MLPClassifier(**params), CLASSES)
    whole.train(5)
    paused.train(2)
    paused = pickle.loads(pickle.dumps(paused))
    paused.train(5)
    for a, b in zip(whole.models, paused.models):
        assert a.loss_curve == b.loss_curve
        for x, y in zip(a.parameters, b.parameters):
            assert torch.equal(x, y)


def test_dropping_a_candidate_leaves_the_others_alone():
    (whole, *_) = batches(MLPClassifier(**BASE), CLASSES, grid=candidates()[1:])
    (halved, *_) = batches(MLPClassifier(**BASE), CLASSES, grid=candidates()[1:])
    whole.train(5)
    halved.train(2)
    halved.drop([1])
    halved.train(5)
    assert [m.n_iter for m in halved.models] == [2, 5] * len(SPLITS)
    assert torch.equal(halved.models[1].parameters[0], whole.models[1].parameters[0])


@pytest.mark.parametrize(
    ("params", "weight"),
    [
        ({"mgs_metric": "det"}, None),  # of more samples is another
        ({"mgs_centered": True}, None),
        ({"mgs_outputs": "random"}, None),  # more samples draw other numbers
        ({"dropout": 0.1}, None),
        ({"input_noise": 0.1}, None),
        ({"jacobian_strength": 0.1}, None),
        ({"coherence_threshold": 0.0, "coherence": "batch"}, None),  # has other halves
        ({"batch_size": 5}, None),  # has another number of mini-batches
        ({"batch_size": "auto"}, None),  # is one of all samples
        ({}, WEIGHTS),
    ],
    ids=str,
)
def test_folds_of_two_sizes_train_apart_where_padding_would_be_seen(params, weight):
    made = batches(MLPClassifier(**{**BASE, **params}), CLASSES, weight, grid=candidates()[1:])
    assert len(made) == 2
    assert all(len({m.split for m in b.models}) == 1 for b in made)


def test_else_they_train_together_in_batches_no_larger_than_asked():
    (whole,) = batches(MLPClassifier(**BASE), CLASSES)
    assert len({len(m.fold.samples) for m in whole.models}) == 2
    divided = batches(MLPClassifier(**BASE), CLASSES, max_models=4)
    assert [len(b.models) for b in divided] == [3, 3]


def test_batches_stay_of_one_size_where_neighbours_are_dropped():
    grid = [{"mgs_strength": s} for s in range(8)]
    made = batches(MLPClassifier(**BASE), CLASSES, grid=grid, max_models=6)
    assert [len(b.models) for b in made] == [5, 6, 5]
    left = [sum(m.candidate < 4 for m in b.models) for b in made]
    assert left == [3, 3, 2]


def test_few_models_without_a_penalty_train_with_those_that_have_one():
    assert len(batches(MLPClassifier(**BASE), CLASSES)) == 1
    assert len(batches(MLPClassifier(**BASE), CLASSES, grid=candidates()[:2])) == 2
    for differs in ({"mgs_metric": "det"}, {"dropout": 0.1}, {"input_noise": 0.1}):
        assert len(batches(MLPClassifier(**BASE, **differs), CLASSES)) == 4  # and by fold


def batch_and_objective(params, y, sample_weight=None):
    """The first batch, with a penalty, and one of its mini-batches."""
    estimator = (MLPRegressor if y.dtype.kind == "f" else MLPClassifier)(**{**BASE, **params})
    fit, *_ = batches(estimator, y, sample_weight, grid=candidates()[1:])
    fit.start()
    return fit, next(iter(fit.batches))


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "logistic"])
@pytest.mark.parametrize(
    ("params", "y", "sample_weight"),
    [
        ({}, CLASSES, None),
        ({"mgs_outputs": "all", "hidden_layer_sizes": (6, 5, 4)}, CLASSES, WEIGHTS),
        ({"mgs_layers": "hidden", "mgs_batch_size": 3}, CLASSES, WEIGHTS),
        ({"mgs_layers": "first", "mgs_outputs": "sum"}, LABELS, None),
        ({"mgs_layers": "balanced", "hidden_layer_sizes": ()}, TARGETS, None),
        ({"mgs_relative": True, "mgs_batch_size": 3}, CLASSES, WEIGHTS),
        ({"mgs_relative": True, "mgs_layers": "first", "mgs_outputs": "all"}, LABELS, None),
        ({"mgs_relative": True, "mgs_layers": "balanced"}, TARGETS, None),
        ({"dropout": 0.4, "mgs_outputs": "random"}, TARGETS, WEIGHTS),
    ],
)
def test_closed_form_is_the_gradient_by_autograd(params, y, sample_weight, activation):
    fit, batch = batch_and_objective({**params, "activation": activation}, y, sample_weight)
    assert covers(fit.objective, fit.net)
    found = []
    for gradients in (explicit_gradients, BatchedObjective.gradients):
        with torch.no_grad():
            terms = gradients(fit.objective, fit.net, batch, torch.Generator().manual_seed(0))
        found.append([*terms, fit.net.gradients.memory.clone()])
        fit.net.gradients.memory.fill_(torch.nan)
    for a, b in zip(*found):
        assert_allclose(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "params",
    [
        {"mgs_metric": "det"},
        {"mgs_centered": True},
        {"jacobian_strength": 0.1},
        {"gradient_strength": 0.1},
        {"dropout": 0.1, "mgs_batch_size": 3},
    ],
    ids=ids,
)
def test_what_has_no_closed_form(params):
    fit, _ = batch_and_objective(params, CLASSES)
    assert not covers(fit.objective, fit.net)


def test_batches_that_train_at_once_share_no_estimator():
    shared = batches(MLPClassifier(**BASE), CLASSES, max_models=1)
    assert len({id(b.models[0].fold) for b in shared}) == 2
    for b in shared:
        b.start()
    assert len({id(b.models[0].fold.estimator) for b in shared}) == len(shared)


def test_weights_that_overflow_do_not_count_where_there_is_no_l2():
    alpha = torch.tensor([0.0, 3.0])[:, None, None]
    weights = [torch.full((2, 2, 2), 1.0), torch.ones(2, 2, 1)]
    weights[0][0] = 1e30  # the norm's square is not a number in single precision
    regularizer = BatchedRegularizer(alpha, None)
    regularizer.before_step(weights, [torch.zeros_like(w) for w in weights], 2)
    share = torch.ones(1, 2)
    torch.testing.assert_close(regularizer.mean_loss(share), torch.tensor([0.0, 3 / 4 * 6]))
