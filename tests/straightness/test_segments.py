"""The exact walk: closed forms, an independent search for kinks, invariances."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_mgs.straightness import _segments
from sklearn_mgs.straightness._segments import paths


def dense(*weights_and_biases, activation=nn.ReLU):
    """Layers of a net with these weights and biases, in float64."""
    layers = []
    for weight, bias in weights_and_biases:
        weight = torch.tensor(weight, dtype=torch.float64)
        linear = nn.Linear(*reversed(weight.shape), dtype=torch.float64)
        linear.weight.data, linear.bias.data = weight, torch.tensor(bias, dtype=torch.float64)
        layers += [linear, activation()]
    return layers[:-1]


def segment_statistics(layers, X, pairs):
    return _segments.segment_statistics(nn.Sequential(*layers), X, pairs)


def has_kinks(layer):
    return isinstance(layer, nn.ReLU | nn.LeakyReLU) and getattr(layer, "negative_slope", 0) != 1


def on_interval(layers, start, end):
    """Deflection², gap², chord² and kinks of a net of one input, as Python numbers."""
    X = torch.tensor([[start], [end]], dtype=torch.float64)
    found = segment_statistics(layers, X, torch.tensor([[0, 1]]))
    return tuple(x.item() for x in found)


def leaky():
    return nn.LeakyReLU(0.5)


HAT = ([[1.0], [-1.0]], [0.0, 0.0]), ([[-1.0, -1.0]], [1.0]), ([[1.0]], [0.0])

CLOSED_FORMS = {
    # f = 2 relu(x - 1/4): slopes 0 on a quarter, 2 on the rest; chord 1.5
    "one unit": (dense(([[1.0]], [-0.25]), ([[2.0]], [0.0])), (0, 1), (0.75, 4.0, 2.25, 1)),
    # the same with slope 1 on the quarter: chord 1.75
    "leaky unit": (
        dense(([[1.0]], [-0.25]), ([[2.0]], [0.0]), activation=leaky),
        (0, 1),
        (0.25 * 0.75**2 + 0.75 * 0.25**2, 1.0, 1.75**2, 1),
    ),
    # |x| from two units that change at one point: g = -2, then 2
    "two units at one point": (
        dense(([[1.0], [-1.0]], [0.0, 0.0]), ([[1.0, 1.0]], [0.0])),
        (-1, 1),
        (4.0, 16.0, 0.0, 1),
    ),
    # relu(1 - |x|) on [-2, 2]: g = 0, 4, -4, 0 on quarters; two kinks in the second layer
    "hat": (dense(*HAT), (-2, 2), (8.0, (16 + 64 + 16) / 3, 0.0, 3)),
    # two outputs, relu(x) and 3 relu(x): means over the outputs
    "two outputs": (
        dense(([[1.0]], [0.0]), ([[1.0], [3.0]], [0.0, 7.0])),
        (-1, 1),
        (5.0, 20.0, 5.0, 1),
    ),
    # relu(x) + 0 relu(x - 1/2): the second unit has no effect, and counts
    "unit without effect": (
        dense(([[1.0], [1.0]], [0.0, -0.5]), ([[1.0, 0.0]], [0.0])),
        (-1, 1),
        (1.0, 2.0, 1.0, 2),
    ),
    # the unit changes sign at the very start
    "kink at an end": (dense(([[1.0]], [0.0]), ([[2.0]], [0.0])), (0, 1), (0.0, 0.0, 4.0, 0)),
    "equal ends": (dense(*HAT), (0.3, 0.3), (0.0, 0.0, 0.0, 0)),
}


@pytest.mark.parametrize(("layers", "ends", "expected"), CLOSED_FORMS.values(), ids=CLOSED_FORMS)
def test_closed_forms(layers, ends, expected):
    assert on_interval(layers, *ends) == pytest.approx(expected, rel=1e-14, abs=1e-14)


def test_rounding_does_not_tell_apart_units_that_change_at_one_point():
    w = np.random.default_rng(0).uniform(0.1, 10, (40, 1))
    layers = dense((w, (-w[:, 0] / 3)), (np.ones((1, 40)), [0.0]))
    assert on_interval(layers, -1, 1)[3] == 1


def test_rounding_makes_no_kink_where_a_layer_without_bias_is_fed_nothing():
    # Between the two kinks of the first layer both units are off, and the second layer gets
    # zeros. Rounding errors at the two kinks would have different signs there.
    rng = np.random.default_rng(0)
    for _ in range(100):
        w, v, c, d = rng.uniform(0.1, 10, 4)
        first = ([[-w], [v]], [w * c, -v * (c + d)])
        layers = dense(first, ([[1.0, -1.0]], [0.0]), ([[1.0]], [0.0]))
        assert on_interval(layers, c - 2.0, c + d + 3.0)[3] == 2


# ---------------------------------------------------------------- against a search by bisection


def random_net(seed, widths, activation=nn.ReLU, bias=True):
    torch.manual_seed(seed)
    layers = []
    for fan_in, fan_out in pairwise(widths):
        linear = nn.Linear(fan_in, fan_out, bias, dtype=torch.float64)
        linear.weight.data *= 2.0  # or units of deep layers hardly change sign
        layers += [linear, activation()]
    return layers[:-1]


def kinks_by_bisection(layers, x_a, x_b, n_grid=4000):
    """All t at which an activation's input changes sign: a fine grid, then bisection."""

    def signs(t):
        z, found = torch.lerp(x_a, x_b, t[:, None]), []
        for layer in layers:
            if has_kinks(layer):
                found.append(z > 0)
            z = layer(z)
        return torch.cat(found, 1)

    grid = torch.linspace(0, 1, n_grid + 1, dtype=torch.float64)
    on_grid = signs(grid)
    piece, unit = (on_grid[1:] != on_grid[:-1]).nonzero(as_tuple=True)
    low, high, at_low = grid[piece].clone(), grid[piece + 1].clone(), on_grid[piece, unit]
    rows = torch.arange(len(piece))
    for _ in range(60):
        middle = (low + high) / 2
        same = signs(middle)[rows, unit] == at_low
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return low.sort().values


