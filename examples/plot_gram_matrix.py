"""
The kernel of a network, before and after it memorises
======================================================

One step of gradient descent on one sample moves the output at another in proportion to the inner
product of their gradients. These inner products, for all pairs of samples, are the kernel that
the metrics of this package are taken from. Here it is as a picture.
"""

# %%
# The same network three times: at its initial weights (nearly: after one epoch), trained on the
# right labels, and trained on labels of which 60 % are random.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from sklearn_mgs import MLPClassifier, mgs_score
from sklearn_mgs.inspection import GramMatrixDisplay

warnings.filterwarnings("ignore", category=ConvergenceWarning)

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
rng = np.random.default_rng(0)
order = rng.permutation(len(X))
train, test = order[:1000], order[1000:]
y_noisy = np.where(rng.random(len(y)) < 0.6, rng.integers(10, size=len(y)), y)


def fit(labels, max_iter):
    """A network of two hidden layers."""
    mlp = MLPClassifier((128, 128), batch_size=64, max_iter=max_iter, tol=0, random_state=0)
    return mlp.fit(X[train], labels[train])


networks = {
    "after one epoch": fit(y, 1),
    "right labels": fit(y, 80),
    "60 % random labels": fit(y_noisy, 80),
}

# %%
# Cosines between the gradients of 300 test samples, ordered by class. Samples of a class have
# similar gradients where the network has learned what the class has in common; noise undoes it.

figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
for ax, (name, network) in zip(axes, networks.items()):
    GramMatrixDisplay.from_estimator(
        network, X[test], y[test], max_samples=300, ax=ax, vmin=0, vmax=1
    )
    ax.set_title(name)
plt.show()

# %%
# The metrics say the same in one number each.

print(f"{'':20} {'accuracy':>9} {'trace':>9} {'eff. rank':>10} {'cosine':>7}")
for name, network in networks.items():
    trace, rank, cosine = (
        mgs_score(network, X[test], metric=metric, max_samples=300)
        for metric in ("trace", "effective_rank", "cosine")
    )
    accuracy = network.score(X[test], y[test])
    print(f"{name:20} {accuracy:9.3f} {trace:9.1f} {rank:10.2f} {cosine:7.3f}")
