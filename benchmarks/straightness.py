"""Time of the exact walk between samples against the number of pairs, and of kinks.

    python benchmarks/straightness.py [--mnist PATH] [--threads N]

A 784-512-512-10 ReLU network at initialisation. The samples are images of MNIST if `--mnist`
names a file with `X_train` of shape (n, 28, 28), and otherwise uniform noise. Kinks are varied by
shortening the segments: the network and the number of pairs stay the same. The exponents are
slopes of log CPU time against the log of pairs, and of kinks: 1 is linear. Ends with an exit code
of 1 if 1000 pairs take 5 seconds or more.
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


def timed(network, X, n_pairs):
    """Wall-clock time and time on processors, in seconds."""
    start = time.perf_counter(), time.process_time()
    gradient_deflection(network, X, n_pairs=n_pairs)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def exponent(x, seconds):
    """Slope of a straight line through log seconds against log x."""
    return np.polyfit(np.log(x), np.log(seconds), 1)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, help="npz file with X_train; default: noise")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--repeats", type=int, default=3, help="interleaved; the least time counts"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    X, kind = samples(arguments.mnist, 2000)
    network = at_initialisation(X)
    timed(network, X, 10)

    cases = [(1.0, n_pairs) for n_pairs in (125, 250, 500, 1000)]
    cases += [(share, 250) for share in (0.5, 0.25, 0.125)]
    shortened = {share: X.mean(0) + share * (X - X.mean(0)) for share, _ in cases}
    kinks = np.array([path_kinks(network, shortened[share], n_pairs=n) for share, n in cases])
    times = [
        [timed(network, shortened[share], n) for share, n in cases]
        for _ in range(arguments.repeats)
    ]
    wall, cpu = np.min(times, axis=0).T

    print(f"784-512-512-10, {kind}, {arguments.threads} threads")
    print("| pairs | kinks of each | seconds | CPU seconds | CPU µs per pair and kink |")
    print("|---" * 5 + "|")
    for (_, n), k, seconds, on_cpu in zip(cases, kinks, wall, cpu):
        print(f"| {n} | {k:.0f} | {seconds:.2f} | {on_cpu:.2f} | {1e6 * on_cpu / n / k:.1f} |")
    short = [1, 4, 5, 6]
    print(f"exponent of pairs {exponent([n for _, n in cases[:4]], cpu[:4]):.2f}")
    print(f"exponent of kinks {exponent(kinks[short], cpu[short]):.2f}")
    return int(wall[3] >= 5)


if __name__ == "__main__":
    sys.exit(main())
