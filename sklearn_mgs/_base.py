"""What the classifier and the regressor share: checking, building the net, fitting."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from numbers import Integral

import numpy as np
import torch
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import _check_sample_weight, validate_data
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_mgs._coherence import make_gate
from sklearn_mgs._constraints import CONSTRAINTS, check_combinations
from sklearn_mgs._data import BatchIterator, Samples, as_tensor, mini_batch_size
from sklearn_mgs._device import private_rng, resolve_device
from sklearn_mgs._fit_loop import AfterEpoch, ValidationSet, restore
from sklearn_mgs._fitted import FittedNetwork
from sklearn_mgs._held_out import choose_distinct, content_keys, hold_out
from sklearn_mgs._lbfgs import minimize_lbfgs
from sklearn_mgs._module import MLP
from sklearn_mgs._net import MLPNet
from sklearn_mgs._objective import Objective, mgs_targets
from sklearn_mgs._optimizer import WeightRegularizer
from sklearn_mgs._penalty_options import kernel_samples, penalty_options
from sklearn_mgs._sklearn_callbacks import CallbackSupportMixin, EpochTasks
from sklearn_mgs.penalty import MGSPenalty

CALIBRATION_SAMPLES = 256
"""Training samples, at most, on which m(K_init) is measured (definition of the penalty)."""

_CURVES = {
    "loss_curve_": [],
    "best_loss_": None,
    "validation_scores_": None,
    "best_validation_score_": None,
    "_no_improvement_count": 0,
}
"""What the stochastic solvers record, before the first epoch."""


class BaseMLP(FittedNetwork, CallbackSupportMixin, BaseEstimator):
    """Multilayer perceptron trained by a skorch net that it holds as ``net_``."""

    _parameter_constraints = CONSTRAINTS

    # ------------------------------------------------------------------ fitting

    @torch.inference_mode(False)
    def _fit(self, X, y, sample_weight=None, validation=None, incremental=False, classes=None):
        given = {"X": X, "y": y, "sample_weight": sample_weight}
        with unchanged_on_error(self):
            if classes is not None:
                self._set_classes(y, classes)
            samples, validation, seed = self._prepare(
                **given, validation=validation, incremental=incremental
            )
        tasks = nullcontext() if incremental else EpochTasks(self, **given)
        with private_rng(seed, samples.device), tasks:
            if self.solver == "lbfgs":
                self._solve_lbfgs(samples)
            else:
                self._solve_stochastic(samples, validation, incremental)
        return self

    def _prepare(self, X, y, sample_weight, validation, incremental):
        """All that comes before the training: what is wrong with the input shows here."""
        self._validate_params()
        check_combinations(self, validation is not None)
        device = resolve_device(self.device)
        first_pass = not hasattr(self, "net_") or (not self.warm_start and not incremental)
        X, y, targets = self._validate_input(X, y, incremental, reset=first_pass)
        sample_weight = self._total_weight(sample_weight, X, y)
        if validation is not None:
            validation = self._validate_validation_set(y, *validation)
        self._random_state = _own_random_state(self.random_state)
        private = copy.deepcopy(self._random_state)  # scikit-learn's own draws stay in order
        seed, salt = int(private.randint(2**31 - 1)), private.bytes(16)
        if first_pass:
            self._build(X, targets, device)
        else:
            self._check_same_network(X, targets)
            if not incremental:
                self._renew_callbacks()
        if incremental or not self.early_stopping or self.solver == "lbfgs":
            validation = None
        elif validation is None:
            X, targets, sample_weight, validation = self._split(X, y, targets, sample_weight, salt)
        parameter = next(self.module_.parameters())
        where = {"device": parameter.device, "dtype": parameter.dtype}
        samples = Samples(X, as_targets(targets, parameter.dtype), sample_weight, **where)
        self._prepare_penalty(samples, X, targets, salt)
        self._prepare_net(incremental)
        # With t_: the next call of `partial_fit` must not draw the same noise again.
        return samples, validation, seed + self.t_

    def _solve_stochastic(self, samples, validation, incremental):
        net, module = self.net_, self.module_
        n_batch = self._n_batch(len(samples))
        batches = BatchIterator(samples, n_batch, self.shuffle, self._random_state)
        self._start_curves(validation is not None)
        net.after_epoch_ = after_epoch = AfterEpoch(self, len(samples), validation)
        try:
            net.partial_fit(batches, epochs=1 if incremental else self.max_iter)
        finally:
            net.after_epoch_ = None
            module.eval()
        if validation is not None:
            restore(module, after_epoch.best)
        if not incremental and self.n_iter_ == self.max_iter and not after_epoch.converged:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
                f"optimization hasn't converged yet.",
                ConvergenceWarning,
            )

    def _start_curves(self, watches: bool) -> None:
        """Begin the records that no earlier fit has begun."""
        self.n_iter_ = 0
        for name, value in _CURVES.items():
            self.__dict__.setdefault(name, copy.copy(value))
        if watches and self.validation_scores_ is None:
            self.validation_scores_, self.best_validation_score_ = [], -np.inf
        elif not watches and self.best_loss_ is None:
            self.best_loss_ = np.inf

    def _solve_lbfgs(self, samples):
        net, module = self.net_, self.module_
        batch = samples.batch(slice(0, len(samples)))
        net.notify("on_train_begin", X=samples, y=None)
        options = {"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol}
        try:
            self.n_iter_ = minimize_lbfgs(net, batch, samples, self.alpha, options)
        finally:
            module.eval()
        with torch.no_grad():
            loss = net.criterion_.data_loss(module(batch.X), batch).item()
        squares = sum(float((c**2).sum()) for c in self.coefs_)
        self.loss_ = self._reported_loss(
            {"train_loss": loss, "l2": self.alpha / 2 / batch.weight_sum * squares}
        )
        net.notify("on_train_end", X=samples, y=None)

    # ----------------------------------------------------------------- building

    def _build(self, X, targets, device):
        """Make a new network with scikit-learn's initial weights, and forget the old records."""
        self._network = self._asked_network(X, targets)
        units, torch_dtype = self._network["layers"], getattr(torch, self._network["dtype"])
        if device.type == "mps" and torch_dtype == torch.float64:
            raise ValueError("device='mps' has no double precision; set dtype='float32'.")
        module = MLP(units, self.activation, self.dropout, torch_dtype)
        module.write(*self._initial_weights(units)).to(device)
        self.n_iter_, self.t_ = 0, 0
        self.n_layers_, self.n_outputs_ = len(units), units[-1]
        self.out_activation_ = self._out_activation()
        for name in _CURVES:
            self.__dict__.pop(name, None)
        self.net_ = MLPNet(
            module,
            Objective(self._loss_name()),
            max_epochs=self.max_iter,
            device=str(device),
            **self._watchers(),
        ).initialize()

    def _watchers(self) -> dict:
        """What the net is told of who watches the fit."""
        callbacks = [_clone_callback(cb) for cb in self.callbacks or []]
        return {"verbose": int(self.verbose), "callbacks": callbacks}

    def _renew_callbacks(self) -> None:
        """A warm start has callbacks of its own, as any fit."""
        vars(self.net_).update(self._watchers())
        self.net_.initialize_callbacks()

    def _asked_network(self, X, targets) -> dict:
        """What the parameters and the data say of the network."""
        units = self._layer_units(X, targets)
        return {
            "layers": units,
            "activation": self.activation,
            "dropout": self.dropout,
            "dtype": X.dtype.name if self.dtype == "auto" else self.dtype,
            "loss": self._loss_name(),
        }

    def _check_same_network(self, X, targets) -> None:
        asked = self._asked_network(X, targets)
        if self.dtype == "auto":
            asked["dtype"] = self._network["dtype"]
        if asked != self._network:
            raise ValueError(
                f"Training can't go on with a network of {self._network} where the data and the "
                f"parameters ask for {asked}; set warm_start=False and fit to start anew."
            )

    def _prepare_net(self, incremental):
        """Write the present parameters into the net: they may change between warm starts."""
        net = self.net_
        if not any(p.requires_grad for p in net.module_.parameters()):
            raise ValueError(
                "All parameters of module_ are frozen, so that nothing is left to train; set "
                "requires_grad of some."
            )
        objective = net.criterion_
        for name in ("mgs_strength", "input_noise", "jacobian_strength", "gradient_strength"):
            setattr(objective, name, getattr(self, name))
        objective.label_smoothing = getattr(self, "label_smoothing", 0.0)
        objective.exact = self.solver == "lbfgs"
        net.compile = self.compile
        goes_on = incremental and hasattr(net, "optimizer_")
        gate = net.regularizer.coherence if goes_on else None  # it lives as long as the optimizer
        net.regularizer = WeightRegularizer(net.module_, self.alpha, self.l1)
        net.regularizer.coherence = make_gate(
            self.coherence_threshold, self.coherence, gate, net.regularizer.weights
        )
        if self.solver != "lbfgs" and not goes_on:
            net.start(self.solver, self._solver_options())

    def _prepare_penalty(self, samples, X, targets, salt) -> None:
        """Measure the penalty's unit at the present weights, unless the net has that penalty."""
        objective, options = self.net_.criterion_, penalty_options(self)
        objective.mgs_batch_size = kernel_samples(self, len(samples))
        if not self.mgs_strength or _has_attributes(objective.penalty, options):
            return
        weight = samples.host_weight
        index = np.arange(len(samples)) if weight is None else np.flatnonzero(weight)
        if len(index) > CALIBRATION_SAMPLES:
            keys = content_keys(X[index], targets[index], salt)
            index = index[choose_distinct(keys, CALIBRATION_SAMPLES)]
        batch = samples.batch(index)
        targets = mgs_targets(objective.loss, batch.y)
        penalty = MGSPenalty(**options)
        objective.penalty = penalty.calibrate(self.module_, batch.X, targets, batch.sample_weight)

    def _solver_options(self) -> dict:
        if self.solver == "adam":
            betas = (self.beta_1, self.beta_2)
            return {"learning_rate": self.learning_rate_init, "betas": betas, "eps": self.epsilon}
        return {
            "learning_rate": self.learning_rate_init,
            "momentum": float(self.momentum),
            "nesterov": self.nesterovs_momentum,
        }

    def _initial_weights(self, units):
        """Glorot-uniform, drawn in the order in which scikit-learn's MLP draws."""
        coefs, intercepts = [], []
        for fan_in, fan_out in pairwise(units):
            bound = np.sqrt((2.0 if self.activation == "logistic" else 6.0) / (fan_in + fan_out))
            coefs.append(self._random_state.uniform(-bound, bound, (fan_in, fan_out)))
            intercepts.append(self._random_state.uniform(-bound, bound, fan_out))
        return coefs, intercepts

    def _layer_units(self, X, targets) -> list[int]:
        hidden = self.hidden_layer_sizes
        hidden = list(hidden) if hasattr(hidden, "__iter__") else [hidden]
        if not all(isinstance(size, Integral) and size > 0 for size in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}; give whole numbers.")
        return [X.shape[1], *map(int, hidden), self._n_outputs(targets)]

    def _n_batch(self, n_samples: int) -> int:
        if self.batch_size != "auto" and self.batch_size > n_samples:
            warnings.warn(
                f"Got `batch_size`={self.batch_size} larger than the sample size {n_samples}. "
                f"It is going to be clipped."
            )
        return mini_batch_size(self.batch_size, n_samples)

    # ------------------------------------------------------------- data checks

    def _total_weight(self, sample_weight, X, y):
        """Sample weights, those of the classes multiplied in; None where all are equal."""
        if sample_weight is None:
            return None
        return check_weight(sample_weight, X)

    def _validate_validation_set(self, y, X_val, y_val, sample_weight_val) -> ValidationSet:
        """Check that the set is of the training set's kind; `y` is the training set's."""
        X_val, y_val = validate_data(
            self,
            X_val,
            y_val,
            accept_sparse="csr",
            multi_output=True,
            y_numeric=not is_classifier(self),
            dtype=(np.float64, np.float32),
            reset=False,
        )
        if y_val.ndim == 2 and y_val.shape[1] == 1:
            y_val = column_or_1d(y_val, warn=True)
        if y_val.shape[1:] != y.shape[1:]:
            raise ValueError(
                f"y_val must have the outputs of y: got shapes {y_val.shape} and {y.shape}."
            )
        if is_classifier(self) and len(np.setdiff1d(unique_labels(y_val), self.classes_)):
            raise ValueError(
                f"y_val has classes that y has not: {unique_labels(y_val)} and {self.classes_}."
            )
        if not is_classifier(self) and len(y_val) < 2:
            raise ValueError("X_val and y_val must hold at least 2 samples for an R², got 1.")
        if sample_weight_val is not None:
            sample_weight_val = check_weight(sample_weight_val, X_val)
        return ValidationSet(X_val, y_val, sample_weight_val)

    def _split(self, X, y, targets, sample_weight, salt):
        """Hold out `validation_fraction` of the samples' weight, duplicates together."""
        keys = content_keys(X, targets, salt)
        groups = y if is_classifier(self) and y.ndim == 1 else None
        held_out = hold_out(keys, self.validation_fraction, sample_weight, groups)
        train = ~held_out
        weights = (None, None)
        if sample_weight is not None:
            weights = sample_weight[train], sample_weight[held_out]
        validation = ValidationSet(X[held_out], y[held_out], weights[1])
        return X[train], targets[train], weights[0], validation

    def _score_validation(self, validation: ValidationSet) -> float:
        prediction = self._from_outputs(self._outputs(validation.X, check_input=False))
        if prediction.dtype.kind == "f" and not np.isfinite(prediction).all():
            return np.nan
        return self._score_function(
            validation.y, prediction, sample_weight=validation.sample_weight
        )

    def __sklearn_tags__(self):
        """Sparse input is accepted."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _check_stochastic(self) -> bool:
        """Whether there is a `partial_fit`; the error says why not."""
        if self.solver == "lbfgs":
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic."
            )
        return True


def as_targets(targets: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Class indices stay integers; everything else takes the network's precision."""
    if targets.dtype.kind == "i" and targets.ndim == 1:
        return torch.as_tensor(targets, dtype=torch.int64)
    return as_tensor(targets, dtype, "cpu")


