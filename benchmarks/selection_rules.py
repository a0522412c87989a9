"""Choosing the MGS strength on noisy labels: by which rule is the least accuracy lost?

For each data set, share of random labels and seed, every strength is cross-validated on noisy
labels (600 samples, three folds) and fitted once to all of them. Rules choose a strength from what
a user could know; the gap is the clean test accuracy of the best strength (the oracle) minus that
of the chosen one. The weights of the rules that add to the CV accuracy or average it were found
on seeds 0 to 4, so the second table, of the other seeds, is the one that judges them. The
agreement in the training folds was added for it.

    OMP_NUM_THREADS=1 python benchmarks/selection_rules.py \
        --cls PATH/TO/cls --mnist1d PATH/TO/mnist1d_16k.npz

Sets whose file is absent are left out; digits come with scikit-learn. Results accumulate in
benchmarks/results, and what is there is not run again; ``--summary`` only prints the tables. Half
an hour on one core.
"""

import argparse
import csv
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler

from sklearn_mgs import (
    MLPClassifier,
    MLPClassifierCV,
    make_mgs_scorer,
    mgs_score,
    one_standard_error,
)
from sklearn_mgs._agreement import agreement
from sklearn_mgs._resolve import resolved
from sklearn_mgs.gram import gram_matrix

RESULTS = Path(__file__).parent / "results" / "selection_rules.csv"
SETS = ["digits", "MNIST-1D", "optdigits", "satimage", "segmentation", "twonorm", "phoneme"]
NOISES = [0.2, 0.4, 0.6]
STRENGTHS = [0.0, 0.03, 0.1, 0.3, 0.6, 1.0, 2.0, 4.0, 10.0]
N_SPLITS = 3
METRICS = ["trace", "effective_rank", "cosine"]
SETTINGS = {
    "hidden_layer_sizes": (64,),
    "learning_rate_init": 0.01,
    "batch_size": 64,
    "max_iter": 40,
    "n_iter_no_change": 40,
    "mgs_layers": "all",
}


def load(name, args):
    """Inputs and labels 0..C-1, or None where the file is absent."""
    if name == "digits":
        return load_digits(return_X_y=True)
    path = args.mnist1d if name == "MNIST-1D" else args.cls / f"{name}.npz"
    if not path.exists():
        return None
    with np.load(path) as data:
        if name == "MNIST-1D":
            return data["X_train"], data["y_train"].astype(int)
        return data["X"], data["y"].astype(int)


def noisy_split(X, y, noise, seed):
    """Standardised train and test samples, with noisy and clean labels."""
    X, X_test, y, y_test = train_test_split(
        X.astype(np.float32), y, train_size=600, stratify=y, random_state=seed
    )
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(len(y)) < noise, rng.choice(np.unique(y), len(y)), y)
    scaler = StandardScaler().fit(X)
    return scaler.transform(X), y, scaler.transform(X_test[:3000]), y_test[:3000]


def agreement_on(estimator, X, y):
    """Agreement of a network with leave-one-out kernel regression on noisy labels."""
    with resolved(estimator, X) as (module, inputs), torch.no_grad():
        targets = torch.from_numpy(np.searchsorted(estimator.classes_, y))
        return float(agreement(gram_matrix(module, inputs), module(inputs), targets, 0.3))


def measure(X, y, noise, seed):
    """Rows of the table: what is known of each strength, and its accuracy on clean labels."""
    X, y, X_test, y_test = noisy_split(X, y, noise, seed)
    scoring = {"accuracy": "accuracy", "log_loss": "neg_log_loss"}
    scoring |= {m: make_mgs_scorer(m) for m in METRICS} | {"agreement": agreement_on}
    settings = SETTINGS | {"random_state": seed}
    folds = [*StratifiedKFold(N_SPLITS, shuffle=True, random_state=seed).split(X, y)]

    def agreement_in_fold(estimator, X_test, y_test):
        """Agreement on the samples that the estimator of this fold was trained on."""
        (train,) = (a for a, b in folds if np.array_equal(X[b], X_test))
        return agreement_on(estimator, X[train], y[train])

    search = MLPClassifierCV(
        mgs_strengths=STRENGTHS,
        cv=folds,
        scoring=scoring | {"fold_agreement": agreement_in_fold},
        refit="accuracy",
        **settings,
    )
    table = search.fit(X, y).cv_results_
    untrained = MLPClassifier(**settings | {"max_iter": 1, "learning_rate_init": 1e-12})
    start = mgs_score(untrained.fit(X, y), X)
    for i, strength in enumerate(STRENGTHS):
        mlp = MLPClassifier(**settings, mgs_strength=strength).fit(X, y)
        row = {"strength": strength, "initial_trace": start}
        row |= {f"cv_{name}": table[f"mean_test_{name}"][i] for name in scoring}
        row |= {f"accuracy{k}": table[f"split{k}_test_accuracy"][i] for k in range(N_SPLITS)}
        yield row | {
            "train": mlp.score(X, y),
            "train_agreement": agreement_on(mlp, X, y),
            "clean": mlp.score(X_test, y_test),
            "fold_agreement": table["mean_test_fold_agreement"][i],
        }


