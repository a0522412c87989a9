"""skorch's nets with the MGS penalty, for a module of the user's own."""

from __future__ import annotations

from contextlib import nullcontext
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
import torch
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.dataset import get_len, unpack_data
from skorch.utils import to_tensor
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import Subset

from sklearn_mgs._coherence import COHERENCES, make_gate
from sklearn_mgs._compiled import CompiledPasses
from sklearn_mgs._optimizer import WeightRegularizer
from sklearn_mgs._out_of_memory import with_remedy
from sklearn_mgs._skorch_halves import ComparesHalves, picked
from sklearn_mgs.gram._layers import check_samples_apart, evaluating
from sklearn_mgs.gram._outputs import first_output
from sklearn_mgs.gram._samples import take
from sklearn_mgs.penalty import MGSPenalty

__all__ = ["MGSNeuralNetClassifier", "MGSNeuralNetRegressor"]

CALIBRATION_SAMPLES = 256
"""Training samples, at most, on which m(K_init) is measured."""


class _MGSNet(ComparesHalves):
    """The penalty at skorch's two seams: `infer` records the layers, `get_loss` adds the term.

    Only these two, so that whatever overrides the step itself (`AccelerateMixin`, a closure of
    an optimizer) keeps working. L2 waits for the gradients, wherever they come from.
    """

    cuda_dependent_attributes_: ClassVar = ["penalty_", "regularizer_"]

    def __init__(
        self,
        module,
        *args,
        mgs_strength=0.0,
        mgs_metric="trace",
        mgs_outputs="auto",
        mgs_layers="all",
        mgs_relative=False,
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
        self.mgs_relative = mgs_relative
        self.mgs_centered = mgs_centered
        self.mgs_batch_size = mgs_batch_size
        self.alpha = alpha
        self.l1 = l1
        self.coherence_threshold = coherence_threshold
        self.coherence = coherence

    def check_training_readiness(self):
        """Check the parameters; `AccelerateMixin` has an `initialize` of its own, without ours."""
        super().check_training_readiness()
        self._check_mgs_params()

    def _initialize_module(self, reason=None):
        """Forget the penalty: a new module gets a new one, when training begins."""
        self.penalty_ = self.tape_ = self.regularizer_ = self.compiled_ = self.one_pass_ = None
        self.halves_ = self.layers_ = None
        return super()._initialize_module(reason)

    def _check_mgs_params(self):
        for name in ("mgs_strength", "alpha", "l1"):
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 <= float(value) < float("inf")):
                raise ValueError(f"{name} must be 0 or more and finite, got {value!r}.")
        if self.coherence not in COHERENCES:
            raise ValueError(f"coherence must be one of {COHERENCES}, got {self.coherence!r}.")
        threshold = self.coherence_threshold
        if not (
            threshold is None or (isinstance(threshold, Real) and -1 <= float(threshold) <= 1)
        ):
            raise ValueError(f"coherence_threshold must be None or in [-1, 1], got {threshold!r}.")
        halves = threshold is not None and self.coherence == "batch"
        compares = self.mgs_metric == "det" or self.mgs_centered is not False
        size, least = self.mgs_batch_size, (3 if halves else 2) if compares else 1
        if not (size is None or (isinstance(size, Integral) and int(size) >= least)):
            raise ValueError(
                f"mgs_batch_size must be None or at least {least} for "
                f"mgs_metric={self.mgs_metric!r}, mgs_centered={self.mgs_centered!r}"
                f"{' where halves are compared' if halves else ''}; got {size!r}."
            )
        if hasattr(self, "accelerator") and (self.compile or halves):
            raise ValueError(
                "compile=True and coherence='batch' run the passes of a step themselves, and so "
                f"does AccelerateMixin; got compile={self.compile}, coherence={self.coherence!r}. "
                "Set compile=False and coherence='trend' or 'total'."
            )
        self._new_penalty("all")  # raises for unknown options

    def _new_penalty(self, outputs):
        return MGSPenalty(
            metric=self.mgs_metric,
            outputs=outputs,
            layers=self.mgs_layers,
            relative=self.mgs_relative,
            centered=self.mgs_centered,
        )

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Measure m(K_init) before the first training epoch; then as skorch does."""
        if not training:
            return super().run_single_epoch(iterator, training, prefix, step_fn, **fit_params)
        if self.mgs_strength and not self._is_calibrated():
            self.penalty_ = self._calibrate(iterator.dataset)
            self.asked_outputs_ = self.mgs_outputs
        self.regularizer_, self.layers_ = self._make_regularizer(), None
        self._prepare_passes()
        self.values_, self.sizes_ = [], []
        super().run_single_epoch(iterator, training, prefix, step_fn, **fit_params)
        self.regularizer_.end_epoch(self.history)
        if self.values_:  # read once an epoch: a step doesn't wait for the device
            values = torch.stack(self.values_).double().cpu().numpy()
            self.history.record("mgs_penalty", float(np.average(values, weights=self.sizes_)))

    def _is_calibrated(self):
        """Whether there is a penalty, and the parameters still ask for that one."""
        have = self.penalty_
        return have is not None and (
            (have.metric, have.layers, have.relative, have.centered)
            == (self.mgs_metric, self.mgs_layers, self.mgs_relative, self.mgs_centered)
            and self.mgs_outputs in (self.asked_outputs_, have.outputs)
        )

    def _calibrate(self, dataset):
        """Penalty in units of its value now, on samples spread evenly over the data set."""
        n = get_len(dataset)
        index = np.unique(np.linspace(0, n - 1, min(n, CALIBRATION_SAMPLES)).astype(int))
        # All at once: from batch to batch sequences may be padded to other lengths.
        options = {**self.get_params_for("iterator_valid"), "batch_size": len(index)}
        batches = self.iterator_valid(Subset(dataset, index.tolist()), **options)
        X, y = to_tensor(unpack_data(next(iter(batches))), device=self.device)
        self._set_training(True)  # a module may keep a part of itself from it
        check_samples_apart(self.module_)
        with evaluating(self.module_), torch.no_grad():
            output = super().infer(take(X, slice(1)))
        targets = self._mgs_targets(y)
        penalty = self._new_penalty(self._resolve_outputs(first_output(output), targets))
        # skorch calls a module of several inputs with a dict's items, but with a list as it is.
        X = (X,) if isinstance(X, list) else X
        return penalty.calibrate(self.module_, X, targets)

    def _resolve_outputs(self, output, targets):
        if self.mgs_outputs != "auto":
            return self.mgs_outputs
        if output[0].numel() == 1:
            return "sum"  # the one there is: "all", in one direction
        has_classes = targets is not None and not targets.is_floating_point()
        return "target" if has_classes else "random"

    def _mgs_targets(self, y):
        """Class indices, where `y` holds them."""
        has_classes = isinstance(self, NeuralNetClassifier) and isinstance(y, Tensor)
        return y if has_classes and y.ndim == 1 else None

    # ---------------------------------------------------------------- skorch's seams

    def infer(self, x, **fit_params):
        """Outputs of the module; while training, its layers are recorded for the penalty."""
        self.tape_ = None
        with self._record(x) as self.tape_:
            return super().infer(x, **fit_params)

    def _record(self, x):
        if not (self.mgs_strength and self.penalty_ and torch.is_grad_enabled()):
            return nullcontext()
        if self.mgs_batch_size is not None and self._kernel_rows(x) != [slice(0, get_len(x))]:
            return nullcontext()
        return self.penalty_.record(self.module_)

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Loss of the mini-batch; while training, with the penalty."""
        loss = super().get_loss(y_pred, y_true, X=X, training=training)
        if not (training and self.mgs_strength):
            return loss
        y = to_tensor(y_true, device=self.device)
        tape, self.tape_ = self.tape_, None
        output = y_pred
        if tape is None:
            X = to_tensor(X, device=self.device)
            X, y = (picked(part, self._kernel_rows(X)) for part in (X, y))
            with self.penalty_.record(self.module_) as tape:
                output = super().infer(X)
        halves, targets = self.halves_, self._mgs_targets(y)
        shares = None if halves is None else halves.shares
        mgs = self.mgs_strength * self.penalty_(tape, first_output(output), targets, shares=shares)
        if halves is not None:
            halves.watch(tape)
        self.value_ = mgs.detach()
        return loss + mgs

    # ------------------------------------------------------------------ L1, L2, coherence

    def _make_regularizer(self):
        previous = None if self.regularizer_ is None else self.regularizer_.coherence
        regularizer = WeightRegularizer(self.module_, self.alpha, self.l1)
        gate = make_gate(self.coherence_threshold, self.coherence, previous, regularizer.weights)
        regularizer.coherence = gate
        reduction = getattr(self.criterion_, "reduction", "mean")
        if gate is not None and gate.measure == "batch" and reduction == "sum":
            raise ValueError(
                "coherence='batch' takes the mean of two halves' losses, so that the criterion "
                "must be a mean over samples; got one with reduction='sum'. Pass "
                "criterion__reduction='mean' and a larger lr."
            )
        return regularizer

    def train_step_single(self, batch, **fit_params):
        """Forward and backward pass; to compare halves, of both at once or of one by one."""
        X, y = unpack_data(batch)
        gate, n = self.regularizer_.coherence, get_len(X)
        if gate is None or gate.measure != "batch" or n < 2:
            return self._passes(X, y, **fit_params)
        return self._compare_halves(*to_tensor((X, y), device=self.device), n, fit_params)

    def on_grad_computed(self, net, named_parameters, batch=None, training=False, **kwargs):
        """Add L2's gradient, wherever the passes were run."""
        super().on_grad_computed(net, named_parameters, batch=batch, training=training, **kwargs)
        regularizer, n = self.regularizer_, self._samples_of_step(batch)
        if n and (self.alpha or regularizer.coherence):
            if hasattr(self, "accelerator"):
                self.accelerator.unscale_gradients()  # of float16
            regularizer.before_step(n)

    def train_step(self, batch, **fit_params):
        """One step of the optimizer; L1's proximal step follows."""
        n, self.value_ = get_len(unpack_data(batch)[0]), None
        try:
            step = super().train_step(batch, **fit_params)
        except torch.cuda.OutOfMemoryError as error:
            raise with_remedy(error, n, self.penalty_, self.mgs_batch_size) from error
        if taken := self._samples_of_step(batch):
            self.regularizer_.after_step(self._learning_rates(), taken)
        if self.value_ is not None:
            self.values_.append(self.value_)
            self.sizes_.append(n)
        return step

    def _learning_rates(self):
        """The optimizer's, of each weight that is regularised: its groups' may differ."""
        groups = self.optimizer_.param_groups
        rates = {p: group["lr"] for group in groups for p in group["params"]}
        return [rates.get(w, 0.0) for w in self.regularizer_.weights]

    def _samples_of_step(self, batch):
        """Samples that the optimizer's step is for; 0 where gradients are only accumulated."""
        n, accelerator = get_len(unpack_data(batch)[0]), getattr(self, "accelerator", None)
        if accelerator is None:
            return n
        return n * accelerator.gradient_accumulation_steps * accelerator.sync_gradients

    # -------------------------------------------------------------------- compilation

    def torch_compile(self, module, name):
        """Leave the module as it is: with `compile` the whole training step is compiled."""
        return module

    def _passes(self, X, y, **fit_params):
        """Forward and backward pass of samples, by skorch or as they were compiled."""
        if not self.compile:
            return super().train_step_single((X, y), **fit_params)
        if fit_params:
            raise ValueError(f"compile=True takes no fit parameters; got {sorted(fit_params)}.")
        self._set_training(True)
        X, y = (to_tensor(part, device=self.device) for part in (X, y))
        loss, y_pred, self.value_ = self.compiled_(X, y)
        return {"loss": loss, "y_pred": y_pred}

    def _prepare_passes(self):
        """Compile anew what has changed since the last epoch."""
        names = [*self._modules, *self._criteria]
        modules = {name: getattr(self, f"{name}_") for name in names}
        settings = (self.mgs_strength, self._kernel_size(), self.penalty_, modules)
        if self.compile and (self.compiled_ is None or self.compiled_.settings != settings):
            parts = nn.ModuleList(m for m in modules.values() if isinstance(m, nn.Module))
            options = self.get_params_for("compile")
            self.compiled_ = CompiledPasses(self._recorded, parts, settings, options)

    def _recorded(self, X, y):
        """What is compiled: skorch's own passes."""
        self.value_ = None
        step = super().train_step_single((X, y))
        loss, y_pred = tree_map(Tensor.detach, (step["loss"], step["y_pred"]))
        return loss, y_pred, self.value_

    def __getstate__(self):
        # What a step leaves behind; the values may live on a device that the reader has not.
        passing = "compiled_", "halves_", "layers_", "one_pass_", "tape_", "value_"
        emptied = {**dict.fromkeys(passing), "values_": [], "sizes_": []}
        return {**super().__getstate__(), **emptied}


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
    mgs_metric, mgs_outputs, mgs_layers, mgs_relative, mgs_centered, mgs_batch_size
        As for `sklearn_mgs.MLPClassifier`, without "auto" for layers and samples. "auto" outputs
        are "target", or "random" where a sample has several labels, "sum" where there is one.
    alpha, l1 : float, default=0.0
        Strengths of L2 and L1, divided by the mini-batch's sample count.
    coherence_threshold, coherence
        As for `sklearn_mgs.MLPClassifier`. With ``coherence="batch"`` each half of a mini-batch
        makes a kernel of its own, of half of `mgs_batch_size` samples.

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
    mgs_strength, mgs_metric, mgs_outputs, mgs_layers, mgs_relative, mgs_centered, mgs_batch_size
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