def check_weight(sample_weight, X) -> np.ndarray:
    """Weights of samples: finite, none negative, not all zero."""
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if not weight.any():
        raise ValueError("Sample weights must contain at least one non-zero number; all are zero.")
    return weight


@contextmanager
def unchanged_on_error(estimator) -> Iterator[None]:
    """Give the estimator its attributes back if the block raises."""
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def _has_attributes(thing, values: dict) -> bool:
    return all(getattr(thing, name, None) == value for name, value in values.items())


def _own_random_state(random_state):
    """RandomState for one fit; with None a new one, so that NumPy's global state is left alone."""
    if random_state is None:
        return np.random.RandomState()
    return check_random_state(random_state)


def _clone_callback(given):
    """Copy of a skorch callback, of a name and one, or of its class."""
    callback = given[1] if isinstance(given, tuple) and len(given) == 2 else given
    kind = callback if isinstance(callback, type) else type(callback)
    if not issubclass(kind, Callback):
        raise TypeError(
            f"callbacks must be a list of skorch callbacks, or of pairs of a name and a callback; "
            f"got {given!r}."
        )
    return copy.deepcopy(given)


def pack_validation(X_val, y_val, sample_weight_val):
    """Validation set as one argument, or None; half a set is an error."""
    if X_val is None and y_val is None and sample_weight_val is None:
        return None
    for name, value in (("X_val", X_val), ("y_val", y_val)):
        if value is None:
            raise ValueError(f"{name} is missing: pass X_val and y_val together, or neither.")
    return X_val, y_val, sample_weight_val
