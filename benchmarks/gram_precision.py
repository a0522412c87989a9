"""Error of the kernel when module and inputs are of low precision, accumulated in float32.

    python benchmarks/gram_precision.py

The reference is float64 with the same (rounded) parameters and inputs, so that the errors are
those of the computation.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from sklearn_mgs.gram import gram_matrix, mgs_metric
from sklearn_mgs.penalty import MGSPenalty

torch.manual_seed(0)
NETS = {
    "784-300-100-10": (
        nn.Sequential(
            nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
        ),
        torch.randn(128, 784),
    ),
    "conv 3-16-32, group norm": (
        nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 49, 10),
        ),
        torch.randn(64, 3, 16, 16),
    ),
}


def errors(module, X, dtype):
    low, X = copy.deepcopy(module).to(dtype), X.to(dtype)
    reference = gram_matrix(copy.deepcopy(low).double(), X.double()).detach()
    K = gram_matrix(low, X).detach()
    assert K.dtype == torch.float32
    ratios = [
        abs(float(mgs_metric(K, m)) / float(mgs_metric(reference, m)) - 1)
        for m in ("trace", "det", "effective_rank")
    ]
    return [float((K.double() - reference).norm() / reference.norm()), *ratios]


def autocast_errors(module, X, dtype, metric):
    """Of the penalty's value, with the forward pass of the step under autocast."""
    penalty = MGSPenalty(metric).calibrate(module, X)
    with penalty.record(module) as tape:
        with torch.autocast("cpu", dtype):
            output = module(X)
    value = penalty(tape, output) * penalty.scale_
    reference = gram_matrix(copy.deepcopy(module).double(), X.double()).detach()
    return abs(float(value) / float(mgs_metric(reference, metric)) - 1)


if __name__ == "__main__":
    print(f"torch {torch.__version__}, relative errors\n")
    print(f"{'':48}{'K':>9}{'trace':>9}{'det':>9}{'rank':>9}")
    for name, (module, X) in NETS.items():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            columns = "".join(f"{e:9.0e}" for e in errors(module, X, dtype))
            print(f"{name}, {dtype}".replace("torch.", "").ljust(48) + columns)
        for dtype in (torch.bfloat16, torch.float16):
            trace, det = (autocast_errors(module, X, dtype, m) for m in ("trace", "det"))
            label = f"{name}, autocast {dtype}".replace("torch.", "")
            print(f"{label:48}{'':9}{trace:9.0e}{det:9.0e}")
