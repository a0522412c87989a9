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
    """Score, or generalisation gap, of fitted estimators against the similarity of gradients.

    It is recommended to use `from_estimators` to create one.

    Parameters
    ----------
    names : list of str
        The estimators' names, such as their regularisers; estimators of one name look alike.
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
        One for each name.

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
        X_train=None,
        y_train=None,
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
        estimators : dict of str to estimator, or to list of estimators
            Fitted estimators by name, of the kinds that `mgs_score` takes.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples, such as clean test data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        X_train, y_train : array-like, default=None
            What the estimators were trained on. If given, the generalisation gap takes the
            score's place: the score on them minus the score on `X` and `y`.
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
            If `estimators` is not a dict, or empty, or a name is unknown, or one of `X_train`
            and `y_train` is missing.
        sklearn.exceptions.NotFittedError
            If one of them is not fitted.
        """
        check_matplotlib(cls.__name__)
        if not isinstance(estimators, Mapping) or not estimators:
            raise ValueError(
                "estimators must be a dict of names to fitted estimators, with at least one; got "
                f"{estimators!r}."
            )
        if (X_train is None) != (y_train is None):
            missing = "X_train" if X_train is None else "y_train"
            raise ValueError(f"The gap needs both X_train and y_train; got no {missing}.")
        options = {"metric": metric, "outputs": outputs, "max_samples": max_samples}
        names, mgs, scores = [], [], []
        for name, group in estimators.items():
            for estimator in group if isinstance(group, list | tuple) else [group]:
                names.append(name)
                mgs.append(mgs_score(estimator, X, y, random_state=random_state, **options))
                scorer = check_scoring(estimator, scoring)
                score = scorer(estimator, X, y)
                if X_train is not None:
                    score = scorer(estimator, X_train, y_train) - score
                scores.append(score)
        score_name = scoring if isinstance(scoring, str) else "score"
        display = cls(
            names=names,
            mgs=np.array(mgs),
            scores=np.array(scores),
            metric=metric,
            score_name=score_name if X_train is None else f"generalisation gap in {score_name}",
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw a point for each estimator, one colour and marker for each name.

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
        from matplotlib import colormaps

        shades = colormaps["tab20"].colors
        colors, markers = [*shades[::2], *shades[1::2]], "osD^vP*X<>p"  # lengths without a factor
        self.points_ = []
        for i, name in enumerate(dict.fromkeys(self.names)):
            rows = np.flatnonzero(np.asarray(self.names) == name)
            style = {"color": colors[i % len(colors)], "marker": markers[i % len(markers)]}
            style = {"label": name, "s": 60, **style, **kwargs}
            self.points_.append(
                ax.scatter(np.asarray(self.mgs)[rows], np.asarray(self.scores)[rows], **style)
            )
        if self.metric in ("trace", "det"):
            log_scale(ax, "x")
        better = "right" if self.metric == "cosine" else "left"
        ax.set_xlabel(f"{METRIC_LABELS[self.metric]}\n(more similar gradients to the {better})")
        ax.set_ylabel(self.score_name.replace("_", " "))
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, frameon=False)
        return self
