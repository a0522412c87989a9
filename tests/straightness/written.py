"""Modules of a user's own, and pairs of samples."""

import torch
from skorch import NeuralNetClassifier
from torch import nn

PAIRS = torch.arange(12).view(6, 2)
X = 2 * torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Written(nn.Module):
    """A user's module: `forward` is given, the layers are attributes."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.written = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, X):
        return self.written(self, X)


def dense(forward, seed=0, n_inputs=4, width=8, n_outputs=2):
    """A module with three dense layers, in float64."""
    torch.manual_seed(seed)
    sizes = {"a": (n_inputs, width), "b": (width, width), "c": (width, n_outputs)}
    layers = {name: nn.Linear(*size) for name, size in sizes.items()}
    for layer in layers.values():
        layer.weight.data *= 2.0  # or units of deep layers hardly change sign
    return Written(forward, **layers).double()


def chain(activation):
    return dense(lambda m, X: m.c(activation(m.b(activation(m.a(X))))))


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 3, 2), nn.Linear(3, 2)

    def forward(self, X):
        return self.out(torch.relu(self.conv(X.view(-1, 1, 2, 2))).flatten(1))


class MaskedNet(ConvNet):
    def forward(self, X):
        z = self.conv(X.view(-1, 1, 2, 2))
        return self.out((z * (z > 0)).flatten(1))


def skorch_net(module, **kwargs):
    torch.manual_seed(0)
    net = NeuralNetClassifier(module, criterion=nn.CrossEntropyLoss, verbose=0, **kwargs)
    return net.initialize()
