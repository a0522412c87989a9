"""Modules and samples as data: name, how to build, and how many layers have a closed form."""

import torch
from torch import nn
from torch.nn import functional as F


class Lambda(nn.Module):
    """A function as a layer."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


class Cramped(nn.Linear):
    """A layer on a device with room for three samples."""

    def forward(self, x):
        if len(x) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return super().forward(x)


class ResidualBlock(nn.Module):
    def __init__(self, channels, norm):
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.b = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm_a, self.norm_b = norm(channels), norm(channels)

    def forward(self, x):
        h = F.relu(self.norm_a(self.a(x)), inplace=True)
        return F.relu(x + self.norm_b(self.b(h)))


def resnet(norm):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        ResidualBlock(4, norm),
        nn.Conv2d(4, 6, 1, stride=2),
        ResidualBlock(6, norm),
        Lambda(lambda x: x.mean((2, 3))),
        nn.Linear(6, 3),
    )


def eval_resnet():
    module = resnet(nn.BatchNorm2d)
    module(torch.randn(16, 2, 8, 8))  # running statistics
    return module.eval()


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.position = nn.Parameter(0.1 * torch.randn(5, 6))
        self.block = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.block(self.embed(x) + self.position).mean(1))


class Attention(nn.Module):
    """One head of its own making: every parameter is a linear layer's."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.norm(x)
        h = F.scaled_dot_product_attention(*(f(x)[:, None] for f in (self.q, self.k, self.v)))
        return self.head(h[:, 0].mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind, batch_first=True):
        super().__init__()
        self.body = kind(3, 4, batch_first=batch_first)
        self.head = nn.Linear(4, 2)
        self.batch_first = batch_first

    def forward(self, x):
        if self.batch_first:
            return self.head(self.body(x)[0][:, -1])
        return self.head(self.body(x.transpose(0, 1))[0])[-1]


class Repeated(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(5, 5), nn.LayerNorm(5), nn.Linear(5, 2)

    def forward(self, x):
        for _ in range(3):
            x = self.norm(torch.tanh(self.layer(x)))
        return self.head(x)


class Tied(nn.Module):
    """The embedding's weight is the decoder's."""

    def __init__(self):
        super().__init__()
        self.embed, self.hidden, self.decode = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5)
        self.decode.weight = self.embed.weight

    def forward(self, x):
        return self.decode(torch.tanh(self.hidden(self.embed(x))).mean(1))


class UsedAgain(nn.Module):
    """The decoder is the encoder's weight, transposed: a use that no call of a layer shows."""

    def __init__(self):
        super().__init__()
        self.encode, self.head = nn.Linear(3, 4), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(torch.tanh(F.linear(torch.tanh(self.encode(x)), self.encode.weight.T)))


class Turned(nn.Module):
    """Samples go through the layers in another order."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x.flip(0))).flip(0))


class Distilled(nn.Module):
    """A layer that is called once more without gradients."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        with torch.no_grad():
            target = self.body(x)
        return self.head(torch.tanh(self.body(x)) - target)


def twice():
    """One layer under two names."""
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(3, 2))


class Folded(nn.Module):
    """Positions folded into the rows, and a layer that sees no samples at all."""

    def __init__(self):
        super().__init__()
        self.pixel, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.place = nn.Embedding(5, 4)

    def forward(self, x):
        h = torch.tanh(self.pixel(x.reshape(-1, 3))).view(len(x), 5, 4)
        return self.head((h * self.place(torch.arange(5))).mean(1))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.gate = nn.Linear(3, 4), nn.Linear(2, 4), nn.Bilinear(4, 4, 2)

    def forward(self, x, z):
        return self.gate(torch.tanh(self.a(x)), torch.tanh(self.b(z)))


class OwnParameter(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.scale, self.body = nn.Parameter(torch.randn(shape)), nn.Linear(3, 2)

    def forward(self, x):
        return self.body(torch.tanh(self.scale * x)), x


def eval_batch_norm():
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))
    module(torch.randn(20, 4))
    return module.eval()


def convolution(conv, **options):
    return lambda: nn.Sequential(
        conv(2, 4, 3, **options), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2), nn.Tanh()
    )


def images(*sizes):
    return lambda: torch.randn(4, 2, *sizes)


def tokens(vocabulary):
    return lambda: torch.randint(0, vocabulary, (4, 5))


def rows(*shape):
    return lambda: torch.randn(4, *shape)