def by_definition(layers, x_a, x_b):
    """Deflection², gap², chord² and kinks from the kinks and the slopes between them."""
    net = nn.Sequential(*layers)
    kinks = kinks_by_bisection(layers, x_a, x_b)
    knots = torch.cat([torch.zeros(1), kinks, torch.ones(1)]).double()
    quarters = knots[:-1, None] + knots.diff()[:, None] * torch.tensor([0.25, 0.75])
    values = net(torch.lerp(x_a, x_b, quarters.flatten()[:, None])).unflatten(0, (-1, 2))
    slopes = 2 * values.diff(dim=1)[:, 0] / knots.diff()[:, None]
    chord = net(x_b) - net(x_a)
    deflection = ((slopes - chord).square().mean(1) * knots.diff()).sum()
    gap = slopes.diff(dim=0).square().mean(1).mean() if len(kinks) else torch.zeros(())
    return deflection.item(), gap.item(), chord.square().mean().item(), len(kinks)


NETS = {
    "relu": random_net(0, (3, 12, 10, 2)),
    "leaky": random_net(1, (3, 12, 10, 2), leaky),
    "no bias": random_net(2, (3, 12, 10, 2), bias=False),
    "deep and narrow": random_net(3, (2, 5, 5, 5, 5, 1)),
    "one layer": random_net(4, (4, 30, 3)),
    "ends in relu": [*random_net(5, (3, 8, 8)), nn.ReLU()],
    "begins with relu": [nn.ReLU(), *random_net(6, (3, 8, 2))],
}


