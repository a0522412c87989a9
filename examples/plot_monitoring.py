"""
Watching a fit, and stopping before it memorises
================================================

While a network learns what samples share, their gradients stay similar; when it turns to learning
them one by one, the gradients part. `MGSMonitor` writes this into the history epoch by epoch, and
`MGSEarlyStopping` acts on it, without a single clean label.
"""

# %%
# Digits, 60 % of whose training labels are drawn anew at random. The clean labels of the other
# samples are for judging only.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from skorch.callbacks import Callback

from sklearn_mgs import MGSEarlyStopping, MGSMonitor, MLPClassifier
from sklearn_mgs.inspection import MGSHistoryDisplay

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
rng = np.random.default_rng(0)
order = rng.permutation(len(X))
X_train, X_test, y_clean, y_test = (
    X[order[:1000]],
    X[order[1000:]],
    y[order[:1000]],
    y[order[1000:]],
)
y_train = np.where(rng.random(1000) < 0.6, rng.integers(10, size=1000), y_clean)

# %%
# Watching
# --------
#
# The monitor is a skorch callback, for the estimators of this package and for any skorch net. A
# callback of our own records what nobody has in earnest: accuracy on clean labels after each
# epoch.


class CleanAccuracy(Callback):
    """Record accuracy on the clean test set."""

    def on_epoch_end(self, net, **kwargs):
        predicted = net.module_(net.module_[0].weight.new_tensor(X_test)).argmax(1)
        net.history.record("clean_accuracy", np.mean(predicted.numpy() == y_test))


settings = {"hidden_layer_sizes": (128, 128), "batch_size": 64, "max_iter": 60, "random_state": 0}
watched = MLPClassifier(**settings, callbacks=[MGSMonitor(), CleanAccuracy()])
watched.fit(X_train, y_train)
MGSHistoryDisplay.from_estimator(watched)

# %%
# The effective rank of the kernel at first falls a little, while the network finds directions that
# serve many samples, and then rises to the end, as trace and determinant do throughout. Accuracy
# on clean labels has its maximum on the way:

accuracy = np.array(watched.history_[:, "clean_accuracy"])
for epoch in (1, 5, 10, 20, 40, 60):
    row = watched.history_[epoch - 1]
    print(
        f"epoch {epoch:2d}: training loss {row['train_loss']:.2f}, effective rank "
        f"{row['mgs_effective_rank']:5.2f}, clean accuracy {accuracy[epoch - 1]:.3f}"
    )
print(f"best epoch: {1 + accuracy.argmax()}, clean accuracy {accuracy.max():.3f}")

# %%
# Stopping
# --------
#
# `MGSEarlyStopping` predicts each training sample from the *others'* given labels, by kernel
# regression on the similarity of gradients, and compares with what the network itself says. Their
# agreement is greatest when the network has learned what samples share and not yet more. It ends
# the training when the agreement has stayed below its greatest value for ten epochs, and restores
# the parameters of the epoch that had it.

stopped = MLPClassifier(**settings, callbacks=[MGSMonitor(), MGSEarlyStopping()])
stopped.fit(X_train, y_train)
display = MGSHistoryDisplay.from_estimator(stopped)
print(f"stopped: clean accuracy {stopped.score(X_test, y_test):.3f}")
print(f"trained to the end:     {watched.score(X_test, y_test):.3f}")

# %%
# Against the accuracy on clean labels, which the rule never sees:

_, ax = plt.subplots(layout="constrained")
epochs = np.arange(1, len(accuracy) + 1)
ax.plot(epochs, accuracy, color="0.6", label="clean test accuracy")
agreement = stopped.history_[:, "mgs_agreement"]
ax.plot(epochs[: len(agreement)], agreement, color="C0", label="agreement on training samples")
ax.axvline(display.restored_epoch, color="C0", ls=":", label="restored epoch")
ax.set(xlabel="epoch", ylabel="accuracy, agreement")
ax.legend(loc="lower right")
plt.show()
