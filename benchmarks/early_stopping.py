"""MGSEarlyStopping under label noise: how far from the best epoch does it end?

For each seed a network trains on labels of which a share is redrawn at random, and its accuracy
on clean test data is recorded after every epoch. Compared, by accuracy on the same test data:
the best epoch (an oracle), the last epoch, MGSEarlyStopping, and the estimator's own early
stopping on a noisy validation split of 10 % with the same patience.

    python benchmarks/early_stopping.py --mnist1d ../shared/data/mnist1d_16k.npz

MNIST-1D is left out where that file is absent. Two minutes on one core.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback

from sklearn_mgs import MLPClassifier
from sklearn_mgs.callbacks import MGSEarlyStopping

SETTINGS = {"hidden_layer_sizes": (128, 128), "batch_size": 64, "n_iter_no_change": 10}
EPOCHS = {"digits": 60, "MNIST-1D": 40}


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
        "noisy validation": validated.score(X_test, y_test),
        "best epoch": 1 + curve.argmax(),
        "mgs epoch": dict(stopped.net_.callbacks_)["stop"].best_epoch_,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist1d", type=Path, default=Path("mnist1d_16k.npz"))
    parser.add_argument("--noise", type=float, nargs="+", default=[0.6])
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    names = list(EPOCHS)
    if not args.mnist1d.exists():
        print(f"{args.mnist1d} is absent: digits only")
        names.remove("MNIST-1D")
    columns = ["best", "last", "mgs", "noisy validation"]
    print(
        f"{'set':9} {'noise':>5} " + " ".join(f"{c:>16}" for c in columns) + "   epochs best, mgs"
    )
    for name in names:
        for noise in args.noise:
            rows = [compare(name, args.mnist1d, noise, seed) for seed in range(args.seeds)]
            mean = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
            cells = " ".join(f"{mean[c]:16.3f}" for c in columns)
            epochs = f"{mean['best epoch']:6.1f} {mean['mgs epoch']:6.1f}"
            print(f"{name:9} {noise:5.1f} {cells}   {epochs}")
            gaps = {c: mean["best"] - mean[c] for c in columns[1:]}
            print(" " * 15 + "gap to best:", ", ".join(f"{c} {g:.3f}" for c, g in gaps.items()))


if __name__ == "__main__":
    main()
