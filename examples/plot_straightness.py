"""
==============================================
How straight is a network between the samples?
==============================================

Kubo et al. (arXiv:1903.01997) found that random initialisation and stochastic gradient descent
keep over-parameterised networks almost straight between the samples, which limits their
complexity. Here we look for it on scikit-learn's digits: networks with two hidden layers against
their width, at initialisation and after training with SGD, on clean and on noisy labels, without
and with regularisers; and whether straight networks are those with similar model gradients.

The definitions of gradient deflection and gap deviation are this package's own, from the abstract
of that paper; and a few seeds on one small data set are a picture, not a proof.
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

SEEDS = [0, 1, 2]
WIDTHS = [8, 40, 200]
WIDTHS_AT_START = [*WIDTHS, 1000]
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
    X / 16, y, train_size=300, stratify=y, random_state=0
)
rng = np.random.default_rng(0)
noisy = np.where(rng.random(len(y_train)) < NOISE, rng.integers(0, 10, len(y_train)), y_train)
LABELS = {"clean": y_train, "noisy": noisy}


def trained(width, labels, seed=0, **changes):
    """A network with two hidden layers of this width, after SGD."""
    options = {"alpha": 0.0, "learning_rate_init": 0.05, "max_iter": 50, **changes}
    network = MLPClassifier(
        (width, width), solver="sgd", batch_size=50, random_state=seed, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network.fit(X_train, labels)


def straightness(network, n_pairs=50):
    """Between pairs of training samples."""
    options = {"n_pairs": n_pairs, "random_state": 0}
    return {
        "deflection": gradient_deflection(network, X_train, **options),
        "relative": gradient_deflection(network, X_train, relative=True, **options),
        "gap": gradient_gap_deviation(network, X_train, **options),
        "kinks": path_kinks(network, X_train, **options),
    }


# %%
# Initialisation and training
# ---------------------------
# A network at initialisation is one that was trained for one epoch with a vanishing learning
# rate. Its outputs are sums over units drawn alike, and so is their bending: on average, the
# squares of the deflection and of the chords grow with the width in the same proportion, exactly
# so with one hidden layer. The deflection of a random network *relative to its chords* can
# therefore not fall with the width, and does not. The deflection itself does, where there are
# more units than the 64 inputs: the wider the layers, the smaller their initial weights. And so
# does what one kink contributes, the gap deviation, since kinks become more with the width.
#
# Training makes the outputs, and with them the deflection, larger. After it wide networks are the
# straighter ones also relative to their chords, which now have to lead from class to class; more
# so on clean labels than on noisy ones.


def over_seeds(networks):
    """Root mean square, least and greatest value of each measure."""
    rows = [straightness(network, 20) for network in networks]
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    found = {name: [np.sqrt(np.mean(v**2)), v.min(), v.max()] for name, v in table.items()}
    chords = table["deflection"] / table["relative"]
    found["relative"][0] = found["deflection"][0] / np.sqrt(np.mean(chords**2))
    return found


curves = {"at initialisation": {}, "clean labels": {}, "noisy labels": {}}
for width in WIDTHS_AT_START:
    still = {"max_iter": 1, "learning_rate_init": 1e-12}
    networks = [trained(width, y_train, seed, **still) for seed in range(6)]
    curves["at initialisation"][width] = over_seeds(networks)
networks = {
    (labels, "none", width, seed): trained(width, LABELS[labels], seed)
    for labels in LABELS
    for width in WIDTHS
    for seed in SEEDS
}
for labels in LABELS:
    for width in WIDTHS:
        found = over_seeds([networks[labels, "none", width, seed] for seed in SEEDS])
        curves[f"{labels} labels"][width] = found

print("without a regulariser      width   deflection  relative         gap     kinks")
for name, of_width in curves.items():
    for width, row in of_width.items():
        means = [row[measure][0] for measure in ("deflection", "relative", "gap", "kinks")]
        print(f"{name:25} {width:6d} " + "{:12.3f} {:9.3f} {:11.4f} {:9.1f}".format(*means))

TITLES = {
    "deflection": "gradient deflection",
    "relative": "deflection relative to the chords",
    "gap": "gap deviation at a kink",
    "kinks": "kinks between two samples",
}
figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), sharex=True, layout="constrained")
for ax, (measure, title) in zip(axes.flat, TITLES.items()):
    for (name, of_width), style in zip(curves.items(), ("k--", "C0-", "C3-")):
        mean, low, high = np.transpose([row[measure] for row in of_width.values()])
        ax.plot(list(of_width), mean, style, marker="o", label=name)
        ax.fill_between(list(of_width), low, high, color=style[:-1].rstrip("-"), alpha=0.15)
    ax.set(title=title, xscale="log", yscale="linear" if measure == "relative" else "log")
    ax.set_xticks(WIDTHS_AT_START, WIDTHS_AT_START)
    ax.set_xticks([], minor=True)
axes[0, 1].set_ylim(0, None)
for ax in axes[1]:
    ax.set_xlabel("units in each hidden layer")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)

# %%
# Regularisers
# ------------
# L2 and L1 straighten the networks throughout, and MGS narrow ones most of all. The others lower
# the deflection where the network would fit noise, but they flatten the chords as much or more:
# relative to them they, and MGS, bend wide networks.

networks |= {
    (labels, name, width, 0): trained(width, LABELS[labels], **changes)
    for labels in LABELS
    for name, changes in REGULARISERS.items()
    for width in WIDTHS
    if name != "none"
}
after = {
    key[:3]: straightness(network)
    | {"mgs": mgs_score(network, X_train), "accuracy": network.score(X_test, y_test)}
    for key, network in networks.items()
    if key[3] == 0
}
print("\nlabels regulariser     width  deflection  relative  MGS trace  accuracy")
for (labels, name, width), row in after.items():
    print(
        f"{labels:6} {name:15} {width:5d} {row['deflection']:11.3f} {row['relative']:9.3f} "
        f"{row['mgs']:10.0f} {row['accuracy']:9.3f}"
    )

figure, axes = plt.subplots(2, 2, figsize=(9, 7), sharex=True, sharey="row", layout="constrained")
for column, labels in zip(axes.T, LABELS):
    for ax, what in zip(column, ("deflection", "relative")):
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

SegmentDisplay.from_estimator(networks["clean", "none", WIDTHS[-1], 0], X_train[0], X_train[1])

# %%
# Do straightness and gradient similarity rank models alike?
# ----------------------------------------------------------
# Spearman's rank correlation of the deflection with the trace of the MGS kernel, over all
# networks of one kind of labels: 1 means that the straighter of two networks always has the more
# similar gradients. The deflection itself goes with the trace, loosely, since both grow with the
# scale of the outputs. Relative to the chords, without that scale, the two rank models in opposite
# orders, if in any.

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
