"""Gradient similarity of a fitted network: as a number, and as a scorer for scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import check_random_state, resample
from sklearn.utils.validation import _num_samples
from skorch import NeuralNet
from torch import Tensor
from torch.utils.data import Dataset, Subset

from sklearn_mgs._resolve import innermost, resolved
from sklearn_mgs.gram import (
    METRICS,
    OUTPUTS,
    SIMILARITY_SIGN,
    gram_matrix,
    gram_trace,
    mgs_metric,
)

__all__ = ["make_mgs_scorer", "mgs_score"]

CHUNK = 256
"""Samples whose gradients are held at once for the trace, so that memory does not grow with n."""


def mgs_score(
    estimator, X, y=None, *, metric="trace", outputs="all", max_samples=None, random_state=None
) -> float:
    r"""Measure how similar a fitted network's gradients are between samples.

    Parameters
    ----------
    estimator : object
        A fitted `MLPClassifier` or `MLPRegressor` (of this package or of scikit-learn), a skorch
        net, or a pipeline or meta-estimator that holds one of them.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        The samples, as the estimator's `predict` takes them: for a skorch net also a torch
        Dataset, which skorch's `EpochScoring` hands to scorers.
    y : array-like of shape (n_samples,), default=None
        Class labels; only ``outputs="target"`` looks at them. A skorch net takes class indices.
    metric : {"trace", "logdet", "det", "effective_rank", "cosine"}, default="trace"
        What to reduce the kernel to, see `sklearn_mgs.gram.mgs_metric`. More similar gradients
        lower each of them, except "cosine", which they raise. "trace", "logdet" and "det" move
        with the scale of the gradients; "effective_rank" and "cosine" do not.
    outputs : {"all", "target", "random", "sum", "full"}, default="all"
        Which outputs' gradients, see `sklearn_mgs.gram.gram_matrix`.
    max_samples : int, default=None
        Measure on at most so many samples, drawn without replacement. None: on all.
    random_state : int, RandomState instance or None, default=None
        Source of the subsample, and of the direction of ``outputs="random"``. None acts as 0, so
        that the models of a search are compared on the same rows. No global random state
        is read or changed.

    Returns
    -------
    value : float
        The metric itself, a mean over samples; `make_mgs_scorer` turns it into a score.

    Raises
    ------
    TypeError
        If `estimator` holds no network, or several.
    ValueError
        If a name is unknown, the labels are missing or unknown, or `X` is not finite.
    sklearn.exceptions.NotFittedError
        If `estimator` is not fitted.

    See Also
    --------
    make_mgs_scorer : The same as a scorer, for cross-validation and search.

    Notes
    -----
    The gradients are of the network's outputs before softmax or the logistic function (of a
    skorch net: of whatever its module returns), with respect to its parameters, in evaluation
    mode. "trace" needs the kernel's diagonal only: its cost is linear in the number of samples.
    The other metrics form the (n_samples, n_samples) kernel, and take time of order
    n_samples² for "cosine" and n_samples³ for the rest; `max_samples` bounds it.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_mgs.metrics import mgs_score
    >>> X, y = load_iris(return_X_y=True)
    >>> mlp = MLPClassifier((10,), max_iter=20, random_state=0).fit(X, y)
    >>> rank = mgs_score(mlp, X, metric="effective_rank")
    >>> 1 < rank < 150
    True
    """
    _check_names(metric, outputs)
    X, y, seed = subsample(X, y, max_samples, random_state)
    if metric == "cosine" and _num_samples(X) < 2:
        raise ValueError('metric="cosine" compares pairs; got 1 sample, pass at least 2.')
    targets = _class_indices(estimator, y) if outputs == "target" else None
    with resolved(estimator, X) as (module, inputs), torch.no_grad():
        generator = torch.Generator(inputs.device).manual_seed(seed)
        options = {"outputs": outputs, "targets": targets, "generator": generator}
        if metric == "trace" and outputs != "full":
            return float(gram_trace(module, inputs, chunk_size=CHUNK, **options)) / len(inputs)
        return float(mgs_metric(gram_matrix(module, inputs, **options), metric))


def make_mgs_scorer(
    metric="trace", *, outputs="all", max_samples=None, random_state=None
) -> MGSScorer:
    """Make a scorer of gradient similarity: greater is more similar.

    Parameters
    ----------
    metric : {"trace", "logdet", "det", "effective_rank", "cosine"}, default="trace"
        See `mgs_score`.
    outputs : {"all", "target", "random", "sum", "full"}, default="all"
        See `mgs_score`.
    max_samples : int, default=None
        See `mgs_score`.
    random_state : int, RandomState instance or None, default=None
        See `mgs_score`.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y=None) -> float``, `mgs_score` negated where a lower value means
        more similar gradients (all but "cosine"). It can be pickled.

    Raises
    ------
    ValueError
        If a name is unknown.

    See Also
    --------
    mgs_score : The metric itself.
    sklearn_mgs.model_selection.one_standard_error : Choose by a score and this.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.neural_network import MLPClassifier
    >>> from sklearn_mgs.metrics import make_mgs_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> scorer = make_mgs_scorer("effective_rank", max_samples=100)
    >>> scorer
    make_mgs_scorer('effective_rank', max_samples=100)
    >>> mlp = MLPClassifier((10,), max_iter=20, random_state=0)
    >>> cross_val_score(mlp, X, y, scoring=scorer, cv=3).shape
    (3,)
    """
    _check_names(metric, outputs)
    return MGSScorer(metric, outputs, max_samples, random_state)


@dataclass(frozen=True, repr=False)
class MGSScorer:
    """Callable that `make_mgs_scorer` returns; see there for the parameters."""

    metric: str = "trace"
    outputs: str = "all"
    max_samples: int | None = None
    random_state: int | np.random.RandomState | None = None

    def __call__(self, estimator, X, y=None) -> float:
        """Score a fitted estimator; greater is more similar."""
        return self.sign * mgs_score(estimator, X, y, **vars(self))

    @property
    def sign(self) -> int:
        """What the metric is multiplied by, to be greater for more similar gradients."""
        return SIMILARITY_SIGN[self.metric]

    def __repr__(self) -> str:
        defaults = MGSScorer(self.metric)
        given = [f"{k}={v!r}" for k, v in vars(self).items() if v != getattr(defaults, k)]
        return f"make_mgs_scorer({', '.join([repr(self.metric), *given])})"

    def _accept_sample_weight(self) -> bool:
        """Answer scikit-learn, which asks each scorer when sample weights are passed along."""
        return False


def _check_names(metric, outputs) -> None:
    for what, name, valid in (("metric", metric, METRICS), ("outputs", outputs, OUTPUTS)):
        if name not in valid:
            raise ValueError(f"Unknown {what} {name!r}; expected one of {list(valid)}.")


def subsample(X, y, max_samples, random_state):
    """At most `max_samples` rows of X and y, and a seed for what torch draws."""
    if max_samples is not None and (not isinstance(max_samples, Integral) or max_samples < 1):
        raise ValueError(
            f"max_samples must be None or an integer of at least 1; got {max_samples!r}."
        )
    rng = check_random_state(0 if random_state is None else random_state)
    if max_samples is not None and max_samples < _num_samples(X):
        rows = {"replace": False, "n_samples": max_samples, "random_state": rng}
        if isinstance(X, Dataset):  # of which only these should be loaded
            chosen = resample(np.arange(len(X)), **rows)
            X, y = Subset(X, chosen), None if y is None else np.asarray(y)[chosen]
        else:
            X, y = (resample(X, **rows), None) if y is None else resample(X, y, **rows)
    return X, y, int(rng.randint(2**31 - 1))


def _class_indices(estimator, y) -> Tensor:
    """Index of the output that belongs to each label."""
    if y is None:
        raise ValueError('outputs="target" needs y, the class labels; got None.')
    network, _ = innermost(estimator)
    y = np.asarray(y)
    if isinstance(network, NeuralNet):  # skorch: the labels are the indices
        if y.dtype.kind not in "fiub":
            raise ValueError(
                f'outputs="target" of a skorch net needs y as class indices; got {y.dtype}. '
                "Encode the labels, with LabelEncoder for instance."
            )
        whole = y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.round(y)).all()
        return torch.as_tensor(y.astype(np.int64) if whole else y)  # binary nets take floats
    classes = getattr(network, "classes_", None)
    if classes is None:
        raise ValueError(
            f'outputs="target" needs a classifier, and {type(network).__name__} has no classes_; '
            'use outputs="all".'
        )
    if y.ndim != 1:
        raise ValueError(
            f'outputs="target" needs one class label per sample; got y of shape {y.shape}. Use '
            'outputs="all" for several labels.'
        )
    unknown = np.setdiff1d(y, classes)
    if len(unknown):
        raise ValueError(
            f"y holds labels that {type(network).__name__} was not fitted on: {unknown.tolist()}; "
            f"expected some of {classes.tolist()}."
        )
    return torch.from_numpy(np.searchsorted(classes, y))
