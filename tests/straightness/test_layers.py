"""Which modules the exact walk recognises, however they are written."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklearn_mgs.straightness._layers import applied_layers, has_kinks, is_piecewise_linear


class Written(nn.Module):
    """A user's module: the layers are attributes, `forward` is given."""

    def __init__(self, forward):
        super().__init__()
        self.first, self.relu, self.second = nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)
        self.inplace = nn.ReLU(inplace=True)
        self.written = forward

    def forward(self, X):
        return self.written(self, X)


class Scaled(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, X):
        return 2 * super().forward(X)


def branch(m, X):
    m.second(m.first(X))
    return m.first(X)


def changed_in_place(m, X):
    z = m.first(X)
    z += 1
    return m.second(z)


CHAINS = {
    "calls": (lambda m, X: m.second(m.relu(m.first(X))), "first relu second"),
    "in place": (lambda m, X: m.second(m.inplace(m.first(X))), "first inplace second"),
    "used twice": (
        lambda m, X: m.second(m.relu(m.first(m.relu(m.first(X))))),
        "first relu first relu second",
    ),
    "same tensor": (lambda m, X: m.second(m.relu(m.first(X)).float()), "first relu second"),
}

OTHERS = {
    "function": lambda m, X: m.second(torch.relu(m.first(X))),
    "function at the end": lambda m, X: F.relu(m.second(m.first(X))),
    "function at the start": lambda m, X: m.second(X + 1),
    "residual": lambda m, X: m.first(X) + X,
    "branch": branch,
    "changed in place": changed_in_place,
    "changed in place at the end": lambda m, X: m.first(X).relu_(),
    "tuple": lambda m, X: (m.first(X), X),
}


@pytest.mark.parametrize(("forward", "names"), CHAINS.values(), ids=CHAINS)
def test_chains_are_found(forward, names):
    module = Written(forward)
    found = applied_layers(module, torch.ones(1, 3))
    assert [id(x) for x in found] == [id(getattr(module, name)) for name in names.split()]


@pytest.mark.parametrize("forward", OTHERS.values(), ids=OTHERS)
def test_other_operations_are_noticed(forward):
    assert applied_layers(Written(forward), torch.ones(1, 3)) is None


def test_nested_sequential_is_flattened():
    a, b, c = nn.Linear(3, 3), nn.LeakyReLU(), nn.Identity()
    module = nn.Sequential(nn.Sequential(a, nn.Sequential(b)), c, a)
    assert applied_layers(module, torch.ones(1, 3)) == [a, b, c, a]


@pytest.mark.parametrize("layer", [Scaled(3, 3), nn.PReLU(), nn.LayerNorm(3)])
def test_unknown_layers_are_noticed(layer):
    assert applied_layers(nn.Sequential(nn.Linear(3, 3), layer), torch.ones(1, 3)) is None


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_of_the_user_are_noticed(register):
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    getattr(module[0], register)(lambda *args: None)
    assert applied_layers(module, torch.ones(1, 3)) is None


@pytest.mark.parametrize("fails", [False, True])
def test_no_hook_is_left(fails):
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    if fails:
        with pytest.raises(RuntimeError, match="shape"):
            applied_layers(module, torch.ones(1, 4))
    else:
        applied_layers(module, torch.ones(1, 3))
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in module)


@pytest.mark.parametrize(
    ("layer", "piecewise", "kinks"),
    [
        (nn.Linear(2, 2), True, False),
        (nn.Dropout(), True, False),
        (nn.Conv2d(1, 1, 2), True, False),
        (nn.AvgPool2d(2), True, False),
        (nn.MaxPool2d(2), False, False),
        (nn.ReLU(), True, True),
        (nn.LeakyReLU(0.1), True, True),
        (nn.LeakyReLU(1.0), True, False),
        (nn.Tanh(), False, False),
        (nn.Softmax(1), False, False),
    ],
    ids=str,
)
def test_kinds(layer, piecewise, kinks):
    assert is_piecewise_linear(layer) is piecewise
    assert has_kinks(layer) is kinks
