"""Choosing a model where labels are noisy: by score and by gradient similarity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["one_standard_error"]


def one_standard_error(score="accuracy", mgs="mgs") -> OneStandardError:
    r"""Make a ``refit=`` rule: among the best-scoring candidates, the most similar gradients.

    Parameters
    ----------
    score : str, default="accuracy"
        Name, in the search's ``scoring``, of the score to be near the best of.
    mgs : str, default="mgs"
        Name of the scorer of gradient similarity, from `sklearn_mgs.metrics.make_mgs_scorer`.

    Returns
    -------
    rule : callable
        ``rule(cv_results) -> int``, the index of the chosen candidate; for the ``refit`` of
        `GridSearchCV` or `RandomizedSearchCV`. It can be pickled. When called it raises a
        ValueError if a score is missing from the results, or no candidate has a finite one.

    See Also
    --------
    sklearn_mgs.metrics.make_mgs_scorer : The scorer to use with it.

    Notes
    -----
    A candidate is near the best if its mean score :math:`\bar s` is at least
    :math:`\bar s^* - \hat\sigma^* / \sqrt{k}`, where :math:`\bar s^*` and :math:`\hat\sigma^*` are
    mean and standard deviation (as in ``std_test_score``) of the best candidate's score over
    :math:`k` folds. This is the one-standard-error rule of [1]_ with gradient similarity in the
    place of model size. Candidates for which one of the two is not finite are left out.

    The rule prefers a stronger penalty, for a smoother network at nearly the same score. For
    accuracy alone it is no improvement: in ``benchmarks/selection_rules.py``, which compares such
    rules on noisy labels by clean accuracy, ``refit="accuracy"`` lost less.

    References
    ----------
    .. [1] L. Breiman, J. Friedman, R. Olshen and C. Stone. Classification and Regression Trees.
       Wadsworth, 1984. Section 3.4.3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_mgs.metrics import make_mgs_scorer
    >>> from sklearn_mgs.model_selection import one_standard_error
    >>> X, y = load_iris(return_X_y=True)
    >>> search = GridSearchCV(
    ...     MLPClassifier((10,), max_iter=20, random_state=0),
    ...     {"alpha": [1e-4, 1.0, 10.0]},
    ...     scoring={"accuracy": "accuracy", "mgs": make_mgs_scorer("effective_rank")},
    ...     refit=one_standard_error(),
    ...     cv=3,
    ... ).fit(X, y)
    >>> search.best_index_ in range(3)
    True
    """
    return OneStandardError(score, mgs)


@dataclass(frozen=True, repr=False)
class OneStandardError:
    """Callable that `one_standard_error` returns; see there for the parameters."""

    score: str = "accuracy"
    mgs: str = "mgs"

    def __call__(self, cv_results) -> int:
        """Index of the chosen candidate."""
        mean = _column(cv_results, f"mean_test_{self.score}", self.score)
        std = _column(cv_results, f"std_test_{self.score}", self.score)
        similarity = _column(cv_results, f"mean_test_{self.mgs}", self.mgs)
        finite = np.isfinite(mean) & np.isfinite(similarity)
        if not finite.any():
            raise ValueError(
                f"No candidate has a finite {self.score!r} and a finite {self.mgs!r}; pass "
                'error_score="raise" to the search to see why.'
            )
        best = np.argmax(np.where(finite, mean, -np.inf))
        splits = (f"split{i}_test_{self.score}" for i in range(len(cv_results)))
        n_splits = sum(split in cv_results for split in splits)
        near = finite & (mean >= mean[best] - std[best] / np.sqrt(n_splits))
        return int(np.argmax(np.where(near, similarity, -np.inf)))

    def __repr__(self) -> str:
        return f"one_standard_error(score={self.score!r}, mgs={self.mgs!r})"


def _column(cv_results, key: str, name: str) -> np.ndarray:
    if key not in cv_results:
        scores = [k.removeprefix("mean_test_") for k in cv_results if k.startswith("mean_test_")]
        raise ValueError(
            f"The search has no score named {name!r}, only {scores}; pass scoring="
            f"{{{name!r}: ...}} to the search, or the name it has there to one_standard_error."
        )
    return np.asarray(cv_results[key], dtype=float)
