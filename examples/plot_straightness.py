"""
==============================================
How straight is a network between the samples?
==============================================

Kubo et al. (arXiv:1903.01997) found that random initialisation and stochastic gradient descent
keep over-parameterised networks almost straight between the samples, which limits their
complexity. Here we look for it on scikit-learn's digits: the gradient deflection of networks with
two hidden layers against their width, at initialisation and after training with SGD, on clean and
on noisy labels, without and with regularisers; and whether straight networks are those with
similar model gradients.

The definitions of gradient deflection and gap deviation are this package's own, from the abstract
of that paper; and one seed on one small data set is a picture, not a proof.
"""

# %%
# Networks
# --------
# A share of the labels is drawn anew for the noisy case. Straightness and gradient similarity are
# both measured on the training samples, and neither looks at labels.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from sklearn_mgs import (
    MLPClassifier,
    SegmentDisplay,
    gradient_deflection,
    gradient_gap_deviation,
    mgs_score,
    path_kinks,
)

SEED = 0
WIDTHS = [8, 40, 200]
NOISE = 0.3
REGULARISERS = {
    "none": {},
    "L2": {"alpha": 0.3},
    "L1": {"l1": 0.3},
    "dropout": {"dropout": 0.3},
    "input noise": {"input_noise": 0.2},
    "label smoothing": {"label_smoothing": 0.2},
    "input Jacobian": {"jacobian_strength": 0.03},
    "loss gradient": {"gradient_strength": 0.3},
    "MGS": {"mgs_strength": 0.1},
}

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, train_size=300, stratify=y, random_state=SEED
)
rng = np.random.default_rng(SEED)
noisy = np.where(rng.random(len(y_train)) < NOISE, rng.integers(0, 10, len(y_train)), y_train)
LABELS = {"clean": y_train, "noisy": noisy}


def trained(width, labels, **changes):
    """A network with two hidden layers of this width, after SGD."""
    options = {"alpha": 0.0, "learning_rate_init": 0.05, "max_iter": 50, **changes}
    network = MLPClassifier(
        (width, width), solver="sgd", batch_size=50, random_state=SEED, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network.fit(X_train, labels)


def measured(network):
    """Straightness between pairs of training samples, gradient similarity and accuracy."""
    options = {"n_pairs": 100, "random_state": SEED}
    return {
        "deflection": gradient_deflection(network, X_train, **options),
        "relative": gradient_deflection(network, X_train, relative=True, **options),
        "gap": gradient_gap_deviation(network, X_train, relative=True, **options),
        "kinks": path_kinks(network, X_train, **options),
        "mgs": mgs_score(network, X_train),
        "accuracy": network.score(X_test, y_test),
    }


# %%
# Initialisation and training
# ---------------------------
# A network at initialisation is one that was trained for one epoch with a vanishing learning
# rate. The printed deflection and gap deviation are relative to the chords, so that the scale of
# the outputs, which grows in training, plays no part.

start = {
    width: measured(trained(width, y_train, max_iter=1, learning_rate_init=1e-12))
    for width in WIDTHS
}
networks = {
    (labels, name, width): trained(width, LABELS[labels], **changes)
    for labels in LABELS
    for name, changes in REGULARISERS.items()
    for width in WIDTHS
}
after = {key: measured(network) for key, network in networks.items()}

print("labels regulariser     width  deflection  relative    gap  kinks  MGS trace  accuracy")
rows = {("", "at start", width): row for width, row in start.items()} | after
for (labels, name, width), row in rows.items():
    print(
        f"{labels:6} {name:15} {width:5d} {row['deflection']:11.3f} {row['relative']:9.3f} "
        f"{row['gap']:6.3f} {row['kinks']:6.1f} {row['mgs']:10.0f} {row['accuracy']:9.3f}"
    )

# %%
# Against the width
# -----------------
# Wider networks have more kinks on the way from one sample to the next, but each turns the slope
# less. At initialisation the two compensate, and the deflection does not fall with the width. It
# is after training that wide networks are straighter than narrow ones, relative to the chords:
# more so on clean labels, where a straight line from class to class does, than on noisy ones.
#
# Of the regularisers, L2 and L1 straighten the networks throughout. The others lower the
# deflection where the network would fit noise, but they flatten the chords as much or more:
# relative to them they bend wide networks.

figure, axes = plt.subplots(2, 2, figsize=(9, 7), sharex=True, sharey="row", layout="constrained")
for column, labels in zip(axes.T, LABELS):
    for ax, what in zip(column, ("deflection", "relative")):
        ax.plot(WIDTHS, [start[w][what] for w in WIDTHS], "k--", label="at start")
        for name in REGULARISERS:
            ax.plot(WIDTHS, [after[labels, name, w][what] for w in WIDTHS], "o-", label=name)
    column[0].set(title=f"{labels} labels", yscale="log")
    column[1].set(xlabel="units in each hidden layer", xscale="log", ylim=(0, None))
    column[1].set_xticks(WIDTHS, WIDTHS)
    column[1].set_xticks([], minor=True)
axes[0, 0].set_ylabel("gradient deflection")
axes[1, 0].set_ylabel("gradient deflection, relative to the chords")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")

# %%
# One segment
# -----------
# The outputs of the widest unregularised network on the way between two training samples; a
# straight network would follow the dashed chords.

SegmentDisplay.from_estimator(networks["clean", "none", WIDTHS[-1]], X_train[0], X_train[1])

# %%
# Do straightness and gradient similarity rank models alike?
# ----------------------------------------------------------
# Spearman's rank correlation of the deflection with the trace of the MGS kernel, over all
# networks of one kind of labels: 1 means that the straighter of two networks always has the more
# similar gradients. The deflection itself goes with the trace, loosely, since both grow with the
# scale of the outputs. Relative to the chords, without that scale, the two rank models rather in
# opposite orders.

figure, ax = plt.subplots(figsize=(9, 5), layout="constrained")
for marker, labels in zip("os", LABELS):
    for i, name in enumerate(REGULARISERS):
        points = [after[labels, name, w] for w in WIDTHS]
        trace, deflection = ([p[k] for p in points] for k in ("mgs", "deflection"))
        ax.plot(trace, deflection, marker, color=f"C{i}", label=f"{name}, {labels} labels")
    of_labels = [row for key, row in after.items() if key[0] == labels]
    for what in ("deflection", "relative"):
        rho, _ = spearmanr([r["mgs"] for r in of_labels], [r[what] for r in of_labels])
        print(f"{labels} labels, {what:10}: Spearman with the MGS trace {rho:5.2f}")
ax.set(xscale="log", xlabel="trace of the MGS kernel", ylabel="gradient deflection")
figure.legend(loc="outside right center")
