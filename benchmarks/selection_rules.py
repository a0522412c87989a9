"""Choosing the MGS strength on noisy labels: by which rule is the least accuracy lost?

For each data set, share of random labels and seed, every strength is cross-validated on noisy
labels (600 samples, three folds) and fitted once to all of them. Rules choose a strength from what
a user could know; the gap is the clean test accuracy of the best strength (the oracle) minus that
of the chosen one.

    OMP_NUM_THREADS=1 python benchmarks/selection_rules.py \
        --cls PATH/TO/cls --mnist1d PATH/TO/mnist1d_16k.npz

Sets whose file is absent are left out; digits come with scikit-learn. Results accumulate in
benchmarks/results, and what is there is not run again. A quarter of an hour on one core.
"""

import argparse
import csv
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold, cross_validate, train_test_split
from sklearn.preprocessing import StandardScaler

from sklearn_mgs import MLPClassifier, make_mgs_scorer, one_standard_error
from sklearn_mgs._resolve import resolved
from sklearn_mgs.callbacks import agreement
from sklearn_mgs.gram import gram_matrix

RESULTS = Path(__file__).parent / "results" / "selection_rules.csv"
SETS = ["digits", "MNIST-1D", "optdigits", "satimage", "segmentation", "twonorm", "phoneme"]
NOISES = [0.2, 0.4, 0.6]
STRENGTHS = [0.0, 0.03, 0.1, 0.3, 1.0, 3.0]
N_SPLITS = 3
METRICS = ["trace", "effective_rank", "cosine"]
SETTINGS = {
    "hidden_layer_sizes": (64,),
    "learning_rate_init": 0.01,
    "batch_size": 64,
    "max_iter": 40,
    "n_iter_no_change": 40,
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
    """Agreement of a network with kernel regression on its training labels."""
    with resolved(estimator, X) as (module, inputs), torch.no_grad():
        targets = torch.from_numpy(np.searchsorted(estimator.classes_, y))
        return float(agreement(gram_matrix(module, inputs), module(inputs), targets, 0.3))


def measure(X, y, noise, seed):
    """Rows of the table: what is known of each strength, and its accuracy on clean labels."""
    X, y, X_test, y_test = noisy_split(X, y, noise, seed)
    scoring = {"accuracy": "accuracy"} | {m: make_mgs_scorer(m) for m in METRICS}
    for strength in STRENGTHS:
        mlp = MLPClassifier(**SETTINGS, mgs_strength=strength, random_state=seed)
        cv = StratifiedKFold(N_SPLITS, shuffle=True, random_state=seed)
        scores = cross_validate(mlp, X, y, scoring=scoring, cv=cv)
        mlp.fit(X, y)
        row = {f"cv_{name}": np.mean(scores[f"test_{name}"]) for name in scoring}
        yield row | {
            "strength": strength,
            "std_accuracy": np.std(scores["test_accuracy"]),
            "agreement": agreement_on(mlp, X, y),
            "clean": mlp.score(X_test, y_test),
        }


def within_one_standard_error(column):
    """Choose by `column` among the candidates near the best CV score."""

    def rule(rows):
        results = {"mean_test_accuracy": rows["cv_accuracy"], "mean_test_mgs": rows[column]}
        results["std_test_accuracy"] = rows["std_accuracy"]
        folds = dict.fromkeys([f"split{i}_test_accuracy" for i in range(N_SPLITS)], 0)
        return one_standard_error()(results | folds)

    return rule


def knee(rows):
    """The strength after which the trace falls fastest, per factor of strength."""
    log_trace = np.log(-rows["cv_trace"][1:])
    slope = np.diff(log_trace) / np.diff(np.log(rows["strength"][1:]))
    return 1 + int(np.argmin(slope))


RULES = {
    "best noisy CV score": lambda rows: rows["cv_accuracy"].argmax(),
    "one s.e., least trace (default)": within_one_standard_error("cv_trace"),
    "one s.e., least effective rank": within_one_standard_error("cv_effective_rank"),
    "one s.e., greatest cosine": within_one_standard_error("cv_cosine"),
    "one s.e., greatest agreement": within_one_standard_error("agreement"),
    "greatest agreement": lambda rows: rows["agreement"].argmax(),
    "no labels: least effective rank": lambda rows: rows["cv_effective_rank"].argmax(),
    "no labels: greatest cosine": lambda rows: rows["cv_cosine"].argmax(),
    "no labels: knee of the trace": knee,
    "always 0": lambda rows: 0,
    "always 0.3": lambda rows: STRENGTHS.index(0.3),
}


def read():
    """Rows of the results so far, by set, noise and seed."""
    cases = {}
    if RESULTS.exists():
        with RESULTS.open() as file:
            for row in csv.DictReader(file):
                key = row.pop("set"), float(row.pop("noise")), int(row.pop("seed"))
                cases.setdefault(key, []).append({k: float(v) for k, v in row.items()})
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


def summarise(cases):
    """Mean gap to the oracle of each rule, by set and by noise."""
    names = [name for name in SETS if any(key[0] == name for key in cases)]
    print(f"{len(cases)} cases; gap in clean accuracy to the best strength")
    header = [*names, *(f"noise {noise:g}" for noise in NOISES), "all"]
    print(f"{'':32}" + "".join(f"{name[:12]:>13}" for name in header))
    for rule_name, rule in RULES.items():
        gaps = {}
        for key, rows in cases.items():
            table = {column: np.array([row[column] for row in rows]) for column in rows[0]}
            gaps[key] = table["clean"].max() - table["clean"][rule(table)]
        groups = [[g for key, g in gaps.items() if key[0] == name] for name in names]
        groups += [[g for key, g in gaps.items() if key[1] == noise] for noise in NOISES]
        groups.append(list(gaps.values()))
        cells = "".join(f"{np.mean(group):13.4f}" for group in groups)
        print(f"{rule_name:32}{cells}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cls", type=Path, default=Path("cls"))
    parser.add_argument("--mnist1d", type=Path, default=Path("mnist1d_16k.npz"))
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    done = read()
    for name in SETS:
        data = load(name, args)
        if data is None:
            print(f"{name}: no file")
            continue
        for noise in NOISES:
            for seed in range(args.seeds):
                if (name, noise, seed) not in done:
                    append((name, noise, seed), list(measure(*data, noise, seed)))
    summarise(read())


if __name__ == "__main__":
    main()