def fold_scores(rows):
    """Noisy accuracies of shape (n_strengths, n_splits)."""
    return np.column_stack([rows[f"accuracy{k}"] for k in range(N_SPLITS)])


def one_error(column, factor=1.0):
    """Choose by `column` among the candidates within `factor` standard errors of the best."""

    def rule(rows):
        folds = fold_scores(rows)
        table = {f"split{k}_test_accuracy": scores for k, scores in enumerate(folds.T)}
        table |= {"mean_test_accuracy": folds.mean(1), "mean_test_mgs": rows[column]}
        return one_standard_error()(table | {"std_test_accuracy": factor * folds.std(1)})

    return rule


def paired_error(column):
    """The same with the error of the difference to the best on the same folds."""

    def rule(rows):
        folds = fold_scores(rows)
        behind = folds[folds.mean(1).argmax()] - folds
        near = behind.mean(1) <= behind.std(1) / np.sqrt(N_SPLITS)
        return np.where(near, rows[column], -np.inf).argmax()

    return rule


def smoothed(column):
    """Greatest noisy accuracy after a parabola through it over the logarithm of the metric.

    Only the candidates within three standard errors of the best take part: a parabola does not
    describe the fall to chance.
    """

    def rule(rows):
        folds = fold_scores(rows)
        mean, error = folds.mean(1), folds.std(1) / np.sqrt(N_SPLITS)
        near = np.flatnonzero(mean >= mean.max() - 3 * error[mean.argmax()])
        if len(near) < 4:
            return mean.argmax()
        place = np.log(np.abs(rows[column][near]))
        return near[np.polyval(np.polyfit(place, mean[near], 2), place).argmax()]

    return rule


def with_agreement(column):
    """Greatest noisy CV accuracy plus half the agreement in training."""
    return lambda rows: (rows["cv_accuracy"] + rows[column] / 2).argmax()


def over_neighbours(rows):
    """Greatest noisy CV accuracy after a moving average over neighbouring strengths."""
    padded = np.pad(rows["cv_accuracy"], 1, mode="edge")
    return np.convolve(padded, [0.15, 0.7, 0.15], "valid").argmax()


def knee(rows):
    """The strength after which the trace falls fastest, per factor of strength."""
    slope = np.diff(np.log(-rows["cv_trace"][1:])) / np.diff(np.log(rows["strength"][1:]))
    return 1 + int(np.argmin(slope))


def plateau(rows):
    """The strength about which the trace changes least, per factor of strength."""
    slope = np.gradient(np.log(-rows["cv_trace"][1:]), np.log(rows["strength"][1:]))
    return 1 + int(np.argmin(np.abs(slope)))


def as_initially(rows):
    """The strength whose trace after training is nearest to the one before."""
    return np.abs(np.log(-rows["cv_trace"] / rows["initial_trace"])).argmin()


def always(strength):
    return lambda rows: STRENGTHS.index(strength)


def greatest(column):
    return lambda rows: rows[column].argmax()


