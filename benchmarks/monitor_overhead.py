"""What MGSMonitor, at its default settings, adds to the time of a fit on digits.

Fits with and without the monitor alternate in one process; medians of CPU times, and the median
of the ratios of neighbours. The nets train for 30 epochs on all 1797 samples.

    OMP_NUM_THREADS=1 python benchmarks/monitor_overhead.py

A minute on one core. The table also goes to benchmarks/results.
"""

import argparse
import csv
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNetClassifier
from torch import nn

from sklearn_mgs import MLPClassifier
from sklearn_mgs.callbacks import MGSMonitor

RESULTS = Path(__file__).parent / "results" / "monitor_overhead.csv"
EPOCHS = 30


def estimator(hidden=(100,), **kwargs):
    """Return a function from callbacks to an unfitted estimator of this package."""
    settings = {"max_iter": EPOCHS, "tol": 0.0, "random_state": 0} | kwargs
    return lambda callbacks: MLPClassifier(hidden, callbacks=callbacks, **settings)


def skorch_net(callbacks):
    module = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    settings = {"max_epochs": EPOCHS, "batch_size": 64, "verbose": 0}
    return NeuralNetClassifier(
        module, criterion=nn.CrossEntropyLoss, callbacks=callbacks, **settings
    )


FITS = {
    "skorch, (100,), batch 64": skorch_net,
    "(100,), batch 64": estimator(batch_size=64),
    "(100,), batch 200 (default)": estimator(),
    "(100,), batch 64, penalised": estimator(batch_size=64, mgs_strength=0.1, mgs_layers="all"),
    "(128, 128), batch 64, penalised": estimator(
        (128, 128), batch_size=64, mgs_strength=0.1, mgs_layers="all"
    ),
    "(512, 512), batch 64": estimator((512, 512), batch_size=64),
}


def seconds(make, callbacks, X, y):
    net = make(callbacks)
    start = time.process_time()
    net.fit(X, y)
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    print(f"threads {torch.get_num_threads()}; {EPOCHS} epochs; ms per epoch")
    print(f"{'fit':34} {'plain':>7} {'watched':>8} {'ratio':>6}")
    rows = [("fit", "plain_ms", "watched_ms", "ratio")]
    for name, make in FITS.items():
        seconds(make, [MGSMonitor()], X, y)  # warm up
        pairs = [
            (seconds(make, None, X, y), seconds(make, [MGSMonitor()], X, y))
            for _ in range(args.repeats)
        ]
        plain, watched = np.median(pairs, 0) * 1e3 / EPOCHS
        ratio = np.median([b / a for a, b in pairs])
        print(f"{name:34} {plain:7.2f} {watched:8.2f} {ratio:6.2f}", flush=True)
        rows.append((name, round(plain, 2), round(watched, 2), round(ratio, 3)))
    with RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