# name: (module, samples, layers without a closed form)
MODULES = {
    "linear": (lambda: nn.Linear(3, 2), rows(3), []),
    "mlp": (
        lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)),
        rows(3),
        [],
    ),
    "sequence": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False)),
        rows(2, 6, 3),
        [],
    ),
    "conv1d, same": (convolution(nn.Conv1d, padding="same", dilation=2), images(7), []),
    "conv1d, even kernel, same": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 4, padding="same", padding_mode="circular"), nn.Flatten()
        ),
        images(6),
        [],
    ),
    "conv2d, strided": (
        convolution(nn.Conv2d, stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        images(7, 6),
        [],
    ),
    "conv2d, grouped, reflected": (
        convolution(nn.Conv2d, groups=2, padding=1, padding_mode="reflect"),
        images(5, 5),
        [],
    ),
    "conv2d, depthwise, no bias": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, groups=2, bias=False), nn.Tanh(), nn.Conv2d(4, 2, 1), nn.Flatten()
        ),
        images(5, 4),
        [],
    ),
    "conv3d": (convolution(nn.Conv3d, padding=1, stride=2), images(4, 4, 3), []),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 3), nn.Flatten(), nn.LazyLinear(2)),
        images(3, 3),
        ["0"],
    ),
    "resnet, group norm": (lambda: resnet(lambda c: nn.GroupNorm(2, c)), images(8, 8), []),
    "resnet, batch norm in eval": (eval_resnet, images(8, 8), []),
    "batch norm in eval": (eval_batch_norm, rows(4), []),
    "instance norm": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.InstanceNorm2d(3, affine=True), nn.Tanh(), nn.Conv2d(3, 2, 3)
        ),
        images(4, 4),
        ["1"],
    ),
    "layer norms": (
        lambda: nn.Sequential(
            nn.Linear(3, 4),
            nn.LayerNorm((5, 4)),
            nn.Tanh(),
            nn.RMSNorm(4),
            nn.Linear(4, 1),
            nn.LayerNorm((5, 1), bias=False),
        ),
        rows(5, 3),
        [],
    ),
    "embedding, padded": (
        lambda: nn.Sequential(
            nn.Embedding(4, 3, padding_idx=1), nn.Tanh(), nn.Flatten(), nn.Linear(15, 2)
        ),
        tokens(4),
        [],
    ),
    "embedding that rewrites itself": (
        lambda: nn.Sequential(nn.Embedding(4, 3, scale_grad_by_freq=True), nn.Flatten()),
        tokens(4),
        ["0"],
    ),
    "transformer": (Transformer, tokens(7), ["", "block.self_attn", "block.self_attn.out_proj"]),
    "attention": (Attention, rows(5, 4), []),
    "lstm": (lambda: Recurrent(nn.LSTM), rows(5, 3), ["body"]),
    "gru": (lambda: Recurrent(nn.GRU), rows(5, 3), ["body"]),
    "time first": (lambda: Recurrent(nn.RNN, batch_first=False), rows(4, 3), ["body", "head"]),
    "repeated layer": (Repeated, rows(5), []),
    "tied weights": (Tied, tokens(5), ["embed"]),
    "folded rows": (Folded, rows(5, 3), ["pixel", "place"]),
    "weight used again": (UsedAgain, rows(3), ["encode"]),
    "samples in another order": (Turned, rows(3), ["body"]),
    "call without gradients": (Distilled, rows(3), []),
    "layer with two names": (twice, rows(3), []),
    "slopes": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 2), nn.PReLU(3), nn.Flatten(), nn.LazyLinear(4), nn.PReLU()
        ),
        images(4),
        [],
    ),
    "two inputs": (TwoInputs, lambda: (torch.randn(4, 3), torch.randn(4, 2)), ["gate"]),
    "own parameter, tuple": (lambda: OwnParameter(3), rows(3), [""]),
    "own number": (OwnParameter, rows(3), [""]),
    "weight norm": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)
        ),
        rows(3),
        ["0.parametrizations.weight"],
    ),
    "frozen parts": (lambda: frozen(), rows(2, 5, 5), []),
}


def frozen():
    module = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.GroupNorm(1, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2)
    )
    for parameter in (module[0].weight, module[1].bias, module[4].bias):
        parameter.requires_grad_(False)
    return module


def build(name, dtype=torch.float64):
    """Return the module, its samples and the layers without a closed form."""
    torch.manual_seed(0)
    make, samples, without = MODULES[name]
    X = samples()
    module = make()
    with torch.no_grad():  # lazy layers
        module(*X) if isinstance(X, tuple) else module(X)

    def cast(x):
        return x.to(dtype) if x.is_floating_point() else x

    return module.to(dtype), tuple(map(cast, X)) if isinstance(X, tuple) else cast(X), without
