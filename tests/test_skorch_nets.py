"""skorch's nets with the penalty: the penalty is exact, and skorch's own behaviour is intact."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.callbacks import Checkpoint, EarlyStopping, TrainEndCheckpoint
from skorch.dataset import ValidSplit
from skorch.hf import AccelerateMixin
from torch import nn

from sklearn_mgs import (
    MGSNeuralNetClassifier,
    MGSNeuralNetRegressor,
    MLPClassifier,
    mgs_score,
)
from sklearn_mgs._optimizer import WeightRegularizer
from sklearn_mgs.gram import gram_matrix, mgs_metric
from tests.cases import Attention, Cramped, Recurrent, Transformer, resnet
from tests.test_estimators_device import NoWaiting


class Net(nn.Module):
    """Small convolutional net with a residual connection."""

    def __init__(self, channels=4, norm="group"):
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(2, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = nn.Linear(channels, 3)

    def forward(self, X):
        h = torch.relu(self.norm(self.first(X)))
        return self.head((h + torch.tanh(self.second(h))).mean((2, 3)))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    X = rng.normal(size=(60, 1, 6, 6)) + y[:, None, None, None]
    return X.astype("float32"), y


def make(cls=MGSNeuralNetClassifier, **kwargs):
    torch.manual_seed(0)
    defaults = dict(
        criterion=nn.CrossEntropyLoss, max_epochs=2, lr=0.1, batch_size=20, verbose=0, module=Net
    )
    return cls(**{**defaults, **kwargs})


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.module_.parameters()])


def test_strength_zero_is_the_skorch_net(images):
    plain = make(NeuralNetClassifier).fit(*images)
    ours = make().fit(*images)
    torch.testing.assert_close(weights(ours), weights(plain), rtol=0, atol=0)
    assert ours.penalty_ is None
    assert "mgs_penalty" not in ours.history[-1]


@pytest.mark.parametrize("metric", ["trace", "det"])
@pytest.mark.parametrize("size", [None, 5])
def test_one_step_follows_the_definition(images, metric, size):
    """One full-batch SGD step against autograd through the kernel of the definition."""
    X, y = torch.as_tensor(images[0]).double(), torch.as_tensor(images[1])
    module = Net().double()
    net = make(
        module=copy.deepcopy(module),
        mgs_strength=0.3,
        mgs_metric=metric,
        mgs_batch_size=size,
        max_epochs=1,
        batch_size=len(X),
        train_split=None,
    )

    def m(X, y):
        K = gram_matrix(module, X, outputs="target", targets=y, implementation="jacobian")
        return mgs_metric(K, metric)

    loss = nn.functional.cross_entropy(module(X), y)
    loss = loss + 0.3 * m(X[:size], y[:size]) / m(X, y).detach()
    loss.backward()
    expected = torch.cat([(p - 0.1 * p.grad).detach().flatten() for p in module.parameters()])
    net.partial_fit(X, y)
    torch.testing.assert_close(weights(net), expected, rtol=1e-9, atol=1e-12)
    assert net.history[-1, "train_loss"] == pytest.approx(loss.item(), rel=1e-9)


def test_validation_loss_and_predictions_are_free_of_the_penalty(images):
    X, y = images
    net = make(mgs_strength=5.0, train_split=ValidSplit(3, stratified=True)).fit(X, y)
    _, valid = net.get_split_datasets(X, y)
    Xv, yv = map(np.stack, zip(*[valid[i] for i in range(len(valid))]))
    with torch.no_grad():
        expected = nn.functional.cross_entropy(
            net.module_.eval()(torch.as_tensor(Xv)), torch.as_tensor(yv)
        )
    assert net.history[-1, "valid_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert net.history[-1, "mgs_penalty"] > 0


def test_penalty_raises_similarity(images):
    trace = [
        mgs_score(make(mgs_strength=s, max_epochs=15).fit(*images), images[0]) for s in (0.0, 1.0)
    ]
    assert trace[1] < 0.8 * trace[0]


def test_regressor_with_several_outputs():
    X = torch.linspace(-1, 1, 40)[:, None]
    y = torch.cat([X**2, X**3], dim=1)
    net = make(
        MGSNeuralNetRegressor, module=nn.Linear(1, 2), criterion=nn.MSELoss, mgs_strength=0.1
    ).fit(X, y)
    assert net.penalty_.outputs == "random"
    assert net.predict(X).shape == (40, 2)


def test_samples_that_interact_are_refused_with_the_remedy(images):
    with pytest.raises(ValueError, match=r"(?s)BatchNorm.*eval"):
        make(module__norm="batch", mgs_strength=0.1).fit(*images)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"mgs_strength": -1.0}, "mgs_strength must be 0 or more"),
        ({"l1": float("nan")}, "l1 must be 0 or more"),
        ({"alpha": float("inf")}, "alpha must be 0 or more and finite, got inf"),
        ({"mgs_strength": "0.1"}, "mgs_strength must be 0 or more and finite, got '0.1'"),
        ({"mgs_batch_size": 2.5}, "mgs_batch_size must be None or at least 1 .* got 2.5"),
        ({"coherence_threshold": 2}, r"coherence_threshold must be None or in \[-1, 1\], got 2"),
        ({"coherence_threshold": "0"}, "coherence_threshold must be None or in"),
        ({"mgs_metric": "rank"}, "Unknown metric 'rank'.*trace.*det"),
        ({"mgs_metric": "det", "mgs_batch_size": 1}, "mgs_batch_size must be None or at least 2"),
        (
            {"mgs_centered": "class", "mgs_batch_size": 1},
            "at least 2 for mgs_metric='trace', mgs_centered='class'; got 1",
        ),
        (
            {"mgs_metric": "det", "mgs_batch_size": 2}
            | {"coherence_threshold": 0.5, "coherence": "batch"},
            "at least 3 for mgs_metric='det', mgs_centered=False where halves are compared; got 2",
        ),
        ({"mgs_relative": "first"}, "relative must be True or False, got 'first'"),
        ({"coherence": "none"}, "coherence must be one of"),
    ],
)
def test_bad_parameters(images, kwargs, match):
    with pytest.raises(ValueError, match=match):
        make(**kwargs).fit(*images)


def test_skorch_keeps_working(images, tmp_path):
    X, y = images
    net = make(
        mgs_strength=0.1,
        max_epochs=3,
        callbacks=[
            Checkpoint(dirname=str(tmp_path)),
            TrainEndCheckpoint(dirname=str(tmp_path / "end")),
            EarlyStopping(patience=10),
        ],
    )
    net.set_params(module__channels=6, lr=0.05)
    net.fit(X, y)
    assert net.module_.first.out_channels == 6
    other = make(module__channels=6).initialize()
    other.load_params(checkpoint=Checkpoint(dirname=str(tmp_path)))
    net.save_params(f_params=tmp_path / "p.pt")
    other.load_params(f_params=tmp_path / "p.pt")
    torch.testing.assert_close(weights(other), weights(net))
    loaded = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(loaded.predict(X), net.predict(X))
    loaded.partial_fit(X, y)
    assert loaded.penalty_.scale_ == net.penalty_.scale_
    assert len(loaded.history) == 6


def test_grid_search(images):
    search = GridSearchCV(
        make(train_split=None), {"mgs_strength": [0.0, 0.1], "module__channels": [2]}, cv=2
    ).fit(*images)
    assert set(search.cv_results_["param_mgs_strength"]) == {0.0, 0.1}


def test_l1_makes_exact_zeros(images):
    net = make(l1=5.0, max_epochs=20).fit(*images)
    w = torch.cat([p.detach().flatten() for p in net.module_.parameters() if p.ndim > 1])
    assert 0.2 < (w == 0).float().mean() <= 1


@pytest.mark.parametrize("measure", ["total", "batch"])
def test_coherence_threshold(images, measure):
    """Below every cosine the regulariser always acts; above every cosine it never does."""
    fits = {
        t: make(alpha=10.0, coherence_threshold=t, coherence=measure).fit(*images)
        for t in (None, -1.0, 1.0)
    }
    tolerance = dict(rtol=1e-4, atol=1e-5)  # two half passes round differently from one
    torch.testing.assert_close(weights(fits[-1.0]), weights(fits[None]), **tolerance)
    torch.testing.assert_close(weights(fits[1.0]), weights(make().fit(*images)), **tolerance)
    assert fits[-1.0].history[-1, "regularized"] == 1
    assert fits[1.0].history[-1, "regularized"] == 0
    assert -1 <= fits[1.0].history[-1, "coherence"] <= 1


ACCELERATED = {"mgs_strength": 0.3, "alpha": 0.1, "l1": 0.01, "max_epochs": 3}


@pytest.fixture
def accelerated():
    """skorch's mixin with this class, and what makes an accelerator."""
    import accelerate  # seconds

    class Accelerated(AccelerateMixin, MGSNeuralNetClassifier):
        """As skorch's documentation composes it."""

    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerated, lambda **kwargs: accelerate.Accelerator(cpu=True, **kwargs)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("options", [{}, {"coherence_threshold": 0.5}, {"mgs_batch_size": 5}])
