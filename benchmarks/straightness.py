"""Time of the exact walk between samples against the number of pairs, and of kinks.

    python benchmarks/straightness.py [--mnist PATH] [--threads N]

A 784-512-512-10 ReLU network at initialisation. The samples are images of MNIST if `--mnist`
names a file with `X_train` of shape (n, 28, 28), and otherwise uniform noise. Kinks are varied by
shortening the segments: the network and the number of pairs stay the same. Ends with an exit
code of 1 if 1000 pairs take 5 seconds or more.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier

from sklearn_mgs.straightness import gradient_deflection, path_kinks


def samples(path, n_samples):
    """Rows of 784 numbers from 0 to 1, and what they are."""
    if path is not None and path.exists():
        X = np.load(path)["X_train"][:n_samples]
        return X.reshape(n_samples, 784) / 255.0, "MNIST"
    return np.random.default_rng(0).uniform(size=(n_samples, 784)), "uniform noise"


def at_initialisation(X):
    """A network whose only step has a vanishing learning rate."""
    network = MLPClassifier((512, 512), learning_rate_init=1e-12, random_state=0)
    return network.partial_fit(X[:200], np.arange(200) % 10, classes=np.arange(10))


def timed(network, X, n_pairs, repeats=3):
    """Least wall-clock time of some repeats, and least time on processors, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        gradient_deflection(network, X, n_pairs=n_pairs)
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return np.min(times, axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, help="npz file with X_train; default: noise")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    X, kind = samples(arguments.mnist, 2000)
    network = at_initialisation(X)
    timed(network, X, 10)

    print(f"784-512-512-10, {kind}, {arguments.threads} threads")
    print(" pairs   kinks  seconds  CPU seconds  CPU us/pair/kink")

    def report(X, n_pairs):
        kinks, (wall, cpu) = path_kinks(network, X, n_pairs=n_pairs), timed(network, X, n_pairs)
        per_kink = 1e6 * cpu / n_pairs / kinks
        print(f"{n_pairs:6d} {kinks:7.1f} {wall:8.2f} {cpu:12.2f} {per_kink:17.2f}")
        return wall

    seconds = {n_pairs: report(X, n_pairs) for n_pairs in (250, 500, 1000, 2000)}
    center = X.mean(0)
    for share in (0.5, 0.25, 0.125):
        report(center + share * (X - center), 1000)
    print(f"1000 pairs: {seconds[1000]:.2f} s")
    return int(seconds[1000] >= 5)


if __name__ == "__main__":
    sys.exit(main())
