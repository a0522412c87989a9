"""Scores and similarity against the strength of a regulariser, from a search."""

from __future__ import annotations

from numbers import Real

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_mgs.inspection._plotting import (
    METRIC_LABELS,
    axes_or_new,
    check_matplotlib,
    greys,
    legend_above,
    log_scale,
)
from sklearn_mgs.metrics import MGSScorer

__all__ = ["MGSPathDisplay"]


class MGSPathDisplay:
    """Cross-validated scores and gradient similarity along the strengths of a search.

    It is recommended to use `from_search` to create one.

    Parameters
    ----------
    strengths : ndarray of shape (n_strengths,)
        The strengths, increasing.
    scores : dict of str to ndarray of shape (n_strengths, n_splits)
        Scores by name, drawn against the left axis.
    mgs : dict of str to ndarray of shape (n_strengths, n_splits), default=None
        Metrics of the kernel (not scores: of the trace, lower is more similar) by name, drawn
        against the right axis.
    chosen : float, default=None
        The strength that the search chose.
    param_name : str, default="mgs_strength"
        Name of the strength.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure that holds the plot.
    ax_ : matplotlib Axes
        The axes of the scores.
    mgs_ax_ : matplotlib Axes or None
        The axes of the metrics, on the same place.
    lines_, mgs_lines_ : list of matplotlib Line2D
        Means over the splits.
    bands_ : list of matplotlib PolyCollection
        One standard deviation over the splits to either side of each mean.
    chosen_line_ : matplotlib Line2D or None
        Vertical line at the chosen strength.

    See Also
    --------
    sklearn_mgs.model_selection.one_standard_error : Rule that chooses by both.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn_mgs import MLPClassifier
    >>> from sklearn_mgs.inspection import MGSPathDisplay
    >>> from sklearn_mgs.metrics import make_mgs_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> search = GridSearchCV(
    ...     MLPClassifier((10,), max_iter=20, random_state=0),
    ...     {"mgs_strength": [0, 0.1, 1]},
    ...     scoring={"accuracy": "accuracy", "mgs": make_mgs_scorer()},
    ...     refit="accuracy",
    ...     cv=3,
    ... ).fit(X, y)
    >>> display = MGSPathDisplay.from_search(search)
    >>> display.scores["accuracy"].shape
    (3, 3)
    """

    def __init__(self, *, strengths, scores, mgs=None, chosen=None, param_name="mgs_strength"):
        self.strengths = strengths
        self.scores = scores
        self.mgs = mgs
        self.chosen = chosen
        self.param_name = param_name

    @classmethod
    def from_search(cls, search, *, param=None, ax=None, **kwargs):
        """Read a fitted search's table, and plot it.

        Parameters
        ----------
        search : object
            A fitted `GridSearchCV` or `RandomizedSearchCV`, one of scikit-learn's searches by
            halving (each strength's last round is shown), a CV estimator of this package, or a
            pipeline that ends in one of them.
            Scorers from `make_mgs_scorer` are shown as the metrics they are made of.
        param : str, default=None
            Parameter to show. None: the one whose name ends in "mgs_strength", or the only
            one that was searched. Of the others only the search's choice is shown.
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure.
        **kwargs : dict
            Keywords for matplotlib's `plot`, applied to all lines.

        Returns
        -------
        display : MGSPathDisplay
            The path, plotted.

        Raises
        ------
        ValueError
            If `param` was not searched, or not given where it can't be told, or is no number.
        sklearn.exceptions.NotFittedError
            If `search` is not fitted.
        """
        check_matplotlib(cls.__name__)
        search = search[-1] if isinstance(search, Pipeline) else search
        check_is_fitted(search, "cv_results_")
        table = search.cv_results_
        param = _strength_name(table, param)
        best = getattr(search, "best_params_", None) or {}
        rows, strengths = _rows_like(table, param, best)
        scores, mgs = {}, {}
        for name in (k.removeprefix("mean_test_") for k in table if k.startswith("mean_test_")):
            values = _splits(table, name)[rows]
            scorer = (
                search.scorer_.get(name) if isinstance(search.scorer_, dict) else search.scorer_
            )
            if isinstance(scorer, MGSScorer):
                label = name if scorer.metric in mgs else scorer.metric
                mgs[label] = scorer.sign * values
            else:
                scores[name] = values
        display = cls(
            strengths=strengths,
            scores=scores,
            mgs=mgs,
            chosen=best.get(param),
            param_name=param.rpartition("__")[2],
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw means and standard deviations over the splits.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure. The legend stands above them.
        **kwargs : dict
            Keywords for matplotlib's `plot`, applied to all lines.

        Returns
        -------
        display : MGSPathDisplay
            Itself.
        """
        ax = axes_or_new(ax, type(self).__name__)
        self.ax_, self.figure_, self.mgs_ax_, self.bands_ = ax, ax.figure, None, []
        self.mgs_lines_ = []
        self.lines_ = [
            self._draw(ax, values, **{"label": name, "color": grey, **kwargs})
            for grey, (name, values) in zip(greys(len(self.scores)), self.scores.items())
        ]
        if self.mgs:
            self.mgs_ax_ = ax.twinx()
            for i, (name, values) in enumerate(self.mgs.items()):
                style = {"label": name.replace("_", " "), "color": f"C{i}", "ls": "--", **kwargs}
                self.mgs_lines_.append(self._draw(self.mgs_ax_, values, **style))
            only = METRIC_LABELS[next(iter(self.mgs))] if len(self.mgs) == 1 else "MGS metrics"
            positive = all((np.asarray(v) > 0).all() for v in self.mgs.values())
            self.mgs_ax_.set_ylabel(f"{only} (dashed)")
            if positive:
                log_scale(self.mgs_ax_, "y")
        handles = [*self.lines_, *self.mgs_lines_]
        self.chosen_line_ = None
        if self.chosen is not None:
            label = f"chosen: {self.chosen:g}"
            self.chosen_line_ = ax.axvline(self.chosen, color="0.6", ls=":", label=label)
            handles.append(self.chosen_line_)
        self._scale_strengths(ax)
        score = next(iter(self.scores)) if len(self.scores) == 1 else "score"
        ax.set(xlabel=self.param_name, ylabel=f"{score} (mean ± s.d. over splits)")
        legend_above(ax, handles)
        return self

    def _draw(self, ax, values, **kwargs):
        mean, std = np.mean(values, 1), np.std(values, 1)
        (line,) = ax.plot(self.strengths, mean, **{"marker": "o", **kwargs})
        low, high = mean - std, mean + std
        band = ax.fill_between(self.strengths, low, high, color=line.get_color(), alpha=0.15, lw=0)
        self.bands_.append(band)
        return line

    def _scale_strengths(self, ax) -> None:
        """Logarithmic scale, with zero (if it is among them) one step to the left."""
        positive = np.unique(self.strengths[np.asarray(self.strengths) > 0])
        if len(positive) < 2 or positive[-1] / positive[0] < 10:
            return
        if len(positive) == len(np.unique(self.strengths)):
            log_scale(ax, "x")
            return
        ax.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
        ticks = [0, *positive[:: 1 + len(positive) // 8]]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set_xlim(-0.3 * positive[0], 1.3 * positive[-1])


def _strength_name(table, param: str | None) -> str:
    """Name of the parameter to show."""
    searched = [k.removeprefix("param_") for k in table if k.startswith("param_")]
    if param is not None:
        if param not in searched:
            raise ValueError(f"{param!r} was not searched; expected one of {searched}.")
        return param
    strengths = [name for name in searched if name.endswith("mgs_strength")] or searched
    if len(strengths) != 1:
        raise ValueError(f"Can't tell which of {searched} to show; name it in param.")
    return strengths[0]


def _rows_like(table, param: str, best: dict) -> tuple[np.ndarray, np.ndarray]:
    """Rows that differ from `best` in `param` alone, by increasing strength; the strengths.

    Of a search that chose from a grid without `param`: from the first candidate that has it. Of a
    search by halving: each strength's last round.
    """
    candidates = table["params"]
    like = best if param in best else next(c for c in candidates if param in c)
    rows = [
        i
        for i, candidate in enumerate(candidates)
        if candidate.keys() == like.keys()
        and all(candidate[k] == value for k, value in like.items() if k != param)
    ]
    values = [candidates[i][param] for i in rows]
    if not all(isinstance(value, Real) for value in values):
        raise ValueError(
            f"{param!r} was searched over {values}, which are not numbers; name a strength in "
            "param."
        )
    last = dict(sorted(zip(map(float, values), rows)))
    return np.array([*last.values()]), np.array([*last])


def _splits(table, name: str) -> np.ndarray:
    """Scores of shape (n_candidates, n_splits)."""
    keys = [f"split{i}_test_{name}" for i in range(len(table))]
    return np.column_stack([table[key] for key in keys if key in table])
