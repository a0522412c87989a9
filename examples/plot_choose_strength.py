"""
Choosing the strength when labels are noisy
===========================================

Cross-validation on noisy labels still ranks models, and its best score is the choice that we
recommend. But the scores are blurred: neighbouring strengths can't be told apart. Where a smoother
network is worth a little accuracy, `one_standard_error` decides among them by what needs no
labels: of the candidates within one standard error of the best score, it takes the one with the
most similar gradients.
"""

# %%
# Digits with 40 % random labels among the 800 for training; the right labels of the rest are for
# judging only.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from sklearn_mgs import MLPClassifier, make_mgs_scorer, one_standard_error
from sklearn_mgs.inspection import MGSPathDisplay

warnings.filterwarnings("ignore", category=ConvergenceWarning)

X, y = load_digits(return_X_y=True)
X = X.astype(np.float32)
rng = np.random.default_rng(0)
order = rng.permutation(len(X))
train, test = order[:800], order[800:]
y_noisy = np.where(rng.random(len(y)) < 0.4, rng.integers(10, size=len(y)), y)

# %%
# One search, two scores: accuracy on the held-out noisy labels, and the similarity of gradients,
# which needs no labels. The rule is the search's ``refit``.

network = MLPClassifier((64,), batch_size=64, learning_rate_init=0.01, max_iter=40, random_state=0)
pipe = make_pipeline(MinMaxScaler(), network)
search = GridSearchCV(
    pipe,
    {"mlpclassifier__mgs_strength": [0, 0.03, 0.1, 0.3, 0.6, 1, 1.5, 3]},
    scoring={"accuracy": "accuracy", "mgs": make_mgs_scorer()},
    refit=one_standard_error(),
    cv=3,
)
search.fit(X[train], y_noisy[train])
MGSPathDisplay.from_search(search)
plt.show()

# %%
# What each candidate is worth on clean labels, which the search never saw. One draw of noise says
# little about rules; ``benchmarks/selection_rules.py`` compares them over many.

results = search.cv_results_
best = results["mean_test_accuracy"].argmax()
print("strength  noisy CV accuracy  clean test accuracy")
for i, params in enumerate(results["params"]):
    clean = pipe.set_params(**params).fit(X[train], y_noisy[train]).score(X[test], y[test])
    mean, std = results["mean_test_accuracy"][i], results["std_test_accuracy"][i]
    notes = ("  <- best CV score" if i == best else "") + (
        "  <- chosen" if i == search.best_index_ else ""
    )
    strength = params["mlpclassifier__mgs_strength"]
    print(f"{strength:8g}  {mean:10.3f} ± {std:.3f}  {clean:19.3f}{notes}")
