"""What bad input gets."""

import pytest
import torch
from torch import nn

from sklearn_mgs import MLPClassifier
from sklearn_mgs.gram import GramOperator, gram_matrix, gram_trace, jacobian

X = torch.ones(4, 3)
MODULE = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
NORM = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
Y = torch.tensor([0, 1, 0, 1])

CASES = {
    "outputs": (MODULE, {"outputs": "most"}, r"Unknown outputs 'most'.*'full'"),
    "layers": (MODULE, {"layers": "last"}, r"Unknown layers 'last'.*'balanced'"),
    "layer": (MODULE, {"layers": {"3": 1.0}}, r"layers names \['3'\].*\['0', '2'\]"),
    "negative": (MODULE, {"layers": {"0": -1.0}}, "Weights of layers must be at least 0"),
    "no weight": (MODULE, {"layers": {"0": 0.0}}, "one of them more"),
    "hidden": (nn.Linear(3, 2), {"layers": "hidden"}, 'use layers="all"'),
    "centered": (MODULE, {"centered": "mean"}, 'expected False, True or "class"'),
    "implementation": (MODULE, {"implementation": "fast"}, "Unknown implementation 'fast'"),
    "no targets": (MODULE, {"outputs": "target"}, "needs targets .* got None"),
    "no classes": (MODULE, {"centered": "class"}, "needs targets .* got None"),
    "float targets": (MODULE, {"outputs": "target", "targets": Y.double()}, "class indices"),
    "few targets": (MODULE, {"outputs": "target", "targets": Y[:3]}, r"shape \(4,\)"),
    "large target": (MODULE, {"outputs": "target", "targets": Y + 1}, r"0\.\.1 .*; got 1\.\.2"),
    "no chunk": (MODULE, {"chunk_size": 0}, "chunk_size must be None or .* at least 1; got 0"),
    "part of a chunk": (MODULE, {"chunk_size": 1.5}, "chunk_size must be None or"),
    "no parameters": (nn.Tanh(), {}, "no trainable parameters"),
    "batch statistics": (NORM, {}, r"BatchNorm1d '1' .* module.eval\(\)"),
}


@pytest.mark.parametrize("function", [gram_matrix, gram_trace])
@pytest.mark.parametrize(("module", "options", "match"), CASES.values(), ids=CASES)
def test_message(function, module, options, match):
    with pytest.raises(ValueError, match=match):
        function(module, X, **options)


@pytest.mark.parametrize("function", [gram_matrix, jacobian])
def test_no_samples(function):
    with pytest.raises(ValueError, match="no samples; expected at least one"):
        function(MODULE, X[:0])


@pytest.mark.parametrize("function", [gram_matrix, jacobian])
@pytest.mark.parametrize("X", [X.numpy(), (X.numpy(),), None], ids=type)
def test_no_tensor(function, X):
    with pytest.raises(TypeError, match=r"X must be a torch.Tensor.*as_tensor"):
        function(MODULE, X)


@pytest.mark.parametrize("function", [gram_matrix, gram_trace, jacobian, GramOperator])
def test_no_module(function):
    with pytest.raises(TypeError, match=r"torch.nn.Module; got MLPClassifier.*its module_"):
        function(MLPClassifier(), X)


@pytest.mark.parametrize("function", [gram_matrix, gram_trace, jacobian, GramOperator])
def test_inference_mode(function):
    with torch.inference_mode(), pytest.raises(ValueError, match=r"use torch.no_grad\(\)"):
        function(MODULE, X)


@pytest.mark.parametrize("module", [nn.Tanh(), NORM])
def test_jacobian_message(module):
    with pytest.raises(ValueError, match=r"no trainable parameters|samples interact"):
        jacobian(module, X)


class Centring(nn.Module):
    def forward(self, X):
        return X - X.mean(0)


def attention(batch_first):
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=batch_first)
    return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Linear(3, 4), layer, nn.Flatten())


class Last(nn.LSTM):
    def forward(self, X):
        return super().forward(X.unflatten(1, (3, 1)))[0][:, -1]


@pytest.mark.parametrize(
    "module",
    [
        attention(batch_first=False),
        Last(1, 2),
        nn.Sequential(nn.Linear(3, 4), nn.Softmax(dim=0), nn.Linear(4, 2)),
        nn.Sequential(Centring(), nn.Linear(3, 2)),
    ],
    ids=["attention", "recurrence", "softmax", "centring"],
)
def test_samples_that_meet_without_batch_statistics(module):
    X = torch.arange(12.0).view(4, 3).sin()
    with pytest.raises(ValueError, match=r"changes with another beside it.*batch_first=False"):
        gram_matrix(module, X)


def test_samples_apart_are_not_refused():
    X = torch.arange(12.0).view(4, 3).sin()
    gram_trace(attention(batch_first=True), X)
    gram_trace(Last(1, 2, batch_first=True), X)
    gram_trace(nn.Sequential(nn.Linear(3, 4), nn.Softmax(dim=1)), X)

    class Noisy(nn.Linear):
        def forward(self, X):
            return super().forward(X + torch.randn_like(X))

    gram_trace(nn.Sequential(Noisy(3, 4), nn.Linear(4, 2)), X)


def test_outputs_in_a_dict():
    class Named(nn.Linear):
        def forward(self, X):
            return {"logits": super().forward(X)}

    with pytest.raises(TypeError, match=r"must return a tensor.*got dict\. Wrap it"):
        gram_matrix(Named(3, 2), X)


def test_layer_that_gets_a_part_of_the_samples():
    class Routes(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, X):
            left, outputs = X[:, 0] < 0, X.new_zeros(len(X), 2)
            outputs[left], outputs[~left] = self.left(X[left]), self.right(X[~left])
            return outputs

    module, X = Routes(), torch.tensor([[1.0, 2, 3], [2, 3, 4], [-1, 0, 2]])
    for options in ({}, {"layers": {"right": 1.0}}):
        with pytest.raises(ValueError, match=r"'right' gets 2 rows for 3 samples.*'jacobian'"):
            gram_matrix(module, X, **options)
    K = gram_matrix(module, X, implementation="jacobian").detach()
    expected = 2 * (X @ X.T + 1)
    expected[2, :2] = expected[:2, 2] = 0
    torch.testing.assert_close(K, expected)


def test_layer_that_the_outputs_do_not_depend_on():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            self.idle(x)
            return self.used(x)

    with pytest.raises(ValueError, match=r"depend on none of the layers \['idle'\]"):
        gram_trace(Idle(), X, layers={"idle": 1.0})
    module = Idle()
    assert torch.equal(gram_trace(module, X), gram_trace(module.used, X))
