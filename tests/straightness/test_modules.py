"""Measures of modules of the user's own, in skorch nets."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

import sklearn_mgs
from sklearn_mgs.straightness import (
    gradient_deflection,
    gradient_gap_deviation,
    path_kinks,
)
from tests.straightness.written import ConvNet, MaskedNet, skorch_net

MEASURES = (gradient_deflection, gradient_gap_deviation, path_kinks)
DATA = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")


@pytest.mark.parametrize("measure", MEASURES)
def test_convolutional_skorch_net(measure):
    net = skorch_net(ConvNet)
    found = measure(net, DATA, n_pairs=20)
    # The same network with its convolution as a dense layer (one patch: the whole image).
    module = net.module_
    dense = nn.Linear(4, 3)
    dense.weight.data, dense.bias.data = module.conv.weight.detach().flatten(1), module.conv.bias
    twin = skorch_net(partial(nn.Sequential, dense, nn.ReLU(), module.out))
    assert found == pytest.approx(measure(twin, DATA, n_pairs=20), rel=1e-9)
    assert found > 0


def test_modules_that_are_not_walked():
    """The same network, written with an operation that is not known, is integrated."""
    masked, walked = skorch_net(MaskedNet), skorch_net(ConvNet)
    masked.module_.load_state_dict(walked.module_.state_dict())
    found = gradient_deflection(masked, DATA, n_pairs=20, tol=1e-4)
    exact = gradient_deflection(walked, DATA, n_pairs=20)
    assert found == pytest.approx(exact, rel=1e-3)
    assert found != exact
    # A kink in a grid's step is a jump of the slope: the sum over the steps is that over kinks.
    grid = gradient_gap_deviation(masked, DATA, n_pairs=20, n_steps=400) * np.sqrt(400)
    kinks = gradient_gap_deviation(walked, DATA, n_pairs=20) * np.sqrt(3)
    assert 0.2 * kinks < grid <= kinks


class Odd(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.written, self.a, self.b = forward, nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, X):
        return self.written(self, X)


def only_single_precision(m, X):
    assert X.dtype == torch.float32
    return m.b(m.a(X).relu())


def cached(m, X):
    if not hasattr(m, "ones"):
        m.ones = torch.ones(8, dtype=X.dtype)
    return m.b((m.ones * m.a(X)).relu())


def checkpointed(m, X):
    return checkpoint(lambda X: m.b(m.a(X).relu()), X, use_reentrant=False)


ODD = {
    "single precision only": (lambda: Odd(only_single_precision), False),
    "rows made on the way": (
        lambda: Odd(lambda m, X: m.b(m.a(X).relu() + torch.zeros(len(X), 8))),
        False,
    ),
    "samples second": (lambda: Odd(lambda m, X: m.b(m.a(X).T.relu().T)), False),
    "attention": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 2)),
            nn.TransformerEncoderLayer(2, 1, 8, batch_first=True),
            nn.Flatten(),
        ),
        False,
    ),
    "cached": (lambda: Odd(cached), True),
    "checkpointed": (lambda: Odd(checkpointed), True),
    "weight norm": (lambda: nn.Sequential(weight_norm(nn.Linear(4, 8)), nn.ReLU()), True),
    "half precision": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).bfloat16(),
        True,
    ),
    "several outputs": (lambda: Odd(lambda m, X: (m.b(m.a(X).relu()), X)), True),
    "one number": (lambda: Odd(lambda m, X: m.b(m.a(X).relu())[:, 0]), True),
}


@pytest.mark.parametrize(("make", "is_walked"), ODD.values(), ids=ODD)
def test_modules_that_are_scored_are_measured(make, is_walked):
    net = skorch_net(make)
    assert np.isfinite(sklearn_mgs.mgs_score(net, DATA))
    assert 0 < gradient_deflection(net, DATA, n_pairs=5) < np.inf
    assert 0 < gradient_gap_deviation(net, DATA, n_pairs=5) < np.inf
    if is_walked:
        assert path_kinks(net, DATA, n_pairs=5) > 0
    else:
        with pytest.raises(ValueError, match="cannot be counted: it"):
            path_kinks(net, DATA, n_pairs=5)


def test_modules_without_slopes():
    """Numbers that leave torch have no derivative."""

    class Numpy(ConvNet):
        def forward(self, X):
            return torch.from_numpy(np.tanh(super().forward(X).detach().numpy()))

    net = skorch_net(Numpy)
    for measure in (gradient_deflection, gradient_gap_deviation):
        with pytest.raises(ValueError, match=r"slope of Numpy .* forward-mode derivatives"):
            measure(net, DATA, n_pairs=2)
