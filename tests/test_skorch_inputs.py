"""skorch's nets with the penalty: several inputs, several outputs, several labels, groups."""

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn
from torch.utils.data import StackDataset

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


DEFAULTS = {
    "criterion": nn.CrossEntropyLoss,
    "mgs_strength": 0.5,
    "max_epochs": 2,
    "batch_size": 7,
}


def fit(X, make_module=Joined, y=Y, **options):
    torch.manual_seed(0)
    options = {**DEFAULTS, **options}
    return MGSNeuralNetClassifier(make_module().double(), lr=0.1, verbose=0, **options).fit(X, y)


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


class Summed(nn.Module):
    """A sequence's tokens, embedded and summed; zeros pad it."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 3)

    def forward(self, X):
        return self.head(torch.tanh(self.embed(X)).sum(1))


def padded(samples):
    sequences, labels = zip(*samples)
    return nn.utils.rnn.pad_sequence(sequences, batch_first=True), torch.tensor(labels)


@pytest.mark.parametrize("options", [{}, {"mgs_batch_size": 3}], ids=str)
def test_sequences_padded_mini_batch_by_mini_batch(options):
    sequences = [torch.as_tensor(rng.integers(1, 9, 1 + i)) for i in range(30)]
    collate = {"iterator_train__collate_fn": padded, "iterator_valid__collate_fn": padded}
    data = StackDataset(sequences, Y.tolist())
    apart = fit(data, Summed, y=None, train_split=None, **collate, **options)
    together = fit(padded([*data])[0], Summed, train_split=None, **options)
    for a, b in zip(apart.module_.parameters(), together.module_.parameters()):
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


def dense():
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def positions():
    return nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 3, 3, padding=1))


@pytest.mark.parametrize(
    ("make_module", "y", "criterion"),
    [
        (dense, rng.integers(0, 2, (30, 3)).astype(float), nn.BCEWithLogitsLoss),
        (positions, rng.integers(0, 3, (30, 5)), nn.CrossEntropyLoss),
    ],
    ids=["multilabel", "a label at each position"],
)
def test_samples_of_several_labels(make_module, y, criterion):
    net = fit(X, make_module, y=y, criterion=criterion, train_split=None)
    assert net.penalty_.outputs == "random"
    with pytest.raises(ValueError, match='outputs="target" needs targets'):
        fit(X, make_module, y=y, criterion=criterion, train_split=None, mgs_outputs="target")


@pytest.mark.parametrize(
    "gate", [{}, {"coherence_threshold": -1.0, "coherence": "total"}], ids=str
)
def test_l1_takes_each_weights_own_learning_rate(gate):
    def weights(l1):
        groups = [("0.weight", {"lr": 0.0}), ("2.weight", {"lr": 0.3})]
        options = {"optimizer__param_groups": groups, "batch_size": -1, "train_split": None}
        net = fit(X, dense, l1=l1, mgs_strength=0, max_epochs=1, **options, **gate)
        return net.module_[0].weight.detach(), net.module_[2].weight.detach()

    (first, last), (first_plain, last_plain) = weights(10.0), weights(0.0)
    assert torch.equal(first, first_plain)
    threshold = 0.3 * 10.0 / len(X)
    torch.testing.assert_close(last, last_plain - last_plain.clamp(-threshold, threshold))


def test_halves_of_a_sum_are_refused():
    gate = {"coherence_threshold": 0.2, "coherence": "batch"}
    with pytest.raises(ValueError, match=r"must be a mean over samples.*reduction='mean'"):
        fit(X, dense, criterion__reduction="sum", **gate)
    fit(X, dense, criterion__reduction="sum")
