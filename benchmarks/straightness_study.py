"""How straight networks are between samples, against width, training and every regulariser.

    python benchmarks/straightness_study.py [--seeds 5] [--regularised-seeds 3] [--rows FILE]

scikit-learn's digits; ReLU networks with two hidden layers, SGD. Each seed draws the split (300
samples to train on, 300 held out, the rest to test on), the wrong labels (30 % of the training and
of the held-out samples get one at random, the test samples none) and the initial weights. Prints
the tables of the documentation's page on straightness. With `--rows`, the measured networks are
written to that file; where it exists, nothing is trained and its tables are printed.
"""

import argparse
import json
import warnings
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from sklearn_mgs import (
    MLPClassifier,
    gradient_deflection,
    gradient_gap_deviation,
    mgs_score,
    path_kinks,
)

LABELS = ["clean", "noisy"]
NOISE = 0.3
WIDTHS = [8, 16, 40, 100, 200, 400, 1000]
FITTING = WIDTHS[1:]  # 8 units do not fit the noisy labels
REGULARISED_WIDTHS = [16, 100, 400]
EPOCHS = 100  # of networks with a regulariser, and of those compared with them
SAME_EPOCHS = 50
LOSS = 0.05  # on the training samples, at which networks of all widths are compared
PATIENCE = 500  # epochs, in which that loss must be reached
N_PAIRS = 50

# Four strengths each. The coherent ones have a strength at which the plain ones learn nothing, and
# choose their threshold; early stopping keeps the best of all epochs, and has nothing to choose.
COHERENT = {
    "coherent L2": ("alpha", (0.5, 0.7, 0.8, 0.9)),
    "coherent L1": ("l1", (0.05, 0.1, 0.2, 0.3)),
}
STRENGTHS = {
    "L2": ("alpha", (0.1, 0.3, 1, 3)),
    "L1": ("l1", (0.1, 0.3, 1, 3)),
    "dropout": ("dropout", (0.1, 0.2, 0.4, 0.6)),
    "input noise": ("input_noise", (0.1, 0.2, 0.4, 0.8)),
    "label smoothing": ("label_smoothing", (0.1, 0.3, 0.6, 0.9)),
    "input Jacobian": ("jacobian_strength", (0.003, 0.01, 0.03, 0.1)),
    "loss gradient": ("gradient_strength", (0.03, 0.1, 0.3, 1)),
    "early stopping": ("early_stopping", (True,)),
    **COHERENT,
    "MGS": ("mgs_strength", (0.01, 0.03, 0.1, 0.3)),
    "MGS det": ("mgs_strength", (0.01, 0.03, 0.1, 0.3)),
}


def options(name, value):
    """Parameters of the estimator for a regulariser at one of its strengths."""
    parameter = STRENGTHS[name][0]
    if name in COHERENT:
        return {parameter: 10.0, "coherence_threshold": value}
    return {parameter: value} | ({"mgs_metric": "det"} if name == "MGS det" else {})


