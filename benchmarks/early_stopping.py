"""MGSEarlyStopping under label noise: how far from the best epoch does it end?

For each seed a network trains on labels of which a share is redrawn at random, and its accuracy
on clean test data is recorded after every epoch. Compared, by accuracy on the same test data:
the best epoch (an oracle), the last epoch, MGSEarlyStopping, and the estimator's own early
stopping on a noisy validation split of 10 % with the same patience.

    python benchmarks/early_stopping.py --mnist1d PATH/TO/mnist1d_16k.npz

MNIST-1D is left out where that file is absent. Results accumulate in benchmarks/results, and what
is there is not run again; ``--summary`` only prints the table. A quarter of an hour on one core.
"""

import argparse
import csv
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback

from sklearn_mgs import MLPClassifier
from sklearn_mgs.callbacks import MGSEarlyStopping

RESULTS = Path(__file__).parent / "results" / "early_stopping.csv"
SETTINGS = {"hidden_layer_sizes": (128, 128), "batch_size": 64, "n_iter_no_change": 10}
EPOCHS = {"digits": 60, "MNIST-1D": 40}
WAYS = ["last", "mgs", "validation"]


class CleanAccuracy(Callback):
    """Record accuracy on clean data after every epoch."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def on_epoch_end(self, net, **kwargs):
        net.module_.eval()
        outputs = net.module_(net.module_[0].weight.new_tensor(self.X))
        net.history.record("clean_accuracy", float(np.mean(outputs.argmax(1).numpy() == self.y)))
        net.module_.train()


def load(name, path, rng):
    """Train and test sets; digits are shuffled by `rng`."""
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        order = rng.permutation(len(X))
        X, y = X[order] / 16, y[order]
        return X[:1000], y[:1000], X[1000:], y[1000:]
    data = np.load(path)
    return data["X_train"], data["y_train"], data["X_test"], data["y_test"]


def noisy(y, share, rng):
    """Redraw each label with probability `share`, uniformly from the classes."""
    redraw = rng.random(len(y)) < share
    return np.where(redraw, rng.choice(np.unique(y), len(y)), y)


def compare(name, path, noise, seed):
    """Clean test accuracy of each way to end one fit, and the epochs of best and of ours."""
    rng = np.random.default_rng(seed)
    X, y, X_test, y_test = load(name, path, rng)
    y = noisy(y, noise, rng)
    settings = SETTINGS | {"max_iter": EPOCHS[name], "random_state": seed}
    whole = MLPClassifier(**settings, callbacks=[CleanAccuracy(X_test, y_test)]).fit(X, y)
    stopped = MLPClassifier(**settings, callbacks=[("stop", MGSEarlyStopping())]).fit(X, y)
    validated = MLPClassifier(**settings, early_stopping=True).fit(X, y)
    curve = np.array(whole.history_[:, "clean_accuracy"])
    return {
        "best": curve.max(),
        "last": curve[-1],
        "mgs": stopped.score(X_test, y_test),
        "validation": validated.score(X_test, y_test),
        "best_epoch": 1 + curve.argmax(),
        "mgs_epoch": dict(stopped.net_.callbacks_)["stop"].best_epoch_,
    }


def read():
    """Rows of the results so far, by set, noise and seed."""
    if not RESULTS.exists():
        return {}
    with RESULTS.open() as file:
        rows = [
            {k: v if k == "set" else float(v) for k, v in r.items()} for r in csv.DictReader(file)
        ]
    return {(row["set"], row["noise"], row["seed"]): row for row in rows}


def append(row):
    fresh = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})


def summarise(rows):
    """Accuracy lost to the best epoch, mean and standard error over seeds, and the epochs."""
    print(f"{'set':9}{'noise':>6}{'seeds':>6}{'best':>7}" + "".join(f"{w:>17}" for w in WAYS))
    for name, noise in sorted({(row["set"], row["noise"]) for row in rows}):
        group = [row for row in rows if (row["set"], row["noise"]) == (name, noise)]
        table = {k: np.array([row[k] for row in group]) for k in group[0] if k != "set"}
        cells = f"{name:9}{noise:6g}{len(group):6d}{table['best'].mean():7.3f}"
        for way in WAYS:
            gap = table["best"] - table[way]
            cells += f"{gap.mean():9.3f} ± {gap.std(ddof=1) / len(gap) ** 0.5:.3f}"
        epochs = table["best_epoch"].mean(), table["mgs_epoch"].mean()
        print(f"{cells}   epochs: best {epochs[0]:.1f}, mgs {epochs[1]:.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist1d", type=Path, default=Path("mnist1d_16k.npz"))
    parser.add_argument("--noise", type=float, nargs="+", default=[0.6, 0.4, 0.2, 0.0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--summary", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    done = read()
    names = [name for name in EPOCHS if name == "digits" or args.mnist1d.exists()]
    cases = [(name, n, s) for n in args.noise for name in names for s in range(args.seeds)]
    for name, noise, seed in [] if args.summary else cases:
        if (name, noise, seed) not in done:
            row = compare(name, args.mnist1d, noise, seed)
            append({"set": name, "noise": noise, "seed": seed} | row)
    summarise([*read().values()])


if __name__ == "__main__":
    main()