def test_accelerate(images, accelerated, options):
    cls, accelerator = accelerated
    want = make(**ACCELERATED, **options).fit(*images)
    got = make(
        cls, accelerator=accelerator(), callbacks__print_log__sink=print, **ACCELERATED, **options
    ).fit(*images)
    torch.testing.assert_close(weights(got), weights(want))
    assert got.history[:, "mgs_penalty"] == pytest.approx(want.history[:, "mgs_penalty"])


def test_accelerate_in_half_precision(images, accelerated):
    cls, accelerator = accelerated
    want = make(**ACCELERATED).fit(*images)
    half = accelerator(mixed_precision="bf16")
    got = make(cls, accelerator=half, callbacks__print_log__sink=print, **ACCELERATED).fit(*images)
    assert 0 < (weights(got) - weights(want)).abs().max() < 0.01
    assert got.history[:, "mgs_penalty"] == pytest.approx(want.history[:, "mgs_penalty"], rel=0.05)


def test_regularisers_act_when_accumulated_gradients_do(images, accelerated, monkeypatch):
    cls, accelerator = accelerated
    acts = []
    for name in ("before_step", "after_step"):
        act = getattr(WeightRegularizer, name)

        def spy(self, *args, act=act, name=name):
            acts.append((name, args[-1]))
            act(self, *args)

        monkeypatch.setattr(WeightRegularizer, name, spy)
    halves = accelerator(gradient_accumulation_steps=2)
    net = make(cls, accelerator=halves, batch_size=10, callbacks__print_log__sink=print, alpha=0.1)
    net.set_params(max_epochs=1, train_split=None).fit(*images)
    assert acts == 3 * [("before_step", 20), ("after_step", 20)]


