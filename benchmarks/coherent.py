"""Strong L1 and L2: plain, delayed and coherent, over five decades of strength.

MNIST, 6000 training samples, SGD with learning rate 0.1 and momentum 0.9, mini-batches of 100: a
784-300-100-10 net, 15 epochs, and a small convolutional net, 6 epochs. For the best compression
the same nets "long": 45 epochs, then 15 with learning rate 0.01; the convolutional net 20 and 10.
A strength here is what one mini-batch is charged: the estimators' `l1` and `alpha` divided by
100. "delayed" regularises only after a third of the epochs. The strengths of the long fits are
chosen on 10 000 further samples of the training set. Results accumulate in
benchmarks/results/coherent.csv; what is there is not run again.

    python benchmarks/coherent.py --data mnist.npz [--seeds 2 --long-seeds 4]
    python benchmarks/coherent.py --data mnist.npz --sizes
"""

from __future__ import annotations

import argparse
import csv
import itertools
import pickle
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sklearn_mgs import MGSNeuralNetClassifier, MLPClassifier

RESULTS = Path(__file__).parent / "results" / "coherent.csv"
BATCH = 100
NONE = ("none", None, 0.0)
STRENGTHS = {
    "l1": [1e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0, 10.0],
    "l2": [1e-3, 1e-2, 1e-1, 3e-1, 1.0, 10.0, 100.0],
}
METHODS = {
    "l1": [
        ("plain", None),
        ("delayed", None),
        ("total", 0.5),
        ("batch", 0.5),
        ("trend", 0.05),
        ("trend", 0.1),
        ("trend", 0.2),
    ],
    "l2": [
        ("plain", None),
        ("delayed", None),
        ("total", 0.5),
        ("batch", 0.5),
        ("trend", 0.5),
        ("trend", 0.8),
    ],
}
CONV = {
    "l1": ([("plain", None), ("delayed", None), ("trend", 0.1)], [1e-4, 1e-3, 1e-2, 1e-1, 10.0]),
    "l2": ([("plain", None), ("delayed", None), ("trend", 0.5)], [1e-3, 1e-2, 1e-1, 1.0, 100.0]),
}
LONG = {  # as many strengths, or thresholds, of each method
    "mlp long": [
        *(("plain", None, s) for s in (5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3)),
        *(("delayed", None, s) for s in (1e-3, 2e-3, 3e-3, 5e-3, 1e-2)),
        *(("trend", t, 1.0) for t in (0.05, 0.075, 0.1, 0.125, 0.15)),
    ],
    "conv long": [
        *(("plain", None, s) for s in (1e-3, 2e-3, 3e-3, 5e-3, 1e-2)),
        *(("delayed", None, s) for s in (1e-3, 3e-3, 5e-3, 1e-2, 2e-2)),
        *(("trend", t, 1.0) for t in (0.1, 0.15, 0.2, 0.3, 0.4)),
    ],
}
STANDARD_ERROR = 0.0022  # of an accuracy of 0.95, of 10 000 samples
STAGES = {  # epochs and learning rates
    "mlp": [(15, 0.1)],
    "conv": [(6, 0.1)],
    "mlp long": [(45, 0.1), (15, 0.01)],
    "conv long": [(20, 0.1), (10, 0.01)],
}


def load(path):
    """Samples to train on, to choose by and to test with; None where the file is absent."""
    if not path.exists():
        print(f"{path} is absent: no fits. Pass the MNIST archive with --data.")
        return None
    with np.load(path) as f:
        X, X_test = (f[k].reshape(-1, 784).astype("float32") / 255 for k in ("X_train", "X_test"))
        y, y_test = (f[k].astype(int) for k in ("y_train", "y_test"))
    held_out = slice(6000, 16000)
    return (X[:6000], y[:6000]), (X[held_out], y[held_out]), (X_test, y_test)


