"""
==============================================
How straight is a network between the samples?
==============================================

Kubo et al. (arXiv:1903.01997) found that random initialisation and stochastic gradient descent
keep over-parameterised networks almost straight between the samples, and that regularisers
straighten them further. Here we look for both on scikit-learn's digits: networks with two hidden
layers against their width, at initialisation and after training with SGD, on clean and on noisy
labels, without and with each regulariser; and whether straight networks are those with similar
model gradients.

The definitions of gradient deflection and gap deviation are this package's own, from the abstract
of that paper. This is the lighter version of ``benchmarks/straightness_study.py``, whose numbers,
with more widths, seeds and strengths, are in the user guide (:doc:`/between_samples`).
"""

# %%
# Networks
# --------
# 300 samples; a share of the labels is drawn anew for the noisy case. Straightness and gradient
# similarity are both measured on the training samples, and neither looks at labels.

import warnings
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from sklearn_mgs import (
    MLPClassifier,
    SegmentDisplay,
    gradient_deflection,
    gradient_gap_deviation,
    mgs_score,
    path_kinks,
)

warnings.filterwarnings("ignore", category=ConvergenceWarning)  # each fit has its epochs

NOISE = 0.3
X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
rng = np.random.default_rng(0)
noisy = np.where(rng.random(len(y)) < NOISE, rng.integers(0, 10, len(y)), y)
train, rest = train_test_split(np.arange(len(y)), train_size=300, stratify=y, random_state=0)
held_out, test = rest[:300], rest[300:]
LABELS = {"clean": y, "noisy": noisy}


def network(width, seed=0, **changes):
    """Two hidden layers of this width, for SGD without a regulariser but for the changes."""
    sgd = {"solver": "sgd", "learning_rate_init": 0.05, "batch_size": 50, "alpha": 0.0}
    return MLPClassifier((width, width), random_state=seed, **sgd | changes)


def deflections(net, n_pairs=30):
    """Between pairs of training samples: the deflection, and that relative to the chords."""
    pairs = {"n_pairs": n_pairs, "random_state": 0}
    return {
        "deflection": gradient_deflection(net, X[train], **pairs),
        "relative": gradient_deflection(net, X[train], relative=True, **pairs),
    }


# %%
# Initialisation and training
# ---------------------------
# A network at initialisation is one that made one epoch with a vanishing learning rate. Trained
# networks are compared at the same training loss, at which they give nearly all samples their
# label: after the same epochs narrow ones would not have learned the noisy labels yet. The finding
# is one on over-parameterised networks. With 8 units not all get there, with 16 they do.

SEEDS = [0, 1, 2]
WIDTHS = [16, 40, 100, 400, 1000]
CLASSES = np.arange(10)


def at_initialisation(width, seed):
    still = network(width, seed, learning_rate_init=1e-12)
    return still.partial_fit(X[train], y[train], classes=CLASSES)


def trained_to(loss, width, labels, seed):
    net = network(width, seed).partial_fit(X[train], labels[train], classes=CLASSES)
    while log_loss(labels[train], net.predict_proba(X[train])) > loss:
        net.partial_fit(X[train], labels[train])
    return net


def straightness(net):
    pairs = {"n_pairs": 30, "random_state": 0}
    return deflections(net) | {
        "gap": gradient_gap_deviation(net, X[train], **pairs),
        "kinks": path_kinks(net, X[train], **pairs),
    }


of_first_seed = {}
curves = {"at initialisation": {}, "clean labels": {}, "noisy labels": {}}
for width in WIDTHS:
    found = [straightness(at_initialisation(width, seed)) for seed in SEEDS]
    curves["at initialisation"][width] = found
    for name, labels in LABELS.items():
        nets = [trained_to(0.05, width, labels, seed) for seed in SEEDS]
        curves[f"{name} labels"][width] = [straightness(net) for net in nets]
        of_first_seed[name, width] = nets[0]

