"""The kernel without the matrix, against the matrix."""

import pytest
import torch
from torch import nn

from sklearn_mgs.gram import METRICS, GramOperator, gram_matrix, gram_trace, mgs_metric
from sklearn_mgs.gram._lanczos import _Lanczos, _t_quantile, spectral_sum
from tests.cases import MODULES, Cramped, build
from tests.oracles import gradients, relative_error

N = 40
TARGETS = torch.arange(N) % 3


@pytest.fixture
def problem():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return module, torch.randn(N, 5).double()


@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("centered", [False, True, "class"])
@pytest.mark.parametrize("outputs", ["all", "target", "full"])
def test_products_and_diagonal_equal_the_matrix(problem, outputs, centered, chunk_size):
    module, X = problem
    options = {"outputs": outputs, "centered": centered, "targets": TARGETS, "layers": "balanced"}
    K = gram_matrix(module, X, **options).detach()
    operator = GramOperator(module, X, chunk_size=chunk_size, **options)
    assert operator.shape == K.shape
    for v in (torch.randn(len(K)).double(), torch.randn(len(K), 3).double()):
        assert relative_error(operator @ v, K @ v) < 1e-12
    assert relative_error(operator.diagonal(), K.diagonal()) < 1e-12
    assert float(operator.trace()) == pytest.approx(float(K.trace()), rel=1e-12)
    assert relative_error(operator.to_dense(), K) < 1e-12
    for metric in ("trace", "cosine"):
        value, error = operator.metric(metric, return_error=True)
        assert float(value) == pytest.approx(float(mgs_metric(K, metric)), rel=1e-10)
        assert error == 0


@pytest.mark.parametrize("name", MODULES)
def test_any_module(name):
    module, X, _ = build(name)
    K = gram_matrix(module, X).detach()
    operator = GramOperator(module, X, chunk_size=3)
    v = torch.randn(4, 2).double()
    assert relative_error(operator @ v, K @ v) < 1e-10
    assert relative_error(operator.diagonal(), K.diagonal()) < 1e-10


@pytest.mark.parametrize("centered", [False, True, "class"])
def test_chunked_trace_is_differentiable(problem, centered):
    module, X = problem
    options = {"centered": centered, "targets": TARGETS}
    whole = gram_trace(module, X, **options)
    chunked = gram_trace(module, X, chunk_size=7, **options)
    assert relative_error(chunked, whole) < 1e-12
    assert relative_error(gradients(chunked, module), gradients(whole, module)) < 1e-9


def test_no_more_samples_at_once_than_a_chunk(problem):
    module, X = problem
    sizes = []
    module.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    operator = GramOperator(module, X, chunk_size=7)
    operator @ X[:, 0]
    operator.diagonal()
    gram_trace(module, X, chunk_size=7, layers="balanced").backward()
    gram_matrix(module, X, chunk_size=7, layers="balanced")
    assert max(sizes) == 7


