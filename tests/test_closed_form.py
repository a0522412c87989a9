"""The closed-form gradient against autograd through the objective, in float64."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification

from sklearn_mgs import MLPClassifier, _closed_form
from sklearn_mgs._closed_form import ClosedForm
from sklearn_mgs._closed_form_pass import is_known
from sklearn_mgs._closed_form_penalty import _det_and_adjoint
from sklearn_mgs._data import Batch
from sklearn_mgs._module import ACTIVATIONS, MLP
from sklearn_mgs._objective import Objective
from sklearn_mgs.penalty import MGSPenalty

UNITS = {"linear": [3, 4], "one": [3, 7, 4], "three": [5, 6, 8, 7, 4], "wide": [3, 40, 4]}


def network(units, activation, dropout=0.0):
    torch.manual_seed(len(units))
    module = MLP(units, activation, dropout, dtype=torch.float64)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.6)
    return module


def mini_batch(loss, units, weighted, n=9):
    X = torch.randn(n, units[0], dtype=torch.float64)
    X[1] = X[0]  # a duplicated sample
    if loss == "log_loss":
        y = torch.randint(0, units[-1], (n,))
    elif loss == "binary_log_loss":
        y = torch.randint(0, 2, (n, units[-1])).double()
    else:
        y = torch.rand(n, units[-1], dtype=torch.float64) * 3
    weight = torch.arange(n).double() if weighted else None
    return Batch(X, y, weight, n, float(n if weight is None else weight.sum()))


def compare(objective, module, batch):
    assert ClosedForm.covers(objective, module)
    torch.manual_seed(0)
    expected = objective(module, batch)
    gradients = torch.autograd.grad(
        expected.total, list(module.parameters()), materialize_grads=True
    )
    torch.manual_seed(0)
    terms = ClosedForm(objective, module).backward(batch)
    torch.testing.assert_close(terms.data_loss, expected.data_loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(terms.total, expected.total.detach(), rtol=1e-11, atol=0)
    torch.testing.assert_close(terms.outputs, expected.outputs.detach(), rtol=1e-12, atol=1e-14)
    scale = max(g.abs().max() for g in gradients)
    for p, g in zip(module.parameters(), gradients):
        torch.testing.assert_close(p.grad, g, rtol=1e-9, atol=1e-11 * float(scale))


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss", ["log_loss", "binary_log_loss", "squared_error", "poisson"])
@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
def test_data_loss(units, loss, smoothing, weighted):
    batch = mini_batch(loss, units, weighted)
    compare(Objective(loss, label_smoothing=smoothing), network(units, "tanh"), batch)


@pytest.mark.parametrize("n", [3, 9])  # few samples to a layer's weights, and many
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", ["log_loss", "binary_log_loss", "squared_error", "poisson"])
@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
def test_loss_gradient(units, loss, activation, smoothing, weighted, n):
    batch = mini_batch(loss, units, weighted, n)
    objective = Objective(loss, mgs_batch_size=2, label_smoothing=smoothing, gradient_strength=0.7)
    compare(objective, network(units, activation), batch)


def test_loss_gradient_at_noisy_inputs():
    batch = mini_batch("log_loss", UNITS["three"], False)
    objective = Objective("log_loss", input_noise=0.1, gradient_strength=0.7)
    compare(objective, network(UNITS["three"], "tanh"), batch)


PENALTIES = [
    dict(metric=metric, layers=layers, centered=centered, relative=relative)
    for metric, layers, centered, relative in itertools.product(
        ("trace", "det"),
        ("all", "hidden", "first", "balanced"),
        (False, True, "class"),
        (False, True),
    )
]


@pytest.mark.parametrize("size", [None, 6])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("options", PENALTIES, ids=lambda o: "-".join(map(str, o.values())))
def test_penalty(options, activation, weighted, size):
    units = UNITS["three"]
    module, batch = network(units, activation), mini_batch("log_loss", units, weighted)
    penalty = MGSPenalty(outputs="target", jitter=1e-2, **options)
    penalty.calibrate(module, batch.X, batch.y, batch.sample_weight)
    with torch.no_grad():  # the scale stays as calibrated
        for p in module.parameters():
            p.mul_(1.1)
    compare(Objective("log_loss", 0.7, penalty, size), module, batch)


@pytest.mark.parametrize("outputs", ["random", "sum", "all", "target"])
@pytest.mark.parametrize("metric", ["trace", "det"])
def test_outputs(outputs, metric):
    loss = "binary_log_loss" if outputs in ("all", "target") else "squared_error"
    units = [4, 6, 1 if loss == "binary_log_loss" else 3]
    module, batch = network(units, "logistic"), mini_batch(loss, units, False)
    targets = batch.y[:, 0].long() if units[-1] == 1 else None
    penalty = MGSPenalty(metric, outputs=outputs).calibrate(module, batch.X, targets)
    compare(Objective(loss, 0.3, penalty, input_noise=0.1), module, batch)


@pytest.mark.parametrize("size", [None, 6])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("options", PENALTIES, ids=lambda o: "-".join(map(str, o.values())))
def test_penalty_of_all_outputs(options, activation, weighted, size):
    units = UNITS["three"]
    module, batch = network(units, activation), mini_batch("log_loss", units, weighted)
    penalty = MGSPenalty(outputs="all", jitter=1e-2, **options)
    penalty.calibrate(module, batch.X, batch.y, batch.sample_weight)
    compare(Objective("log_loss", 0.7, penalty, size), module, batch)


TERMS = {
    "loss": {},
    "noise": {"input_noise": 0.2},
    "Jacobian": {"jacobian_strength": 0.3},
    "Jacobian and loss gradient": {"jacobian_strength": 0.3, "gradient_strength": 0.4},
    "all": {"input_noise": 0.1, "jacobian_strength": 0.3, "gradient_strength": 0.4},
}


@pytest.mark.parametrize("penalty", [None, "trace", "det"])
@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", [None, 4, 20])
def test_terms_together(size, activation, dropout, weighted, terms, penalty):
    """Draws are autograd's: one seed gives both the same."""
    units = UNITS["three"]
    module, batch = network(units, activation, dropout), mini_batch("log_loss", units, weighted)
    if penalty is not None:
        penalty = MGSPenalty(penalty, outputs="random", relative=True)
        penalty.calibrate(module, batch.X, batch.y)
    compare(Objective("log_loss", 0.7 if penalty else 0.0, penalty, size, **terms), module, batch)


