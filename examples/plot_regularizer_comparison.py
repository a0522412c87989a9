"""
Every regulariser seen through gradient similarity
==================================================

Many regularisers make gradients more similar without being meant to. The same network is trained
on noisy labels under several of them, and drawn by its accuracy on clean labels against the trace
of its kernel.
"""

# %%
# Digits with 60 % random labels among the 1000 for training.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from sklearn_mgs import MGSEarlyStopping, MLPClassifier
from sklearn_mgs.inspection import RegularizerComparisonDisplay

warnings.filterwarnings("ignore", category=ConvergenceWarning)

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
rng = np.random.default_rng(0)
order = rng.permutation(len(X))
train, test = order[:1000], order[1000:]
y_noisy = np.where(rng.random(len(y)) < 0.6, rng.integers(10, size=len(y)), y)

# %%
# Each regulariser at one strength that serves it on these data, found by hand.

regularisers = {
    "none": {},
    "L2": {"alpha": 1.0},
    "L1": {"l1": 10.0},
    "dropout": {"dropout": 0.5},
    "input noise": {"input_noise": 0.3},
    "label smoothing": {"label_smoothing": 0.3},
    "input Jacobian": {"jacobian_strength": 0.01},
    "loss gradient": {"gradient_strength": 0.3},
    "early stopping": {"callbacks": [MGSEarlyStopping()]},
    "MGS trace": {"mgs_strength": 0.3},
    "MGS det": {"mgs_strength": 0.1, "mgs_metric": "det"},
}
settings = {"hidden_layer_sizes": (128, 128), "batch_size": 64, "max_iter": 60, "random_state": 0}
estimators = {
    name: MLPClassifier(**settings, **options).fit(X[train], y_noisy[train])
    for name, options in regularisers.items()
}

# %%
# Kernel and accuracy on the test samples, with their right labels.

display = RegularizerComparisonDisplay.from_estimators(
    estimators, X[test], y[test], scoring="accuracy"
)
plt.show()

# %%
# Over these models, how far does the trace alone rank accuracy?

for name, trace, score in zip(display.names, display.mgs, display.scores):
    print(f"{name:16} trace {trace:9.1f}  accuracy {score:.3f}")
correlation = spearmanr(display.mgs, display.scores).statistic
print(f"rank correlation of trace and clean accuracy: {correlation:.2f}")
