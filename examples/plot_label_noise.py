"""
Label noise: strength against accuracy
======================================

Half of the training labels of scikit-learn's digits are replaced by random ones. A network
without a penalty ends up fitting these labels too. The stronger the MGS penalty, the more alike
the samples' gradients stay, and the less room there is to learn a sample by heart.
"""

# %%
# The data: 600 training samples with noisy labels, the rest for testing with clean ones.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from sklearn_mgs import MLPClassifier, mgs_score

warnings.filterwarnings("ignore", category=ConvergenceWarning)  # 60 epochs are meant

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, train_size=600, stratify=y, random_state=0
)
rng = np.random.default_rng(0)
random = rng.random(len(y_train)) < 0.5
y_noisy = np.where(random, rng.integers(0, 10, len(y_train)), y_train)
print(f"{np.mean(y_noisy != y_train):.0%} of the training labels are wrong")

# %%
# One fit for each strength and three seeds. Accuracy is measured twice: on the noisy training
# labels, where a high value means that wrong labels were learned by heart, and on clean test
# labels.

strengths = [0, 0.03, 0.1, 0.3, 1, 3]
seeds = range(3)


def fit(strength, seed):
    """A network of one hidden layer, trained on noisy labels."""
    mlp = MLPClassifier(
        (64,),
        mgs_strength=strength,
        learning_rate_init=0.01,
        batch_size=64,
        max_iter=60,
        n_iter_no_change=60,  # train on, however little the loss moves
        random_state=seed,
    )
    return mlp.fit(X_train, y_noisy)


models = [[fit(strength, seed) for seed in seeds] for strength in strengths]
noisy = np.array([[m.score(X_train, y_noisy) for m in row] for row in models])
clean = np.array([[m.score(X_test, y_test) for m in row] for row in models])
trace = np.array([[mgs_score(m, X_test) for m in row] for row in models])

# %%
# Thin lines are seeds, thick ones their mean.

position = np.arange(len(strengths))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for values, colour, label in (
    (clean, "tab:blue", "clean test labels"),
    (noisy, "tab:gray", "noisy training labels"),
):
    left.plot(position, values, color=colour, lw=0.7, alpha=0.5)
    left.plot(position, values.mean(1), "o-", color=colour, lw=2, label=label)
left.axhline(
    np.mean(y_noisy == y_train), color="tab:gray", ls=":", label="training labels that are right"
)
left.set(ylabel="accuracy", ylim=(0, 1.02))
left.legend(loc="lower left")
right.semilogy(position, trace, color="tab:red", lw=0.7, alpha=0.5)
right.semilogy(position, trace.mean(1), "o-", color="tab:red", lw=2)
right.set(ylabel="mean squared gradient norm, tr(K)/n")
for ax in (left, right):
    ax.set_xticks(position, [f"{s:g}" for s in strengths])
    ax.set_xlabel("mgs_strength")
plt.show()

# %%
# Accuracy on the noisy labels above the dotted line means memorised labels. At the largest
# strength the penalty has won over the data: right labels are not learned any more either.

best = clean.mean(1).argmax()
print(f"strength 0: accuracy {clean[0].mean():.3f} on clean test labels")
print(f"strength {strengths[best]:g}: {clean[best].mean():.3f}, the best of these")
