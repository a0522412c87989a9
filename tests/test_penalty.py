"""The penalty of a training step against the loop over samples."""

import copy
import pickle

import pytest
import torch
from torch import nn

from sklearn_mgs.gram import mgs_metric
from sklearn_mgs.penalty import MGSPenalty
from tests.cases import Cramped
from tests.oracles import gradients, loop_gram, loop_penalty, relative_error

N, FEATURES, CLASSES = 7, 5, 3


@pytest.fixture
def problem():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, CLASSES)
    )
    X = torch.randn(N, FEATURES, dtype=torch.float64)
    return module.double(), X, torch.tensor([0, 1, 2, 0, 1, 2, 0])


def step(penalty, module, X, targets, **options):
    with penalty.record(module) as tape:
        output = module(X)
    return penalty(tape, output, targets, **options)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("relative", [False, True], ids=["", "relative"])
@pytest.mark.parametrize("centered", [False, True, "class"])
@pytest.mark.parametrize("layers", ["all", "hidden", "first", "balanced"])
@pytest.mark.parametrize("outputs", ["all", "target", "sum"])
@pytest.mark.parametrize("metric", ["trace", "det"])
def test_value_and_gradient_equal_the_loop(
    problem, metric, outputs, layers, centered, relative, weighted
):
    module, X, targets = problem
    fraction = 0.5 if metric == "trace" else 1.0
    w = fraction * torch.tensor([1.0, 2.0, 3.0, 1.0, 0.0, 1.0, 2.0]).double() if weighted else None
    options = {"outputs": outputs, "relative": relative, "centered": centered, "jitter": 1e-2}
    penalty = MGSPenalty(metric, layers=layers, **options).calibrate(module, X, targets, w)
    assert float(step(penalty, module, X, targets, sample_weight=w).detach()) == pytest.approx(1)
    with torch.no_grad():  # the scale and the weights of layers stay as calibrated
        for p in module.parameters():
            p.mul_(1.3)
    options.update(weights=penalty.layer_weights_, targets=targets, w=w)
    got = step(penalty, module, X, targets, sample_weight=w)
    want = loop_penalty(module, X, metric, **options) / penalty.scale_
    assert float(got.detach()) == pytest.approx(float(want.detach()), rel=1e-11)
    assert relative_error(gradients(got, module), gradients(want, module)) < 1e-9