@pytest.mark.parametrize(
    "kwargs", [{"compile": True}, {"coherence": "batch", "coherence_threshold": 0.1}]
)
def test_what_accelerate_does_not_go_with(images, accelerated, kwargs):
    cls, accelerator = accelerated
    with pytest.raises(ValueError, match="AccelerateMixin; got compile="):
        make(cls, accelerator=accelerator(), **kwargs).fit(*images)


@pytest.mark.parametrize("outputs", ["auto", "all"])
@pytest.mark.parametrize("estimator", [MGSNeuralNetClassifier, MLPClassifier])
def test_out_of_memory_in_training_says_what_to_lower(estimator, outputs, monkeypatch):
    X, y = np.ones((40, 4), dtype="float32"), np.arange(40) % 3
    X += np.random.default_rng(0).normal(size=X.shape)
    steps = {"mgs_strength": 0.1, "mgs_outputs": outputs, "batch_size": 20}
    if estimator is MLPClassifier:
        net = MLPClassifier((3,), **steps)
    else:
        net = make(module=Cramped(4, 3), **steps)

    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.optim.SGD, "step", full)
    monkeypatch.setattr("sklearn_mgs._net.MLPNet._backward", full)
    match = r"lower batch_size \(this mini-batch has 20 samples\), or lower mgs_batch_size"
    if outputs == "all":
        match += ".*set mgs_outputs='random'"
    with pytest.raises(torch.cuda.OutOfMemoryError, match=match + ".*CUDA out of memory"):
        net.fit(X, y)


def test_a_new_module_gets_a_new_penalty(images):
    net = make(mgs_strength=0.1).fit(*images)
    scale = net.penalty_.scale_
    net.set_params(mgs_metric="det").partial_fit(*images)
    assert net.penalty_.metric == "det"
    net.set_params(mgs_metric="trace", module__channels=8)
    assert net.penalty_ is None
    assert net.partial_fit(*images).penalty_.scale_ != scale


def test_a_pickle_needs_no_device_but_for_what_skorch_can_move(images):
    class NoTensors(pickle.Pickler):
        def reducer_override(self, thing):
            assert not isinstance(thing, torch.Tensor), thing
            return NotImplemented

    net = make(mgs_strength=0.1, alpha=0.1, coherence_threshold=0.5).fit(*images)
    state = net.__getstate__()
    moved = pickle.loads(state.pop("__cuda_dependent_attributes__"))
    assert {"module_", "penalty_", "regularizer_"} <= set(moved)
    assert moved["regularizer_"].weights[0] is moved["module_"].first.weight
    state = {name: value for name, value in state.items() if name not in ("module", "criterion")}
    NoTensors(io.BytesIO()).dump(state)
    assert pickle.loads(pickle.dumps(net)).penalty_.scale_ == net.penalty_.scale_


WATCHED = [
    {"mgs_strength": 0.1},
    {"mgs_strength": 0.1, "mgs_metric": "det", "mgs_centered": "class", "l1": 0.1},
    {"mgs_strength": 0.1, "mgs_outputs": "all", "mgs_batch_size": 5, "alpha": 0.1},
    {"mgs_strength": 0.1, "coherence_threshold": 0.1, "coherence": "batch", "alpha": 0.1},
    {"mgs_outputs": "all", "coherence_threshold": 0.1, "coherence": "batch", "mgs_strength": 0.1},
    {"coherence_threshold": 0.5, "l1": 0.1},
]