PLAIN = "best noisy CV accuracy"
FOLDS = "CV accuracy + agreement in the folds / 2"
RULES = {
    PLAIN: greatest("cv_accuracy"),
    "CV accuracy + agreement in training / 2": with_agreement("train_agreement"),
    FOLDS: with_agreement("fold_agreement"),
    "CV averaged over neighbours": over_neighbours,
    "best noisy CV log-likelihood": greatest("cv_log_loss"),
    "one s.e., least trace": one_error("cv_trace"),
    "half a s.e., least trace": one_error("cv_trace", 0.5),
    "paired s.e., least trace": paired_error("cv_trace"),
    "one s.e., least effective rank": one_error("cv_effective_rank"),
    "one s.e., greatest cosine": one_error("cv_cosine"),
    "one s.e., greatest agreement in training": one_error("train_agreement"),
    "one s.e., greatest CV agreement": one_error("cv_agreement"),
    "CV smoothed over the trace": smoothed("cv_trace"),
    "greatest agreement in training": greatest("train_agreement"),
    "greatest CV agreement": greatest("cv_agreement"),
    "no labels: least trace": greatest("cv_trace"),
    "no labels: least effective rank": greatest("cv_effective_rank"),
    "no labels: greatest cosine": greatest("cv_cosine"),
    "no labels: knee of the trace": knee,
    "no labels: plateau of the trace": plateau,
    "no labels: trace as initially": as_initially,
    "always 0": always(0.0),
    "always 0.6": always(0.6),
    "always 1": always(1.0),
}


def read():
    """Rows of the results so far, by set, noise and seed."""
    cases = {}
    if RESULTS.exists():
        with RESULTS.open() as file:
            for row in csv.DictReader(file):
                key = row.pop("set"), float(row.pop("noise")), int(row.pop("seed"))
                cases.setdefault(key, []).append({k: float(v or "nan") for k, v in row.items()})
    return cases


def append(key, rows):
    RESULTS.parent.mkdir(exist_ok=True)
    fresh = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        for row in rows:
            row = dict(zip(("set", "noise", "seed"), key)) | row
            writer = csv.DictWriter(file, list(row))
            if fresh:
                writer.writeheader()
                fresh = False
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def gaps_of(cases):
    """Accuracy lost to the best strength, by rule, one number for each case."""
    tables = [{c: np.array([row[c] for row in rows]) for c in rows[0]} for rows in cases.values()]
    gaps = {
        name: np.array([t["clean"].max() - t["clean"][rule(t)] for t in tables])
        for name, rule in RULES.items()
    }
    unknown = np.array([np.isnan(t["fold_agreement"]).any() for t in tables])
    gaps[FOLDS][unknown] = np.nan
    return gaps


def summarise(cases):
    """Mean gap to the oracle of each rule, by set and by noise, and beside plain CV's."""
    if not cases:
        return
    keys, gaps = list(cases), gaps_of(cases)
    groups = {name: np.array([key[0] == name for key in keys]) for name in SETS}
    groups |= {f"noise {n:g}": np.array([key[1] == n for key in keys]) for n in NOISES}
    groups = {name: chosen for name, chosen in groups.items() if chosen.any()}
    print(f"{len(cases)} cases; accuracy lost to the best strength, in percentage points")
    header = "".join(f"{name[:9]:>10}" for name in groups)
    print(f"{'':42}{header}{'all ± s.e.':>13}{'minus plain CV':>16}")
    known = {name: gap for name, gap in gaps.items() if not np.isnan(gap).any()}
    for name, gap in sorted(known.items(), key=lambda item: item[1].mean()):
        cells = "".join(f"{100 * gap[chosen].mean():10.2f}" for chosen in groups.values())
        for values, width in ((gap, 7), (gap - gaps[PLAIN], 10)):
            error = np.std(values, ddof=1) / np.sqrt(len(values))
            cells += f"{100 * values.mean():{width}.2f} ± {100 * error:.2f}"
        print(f"{name:42}{cells}")


def run(args):
    """Add the cases that are not in the results yet, a seed at a time."""
    done, data = read(), {name: load(name, args) for name in SETS}
    print("no file:", [name for name in SETS if data[name] is None])
    for seed in range(args.seeds):
        for noise in NOISES:
            for name in SETS:
                if data[name] is not None and (name, noise, seed) not in done:
                    append((name, noise, seed), list(measure(*data[name], noise, seed)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cls", type=Path, default=Path("cls"))
    parser.add_argument("--mnist1d", type=Path, default=Path("mnist1d_16k.npz"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--summary", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    if not args.summary:
        run(args)
    cases = read()
    summarise(cases)
    summarise({key: rows for key, rows in cases.items() if key[2] > 4})


if __name__ == "__main__":
    main()
