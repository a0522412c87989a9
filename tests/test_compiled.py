"""compile=True: the recorded and compiled step is the step."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from sklearn_mgs import MGSNeuralNetClassifier, MLPClassifier, _compiled
from sklearn_mgs._compiled import CompiledPasses, compiler_options
from sklearn_mgs.penalty import MGSPenalty
from tests.cases import MODULES, Recurrent, build
from tests.test_estimators_device import prepared

SMALL = {"hidden_layer_sizes": (8, 6), "max_iter": 3, "batch_size": 16, "random_state": 0}
STEPS = [
    {"mgs_strength": 0.1, "mgs_metric": "det", "mgs_centered": "class"},
    {"mgs_strength": 0.1, "mgs_relative": True},
    {"mgs_strength": 0.1, "mgs_outputs": "all", "dropout": 0.2, "input_noise": 0.1},
    {"mgs_strength": 0.1, "coherence_threshold": 0.1, "coherence": "batch", "l1": 0.1},
    {"jacobian_strength": 0.1, "gradient_strength": 0.1, "activation": "tanh"},
    {"gradient_strength": 0.1, "coherence_threshold": 0.1, "coherence": "batch", "alpha": 0.1},
]


@pytest.fixture
def recorded(monkeypatch):
    """Run what is recorded as it is: compilers take half a minute."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.module_.parameters()])


@pytest.mark.parametrize("parameters", STEPS, ids=str)
def test_estimators_follow_the_uncompiled_ones(blobs, recorded, parameters):
    X, y = blobs
    w = np.linspace(0.5, 2, len(X))
    want, got = (
        MLPClassifier(**SMALL, **parameters, compile=compile).fit(X, y, w)
        for compile in (False, True)
    )
    torch.testing.assert_close(weights(got), weights(want), rtol=1e-10, atol=1e-10)
    assert got.history_[-1, "train_loss"] == pytest.approx(want.history_[-1, "train_loss"])
    assert len(got.net_.compiled_._functions) == 2  # the last mini-batch is smaller


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own
def test_the_compiler_itself():
    """One small step through inductor, whose own defaults make this one NaN in torch 2.13."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 5)), rng.integers(0, 3, 50)
    parameters = {**SMALL, "batch_size": 2, "mgs_strength": 0.1, "mgs_outputs": "all"}
    want, got = (
        MLPClassifier(**parameters, dropout=0.2, compile=compile).fit(X, y)
        for compile in (False, True)
    )
    torch.testing.assert_close(weights(got), weights(want), rtol=1e-10, atol=1e-10)
    assert got.loss_curve_ == pytest.approx(want.loss_curve_, rel=1e-10)


def test_clone_pickle_and_names_of_parameters(blobs, recorded):
    clf = MLPClassifier(**SMALL, compile=True).fit(*blobs)
    assert clone(clf).compile is True
    plain = MLPClassifier(**SMALL).fit(*blobs)
    assert list(clf.module_.state_dict()) == list(plain.module_.state_dict())
    again = pickle.loads(pickle.dumps(clf))
    assert again.net_.compiled_ is None
    for fit in (again, clf, plain):
        fit.partial_fit(*blobs)
    torch.testing.assert_close(weights(again), weights(plain), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weights(clf), weights(plain), rtol=1e-10, atol=1e-10)


def test_warm_start_with_another_strength_is_compiled_anew(blobs, recorded):
    fits = []
    for compile in (False, True):
        clf = MLPClassifier(**SMALL, warm_start=True, compile=compile, mgs_strength=0.1)
        fits.append(clf.fit(*blobs).set_params(mgs_strength=1.0).fit(*blobs))
    torch.testing.assert_close(*map(weights, fits), rtol=1e-10, atol=1e-10)


def test_another_rate_of_dropout_is_compiled_anew(blobs, recorded):
    fits = []
    for compile in (False, True):
        clf = MLPClassifier(**SMALL, warm_start=True, compile=compile, dropout=0.2).fit(*blobs)
        clf.module_.dropout0.p = 0.8
        fits.append(clf.fit(*blobs))
    torch.testing.assert_close(*map(weights, fits), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MODULES)
def test_the_recording_of_any_module_is_its_step(name, recorded):
    module, X, _ = build(name)
    targets = torch.tensor([0, 1, 0, 1])
    options = {"outputs": "target", "jitter": 0.1}
    penalty = MGSPenalty("det", **options).calibrate(module, X, targets)

    def run(X, targets):
        with penalty.record(module) as tape:
            output = module(*X) if isinstance(X, tuple) else module(X)
        first = output[0] if isinstance(output, tuple) else output
        loss = first.square().mean() + 0.3 * penalty(tape, output, targets)
        loss.backward()
        return loss.detach()

    want, expected = run(X, targets), [p.grad for p in module.parameters()]
    module.zero_grad()
    passes = CompiledPasses(run, module)
    torch.testing.assert_close(passes(X, targets), want, rtol=1e-10, atol=0)
    passes(X, targets)  # gradients add up, as those of `backward` do
    for p, g in zip(module.parameters(), expected):
        torch.testing.assert_close(p.grad, None if g is None else 2 * g, rtol=1e-10, atol=1e-12)


class WithStatistics(nn.Module):
    """Batch normalisation, whose buffers a step changes, and dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(15, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 3)
        )

    def forward(self, X):
        return self.layers(X.flatten(1))


