"""The exact walk of modules however they are written."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sklearn_mgs.straightness import _segments
from sklearn_mgs.straightness._kinks import maximum_changes
from sklearn_mgs.straightness._operations import NotWalkable
from sklearn_mgs.straightness._segments import kink_counts, paths, segment_statistics
from tests.straightness.written import PAIRS, Written, X, chain, dense


def assert_same(found, expected):
    for name, x, y in zip(found._fields, found, expected):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-14, msg=lambda m, n=name: f"{n}: {m}")


# --------------------------------------------------------------------- spellings of one network


def sizes_read_before(m, X):
    n = X.shape[0]
    z = m.a(X).relu().view(n, 2, 4).reshape(n, -1)
    return m.c(m.b(z).relu().reshape(n, 8))


RELU = {
    "torch.relu": torch.relu,
    "F.relu": F.relu,
    "method": lambda x: x.relu(),
    "in place": lambda x: F.relu(x, inplace=True),
    "method in place": lambda x: x.relu_(),
    "clamp": lambda x: x.clamp(min=0),
    "clamp in place": lambda x: x.clamp_(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp by a tensor": lambda x: x.clamp(min=torch.zeros(8, dtype=x.dtype)),
    "maximum": lambda x: torch.maximum(x, torch.zeros((), dtype=x.dtype)),
    "max": lambda x: torch.max(torch.zeros_like(x), x),
    "minimum": lambda x: -torch.minimum(-x, torch.zeros_like(x)),
    "over a new dimension": lambda x: torch.stack([x, 0 * x], 2).amax(2),
    "with indices": lambda x: torch.stack([x, 0 * x], 2).max(2)[0],
    "abs": lambda x: (x + x.abs()) / 2,
    "leaky": lambda x: F.leaky_relu(x, 0.0),
    "prelu": lambda x: F.prelu(x, torch.zeros(1, dtype=x.dtype)),
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 1e9),
    "single precision": lambda x: x.float().relu(),
    "on data": lambda x: x.data.relu(),
    "compiled": torch.compile(torch.relu, backend="eager"),
}


@pytest.mark.parametrize("relu", RELU.values(), ids=RELU)
def test_spellings_of_relu(relu):
    expected = segment_statistics(chain(nn.ReLU()), X, PAIRS)
    assert expected.kinks.min() > 2
    assert_same(segment_statistics(chain(relu), X, PAIRS), expected)


LEAKY = {
    "function": lambda x: F.leaky_relu(x, 0.2),
    "in place": lambda x: F.leaky_relu_(x, 0.2),
    "maximum": lambda x: torch.maximum(x, 0.2 * x),
    "prelu": lambda x: F.prelu(x, torch.full((1,), 0.2, dtype=x.dtype)),
    "two branches": lambda x: F.relu(x) - 0.2 * F.relu(-x),
}


@pytest.mark.parametrize("leaky", LEAKY.values(), ids=LEAKY)
def test_spellings_of_leaky_relu(leaky):
    expected = segment_statistics(chain(nn.LeakyReLU(0.2)), X, PAIRS)
    assert_same(segment_statistics(chain(leaky), X, PAIRS), expected)


def test_sizes_that_are_read_before_knots_are_added():
    expected = segment_statistics(chain(nn.ReLU()), X, PAIRS)
    assert_same(segment_statistics(dense(sizes_read_before), X, PAIRS), expected)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: torch.compile(net, backend="eager"),
        lambda net: Written(lambda m, X: (m.net(X), X), net=net),
        lambda net: Written(lambda m, X: m.net(X)[:, :, None], net=net),
    ],
    ids=["compiled", "tuple", "three dimensions"],
)
def test_wrapped_modules(wrap):
    expected = segment_statistics(chain(nn.ReLU()), X, PAIRS)
    assert_same(segment_statistics(wrap(chain(F.relu)), X, PAIRS), expected)


# ------------------------------------------------- against differences on a fine grid in float64


def bends(net, a, b, n=40_001):
    """Knots and slopes of a piecewise-linear net from a to b, from its values alone.

    Cells of a fine grid with equal slopes are one piece; two pieces meet where their lines do.
    """
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    values = net(torch.lerp(a, b, t[:, None]))
    slopes = values.diff(dim=0) * (n - 1)
    scale = slopes.abs().max()
    same = (slopes.diff(dim=0).abs() < 1e-7 * scale).all(1)  # rounding: 1e-16 * 4e4
    runs, start = [], 0
    for end in [*(~same).nonzero()[:, 0].tolist(), n - 2]:
        if end > start:  # a cell that holds a kink is a run of one cell
            runs.append((start, end + 1))
        start = end + 1
    slope = torch.stack([(values[j] - values[i]) / (t[j] - t[i]) for i, j in runs])
    knots = [0.0]
    for (_, i), (j, _), left, right in zip(runs, runs[1:], slope, slope[1:]):
        k = (right - left).abs().argmax()
        gap = (values[j] - values[i] - left * (t[j] - t[i]))[k]
        knots.append((t[j] - gap / (right - left)[k]).item())
    return np.array([*knots, 1.0]), slope.numpy()


def in_place_residual(m, X):
    z = m.a(X)
    out = m.b(F.relu(z))
    out += z
    return m.c(F.relu(out, inplace=True))


def image(x):
    return x.view(len(x), 2, 2, 2)


WRITTEN = {
    "residual": lambda m, X: m.c(F.relu(m.a(X) + m.b(F.relu(m.a(X))))),
    "residual in place": in_place_residual,
    "branches": lambda m, X: m.c(m.a(X).relu() - m.b(m.a(X).relu()).relu()),
    "densely connected": lambda m, X: torch.cat([m.a(X).relu(), X, m.c(m.a(X)).relu()], 1),
    "used twice": lambda m, X: m.c(m.b(m.b(m.a(X).relu()).relu()).relu()),
    "maxout": lambda m, X: m.c(m.b(m.a(X)).view(-1, 4, 2).amax(2).repeat(1, 2)),
    "max-pooling": lambda m, X: F.max_pool2d(image(m.b(m.a(X).relu())), 2).flatten(1),
    "max-pooling then relu": lambda m, X: m.c(
        F.max_pool1d(m.a(X).view(-1, 2, 4), 2, 1, padding=1).flatten(1)[:, :8].relu()
    ),
    "relu then max-pooling": lambda m, X: m.c(
        F.max_pool1d(m.a(X).relu().unsqueeze(1), 3, stride=1, padding=1).squeeze(1)
    ),
    "adaptive max-pooling": lambda m, X: F.adaptive_max_pool2d(image(m.b(m.a(X))), 1).flatten(1),
    "median of three": lambda m, X: torch.minimum(
        torch.maximum(m.a(X), m.b(m.a(X))), m.a(X).flip(1)
    ),
    "clipped": lambda m, X: m.c(F.hardtanh(m.b(F.relu6(m.a(X))), -0.5, 0.25)),
    "hard sigmoid, shrink": lambda m, X: m.c(F.softshrink(m.b(F.hardsigmoid(3 * m.a(X))), 0.1)),
    "leaky": lambda m, X: m.c(F.leaky_relu(m.b(F.leaky_relu(m.a(X), 0.3)), 0.1)),
    "mixed over units": lambda m, X: m.c(
        torch.einsum("nij,jk->nik", image(m.a(X)).flatten(2).relu(), m.b.weight[:4, :4]).flatten(1)
    ),
}


@pytest.mark.parametrize("forward", WRITTEN.values(), ids=WRITTEN)
def test_written_nets_against_differences(forward):
    net = dense(forward)
    found = segment_statistics(net, X, PAIRS)
    for i, (path, n) in enumerate(p for pair in PAIRS for p in paths(net, X, pair[None])):
        a, b = X[PAIRS[i]]
        with torch.no_grad():
            knots, slopes = bends(net, a, b)
            chord = (net(b[None]) - net(a[None])).numpy()
        assert n == 1
        jumps = np.square(np.diff(slopes, axis=0)).mean(1)
        deflection = np.diff(knots) @ np.square(slopes - chord).mean(1)
        assert found.deflection[i].item() == pytest.approx(deflection, rel=1e-6)
        assert (found.gap * found.kinks)[i].item() == pytest.approx(jumps.sum(), rel=1e-6)
        assert found.chord[i].item() == pytest.approx(np.square(chord).mean(), rel=1e-9)
        t, values = path.t, path.values
        bent = (values.diff(dim=0) / t.diff()[:, None]).diff(dim=0).abs().amax(1)
        visible = t[1:-1][bent > 1e-6 * np.abs(slopes).max()]
        np.testing.assert_allclose(visible, knots[1:-1], atol=1e-8)
    assert found.kinks.sum() > 6


# ------------------------------------------------------------------------------------ max-pooling

POOLS = {
    "1d": (nn.MaxPool1d(2), (2, 6)),
    "1d overlapping": (nn.MaxPool1d(3, 1, padding=1), (1, 12)),
    "2d": (nn.MaxPool2d(2), (1, 4, 3)),
    "2d ceil": (nn.MaxPool2d(2, ceil_mode=True), (1, 3, 4)),
    "2d padded": (nn.MaxPool2d(3, 2, padding=1), (1, 4, 3)),
    "2d dilated": (nn.MaxPool2d((2, 1), 1, dilation=(2, 1)), (1, 4, 3)),
    "2d all": (nn.MaxPool2d((3, 2), (1, 2), (1, 0), (1, 1), True), (1, 4, 3)),
    "3d": (nn.MaxPool3d((1, 2, 2), 1), (1, 2, 3, 2)),
    "adaptive": (nn.AdaptiveMaxPool2d((2, 1)), (1, 4, 3)),
    "adaptive 1d": (nn.AdaptiveMaxPool1d(3), (2, 6)),
}


@pytest.mark.parametrize(("pool", "shape"), POOLS.values(), ids=POOLS)
def test_kinks_of_max_pooling_are_changes_of_its_indices(pool, shape):
    mixed = nn.Linear(4, 12).double()
    net = nn.Sequential(mixed, nn.Unflatten(1, shape), pool, nn.Flatten())
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
    pool.return_indices = True
    expected = []
    for a, b in PAIRS:
        _, indices = pool(mixed(torch.lerp(X[a], X[b], t)).unflatten(1, shape))
        expected.append((indices[1:] != indices[:-1]).flatten(1).any(1).sum())
    pool.return_indices = False
    assert sum(expected) > 3
    assert kink_counts(net, X, PAIRS).tolist() == expected


def test_adaptive_windows_that_overlap_are_refused():
    net = nn.Sequential(nn.Unflatten(1, (1, 4)), nn.AdaptiveMaxPool1d(3), nn.Flatten())
    with pytest.raises(NotWalkable, match="windows of its adaptive max-pooling overlap"):
        kink_counts(net, X, PAIRS)


@given(
    st.integers(1, 6).flatmap(
        lambda k: st.tuples(*2 * [st.lists(st.integers(-4, 4), min_size=k, max_size=k)])
    )
)
def test_maximum_changes_is_the_upper_envelope(ends):
    left, right = (np.array(x, dtype=float) for x in ends)
    windows = torch.tensor(np.stack([left, right]))[:, None]
    piece, fraction = maximum_changes(windows, torch.zeros(2, dtype=int), torch.tensor(1e-14))
    expected = []
    for i in range(len(left)):
        for j in range(i):
            slope = (right - left)[i] - (right - left)[j]
            s = (left[j] - left[i]) / slope if slope else -1.0
            at = left + s * (right - left)
            if 0 < s < 1 and at[i] > at.max() - 1e-12:
                expected.append(s)
    assert (piece == 0).all()
    inside = fraction[(fraction > 1e-12) & (fraction < 1 - 1e-12)]
    assert np.unique(inside.numpy().round(12)) == pytest.approx(np.unique(np.round(expected, 12)))


# ------------------------------------------------------------------------------------ properties


@pytest.mark.parametrize("name", ["residual", "branches", "relu then max-pooling", "clipped"])
def test_swapping_the_ends_changes_nothing(name):
    net = dense(WRITTEN[name])
    assert_same(segment_statistics(net, X, PAIRS.flip(1)), segment_statistics(net, X, PAIRS))


@given(st.lists(st.floats(-6, 6), min_size=8, max_size=8))
def test_rescaling_inside_a_residual_branch_changes_nothing(exponents):
    net = dense(lambda m, X: m.c(m.a(X).relu() + m.b(F.relu(m.a(X)))))
    scaled = dense(lambda m, X: m.c(m.a(X).relu() + m.b(F.relu(m.a(X) * m.s) / m.s)))
    scaled.s = 2.0 ** torch.tensor(exponents, dtype=torch.float64)
    assert_same(segment_statistics(scaled, X, PAIRS), segment_statistics(net, X, PAIRS))


LINEAR = {
    "sum of branches": lambda m, X: m.c(m.a(X) + 2 * m.b(m.a(X))),
    "scaled, shifted": lambda m, X: (m.c(m.b(m.a(X))) - 3) / 7,
    "leaky that is not": lambda m, X: m.c(F.leaky_relu(m.a(X), 1.0)),
    "dropout at rest": lambda m, X: m.c(F.dropout(m.a(X), training=False)),
    "constant": lambda m, X: 0 * m.c(m.a(X)),
}


@pytest.mark.parametrize("forward", LINEAR.values(), ids=LINEAR)
def test_linear_nets_are_straight(forward):
    found = segment_statistics(dense(forward), X, PAIRS)
    assert (found.kinks == 0).all()
    assert (found.gap == 0).all()
    assert (found.deflection <= 1e-28 * found.chord).all()


def test_entries_that_are_equal_up_to_rounding_make_no_kinks():
    net = dense(lambda m, X: m.c(torch.maximum(m.a(X), 0.3 * m.a(X) / 0.3)))
    at_knots = net.a(X)
    assert (at_knots != 0.3 * at_knots / 0.3).any()
    assert (kink_counts(net, X, PAIRS) == 0).all()


@pytest.mark.parametrize("numbers", [1000, 4000])
@pytest.mark.parametrize("name", ["residual", "max-pooling", "used twice"])
def test_chunks_and_parts_of_segments_do_not_matter(name, numbers, monkeypatch):
    net = dense(WRITTEN[name])
    together = segment_statistics(net, X, PAIRS)
    monkeypatch.setattr(_segments, "CHUNK_NUMBERS", numbers)
    assert_same(segment_statistics(net, X, PAIRS), together)


def test_kinks_of_all_units_in_the_middle(monkeypatch):
    monkeypatch.setattr(_segments, "CHUNK_NUMBERS", 16)
    net = dense(lambda m, X: m.c(m.a(X).relu()))
    net.a.bias.data.zero_()
    opposite = torch.stack([X[0], -X[0]])
    assert kink_counts(net, opposite, PAIRS[:1]).tolist() == [1]


def test_module_is_left_as_it_was():
    net = chain(F.relu).float()
    net.counter = 0

    def count(module, *args):
        module.counter += 1

    net.register_forward_hook(count)
    state = {name: x.clone() for name, x in net.state_dict().items()}
    kink_counts(net, X.float(), PAIRS)
    assert net.counter == 0
    for name, x in net.state_dict().items():
        assert x.dtype == torch.float32
        assert torch.equal(x, state[name])
