"""Straightness of a fitted network between samples: as numbers, and as a scorer."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

import numpy as np
from torch import Tensor

from sklearn_mgs.straightness._operations import NotWalkable
from sklearn_mgs.straightness._pairs import check_count, pairs_of
from sklearn_mgs.straightness._quadrature import (
    Segments,
    deflection_by_quadrature,
    gap_over_grid,
)
from sklearn_mgs.straightness._segments import (
    SegmentStatistics,
    kink_counts,
    segment_statistics,
)

__all__ = [
    "gradient_deflection",
    "gradient_gap_deviation",
    "make_deflection_scorer",
    "path_kinks",
]


def gradient_deflection(
    estimator, X, *, n_pairs=1000, random_state=None, relative=False, tol=1e-2
) -> float:
    r"""Measure how far a network's slope strays from the chord between two samples.

    The network is walked along straight segments between pairs of samples. Zero for a linear
    model; the smaller, the straighter the network is between the samples.

    Parameters
    ----------
    estimator : object
        A fitted `MLPClassifier` or `MLPRegressor` (of this package or of scikit-learn), a skorch
        net, or a pipeline or meta-estimator that holds one of them.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        The samples, at least two, as the estimator's `predict` takes them.
    n_pairs : int, default=1000
        Number of pairs, drawn with replacement; the two samples of a pair are different rows.
    random_state : int, RandomState instance or None, default=None
        Source of the pairs. None acts as 0, so that the models of a search are compared on the
        same pairs. No global random state is read or changed.
    relative : bool, default=False
        Divide by the root mean square of the chords' slopes. The result does not move with the
        scale of the outputs; it is infinite if no chord has a slope but the network bends.
    tol : float, default=1e-2
        For networks that are not walked exactly (see Notes): bound on the estimated relative
        error of each pair's squared deflection.

    Returns
    -------
    deflection : float
        The root mean square over the pairs.

    Raises
    ------
    TypeError
        If `estimator` holds no network, or several.
    ValueError
        If `X` has fewer than two samples, is not finite or not of floating point, `n_pairs` is
        below 1, `tol` is not positive, or a network that is not walked exactly has an
        operation without forward-mode derivatives.
    sklearn.exceptions.NotFittedError
        If `estimator` is not fitted.

    Warns
    -----
    RuntimeWarning
        If `tol` was not reached.

    See Also
    --------
    gradient_gap_deviation : How much the slope jumps at a kink.
    path_kinks : How many kinks there are.

    Notes
    -----
    Between samples :math:`x_a` and :math:`x_b` let :math:`x(t) = (1-t) x_a + t x_b`,
    :math:`h(t) = f(x(t)) \in R^C` and :math:`g = h'`. The squared deflection of the pair is

    .. math:: \frac{1}{C} \int_0^1 \| g(t) - (h(1) - h(0)) \|^2 \, dt .

    This definition, and that of the gap deviation, are this package's own, from the abstract
    of [1]_, which is all that was known of it; the numbers of that paper need not be
    comparable.

    The outputs :math:`f` are those of the network's linear output layer (logits, not
    probabilities), and of a skorch net whatever its module returns.

    The integral is exact (in float64, to rounding) for piecewise-linear networks, however they
    are written, with modules or functions, residual sums and branches: those whose operations are
    linear layers, convolutions, batch normalisation with running statistics, dropout, average
    pooling, sums, means, scaling, padding, reshaping and the like, and with kinks ReLU,
    LeakyReLU, PReLU, absolute values, clipping (``clamp``, ``Hardtanh``, ReLU6), maxima and
    minima, max-pooling. The network's operations are watched while it maps points of the
    segment, and each point where one has a kink is added; no grid is involved. Time grows as the
    number of pairs times of kinks times the cost of one evaluation; memory is bounded, since
    pairs, and long ones in parts, are taken in chunks.

    For any other module, with smooth activations, operations that are not known here, or
    samples that are not kept along the first dimension, forward-mode derivatives are
    integrated by Gauss-Legendre rules of 7 nodes on intervals that are bisected until `tol` is
    met, as far as rounding in the module's own precision lets it. Smooth networks get there
    after about 50 evaluations per pair, with errors far below `tol`. One with kinks needs several
    hundreds (its time grows about as 1 / `tol` until each kink has an interval of its own), and
    where two kinks are close together on a pair both may be missed.

    References
    ----------
    .. [1] M. Kubo, R. Banno, H. Manabe, M. Minoji, "Implicit Regularization in Over-parameterized
       Neural Networks", arXiv:1903.01997, 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_mgs.straightness import gradient_deflection
    >>> X, y = load_iris(return_X_y=True)
    >>> mlp = MLPClassifier((10,), max_iter=20, random_state=0).fit(X, y)
    >>> 0 < gradient_deflection(mlp, X, n_pairs=100, relative=True) < 1
    True
    """
    if not isinstance(tol, Real) or not tol > 0:
        raise ValueError(f"tol must be a positive number; got {tol!r}.")
    with pairs_of(estimator, X, n_pairs, random_state) as segments:
        exact = _exact_statistics(segments)
        if exact is None:
            squared, chord = deflection_by_quadrature(segments, tol)
        else:
            squared, chord = exact.deflection, exact.chord
    return _root_mean(squared, chord, relative)


def gradient_gap_deviation(
    estimator, X, *, n_pairs=1000, random_state=None, relative=False, n_steps=32
) -> float:
    r"""Measure how much a network's slope jumps at a kink between two samples.

    Zero for a linear model, and for pairs without a kink between them.

    Parameters
    ----------
    estimator : object
        See `gradient_deflection`.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        See `gradient_deflection`.
    n_pairs : int, default=1000
        See `gradient_deflection`.
    random_state : int, RandomState instance or None, default=None
        See `gradient_deflection`.
    relative : bool, default=False
        See `gradient_deflection`.
    n_steps : int, default=32
        For networks that are not walked exactly: number of steps of the grid.

    Returns
    -------
    gap_deviation : float
        The root mean square over the pairs.

    Raises
    ------
    TypeError
        If `estimator` holds no network, or several.
    ValueError
        If `X` has fewer than two samples, is not finite or not of floating point, or `n_pairs`
        or `n_steps` is below 1.
    sklearn.exceptions.NotFittedError
        If `estimator` is not fitted.

    See Also
    --------
    gradient_deflection : How far the slope strays from the chord; more on both measures.
    path_kinks : The number of kinks, and what counts as one.

    Notes
    -----
    With the notation of `gradient_deflection`, and the :math:`K` kinks :math:`t_k` on a segment
    as `path_kinks` counts them, the squared gap deviation of the pair is

    .. math:: \frac{1}{K C} \sum_k \| g(t_k^+) - g(t_k^-) \|^2 .

    This definition is this package's own, from the abstract of [1]_. It is exact for the
    networks that `gradient_deflection` walks exactly. Any other network is taken on a grid: the
    :math:`K` = `n_steps` differences of :math:`g` between the neighbours of `n_steps` + 1 evenly
    spaced points. They shrink as 1 / `n_steps` where the network is smooth, so compare such values
    with each other only, at equal `n_steps`, and not with those of walked networks.

    References
    ----------
    .. [1] M. Kubo, R. Banno, H. Manabe, M. Minoji, "Implicit Regularization in Over-parameterized
       Neural Networks", arXiv:1903.01997, 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_mgs.straightness import gradient_gap_deviation
    >>> X, y = load_iris(return_X_y=True)
    >>> linear = MLPClassifier((10,), "identity", max_iter=20, random_state=0).fit(X, y)
    >>> gradient_gap_deviation(linear, X)
    0.0
    """
    check_count("n_steps", n_steps)
    with pairs_of(estimator, X, n_pairs, random_state) as segments:
        exact = _exact_statistics(segments)
        if exact is None:
            squared, chord = gap_over_grid(segments, n_steps)
        else:
            squared, chord = exact.gap, exact.chord
    return _root_mean(squared, chord, relative)


def path_kinks(estimator, X, *, n_pairs=1000, random_state=None) -> float:
    """Count the kinks of a ReLU network between two samples.

    Parameters
    ----------
    estimator : object
        See `gradient_deflection`.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        See `gradient_deflection`.
    n_pairs : int, default=1000
        See `gradient_deflection`.
    random_state : int, RandomState instance or None, default=None
        See `gradient_deflection`.

    Returns
    -------
    kinks : float
        Mean number of kinks on a segment, over the pairs. Zero if all activations are smooth.

    Raises
    ------
    TypeError
        If `estimator` holds no network, or several.
    ValueError
        If `X` has fewer than two samples, is not finite or not of floating point, `n_pairs` is
        below 1, or the network cannot be walked exactly up to its last operation with a kink.
    sklearn.exceptions.NotFittedError
        If `estimator` is not fitted.

    See Also
    --------
    gradient_gap_deviation : How much the slope jumps at them.

    Notes
    -----
    A kink is a point strictly inside the segment at which the activation pattern changes: the
    input of at least one ReLU, LeakyReLU whose slopes differ, or absolute value changes sign,
    reaches a bound at which it is clipped, or another entry becomes the largest of a maximum or
    of a window of max-pooling. Several units that change at one point (to 1e-10 of the segment)
    make one kink. Whether the outputs notice does not matter: a unit that changes where
    nothing after it is active, or whose outgoing weights are zero, counts too, with a jump of
    zero.

    Networks are counted that `gradient_deflection` walks exactly, and those that are smooth
    after their last operation with a kink (a softmax at the end, say), or altogether.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_mgs.straightness import path_kinks
    >>> X, y = load_iris(return_X_y=True)
    >>> mlp = MLPClassifier((10,), max_iter=20, random_state=0).fit(X, y)
    >>> 0 < path_kinks(mlp, X) < 10
    True
    """
    with pairs_of(estimator, X, n_pairs, random_state) as segments:
        try:
            kinks = kink_counts(*segments)
        except NotWalkable as reason:
            raise ValueError(
                f"The kinks of {type(segments.module).__name__} cannot be counted: {reason}. They "
                "are known for networks that are piecewise linear up to the last ReLU or "
                "max-pooling, of common operations; gradient_deflection takes any network."
            ) from reason
    return float(kinks.double().mean())


def make_deflection_scorer(
    *, n_pairs=1000, random_state=None, relative=False, tol=1e-2
) -> DeflectionScorer:
    """Make a scorer of straightness between samples: greater is straighter.

    Parameters
    ----------
    n_pairs : int, default=1000
        See `gradient_deflection`.
    random_state : int, RandomState instance or None, default=None
        See `gradient_deflection`.
    relative : bool, default=False
        See `gradient_deflection`.
    tol : float, default=1e-2
        See `gradient_deflection`.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y=None) -> float``, `gradient_deflection` negated. It can be
        pickled; `y` is ignored.

    See Also
    --------
    gradient_deflection : The measure itself.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_mgs.straightness import make_deflection_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> scorer = make_deflection_scorer(n_pairs=100, relative=True)
    >>> scorer
    make_deflection_scorer(n_pairs=100, relative=True)
    >>> mlp = MLPClassifier((10,), max_iter=20, random_state=0)
    >>> cross_val_score(mlp, X, y, scoring=scorer, cv=3).shape
    (3,)
    """
    return DeflectionScorer(n_pairs, random_state, relative, tol)


@dataclass(frozen=True, repr=False)
class DeflectionScorer:
    """Callable that `make_deflection_scorer` returns; see there for the parameters."""

    n_pairs: int = 1000
    random_state: int | np.random.RandomState | None = None
    relative: bool = False
    tol: float = 1e-2

    def __call__(self, estimator, X, y=None) -> float:
        """Score a fitted estimator; greater is straighter."""
        return -gradient_deflection(estimator, X, **vars(self))

    def __repr__(self) -> str:
        defaults = vars(DeflectionScorer())
        given = [f"{k}={v!r}" for k, v in vars(self).items() if v != defaults[k]]
        return f"make_deflection_scorer({', '.join(given)})"

    def _accept_sample_weight(self) -> bool:
        """Answer scikit-learn, which asks each scorer when sample weights are passed along."""
        return False


def _exact_statistics(segments: Segments) -> SegmentStatistics | None:
    """What the exact walk finds; None where the network is not piecewise linear."""
    try:
        return segment_statistics(*segments)
    except NotWalkable:
        return None


def _root_mean(squared: Tensor, chord: Tensor, relative: bool) -> float:
    """Root of the mean over pairs, divided by that of the squared chords if `relative`."""
    mean = squared.mean()
    return float((mean / chord.mean() if relative and mean > 0 else mean).sqrt())