@pytest.mark.parametrize("shares", [(3 / 7, 4 / 7), (0.5, 0.5)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("centered", [False, True, "class"])
@pytest.mark.parametrize(("metric", "together"), [("trace", 0), ("trace", 7), ("det", 7)])
def test_halves_are_mini_batches_of_their_own(
    problem, metric, together, centered, weighted, shares, monkeypatch
):
    monkeypatch.setattr("sklearn_mgs.penalty._TOGETHER", together)
    module, X, targets = problem
    targets = targets % 2
    options = {"outputs": "target", "centered": centered, "jitter": 1e-2}
    penalty = MGSPenalty(metric, layers="balanced", **options).calibrate(module, X, targets)
    options |= {"weights": penalty.layer_weights_}
    w = torch.tensor([1.0, 2.0, 3.0, 1.0, 1.0, 0.0, 2.0]).double() if weighted else None
    got = step(penalty, module, X, targets, sample_weight=w, shares=shares)
    want = 0
    for share, part in zip(shares, (slice(0, 3), slice(3, 7))):
        samples = {"targets": targets[part], "w": None if w is None else w[part]}
        want += share * loop_penalty(module, X[part], metric, **options, **samples)
    want = want / penalty.scale_
    assert float(got.detach()) == pytest.approx(float(want.detach()), rel=1e-11)
    assert relative_error(gradients(got, module), gradients(want, module)) < 1e-9


def test_halves_draw_directions_of_their_own(problem):
    module, X, _ = problem
    penalty = MGSPenalty("det", outputs="random").calibrate(module, X)
    generator = torch.Generator().manual_seed(3)
    got = step(penalty, module, X, None, generator=generator, shares=(0.5, 0.5))
    generator.manual_seed(3)
    halves = [step(penalty, module, part, None, generator=generator) for part in (X[:3], X[3:])]
    assert float(got.detach()) == pytest.approx(float(sum(halves).detach()) / 2, rel=1e-11)


def test_balanced_weights_are_the_layers_own_traces(problem):
    module, X, _ = problem
    penalty = MGSPenalty(layers="balanced").calibrate(module, X)
    assert float(penalty.scale_) == pytest.approx(1)
    for name, weight in penalty.layer_weights_.items():
        own = mgs_metric(loop_gram(module, X, layers={name: 1.0}))
        assert weight * float(own.detach()) == pytest.approx(1 / 3)


def test_relative_gradients_are_those_of_a_map_in_front_of_each_layer(problem):
    module, X, _ = problem
    penalty = MGSPenalty("trace", relative=True).calibrate(module, X)
    linears = [m for m in module if isinstance(m, nn.Linear)]
    maps = [nn.Linear(m.in_features, m.in_features).double() for m in linears]
    for m in maps:
        nn.init.eye_(m.weight)
        nn.init.zeros_(m.bias)
    layers = [
        layer for m in module for layer in ([maps[linears.index(m)], m] if m in linears else [m])
    ]
    mapped = nn.Sequential(*layers).requires_grad_(False)
    for m in maps:
        m.requires_grad_()
    names = [name for name, m in mapped.named_modules() if m in maps]
    sizes = {name: m.in_features for name, m in zip(names, maps)}
    want = mgs_metric(loop_gram(mapped, X, layers=sizes))
    assert float(penalty.scale_) == pytest.approx(float(want.detach()), rel=1e-12)


def test_relative_gradients_of_a_convolution():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2), nn.LayerNorm(2)
    ).double()
    X = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    penalty = MGSPenalty("trace", relative=True).calibrate(module, X)
    J = torch.func.vmap(
        torch.func.jacrev(lambda p, x: torch.func.functional_call(module, p, x[None])[0]),
        (None, 0),
    )
    J = {name: g.flatten(0, 1) for name, g in J(dict(module.named_parameters()), X).items()}
    want = 0.0
    for name in ("0", "3"):
        W = module.get_submodule(name).weight.flatten(1)
        dW = J[f"{name}.weight"].flatten(2)
        db = J[f"{name}.bias"] @ W
        want += W.shape[1] * ((W.T @ dW).square().sum() + db.square().sum()).item() / 4
    assert float(penalty.scale_) == pytest.approx(want, rel=1e-12)


def test_relative_gradients_ignore_how_layers_share_the_scale(problem):
    module, X, _ = problem
    module = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES)).double()
    penalties = [
        MGSPenalty(layers="first", relative=r).calibrate(module, X) for r in (False, True)
    ]
    f = module(X)
    with torch.no_grad():  # the same function
        for p in module[0].parameters():
            p.mul_(10)
        module[2].weight.div_(10)
    torch.testing.assert_close(module(X), f)
    plain, relative = (float(step(p, module, X, None).detach()) for p in penalties)
    assert relative == pytest.approx(1, rel=1e-12)
    assert plain == pytest.approx(0.01, rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"metric": "det"}, {"centered": True}], ids=str)
def test_one_sample_makes_no_halves(problem, options):
    module, X, targets = problem
    penalty = MGSPenalty(outputs="target", **options).calibrate(module, X, targets)
    with pytest.raises(ValueError, match="two halves need 2 samples, got 1; leave shares out"):
        step(penalty, module, X[:1], targets[:1], shares=(0.5, 0.5))


def test_relative_shares_of_later_weights_ignore_the_scale_too():
    torch.manual_seed(0)
    layers = [nn.Linear(FEATURES, 8, bias=False), nn.ReLU(), nn.Linear(8, CLASSES, bias=False)]
    module, X = nn.Sequential(*layers).double(), torch.randn(N, FEATURES, dtype=torch.float64)
    penalty = MGSPenalty(relative=True).calibrate(module, X)
    with torch.no_grad():
        module[0].weight.mul_(10)
        module[2].weight.div_(10)
    assert float(step(penalty, module, X, None).detach()) == pytest.approx(1, rel=1e-12)


def test_no_layer_with_relative_gradients():
    module, X = nn.Sequential(nn.Flatten(), nn.LayerNorm(3)), torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"None of the layers .* has relative gradients"):
        MGSPenalty(relative=True).calibrate(module, X)


