"""Losses and penalties of one mini-batch against scikit-learn's losses and torch.func."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, mean_poisson_deviance, mean_squared_error
from torch import nn

from sklearn_mgs._data import Batch
from sklearn_mgs._module import MLP
from sklearn_mgs._objective import (
    INVERSE_LINKS,
    LOSSES,
    Objective,
    gradient_penalty,
    input_jacobian_penalty,
)
from sklearn_mgs.gram import gram_matrix, mgs_metric
from sklearn_mgs.penalty import MGSPenalty

N, FEATURES, OUTPUTS = 12, 4, 3


@pytest.fixture
def network():
    generator = torch.Generator().manual_seed(0)
    module = MLP([FEATURES, 6, OUTPUTS], "tanh", dtype=torch.float64)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return module, torch.randn(N, FEATURES, generator=generator, dtype=torch.float64)


def targets(loss):
    generator = torch.Generator().manual_seed(1)
    if loss == "log_loss":
        return torch.randint(OUTPUTS, (N,), generator=generator)
    y = torch.randn(N, OUTPUTS, generator=generator, dtype=torch.float64)
    return {"binary_log_loss": (y > 0).double(), "poisson": y.square().floor()}.get(loss, y)


def batch(X, y, weight=None):
    return Batch(X, y, weight, len(X), float(len(X) if weight is None else weight.sum()))


def expected_loss(loss, y, prediction, weight):
    """By scikit-learn's metrics: sums over outputs, means over samples."""
    options = {"sample_weight": weight}
    if loss == "log_loss":
        return log_loss(y, prediction, labels=range(OUTPUTS), **options)
    columns = zip(y.T, prediction.T)
    if loss == "binary_log_loss":
        return sum(log_loss(a, p, labels=[0, 1], **options) for a, p in columns)
    metric = {"squared_error": mean_squared_error, "poisson": mean_poisson_deviance}[loss]
    return sum(metric(a, p, **options) for a, p in columns) / 2


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_scikit_learns(network, loss, weighted):
    module, X = network
    y = targets(loss)
    outputs = module(X).detach()
    weight = torch.linspace(0, 2, N, dtype=torch.float64) if weighted else None
    value = Objective(loss).data_loss(outputs, batch(X, y, weight)).item()
    prediction = INVERSE_LINKS[loss](outputs).numpy()
    host = None if weight is None else weight.numpy()
    np.testing.assert_allclose(value, expected_loss(loss, y.numpy(), prediction, host), rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_extreme_outputs_are_finite(loss):
    y = targets(loss)
    outputs = torch.full((N, OUTPUTS), 100.0, dtype=torch.float64, requires_grad=True)
    value = LOSSES[loss](outputs * torch.tensor([1.0, -1.0, 0.0]), y, None, 0.0)
    (gradient,) = torch.autograd.grad(value, outputs)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("part", ["all", "some"])
def test_samples_without_weight_have_no_part(network, loss, part):
    module, X = network
    y = targets(loss)
    weight = torch.zeros(N, dtype=torch.float64)
    weight[: 0 if part == "all" else 5] = 2.0
    value = LOSSES[loss](module(X), y, weight, 0.0)
    if part == "some":
        assert torch.allclose(value, LOSSES[loss](module(X[:5]), y[:5], None, 0.0), rtol=1e-13)
    gradients = torch.autograd.grad(value, list(module.parameters()))
    assert all(g.isfinite().all() for g in gradients)
    if part == "all":
        assert value == 0
        assert all((g == 0).all() for g in gradients)


# -------------------------------------------------------------------- the other penalties


def jacobian_norms(module, X):
    J = torch.func.vmap(torch.func.jacrev(lambda x: module(x[None])[0]))(X)
    return J.square().sum((1, 2))


@pytest.mark.parametrize("weighted", [False, True])
def test_input_jacobian_penalty_is_exact_when_asked(network, weighted):
    module, X = network
    weight = torch.linspace(0, 2, N, dtype=torch.float64) if weighted else torch.ones(N).double()
    X = X.requires_grad_()
    value = input_jacobian_penalty(X, module(X), weight if weighted else None, exact=True)
    expected = (weight * jacobian_norms(module, X)).sum() / weight.sum()
    assert torch.allclose(value, expected, rtol=1e-12)
    parameters = list(module.parameters())
    gradients = [
        torch.autograd.grad(v, parameters, materialize_grads=True) for v in (value, expected)
    ]
    for got, want in zip(*gradients):
        assert torch.allclose(got, want, rtol=1e-10, atol=1e-12)


def test_random_projections_estimate_the_input_jacobian_without_bias(network):
    module, X = network
    torch.manual_seed(0)
    copies = 20_000
    many = X[:1].expand(copies, -1).clone().requires_grad_()
    value = input_jacobian_penalty(many, module(many), None, exact=False)
    expected = jacobian_norms(module, X[:1])[0]
    standard_error = expected * (2 / copies) ** 0.5  # at most: of a Jacobian of rank one
    assert abs(value - expected) < 4 * standard_error
    again = input_jacobian_penalty(many, module(many), None, exact=False)
    assert again != value


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_penalty_against_finite_differences(network, loss):
    module, X = network
    y = targets(loss)

    def penalty():
        return gradient_penalty(Objective(loss).data_loss(module(X), batch(X, y)), module)

    gradients = torch.autograd.grad(
        Objective(loss).data_loss(module(X), batch(X, y)), list(module.parameters())
    )
    total = sum(g.square().sum() for g in gradients)
    assert torch.allclose(penalty(), total, rtol=1e-12)
    analytic = torch.autograd.grad(penalty(), list(module.parameters()))
    step = 1e-5
    for p, g in zip(module.parameters(), analytic):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p.view(-1)[0] += sign * step
            values.append(penalty().detach())
            with torch.no_grad():
                p.view(-1)[0] -= sign * step
        difference = (values[0] - values[1]) / (2 * step)
        assert torch.allclose(g.view(-1)[0], difference, rtol=1e-5, atol=1e-7)


# --------------------------------------------------------------------------- the whole


def test_terms_add_up(network):
    module, X = network
    y = targets("log_loss")
    penalty = MGSPenalty("det", outputs="all").calibrate(module, X)
    objective = Objective(
        "log_loss",
        mgs_strength=0.3,
        penalty=penalty,
        jacobian_strength=0.2,
        gradient_strength=0.1,
        exact=True,
    )
    terms = objective(module, batch(X, y))
    loss = Objective("log_loss").data_loss(module(X), batch(X, y))
    mgs = mgs_metric(gram_matrix(module, X), "det") / penalty.scale_
    total = loss + 0.3 * mgs + 0.2 * jacobian_norms(module, X).mean()
    total = total + 0.1 * gradient_penalty(loss, module)
    assert torch.allclose(terms.data_loss, loss, rtol=1e-13)
    assert torch.allclose(terms.mgs_penalty, 0.3 * mgs, rtol=1e-12)
    assert torch.allclose(terms.total, total, rtol=1e-12)
    assert torch.equal(terms.outputs, module(X))


def test_random_outputs_are_those_of_one_direction(network):
    module, X = network
    penalty = MGSPenalty(outputs="random").calibrate(module, X)
    objective = Objective("squared_error", mgs_strength=1.0, penalty=penalty)
    torch.manual_seed(5)
    value = objective(module, batch(X, targets("squared_error"))).mgs_penalty
    torch.manual_seed(5)
    v = torch.randn(OUTPUTS, dtype=torch.float64)
    turned = nn.Sequential(module, nn.Linear(OUTPUTS, 1, bias=False, dtype=torch.float64))
    with torch.no_grad():
        turned[1].weight.copy_(v[None])
    turned[1].requires_grad_(False)
    expected = mgs_metric(gram_matrix(turned, X)) / penalty.scale_
    assert torch.allclose(value, expected, rtol=1e-12)


def test_only_what_is_on_is_computed(network):
    module, X = network
    terms = Objective("squared_error")(module, batch(X, targets("squared_error")))
    assert terms.mgs_penalty is None
    assert terms.total is terms.data_loss
