"""The closed-form kernel of a multilayer perceptron against gram_matrix, and when it applies."""

import pytest
import torch
from torch import nn

from sklearn_mgs._mlp_gram import mlp_gram
from sklearn_mgs._module import ACTIVATIONS, MLP
from sklearn_mgs.gram import gram_matrix


def network(units, activation="relu", dropout=0.0):
    generator = torch.Generator().manual_seed(0)
    module = MLP(units, activation, dropout, torch.float64)
    for p in module.parameters():
        nn.init.normal_(p, std=0.5, generator=generator)
    return module.eval()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "units", [(4, 3), (4, 1), (4, 5, 3), (4, 5, 1), (4, 6, 5, 3), (4, 5, 5, 5, 2)]
)
def test_it_is_the_kernel_of_all_outputs(units, activation):
    module = network(units, activation)
    X = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = gram_matrix(module, X, implementation="jacobian").detach()
    torch.testing.assert_close(mlp_gram(module, X), expected, rtol=1e-12, atol=1e-12)


def test_dropout_is_off():
    plain, dropped = network((4, 5, 3)), network((4, 5, 3), dropout=0.5)
    X = torch.ones(3, 4, dtype=torch.float64)
    assert torch.equal(mlp_gram(dropped.train(), X), mlp_gram(plain, X))