@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize("loss", ["binary_log_loss", "squared_error", "poisson"])
def test_input_jacobian_of_any_loss_and_depth(loss, units):
    objective = Objective(loss, jacobian_strength=0.5)
    compare(objective, network(units, "tanh"), mini_batch(loss, units, False))


def test_no_dropout_in_evaluation_mode():
    batch = mini_batch("log_loss", UNITS["three"], False)
    compare(Objective("log_loss"), network(UNITS["three"], "relu", 0.5).eval(), batch)


def test_what_is_not_covered():
    module = network(UNITS["one"], "relu")
    assert ClosedForm.covers(Objective("log_loss"), module)
    assert not ClosedForm.covers(Objective("log_loss", jacobian_strength=0.1, exact=True), module)
    for add in (
        module.linears[0].register_forward_hook,
        module.register_full_backward_pre_hook,
        module.linears[0].bias.register_hook,
        module.linears[1].weight.register_post_accumulate_grad_hook,
    ):
        handle = add(lambda *args: None)
        assert not ClosedForm.covers(Objective("log_loss"), module)
        handle.remove()
        assert ClosedForm.covers(Objective("log_loss"), module)
    with torch.autocast("cpu", torch.bfloat16):
        assert not ClosedForm.covers(Objective("log_loss"), module)


def freeze(module):
    module.linears[0].bias.requires_grad_(False)


def tie(module):
    module.linears[1].weight = module.linears[0].weight


def replace_forward(module):
    module.forward = lambda X: X


