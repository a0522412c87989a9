"""Both halves' gradients from one closed-form pass, against one pass for each half."""

import pytest
import torch

from sklearn_mgs._closed_form import ClosedForm
from sklearn_mgs._coherence import CoherenceGate
from sklearn_mgs._cosines import inner_products_of_pairs
from sklearn_mgs._data import Batch
from sklearn_mgs._half_rows import HalfRows, _orders
from sklearn_mgs._module import MLP
from sklearn_mgs._objective import Objective, Terms
from sklearn_mgs.penalty import MGSPenalty

UNITS = [5, 6, 8, 4]


def network(activation="tanh", dropout=0.0):
    torch.manual_seed(0)
    module = MLP(UNITS, activation, dropout, dtype=torch.float64)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.6)
    return module


def mini_batch(n, weighted=False):
    torch.manual_seed(n)
    X = torch.randn(n, UNITS[0], dtype=torch.float64)
    weight = torch.arange(n).double() if weighted else None  # one of them zero
    total = float(n if weight is None else weight.sum())
    return Batch(X, torch.randint(0, UNITS[-1], (n,)), weight, n, total)


PENALTIES = {
    "trace": {},
    "relative": {"relative": True},
    "centred": {"centered": True},
    "class": {"centered": "class", "relative": True},
    "det": {"metric": "det"},
    "sum": {"outputs": "sum", "layers": "first"},
    "all": {"outputs": "all", "relative": True},
    "det of all": {"outputs": "all", "metric": "det"},
    "random": {"outputs": "random"},
}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("n", [4, 12, 13])
@pytest.mark.parametrize("size", [2, 3, 6, 7, None])
def test_one_pass_is_two(size, n, activation, penalty, weighted):
    module, batch = network(activation), mini_batch(n, weighted)
    penalty = MGSPenalty(**{"outputs": "target", "jitter": 1e-2, **penalty})
    penalty.calibrate(module, batch.X, batch.y)
    form = ClosedForm(Objective("log_loss", 0.7, penalty, size), module)
    compare(form, form.backward, module, batch)


def compare(form, run, module, batch):
    """One pass of the form, and two of `run`."""
    one, two = CoherenceGate(0.5, "batch"), CoherenceGate(0.5, "batch")
    torch.manual_seed(0)
    want = two.backward(run, module, batch)
    gradients = [p.grad.clone() for p in module.parameters()]
    halves = []
    torch.manual_seed(0)
    got = form.backward(batch, halves)
    one.compare_products(inner_products_of_pairs(halves))
    close = {"rtol": 1e-9, "atol": 1e-11}
    for name in ("data_loss", "mgs_penalty", "total", "outputs"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name), **close)
    for p, g in zip(module.parameters(), gradients):
        torch.testing.assert_close(p.grad, g, **close)
    torch.testing.assert_close(one._halves, two._halves, **close)


WEIGHTS = {
    "unweighted": lambda n: None,
    "weighted": lambda n: torch.arange(n).double(),
    "first without weight": lambda n: (torch.arange(n) >= n // 2).double(),
    "second without weight": lambda n: (torch.arange(n) < n // 2).double(),
}


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("n", [2, 3, 12, 13])  # few and many samples, even and odd
def test_one_pass_with_loss_gradient_is_two_of_autograd(n, activation, weight):
    objective = Objective("log_loss", mgs_batch_size=2, gradient_strength=0.7)
    module, batch = network(activation), mini_batch(n)._replace(sample_weight=weight(n))

    def run(half):
        terms = objective(module, half)
        terms.total.backward()
        return Terms(terms.data_loss.detach(), terms.total.detach(), None, terms.outputs.detach())

    compare(ClosedForm(objective, module), run, module, batch)


@pytest.mark.parametrize("gradient_strength", [0.0, 0.7])
@pytest.mark.parametrize("share", [1e-4, 1e-6])
def test_coherence_with_a_half_of_small_gradients_in_single_precision(share, gradient_strength):
    module, batch = network().float(), mini_batch(12)
    weight = torch.ones(12)
    weight[6:] = share
    batch = batch._replace(X=batch.X.float(), sample_weight=weight, weight_sum=float(weight.sum()))
    form = ClosedForm(Objective("log_loss", gradient_strength=gradient_strength), module)
    one, two = CoherenceGate(0.5, "batch"), CoherenceGate(0.5, "batch")
    two.backward(form.backward, module, batch)
    halves = []
    form.backward(batch, halves)
    one.compare_products(inner_products_of_pairs(halves))
    torch.testing.assert_close(one._halves, two._halves, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("outputs", [None, "target", "random", "all"])
@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("jacobian", "gradient"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.4)])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("n", [5, 12])
@pytest.mark.parametrize("size", [None, 2])
def test_draws_are_those_of_two_passes(
    size, n, weighted, jacobian, gradient, dropout, noise, outputs
):
    """Of autograd, one half after the other: one seed gives both the same."""
    module, batch = network(dropout=dropout), mini_batch(n, weighted)
    penalty = None
    if outputs is not None:
        penalty = MGSPenalty(outputs=outputs, relative=True).calibrate(module, batch.X, batch.y)
    objective = Objective(
        "log_loss",
        0.7 if outputs else 0.0,
        penalty,
        size,
        input_noise=noise,
        jacobian_strength=jacobian,
        gradient_strength=gradient,
    )

    def run(half):
        terms = objective(module, half)
        terms.total.backward()
        mgs = None if terms.mgs_penalty is None else terms.mgs_penalty.detach()
        return Terms(terms.data_loss.detach(), terms.total.detach(), mgs, terms.outputs.detach())

    compare(ClosedForm(objective, module), run, module, batch)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("n", [3, 5])
def test_halves_of_an_odd_number_get_as_many_rows(n, weighted):
    batch = mini_batch(n, weighted)
    rows = HalfRows(batch, None, even=True)
    torch.testing.assert_close(rows.restored(rows.batch.X), batch.X, rtol=0, atol=0)
    weight = batch.sample_weight if weighted else torch.ones(n, dtype=torch.float64)
    parts = weight[: n // 2].sum(), weight[n // 2 :].sum()
    assert [half for half, _ in rows.blocks] == [slice(0, n // 2 + 1), slice(n // 2 + 1, n + 1)]
    for (half, share), part in zip(rows.blocks, parts):
        assert rows.batch.sample_weight[half].sum() == part
        assert share == pytest.approx(float(part / weight.sum()), rel=1e-15)


def test_the_order_of_many_rows_is_found_in_time():
    """Of a million rows, which a search through all of them for each would never end with."""
    n = 1_000_000
    order, back, _ = _orders(n, n, 10, 10, torch.device("cpu"))
    assert torch.equal(order[back], torch.arange(n))
    assert order[:20].tolist() == [*range(10), *range(n // 2, n // 2 + 10)]


@pytest.mark.parametrize("n", [2, 5, 8])
@pytest.mark.parametrize("size", [1, 2, 4, None])
def test_rows_come_back_in_order(n, size):
    batch = mini_batch(n)
    rows = HalfRows(batch, size)
    torch.testing.assert_close(rows.restored(rows.batch.X), batch.X, rtol=0, atol=0)
    samples, X = torch.eye(n, dtype=torch.float64), batch.X
    samples = HalfRows(batch._replace(X=samples), size).batch.X
    got = rows.sums_of_products([(samples, rows.batch.X)])
    for half, part in zip(got, (slice(n // 2), slice(n // 2, n))):
        want = torch.zeros_like(X)
        want[part] = X[part]
        torch.testing.assert_close(half, want, rtol=0, atol=0)
