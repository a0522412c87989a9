"""skorch's nets with the penalty on modules of several inputs, as skorch hands them over."""

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sklearn_mgs import MGSNeuralNetClassifier

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(30, 5)), rng.integers(0, 3, 30)
PARTS = X[:, :2], X[:, 2:]


class Joined(nn.Module):
    """Two dense layers on all inputs side by side, and a scale that has no closed form."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, *given, **named):
        given = [*given, *named.values()]
        given = given[0] if isinstance(given[0], list | tuple) else given
        return self.second(torch.tanh(self.first(torch.cat([*given], 1))) * self.scale)


def fit(X, make_module=Joined, **options):
    torch.manual_seed(0)
    net = MGSNeuralNetClassifier(
        make_module().double(),
        mgs_strength=0.5,
        lr=0.1,
        max_epochs=2,
        verbose=0,
        **{"criterion": nn.CrossEntropyLoss, "batch_size": 7, **options},
    )
    return net.fit(X, Y)


@pytest.mark.parametrize("given", [{"a": PARTS[0], "b": PARTS[1]}, PARTS, [*PARTS]], ids=type)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mgs_metric": "det"},
        {"mgs_batch_size": 3},
        {"alpha": 1.0, "coherence_threshold": 0.2, "coherence": "batch"},
    ],
    ids=str,
)
def test_inputs_apart_are_inputs_side_by_side(given, options):
    got, want = fit(given, **options), fit(X, **options)
    for name in ("train_loss", "mgs_penalty", "valid_loss"):
        np.testing.assert_allclose(got.history[:, name], want.history[:, name], rtol=1e-12)
    for a, b in zip(got.module_.parameters(), want.module_.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


class WithFeatures(nn.Module):
    """Logits, and the hidden units beside them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 2, 3), nn.Linear(6, 3)

    def forward(self, X):
        h = torch.tanh(self.first(X[:, None])).flatten(1)
        return self.second(h), h


class FirstOutputLoss(nn.CrossEntropyLoss):
    def forward(self, outputs, y):
        return super().forward(outputs[0], y)


class Shapes(Callback):
    def on_batch_end(self, net, y_pred, training, **kwargs):
        self.seen = [tuple(output.shape) for output in y_pred]


def test_halves_of_several_outputs():
    options = {"alpha": 1.0, "coherence_threshold": 0.2, "coherence": "batch"}
    options |= {"criterion": FirstOutputLoss, "train_split": None, "batch_size": 10}
    shapes = Shapes()
    fit(X, WithFeatures, callbacks=[shapes], **options)
    assert shapes.seen == [(10, 3), (10, 6)]


class Frozen(nn.Module):
    """Its batch normalisation stays in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, X):
        return self.second(torch.tanh(self.norm(self.first(X))))


def test_batch_normalisation_that_the_module_freezes():
    assert fit(X, Frozen).history[-1]["mgs_penalty"] > 0


def test_batch_normalisation_says_what_to_do_on_dense_layers_too():
    def normalised():
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))

    with pytest.raises(ValueError, match=r"(?s)BatchNorm1d '1' uses the statistics.*eval"):
        fit(X, normalised)