TITLES = {
    "deflection": "gradient deflection",
    "relative": "deflection relative to the chords",
    "gap": "gap deviation at a kink",
    "kinks": "kinks between two samples",
}
print("without a regulariser      width" + "".join(f"{name:>20}" for name in TITLES))
for name, of_width in curves.items():
    for width, found in of_width.items():
        row = f"{name:25} {width:6d}"
        for measure in TITLES:
            values = [f[measure] for f in found]
            row += f"{np.mean(values):12.4g} ±{np.std(values, ddof=1):6.2g}"
        print(row)

figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), sharex=True, layout="constrained")
for ax, (measure, title) in zip(axes.flat, TITLES.items()):
    for (name, of_width), style in zip(curves.items(), ("k--", "C0-", "C3-")):
        values = [[f[measure] for f in found] for found in of_width.values()]
        middle = [np.mean(v) for v in values]
        low, high = [min(v) for v in values], [max(v) for v in values]
        ax.plot(WIDTHS, middle, style, marker="o", label=name)
        ax.fill_between(WIDTHS, low, high, color=style.rstrip("-"), alpha=0.15)
    ax.set(title=title, xscale="log", yscale="linear" if measure == "relative" else "log")
    ax.set_xticks(WIDTHS, WIDTHS)
    ax.set_xticks([], minor=True)
axes[0, 1].set_ylim(0, None)
for ax in axes[1]:
    ax.set_xlabel("units in each hidden layer")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)

# %%
# After SGD the deflection falls with the width, and so does that relative to the chords: wide
# networks are the straighter ones, on noisy labels too, which bend networks more. From 400 units
# on there is little left to gain.
#
# At initialisation the deflection falls only where the layers are wider than the 64 inputs, since
# the scale of the initial weights does, and the relative deflection does not fall. It cannot: the
# outputs are sums over units drawn alike, and so is their bending. On average, the squares of the
# deflection and of the chords grow with the width in the same proportion, exactly so with one
# hidden layer.

# %%
# One segment
# -----------
# The outputs of a narrow and of a wide network between the same two training samples, both after
# training to the same loss on noisy labels. A straight network would follow the dashed chords.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for ax, width in zip(axes, (WIDTHS[0], WIDTHS[-1])):
    net = of_first_seed["noisy", width]
    SegmentDisplay.from_estimator(net, X[train[0]], X[train[1]], ax=ax)
    ax.get_legend().remove()
    ax.set_title(f"{width} units, noisy labels", pad=12)
axes[1].set_ylabel("")

# %%
# Regularisers
# ------------
# Each at the strength that had the best accuracy on held-out samples with noisy labels, at width
# 100, of four in the study: no choice looked at straightness. (Only of the loss gradient it is the
# next weaker one, since at 1 some of the networks here learn nothing.) Early stopping keeps the
# best of the 100 epochs that the others train.

REGULARISERS = {
    "none": {},
    "L2": {"alpha": 1},
    "L1": {"l1": 1},
    "dropout": {"dropout": 0.6},
    "input noise": {"input_noise": 0.4},
    "label smoothing": {"label_smoothing": 0.9},
    "input Jacobian": {"jacobian_strength": 0.03},
    "loss gradient": {"gradient_strength": 0.3},
    "early stopping": {"early_stopping": True},
    "coherent L2": {"alpha": 10, "coherence_threshold": 0.5},
    "coherent L1": {"l1": 10, "coherence_threshold": 0.1},
    "MGS": {"mgs_strength": 0.3},
    "MGS det": {"mgs_strength": 0.1, "mgs_metric": "det"},
}
REGULARISED_WIDTHS = [40, 200]


def regularised(width, labels, **changes):
    net = network(width, max_iter=100, n_iter_no_change=100, **changes)
    stop = {"X_val": X[held_out], "y_val": labels[held_out]} if net.early_stopping else {}
    return net.fit(X[train], labels[train], **stop)