def draw(seed):
    """Pairs (X, y) to train on, hold out and test on, for each kind of labels."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    X, X_rest, y, y_rest = train_test_split(X, y, train_size=300, stratify=y, random_state=seed)
    X_val, X_test, y_val, y_test = train_test_split(
        X_rest, y_rest, train_size=300, stratify=y_rest, random_state=seed
    )
    rng = np.random.default_rng(seed)

    def noisy(y):
        return np.where(rng.random(len(y)) < NOISE, rng.integers(0, 10, len(y)), y)

    return {
        "clean": ((X, y), (X_val, y_val), (X_test, y_test)),
        "noisy": ((X, noisy(y)), (X_val, noisy(y_val)), (X_test, y_test)),
    }


def network(width, seed, **changes):
    sgd = {"solver": "sgd", "learning_rate_init": 0.05, "batch_size": 50, "alpha": 0.0}
    length = {"max_iter": EPOCHS, "n_iter_no_change": EPOCHS}
    return MLPClassifier((width, width), random_state=seed, **sgd | length | changes)


def measured(net, train, held_out, test):
    """Straightness between training samples, similarity of their gradients, accuracies."""
    X, pairs = train[0], {"n_pairs": N_PAIRS, "random_state": 0}
    return {
        "deflection": gradient_deflection(net, X, **pairs),
        "relative": gradient_deflection(net, X, relative=True, **pairs),
        "trace": mgs_score(net, X),
        "cosine": mgs_score(net, X, metric="cosine"),
        "train": net.score(*train),
        "held out": net.score(*held_out),
        "test": net.score(*test),
    }


def kinks_of(net, X):
    pairs = {"n_pairs": N_PAIRS, "random_state": 0}
    return {
        "gap": gradient_gap_deviation(net, X, **pairs),
        "kinks": path_kinks(net, X, **pairs),
    }


def against_width(seed, sets, width):
    """Rows of a network without regulariser: at initialisation, and twice in its training."""

    def row(net, moment, labels, epochs):
        about = {"moment": moment, "labels": labels, "width": width, "seed": seed}
        found = measured(net, *sets[labels]) | kinks_of(net, sets[labels][0][0])
        return about | {"epochs": epochs} | found

    for labels in LABELS:
        (X, y), *_ = sets[labels]
        classes = np.arange(10)
        if labels == "clean":
            still = network(width, seed, learning_rate_init=1e-12)
            yield row(still.partial_fit(X, y, classes=classes), "initialisation", labels, 0)
        net, fits = network(width, seed), False
        for epoch in range(1, PATIENCE + 1):
            net.partial_fit(X, y, classes=classes)
            if not fits and log_loss(y, net.predict_proba(X)) <= LOSS:
                fits = True
                yield row(net, "same loss", labels, epoch)
            if epoch == SAME_EPOCHS:
                yield row(net, "same epochs", labels, epoch)
            if fits and epoch >= SAME_EPOCHS:
                break
        if not fits:
            yield row(net, "not fitted", labels, PATIENCE)


def regularised(seed, sets, width):
    """Rows of a network with each regulariser at each of its strengths, and with none."""
    candidates = [("none", None, {})]
    for name, (_, values) in STRENGTHS.items():
        candidates += [(name, value, options(name, value)) for value in values]
    for labels, (name, value, changes) in product(LABELS, candidates):
        train, (X_val, y_val), _ = sets[labels]
        stop = {"X_val": X_val, "y_val": y_val} if name == "early stopping" else {}
        net = network(width, seed, **changes).fit(*train, **stop)
        about = {"name": name, "value": value, "labels": labels, "width": width, "seed": seed}
        yield about | measured(net, *sets[labels])


def run(seeds, regularised_seeds):
    """All rows: of networks without a regulariser against width, and of those with one."""
    rows = {"widths": [], "regularised": []}
    for seed in range(max(seeds, regularised_seeds)):
        sets = draw(seed)
        for width in WIDTHS if seed < seeds else []:
            rows["widths"] += against_width(seed, sets, width)
        for width in REGULARISED_WIDTHS if seed < regularised_seeds else []:
            rows["regularised"] += regularised(seed, sets, width)
    return rows


# ------------------------------------------------------------------------------------- tables


def where(rows, **conditions):
    return [row for row in rows if all(row[key] == value for key, value in conditions.items())]


def column(rows, key):
    return np.array([row[key] for row in rows])


def line(*cells):
    print("| " + " | ".join(map(str, cells)) + " |")


def header(*cells):
    print()
    line(*cells)
    line(*["---"] * len(cells))


def print_widths(rows, moment, labels, measures):
    """Mean ± standard deviation over the seeds, for each width."""
    n_seeds = len({row["seed"] for row in rows})
    header(f"{moment}, {labels}", *measures)
    for width in WIDTHS:
        found = where(rows, moment=moment, labels=labels, width=width)
        if len(found) < n_seeds:
            others = where(rows, moment="not fitted", labels=labels, width=width)
            accuracy = column(others, "train").mean()
            line(width, f"{len(others)} of {n_seeds} do not reach it: accuracy {accuracy:.2f}")
            continue
        cells = [column(found, key) for key in measures]
        line(width, *(f"{v.mean():.4g} ± {v.std(ddof=1):.2g}" for v in cells))


def print_exponents(rows, measures):
    """Slope of log measure against log width, from 16 units on: mean ± deviation over seeds."""
    header("exponent of the width", *measures)
    seeds = sorted({row["seed"] for row in rows})
    moments = [("initialisation", "clean"), *product(["same loss", "same epochs"], LABELS)]
    for moment, labels in moments:
        cells = []
        for key in measures:
            slopes = []
            for seed in seeds:
                found = where(rows, moment=moment, labels=labels, seed=seed)
                found = [row for row in found if row["width"] in FITTING]
                x, y = np.log(column(found, "width")), np.log(column(found, key))
                slopes.append(np.polyfit(x, y, 1)[0])
            cells.append(f"{np.mean(slopes):.2f} ± {np.std(slopes, ddof=1):.2f}")
        line(f"{moment}, {labels}", *cells)


def chosen(rows):
    """For each regulariser, labels and width: the strength of the best mean held-out accuracy."""
    best = {}
    for (name, (_, values)), labels, width in product(
        STRENGTHS.items(), LABELS, REGULARISED_WIDTHS
    ):
        here = {"name": name, "labels": labels, "width": width}
        score = [column(where(rows, value=v, **here), "held out").mean() for v in values]
        best[name, labels, width] = values[int(np.argmax(score))]
    return best


def print_ends(best):
    """How often the weakest or the strongest candidate was chosen."""
    of_several = {key: STRENGTHS[key[0]][1] for key in best if len(STRENGTHS[key[0]][1]) > 1}
    ends = [key for key, values in of_several.items() if best[key] in (values[0], values[-1])]
    print(f"\nIn {len(ends)} of {len(of_several)} cases the choice is the first or the last.")


def print_regularisers(rows, best, measure):
    """Ratio to the network without a regulariser: geometric mean, least and greatest seed."""
    columns = [*product(LABELS, REGULARISED_WIDTHS)]
    header(f"{measure}, ratio to none", *(f"{labels}, {w}" for labels, w in columns))
    plain = {c: where(rows, name="none", labels=c[0], width=c[1]) for c in columns}
    line("none (value)", *(f"{column(plain[c], measure).mean():.3g}" for c in columns))
    for name in STRENGTHS:
        cells = []
        for labels, width in columns:
            value = best[name, labels, width]
            found = where(rows, name=name, value=value, labels=labels, width=width)
            ratio = column(found, measure) / column(plain[labels, width], measure)
            mean = np.exp(np.log(ratio).mean())
            cells.append(f"{mean:.2f} ({ratio.min():.2f} to {ratio.max():.2f})")
        line(name, *cells)


def print_shares(rows):
    """Of networks at all strengths: how many are straighter than the one without regulariser."""
    columns = [*product(["deflection", "relative"], LABELS)]
    header("straighter, whatever the strength", *(f"{m}, {labels}" for m, labels in columns))
    plain = {(r["labels"], r["width"], r["seed"]): r for r in where(rows, name="none")}
    learned = [row for row in rows if row["train"] >= 0.5]
    for name in STRENGTHS:
        cells = []
        for measure, labels in columns:
            found = where(learned, name=name, labels=labels)
            others = [plain[labels, row["width"], row["seed"]] for row in found]
            lower = column(found, measure) < column(others, measure)
            cells.append(f"{lower.sum()} of {len(found)}")
        line(name, *cells)


def print_accuracies(rows, best):
    """Strength, training and test accuracy of the chosen networks: means over the seeds."""
    columns = [*product(LABELS, REGULARISED_WIDTHS)]
    header("strength: training, test accuracy", *(f"{labels}, {w}" for labels, w in columns))
    for name in ["none", *STRENGTHS]:
        cells = []
        for labels, width in columns:
            value = best.get((name, labels, width))
            found = where(rows, name=name, value=value, labels=labels, width=width)
            strength = f"{value}: " if isinstance(value, float | int) and value is not True else ""
            means = (column(found, key).mean() for key in ("train", "test"))
            cells.append(strength + "{:.2f}, {:.3f}".format(*means))
        line(name, *cells)


def print_falls(rows, measure):
    """In how many seeds the measure falls from each width to the next, and by what over all."""
    n_seeds = len({row["seed"] for row in rows})
    steps = [*pairwise(FITTING)]
    header(f"seeds of {n_seeds} in which {measure} falls", *(f"{a}, {b}" for a, b in steps), "all")
    for moment, labels in product(["same loss", "same epochs"], LABELS):
        values = {}
        for width in FITTING:
            found = where(rows, moment=moment, labels=labels, width=width)
            values[width] = column(sorted(found, key=lambda row: row["seed"]), measure)
        counts = [int((values[b] < values[a]).sum()) for a, b in steps]
        factor = values[FITTING[0]] / values[FITTING[-1]]
        line(f"{moment}, {labels}", *counts, f"by {factor.min():.2f} to {factor.max():.2f}")


def rank_correlations(groups, a, b):
    """Mean, and of few groups least and greatest, of Spearman's correlations within groups."""
    columns = [(column(group, a), column(group, b)) for group in groups if len(group) > 2]
    rho = [spearmanr(x, y).statistic for x, y in columns if np.ptp(x) > 0 and np.ptp(y) > 0]
    if len(rho) == 1 or len(rho) > 10:
        return f"{np.mean(rho):.2f}"
    return f"{np.mean(rho):.2f} ({min(rho):.2f} to {max(rho):.2f})"