CHANGES = {
    "frozen": freeze,
    "another activation": lambda m: setattr(m, "activation0", torch.nn.GELU()),
    "dropout replaced": lambda m: setattr(m, "dropout0", torch.nn.Identity()),
    "layer added": lambda m: m.append(torch.nn.Dropout()),
    "dropout twice": lambda m: setattr(m, "linear1", torch.nn.Dropout()),
    "no bias": lambda m: setattr(m.linears[0], "bias", None),
    "tied weights": tie,
    "another forward": replace_forward,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_network_is_left_to_autograd(change):
    module = MLP([4, 4, 4, 4], dropout=0.3)
    assert is_known(module)
    change(module)
    assert not is_known(module)
    assert not is_known(torch.nn.Sequential(torch.nn.Linear(4, 3)))


def test_dropout_taken_out_of_one_layer():
    batch = mini_batch("log_loss", UNITS["three"], False)
    module = network(UNITS["three"], "tanh", 0.3)
    del module.dropout1
    compare(Objective("log_loss", jacobian_strength=0.2), module, batch)


def test_dropout_of_everything():
    batch = mini_batch("log_loss", UNITS["three"], False)
    module = network(UNITS["three"], "tanh", 0.3)
    module.dropout0.p = 1.0
    compare(Objective("log_loss"), module, batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_det_of_a_kernel_of_zeros(dtype):
    m, S = _det_and_adjoint(torch.zeros(6, 6, dtype=dtype), 1e-6)
    assert 0 <= m < 1e-30
    torch.testing.assert_close(
        S.diagonal(), torch.full((6,), 1 / 6, dtype=dtype), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("halves", [None, "batch"])
def test_the_centred_trace_of_many_samples_is_left_to_autograd(monkeypatch, halves):
    """A matrix of all pairs would cost more; the fit is the same."""
    X, y = make_classification(90, 5, random_state=0)
    gate = {"coherence_threshold": 0.1, "coherence": halves} if halves else {}
    options = {"mgs_strength": 0.3, "mgs_centered": True, "batch_size": 30, "max_iter": 3, **gate}
    fits = {}
    for many in (4, 256):
        monkeypatch.setattr(_closed_form, "MANY", many)
        fits[many] = MLPClassifier((6,), random_state=0, dropout=0.2, **options).fit(X, y)
        assert fits[many].net_.closed_form_.suits(30) is (many == 256)
    for a, b in zip(fits[4].coefs_, fits[256].coefs_):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_noise_does_not_depend_on_the_order_in_memory():
    module, batch = network(UNITS["one"], "tanh"), mini_batch("log_loss", UNITS["one"], False)
    values = []
    for X in (batch.X, batch.X.mT.contiguous().mT):
        torch.manual_seed(0)
        objective = Objective("log_loss", input_noise=0.3)
        values.append(objective(module, batch._replace(X=X)).total.item())
    assert values[0] == pytest.approx(values[1], rel=1e-14)


@pytest.mark.parametrize("halves", [False, True], ids=["whole", "halves"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("metric", ["trace", "det"])
def test_a_step_asks_the_device_for_nothing(metric, size, weighted, halves):
    """On torch's device without data no value can be read, nor a tensor moved."""
    units = UNITS["three"]
    module, batch = network(units, "tanh", 0.2), mini_batch("log_loss", units, weighted)
    penalty = MGSPenalty(metric, outputs="random", relative=True)
    penalty.calibrate(module, batch.X, batch.y)
    penalty.scale_ = penalty.scale_.to("meta")
    terms = {"input_noise": 0.1, "jacobian_strength": 0.3, "gradient_strength": 0.4}
    form = ClosedForm(Objective("log_loss", 0.7, penalty, size, **terms), module.to("meta"))
    weight = batch.sample_weight.to("meta") if weighted else None
    batch = batch._replace(X=batch.X.to("meta"), y=batch.y.to("meta"), sample_weight=weight)
    parts = [] if halves else None
    result = form.backward(batch, parts)
    assert result.total.device.type == "meta"
    assert all(p.grad.shape == p.shape for p in module.parameters())
    assert not halves or len(parts) == len(units) - 1