after = {}
for labels, width, name in product(LABELS, REGULARISED_WIDTHS, REGULARISERS):
    net = regularised(width, LABELS[labels], **REGULARISERS[name])
    after[labels, width, name] = deflections(net) | {
        "trace": mgs_score(net, X[train]),
        "cosine": mgs_score(net, X[train], metric="cosine"),
        "train": net.score(X[train], LABELS[labels][train]),
        "test": net.score(X[test], y[test]),
    }

print("labels  width  regulariser      deflection  relative   trace  cosine  train  test")
for (labels, width, name), row in after.items():
    print(
        f"{labels:6} {width:6d}  {name:15} {row['deflection']:11.3f} {row['relative']:9.3f} "
        f"{row['trace']:7.0f} {row['cosine']:7.3f} {row['train']:6.2f} {row['test']:5.2f}"
    )

# %%
# What each regulariser changes: its networks' deflection over that of the network without one, to
# the left of 1 where it straightens. On noisy labels all lower the deflection itself, or leave it
# as it is. The second panel is what remains when the chords' slopes, which regularisers flatten
# too, are divided out: there L2 and coherent L2 straighten, and early stopping on noisy labels;
# most of the others bend, wide networks and clean labels above all.

figure, axes = plt.subplots(1, 2, figsize=(9, 5), sharex=True, sharey=True, layout="constrained")
names = [name for name in REGULARISERS if name != "none"]
for ax, measure in zip(axes, ("deflection", "relative")):
    for (labels, color), (width, marker) in product(
        zip(LABELS, ("C0", "C3")), zip(REGULARISED_WIDTHS, "oD")
    ):
        none = after[labels, width, "none"][measure]
        ratios = [after[labels, width, name][measure] / none for name in names]
        face = color if width == REGULARISED_WIDTHS[-1] else "none"
        label = f"{labels} labels, {width} units"
        ax.plot(ratios, names, marker, color=color, markerfacecolor=face, label=label)
    ax.axvline(1, color="black", linewidth=1)
    ax.set(xscale="log", title=TITLES[measure], xlabel="ratio to no regulariser")
    ax.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2, 5], ["0.05", "0.1", "0.2", "0.5", "1", "2", "5"])
    ax.set_xticks([], minor=True)
    ax.grid(axis="y", alpha=0.3)
axes[0].invert_yaxis()
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)

# %%
# Do straightness and gradient similarity rank models alike?
# ----------------------------------------------------------
# Spearman's rank correlation over the networks of the same labels and width, with and without a
# regulariser. The deflection goes with the trace of the MGS kernel: both grow with the scale of
# the outputs. Free of that scale, the relative deflection does not go with the trace, but with the
# mean cosine between the samples' gradients: the straighter a network, the more alike the
# directions of its gradients.

PAIRS = [("deflection", "trace"), ("relative", "trace"), ("relative", "cosine")]
for (a, b), labels, width in product(PAIRS, LABELS, REGULARISED_WIDTHS):
    rows = [after[labels, width, name] for name in REGULARISERS]
    rho = spearmanr([r[a] for r in rows], [r[b] for r in rows]).statistic
    print(f"{a:10} and {b:6}, {labels} labels, width {width:3d}: rank correlation {rho:5.2f}")

AXES = {
    "trace": "trace of the MGS kernel / n",
    "cosine": "mean cosine between gradients",
    "deflection": "gradient deflection",
    "relative": "deflection relative to the chords",
}
figure, axes = plt.subplots(1, 3, figsize=(10, 4), layout="constrained")
for ax, (a, b) in zip(axes, PAIRS):
    for (labels, color), (width, marker) in product(
        zip(LABELS, ("C0", "C3")), zip(REGULARISED_WIDTHS, "oD")
    ):
        rows = [after[labels, width, name] for name in REGULARISERS]
        face = color if width == REGULARISED_WIDTHS[-1] else "none"
        label = f"{labels} labels, {width} units"
        points = [r[b] for r in rows], [r[a] for r in rows]
        ax.plot(*points, marker, color=color, markerfacecolor=face, label=label)
    ax.set(xlabel=AXES[b], ylabel=AXES[a], xscale="log" if b == "trace" else "linear")
axes[0].set_yscale("log")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
