"""Metrics of the monitor against those of the torch core."""

import numpy as np
import pytest
import torch

from sklearn_mgs._kernel_metrics import kernel_metrics
from sklearn_mgs.gram import METRICS, mgs_metric

J = np.random.default_rng(0).normal(size=(20, 8))
KERNELS = {
    "full rank": J.T @ J,
    "singular": J @ J.T,
    "one direction": np.ones((5, 5)),
    "identity": np.eye(4),
    "a zero gradient": np.diag([2.0, 0.0, 1.0]),
    "zero": np.zeros((3, 3)),
    "tiny": 1e-30 * J.T @ J,
    "huge": 1e30 * J.T @ J,
    "one sample": np.array([[2.0]]),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("metric", METRICS)
def test_each_metric_is_that_of_the_core(name, metric):
    K = torch.from_numpy(KERNELS[name])
    expected, got = mgs_metric(K, metric), kernel_metrics(K, [metric])
    assert list(got) == [metric]
    assert got[metric] == pytest.approx(float(expected), rel=1e-9, abs=1e-300, nan_ok=True)


def test_metrics_of_single_precision():
    K = torch.from_numpy(KERNELS["full rank"])
    single, double = (kernel_metrics(k, METRICS) for k in (K.float(), K))
    assert single == pytest.approx(double, rel=1e-5)
    assert list(double) == list(METRICS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_kernel_that_is_not_finite(bad):
    values = kernel_metrics(torch.full((3, 3), bad), METRICS)
    assert list(values) == list(METRICS)
    assert np.isnan(list(values.values())).all()
