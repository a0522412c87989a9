"""Coherent L1 and L2 against the definition, step by step; what is left, and its storage."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn
from torch.nn import functional as F

from sklearn_mgs import (
    MGSNeuralNetClassifier,
    MLPClassifier,
    MLPRegressor,
    _coherence,
    _cosines,
    _optimizer,
)
from sklearn_mgs._halves import HalvesTape, one_pass_suffices
from sklearn_mgs.gram import gram_matrix

RATE = 0.3
BASE = {
    "solver": "sgd",
    "momentum": 0.0,
    "learning_rate_init": RATE,
    "hidden_layer_sizes": (6, 4),
    "activation": "tanh",
    "batch_size": 15,
    "max_iter": 6,
    "shuffle": False,
    "random_state": 1,
    "alpha": 0.0,
}


def classifier(**parameters):
    return MLPClassifier(**{**BASE, **parameters})


# ------------------------------------------------------------------------- the definition


def cosine(a, b):
    a, b = (torch.cat([t.flatten() for t in tensors]) for tensors in (a, b))
    lengths = a.norm() * b.norm()
    return a @ b / lengths if lengths else lengths  # of zeros: 0


def strongest(m, r, threshold):
    """By bisection, the largest share of r that keeps the coherence; infinite if none is."""
    low, high = 0.0, 1e3
    if cosine(m, [a + high * b for a, b in zip(m, r)]) >= threshold:
        return np.inf
    for _ in range(80):
        middle = (low + high) / 2
        coherent = cosine(m, [a + middle * b for a, b in zip(m, r)]) >= threshold
        low, high = (middle, high) if coherent else (low, middle)
    return low


class Gradients:
    """Gradients of all steps so far, and their mean with weights 0.9 ** age."""

    def __init__(self):
        self.steps = []

    def mean(self):
        ages = 0.9 ** torch.arange(len(self.steps) - 1, -1, -1, dtype=torch.float64)
        return [sum(a * g for a, g in zip(ages, gs)) / ages.sum() for gs in zip(*self.steps)]


def plain_sgd(p, g, state, t, momentum=0.0, nesterov=False):
    state["v"] = momentum * state.get("v", 0) + g
    return RATE * (g + momentum * state["v"] if nesterov else state["v"])


def plain_adam(p, g, state, t):
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0) + 0.001 * g**2
    rate = RATE * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return rate * state["m"] / (state["v"].sqrt() + 1e-8)


OPTIMIZERS = {
    "sgd": ({}, plain_sgd),
    "momentum": (
        {"momentum": 0.9, "nesterovs_momentum": False},
        lambda *args: plain_sgd(*args, momentum=0.9),
    ),
    "nesterov": ({"momentum": 0.9}, lambda *args: plain_sgd(*args, momentum=0.9, nesterov=True)),
    "adam": ({"solver": "adam"}, plain_adam),
}


def regular_gradient(ws, alpha, l1):
    return [alpha * w + l1 * w.sign() for w in ws]


def coherent_descent(module, X, y, *, alpha, l1, threshold, measure, epochs, step=plain_sgd):
    """The definition, one plain step after the other.

    Returns each step's coherence, and the share with which the regulariser acted.
    """
    parameters = list(module.parameters())
    heavy = [i for i, p in enumerate(parameters) if p.ndim > 1]
    states, past = [{} for _ in parameters], Gradients()
    found, free = [], None

    def gradient(Xb, yb):
        return torch.autograd.grad(F.cross_entropy(module(Xb), yb), parameters)

    for _ in range(epochs):
        for first in range(0, len(X), BASE["batch_size"]):
            Xb, yb = (a[first : first + BASE["batch_size"]] for a in (X, y))
            n, half = len(Xb), len(Xb) // 2
            g = gradient(Xb, yb)
            ws, gw = ([some[i] for i in heavy] for some in (parameters, g))
            r = regular_gradient([w.detach() for w in ws], alpha / n, l1 / n)
            if measure == "trend":
                past.steps.append(gw)
                if len(past.steps) % 4 == 1:
                    mean = past.mean()
                    moved = [m * (w != 0) for m, w in zip(mean, ws)] if l1 else mean
                    c = cosine(moved, [a + b for a, b in zip(moved, r)])
                    most, at = strongest(moved, r, threshold), n
                if len(past.steps) % 8 == 1:
                    least = min(most, 1.0) * l1 / n
                    free = [(w != 0) | (m.abs() > least) for w, m in zip(ws, mean)]
                share = min(most * n / at, 1.0)
            else:
                parts = gw, [a + b for a, b in zip(gw, r)]
                if measure == "batch":
                    halves = gradient(Xb[:half], yb[:half]), gradient(Xb[half:], yb[half:])
                    parts = [[part[i] for i in heavy] for part in halves]
                c = cosine(*parts)
                share = float(c >= threshold)
            found.append((float(c), share))
            with torch.no_grad():
                for i, (p, gp) in enumerate(zip(parameters, g)):
                    gp = gp + share * alpha / n * p if i in heavy else gp
                    p -= step(p, gp, states[i], len(found))
                for i, w in enumerate(ws):
                    w.copy_(w.sign() * (w.abs() - RATE * share * l1 / n).clamp(min=0))
                    if free is not None:
                        w.mul_(free[i])
    return np.reshape(found, (epochs, -1, 2))


def assert_same_fit(module, history, plain_module, found):
    """Parameters, exact zeros and the two columns of the history."""
    for a, b in zip(module.parameters(), plain_module.parameters()):
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=0, atol=1e-9)
        np.testing.assert_array_equal(a.detach() == 0, b.detach() == 0)
    columns = history[:, ("coherence", "regularized")]
    np.testing.assert_allclose(columns, found.mean(1), rtol=0, atol=1e-9)


CASES = [
    ("total", 0.97, 1.0, 0.0),
    ("total", 0.97, 0.0, 0.3),
    ("total", 0.95, 0.5, 0.2),
    ("batch", 0.1, 1.0, 0.0),
    ("batch", 0.1, 0.0, 0.3),
    ("batch", 0.1, 0.5, 0.2),
    ("trend", 0.97, 1.0, 0.0),
    ("trend", 0.9, 0.0, 1.0),
    ("trend", 0.2, 0.0, 4.0),
    ("trend", 0.8, 2.0, 0.5),
    ("trend", 0.2, 20.0, 0.0),
]


def fit_both(blobs, optimizer, measure, threshold, alpha, l1):
    """A coherent fit, and the same by the definition."""
    options, step = OPTIMIZERS[optimizer]
    options = options | {"coherence": measure, "coherence_threshold": threshold}
    before = classifier(**options).set_params(learning_rate_init=1e-300, max_iter=1).fit(*blobs)
    clf = classifier(alpha=alpha, l1=l1, **options).fit(*blobs)
    found = coherent_descent(
        before.module_,
        *map(torch.tensor, blobs),
        alpha=alpha,
        l1=l1,
        threshold=threshold,
        measure=measure,
        epochs=BASE["max_iter"],
        step=step,
    )
    return clf, before.module_, found


def as_on_a_device(monkeypatch):
    monkeypatch.setattr(_coherence, "numbers", _cosines.entries)
    monkeypatch.setattr(_coherence, "number", lambda x: x)


@pytest.fixture(params=["numbers", "tensors"])
def arithmetic(request, monkeypatch):
    """With numbers, as on the CPU, and with tensors and large vectors, as on a device."""
    if request.param == "tensors":
        as_on_a_device(monkeypatch)
        monkeypatch.setattr(_cosines, "_SMALL", 0)


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize(("measure", "threshold", "alpha", "l1"), CASES)
def test_coherent_steps(blobs, measure, threshold, alpha, l1):
    clf, module, found = fit_both(blobs, "sgd", measure, threshold, alpha, l1)
    assert 0 < found[..., 1].mean() < 1  # the case must show both
    assert_same_fit(clf.module_, clf.history_, module, found)
    assert clf.compression_ratio_ > 1 or l1 < 1


@pytest.mark.parametrize("sample_weight", [False, True])
@pytest.mark.parametrize("outputs", ["target", "sum"])
def test_coherence_of_halves_with_the_penalty(blobs, outputs, sample_weight):
    """One step: the halves' own losses and penalties, and the penalised mini-batch's gradient."""
    X, y = blobs
    weight = np.linspace(0.5, 2.0, len(y)) if sample_weight else np.ones(len(y))
    options = {"mgs_strength": 0.3, "mgs_outputs": outputs, "mgs_layers": "all"}
    options |= {"batch_size": 40, "max_iter": 1}
    before = classifier(**options, learning_rate_init=1e-300).fit(X, y, weight)
    gate = {"coherence": "batch", "coherence_threshold": -1.0, "alpha": 0.5}
    clf = classifier(**options, **gate).fit(X, y, weight)
    module, penalty = before.module_, before.net_.criterion_.penalty
    X, y, weight = map(torch.tensor, (X, y, weight))

    def gradient(part):
        K = gram_matrix(module, X[part], outputs=outputs, targets=y[part])
        losses = F.cross_entropy(module(X[part]), y[part], reduction="none")
        losses = losses + 0.3 * K.diagonal() / penalty.scale_
        total = (weight[part] * losses).sum() / weight.sum()
        return torch.autograd.grad(total, list(module.parameters()))

    whole, *halves = map(gradient, (slice(0, 40), slice(0, 20), slice(20, 40)))
    heavy = [[g for g in half if g.ndim > 1] for half in halves]
    assert clf.history_[0, "coherence"] == pytest.approx(cosine(*heavy).item(), abs=1e-9)
    for p, g, new in zip(module.parameters(), whole, clf.module_.parameters()):
        step = g + (0.5 / float(weight.sum()) * p if p.ndim > 1 else 0)
        torch.testing.assert_close(new, p - RATE * step, rtol=0, atol=1e-9)


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adam"])
@pytest.mark.parametrize(
    ("measure", "threshold", "alpha", "l1"),
    [("total", 0.95, 0.5, 0.2), ("batch", 0.1, 0.5, 0.2), ("trend", 0.3, 0.5, 2.0)],
)
def test_coherent_steps_of_other_optimizers(blobs, optimizer, measure, threshold, alpha, l1):
    clf, module, found = fit_both(blobs, optimizer, measure, threshold, alpha, l1)
    assert 0 < found[..., 1].mean() < 1
    assert_same_fit(clf.module_, clf.history_, module, found)


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("strength", ["alpha", "l1"])
def test_strengths_that_overflow(blobs, strength):
    gate = {"coherence_threshold": 0.5, "max_iter": 2}
    with pytest.raises(ValueError, match="non-finite parameter weights or losses in epoch 1"):
        classifier(coherence="trend", **gate, **{strength: 1e200}).fit(*blobs)
    closed = classifier(coherence="total", **gate, **{strength: 1e200}).fit(*blobs)
    assert set(closed.history_[:, "regularized"]) == {0.0}


def conv_net():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    return nn.Sequential(nn.Unflatten(1, (1, 3, 3)), *layers).double()


def dense_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)).double()


def images():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 40)
    return rng.normal(size=(40, 9)) + y[:, None], y


def module_net(make_module, **parameters):
    options = {"lr": RATE, "max_epochs": 6, "batch_size": BASE["batch_size"], **parameters}
    options |= {"criterion": nn.CrossEntropyLoss, "train_split": None, "verbose": 0}
    return MGSNeuralNetClassifier(make_module, **options)


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("make_module", [conv_net, dense_net])
@pytest.mark.parametrize(("measure", "threshold", "alpha", "l1"), CASES)
def test_coherent_steps_of_any_module(make_module, measure, threshold, alpha, l1):
    X, y = images()
    gate = {"coherence": measure, "coherence_threshold": threshold}
    net = module_net(make_module, alpha=alpha, l1=l1, **gate).fit(X, y)
    plain = make_module()
    options = {"alpha": alpha, "l1": l1, "threshold": threshold, "measure": measure}
    found = coherent_descent(plain, torch.tensor(X), torch.tensor(y), epochs=6, **options)
    assert_same_fit(net.module_, net.history, plain, found)
    if measure == "batch":
        assert net.one_pass_[1]


class Written(nn.Module):
    """A module whose `forward` is given."""

    def __init__(self, forward):
        super().__init__()
        self.first, self.second = nn.Linear(9, 9), nn.Linear(9, 3)
        self.norm, self.written = nn.BatchNorm1d(9), forward

    def forward(self, X):
        return self.written(self, X)


def within(context, call):
    with context:
        return call()


UNCOVERED = {
    "transposed": nn.ConvTranspose1d(1, 1, 3, padding=1),
    "same": nn.Conv1d(1, 1, 3, padding="same"),
    "circular": nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"),
}

TWO_PASSES = {
    "samples meet": lambda m, X: m.second(m.first(X - X.mean(0))),
    "batch statistics": lambda m, X: m.second(m.norm(m.first(X))),
    "not called": lambda m, X: m.second(X),
    "not as a module": lambda m, X: m.second(m.first(X) @ m.first.weight),
    "several rows": lambda m, X: m.second(m.first(X[:, None])).squeeze(1),
    "by keyword": lambda m, X: m.second(input=m.first(X)),
    "without gradients": lambda m, X: m.second(within(torch.no_grad(), lambda: m.first(X))),
    "autocast": lambda m, X: within(
        torch.autocast("cpu", torch.bfloat16), lambda: m.second(m.first(X.float()))
    ),
}


def suffices(module, loss=F.cross_entropy):
    X, y = map(torch.tensor, images())

    def run(part):
        loss(module(X[part]), y[part]).backward()

    tape = HalvesTape(module, len(X))
    answer = one_pass_suffices(tape, lambda: run(slice(None)), run)
    assert module.training
    assert all(p.grad is None for p in module.parameters())
    return answer


@pytest.mark.parametrize("forward", TWO_PASSES.values(), ids=TWO_PASSES)
def test_where_one_pass_does_not_tell_halves_apart(forward):
    module = Written(forward)
    module = module.double() if forward is not TWO_PASSES["autocast"] else module
    assert not suffices(module)
    assert not any(m._forward_hooks for m in module.modules())


@pytest.mark.parametrize("layer", UNCOVERED.values(), ids=UNCOVERED)
def test_layers_that_one_pass_does_not_cover(layer):
    layers = nn.Unflatten(1, (1, 9)), layer, nn.Flatten(), nn.Linear(9, 3)
    assert not suffices(nn.Sequential(*layers).double())


OTHERWISE_IN_TRAINING = {
    "skips a layer": lambda m, X: m.second(X if m.training else m.first(X)),
    "calls it again": lambda m, X: m.second(m.first(m.first(X) if m.training else X)),
}


@pytest.mark.parametrize("gate", [{}, {"coherence_threshold": 0.5, "coherence": "total"}])
def test_l2_acts_on_weights_that_the_loss_does_not_see(gate):
    module = Written(OTHERWISE_IN_TRAINING["skips a layer"]).double()
    before = module.first.weight.detach().clone()
    net = MGSNeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        alpha=1.0,
        max_epochs=1,
        batch_size=-1,
        lr=0.1,
        train_split=None,
        verbose=0,
        **gate,
    ).fit(*images())
    n = len(images()[0])
    after = net.module_.first.weight
    torch.testing.assert_close(after, (1 - 0.1 / n) * before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("forward", OTHERWISE_IN_TRAINING.values(), ids=OTHERWISE_IN_TRAINING)
def test_a_network_that_differs_in_training_is_seen_through(forward):
    def fit(one_pass):
        torch.manual_seed(0)
        module = Written(forward).double()
        del module.norm
        net = MGSNeuralNetClassifier(
            module,
            criterion=nn.CrossEntropyLoss,
            alpha=1.0,
            coherence="batch",
            coherence_threshold=0.2,
            max_epochs=2,
            train_split=None,
            verbose=0,
        ).initialize()
        if not one_pass:
            net._one_pass_suffices = lambda *args: []
        return net.partial_fit(*images())

    got, want = fit(True), fit(False)
    assert bool(got.one_pass_[1]) == (forward is OTHERWISE_IN_TRAINING["calls it again"])
    for a, b in zip(got.module_.parameters(), want.module_.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def residual():
    torch.manual_seed(0)
    module = Written(lambda m, X: m.second(torch.relu_(m.first(X)) + X)).double()
    del module.norm
    return module


def applied_twice():
    torch.manual_seed(0)
    module = Written(lambda m, X: m.second(torch.tanh(m.first(torch.tanh(m.first(X)))))).double()
    del module.norm
    return module


def convolutional():
    """Strided, dilated, padded, in groups, of one dimension and two."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 9)), nn.Conv1d(1, 4, 3, stride=2, padding=2), nn.Tanh()),
        *(nn.Unflatten(2, (2, 3)), nn.Conv2d(4, 4, (1, 2), dilation=(1, 2), groups=2), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(8, 3)),
    ).double()


