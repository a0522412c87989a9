"""L1's proximal step against its definition, and what must not be lost in it: NaN."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sklearn_mgs import MLPClassifier, _proximal
from sklearn_mgs._proximal import soft_threshold_

LIMITS = [2.0**-10, 0.25, 0.5, 1024.0]
PRECISIONS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=["one pass", "clamp"], autouse=True)
def passes(request, monkeypatch):
    """As with today's torch, and as with one whose soft threshold loses NaN."""
    if request.param == "clamp":
        monkeypatch.setattr(_proximal, "ONE_PASS", False)


def weights(precision):
    """Some beyond a limit of ¼ or ½, some at it and some below, more than a vector unit holds."""
    w = torch.tensor([0.5, -0.5, 0.25, -0.25, 3.0, -3.0, 1e-3, -1e-3, 0.0, -0.0, 0.3, -0.7, 40.0])
    return w.repeat(13).view(13, 13).to(precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_it_is_what_is_left_of_the_weights_beyond_the_limit(precision, limit, kind):
    w = weights(precision)
    want = w - w.clamp(-limit, limit)
    got = w.clone()
    soft_threshold_(got, kind(limit))
    assert torch.equal(got, want)
    assert torch.equal(got == 0, w.abs() <= torch.tensor(limit, dtype=precision))


def test_weights_of_any_layout():
    w = weights(torch.float64)
    want = w - w.clamp(-0.25, 0.25)
    turned = w.T.contiguous().T
    soft_threshold_(turned, 0.25)
    assert torch.equal(turned, want)
    every_other = w.repeat(1, 2)[:, ::2]
    want = every_other - every_other.clamp(-0.25, 0.25)
    soft_threshold_(every_other, 0.25)
    assert torch.equal(every_other, want)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("limit", [0.0, 0.25, torch.tensor(0.25)])
@pytest.mark.parametrize("n", [1, 7, 200])
def test_nan_stays_nan(precision, limit, n):
    w = torch.full((n,), math.nan, dtype=precision)
    soft_threshold_(w, limit)
    assert w.isnan().all()


def test_limits_that_are_no_numbers():
    w = weights(torch.float64)
    soft_threshold_(w, math.inf)
    assert not w.any()
    soft_threshold_(w, math.nan)
    assert w.isnan().all()


def test_no_limit_changes_nothing():
    w = weights(torch.float64)
    before = w.clone()
    soft_threshold_(w, 0.0)
    assert torch.equal(w, before)


def test_a_torch_that_loses_nan_is_noticed(monkeypatch):
    shrink = F.softshrink
    assert _proximal._one_pass_keeps_nan() == bool(
        shrink(torch.full((9,), math.nan)).isnan().all()
    )
    monkeypatch.setattr(F, "softshrink", lambda x, limit: shrink(x, limit).nan_to_num())
    assert not _proximal._one_pass_keeps_nan()


@pytest.mark.parametrize("gate", [{}, {"coherence": "total"}, {"coherence": "trend"}])
def test_weights_that_overflow_are_noticed(gate):
    """L1 must not turn them into zeros."""
    X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    gate = gate | {"coherence_threshold": -1.0} if gate else {}
    clf = MLPClassifier((4,), solver="sgd", l1=0.1, max_iter=20, learning_rate_init=1e38, **gate)
    with pytest.raises(ValueError, match="non-finite parameter weights or losses"):
        clf.fit(X, X[:, 0] > 0)