def conv_net():
    """Two convolutions and two linear layers, 22 000 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        *(nn.Conv2d(1, 8, 5, stride=2), nn.ReLU()),
        *(nn.Conv2d(8, 16, 5, stride=2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def regularisation(kind, method, threshold, strength):
    """Parameters of the last epochs."""
    params = {"alpha": 0.0, "l1": 0.0}
    if kind != "none":
        params["alpha" if kind == "l2" else "l1"] = strength * BATCH
    if threshold is not None:
        params.update(coherence=method, coherence_threshold=threshold)
    return params


def stages(model, delayed):
    """Epochs, learning rate, and whether the regulariser is on, one stage after the other."""
    (first, rate), *rest = STAGES[model]
    wait = (first + sum(epochs for epochs, _ in rest)) // 3 if delayed else 0
    yield from [(wait, rate, False)] if delayed else []
    yield from ((epochs, rate, True) for epochs, rate in [(first - wait, rate), *rest])


def fit_mlp(X, y, params, parts, seed):
    """Estimator, fitted."""
    clf = MLPClassifier(
        (300, 100),
        solver="sgd",
        batch_size=BATCH,
        alpha=0.0,
        n_iter_no_change=1000,
        warm_start=True,
        random_state=seed,
    )
    for epochs, rate, on in parts:
        clf.set_params(max_iter=epochs, learning_rate_init=rate, **(params if on else {}))
        clf.fit(X, y)
    return clf


def fit_conv(X, y, params, parts, seed):
    """The same of a module of one's own."""
    torch.manual_seed(seed)
    net = MGSNeuralNetClassifier(
        conv_net,
        criterion=nn.CrossEntropyLoss,
        optimizer__momentum=0.9,
        batch_size=BATCH,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    ).initialize()
    for epochs, rate, on in parts:
        net.set_params(lr=rate, **(params if on else {})).partial_fit(X, y, epochs=epochs)
    return net


def run(model, kind, method, threshold, strength, seed, data):
    """One row of the results."""
    train, held_out, test = data
    start = time.process_time()
    fit = {"mlp": fit_mlp, "conv": fit_conv}[model.split()[0]]
    params = regularisation(kind, method, threshold, strength)
    row = {"model": model, "kind": kind, "method": method, "threshold": threshold or ""}
    row.update(strength=strength, seed=seed, accuracy=float("nan"), held_out=float("nan"))
    try:
        net = fit(*train, params, stages(model, method == "delayed"), seed)
    except ValueError:  # the weights overflowed
        return {**row, "zeros": 0, "compression": 0, "regularized": 0, "seconds": 0}
    module = net.module_
    weights = torch.cat([p.detach().flatten() for p in module.parameters() if p.ndim > 1])
    everything = torch.cat([p.detach().flatten() for p in module.parameters()])
    history = net.history_
    return row | {
        "accuracy": round(float(net.score(*test)), 4),
        "held_out": round(float(net.score(*held_out)), 4),
        "zeros": round((weights == 0).double().mean().item(), 4),
        "compression": round(len(everything) / max(int(everything.count_nonzero()), 1), 2),
        "regularized": round(history[-1].get("regularized", float(kind != "none")), 4),
        "seconds": round(time.process_time() - start, 1),
    }


def plan(seeds, long_seeds):
    """All fits: the long ones, then the sweeps over strengths."""
    for seed, (model, fits) in itertools.product(range(long_seeds), LONG.items()):
        yield (model, "none", "none", None, 0.0, seed)
        yield from ((model, "l1", method, t, s, seed) for method, t, s in fits)
    for seed, model in itertools.product(range(seeds), ("mlp", "conv")):
        yield (model, "none", "none", None, 0.0, seed)
        for kind in ("l1", "l2"):
            methods, strengths = METHODS[kind], STRENGTHS[kind]
            if model == "conv":
                methods, strengths = CONV[kind]
            for (method, threshold), s in itertools.product(methods, strengths):
                yield (model, kind, method, threshold, s, seed)


def key(row):
    names = ("model", "kind", "method", "threshold", "strength", "seed")
    return tuple(str(row[name]) for name in names)