NETS = {
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv1d(5, 4, 2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
        ),
        {"mgs_strength": 0.3, "mgs_metric": "det"},
    ),
    "lstm": (lambda: Recurrent(nn.LSTM), {"mgs_strength": 0.3}),
    "statistics": (WithStatistics, {"alpha": 0.1}),
}


@pytest.mark.parametrize("name", NETS)
def test_skorch_nets_follow_the_uncompiled_ones(name, recorded):
    make, parameters = NETS[name]
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 5, 3)).astype("float32"), rng.integers(0, 2, 20)
    X = X[:, :2] if name == "lstm" else X
    nets = []
    for compile in (False, True):
        torch.manual_seed(0)
        net = MGSNeuralNetClassifier(
            make(),
            criterion=nn.CrossEntropyLoss,
            criterion__weight=torch.tensor([1.0, 2.0] if name == "lstm" else [1.0, 2.0, 1.0]),
            compile=compile,
            max_epochs=2,
            lr=0.1,
            batch_size=20,
            verbose=0,
            train_split=None,
            **parameters,
        )
        nets.append(net.fit(X, y))
    want, got = nets
    for (key, a), b in zip(want.module_.state_dict().items(), got.module_.state_dict().values()):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6, msg=key)
    assert list(got.module_.state_dict()) == list(want.module_.state_dict())
    for column in ("train_loss", "mgs_penalty")[: 2 if "mgs_strength" in parameters else 1]:
        assert got.history[-1, column] == pytest.approx(want.history[-1, column], rel=1e-5)
    assert pickle.loads(pickle.dumps(got)).predict(X).shape == (20,)


def test_options_of_the_compiler():
    ours = {"fallback_random": True, "pattern_matcher": False}
    graphs = {**ours, "triton.cudagraphs": True}
    assert compiler_options({}) == {"options": ours}
    assert compiler_options({"mode": "reduce-overhead"}) == {"options": graphs}
    given = {"options": {"triton.cudagraphs": True, "pattern_matcher": True}, "dynamic": False}
    expected = {"options": {**graphs, "pattern_matcher": True}, "dynamic": False}
    assert compiler_options(given) == expected
    assert compiler_options({"backend": "eager"}) == {"backend": "eager"}


def conv_net(dtype=torch.float32, **parameters):
    torch.manual_seed(0)
    return MGSNeuralNetClassifier(
        NETS["convolution"][0]().to(dtype),
        criterion=nn.CrossEntropyLoss,
        max_epochs=2,
        lr=0.1,
        batch_size=8,
        verbose=0,
        train_split=None,
        iterator_train__shuffle=False,
        **parameters,
    )