@pytest.mark.parametrize("layers", NETS.values(), ids=NETS)
def test_walk_finds_what_bisection_finds(layers):
    n_inputs = next(x for x in layers if isinstance(x, nn.Linear)).in_features
    X = 2 * torch.randn(8, n_inputs, dtype=torch.float64, generator=torch.manual_seed(7))
    pairs = torch.arange(8).view(4, 2)
    found = segment_statistics(layers, X, pairs)
    with torch.no_grad():
        expected = [by_definition(layers, X[a], X[b]) for a, b in pairs]
    assert found.kinks.sum() > 4
    np.testing.assert_allclose(np.transpose(found), expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("layers", NETS.values(), ids=NETS)
def test_values_at_the_knots_are_the_outputs(layers):
    n_inputs = next(x for x in layers if isinstance(x, nn.Linear)).in_features
    ends = 2 * torch.randn(3, 2, n_inputs, dtype=torch.float64, generator=torch.manual_seed(7))
    net = nn.Sequential(*layers)
    (path, n), *_ = paths(net, ends.flatten(0, 1), torch.arange(6).view(3, 2))
    assert n == 3
    assert (path.segment.diff() >= 0).all()
    assert (path.t.diff()[path.segment.diff() == 0] > 0).all()
    points = torch.lerp(ends[path.segment, 0], ends[path.segment, 1], path.t[:, None])
    torch.testing.assert_close(path.values, net(points), rtol=1e-12, atol=1e-13)


# ------------------------------------------------------------------------------- properties

PAIRS = torch.arange(20).view(10, 2)


@pytest.fixture
def net():
    return random_net(8, (3, 12, 10, 2))


@pytest.fixture
def X():
    return 2 * torch.randn(20, 3, dtype=torch.float64, generator=torch.manual_seed(9))


def assert_same(found, expected):
    for name, x, y in zip(found._fields, found, expected):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-14, msg=lambda m, n=name: f"{n}: {m}")


def test_swapping_the_ends_changes_nothing(net, X):
    assert_same(segment_statistics(net, X, PAIRS.flip(1)), segment_statistics(net, X, PAIRS))


def test_rescaling_between_relu_layers_changes_nothing(net, X):
    before = segment_statistics(net, X, PAIRS)
    scale = torch.rand(12, dtype=torch.float64) + 0.1
    with torch.no_grad():
        net[0].weight *= scale[:, None]
        net[0].bias *= scale
        net[2].weight /= scale
    assert_same(segment_statistics(net, X, PAIRS), before)


def test_permuting_hidden_units_changes_nothing(net, X):
    before = segment_statistics(net, X, PAIRS)
    order = torch.randperm(12)
    with torch.no_grad():
        net[0].weight.copy_(net[0].weight[order])
        net[0].bias.copy_(net[0].bias[order])
        net[2].weight.copy_(net[2].weight[:, order])
    assert_same(segment_statistics(net, X, PAIRS), before)


def test_units_with_random_signs_add_up(X):
    """So with one hidden layer, deflection and chords grow alike with the width, on average."""
    hidden = nn.Linear(3, 6, dtype=torch.float64)
    signs = torch.cartesian_prod(*6 * [torch.tensor([-1.0, 1.0], dtype=torch.float64)])
    outputs = nn.Linear(6, 64, False, dtype=torch.float64)  # one for each choice of signs
    outputs.weight.data = signs
    found = segment_statistics([hidden, nn.ReLU(), outputs], X, PAIRS)
    units = []
    for w, b in zip(hidden.weight.tolist(), hidden.bias.tolist()):
        units.append(segment_statistics(dense(([w], [b]), ([[1.0]], [0.0])), X, PAIRS))
    for name in ("deflection", "chord"):
        alone = torch.stack([getattr(unit, name) for unit in units])
        torch.testing.assert_close(getattr(found, name), alone.sum(0), rtol=1e-12, atol=1e-14)


