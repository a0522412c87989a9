"""Modules that are not walked: scipy's quadrature, the exact walk, modules of many kinds."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from sklearn_mgs.straightness import _quadrature
from sklearn_mgs.straightness._quadrature import (
    Segments,
    deflection_by_quadrature,
    gap_over_grid,
    integrate,
)
from sklearn_mgs.straightness._segments import segment_statistics


def two_layers(activation, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(3, 12), activation, nn.Linear(12, 8), activation, nn.Linear(8, 2)
    )
    return net.double()


def segments(net, n=4, shape=(3,), dtype=torch.float64):
    X = 2 * torch.randn(2 * n, *shape, dtype=torch.float64, generator=torch.manual_seed(1))
    return Segments(net, X.to(dtype), torch.arange(2 * n).view(n, 2))


def slope(of, pair, t, step=1e-5):
    """Derivative of the outputs with respect to t, by central differences of fourth order."""
    a, b = of.X[of.pairs[pair]]
    at = t + step * torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=a.dtype)
    with torch.no_grad():
        h = of.module(torch.lerp(a, b, at.view(-1, *[1] * a.ndim))).flatten(1)
    return ((h[0] - 8 * h[1] + 8 * h[2] - h[3]) / (12 * step)).numpy()


def deflection_by_scipy(of, pair):
    with torch.no_grad():
        h = of.module(of.X[of.pairs[pair]]).flatten(1).numpy()
    return quad(
        lambda t: np.square(slope(of, pair, t) - (h[1] - h[0])).mean(), 0, 1, epsabs=1e-12
    )[0]


SMOOTH = {
    "tanh": two_layers(nn.Tanh()),
    "sigmoid": two_layers(nn.Sigmoid()),
    "gelu": two_layers(nn.GELU()),
    "softmax": nn.Sequential(two_layers(nn.Tanh()), nn.Softmax(1)),
}


@pytest.mark.parametrize("net", SMOOTH.values(), ids=SMOOTH)
def test_smooth_nets_against_scipy(net):
    of = segments(net)
    squared, chord = deflection_by_quadrature(of, 1e-6)
    expected = [deflection_by_scipy(of, pair) for pair in range(4)]
    np.testing.assert_allclose(squared, expected, rtol=1e-6)
    with torch.no_grad():
        h = net(of.X[of.pairs.flatten()]).unflatten(0, (4, 2))
    torch.testing.assert_close(chord, (h[:, 1] - h[:, 0]).square().mean(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-4])
def test_nets_with_kinks_against_the_walk(tol):
    net = two_layers(nn.LeakyReLU(0.1))
    of = segments(net, n=40)
    squared, chord = deflection_by_quadrature(of, tol)
    exact = segment_statistics(net, of.X, of.pairs)
    torch.testing.assert_close(chord, exact.chord, rtol=1e-12, atol=1e-14)
    error = (squared / exact.deflection - 1).abs()
    assert error.quantile(0.9) < tol  # of two kinks close together both can be missed
    assert abs(squared.mean() / exact.deflection.mean() - 1) < tol


def test_tighter_tolerances_evaluate_more(monkeypatch):
    of = segments(two_layers(nn.ReLU()))
    n_points = []

    class Counted(Segments):
        def slopes(self, i, t):
            n_points[-1] += t.numel()
            return super().slopes(i, t)

    for tol in (1e-1, 1e-3, 1e-5):
        n_points.append(0)
        deflection_by_quadrature(Counted(*of), tol)
    assert n_points[0] < n_points[1] < n_points[2]


def test_linear_module_is_straight():
    of = segments(nn.Linear(3, 2).double())
    squared, chord = deflection_by_quadrature(of, 1e-3)
    assert (squared < 1e-28 * chord).all()


def test_single_precision_is_as_good_as_its_rounding():
    net = two_layers(nn.Tanh())
    expected, _ = deflection_by_quadrature(segments(net), 1e-6)
    squared, _ = deflection_by_quadrature(segments(net.float(), dtype=torch.float32), 1e-6)
    assert squared.dtype == torch.float32
    torch.testing.assert_close(squared.double(), expected, rtol=1e-4, atol=0)
    net.double()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_rounding_is_not_refined(monkeypatch):
    net = two_layers(nn.Tanh()).float()
    with torch.no_grad():
        for parameter in net.parameters():  # almost linear: the slope varies by its rounding
            parameter *= 1e-3 if parameter.ndim == 2 else 0.0
    monkeypatch.setattr(_quadrature, "MAX_INTERVALS", 4)
    squared, chord = deflection_by_quadrature(segments(net, dtype=torch.float32), 1e-3)
    assert (squared < 1e-5 * chord).all()


def test_rows_at_once_do_not_matter(monkeypatch):
    of = segments(two_layers(nn.Tanh()))
    expected, _ = deflection_by_quadrature(of, 1e-3)
    monkeypatch.setattr(_quadrature, "CHUNK_ROWS", 1)
    squared, _ = deflection_by_quadrature(of, 1e-3)
    torch.testing.assert_close(squared, expected, rtol=1e-12, atol=0)


FUNCTIONS = {
    "polynomial": (lambda t: 13 * t**12, 1.0),
    "exponential": (torch.exp, np.e - 1),
    "peak": (lambda t: 0.01 / ((t - 0.3) ** 2 + 1e-4), np.arctan(70) + np.arctan(30)),
    "jump": (lambda t: (t > 1 / 3).to(t), 2 / 3),
    "zero": (torch.zeros_like, 0.0),
}


@pytest.mark.parametrize(("f", "expected"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_integrals_in_closed_form(f, expected):
    like = torch.zeros(0, dtype=torch.float64)
    found = integrate(lambda i, t: f(t), 3, lambda x: 1e-8 * x, like)
    np.testing.assert_allclose(found, np.full(3, expected), rtol=1e-8)


@pytest.mark.parametrize("limit", [{"MAX_INTERVALS": 8}, {"MAX_BISECTIONS": 4}], ids=str)
def test_integral_that_does_not_converge_warns(limit, monkeypatch):
    for name, value in limit.items():
        monkeypatch.setattr(_quadrature, name, value)
    like = torch.zeros(0, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="did not reach the tolerance; raise tol"):
        found = integrate(lambda i, t: (997 * t) % 1, 2, lambda x: 1e-8 * x, like)
    np.testing.assert_allclose(found, [0.5, 0.5], atol=0.1)


def test_gap_over_grid_is_the_mean_over_steps():
    of = segments(two_layers(nn.Tanh()))
    gap, chord = gap_over_grid(of, 8)
    for pair in range(4):
        g = np.array([slope(of, pair, t) for t in np.linspace(0, 1, 9)])
        assert gap[pair].item() == pytest.approx(np.square(np.diff(g, axis=0)).mean(), rel=1e-6)
    torch.testing.assert_close(chord, deflection_by_quadrature(of, 0.1)[1])


# ------------------------------------------------------------------------- modules of many kinds


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def forward(self, X):
        return self.encoder(X).mean(1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, X):
        return self.lstm(X)[0][:, -1], "a skorch module may return more than its outputs"


class OneNumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 4))

    def forward(self, X):
        return torch.sin(X * self.weight).sum((1, 2))


MODULES = {
    "convolutional": lambda: nn.Sequential(
        nn.Conv1d(5, 6, 3, padding=1), nn.GELU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(12, 3)
    ),
    "attention": Attention,
    "recurrent": Recurrent,
    "one number": OneNumber,
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_slopes_of_any_module(make):
    torch.manual_seed(0)
    module = make().double().eval()
    of = segments(module, n=2, shape=(5, 4))
    t = torch.tensor([[0.21, 0.5], [0.73, 0.9]], dtype=torch.float64)
    found = of.slopes(torch.tensor([0, 1]), t)
    first = Segments(lambda X: _quadrature.output_matrix(module(X)), of.X, of.pairs)
    expected = [[slope(first, pair, x) for x in row] for pair, row in enumerate(t)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    assert not found.requires_grad
