"""Both implementations against the loop over samples, on nets drawn at random."""

from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sklearn_mgs.gram import gram_matrix, gram_trace, mgs_metric, resolve_implementation
from tests.oracles import gradients, loop_gram, relative_error

ACTIVATIONS = {"identity": nn.Identity, "logistic": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}
IMPLEMENTATIONS = ("jacobian", "layerwise", "matrix_free")
OUTPUTS = ("all", "target", "sum", "full")
LAYERS = ("all", "hidden", "first", "balanced")


@st.composite
def problems(draw):
    """A network in float64, samples (some of them repeated) and class indices."""
    widths = draw(st.lists(st.integers(1, 17), min_size=1, max_size=5))
    widths.append(draw(st.integers(1, 5)))
    activation = ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]
    torch.manual_seed(draw(st.integers(0, 2**31)))
    modules = []
    for fan_in, fan_out in pairwise(widths):
        modules += [nn.Linear(fan_in, fan_out, bias=draw(st.booleans())), activation()]
    module = nn.Sequential(*modules[:-1]).double()
    n = draw(st.integers(1, 9))
    rows = draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n))
    X = torch.randn(n, widths[0], dtype=torch.float64)[rows]
    return module, X, torch.randint(0, max(2, widths[-1]), (n,))


def quick(test):
    return settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))(test)


@quick
@given(problems(), st.sampled_from(OUTPUTS), st.sampled_from(IMPLEMENTATIONS), st.data())
def test_kernel_trace_and_their_gradients_equal_the_loop(problem, outputs, implementation, data):
    module, X, targets = problem
    names = [name for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    layers = LAYERS if len(names) > 1 else ("all", "first", "balanced")
    options = {
        "outputs": outputs,
        "targets": targets,
        "layers": data.draw(st.sampled_from([*layers, {names[-1]: 2.0}])),
        "centered": data.draw(st.sampled_from([False, True, "class"])),
    }
    plain = {"outputs": outputs, "targets": targets}
    if options["layers"] == "balanced" and not loop_gram(module, X, **plain).any():
        with pytest.raises(ValueError, match="every layer's is zero or not finite"):
            gram_matrix(module, X, implementation=implementation, **options)
        return
    expected = loop_gram(module, X, **options)
    K = gram_matrix(module, X, implementation=implementation, **options)
    trace = gram_trace(module, X, implementation=implementation, **options)
    size = float(loop_gram(module, X, **{**options, "centered": False}).detach().norm())
    assert K.shape == expected.shape
    assert relative_error(K, expected, size) < 1e-9
    assert abs(float(trace.detach()) - float(expected.trace().detach())) <= 1e-9 * size
    # A jitter of the kernel's own size: the determinant of a singular kernel is not at issue.
    for metric in ("trace", "det"):
        got = gradients(mgs_metric(K, metric, jitter=1.0), module)
        want = gradients(mgs_metric(expected, metric, jitter=1.0), module)
        assert relative_error(got, want, size) < 1e-9
    got = gradients(trace, module)
    assert relative_error(got, gradients(expected.trace(), module), size) < 1e-9


@quick
@given(problems(), st.sampled_from(("jacobian", "layerwise")), st.integers(1, 4))
def test_properties(problem, implementation, chunk_size):
    module, X, _ = problem
    K = gram_matrix(module, X, implementation=implementation).detach()
    size = float(K.norm())
    assert torch.equal(K, K.T)
    assert float(torch.linalg.eigvalsh(K).min()) >= -1e-12 * size
    order = torch.randperm(len(X))
    permuted = gram_matrix(module, X[order], implementation=implementation)
    assert relative_error(permuted, K[order][:, order]) < 1e-12
    chunked = gram_matrix(module, X, implementation=implementation, chunk_size=chunk_size)
    assert relative_error(chunked, K) < 1e-12
    trace = gram_trace(module, X, implementation=implementation, chunk_size=chunk_size)
    assert float(trace.detach()) == pytest.approx(float(K.trace()), rel=1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("centered", [False, True, "class"])
def test_det_where_the_kernel_is_regular(implementation, centered):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    X, targets = torch.randn(6, 5).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    options = {"outputs": "target", "targets": targets, "centered": centered}
    K = gram_matrix(module, X, implementation=implementation, **options)
    expected = loop_gram(module, X, **options)
    for metric in ("det", "logdet", "effective_rank", "cosine"):
        value, want = (mgs_metric(k, metric, jitter=1e-3) for k in (K, expected))
        assert float(value.detach()) == pytest.approx(float(want.detach()), rel=1e-9)
        assert relative_error(gradients(value, module), gradients(want, module), 1e-3) < 1e-9


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_random_direction_is_one_for_all_samples_and_unbiased(implementation):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    X = torch.randn(5, 3).double()
    options = {"outputs": "random", "implementation": implementation}
    generator = torch.Generator().manual_seed(1)
    K = gram_matrix(module, X, generator=generator, chunk_size=2, **options)
    v = torch.randn(2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    full = loop_gram(module, X, outputs="full").detach()
    blocks = full.reshape(5, 2, 5, 2)
    assert relative_error(K, torch.einsum("icjd,c,d->ij", blocks, v, v)) < 1e-12
    draws = [gram_trace(module, X, generator=generator, **options).detach() for _ in range(100)]
    draws = torch.stack(draws)
    error = float(draws.std()) / len(draws) ** 0.5
    assert float(draws.mean()) == pytest.approx(float(full.trace()), abs=4 * error)


def test_frozen_parameters_take_no_part():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    module[0].weight.requires_grad_(False)
    module[2].bias.requires_grad_(False)
    X = torch.randn(5, 3).double()
    expected = loop_gram(module, X)
    for implementation in IMPLEMENTATIONS:
        assert (
            relative_error(gram_matrix(module, X, implementation=implementation), expected) < 1e-12
        )


def test_overwritten_outputs_are_seen_before_they_are():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    X = torch.randn(5, 3).double()
    K = gram_matrix(module, X, implementation="layerwise")
    assert relative_error(K, loop_gram(module, X)) < 1e-12


def test_without_gradients_the_kernel_is_a_constant():
    module, X = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)
    for implementation in IMPLEMENTATIONS:
        assert gram_matrix(module, X, implementation=implementation).requires_grad
        with torch.no_grad():
            assert not gram_matrix(module, X, implementation=implementation).requires_grad


def test_auto_says_what_it_chose():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    chosen = resolve_implementation(module, torch.ones(2, 3))
    assert chosen == ("layerwise", "rules cover 2 of 2 layers")
    assert resolve_implementation(module, torch.ones(2, 3), "jacobian")[0] == "jacobian"
