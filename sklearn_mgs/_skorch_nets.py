"""skorch's nets with the MGS penalty, for a module of the user's own."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import PassthroughScoring
from skorch.dataset import get_len, unpack_data
from skorch.utils import to_tensor
from torch.utils.data import Subset

from sklearn_mgs._coherence import COHERENCES, make_gate
from sklearn_mgs._optimizer import WeightRegularizer
from sklearn_mgs.penalty import MGSPenalty

__all__ = ["MGSNeuralNetClassifier", "MGSNeuralNetRegressor"]

CALIBRATION_SAMPLES = 256
"""Training samples, at most, on which m(K_init) is measured."""


class _MGSNet:
    """The penalty at skorch's two seams: `infer` records the layers, `get_loss` adds the term.

    Only these two, so that whatever overrides the step itself (`AccelerateMixin`, a closure of
    an optimizer) keeps working.
    """

    def __init__(
        self,
        module,
        *args,
        mgs_strength=0.0,
        mgs_metric="trace",
        mgs_outputs="auto",
        mgs_layers="all",
        mgs_centered=False,
        mgs_batch_size=None,
        alpha=0.0,
        l1=0.0,
        coherence_threshold=None,
        coherence="trend",
        **kwargs,
    ):
        super().__init__(module, *args, **kwargs)
        self.mgs_strength = mgs_strength
        self.mgs_metric = mgs_metric
        self.mgs_outputs = mgs_outputs
        self.mgs_layers = mgs_layers
        self.mgs_centered = mgs_centered
        self.mgs_batch_size = mgs_batch_size
        self.alpha = alpha
        self.l1 = l1
        self.coherence_threshold = coherence_threshold
        self.coherence = coherence

    # ------------------------------------------------------------ life of the penalty

    def initialize(self):
        """Initialise everything anew; the penalty is measured when training begins."""
        self._check_mgs_params()
        self.penalty_, self.tape_, self.regularizer_ = None, None, None
        return super().initialize()

    @property
    def _default_callbacks(self):
        callbacks = super()._default_callbacks
        if not self.mgs_strength:
            return callbacks
        score = ("mgs_penalty", PassthroughScoring(name="mgs_penalty", on_train=True))
        return [*callbacks[:-1], score, callbacks[-1]]  # the last one prints

    def _check_mgs_params(self):
        for name in ("mgs_strength", "alpha", "l1"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"{name} must be 0 or more, got {value!r}.")
        if self.coherence not in COHERENCES:
            raise ValueError(f"coherence must be one of {COHERENCES}, got {self.coherence!r}.")
        threshold = self.coherence_threshold
        if threshold is not None and not -1 <= threshold <= 1:
            raise ValueError(f"coherence_threshold must be None or in [-1, 1], got {threshold!r}.")
        size = self.mgs_batch_size
        least = 2 if self.mgs_metric == "det" else 1
        if size is not None and size < least:
            raise ValueError(
                f"mgs_batch_size must be None or at least {least} for "
                f"mgs_metric={self.mgs_metric!r}, got {size!r}."
            )
        self._new_penalty("all")  # raises for an unknown metric, layers or centring

    def _new_penalty(self, outputs):
        return MGSPenalty(
            metric=self.mgs_metric,
            outputs=outputs,
            layers=self.mgs_layers,
            centered=self.mgs_centered,
        )

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Measure m(K_init) before the first training epoch; then as skorch does."""
        if training and self.mgs_strength and self.penalty_ is None:
            self.penalty_ = self._calibrate(iterator.dataset)
        if training:
            self.regularizer_ = self._make_regularizer()
        super().run_single_epoch(iterator, training, prefix, step_fn, **fit_params)
        if training:
            self.regularizer_.end_epoch(self.history)

    def _calibrate(self, dataset):
        """Penalty in units of its value now, on samples spread evenly over the data set."""
        n = get_len(dataset)
        index = np.unique(np.linspace(0, n - 1, min(n, CALIBRATION_SAMPLES)).astype(int))
        batches = list(self.get_iterator(Subset(dataset, index.tolist()), training=False))
        X, y = (
            torch.cat([to_tensor(b[i], device=self.device) for b in map(unpack_data, batches)])
            for i in (0, 1)
        )
        with torch.no_grad():
            output = self.module_(X[:1])
        penalty = self._new_penalty(self._resolve_outputs(_first(output)))
        return penalty.calibrate(self.module_, X, self._mgs_targets(y))

    def _resolve_outputs(self, output):
        if self.mgs_outputs != "auto":
            return self.mgs_outputs
        if output.ndim < 2 or output.shape[1] == 1:
            return "all"
        return "target" if isinstance(self, NeuralNetClassifier) else "random"

    def _mgs_targets(self, y):
        """Class indices, where `y` holds them."""
        return y if isinstance(self, NeuralNetClassifier) and y.ndim == 1 else None

    # ---------------------------------------------------------------- skorch's seams

    def infer(self, x, **fit_params):
        """Outputs of the module; while training, its layers are recorded for the penalty."""
        self.tape_ = None
        with self._record() as self.tape_:
            return super().infer(x, **fit_params)

    def _record(self):
        training = torch.is_grad_enabled() and self.module_.training
        if training and self.mgs_strength and self.penalty_ and self.mgs_batch_size is None:
            return self.penalty_.record(self.module_)
        return nullcontext()

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Loss of the mini-batch; while training, with the penalty."""
        loss = super().get_loss(y_pred, y_true, X=X, training=training)
        if not (training and self.mgs_strength):
            return loss
        y = to_tensor(y_true, device=self.device)
        tape, self.tape_ = self.tape_, None
        output = y_pred
        if tape is None:
            part = to_tensor(X, device=self.device)[: self.mgs_batch_size]
            with self.penalty_.record(self.module_) as tape:
                output = self.module_(part)
            y = y[: self.mgs_batch_size]
        mgs = self.mgs_strength * self.penalty_(tape, _first(output), self._mgs_targets(y))
        self.history.record_batch("mgs_penalty", mgs.item())
        return loss + mgs

    # ------------------------------------------------------------------ L1, L2, coherence

    def _make_regularizer(self):
        previous = None if self.regularizer_ is None else self.regularizer_.coherence
        gate = make_gate(self.coherence_threshold, self.coherence, previous)
        return WeightRegularizer(self.module_, self.alpha, self.l1, gate)

    def train_step_single(self, batch, **fit_params):
        """Forward and backward pass; L2's gradient comes on top."""
        X, y = unpack_data(batch)
        n = get_len(X)
        gate = self.regularizer_.coherence
        if gate is not None and gate.measure == "batch" and n > 1:
            half = n // 2
            parts = [(X[:half], y[:half]), (X[half:], y[half:])]
            steps = gate.two_passes(
                [p for p in self.module_.parameters() if p.requires_grad],
                [
                    lambda p=p: super(_MGSNet, self).train_step_single(p, **fit_params)
                    for p in parts
                ],
                [half / n, 1 - half / n],
            )
            step = {
                "loss": steps[0]["loss"] * half / n + steps[1]["loss"] * (1 - half / n),
                "y_pred": torch.cat([s["y_pred"] for s in steps]),
            }
        else:
            step = super().train_step_single(batch, **fit_params)
        self.regularizer_.before_step(n)
        return step

    def train_step(self, batch, **fit_params):
        """One step of the optimizer; L1's proximal step follows."""
        step = super().train_step(batch, **fit_params)
        learning_rate = self.optimizer_.param_groups[0]["lr"]
        self.regularizer_.after_step(learning_rate, get_len(unpack_data(batch)[0]))
        return step


