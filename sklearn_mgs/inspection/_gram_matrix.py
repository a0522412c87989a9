"""The kernel as an image."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.utils import check_consistent_length
from sklearn.utils.multiclass import type_of_target

from sklearn_mgs._resolve import resolved
from sklearn_mgs.gram import gram_matrix
from sklearn_mgs.inspection._plotting import axes_or_new, check_matplotlib
from sklearn_mgs.metrics import subsample

__all__ = ["GramMatrixDisplay"]


class GramMatrixDisplay:
    """Kernel of the gradients of a network, its samples ordered by class.

    It is recommended to use `from_estimator` to create one.

    Parameters
    ----------
    K : ndarray of shape (n_samples, n_samples)
        The kernel, its samples in the order in which they are drawn.
    labels : ndarray of shape (n_samples,), default=None
        Classes of the samples, equal ones next to each other; None draws no boundaries.
    normalized : bool, default=False
        Whether `K` holds cosines.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure that holds the plot.
    ax_ : matplotlib Axes
        The axes that hold the plot.
    im_ : matplotlib AxesImage
        The kernel.
    colorbar_ : matplotlib Colorbar
        Its scale.
    boundaries_ : list of matplotlib Line2D
        Lines between classes.

    See Also
    --------
    sklearn_mgs.gram.gram_matrix : The kernel.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_mgs.inspection import GramMatrixDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> mlp = MLPClassifier((10,), max_iter=20, random_state=0).fit(X, y)
    >>> display = GramMatrixDisplay.from_estimator(mlp, X, y)
    >>> display.K.shape
    (150, 150)
    """

    def __init__(self, *, K, labels=None, normalized=False):
        self.K = K
        self.labels = labels
        self.normalized = normalized

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        outputs="all",
        normalize=True,
        max_samples=500,
        random_state=None,
        ax=None,
        **kwargs,
    ):
        """Compute a fitted network's kernel, order it by class, and plot it.

        Parameters
        ----------
        estimator : object
            A fitted `MLPClassifier` or `MLPRegressor` (of this package or of scikit-learn), a
            skorch net, or a pipeline or meta-estimator that holds one of them.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples, as the estimator's `predict` takes them.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Classes to order by; targets of another kind order by value, several outputs by the
            first of them, then the next. None: the classes that a classifier predicts, and the
            given order for others.
        outputs : {"all", "random", "sum"}, default="all"
            Which outputs' gradients, see `sklearn_mgs.gram.gram_matrix`.
        normalize : bool, default=True
            Whether to show cosines between gradients in the place of inner products.
        max_samples : int, default=500
            Show at most so many samples, drawn without replacement; None: all.
        random_state : int, RandomState instance or None, default=None
            Source of the draw. None acts as 0.
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure.
        **kwargs : dict
            Keywords for matplotlib's `imshow`.

        Returns
        -------
        display : GramMatrixDisplay
            The kernel, plotted.

        Raises
        ------
        ValueError
            If `outputs` is not one of the names above, `X` is not finite, or `y` has another
            number of samples.
        """
        check_matplotlib(cls.__name__)
        if outputs not in ("all", "random", "sum"):
            raise ValueError(f"outputs must be 'all', 'random' or 'sum'; got {outputs!r}.")
        check_consistent_length(X, y)
        X, y, seed = subsample(X, y, max_samples, random_state)
        with resolved(estimator, X) as (module, inputs), torch.no_grad():
            generator = torch.Generator(inputs.device).manual_seed(seed)
            K = gram_matrix(module, inputs, outputs=outputs, generator=generator).cpu().numpy()
        if normalize:
            scale = np.sqrt(np.maximum(K.diagonal(), np.finfo(K.dtype).tiny))
            K = K / scale / scale[:, None]
        if y is None and is_classifier(estimator):
            y = estimator.predict(X)
        labels = None
        if y is not None:
            y, order = _ordered(y)
            K = K[np.ix_(order, order)]
            labels = y if type_of_target(y) in ("binary", "multiclass") else None
        return cls(K=K, labels=labels, normalized=normalize).plot(ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw the kernel, lines between classes, and a colour bar.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot on; None creates a figure.
        **kwargs : dict
            Keywords for matplotlib's `imshow`.

        Returns
        -------
        display : GramMatrixDisplay
            Itself.
        """
        self.ax_ = ax = axes_or_new(ax, type(self).__name__)
        self.figure_ = ax.figure
        self.im_ = ax.imshow(self.K, **{"interpolation": "nearest", **kwargs})
        self.colorbar_ = self.figure_.colorbar(self.im_, ax=ax, fraction=0.046, pad=0.04)
        kind = "cosine between" if self.normalized else "inner product of"
        self.colorbar_.set_label(f"{kind} gradients")
        self.boundaries_ = []
        if self.labels is None:
            ax.set(xlabel="sample", ylabel="sample")
            return self
        classes, starts = np.unique(self.labels, return_index=True)
        stops = np.append(starts[1:], len(self.labels))
        for start in starts[1:]:
            for line in (ax.axhline, ax.axvline):
                self.boundaries_.append(line(start - 0.5, color="white", linewidth=0.6))
        centers = (starts + stops - 1) / 2
        ax.set_xticks(centers, classes)
        ax.set_yticks(centers, classes)
        ax.set(xlabel="samples by class", ylabel="samples by class")
        return self


def _ordered(y) -> tuple[np.ndarray, np.ndarray]:
    """Targets by value, rows of several by the first column, then the next; and their order."""
    y = y.toarray() if issparse(y) else np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y.ravel()
    order = np.argsort(y, kind="stable") if y.ndim == 1 else np.lexsort(y.T[::-1])
    return y[order], order
