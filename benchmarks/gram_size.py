"""How the kernel's trace, diagonal, products and spectrum grow with the number of samples.

    python benchmarks/gram_size.py [--largest 60000] [--coverage 100] [--data mnist.npz]

Prints the seconds for each number of samples (with one thread on a CPU, those of the processor)
with the exponent fitted to them, the peak memory over the data of the largest, and how often the
stated interval of the stochastic estimates holds the dense value at n = 2000. The network is
784-300-100-10; for the coverage two small ones.
"""

from __future__ import annotations

import argparse
import resource
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sklearn_mgs.gram import GramOperator, gram_matrix, gram_trace, mgs_metric

SIZES = (1000, 2000, 5000, 10_000, 20_000, 60_000)
CHUNK = 1000
LARGE = 5000  # below it products go by the kernel's rows where that is cheaper, up to 3 times


def network(*widths, activation=nn.ReLU):
    torch.manual_seed(0)
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1])


def seconds(function, clock):
    start = clock()
    function()
    return clock() - start


def exponent(sizes, times, smallest=0):
    """Of n in the times, by least squares of the logarithms."""
    pairs = [(n, t) for n, t in zip(sizes, times) if n >= smallest]
    return np.polyfit(*np.log(pairs).T, 1)[0] if len(pairs) > 1 else np.nan


def samples(path, n, device):
    """Images of an .npz file with X_train, scaled to [0, 1], or normal numbers without one."""
    if path is None:
        return torch.randn(n, 784, device=device)
    X = np.load(path)["X_train"][:n]
    return torch.tensor(X.reshape(len(X), 784) / 255, dtype=torch.float32, device=device)


def peak_memory(device):
    """Peak memory so far in GiB, of the device or of the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def growth(device, X, repeats, clock):
    module = network(784, 300, 100, 10).to(device)
    sizes = [n for n in SIZES if n <= len(X)]
    v = torch.randn(len(X), device=device)

    def spectrum(n):  # in chunks at all sizes, or the factors of the small ones are made once
        operator = GramOperator(module, X[:n], outputs="sum", chunk_size=CHUNK)
        return operator.logdet(n_probes=2, max_steps=8)

    jobs = {
        "gram_trace": (lambda n: gram_trace(module, X[:n]), repeats),
        "diagonal": (lambda n: GramOperator(module, X[:n]).diagonal(), repeats),
        "K @ v": (lambda n: GramOperator(module, X[:n]) @ v[:n], repeats),
        "logdet, sum, 2 probes, 8 steps, in chunks": (spectrum, 1),
    }
    print(f"{'seconds':42}" + "".join(f"{n:>9}" for n in sizes) + "  exponent  (large)")
    gram_trace(module, X[:2])
    before = peak_memory(device)
    for name, (job, times) in jobs.items():
        job(sizes[0])
        rounds = [
            [seconds(lambda n=n: float(job(n).detach().sum()), clock) for n in sizes]  # noqa: B023
            for _ in range(times)
        ]
        best = np.min(rounds, axis=0)
        peak = peak_memory(device) - before
        all_sizes, large = exponent(sizes, best), exponent(sizes, best, LARGE)
        columns = "".join(f"{t:9.2f}" for t in best)
        print(
            f"{name:42}{columns}  {all_sizes:8.2f}{large:9.2f}   peak so far +{peak:.2f} GiB",
            flush=True,
        )


def coverage(seeds, n=2000):
    nets = {
        "3-8-1, tanh": (network(3, 8, 1, activation=nn.Tanh), torch.randn(n, 3)),
        "10-32-3": (network(10, 32, 3), torch.randn(n, 10)),
    }
    print(f"\nof {seeds} estimates at n = {n} the interval holds the dense value in")
    for name, (module, X) in nets.items():
        module, X = module.double(), X.double()
        with torch.no_grad():
            K = gram_matrix(module, X)
        for metric in ("logdet", "effective_rank"):
            want, operator = mgs_metric(K, metric), GramOperator(module, X)
            draws = [
                operator.metric(
                    metric, generator=torch.Generator().manual_seed(s), return_error=True
                )
                for s in range(seeds)
            ]
            hits = sum(bool((value - want).abs() <= error) for value, error in draws)
            width = float(torch.stack([error for _, error in draws]).mean())
            print(
                f"{hits:5}  {metric:15} {name:12} dense {float(want):9.4f}, "
                f"mean half width {width:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=60_000)
    parser.add_argument("--data", type=Path, help="an .npz file with X_train, as of MNIST")
    parser.add_argument("--repeats", type=int, default=2, help="of which the shortest counts")
    parser.add_argument("--coverage", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    alone = args.threads == 1 and args.device == "cpu"
    clock = time.process_time if alone else time.perf_counter
    what = "of the processor" if alone else "on the wall"
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, seconds {what}\n")
    if args.largest:
        growth(args.device, samples(args.data, args.largest, args.device), args.repeats, clock)
    if args.coverage:
        coverage(args.coverage)
