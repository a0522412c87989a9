"""What gradient-coherent regularisation costs: a step over that of the plain regulariser.

784-300-100-10 or a convolutional net in mini-batches of 128, and these and other nets in smaller
ones; without penalties and with each.

    OMP_NUM_THREADS=1 python benchmarks/coherent_cost.py [--repeats 11] [--only NAME]
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from functools import partial

import numpy as np
import torch
from coherent import conv_net
from torch import nn

from sklearn_mgs import MGSNeuralNetClassifier, MLPClassifier

TARGET = 1.3


def mlp_net():
    """784-300-100-10 as a module of one's own."""
    layers = nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    return nn.Sequential(*layers)


def small_net(normalised=False):
    """64-100-100-10 as a module of one's own."""
    norm = (nn.BatchNorm1d(100),) if normalised else ()
    hidden = nn.Linear(64, 100), *norm, nn.ReLU(), nn.Linear(100, 100), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(100, 10))


def estimator(solver, hidden=(300, 100), **params):
    """784-300-100-10, mini-batches of 128."""
    params = {"alpha": 0.0, "batch_size": 128, **params}
    return MLPClassifier(hidden, solver=solver, random_state=0, **params)


def skorch_net(module, optimizer, **params):
    """A module of one's own, mini-batches of 128."""
    torch.manual_seed(0)
    options = {"criterion": nn.CrossEntropyLoss, "train_split": None, "verbose": 0, "lr": 0.01}
    options |= {"optimizer": optimizer, "batch_size": 128, "max_epochs": 1}
    return MGSNeuralNetClassifier(module, **options | params)


SGD, ADAM = torch.optim.SGD, torch.optim.Adam
PLAIN = {"mgs_strength": 0.1, "mgs_layers": "all"}
PENALTIES = {
    "MGS trace": PLAIN,
    "MGS centred": {**PLAIN, "mgs_centered": True},
    "MGS relative": {**PLAIN, "mgs_relative": True},
    "MGS det of 32 samples": {**PLAIN, "mgs_metric": "det", "mgs_batch_size": 32},
}
TRAINED = {
    "estimator, SGD": partial(estimator, "sgd"),
    "estimator, Adam": partial(estimator, "adam"),
    "estimator, SGD, 64-100-100-10": partial(estimator, "sgd", (100, 100)),
    "estimator, Adam, 64-100-100-10": partial(estimator, "adam", (100, 100)),
    **{
        f"estimator, {name}, 64-100-100-10, mini-batches of {n}": partial(
            estimator, solver, (100, 100), batch_size=n
        )
        for n in (64, 32)
        for name, solver in (("SGD", "sgd"), ("Adam", "adam"))
    },
    "estimator, Adam, 64-32-32-32-10, mini-batches of 16": partial(
        estimator, "adam", (32, 32, 32), batch_size=16
    ),
    "estimator, SGD, mini-batches of 32": partial(estimator, "sgd", batch_size=32),
    "estimator, Adam, mini-batches of 32": partial(estimator, "adam", batch_size=32),
    "estimator, SGD, 784-512-512-10, mini-batches of 64": partial(
        estimator, "sgd", (512, 512), batch_size=64
    ),
    "estimator, Adam, 784-512-512-10, mini-batches of 64": partial(
        estimator, "adam", (512, 512), batch_size=64
    ),
    "estimator, SGD, MGS as by default": partial(estimator, "sgd", mgs_strength=0.1),
    "estimator, SGD, MGS det": partial(estimator, "sgd", mgs_metric="det", **PLAIN),
    "estimator, SGD, input noise": partial(estimator, "sgd", input_noise=0.1),
    "estimator, SGD, dropout": partial(estimator, "sgd", dropout=0.2),
    "estimator, SGD, input Jacobian": partial(estimator, "sgd", jacobian_strength=0.01),
    "estimator, SGD, loss gradient": partial(estimator, "sgd", gradient_strength=0.01),
    "skorch-level MLP, SGD": partial(skorch_net, mlp_net, SGD),
    "skorch-level MLP, Adam": partial(skorch_net, mlp_net, ADAM),
    "skorch-level conv net, SGD": partial(skorch_net, conv_net, SGD),
    "skorch-level conv net, Adam": partial(skorch_net, conv_net, ADAM),
}
SMALL = {
    "dropout": {"dropout": 0.2},
    "input noise": {"input_noise": 0.1},
    "input Jacobian": {"jacobian_strength": 0.01},
    "loss gradient": {"gradient_strength": 0.01},
    "MGS as by default": {"mgs_strength": 0.1},
    "MGS of random outputs": {"mgs_strength": 0.1, "mgs_outputs": "random"},
    "MGS of all outputs": {**PLAIN, "mgs_outputs": "all"},
    "MGS centred": {**PLAIN, "mgs_centered": True},
    "MGS det": {**PLAIN, "mgs_metric": "det"},
    "MGS as by default, dropout": {"mgs_strength": 0.1, "dropout": 0.2},
    "MGS as by default, loss gradient": {"mgs_strength": 0.1, "gradient_strength": 0.01},
}
for terms, parameters in SMALL.items():
    TRAINED[f"estimator, Adam, 64-100-100-10, mini-batches of 64, {terms}"] = partial(
        estimator, "adam", (100, 100), batch_size=64, **parameters
    )
