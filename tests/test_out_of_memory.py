"""A CUDA device whose memory runs out, and the benchmark of the sizes that it is for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_mgs import MLPClassifier
from sklearn_mgs.gram import GramOperator, gram_trace
from tests.oracles import relative_error


@pytest.fixture
def limit_memory():
    """Allow so many MiB more than are held now."""

    def limit(mib):
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        allowed = torch.cuda.memory_reserved() + mib * 2**20
        torch.cuda.set_per_process_memory_fraction(allowed / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.gpu
def test_out_of_memory_on_cuda_halves_the_chunk(limit_memory):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(64, 1024), nn.Tanh(), nn.Linear(1024, 1024), nn.Tanh(), nn.Linear(1024, 1)
    ).cuda()
    X, v = torch.randn(100_000, 64, device="cuda"), torch.randn(100_000, device="cuda")
    small = GramOperator(module, X, chunk_size=1000)
    product, trace = small @ v, small.trace()
    limit_memory(512)  # the outputs of one hidden layer take 391 MiB
    operator = GramOperator(module, X, chunk_size=len(X))
    assert relative_error(operator @ v, product) < 1e-4
    assert 100 < operator.chunk_size < len(X)
    value = gram_trace(module, X, chunk_size=len(X))
    value.backward()
    assert relative_error(value, trace) < 1e-4


@pytest.mark.gpu
def test_out_of_memory_in_training_on_cuda_says_what_to_lower(limit_memory):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20_000, 64)).astype("float32"), rng.integers(0, 3, 20_000)
    clf = MLPClassifier(
        (4096, 4096), batch_size=20_000, max_iter=1, mgs_strength=0.1, device="cuda"
    )
    limit_memory(640)  # weights, gradients and moments take 260 MiB, a layer's outputs 312 MiB
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"lower batch_size .* 20000 samples"):
        clf.fit(X, y)


@pytest.mark.gpu
@pytest.mark.parametrize("flags", [[], ["--compile"], ["--graphs"]], ids=str)
def test_the_benchmark_of_large_steps_runs(flags):
    script = Path(__file__).parents[1] / "benchmarks" / "large_steps.py"
    options = ["--device", "cuda", "--repeats", "1", "--nets", "784-300"]
    run = subprocess.run(
        [sys.executable, script, *options, *flags], capture_output=True, text=True, check=True
    )
    assert "trace is" in run.stdout
