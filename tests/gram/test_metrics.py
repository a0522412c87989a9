"""Metrics of a kernel against their formulas."""

import math

import pytest
import torch

from sklearn_mgs.gram import METRICS, SIMILARITY_SIGN, mgs_metric

K = torch.tensor([[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]], dtype=torch.float64)


def test_values():
    values, jitter = torch.linalg.eigvalsh(K), 1e-3
    shifted = (values + jitter * 3.0).log().mean()
    p = values / values.sum()
    cosines = [1 / math.sqrt(12), 0.5 / math.sqrt(8), 0.2 / math.sqrt(6)]
    expected = {
        "trace": 3.0,
        "logdet": float(shifted),
        "det": float(shifted.exp()),
        "effective_rank": float((-(p * p.log()).sum()).exp()),
        "cosine": sum(cosines) / 3,
    }
    assert set(expected) == set(METRICS) == set(SIMILARITY_SIGN)
    for metric, value in expected.items():
        assert float(mgs_metric(K, metric, jitter=jitter)) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_gradient(metric):
    A = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    A.requires_grad_()
    assert torch.autograd.gradcheck(lambda A: mgs_metric(A @ A.T, metric, jitter=1e-2), A)


@pytest.mark.parametrize("metric", METRICS)
def test_leading_dimensions_are_separate_kernels(metric):
    stack = torch.stack([K, 2 * K]).expand(3, 2, 3, 3)
    values = mgs_metric(stack, metric)
    assert values.shape == (3, 2)
    for i, k in enumerate((K, 2 * K)):
        assert torch.allclose(values[:, i], mgs_metric(k, metric), rtol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_more_similar_gradients_move_it_as_the_sign_says(metric):
    apart, alike = torch.eye(4).double(), torch.full((4, 4), 0.9) + 0.1 * torch.eye(4)
    scale = 1.0 if metric != "trace" else 0.5  # the trace sees the scale alone
    change = mgs_metric(scale * alike.double(), metric) - mgs_metric(apart, metric)
    assert change * SIMILARITY_SIGN[metric] > 0


@pytest.mark.parametrize("metric", METRICS)
def test_zero_and_low_rank_kernels_have_finite_gradients(metric):
    for rank in (0, 1):
        G = torch.ones(4, 2) * rank
        G.requires_grad_()
        value = mgs_metric(G @ G.T, metric)
        (gradient,) = torch.autograd.grad(value, G)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_scale_moves_trace_and_det_but_not_rank_and_cosine():
    for metric in METRICS:
        ratio = float(mgs_metric(4 * K, metric) / mgs_metric(K, metric))
        expected = {"trace": 4.0, "det": 4.0, "effective_rank": 1.0, "cosine": 1.0}.get(metric)
        if expected is not None:
            assert ratio == pytest.approx(expected, rel=1e-12)
    shift = mgs_metric(4 * K, "logdet") - mgs_metric(K, "logdet")
    assert float(shift) == pytest.approx(math.log(4), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype):
    assert mgs_metric(K.to(dtype), "det").dtype == torch.float32


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("entry", [math.nan, math.inf])
def test_a_kernel_that_overflowed_has_no_metric_but_others_beside_it_have(metric, entry):
    overflowed = K.clone()
    overflowed[1, 1] = entry
    value, other = mgs_metric(torch.stack([overflowed, K]), metric)
    assert not value.isfinite()
    assert other == mgs_metric(K, metric)


def test_messages():
    with pytest.raises(ValueError, match=r"Unknown metric 'rank'.*'effective_rank'"):
        mgs_metric(K, "rank")
    with pytest.raises(ValueError, match=r"square kernel; got shape \(2, 3\)"):
        mgs_metric(K[:2])
    with pytest.raises(ValueError, match=r"jitter must be 0 or more, got -1"):
        mgs_metric(K, "det", jitter=-1)
    with pytest.raises(TypeError, match=r"K must be a torch.Tensor of .*; got ndarray.*as_tensor"):
        mgs_metric(K.numpy())
    with pytest.raises(TypeError, match=r"floating point; got torch.int64.*K.double"):
        mgs_metric(K.long())