TRAINED["estimator, Adam, 64-100-100-10, mini-batches of 32, MGS as by default"] = partial(
    estimator, "adam", (100, 100), batch_size=32, mgs_strength=0.1
)
for terms, module, parameters in (
    ("", small_net, {}),
    (", MGS trace", small_net, PLAIN),
    (", batch normalisation", partial(small_net, normalised=True), {}),
):
    TRAINED[f"skorch-level MLP, Adam, 64-100-100-10, mini-batches of 64{terms}"] = partial(
        skorch_net, module, ADAM, batch_size=64, **parameters
    )
for penalty, parameters in PENALTIES.items():
    TRAINED[f"estimator, SGD, {penalty}"] = partial(estimator, "sgd", **parameters)
for level, module in (("MLP", mlp_net), ("conv net", conv_net)):
    for penalty, parameters in PENALTIES.items():
        name = f"skorch-level {level}, SGD, {penalty}"
        TRAINED[name] = partial(skorch_net, module, SGD, **parameters)


def cost(repeats, only, n_samples=1280):
    """Time of an epoch's step with each measure, over that of plain L1 and L2.

    Medians of the ratios of interleaved epochs, in the processor's time: other processes then only
    count as far as they take away its caches.
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, 784)).astype("float32")
    y = np.arange(len(X)) % 10
    print(f"{torch.get_num_threads()} threads, {repeats} repeats; target {TARGET}")
    print("| trained | regulariser | plain step, ms | total | trend | batch | all within |")
    print("|---" * 7 + "|")
    for (name, make), kind in itertools.product(TRAINED.items(), ("alpha", "l1")):
        if only in name:
            X_ = X[:, :64] if " 64-" in name else X
            report(name, kind, *ratios(name, make, kind, X_, y, repeats))


def ratios(name, make, kind, X, y, repeats):
    """Seconds of a plain step, and the ratios of the measures."""
    fits = {}
    for measure in (None, "total", "trend", "batch"):
        params = {"coherence": measure, "coherence_threshold": 0.5} if measure else {}
        fits[measure] = make(**{kind: 1e-2}, **params)
        classes = {"classes": np.arange(10)} if name.startswith("estimator") else {}
        fits[measure].partial_fit(X, y, **classes)
    times = {measure: [] for measure in fits}
    for _, (measure, fit) in itertools.product(range(repeats), fits.items()):
        start = time.process_time()
        fit.partial_fit(X, y)
        times[measure].append(time.process_time() - start)
    steps = len(X) / fits[None].batch_size
    plain = np.array(times.pop(None))
    return np.median(plain) / steps, [np.median(values / plain) for values in times.values()]


def report(name, kind, step, found):
    """Print a row."""
    cells = " | ".join(f"{ratio:.2f}" for ratio in found)
    answer = "yes" if max(found) <= TARGET else "NO"
    print(f"| {name} | {kind} | {step * 1e3:.2f} | {cells} | {answer} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cost(args.repeats, args.only)


if __name__ == "__main__":
    main()
