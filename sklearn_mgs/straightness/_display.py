"""Picture of a network along one segment between two samples."""

from __future__ import annotations

import numpy as np
import torch

from sklearn_mgs.straightness._operations import NotWalkable
from sklearn_mgs.straightness._pairs import pairs_of
from sklearn_mgs.straightness._segments import paths

__all__ = ["SegmentDisplay"]


class SegmentDisplay:
    """A network's outputs along the straight segment between two samples, and their chords.

    It is recommended to use `from_estimator` to create one.

    Parameters
    ----------
    t : ndarray of shape (n_points,)
        Positions on the segment, increasing from 0 to 1.
    outputs : ndarray of shape (n_points, n_outputs)
        The network's outputs there.
    kinks : ndarray of shape (n_kinks,), default=()
        Positions of the kinks, as `path_kinks` counts them.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure that holds the plot.
    ax_ : matplotlib Axes
        The axes that hold the plot.
    lines_ : list of matplotlib Line2D, of length n_outputs
        The outputs.
    chord_lines_ : list of matplotlib Line2D, of length n_outputs
        The chords: where a linear network's outputs would be.
    kink_marks_ : matplotlib Line2D or None
        Ticks on the upper edge at the kinks; None without kinks.

    See Also
    --------
    gradient_deflection : How far the outputs stray from the chords, over many segments.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_mgs.straightness import SegmentDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> mlp = MLPClassifier((10,), max_iter=20, random_state=0).fit(X, y)
    >>> display = SegmentDisplay.from_estimator(mlp, X[0], X[-1])
    >>> len(display.lines_)
    3
    """

    def __init__(self, t, outputs, kinks=()):
        self.t = t
        self.outputs = outputs
        self.kinks = kinks

    @classmethod
    def from_estimator(cls, estimator, x_a, x_b, *, n_points=200, ax=None, **kwargs):
        """Compute a network's outputs along the segment from `x_a` to `x_b`, and plot them.

        Parameters
        ----------
        estimator : object
            A fitted `MLPClassifier` or `MLPRegressor` (of this package or of scikit-learn), a
            skorch net, or a pipeline or meta-estimator that holds one of them. The segment is
            straight in the features that the network gets.
        x_a : array-like of shape (n_features,)
            Sample at t = 0.
        x_b : array-like of shape (n_features,)
            Sample at t = 1.
        n_points : int, default=200
            Points to draw, for networks that `gradient_deflection` does not walk exactly. The
            others are drawn from kink to kink. Kinks are marked where `path_kinks` counts them.
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure.
        **kwargs : dict
            Keywords for matplotlib's `plot`, applied to the lines of the outputs.

        Returns
        -------
        display : SegmentDisplay
            The computed values, plotted.

        Raises
        ------
        TypeError
            If `estimator` holds no network, or several.
        ValueError
            If the samples do not fit the network, are not finite or not of floating point.
        sklearn.exceptions.NotFittedError
            If `estimator` is not fitted.
        """
        with pairs_of(estimator, _stacked(x_a, x_b), 1, None) as segments:
            X = segments.X
            pair = torch.tensor([[0, 1]], device=X.device)
            try:
                (path, _), *_ = paths(segments.module, X, pair)
            except NotWalkable:
                path = None
            if path is not None and path.is_linear:
                t, outputs, kinks = path.t, path.values, path.t[1:-1]
            else:
                t = torch.linspace(0, 1, n_points, dtype=X.dtype, device=X.device)
                outputs = segments._replace(pairs=pair).outputs(t)[0]
                kinks = t[:0] if path is None else path.t[1:-1]
        arrays = (x.cpu().numpy() for x in (t, outputs, kinks))
        return cls(*arrays).plot(ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw the outputs, dashed chords between their ends, and a tick at each kink.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure. The legend is beside the axes, to the right.
        **kwargs : dict
            Keywords for matplotlib's `plot`, applied to the lines of the outputs.

        Returns
        -------
        display : SegmentDisplay
            Itself.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        columns = np.transpose(self.outputs)
        labels = [f"output {i}" for i in range(len(columns))]
        self.lines_ = [
            ax.plot(self.t, column, **{"label": label, **kwargs})[0]
            for column, label in zip(columns, labels)
        ]
        self.chord_lines_ = [
            ax.plot([0, 1], column[[0, -1]], "--", color=line.get_color(), linewidth=1)[0]
            for column, line in zip(columns, self.lines_)
        ]
        self.chord_lines_[-1].set_label("chord")
        self.kink_marks_ = None
        if len(self.kinks):
            on_edge = {"transform": ax.get_xaxis_transform(), "clip_on": False}
            label = f"kinks ({len(self.kinks)})"
            top = np.ones(len(self.kinks))
            (self.kink_marks_,) = ax.plot(
                self.kinks, top, "|", color="black", markersize=10, label=label, **on_edge
            )
        ax.set(xlabel="t (0: first sample, 1: second sample)", ylabel="network output")
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
        return self


def _stacked(x_a, x_b):
    """Two samples as X; pandas Series as a DataFrame, whose column names a pipeline may need."""
    if hasattr(x_a, "to_frame"):
        return type(x_a.to_frame())([x_a, x_b])
    return np.stack([x_a, x_b])