def print_ranks(widths, rows):
    """Rank correlations over all networks of some labels, and within groups of them."""
    straight_similar = [*product(["deflection", "relative"], ["trace", "cosine"])]
    accurate = [(key, "test") for key in ("deflection", "relative", "trace", "cosine")]
    learned = [row for row in rows if row["train"] >= 0.5]
    print(f"\n{len(learned)} of {len(rows)} networks have a training accuracy of at least 0.5.")
    columns = ["all", *(f"{w} units" for w in REGULARISED_WIDTHS), "one regulariser", "widths"]
    header("rank correlation", "labels", *columns)
    for (a, b), labels in product(straight_similar + accurate, LABELS):
        of_labels = where(learned, labels=labels)
        seeds = sorted({row["seed"] for row in rows})
        groups = [[of_labels]]
        for width in REGULARISED_WIDTHS:
            groups.append([where(of_labels, width=width, seed=seed) for seed in seeds])
        cells = product(STRENGTHS, REGULARISED_WIDTHS, seeds)
        groups.append([where(of_labels, name=n, width=w, seed=seed) for n, w, seed in cells])
        fitted = where(widths, moment="same loss", labels=labels)
        fitted = [row for row in fitted if row["width"] in FITTING]
        groups.append([where(fitted, seed=seed) for seed in {row["seed"] for row in fitted}])
        line(f"{a}, {b}", labels, *(rank_correlations(group, a, b) for group in groups))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="of networks without a regulariser")
    parser.add_argument("--regularised-seeds", type=int, default=3)
    parser.add_argument("--rows", type=Path, help="JSON file of the measured networks")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # each fit has its epochs
    if arguments.rows is not None and arguments.rows.exists():
        rows = json.loads(arguments.rows.read_text())
    else:
        rows = run(arguments.seeds, arguments.regularised_seeds)
        if arguments.rows is not None:
            arguments.rows.write_text(json.dumps(rows))
    straight = ["deflection", "relative", "gap", "kinks", "trace"]
    print_widths(rows["widths"], "initialisation", "clean", straight)
    for moment, labels in product(["same loss", "same epochs"], LABELS):
        accuracies = ["epochs", "train", "test"]
        print_widths(rows["widths"], moment, labels, straight + accuracies)
    print_exponents(rows["widths"], straight)
    for measure in ("deflection", "relative"):
        print_falls(rows["widths"], measure)
    best = chosen(rows["regularised"])
    print_ends(best)
    for measure in ("deflection", "relative"):
        print_regularisers(rows["regularised"], best, measure)
    print_shares(rows["regularised"])
    print_accuracies(rows["regularised"], best)
    print_ranks(rows["widths"], rows["regularised"])


if __name__ == "__main__":
    main()