def test_adding_a_linear_function_moves_the_chord_only(X):
    # relu(x) - relu(-x) = x, so two more units make any linear function.
    layers = dense(([[1.0, 2.0, -1.0]], [0.1]), ([[1.5]], [0.0]))
    more = dense(
        ([[1.0, 2.0, -1.0], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], [0.1, 0.0, 0.0]),
        ([[1.5, 4.0, -4.0]], [0.0]),
    )
    before, after = (segment_statistics(n, X, PAIRS) for n in (layers, more))
    torch.testing.assert_close(after.deflection, before.deflection, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(after.chord, before.chord)


@pytest.mark.parametrize(
    "activation", [nn.Identity, lambda: nn.LeakyReLU(1.0), lambda: nn.Dropout(0.5)]
)
def test_linear_nets_are_straight(activation, X):
    layers = nn.Sequential(*random_net(10, (3, 12, 10, 2), activation)).eval()
    found = segment_statistics(list(layers), X, PAIRS)
    assert found.chord.min() > 0
    assert (found.kinks == 0).all()
    assert (found.gap == 0).all()
    assert found.deflection.max() < 1e-28 * found.chord.max()


def test_batch_norm_and_flatten_are_walked(X):
    norm = nn.BatchNorm1d(12, dtype=torch.float64)
    norm(torch.randn(30, 12, dtype=torch.float64) * 3 + 1)
    first, relu, second = random_net(11, (3, 12, 2))
    layers = [nn.Flatten(), first, norm.eval(), relu, second]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded = random_net(11, (3, 12, 2))
    with torch.no_grad():
        folded[0].weight *= scale[:, None]
        folded[0].bias.copy_((first.bias - norm.running_mean) * scale + norm.bias)
    found = segment_statistics(layers, X.view(20, 3, 1), PAIRS)
    assert_same(found, segment_statistics(folded, X, PAIRS))


def dense_twin(layer, shape):
    """The affine layer as a dense one, on flat samples of this shape; and the output's shape."""
    with torch.no_grad():
        basis = torch.eye(int(np.prod(shape)), dtype=torch.float64).unflatten(1, shape)
        bias = layer(0 * basis[:1])
        twin = nn.Linear(bias.numel(), len(basis), dtype=torch.float64)
        twin.weight.data = (layer(basis) - bias).flatten(1).T.contiguous()
        twin.bias.data = bias.flatten()
    return twin, bias.shape[1:]


def trained_norm(norm, shape):
    norm = norm.double()
    norm(torch.randn(30, *shape, dtype=torch.float64) * 3 + 1)
    return norm.eval()


CONVOLUTIONAL = {
    "1d": ((2, 6), lambda: [nn.Conv1d(2, 3, 3), nn.ReLU(), nn.AvgPool1d(2)]),
    "2d": ((1, 4, 3), lambda: [nn.Conv2d(1, 4, 2, padding=1), nn.ReLU(), nn.AvgPool2d(2)]),
    "3d": ((1, 2, 3, 2), lambda: [nn.Conv3d(1, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool3d(1)]),
    "deep": (
        (1, 4, 3),
        lambda: [
            *(nn.Conv2d(1, 4, 2, stride=2, padding=1), nn.ReLU(), nn.Dropout2d().eval()),
            *(nn.Conv2d(4, 6, 2, groups=2, bias=False), nn.LeakyReLU(0.2)),
            trained_norm(nn.BatchNorm2d(6), (6, 2, 1)),
            nn.AdaptiveAvgPool2d(1),
        ],
    ),
    "circular": (
        (1, 4, 3),
        lambda: [nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"), nn.ReLU()],
    ),
}


@pytest.mark.parametrize(("shape", "layers"), CONVOLUTIONAL.values(), ids=CONVOLUTIONAL)
def test_convolutional_nets_are_walked(shape, layers):
    X = 2 * torch.randn(20, 12, dtype=torch.float64, generator=torch.manual_seed(0))
    layers = [layer.double() for layer in layers()]
    dense, at = [], shape
    for layer in layers:
        twin = layer
        if not has_kinks(layer):
            twin, at = dense_twin(layer, at)
        dense.append(twin)
    last = [nn.Linear(int(np.prod(at)), 2, dtype=torch.float64)]
    found = segment_statistics([nn.Unflatten(1, shape), *layers, nn.Flatten(), *last], X, PAIRS)
    assert found.kinks.min() > 0
    assert_same(found, segment_statistics(dense + last, X, PAIRS))


def test_chunks_do_not_matter(net, X, monkeypatch):
    together = segment_statistics(net, X, PAIRS)
    monkeypatch.setattr(_segments, "CHUNK_NUMBERS", 1)
    assert_same(segment_statistics(net, X, PAIRS), together)


def test_float32_nets_are_walked_in_float64_and_left_alone(net, X):
    single = nn.Sequential(*net).float()
    found = segment_statistics(single, X.float(), PAIRS)
    assert single[0].weight.dtype == torch.float32
    assert found.deflection.dtype == torch.float64
    assert_same(found, segment_statistics(single.double(), X.float().double(), PAIRS))