@pytest.mark.parametrize("make_module", [dense_net, residual, applied_twice, convolutional])
@pytest.mark.parametrize(
    ("penalty", "one_pass"),
    [
        ({"outputs": "target"}, True),
        ({"outputs": "sum", "layers": "hidden"}, True),
        ({"outputs": "target", "layers": "first"}, True),
        ({"outputs": "random"}, True),
        ({"outputs": "target", "centered": True}, True),
        ({"outputs": "random", "centered": True}, True),
        ({"outputs": "target", "centered": "class"}, True),
        ({"outputs": "target", "metric": "det"}, True),
        ({"outputs": "target", "metric": "det", "centered": True}, True),
        ({"outputs": "target", "batch_size": 2}, True),
        ({"outputs": "target", "batch_size": 3}, True),
        ({"outputs": "random", "metric": "det", "batch_size": 3}, True),
        ({"outputs": "target", "relative": True}, True),
        ({"outputs": "target", "relative": True, "layers": "first"}, True),
        ({"outputs": "target", "relative": True, "layers": "hidden", "centered": True}, True),
        ({"outputs": "target", "relative": True, "batch_size": 3, "metric": "det"}, True),
        ({"outputs": "all"}, False),
        ({"outputs": "all", "relative": True, "batch_size": 2}, False),
    ],
    ids=str,
)
def test_one_pass_through_the_penalty_is_as_good_as_two(make_module, penalty, one_pass):
    options = {f"mgs_{name}": value for name, value in penalty.items()}
    options |= {"alpha": 1.0, "coherence": "batch", "coherence_threshold": 0.2}

    def fit(two_passes):
        net = module_net(make_module, **options)
        net.set_params(lr=0.05, batch_size=7, max_epochs=1, mgs_strength=0.2)  # then chaos
        net.initialize()
        if two_passes:
            net._one_pass_suffices = lambda *args: []
        torch.manual_seed(1)
        return net.partial_fit(*images())

    got, want = fit(False), fit(True)
    assert bool(got.one_pass_ and got.one_pass_[1]) == one_pass
    for name in ("coherence", "regularized", "mgs_penalty", "train_loss"):
        np.testing.assert_allclose(
            got.history[:, name], want.history[:, name], rtol=1e-10, atol=1e-12
        )
    for a, b in zip(got.module_.parameters(), want.module_.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize(("size", "kernel"), [(1, 1), (5, 3), (8, 4), (40, 10)])
def test_both_halves_make_half_of_the_kernel(size, kernel, one_pass):
    (X, y), options = images(), {"mgs_strength": 0.3, "mgs_outputs": "target"}
    X, y = X[:21], y[:21]  # halves of 10 and 11
    options |= {"coherence": "batch", "coherence_threshold": 0.0, "mgs_batch_size": size}
    net = module_net(dense_net, batch_size=-1, max_epochs=1, alpha=1.0, **options).initialize()
    if not one_pass:
        net._one_pass_suffices = lambda *args: []
    net.partial_fit(X, y)
    K = gram_matrix(dense_net(), torch.tensor(X), outputs="target", targets=torch.tensor(y))
    squares = K.diagonal() / net.penalty_.scale_ * 0.3
    last = 11 if size == 40 else kernel
    want = 10 / 21 * squares[:kernel].mean() + 11 / 21 * squares[10 : 10 + last].mean()
    assert net.history[0, "mgs_penalty"] == pytest.approx(float(want.detach()), rel=1e-10)


@pytest.mark.parametrize("width", [4, 200])  # gradients are formed, or products of their rows
@pytest.mark.parametrize("share", [1e-2, 1e-4])
def test_one_pass_sees_small_gradients_in_single_precision(width, share):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(200, width), nn.Tanh(), nn.Linear(width, width))
    X, weight, found = torch.randn(12, 200), torch.ones(12, 1), []
    weight[6:] = share
    for like in (module, copy.deepcopy(module).double()):
        x, w = (t.to(like[0].weight.dtype) for t in (X, weight))
        tape = HalvesTape(like, 12)
        with tape:
            (w * like(x).square()).mean().backward()
        found.append(tape.products().double())
    products, want = found
    torch.testing.assert_close(products.diagonal(), want.diagonal(), rtol=5e-3, atol=0)
    atol = 5e-3 * want.diagonal().prod().sqrt()
    assert abs(products[0, 1] - want[0, 1]) <= atol


