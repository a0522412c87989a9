"""The private skorch net that trains the estimators' network."""

from __future__ import annotations

import copy
import io
import warnings

import numpy as np
import torch
from scipy import sparse
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochTimer, PrintLog
from torch import nn

from sklearn_mgs._closed_form import ClosedForm
from sklearn_mgs._compiled import CompiledPasses
from sklearn_mgs._cosines import inner_products_of_pairs
from sklearn_mgs._data import Batch
from sklearn_mgs._objective import INVERSE_LINKS, Terms
from sklearn_mgs._optimizer import WeightRegularizer, make_optimizer, regularized_weights
from sklearn_mgs._out_of_memory import with_remedy

__all__ = ["MLPNet"]


class MLPNet(NeuralNet):
    """Skorch net whose training step knows sample weights, penalties and proximal steps.

    The estimator passes the pieces, made: `module` and `criterion` are live objects. Nothing in
    `train_step` asks the device for a value; losses are read once per epoch.

    Parameters
    ----------
    module : torch.nn.Module
        The network, its weights written.
    criterion : Objective
        What a mini-batch is charged.

    Attributes
    ----------
    regularizer : WeightRegularizer
        L1 and L2 on the weights.
    after_epoch_ : callable or None
        Called with the net after each epoch; training stops when it returns True.
    sparse : bool
        Whether a pickle holds weights in sparse form and no optimizer.
    """

    def __init__(self, module, criterion, **kwargs):
        link = INVERSE_LINKS[criterion.loss]
        super().__init__(module, criterion, predict_nonlinearity=link, **kwargs)
        self.regularizer = WeightRegularizer(module)
        self.compiled_ = None
        self.after_epoch_ = None
        self.sparse = False

    @property
    def _default_callbacks(self):
        timer = [("epoch_timer", EpochTimer())]
        return [*timer, ("print_log", PrintLog())] if self.verbose else timer

    def initialize_module(self):
        """Take the network as it is: the estimator has written its weights."""
        self.module_ = self.module
        return self

    def initialize_criterion(self):
        """Take the objective as it is."""
        self.criterion_ = self.criterion
        return self

    def torch_compile(self, module, name):
        """Leave the module as it is: with `compile` the whole step is compiled."""
        return module

    def initialize_optimizer(self, *args, **kwargs):
        """Leave it to `start`: a fit makes a new one, `partial_fit` goes on with the old."""
        return self

    def start(self, solver: str, options: dict) -> None:
        """Make the optimizer of a new fit."""
        self.sparse = False
        with self._current_init_context("optimizer"):  # else skorch refuses the attribute
            self.optimizer_ = make_optimizer(solver, self.module_, **options)
        for group in self.optimizer_.param_groups:
            group["initial_lr"] = group["lr"]  # schedulers that go on after a warm start ask

    def fit_loop(self, X, y=None, epochs=None, **fit_params):
        """Train for some epochs on the batches `X`, or until `after_epoch` says stop."""
        samples = {"dataset_train": X.samples, "dataset_valid": None}
        for _ in range(epochs or self.max_epochs):
            self.notify("on_epoch_begin", **samples)
            try:
                self.run_single_epoch(X, training=True, prefix="train", step_fn=self.train_step)
            except KeyboardInterrupt:
                warnings.warn("Training interrupted by user.")
                raise
            stop = self.after_epoch_ is not None and self.after_epoch_(self)
            self.notify("on_epoch_end", **samples)
            if stop:
                break
        return self

    def train_step(self, batch: Batch, **fit_params):
        """Take one optimization step and return the terms of the objective.

        Returns
        -------
        step : dict
            ``loss`` (data loss), ``mgs_penalty`` (None where it is off), ``squared_norm`` (of the
            weights, None where `alpha` is zero), ``y_pred``.
        """
        regularizer, optimizer = self.regularizer, self.optimizer_
        for p in optimizer.param_groups[0]["params"]:
            p.grad = None
        step = self.train_step_single(batch)
        if self.grad_listeners_:
            named = list(self.module_.named_parameters())
            self.notify("on_grad_computed", named_parameters=named, batch=batch, training=True)
        with torch.no_grad():
            regularizer.before_step(batch.weight_sum, optimizer)
            optimizer.step()
            regularizer.after_step(optimizer.param_groups[0]["lr"], batch.weight_sum)
        return step

    def train_step_single(self, batch: Batch, **fit_params):
        """Forward and backward pass of one mini-batch."""
        norm, gate = self.regularizer.squared_norm(), self.regularizer.coherence
        if gate is None or not gate.compares_halves(batch):
            terms = self._backward(batch)
        elif self._is_closed(batch.n_samples) and not self.compile:
            halves = []
            terms = self.closed_form_.backward(batch, halves)
            gate.compare_products(inner_products_of_pairs(halves))
        else:
            terms = gate.backward(self._backward, self.module_, batch)
        return {
            "loss": terms.data_loss.detach(),
            "mgs_penalty": None if terms.mgs_penalty is None else terms.mgs_penalty.detach(),
            "squared_norm": norm,
            "y_pred": terms.outputs,
        }

    def _is_closed(self, n: int) -> bool:
        return self.closed_form_ is not None and self.closed_form_.suits(n)

    def _backward(self, batch: Batch):
        """Terms of the objective; its gradient is left in the parameters."""
        if self.compile:
            return Terms(*self.compiled_(batch.X, batch.y, batch.sample_weight))
        return self._uncompiled(batch)

    def _uncompiled(self, batch: Batch):
        if self._is_closed(batch.n_samples):
            return self.closed_form_.backward(batch)
        terms = self.criterion_(self.module_, batch)
        terms.total.backward()
        return terms

    def _prepare_passes(self) -> None:
        """Choose between the closed form and autograd, and compile anew what has changed."""
        criterion, module = self.criterion_, self.module_
        covered = ClosedForm.covers(criterion, module)
        self.closed_form_ = ClosedForm(criterion, module) if covered else None
        settings = (copy.copy(criterion), covered, [getattr(m, "p", None) for m in module])
        if self.compile and (self.compiled_ is None or self.compiled_.settings != settings):
            self.compiled_ = CompiledPasses(self._recorded, module, settings)

    def _recorded(self, X, y, sample_weight):
        """What is compiled: tensors alone; the weight's sum has no part in the passes."""
        terms = self._uncompiled(Batch(X, y, sample_weight, len(X), float("nan")))
        tensors = (terms.data_loss, terms.total, terms.mgs_penalty, terms.outputs)
        return tuple(t if t is None else t.detach() for t in tensors)

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Train on every mini-batch; read the accumulated losses once, at the end."""
        if iterator is None:
            return
        self._set_training(True)
        listeners = self._listeners("on_batch_begin", "on_batch_end")
        self.grad_listeners_ = self._listeners("on_grad_computed")
        self._prepare_passes()
        objective, sums = self.criterion_, _EpochSums()
        for batch in iterator:
            if batch.weight_sum == 0:  # nothing to learn from, and nothing to average over
                continue
            if listeners:
                self.notify("on_batch_begin", batch=(batch.X, batch.y), training=True)
            try:
                step = step_fn(batch, **fit_params)
            except torch.cuda.OutOfMemoryError as error:
                penalty = objective.penalty if objective.mgs_strength else None
                size = objective.mgs_batch_size
                raise with_remedy(error, batch.n_samples, penalty, size) from error
            sums.add(batch, step, self.regularizer.alpha)
            if listeners:
                self._tell_batch_end(batch, step)
        if not listeners:
            self.history.new_batch()  # `Checkpoint` looks for one
        self.regularizer.end_epoch(self.history)
        for name, value in sums.read(len(iterator.samples)).items():
            self.history.record(name, value)
        self.history.record("train_batch_count", len(iterator))

    def _tell_batch_end(self, batch, step):
        self.history.record_batch("train_loss", step["loss"].item())
        self.history.record_batch("train_batch_size", batch.n_samples)
        kwargs = {"loss": step["loss"], "y_pred": step["y_pred"]}
        self.notify("on_batch_end", batch=(batch.X, batch.y), training=True, **kwargs)

    def _listeners(self, *methods):
        """Whether a callback has overridden one of these hooks: most fits have none."""
        return any(
            getattr(type(cb), m) is not getattr(Callback, m)
            for _, cb in self.callbacks_
            for m in methods
            if isinstance(cb, Callback)
        )

    def infer(self, x, **fit_params):
        """Outputs of the network, linear."""
        return self.module_(x)

    def predict(self, X):
        """Predict targets as the loss knows them: class indices, indicators or real numbers."""
        prediction = self.predict_proba(X)
        if self.criterion_.loss == "log_loss":
            return prediction.argmax(axis=1)
        if self.criterion_.loss == "binary_log_loss":
            return (prediction > 0.5).astype(int)
        return prediction

    def check_data(self, X, y=None):
        """Nothing to check: the estimator did."""

    def sparsify(self) -> None:
        """From now on, until training goes on, leave out of a pickle what is zero or of no use."""
        self.sparse = True
        self.forget_steps()

    def forget_steps(self) -> None:
        """Go on, if at all, with a new optimizer and without what a gate remembers."""
        self.regularizer = WeightRegularizer(self.module_)
        self.__dict__.pop("optimizer_", None)

    def __getstate__(self):
        """Serialise through torch, which can bring tensors to another device when loading."""
        attributes, weights = {**self.__dict__, "after_epoch_": None, "compiled_": None}, None
        if self.sparse:
            originals = regularized_weights(self.module_)
            weights = [_smaller(w.detach().cpu().numpy()) for w in originals]
            empty = {id(w): nn.Parameter(w.new_empty((0,) * w.ndim)) for w in originals}
            attributes = copy.deepcopy(attributes, empty)
        buffer = io.BytesIO()
        torch.save(attributes, buffer)
        return {"torch": buffer.getvalue(), "weights": weights}

    def __setstate__(self, state):
        """Load onto the device of origin or, where that is absent, onto the CPU."""
        # The content is no less trusted than the pickle it travels in.
        load = {"weights_only": False}
        try:
            attributes = torch.load(io.BytesIO(state["torch"]), **load)
        except RuntimeError:  # "Attempting to deserialize object on a CUDA device"
            attributes = torch.load(io.BytesIO(state["torch"]), map_location="cpu", **load)
            attributes["device"] = "cpu"
        self.__dict__.update(attributes)
        if state["weights"] is not None:
            for w, stored in zip(regularized_weights(self.module_), state["weights"]):
                dense = stored.toarray() if sparse.issparse(stored) else stored
                w.data = torch.as_tensor(dense, device=w.device)


def _smaller(array: np.ndarray):
    """The array (n, m) in sparse rows, where these take fewer bytes."""
    rows = sparse.csr_array(array)
    size = rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes
    return rows if size < array.nbytes else array


class _EpochSums:
    """Losses of an epoch, kept on the device until its end."""

    def __init__(self):
        self.steps: dict[str, list] = {"train_loss": [], "l2": [], "mgs_penalty": []}
        self.weights: dict[str, list] = {"train_loss": [], "l2": [], "mgs_penalty": []}

    def add(self, batch: Batch, step: dict, alpha: float) -> None:
        self._append("train_loss", step["loss"], batch.n_samples)
        if step["squared_norm"] is not None:
            weight = batch.n_samples * alpha / 2 / batch.weight_sum
            self._append("l2", step["squared_norm"], weight)
        if step["mgs_penalty"] is not None:
            self._append("mgs_penalty", step["mgs_penalty"], batch.n_samples)

    def _append(self, name, value, weight):
        self.steps[name].append(value)
        self.weights[name].append(weight)

    def read(self, n_samples: int) -> dict[str, float]:
        """Means over the epoch's samples, in one transfer from the device."""
        names = [name for name, values in self.steps.items() if values]
        if not names:
            return {"train_loss": float("nan")}
        sums = torch.stack(
            [
                torch.dot(
                    torch.stack(self.steps[name]).double(),
                    torch.tensor(self.weights[name], dtype=torch.float64).to(
                        self.steps[name][0].device
                    ),
                )
                for name in names
            ]
        )
        return {name: value / n_samples for name, value in zip(names, sums.tolist())}
