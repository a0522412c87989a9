"""
===============================================
Strong L1 and L2 that still let a network learn
===============================================

Past some strength, L1 and L2 shrink the weights faster than the data can hold them up, and the
network learns nothing. Park et al. (arXiv:1811.08056) impose the regulariser only while the
gradients stay coherent. Here plain and coherent regularisation are compared on scikit-learn's
digits over five decades of strength: test accuracy, and with L1 how many weights are exactly zero.

How coherence is measured is this package's own definition, since that paper is known to us by its
abstract; and one seed on one small data set is a picture, not a proof.
"""

# %%
# Fits
# ----
# With ``coherence_threshold`` the regulariser acts with the largest share of its strength at which
# the mean gradient of the data loss, with the regulariser's added, keeps this cosine to itself.
# The history has that share as the column ``regularized``.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from sklearn_mgs import MLPClassifier

STRENGTHS = [1e-3, 1e-2, 0.1, 0.5, 2.0, 10.0, 100.0]
THRESHOLDS = {"l1": 0.03, "alpha": 0.8}
NAMES = {"l1": "L1", "alpha": "L2"}

X, y = load_digits(return_X_y=True)
# Twenty whole mini-batches: alpha and l1 are divided by a mini-batch's size, and a small last one
# would be pulled hard.
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, train_size=1280, stratify=y, random_state=0
)


def fitted(**parameters):
    """A network after SGD."""
    options = {"alpha": 0.0, "max_iter": 30, "n_iter_no_change": 30, "random_state": 0}
    network = MLPClassifier(
        (100, 100), solver="sgd", learning_rate_init=0.1, batch_size=64, **options | parameters
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network.fit(X_train, y_train)


def zeros(network):
    """Share of the weights that are exactly zero."""
    return np.mean(np.concatenate([w.ravel() for w in network.coefs_]) == 0)


free = fitted()
networks = {
    (kind, coherent, strength): fitted(
        **{kind: strength, "coherence_threshold": THRESHOLDS[kind] if coherent else None}
    )
    for kind in NAMES
    for coherent in (False, True)
    for strength in STRENGTHS
}

print(f"no regulariser: accuracy {free.score(X_test, y_test):.3f}")
print("             strength  accuracy  zeros  compression  share of strength")
for (kind, coherent, strength), network in networks.items():
    share = network.history_[-1]["regularized"] if coherent else 1.0
    print(
        f"{'coherent' if coherent else 'plain':8} {NAMES[kind]} {strength:9g} "
        f"{network.score(X_test, y_test):9.3f} {zeros(network):6.3f} "
        f"{network.compression_ratio_:12.1f} {share:18.4f}"
    )

# %%
# Accuracy and zeros against strength
# -----------------------------------
# Plain L1 and L2 fall to chance between a strength of 2 and one of 10. Coherent, both learn at
# every strength: where the regulariser would win, its share falls as its strength rises, so that
# beyond the tolerance level the threshold alone decides how much is left.

figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
for ax, (kind, name) in zip(axes, NAMES.items()):
    for coherent, style in ((False, "o--"), (True, "o-")):
        of_kind = [networks[kind, coherent, s] for s in STRENGTHS]
        label = f"coherent, threshold {THRESHOLDS[kind]}" if coherent else "plain"
        ax.plot(STRENGTHS, [n.score(X_test, y_test) for n in of_kind], style, label=label)
        if kind == "l1":
            axes[2].plot(STRENGTHS, [zeros(n) for n in of_kind], style, label=label)
    ax.axhline(free.score(X_test, y_test), color="gray", linewidth=1, label="no regulariser")
    ax.set(title=name, xlabel=f"strength ({kind})", ylabel="test accuracy")
axes[2].set(title="L1", xlabel="strength (l1)", ylabel="share of weights that are zero")
for ax in axes:
    ax.set(xscale="log", ylim=(-0.05, 1.05))
    ax.legend()