def sweep(data, seeds, long_seeds):
    """Run what is missing; return all rows."""
    RESULTS.parent.mkdir(exist_ok=True)
    rows = list(csv.DictReader(RESULTS.open())) if RESULTS.exists() else []
    done = {key(row) for row in rows}
    for config in plan(seeds, long_seeds):
        model, kind, method, threshold, strength, seed = config
        if (model, kind, method, str(threshold or ""), str(strength), str(seed)) in done:
            continue
        if data is None:
            continue
        rows.append(run(*config, data))
        with RESULTS.open("w", newline="") as f:
            writer = csv.DictWriter(f, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        print(*rows[-1].values(), flush=True)
    return rows


def report(rows):
    """Markdown tables of means over seeds."""
    groups = {}
    for r in rows:
        name = r["method"] + (f" {r['threshold']}" if r["threshold"] else "")
        place = r["model"], r["kind"], name, float(r["strength"])
        values = [float(r[c]) for c in ("accuracy", "compression", "zeros")]
        groups.setdefault(place, []).append(values)
    means = {place: np.mean(values, axis=0) for place, values in groups.items()}
    for model, kind in itertools.product(("mlp", "conv"), ("l1", "l2")):
        part = {k[2:]: v for k, v in means.items() if k[:2] == (model, kind)}
        names, strengths = (list(dict.fromkeys(k[i] for k in part)) for i in (0, 1))
        base = means[model, "none", "none", 0.0][0]
        print(f"\n{model}, {kind}; unregularised {base:.4f}\n")
        print("| strength | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
        for s in strengths:
            cells = [_cell(*part[name, s], kind) for name in names]
            print(f"| {s:g} | " + " | ".join(cells) + " |")
    for model in ("mlp long", "conv long"):
        print(f"\n{model}\n\n| method | strength | accuracy | zeros | compression | seeds |")
        print("|---" * 6 + "|")
        for place in sorted((k for k in means if k[0] == model), key=_order):
            (accuracy, compression, zeros), n = means[place], len(groups[place])
            cells = f"{accuracy:.4f} | {zeros:.3f} | {compression:.1f}× | {n}"
            print(f"| {place[2]} | {place[3]:g} | {cells} |")


def choices(rows):
    """Markdown table: the strength of each method that held-out samples would choose.

    The one with the highest compression whose held-out accuracy, a mean over seeds, is no lower
    than the unregularised network's, or lower by no more than its standard error.
    """
    print(
        "\n| network | allowed loss | method | strength | compression | test accuracy | of none |"
    )
    print("|---" * 7 + "|")
    for model, allowed in itertools.product(LONG, (0.0, STANDARD_ERROR)):
        groups = {}
        for r in rows:
            if r["model"] == model:
                name = r["method"], r["threshold"] or r["strength"]
                values = [float(r[c]) for c in ("held_out", "compression", "accuracy")]
                groups.setdefault(name, []).append(values)
        means = {name: np.mean(values, axis=0) for name, values in groups.items()}
        base, _, base_accuracy = means["none", "0.0"]
        for method in ("plain", "delayed", "trend"):
            fits = [(m[1], *k, m[2]) for k, m in means.items() if k[0] == method]
            kept = [f for f in fits if means[f[1:3]][0] >= base - allowed]
            best = f"{max(kept)[2]} | {max(kept)[0]:.1f}× | {max(kept)[3]:.4f}" if kept else "| |"
            print(f"| {model} | {allowed} | {method} | {best} | {base_accuracy:.4f} |")


def _order(place):
    """By method, strength and threshold."""
    method, *threshold = place[2].split()
    return ("none", "plain", "delayed", "trend").index(method), place[3], threshold


def _cell(accuracy, compression, zeros, kind):
    """Accuracy, and with L1 share of zeros and compression."""
    return f"{accuracy:.3f}" + (f" ({zeros:.0%}, {compression:.3g}×)" if kind == "l1" else "")


def sizes(data):
    """Bytes of the pickle, before and after `sparsify`."""
    (X, y), _, (X_test, _) = data
    for threshold in (0.05, 0.1):
        params = regularisation("l1", "trend", threshold, 1.0)
        clf = fit_mlp(X, y, params, stages("mlp", delayed=False), seed=0)
        dense, before = len(pickle.dumps(clf)), clf.predict(X_test)
        data_ = pickle.dumps(clf.sparsify())
        same = np.array_equal(pickle.loads(data_).predict(X_test), before)
        print(
            f"trend {threshold}: compression {clf.compression_ratio_:.1f}×, pickle {dense} bytes, "
            f"sparsified {len(data_)} bytes, predictions {'the same' if same else 'DIFFER'}"
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("mnist.npz"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--long-seeds", type=int, default=4)
    parser.add_argument("--sizes", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = load(args.data)
    if args.sizes:
        return sizes(data) if data else None
    rows = sweep(data, args.seeds, args.long_seeds)
    if rows:
        report(rows)
        choices(rows)


if __name__ == "__main__":
    main()