@pytest.mark.parametrize("centered", [False, True, "class"])
@pytest.mark.parametrize("metric", ["trace", "det"])
def test_integer_weights_repeat_samples(problem, metric, centered):
    module, X, targets = problem
    repeats = torch.tensor([1, 2, 3, 1, 0, 1, 2])
    penalty = MGSPenalty(metric, centered=centered).calibrate(module, X, targets)
    weighted = step(penalty, module, X, targets, sample_weight=repeats.double())
    rows = torch.arange(N).repeat_interleave(repeats)
    repeated = step(penalty, module, X[rows], targets[rows])
    assert float(weighted.detach()) == pytest.approx(float(repeated.detach()), rel=1e-9)


@pytest.mark.parametrize("metric", ["trace", "det"])
def test_unit_weights_equal_none(problem, metric):
    module, X, targets = problem
    penalty = MGSPenalty(metric).calibrate(module, X)
    values = [step(penalty, module, X, targets, sample_weight=w) for w in (None, X.new_ones(N))]
    assert float(values[0].detach()) == pytest.approx(float(values[1].detach()), rel=1e-12)


def test_random_direction_is_calibrated_by_its_expectation(problem):
    module, X, _ = problem
    penalty = MGSPenalty(outputs="random").calibrate(module, X)
    assert torch.equal(penalty.scale_, MGSPenalty(outputs="all").calibrate(module, X).scale_)
    draws = [
        step(penalty, module, X, None, generator=torch.Generator().manual_seed(seed)).detach()
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_single_output_is_the_logit_of_class_one():
    torch.manual_seed(0)
    module, X = nn.Linear(3, 1).double(), torch.randn(4, 3).double()
    targets = torch.tensor([0, 1, 1, 0])
    penalty = MGSPenalty(outputs="target", centered="class").calibrate(module, X, targets)
    sign = 2.0 * targets - 1
    G = sign[:, None] * torch.cat([X, X.new_ones(4, 1)], 1)
    spread = sum(((G[targets == c] - G[targets == c].mean(0)) ** 2).sum() for c in (0, 1)) / 4
    assert float(penalty.scale_) == pytest.approx(float(spread), rel=1e-12)


def test_one_backward_pass_serves_loss_and_penalty(problem):
    module, X, targets = problem
    penalty = MGSPenalty(outputs="target").calibrate(module, X, targets)
    with penalty.record(module) as tape:
        output = module(X)
    loss = nn.functional.cross_entropy(output, targets)
    (loss + 0.3 * penalty(tape, output, targets)).backward()
    got = torch.cat([p.grad.flatten() for p in module.parameters()])
    want = gradients(nn.functional.cross_entropy(module(X), targets), module)
    want = want + 0.3 * gradients(step(penalty, module, X, targets), module)
    assert relative_error(got, want) < 1e-12


def test_calibration_is_in_evaluation_mode_and_leaves_the_mode_and_the_randomness():
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    module[1].eval()
    module[0].train()
    state = torch.random.get_rng_state()
    scale = MGSPenalty().calibrate(module, torch.ones(5, 3)).scale_
    assert [m.training for m in module] == [True, False, True]
    assert torch.equal(state, torch.random.get_rng_state())
    assert float(scale) == pytest.approx(
        float(mgs_metric(loop_gram(module.eval(), torch.ones(5, 3))).detach()), rel=1e-5
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("centered", [False, True, "class"])
@pytest.mark.parametrize("metric", ["trace", "det"])
def test_calibration_halves_its_chunks_out_of_memory(metric, centered, weighted):
    torch.manual_seed(0)
    module = nn.Sequential(Cramped(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    roomy = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    roomy.load_state_dict(module.state_dict())
    X, targets = torch.randn(10, 4).double(), torch.arange(10) % 2
    w = torch.linspace(1, 2, 10).double() if weighted else None
    for layers in ("all", "balanced"):
        penalty = MGSPenalty(metric, centered=centered, layers=layers)
        scale, want = (float(penalty.calibrate(m, X, targets, w).scale_) for m in (module, roomy))
        assert scale == pytest.approx(want, rel=1e-10)


def test_dropout_masks_are_those_of_the_forward_pass():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Dropout(0.5), nn.Linear(9, 1)).double()
    X = torch.randn(4, 3).double()
    penalty = MGSPenalty().calibrate(module, X)
    with penalty.record(module) as tape:
        output = module(X)
    a, D = tape.calls[1][1].detach(), module[3].weight * 2
    hidden = torch.tanh(module[0](X))
    D = D * (a != 0) * (1 - hidden**2)
    want = ((X**2).sum(1) + 1) * (D**2).sum(1) + (a**2).sum(1) + 1
    value = penalty(tape, output) * penalty.scale_
    assert float(value.detach()) == pytest.approx(float(want.mean().detach()), rel=1e-12)


@pytest.mark.parametrize(
    "through", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_and_pickles_without_the_network(problem, through):
    module, X, targets = problem
    penalty = MGSPenalty("det", layers="balanced", outputs="target").calibrate(module, X, targets)
    value = step(penalty, module, X, targets)
    assert b"Linear" not in pickle.dumps(penalty)
    other = through(penalty)
    assert torch.equal(step(other, copy.deepcopy(module), X, targets), value)
    assert torch.equal(step(penalty, module, X, targets), value)


@pytest.mark.parametrize("rank", [2, 16])
@pytest.mark.parametrize("seed", range(3))
def test_det_of_a_singular_kernel_in_float32(rank, seed):
    """128 samples whose gradients span few dimensions: value and gradient stay right."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(rank, 3, bias=False), nn.Tanh(), nn.Linear(3, 1))
    X = torch.randn(128, rank)
    results = []
    for m, x in ((module, X), (copy.deepcopy(module).double(), X.double())):
        penalty = MGSPenalty("det").calibrate(m, x)
        value = step(penalty, m, x, None) * penalty.scale_
        results.append((float(value.detach()), gradients(value, m)))
    (value, gradient), (want, expected) = results
    assert value == pytest.approx(want, rel=1e-2)
    assert relative_error(gradient.double(), expected) < 0.1


def test_messages(problem):
    module, X, _ = problem
    with pytest.raises(ValueError, match=r"Unknown metric 'logdet'.*\['trace', 'det'\]"):
        MGSPenalty("logdet")
    with pytest.raises(ValueError, match=r"Unknown outputs 'full'"):
        MGSPenalty(outputs="full")
    with pytest.raises(ValueError, match=r"Unknown centered='classes'"):
        MGSPenalty(centered="classes")
    with pytest.raises(ValueError, match=r"calibrate\(module, X\)"):
        MGSPenalty()(None, X)
    with pytest.raises(ValueError, match=r"calibrate\(module, X\)"):
        MGSPenalty().record(module)
    with pytest.raises(ValueError, match=r"trace of the kernel at initialisation is 0\.0"):
        MGSPenalty(layers="first").calibrate(zero(module), X)
    with pytest.raises(ValueError, match=r"det of the kernel at initialisation is"):
        MGSPenalty("det", layers="first").calibrate(zero(module), X)
    with pytest.raises(ValueError, match="at initialisation is nan"):
        MGSPenalty().calibrate(module, X * torch.nan)


def zero(module):
    module = copy.deepcopy(module)
    nn.init.zeros_(module[4].weight)
    return module


def test_batch_statistics_are_refused_at_calibration_and_at_the_step():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    X = torch.randn(5, 3)
    with pytest.raises(ValueError, match="GroupNorm or LayerNorm"):
        MGSPenalty().calibrate(module, X)
    penalty = MGSPenalty().calibrate(module.eval(), X)
    with pytest.raises(ValueError, match="GroupNorm or LayerNorm"):
        penalty.record(module.train())


@pytest.mark.parametrize("centered", [True, "class"])
def test_det_of_gradients_that_are_all_but_their_mean(centered):
    """In float32 what centring leaves is rounding error: still a number, with a gradient."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    X = 1 + 1e-5 * torch.randn(64, 3)
    targets = torch.arange(64) % 2
    penalty = MGSPenalty("det", centered=centered).calibrate(module, X, targets)
    value = step(penalty, module, X, targets)
    assert value.isfinite()
    assert gradients(value, module).isfinite().all()