def test_one_pass_is_tried_anew_when_weights_are_unfrozen():
    module = nn.Sequential(
        nn.Unflatten(1, (1, 9)), nn.ConvTranspose1d(1, 1, 1), nn.Flatten(), nn.Linear(9, 3)
    )
    module.double()[1].requires_grad_(False)
    net = MGSNeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        coherence="batch",
        coherence_threshold=0.2,
        alpha=1.0,
        max_epochs=1,
        train_split=None,
        verbose=0,
    ).fit(*images())
    assert net.one_pass_[1]
    net.module_[1].requires_grad_()
    assert not net.partial_fit(*images()).one_pass_[1]


def test_class_weights_take_two_passes_whatever_the_first_mini_batch():
    X, y = images()[0][:12], np.array([0, 1] * 4 + [0] * 2 + [1] * 2)  # at first halves are alike
    options = {"coherence": "batch", "coherence_threshold": -1, "alpha": 1.0}
    net = module_net(dense_net, batch_size=8, max_epochs=1, **options)
    net.set_params(criterion__weight=torch.tensor([1.0, 5.0, 1.0]).double()).fit(X, y)
    assert not (net.one_pass_ and net.one_pass_[1])


def test_where_one_pass_tells_halves_apart():
    assert suffices(residual())
    assert suffices(applied_twice())
    assert suffices(nn.Sequential(*dense_net(), nn.Dropout(0.5)))
    assert not suffices(residual(), lambda Z, y: F.cross_entropy(Z, y) ** 2)