def _first(output):
    """The output that the loss takes first, where a module returns several."""
    return output[0] if isinstance(output, tuple) else output


class MGSNeuralNetClassifier(_MGSNet, NeuralNetClassifier):
    """skorch's `NeuralNetClassifier` with the MGS penalty.

    A skorch user changes the class name and gets the penalty, for any module whose samples do
    not interact: convolutional, residual, embedding, attention, recurrent.

    Parameters
    ----------
    module, *args, **kwargs
        As for `skorch.NeuralNetClassifier`. Let the module return logits and pass
        ``criterion=torch.nn.CrossEntropyLoss``: the kernel is of the module's outputs, and
        logits are what its definition means.
    mgs_strength : float, default=0.0
        Strength of ``mgs_strength · m(K) / m(K_init)``, see `sklearn_mgs.MLPClassifier`.
    mgs_metric, mgs_outputs, mgs_layers, mgs_centered, mgs_batch_size
        As for `sklearn_mgs.MLPClassifier`; with "auto" outputs, "target" is differentiated.
    alpha, l1 : float, default=0.0
        Strengths of L2 and L1, divided by the mini-batch's sample count.
    coherence_threshold, coherence
        As for `sklearn_mgs.MLPClassifier`.

    Attributes
    ----------
    penalty_ : MGSPenalty or None
        The penalty, calibrated when training began.
    history_ : skorch.history.History
        ``train_loss`` includes the penalty, ``mgs_penalty`` is its share; ``valid_loss`` and
        scores are free of it.

    Raises
    ------
    ValueError
        If a parameter is not valid, or if the module's samples interact while training
        (batch normalisation): use layer or group normalisation, or put those layers in
        evaluation mode.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_mgs import MGSNeuralNetClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> _ = torch.manual_seed(0)
    >>> from torch import nn
    >>> module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> net = MGSNeuralNetClassifier(
    ...     module, criterion=nn.CrossEntropyLoss, mgs_strength=0.1, max_epochs=2, verbose=0
    ... )
    >>> net = net.fit(X.astype("float32") / 16, y)
    >>> "mgs_penalty" in net.history[-1]
    True
    """


class MGSNeuralNetRegressor(_MGSNet, NeuralNetRegressor):
    """skorch's `NeuralNetRegressor` with the MGS penalty.

    Parameters
    ----------
    module, *args, **kwargs
        As for `skorch.NeuralNetRegressor`.
    mgs_strength, mgs_metric, mgs_outputs, mgs_layers, mgs_centered, mgs_batch_size
        As for `MGSNeuralNetClassifier`; with "auto", one output is differentiated, of several a
        random combination.
    alpha, l1, coherence_threshold, coherence
        As for `MGSNeuralNetClassifier`.

    Attributes
    ----------
    penalty_, history_
        As for `MGSNeuralNetClassifier`.

    Examples
    --------
    >>> import torch
    >>> from sklearn_mgs import MGSNeuralNetRegressor
    >>> X = torch.linspace(-1, 1, 50)[:, None]
    >>> net = MGSNeuralNetRegressor(
    ...     torch.nn.Linear(1, 1), mgs_strength=0.1, max_epochs=2, verbose=0
    ... )
    >>> net.fit(X, X**2).predict(X).shape
    (50, 1)
    """
