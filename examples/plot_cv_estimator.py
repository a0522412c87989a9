"""
All candidates at once
======================

`MLPClassifierCV` chooses its strength as `GridSearchCV` would, but trains all candidates on all
folds together, as one batch of networks. With a random state, each of them ends with the weights
that a fit of its own would give.
"""

# %%
# Digits with 40 % random labels among the 600 for training; the right labels of the rest are for
# judging only.

import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from sklearn_mgs import MLPClassifier, MLPClassifierCV, make_mgs_scorer
from sklearn_mgs.inspection import MGSPathDisplay

warnings.filterwarnings("ignore", category=ConvergenceWarning)

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
rng = np.random.default_rng(0)
order = rng.permutation(len(X))
train, test = order[:600], order[600:]
y_noisy = np.where(rng.random(len(y)) < 0.4, rng.integers(10, size=len(y)), y)

# %%
# One call, as of any estimator. Scores and the rule that chooses are those of a search; here the
# accuracy on the noisy folds decides, and the similarity of gradients is looked at beside it.

params = {"hidden_layer_sizes": (64,), "batch_size": 64, "learning_rate_init": 0.01}
params |= {"max_iter": 30, "random_state": 0}
strengths = [0, 0.03, 0.1, 0.3, 0.6, 1, 1.5, 3]
search = {
    "scoring": {"accuracy": "accuracy", "mgs": make_mgs_scorer(max_samples=100)},
    "refit": "accuracy",
    "cv": 3,
}
clf = MLPClassifierCV(mgs_strengths=strengths, **search, **params)
start = time.perf_counter()
clf.fit(X[train], y_noisy[train])
print(f"{time.perf_counter() - start:.1f} s for {len(strengths)} candidates on 3 folds")
print(f"chosen strength: {clf.mgs_strength_}")
print(f"accuracy on clean labels: {clf.score(X[test], y[test]):.3f}")

# %%
# ``cv_results_`` has the format of scikit-learn's searches, so what draws one draws the other.

MGSPathDisplay.from_search(clf)
plt.show()

# %%
# The same by `GridSearchCV`, one fit after the other:

grid = GridSearchCV(MLPClassifier(**params), {"mgs_strength": strengths}, **search)
start = time.perf_counter()
grid.fit(X[train], y_noisy[train])
print(f"{time.perf_counter() - start:.1f} s, chosen strength: {grid.best_params_['mgs_strength']}")

# %%
# With ``halving=True``, candidates that are clearly behind after a part of the epochs are dropped:

clf.set_params(halving=True).fit(X[train], y_noisy[train])
for strength, epochs in zip(strengths, clf.cv_results_["n_resources"]):
    print(f"strength {strength}: {epochs} epochs")
print(f"chosen strength: {clf.mgs_strength_}")
