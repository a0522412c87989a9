"""Regularisers side by side: similarity of gradients against score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sklearn.metrics import check_scoring

from sklearn_mgs.inspection._plotting import (
    METRIC_LABELS,
    axes_or_new,
    check_matplotlib,
    log_scale,
)
from sklearn_mgs.metrics import mgs_score

__all__ = ["RegularizerComparisonDisplay"]


class RegularizerComparisonDisplay:
    """Score of several fitted estimators against the similarity of their gradients.

    It is recommended to use `from_estimators` to create one.

    Parameters
    ----------
    names : list of str
        The estimators' names.
    mgs : ndarray of shape (n_estimators,)
        A metric of the kernel of each.
    scores : ndarray of shape (n_estimators,)
        The score of each.
    metric : str, default="trace"
        Name of the metric.
    score_name : str, default="score"
        Name of the score.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure that holds the plot.
    ax_ : matplotlib Axes
        The axes that hold the plot.
    points_ : list of matplotlib PathCollection
        One for each estimator.

    See Also
    --------
    sklearn_mgs.metrics.mgs_score : The metrics.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_mgs import MLPClassifier
    >>> from sklearn_mgs.inspection import RegularizerComparisonDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> settings = {"hidden_layer_sizes": (10,), "max_iter": 20, "random_state": 0}
    >>> estimators = {
    ...     "none": MLPClassifier(**settings).fit(X, y),
    ...     "L2": MLPClassifier(**settings, alpha=10).fit(X, y),
    ... }
    >>> display = RegularizerComparisonDisplay.from_estimators(estimators, X, y)
    >>> display.names
    ['none', 'L2']
    """

    def __init__(self, *, names, mgs, scores, metric="trace", score_name="score"):
        self.names = names
        self.mgs = mgs
        self.scores = scores
        self.metric = metric
        self.score_name = score_name

    @classmethod
    def from_estimators(
        cls,
        estimators,
        X,
        y,
        *,
        scoring=None,
        metric="trace",
        outputs="all",
        max_samples=500,
        random_state=None,
        ax=None,
        **kwargs,
    ):
        """Score fitted estimators and measure their kernels on the same samples, and plot.

        Parameters
        ----------
        estimators : dict of str to estimator
            Fitted estimators by name, of the kinds that `mgs_score` takes.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples, such as clean test data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        scoring : str or callable, default=None
            Score; None: each estimator's own.
        metric, outputs : str, default="trace" and "all"
            See `mgs_score`.
        max_samples : int, default=500
            Measure the kernel on at most so many samples; None: on all. The score takes all.
        random_state : int, RandomState instance or None, default=None
            See `mgs_score`.
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure.
        **kwargs : dict
            Keywords for matplotlib's `scatter`.

        Returns
        -------
        display : RegularizerComparisonDisplay
            The values, plotted.

        Raises
        ------
        ValueError
            If `estimators` is not a dict, or empty, or a name is unknown.
        sklearn.exceptions.NotFittedError
            If one of them is not fitted.
        """
        check_matplotlib(cls.__name__)
        if not isinstance(estimators, Mapping) or not estimators:
            raise ValueError(
                "estimators must be a dict of names to fitted estimators, with at least one; got "
                f"{estimators!r}."
            )
        options = {"metric": metric, "outputs": outputs, "max_samples": max_samples}
        mgs, scores = [], []
        for estimator in estimators.values():
            mgs.append(mgs_score(estimator, X, y, random_state=random_state, **options))
            scores.append(check_scoring(estimator, scoring)(estimator, X, y))
        display = cls(
            names=list(estimators),
            mgs=np.array(mgs),
            scores=np.array(scores),
            metric=metric,
            score_name=scoring if isinstance(scoring, str) else "score",
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw a point for each estimator.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure. The legend is beside them, to the right.
        **kwargs : dict
            Keywords for matplotlib's `scatter`.

        Returns
        -------
        display : RegularizerComparisonDisplay
            Itself.
        """
        self.ax_ = ax = axes_or_new(ax, type(self).__name__)
        self.figure_ = ax.figure
        markers = "osD^vP*X<>h"  # one more than there are colours, so that pairs differ for long
        self.points_ = [
            ax.scatter(
                x, y, **{"label": name, "marker": markers[i % len(markers)], "s": 60, **kwargs}
            )
            for i, (name, x, y) in enumerate(zip(self.names, self.mgs, self.scores))
        ]
        if self.metric in ("trace", "det"):
            log_scale(ax, "x")
        better = "right" if self.metric == "cosine" else "left"
        ax.set_xlabel(f"{METRIC_LABELS[self.metric]}\n(more similar gradients to the {better})")
        ax.set_ylabel(self.score_name.replace("_", " "))
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, frameon=False)
        return self