@pytest.fixture
def cramped():
    torch.manual_seed(0)
    module = nn.Sequential(Cramped(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    return module, torch.randn(10, 4).double()


@pytest.mark.parametrize("layers", ["all", "balanced"])
@pytest.mark.parametrize("no_grad", [False, True])
def test_out_of_memory_halves_the_chunk(cramped, layers, no_grad):
    module, X = cramped
    K = gram_matrix(module, X, layers=layers, chunk_size=2)
    with torch.set_grad_enabled(not no_grad):
        assert relative_error(gram_matrix(module, X, layers=layers), K) < 1e-12
        trace = gram_trace(module, X, layers=layers, centered=True).detach()
    centred = gram_matrix(module, X, layers=layers, centered=True, chunk_size=2)
    assert float(trace) == pytest.approx(float(centred.trace().detach()))
    operator = GramOperator(module, X, layers=layers)
    assert relative_error(operator @ X, K @ X) < 1e-12
    assert operator.chunk_size == 3


def test_smaller_chunks_do_not_hold_all_factors(cramped):
    """What did not fit at first is made anew for each block."""
    module, X = cramped
    sizes = []
    module.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    with torch.no_grad():
        gram_matrix(module, X, chunk_size=3)
        assert sizes.count(3) == 3
        sizes.clear()
        gram_matrix(module, X)
    assert sizes.count(3) > 4


def test_out_of_memory_for_one_sample_is_an_error(problem):
    module, X = problem
    operator = GramOperator(module, X)

    def fail(module, args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    module.register_forward_pre_hook(fail)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
        operator.diagonal()
    assert operator.chunk_size == 1


@pytest.mark.parametrize("outputs", ["all", "sum"])  # regular, and singular
@pytest.mark.parametrize("metric", ["logdet", "det", "effective_rank"])
def test_estimates_hold(problem, metric, outputs):
    module, X = problem
    X = X if outputs == "all" else X[:, :1].expand_as(X)
    want = float(mgs_metric(gram_matrix(module, X, outputs=outputs).detach(), metric))
    operator = GramOperator(module, X, outputs=outputs)
    hits, errors = 0, []
    for seed in range(50):
        value, error = operator.metric(
            metric,
            n_probes=8,
            generator=torch.Generator().manual_seed(seed),
            return_error=True,
        )
        hits += abs(float(value) - want) <= float(error)
        errors.append(float(error))
    assert hits >= 48
    assert sum(errors) / 50 < {"logdet": 0.7, "det": 0.8 * want, "effective_rank": 0.5}[metric]


@pytest.mark.parametrize("metric", ["logdet", "det", "effective_rank"])
def test_of_few_rows_nothing_is_left_to_chance(problem, metric):
    module, X = problem
    for n in (1, 2, 31, 32):
        want = mgs_metric(gram_matrix(module, X[:n]).detach(), metric)
        value, error = GramOperator(module, X[:n]).metric(metric, return_error=True)
        assert abs(value - want) < 1e-8 * abs(want)
        assert error < 1e-6 * abs(want)


def test_logdet_is_a_sum_and_the_metric_a_mean(problem):
    operator = GramOperator(*problem)
    sums, means = (
        f(generator=torch.Generator().manual_seed(0), jitter=1e-2)
        for f in (operator.logdet, lambda **kw: operator.metric("logdet", **kw))
    )
    assert float(sums) == pytest.approx(N * float(means), rel=1e-12)


def test_all_lanczos_steps_are_exact_and_fewer_are_bounds():
    torch.manual_seed(0)
    G = torch.randn(12, 12).double()
    K = G @ G.T
    Z = torch.randn(12, 3).double()
    eigenvalues, vectors = torch.linalg.eigh(K)

    def log(x):
        return (x + 0.1).log()

    want = (log(eigenvalues)[:, None] * (vectors.T @ (Z / Z.norm(dim=0))) ** 2).sum(0)
    lanczos = _Lanczos(K.__matmul__, Z)
    end = torch.tensor(-1e-4).double()
    for _ in range(5):
        lanczos.step()
    assert (lanczos.quadrature(log) > want).all()
    assert (lanczos.quadrature(log, end) < want).all()
    for _ in range(9):  # two more than there are dimensions
        lanczos.step()
    assert torch.allclose(lanczos.quadrature(log), want, rtol=1e-10)


def test_quantiles():
    # Student's t, 99.5 %, by tables
    for freedom, quantile in {7: 3.4995, 15: 2.9467, 30: 2.7500}.items():
        assert _t_quantile(freedom) == pytest.approx(quantile, rel=2e-3)


def test_of_a_zero_matrix():
    estimate = spectral_sum(
        lambda V: 0 * V,
        torch.exp,
        9,
        end=torch.tensor(-1e-9).double(),
        n_probes=3,
        max_steps=9,
    )
    assert float(estimate.value) == pytest.approx(9)
    module = nn.Linear(2, 1).double()
    operator = GramOperator(module, torch.ones(4, 2).double(), centered=True)
    for metric in METRICS:
        of_matrix = mgs_metric(operator.to_dense(), metric)
        assert float(operator.metric(metric)) == pytest.approx(float(of_matrix), rel=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_of_one_sample(problem, metric):
    module, X = problem[0], problem[1][:1]
    of_matrix = float(mgs_metric(gram_matrix(module, X).detach(), metric))
    found = GramOperator(module, X).metric(metric)
    assert float(found) == pytest.approx(of_matrix, rel=1e-6, nan_ok=True)


def test_float32_products_and_double_spectra(problem):
    module, X = problem
    operator = GramOperator(module.float(), X.float())
    assert (operator @ X[:, 0].float()).dtype == torch.float32
    for metric in METRICS:
        assert operator.metric(metric).isfinite()


def test_messages(problem):
    operator = GramOperator(*problem)
    with pytest.raises(ValueError, match=r"shape \(40,\) or \(40, k\); got \(39,\)"):
        operator @ torch.ones(39)
    with pytest.raises(TypeError, match=r"Expected a torch.Tensor; got ndarray.*as_tensor"):
        operator @ torch.ones(40).numpy()
    with pytest.raises(ValueError, match=r"Unknown metric 'rank'"):
        operator.metric("rank")
    with pytest.raises(ValueError, match="jitter above 0"):
        operator.logdet(jitter=0)
    for options in ({"n_probes": 1}, {"max_steps": 0}):
        with pytest.raises(ValueError, match="n_probes of at least 2 and max_steps of at least 1"):
            operator.logdet(**options)