@pytest.mark.parametrize("coherence", [None, 0.1])
def test_results_survive_the_next_replay_of_a_cuda_graph(monkeypatch, coherence):
    """A graph's outputs are the same memory at each call."""

    def replayed(graph, **options):
        assert options["options"]["triton.cudagraphs"]
        memory = []

        def call(*args):
            leaves, spec = tree_flatten(graph(*args))
            memory.extend(leaf.clone() for leaf in leaves[len(memory) :])
            for to, leaf in zip(memory, leaves):
                to.copy_(leaf)
            return tree_unflatten(memory, spec)

        return call

    monkeypatch.setattr(torch, "compile", replayed)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 5, 3)).astype("float32"), rng.integers(0, 2, 20)
    parameters = {"mgs_strength": 0.3, "coherence_threshold": coherence, "coherence": "batch"}
    want = conv_net(**parameters).fit(X, y)
    got = conv_net(**parameters, compile=True, compile__mode="reduce-overhead").fit(X, y)
    torch.testing.assert_close(weights(got), weights(want), rtol=1e-5, atol=1e-6)
    for column in ("train_loss", "mgs_penalty"):
        assert got.history[-1, column] == pytest.approx(want.history[-1, column], rel=1e-5)


def test_what_cannot_be_compiled_says_so(blobs, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(_compiled, "compiler_options", lambda given: {"backend": broken})
    clf = MLPClassifier(**SMALL, compile=True, warm_start=True)
    with warnings.catch_warnings(), pytest.raises(ValueError, match=r"(?s)compile=False.*g\+\+"):
        clf.fit(*blobs)
    assert clf.t_ == 0  # before any step


def test_a_module_that_looks_at_values_is_refused():
    class Looks(nn.Linear):
        def forward(self, X):
            return super().forward(X) if X.sum() > 0 else super().forward(-X)

    net = MGSNeuralNetClassifier(
        Looks(3, 2), criterion=nn.CrossEntropyLoss, compile=True, verbose=0, train_split=None
    )
    with pytest.raises(ValueError, match="can't compile the training step"):
        net.fit(torch.ones(4, 3), torch.tensor([0, 1, 0, 1]))


def test_fit_parameters_are_refused(recorded):
    net = MGSNeuralNetClassifier(nn.Linear(3, 2), compile=True, verbose=0, train_split=None)
    with pytest.raises(ValueError, match=r"takes no fit parameters; got \['mask'\]"):
        net.fit(torch.ones(4, 3), torch.tensor([0, 1, 0, 1]), mask=1)


@pytest.mark.gpu
@pytest.mark.parametrize("parameters", STEPS, ids=str)
def test_compiled_estimators_on_cuda(blobs, parameters):
    want, got = (
        MLPClassifier(**SMALL, **parameters, device="cuda", compile=compile).fit(*blobs)
        for compile in (False, True)
    )
    torch.testing.assert_close(weights(got), weights(want), rtol=1e-8, atol=1e-8)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
@pytest.mark.parametrize("coherence", [None, 0.1])
def test_compiled_nets_on_cuda_with_and_without_graphs(mode, coherence):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 5, 3)), rng.integers(0, 2, 20)
    parameters = {"mgs_strength": 0.3, "coherence_threshold": coherence, "coherence": "batch"}
    chosen = {} if mode is None else {"compile__mode": mode}
    want, got = (
        conv_net(torch.float64, **parameters, **options, device="cuda").fit(X, y)
        for options in ({}, {"compile": True, **chosen})
    )
    torch.testing.assert_close(weights(got), weights(want), rtol=1e-8, atol=1e-8)


@pytest.mark.gpu
def test_a_compiled_step_on_cuda_does_not_wait(blobs):
    clf, batches = prepared(blobs, "cuda", False, mgs_strength=0.1, mgs_metric="det", compile=True)
    clf.module_.train()
    for batch in batches:
        clf.net_.train_step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            clf.net_.train_step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