@pytest.mark.parametrize("measure", ["total", "batch", "trend"])
def test_a_gate_that_is_always_open_changes_nothing(blobs, measure):
    l1 = 0.0 if measure == "trend" else 1.0  # the trend also holds zeros
    strong = {"alpha": 3.0, "l1": l1, "max_iter": 5, "batch_size": 10}
    gated = classifier(coherence=measure, coherence_threshold=-1, **strong).fit(*blobs)
    plain = classifier(**strong).fit(*blobs)
    for a, b in zip(gated.module_.parameters(), plain.module_.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert set(gated.history_[:, "regularized"]) == {1.0}
    assert "regularized" not in plain.history_[0]


def test_a_mean_that_vanishes_is_zero():
    gate = _coherence.CoherenceGate(0.5)
    w = torch.ones(2, 2)
    w.grad = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    gate.decide([w], 1.0, 0.0)
    w.grad = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    for _ in range(3 * _coherence.FLUSHING):
        w.grad[:, 0] = 0
        gate.decide([w], 1e-30, 0.0)
    (mean,) = gate._mean
    assert mean[0, 0] == 0
    assert mean[1, 1] == pytest.approx(1.0)


def test_half_precision_keeps_its_means():
    means = [torch.full((2, 2), 0.005, dtype=torch.float16)]
    assert _coherence.flushed(means, 0) is means


def test_products_that_rounding_makes_negative_have_a_cosine():
    gate = _coherence.CoherenceGate(0.1, "batch")
    gate.compare_products(torch.tensor([[-1e-9, 0.0], [0.0, 1.0]]))
    assert gate._halves == 0.0


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("measure", [None, "total", "batch", "trend"])
def test_frozen_weights_stay_and_have_no_say(blobs, solver, measure):
    X, y = blobs
    gate = {"coherence_threshold": 0.1, "coherence": measure} if measure else {}
    clf = classifier(**gate | {"alpha": 0.3, "l1": 0.1, "solver": solver})
    clf.partial_fit(X, y, classes=np.unique(y))
    frozen, *others = (linear.weight for linear in clf.module_.linears)
    frozen.requires_grad_(False)
    before = [w.detach().clone() for w in (frozen, *others)]
    clf.partial_fit(X, y)
    same = [torch.equal(*pair) for pair in zip(before, (frozen, *others))]
    assert same == [True, False, False]
    frozen.requires_grad_(True)
    clf.partial_fit(X, y)
    assert not torch.equal(before[0], frozen)


@pytest.mark.parametrize("changes", [{"alpha": 1e4}, {"l1": 1e3}])
def test_strengths_that_are_switched_on_meet_the_gate(blobs, changes):
    """At the step at which they are, whatever the trend allowed before."""
    options = {"warm_start": True, "max_iter": 1, "coherence_threshold": 0.3, "batch_size": 40}
    clf = classifier(**options, learning_rate_init=0.1).fit(*blobs)
    clf.set_params(**changes).fit(*blobs)
    assert clf.history_[-1, "regularized"] < 0.1


def test_a_fit_goes_on_elsewhere_than_it_began(blobs, monkeypatch):
    """What was a tensor on a device is among numbers on the CPU, until the trend is found anew."""
    X, y = blobs
    clf = classifier(coherence_threshold=0.3, l1=2.0)
    with monkeypatch.context() as device:
        as_on_a_device(device)
        clf.partial_fit(X, y, classes=np.unique(y))
    want = copy.deepcopy(clf)
    clf = pickle.loads(pickle.dumps(clf)).partial_fit(X, y)
    with monkeypatch.context() as device:
        as_on_a_device(device)
        want.partial_fit(X, y)
    for name in ("coherence", "regularized"):
        assert clf.history_[-1, name] == pytest.approx(want.history_[-1, name])


def test_weights_that_are_all_zero_come_back(blobs):
    """Nothing is left to be coherent with: the regulariser rests until something is."""
    clf = classifier(coherence_threshold=0.2, l1=100.0, momentum=0.9).fit(*blobs)
    clf.coefs_ = [0 * c for c in clf.coefs_]
    for _ in range(4):
        clf.partial_fit(*blobs)
    assert np.count_nonzero(clf.coefs_[-1])


def test_partial_fit_goes_on_with_the_trend(blobs):
    options = {"coherence_threshold": 0.3, "l1": 2.0}
    whole = classifier(**options).fit(*blobs)
    parts = classifier(**options)
    for _ in range(BASE["max_iter"]):
        parts.partial_fit(*blobs, classes=[0, 1, 2])
    for a, b in zip(whole.coefs_, parts.coefs_):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("later", [{}, {"alpha": 5.0}, {"l1": 0.5}, {"coherence_threshold": 0.6}])
def test_the_mean_that_adam_lends_is_the_gates_own(blobs, monkeypatch, later):
    """Whatever is changed on the way: L2, which Adam's moments would hold, or the gate itself."""
    X, y = blobs
    options = {"solver": "adam", "learning_rate_init": 0.01, "l1": 2.0, "dtype": "float64"}
    fits = []
    for lends in (True, False):
        with monkeypatch.context() as patch:
            if not lends:
                patch.setattr(_optimizer._Adam, "lends", lambda *args: False)
            clf = classifier(coherence_threshold=0.3, **options)
            for changes in ({}, {}, later, {}):
                clf.set_params(**changes).partial_fit(X, y, classes=np.unique(y))
            owns = bool(clf.net_.regularizer.coherence._mean)
            assert owns is (not lends or "alpha" in later or "coherence_threshold" in later)
            fits.append(clf)
    for a, b in zip(*(clf.coefs_ for clf in fits)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_fit_from_a_warm_start_has_a_new_optimizer_and_a_new_trend(blobs):
    for solver in ("sgd", "adam"):
        options = {"coherence_threshold": 0.3, "l1": 2.0, "solver": solver, "warm_start": True}
        clf = classifier(**options).fit(*blobs)
        gate, steps = clf.net_.regularizer.coherence, clf.net_.regularizer.coherence._n_steps
        again = clf.fit(*blobs).net_.regularizer.coherence
        assert again is not gate
        assert again._n_steps == steps
        clf.partial_fit(*blobs)
        assert clf.net_.regularizer.coherence is again


def test_adam_lends_a_mean_of_the_same_decay_and_steps(blobs):
    clf = classifier(coherence_threshold=0.3, solver="adam", l1=2.0).fit(*blobs)
    assert not clf.net_.regularizer.coherence._mean
    other = classifier(coherence_threshold=0.3, solver="adam", l1=2.0, beta_1=0.8).fit(*blobs)
    assert other.net_.regularizer.coherence._mean
    clf.net_.regularizer.coherence._n_steps -= 1  # as after an interrupted step
    clf.partial_fit(*blobs)
    gate = clf.net_.regularizer.coherence
    assert gate._mean
    assert gate._n_steps == clf.net_.optimizer_.t // (BASE["max_iter"] + 1)


# ------------------------------------------------------------------------- compression


def compressed(blobs, cls=MLPClassifier, **parameters):
    """A network most of whose weights are zero."""
    X = np.hstack([blobs[0], np.random.default_rng(0).normal(size=(40, 200))]).astype("float32")
    options = {**BASE, "hidden_layer_sizes": (100,), "l1": 4.0, "max_iter": 20, **parameters}
    return cls(**options).fit(X, blobs[1]), X


@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_sparsify_makes_pickles_small(blobs, cls, solver):
    rate = {"learning_rate_init": 0.01} if solver == "adam" else {"momentum": 0.9}
    est, X = compressed(blobs, cls, solver=solver, l1=40.0, **rate)
    assert est.compression_ratio_ > 5
    dense, before = len(pickle.dumps(est)), est.predict(X)
    coefs = [c.copy() for c in est.coefs_]
    assert est.sparsify() is est
    stored = pickle.dumps(est)
    assert len(stored) < dense / 5
    loaded = pickle.loads(stored)
    for fitted in (est, loaded):
        np.testing.assert_array_equal(fitted.predict(X), before)
        for a, b in zip(fitted.coefs_, coefs):
            np.testing.assert_array_equal(a, b)
            assert type(a) is np.ndarray
    assert loaded.compression_ratio_ == est.compression_ratio_
    assert len(pickle.dumps(loaded)) == pytest.approx(len(stored), rel=0.01)


def test_sparsified_weights_are_scipys_sparse_rows(blobs):
    clf, _ = compressed(blobs)
    state = clf.sparsify().net_.__getstate__()
    first, last = state["weights"]
    assert isinstance(first, sparse.csr_array)
    assert first.nnz == np.count_nonzero(clf.coefs_[0])
    assert first.toarray().tolist() == clf.coefs_[0].T.tolist()
    dense, _ = compressed(blobs, l1=0.0)
    assert all(type(w) is np.ndarray for w in dense.sparsify().net_.__getstate__()["weights"])
    assert last.shape == (3, 100)


def test_sparsified_networks_can_be_trained_on(blobs):
    clf, X = compressed(blobs, warm_start=True)
    loaded = pickle.loads(pickle.dumps(clf.sparsify()))
    for est in (clf, loaded):
        est.fit(X, blobs[1])
    for a, b in zip(clf.coefs_, loaded.coefs_):
        np.testing.assert_array_equal(a, b)
    assert len(pickle.dumps(clf)) > 2 * len(pickle.dumps(clf.sparsify()))


def test_only_fitted_estimators_have_sparsify():
    assert not hasattr(MLPClassifier(), "sparsify")
    with pytest.raises(AttributeError, match="sparsify"):
        MLPRegressor().sparsify()
