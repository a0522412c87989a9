"""
Every regulariser seen through gradient similarity
==================================================

Do other regularisers, which were not made for it, make the gradients of samples more similar? And
does similarity tell how far a network generalises? The same network is trained on noisy labels
under ten regularisers, each at three strengths. The kernel's trace is watched during training, and
compared with the generalisation gap at its end.
"""

# %%
# Digits with half of the labels drawn at random: 800 samples for training, 200 for tuning, the
# rest for testing.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from sklearn_mgs import MGSMonitor, MLPClassifier, mgs_score
from sklearn_mgs.inspection import RegularizerComparisonDisplay

warnings.filterwarnings("ignore", category=ConvergenceWarning)  # each fit has its 60 epochs

X, y = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
order = rng.permutation(len(X))
X, y = (X[order] / 16).astype(np.float32), y[order]
y_noisy = np.where(rng.random(len(y)) < 0.5, rng.integers(10, size=len(y)), y)
train, valid, test = slice(0, 800), slice(800, 1000), slice(1000, None)

# %%
# The candidates. Early stopping is a number of epochs like any other strength: all are tuned by
# the accuracy on the noisy labels of the 200.

candidates = {
    "none": [{}],
    "L2": [{"alpha": v} for v in (0.3, 1, 3)],
    "L1": [{"l1": v} for v in (3, 10, 30)],
    "dropout": [{"dropout": v} for v in (0.4, 0.6, 0.8)],
    "input noise": [{"input_noise": v} for v in (0.2, 0.4, 0.8)],
    "label smoothing": [{"label_smoothing": v} for v in (0.1, 0.3, 0.6)],
    "early stopping": [{"max_iter": v} for v in (5, 10, 20)],
    "input Jacobian": [{"jacobian_strength": v} for v in (0.01, 0.03, 0.1)],
    "loss gradient": [{"gradient_strength": v} for v in (0.3, 1, 3)],
    "MGS trace": [{"mgs_strength": v} for v in (0.1, 0.3, 1)],
    "MGS det": [{"mgs_strength": v, "mgs_metric": "det"} for v in (0.03, 0.1, 0.3)],
}


def fit(**options):
    """The same network each time, its trace in the history."""
    settings = {"batch_size": 64, "learning_rate_init": 0.003, "max_iter": 60, "random_state": 0}
    monitor = MGSMonitor(metrics=["trace"])
    mlp = MLPClassifier((128,), callbacks=[monitor], n_iter_no_change=60, **settings | options)
    return mlp.fit(X[train], y_noisy[train])


fitted = {name: [fit(**options) for options in row] for name, row in candidates.items()}
tuned = {
    name: max(models, key=lambda mlp: mlp.score(X[valid], y_noisy[valid]))
    for name, models in fitted.items()
}

# %%
# The gap is defined as accuracy on the training samples with their noisy labels, minus accuracy on
# the test samples with labels of the same noise. It measures what was learned by heart, and has
# nothing to do with how accurate a network is: one that has learned nothing has no gap.

noisy_test = {"X": X[test], "y": y_noisy[test], "X_train": X[train], "y_train": y_noisy[train]}
_, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
display = RegularizerComparisonDisplay.from_estimators(
    fitted, **noisy_test, scoring="accuracy", ax=right
)
for points, (name, mlp) in zip(display.points_, tuned.items()):
    trace = mlp.history_[:, "mgs_trace"]
    dashed = "--" if name.startswith("MGS") else "-"
    left.plot(1 + np.arange(len(trace)), trace, dashed, color=points.get_facecolor()[0])
    left.plot(len(trace), trace[-1], marker=points.get_paths()[0], color=points.get_facecolor()[0])
left.set(xlabel="epoch", ylabel="trace of the kernel / n", yscale="log", title="tuned networks")
left.set_yticks([200, 500, 1000], ["200", "500", "1000"])
left.minorticks_off()
right.set_title("all networks, after training")
plt.show()

# %%
# With the tuned networks' accuracy on clean labels, which tuning did not see:

print("regulariser       strength  trace    gap  clean accuracy")
models = [mlp for row in fitted.values() for mlp in row]
for name, mlp in tuned.items():
    options = candidates[name][fitted[name].index(mlp)]
    strength, row = next(iter(options.values()), 0), models.index(mlp)
    print(
        f"{name:16}  {strength:8g}  {display.mgs[row]:5.0f}  {display.scores[row]:5.2f}  "
        f"{mlp.score(X[test], y[test]):14.3f}"
    )

# %%
# How far does similarity alone rank all networks by their gap? Perfect would be a rank correlation
# of 1, for the cosine of -1.

for metric in ("trace", "effective_rank", "cosine"):
    options = {"metric": metric, "max_samples": 300, "random_state": 0}
    similarity = np.array([mgs_score(mlp, X[test], **options) for mlp in models])
    everyone = spearmanr(similarity, display.scores).statistic
    rest = np.array(display.names) != "label smoothing"
    without = spearmanr(similarity[rest], display.scores[rest]).statistic
    print(f"{metric:14} {everyone:5.2f}, without label smoothing {without:5.2f}")

# %%
# So all of these regularisers but one lower the trace and the gap together, most of them without
# being made for it. Label smoothing is the exception: the stronger it is, the lower the trace and
# the wider the gap. Within one regulariser the trace is a guide; from one to another less so. At
# the same trace, the penalties that lower it themselves leave a wider gap than L2, input noise or
# the input Jacobian, which get there by the way.

for name in fitted:
    rows = np.flatnonzero(np.array(display.names) == name)
    if len(rows) > 1:
        rank = spearmanr(display.mgs[rows], display.scores[rows]).statistic
        print(f"{name:16} rank correlation over its {len(rows)} strengths {rank:5.2f}")