def prepared(images, device, **kwargs):
    """A net that has begun to train, and a mini-batch where it lives."""
    net = make(train_split=None, device=device, **kwargs).fit(*images)
    return net, tuple(torch.as_tensor(part[:20], device=device) for part in images)


@pytest.mark.parametrize("kwargs", WATCHED, ids=str)
def test_a_step_asks_the_device_for_nothing(images, kwargs):
    net, batch = prepared(images, "cpu", **kwargs)
    with NoWaiting():
        net.train_step(batch)


@pytest.mark.parametrize("size", [None, 5])
def test_loss_of_outputs_from_elsewhere(images, size):
    """Not from `infer`, which records them: the samples are run once more."""
    net, (X, y) = prepared(images, "cpu", mgs_strength=0.1, mgs_batch_size=size)
    loss = net.get_loss(net.infer(X), y, X=X, training=True)
    net.tape_ = None
    again = net.get_loss(net.module_(X), y, X=X, training=True)
    torch.testing.assert_close(again, loss)


@pytest.mark.parametrize(
    "penalty",
    [
        {"strength": 0.0},
        {"relative": True, "outputs": "random"},
        {"metric": "det", "centered": True, "batch_size": 6},
    ],
    ids=str,
)
def test_comparing_halves_in_one_pass_asks_the_device_for_nothing(images, penalty):
    dense = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3))
    options = {f"mgs_{name}": value for name, value in {"strength": 0.1, **penalty}.items()}
    gate = {"coherence_threshold": 0.1, "coherence": "batch", "alpha": 0.1}
    net, batch = prepared(images, "cpu", module=dense, **options, **gate)
    assert net.one_pass_[1]
    with NoWaiting():
        net.train_step(batch)
    assert pickle.loads(pickle.dumps(net)).partial_fit(*images).one_pass_[1]


@pytest.mark.gpu
@pytest.mark.parametrize("kwargs", WATCHED, ids=str)
def test_a_step_on_cuda_does_not_wait(images, kwargs):
    net, batch = prepared(images, "cuda", **kwargs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        net.train_step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("kwargs", [{}, *WATCHED], ids=str)
def test_the_profiler_counts_no_synchronisation_of_ours(images, kwargs):
    net, batch = prepared(images, "cuda", **kwargs)
    net.train_step(batch)
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        net.train_step(batch)
    waits = ("aten::item", "aten::_local_scalar_dense", "aten::nonzero", "cudaStreamSynchronize")
    assert [e.name for e in profile.events() if e.name in waits] == []


KINDS = {
    "attention": (Attention, (5, 4), ["trace", "det"]),
    "lstm": (lambda: Recurrent(nn.LSTM), (5, 3), ["trace"]),
    "residual": (lambda: resnet(lambda c: nn.GroupNorm(2, c)), (2, 8, 8), ["trace"]),
    "tokens": (Transformer, (5,), ["det"]),
}


@pytest.mark.parametrize("name", KINDS)
def test_fits_of_every_kind_of_module(name):
    make_module, shape, metrics = KINDS[name]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, *shape)).astype("float32")
    X = rng.integers(0, 7, X.shape) if name == "tokens" else X
    y = rng.integers(0, 2, 30)
    for metric in metrics:
        torch.manual_seed(0)
        net = make(module=make_module(), mgs_strength=0.3, mgs_metric=metric, lr=0.02)
        values = net.fit(X, y).history[:, "mgs_penalty"]
        assert values[-1] < values[0]


def test_outputs_are_resolved_anew_when_they_change():
    X, y = np.random.default_rng(0).normal(size=(30, 4)).astype("f"), np.arange(30) % 3
    net = MGSNeuralNetClassifier(
        nn.Linear(4, 3),
        criterion=nn.CrossEntropyLoss,
        mgs_strength=0.1,
        mgs_outputs="all",
        max_epochs=1,
        train_split=None,
        verbose=0,
    ).fit(X, y)
    assert net.penalty_.outputs == "all"
    net.set_params(mgs_outputs="auto").partial_fit(X, y)
    auto = net.penalty_
    assert auto.outputs == "target"
    net.set_params(mgs_outputs="target").partial_fit(X, y)  # the same: measured once
    assert net.penalty_ is auto


@pytest.mark.parametrize(("length", "outputs"), [(1, "sum"), (3, "random")])
def test_outputs_of_regression_are_summed_where_there_is_one(length, outputs):
    X = np.random.default_rng(0).normal(size=(30, 4)).astype("f")
    net = MGSNeuralNetRegressor(
        nn.Sequential(nn.Linear(4, length), nn.Unflatten(1, (1, length))),
        mgs_strength=0.1,
        max_epochs=1,
        train_split=None,
        verbose=0,
    ).fit(X, X[:, None, :length])
    assert net.penalty_.outputs == outputs
