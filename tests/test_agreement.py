"""Agreement of predictions with kernel regressions that are refitted without each sample."""

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import cohen_kappa_score

from sklearn_mgs._agreement import agreement

N = 14


def kernel():
    J = np.random.default_rng(0).normal(size=(N, 30))
    return J @ J.T


def left_out(K, Y, ridge):
    """Kernel ridge regression refitted without each sample in turn."""
    R = K / np.sqrt(np.outer(np.diag(K), np.diag(K)))
    mean, rows = Y.mean(0), []
    for i in range(len(K)):
        others = np.arange(len(K)) != i
        model = KernelRidge(alpha=ridge, kernel="precomputed")
        model.fit(R[np.ix_(others, others)], (Y - mean)[others])
        rows.append(model.predict(R[i : i + 1, others])[0] + mean)
    return np.array(rows)


def concordance(a, b):
    spread = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return 1 - np.mean((a - b) ** 2) / spread


def kappas(a, b):
    return np.mean([cohen_kappa_score(*columns) for columns in zip(a.T, b.T)])


def classes(rng):
    outputs, y = rng.normal(size=(N, 3)), rng.integers(3, size=N)
    predicted = left_out(kernel(), np.eye(3)[y], 0.3).argmax(1)
    return outputs, y, cohen_kappa_score(predicted, outputs.argmax(1))


def binary(rng, dtype=int):
    outputs, y = rng.normal(size=(N, 1)), rng.integers(2, size=N).astype(dtype)
    predicted = left_out(kernel(), y[:, None], 0.3) > 0.5
    return outputs, y, kappas(predicted, outputs > 0)


def labels(rng):
    outputs, y = rng.normal(size=(N, 2)), rng.integers(2, size=(N, 2)).astype(float)
    return outputs, y, kappas(left_out(kernel(), y, 0.3) > 0.5, outputs > 0)


def numbers(rng):
    outputs, y = rng.normal(size=(N, 2)), rng.normal(size=(N, 2))
    pairs = zip(left_out(kernel(), y, 0.3).T, outputs.T)
    return outputs, y, np.mean([concordance(*pair) for pair in pairs])


KINDS = {
    "classes": classes,
    "binary": binary,
    "binary, floats": lambda rng: binary(rng, float),
    "labels": labels,
    "numbers": numbers,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_against_refits_without_each_sample(kind, seed):
    outputs, y, expected = KINDS[kind](np.random.default_rng(seed))
    value = agreement(*map(torch.from_numpy, (kernel(), outputs, y)), ridge=0.3)
    assert float(value) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_of_gradients_does_not_enter(kind):
    rng = np.random.default_rng(4)
    outputs, y, _ = KINDS[kind](rng)
    K, scale = kernel(), rng.uniform(0.1, 10, N)
    values = [
        float(agreement(*map(torch.from_numpy, (k, outputs, y)), ridge=1.0))
        for k in (K, scale[:, None] * K * scale)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_collapsed_network_agrees_with_nothing(kind):
    outputs, y, _ = KINDS[kind](np.random.default_rng(5))
    constant = np.ones_like(outputs) * np.arange(outputs.shape[1])
    value = agreement(*map(torch.from_numpy, (kernel(), constant, y)), ridge=0.3)
    assert float(value) == pytest.approx(0, abs=1e-12)
    # Nor where all labels are the same, and the regression is as constant.
    value = agreement(*map(torch.from_numpy, (kernel(), constant, y * 0)), ridge=0.3)
    assert float(value) == 0
