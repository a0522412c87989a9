"""Watching gradient similarity while a network trains, and stopping by it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples
from skorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import Dataset

from sklearn_mgs._agreement import agreement
from sklearn_mgs._closed_form_pass import is_known
from sklearn_mgs._data import stacked
from sklearn_mgs._kernel_metrics import kernel_metrics
from sklearn_mgs._mlp_gram import mlp_gram
from sklearn_mgs._resolve import resolved
from sklearn_mgs.gram import METRICS
from sklearn_mgs.gram._factorizer import Factorizer
from sklearn_mgs.gram._layers import evaluating
from sklearn_mgs.gram._outputs import output_matrix
from sklearn_mgs.gram._reduce import gram, no_autocast

__all__ = ["MGSEarlyStopping", "MGSMonitor"]

SHARE = 64
"""Of a large training set, the monitor measures on one sample in so many."""


class MGSMonitor(Callback):
    """Write the gradient similarity of a network into its history, epoch by epoch.

    A skorch callback, for the ``callbacks`` of this package's estimators and of any skorch net.
    The column ``mgs_<metric>`` holds the metric of the kernel of all outputs at the end of the
    epoch, in evaluation mode, on the same samples throughout; the verbose table shows it. Global
    random states are left alone, so a watched fit gives the same network as an unwatched one.

    Parameters
    ----------
    metrics : sequence of str, default=("trace", "logdet", "effective_rank")
        Names of metrics, see `sklearn_mgs.gram.mgs_metric`.
    X : array-like of shape (n_samples, n_features) or torch Dataset, default=None
        Samples to measure on, as the network gets them (after a pipeline's other steps). None:
        training samples, the same at each fit.
    max_samples : int, default=256
        Measure on at most so many samples. Without `X`, on all training samples if they are no
        more; of a larger set on a 64th, so that watching takes little of the fit's time, but no
        fewer than a tenth of `max_samples`.
    every : int, default=1
        Measure at the first epoch and every so many epochs from there; NaN in between.

    Attributes
    ----------
    samples_ : array-like of shape (n_samples, ...)
        The samples measured on; None before the first epoch.

    See Also
    --------
    MGSEarlyStopping : Watch, and stop before the network memorises.
    sklearn_mgs.metrics.make_mgs_scorer : A scorer of the same, also for scikit-learn's own
        `ScoringMonitor` callback.

    Notes
    -----
    One kernel an epoch serves all metrics. For n samples it takes n² times the number of units
    and outputs, "effective_rank" and "logdet" n³ more; ``benchmarks/monitor_overhead.py`` sets
    that against the time of a fit. Raise `every` where an epoch is but a few steps of a small
    network.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_mgs import MLPClassifier
    >>> from sklearn_mgs.callbacks import MGSMonitor
    >>> X, y = load_iris(return_X_y=True)
    >>> mlp = MLPClassifier((10,), max_iter=5, random_state=0, callbacks=[MGSMonitor()])
    >>> len(mlp.fit(X, y).history_[:, "mgs_effective_rank"])
    5
    """

    def __init__(
        self, metrics=("trace", "logdet", "effective_rank"), X=None, max_samples=256, every=1
    ):
        self.metrics = metrics
        self.X = X
        self.max_samples = max_samples
        self.every = every

    def initialize(self):
        """Check the parameters and forget the last fit."""
        if isinstance(self.metrics, str) or not isinstance(self.metrics, Iterable):
            raise ValueError(f"metrics must be a sequence of names; got {self.metrics!r}.")
        unknown = [metric for metric in self.metrics if metric not in METRICS]
        if unknown:
            raise ValueError(f"Unknown metrics {unknown}; expected some of {list(METRICS)}.")
        _check_counts(self, "max_samples", "every")
        self.samples_ = self.kernel_ = None
        if self.X is not None:
            if not _num_samples(self.X):
                raise ValueError("MGSMonitor's X has no samples; pass some, or X=None.")
            rows = _rows(_num_samples(self.X), self.max_samples)
            if isinstance(self.X, Dataset):
                self.samples_, _ = stacked(self.X, rows)
            else:
                self.samples_ = _safe_indexing(self.X, rows)
        return self

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        """See whether the given samples are for this network."""
        if self.X is None:
            return
        with resolved(net, self.samples_) as (module, samples), torch.no_grad():
            try:
                module(samples[:1])
            except RuntimeError as error:
                raise ValueError(
                    f"The network can't take MGSMonitor's X of shape {tuple(samples.shape)} "
                    f"({error}); pass samples as the network gets them, after a pipeline's other "
                    "steps."
                ) from error

    def on_epoch_begin(self, net, dataset_train=None, **kwargs):
        """Draw the samples before the first epoch."""
        if self.samples_ is None:
            n, size = len(dataset_train), self.max_samples
            if n > size:
                size = max(-(-size // 10), min(size, n // SHARE))
            self.samples_, _ = stacked(dataset_train, _rows(n, size))

    def on_epoch_end(self, net, **kwargs):
        """Measure, and record."""
        if (len(net.history) - 1) % self.every:
            values = dict.fromkeys(self.metrics, float("nan"))
        else:
            values = self._measure(net)
        for metric, value in values.items():
            net.history.record(f"mgs_{metric}", value)

    def on_train_end(self, net, **kwargs):
        """Let go of the module."""
        self.kernel_ = None

    def _measure(self, net) -> dict[str, float]:
        if self.kernel_ is None:
            self.kernel_ = _Kernel(net, self.samples_)
        return kernel_metrics(self.kernel_(), self.metrics)


class MGSEarlyStopping(Callback):
    r"""Stop a fit before the network memorises its noisy labels; needs no clean validation set.

    After each epoch the gradients of the training samples are asked what the network has learned
    from all of them together: kernel ridge regression on the cosine-normalised kernel predicts
    each sample from the given labels of the *others*. While the network learns what samples
    share, its own predictions agree with these more and more; when it turns to fitting samples
    one by one, they part. Training ends when the agreement has stayed below its greatest value for
    `patience` epochs, and the network gets back the parameters of the epoch at which it was
    greatest (of several, the last).

    The history column ``mgs_agreement`` holds it, ``mgs_agreement_best`` whether none before was
    greater. Each call to ``fit`` or ``partial_fit`` is watched by itself. Global random states are
    left alone.

    Parameters
    ----------
    patience : int, default=10
        Epochs below the greatest agreement before training ends.
    ridge : float, default=0.3
        Ridge of the regression, beside the kernel's unit diagonal.
    max_samples : int, default=512
        Measure on at most so many training samples, the same throughout.
    every : int, default=1
        Measure at the first epoch and every so many epochs from there; NaN in between.

    Attributes
    ----------
    best_epoch_ : int
        Row of the history, from 1, whose parameters the network has.
    stopped_ : bool
        Whether the rule has ended the training.

    See Also
    --------
    MGSMonitor : Watch without stopping.

    Notes
    -----
    With :math:`R_{ij} = K_{ij} / \sqrt{K_{ii} K_{jj}}`, :math:`A = (R + \rho I)^{-1}` and centred
    labels :math:`Y` (one-hot rows for classes), the prediction for sample i from the others is
    :math:`Y_i - (A Y)_i / A_{ii}` [1]_. The agreement with the network's own prediction is Cohen's
    kappa for classes, 1 where all are the same and 0 for what chance would give, and Lin's
    concordance for numbers, for which the outputs must be on the targets' scale (a Poisson
    regressor's are not).

    The rule is ours. Neither the scale of gradients nor the initial weights enter it; the ridge
    was chosen on digits and MNIST-1D at 0 to 60 % random labels, and
    ``benchmarks/early_stopping.py`` shows the gap to the best epoch on other draws. In regression
    without noise it stops too early. An epoch's measure costs a kernel and a Cholesky factor of
    `max_samples`, which can exceed a small network's training epoch.

    References
    ----------
    .. [1] C. E. Rasmussen and C. K. I. Williams. Gaussian Processes for Machine Learning.
       MIT Press, 2006. Equation 5.12.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_mgs import MLPClassifier
    >>> from sklearn_mgs.callbacks import MGSEarlyStopping
    >>> X, y = load_iris(return_X_y=True)
    >>> stopping = MGSEarlyStopping(patience=5)
    >>> mlp = MLPClassifier((50,), random_state=0, callbacks=[("stop", stopping)]).fit(X, y)
    >>> mlp.n_iter_ < mlp.max_iter
    True
    """

    def __init__(self, patience=10, ridge=0.3, max_samples=512, every=1):
        self.patience = patience
        self.ridge = ridge
        self.max_samples = max_samples
        self.every = every

    def initialize(self):
        """Check the parameters."""
        _check_counts(self, "patience", "max_samples", "every")
        if not isinstance(self.ridge, Real) or not self.ridge > 0:
            raise ValueError(f"ridge must be a number above 0; got {self.ridge!r}.")
        return self

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        """Forget the last fit."""
        self.samples_ = self.kernel_ = self.best_parameters_ = None
        self.best_agreement_, self.best_epoch_, self.stopped_ = -float("inf"), 0, False

    def on_epoch_begin(self, net, dataset_train=None, **kwargs):
        """Draw the samples before the first epoch."""
        if self.samples_ is None:
            self.samples_ = stacked(dataset_train, _rows(len(dataset_train), self.max_samples))

    def on_epoch_end(self, net, **kwargs):
        """Measure, record, keep the best parameters, and end the training after `patience`."""
        epoch = len(net.history)
        agreement = self._measure(net) if (epoch - 1) % self.every == 0 else float("nan")
        best = agreement >= self.best_agreement_
        net.history.record("mgs_agreement", agreement)
        net.history.record("mgs_agreement_best", best)
        if best:
            self.best_agreement_, self.best_epoch_ = agreement, epoch
            self.best_parameters_ = copy.deepcopy(net.module_.state_dict())
        elif epoch - self.best_epoch_ >= self.patience:
            self.stopped_ = True
            if net.verbose:
                print(
                    f"Stopping: mgs_agreement was greatest in epoch {self.best_epoch_}, whose "
                    "parameters are restored."
                )
            raise KeyboardInterrupt  # skorch's way for a callback to end the training

    def on_train_end(self, net, **kwargs):
        """Restore the best epoch's parameters."""
        if self.best_parameters_ is not None:
            net.module_.load_state_dict(self.best_parameters_)
        self.samples_ = self.kernel_ = self.best_parameters_ = None

    def _measure(self, net) -> float:
        X, y = self.samples_
        if self.kernel_ is None:
            self.kernel_ = _Kernel(net, X)
        K, outputs = self.kernel_(), self.kernel_.outputs()
        return float(agreement(K, outputs, y.to(K.device), self.ridge))


class _Kernel:
    """The kernel of a net's module, time and again on the same samples, as the module is then."""

    def __init__(self, net, X):
        with resolved(net, X) as (self.module, self.X):
            pass
        self.parameters, self.trained = list(self.module.parameters()), None

    def __call__(self) -> Tensor:
        """Kernel of all outputs in evaluation mode, shape (n_samples, n_samples)."""
        # Finding out how to take a module's gradients can cost more than taking them.
        trained = [p.requires_grad for p in self.parameters]
        if self.trained != trained:
            self.trained, self.closed_form = trained, is_known(self.module)
            self.factorizer = None if self.closed_form else self._factorizer()
        if self.closed_form:
            return mlp_gram(self.module, self.X)
        with torch.no_grad(), evaluating(self.module), no_autocast(self.X.device):
            return gram(self.factorizer(), self.factorizer.weights)

    @torch.no_grad()
    def _factorizer(self) -> Factorizer:
        with evaluating(self.module), no_autocast(self.X.device):
            return Factorizer(self.module, self.X)

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """Outputs in evaluation mode, shape (n_samples, n_outputs)."""
        with evaluating(self.module):
            return output_matrix(self.module(self.X))


def _check_counts(callback, *names: str) -> None:
    for name in names:
        value = getattr(callback, name)
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1; got {value!r}.")


def _rows(n_samples: int, size: int) -> np.ndarray:
    """Rows to measure on: by a generator of its own, the same for the same numbers."""
    if size >= n_samples:
        return np.arange(n_samples)
    return np.sort(np.random.default_rng(0).choice(n_samples, size, replace=False))
