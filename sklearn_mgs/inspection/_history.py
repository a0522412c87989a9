"""Training curves with the similarity of gradients."""

from __future__ import annotations

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_mgs._resolve import innermost
from sklearn_mgs.inspection._plotting import (
    axes_or_new,
    check_matplotlib,
    greys,
    legend_above,
    log_scale,
)

__all__ = ["MGSHistoryDisplay"]

CURVES = {
    "train_loss": "training loss",
    "valid_loss": "validation loss",
    "valid_score": "validation score",
    "valid_acc": "validation accuracy",
    "mgs_agreement": "agreement",
}
"""Columns of the history on the left axis, with their labels."""

MGS = {
    "mgs_trace": "trace",
    "mgs_det": "det",
    "mgs_logdet": "exp(logdet)",
    "mgs_effective_rank": "effective rank",
    "mgs_cosine": "cosine",
    "mgs_penalty": "MGS penalty",
}
"""Columns on the right axis, relative to their first value."""


class MGSHistoryDisplay:
    """Losses and scores of a fit by epoch, and the metrics of the kernel beside them.

    It is recommended to use `from_estimator` to create one.

    Parameters
    ----------
    curves : dict of str to ndarray of shape (n_epochs,)
        Losses and scores by label, drawn against the left axis.
    metrics : dict of str to ndarray of shape (n_epochs,)
        Metrics by label, relative to their first value, drawn against the right axis on a
        logarithmic scale; NaN where they were not measured.
    restored_epoch : int, default=None
        Epoch, counted from 1, whose parameters the network has, if early stopping chose it.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure that holds the plot.
    ax_ : matplotlib Axes
        The axes of the curves.
    mgs_ax_ : matplotlib Axes or None
        The axes of the metrics, on the same place.
    lines_ : list of matplotlib Line2D
        The curves.
    mgs_lines_ : list of matplotlib Line2D
        The metrics.
    restored_line_ : matplotlib Line2D or None
        Vertical line at the restored epoch.

    See Also
    --------
    sklearn_mgs.callbacks.MGSMonitor : Callback that records the metrics.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_mgs import MLPClassifier
    >>> from sklearn_mgs.callbacks import MGSMonitor
    >>> from sklearn_mgs.inspection import MGSHistoryDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> mlp = MLPClassifier((10,), max_iter=20, callbacks=[MGSMonitor()], random_state=0)
    >>> display = MGSHistoryDisplay.from_estimator(mlp.fit(X, y))
    >>> sorted(display.metrics)
    ['effective rank', 'exp(logdet)', 'trace']
    """

    def __init__(self, *, curves, metrics, restored_epoch=None):
        self.curves = curves
        self.metrics = metrics
        self.restored_epoch = restored_epoch

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **kwargs):
        """Read a fitted network's history, and plot it.

        Parameters
        ----------
        estimator : object
            A fitted estimator of this package or skorch net with an `MGSMonitor` or an
            `MGSEarlyStopping` among its callbacks (or an MGS penalty), or what holds one of them.
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure.
        **kwargs : dict
            Keywords for matplotlib's `plot`, applied to all lines.

        Returns
        -------
        display : MGSHistoryDisplay
            The curves, plotted.

        Raises
        ------
        ValueError
            If the estimator has no history, or one without a metric.
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        """
        check_matplotlib(cls.__name__)
        network, _ = innermost(estimator)
        check_is_fitted(network)
        history = getattr(network, "history_", None) or getattr(network, "history", None)
        if not history:
            raise ValueError(
                f"{type(network).__name__} has no history of its fit; fit a network of "
                "sklearn_mgs or skorch, with callbacks=[MGSMonitor()]."
            )
        columns = _columns(history)
        metrics = {
            label: _relative(key, columns[key]) for key, label in MGS.items() if key in columns
        }
        if not metrics and "mgs_agreement" not in columns:
            raise ValueError(
                f"The history has no column of a metric, only {sorted(columns)}; fit with "
                "callbacks=[MGSMonitor()]."
            )
        curves = {label: columns[key] for key, label in CURVES.items() if key in columns}
        best = np.flatnonzero(columns.get("mgs_agreement_best", ()))
        restored = int(best[-1]) + 1 if len(best) else None
        return cls(curves=curves, metrics=metrics, restored_epoch=restored).plot(ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw the curves and the metrics against the epoch.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure. The legend stands above them.
        **kwargs : dict
            Keywords for matplotlib's `plot`, applied to all lines.

        Returns
        -------
        display : MGSHistoryDisplay
            Itself.
        """
        ax = axes_or_new(ax, type(self).__name__)
        self.ax_, self.figure_, self.mgs_ax_, self.mgs_lines_ = ax, ax.figure, None, []
        self.lines_ = [
            _line(ax, curve, **{"label": label, "color": grey, **kwargs})
            for grey, (label, curve) in zip(greys(len(self.curves)), self.curves.items())
        ]
        if self.metrics:
            self.mgs_ax_ = ax.twinx()
        for i, (label, values) in enumerate(self.metrics.items()):
            style = {"label": label, "color": f"C{i}", "ls": "--", **kwargs}
            self.mgs_lines_.append(_line(self.mgs_ax_, values, **style))
        handles = [*self.lines_, *self.mgs_lines_]
        self.restored_line_ = None
        if self.restored_epoch is not None:
            self.restored_line_ = ax.axvline(
                self.restored_epoch, color="0.6", ls=":", label="restored epoch"
            )
            handles.append(self.restored_line_)
        ax.set(xlabel="epoch", ylabel="loss or score")
        ax.locator_params(axis="x", integer=True)
        if self.metrics:
            self.mgs_ax_.set_ylabel("metric / its first value (dashed)")
            log_scale(self.mgs_ax_, "y")
        legend_above(ax, handles)
        return self


def _columns(history) -> dict[str, np.ndarray]:
    """Numbers of a skorch history by column; NaN in epochs that lack one."""
    rows = list(history)
    keys = {k for row in rows for k, value in row.items() if isinstance(value, int | float)}
    return {k: np.array([row.get(k, np.nan) for row in rows], dtype=float) for k in keys}


def _relative(key: str, values: np.ndarray) -> np.ndarray:
    """Values over the first of them; those of a logarithm are differences, exponentiated."""
    measured = values[np.isfinite(values)]
    if key == "mgs_logdet":
        return np.exp(values - measured[0])
    return values / measured[0]


def _line(ax, values, **kwargs):
    """Line through the epochs that were measured."""
    measured = np.flatnonzero(np.isfinite(values))
    (line,) = ax.plot(measured + 1, np.asarray(values)[measured], **kwargs)
    return line
