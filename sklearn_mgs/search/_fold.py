"""One fold's training samples, and a lone estimator built for them, ready to train."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from sklearn_mgs._base import BaseMLP
from sklearn_mgs._data import Samples, mini_batch_size
from sklearn_mgs._fit_loop import ValidationSet
from sklearn_mgs._penalty_options import kernel_samples
from sklearn_mgs.penalty import MGSPenalty
from sklearn_mgs.search._memory import autograd_bytes, model_bytes

__all__ = ["Fold", "Model", "prepare_fold"]


@dataclass
class Fold:
    """What all candidates share on one fold: everything but the strengths.

    Attributes
    ----------
    estimator : BaseMLP
        Built for the fold's training samples, with initial weights, not trained.
    samples : Samples
        The training samples, without those held out for early stopping.
    validation : ValidationSet or None
        Those held out.
    penalty : MGSPenalty or None
        Calibrated at the initial weights.
    seed : int
        With which a lone fit seeds torch.
    """

    estimator: BaseMLP
    samples: Samples
    validation: ValidationSet | None
    penalty: MGSPenalty | None
    seed: int

    @property
    def signature(self) -> tuple:
        """Folds with the same can be trained in one batch."""
        est, samples = self.estimator, self.samples
        weight, n = samples.host_weight, len(samples)
        # Mini-batches without any weight are skipped: that must be so for all models of a batch.
        alone = None if weight is None or (weight > 0).all() else id(self)
        return (
            tuple(est._network["layers"]),
            est._loss_name(),
            (self.n_batch, -(-n // self.n_batch)) if self._may_be_padded() else n,
            weight is None,
            alone,
        )

    @property
    def n_batch(self) -> int:
        """Samples in a mini-batch."""
        return mini_batch_size(self.estimator.batch_size, len(self.samples))

    @property
    def n_products(self) -> int:
        """Multiplications of a forward pass."""
        return self.n_batch * sum(i * o for i, o in pairwise(self.estimator._network["layers"]))

    def model_bytes(self) -> tuple[int, int]:
        """Estimate of the memory that a model takes, and of what autograd adds at the peak."""
        est, penalty, itemsize = self.estimator, self.penalty, self.samples.dtype.itemsize
        outputs = None if penalty is None else penalty.outputs
        directions = {None: 0, "all": est.n_outputs_}.get(outputs, 1)
        n_bytes = model_bytes(est._network["layers"], self.n_batch, directions, itemsize)
        compares = penalty is not None and (penalty.metric != "trace" or penalty.centered)
        if not (compares or est.jacobian_strength or est.gradient_strength):
            return n_bytes, 0  # as `covers` says: no autograd
        size = kernel_samples(est, len(self.samples)) or self.n_batch
        n_kernel = min(size, self.n_batch) if compares and penalty.metric == "det" else 0
        return n_bytes, autograd_bytes(n_bytes, n_kernel, itemsize)

    def _may_be_padded(self) -> bool:
        """Whether samples without weight change nothing: neither random numbers nor a kernel."""
        est, penalty = self.estimator, self.penalty
        random = est.dropout or est.input_noise or est.jacobian_strength
        halves = est.coherence_threshold is not None and est.coherence == "batch"
        if random or halves or self.samples.host_weight is not None:
            return False
        if penalty is None:
            return True
        return penalty.metric == "trace" and not penalty.centered and penalty.outputs != "random"

    def initial(self) -> tuple[list[Tensor], list[Tensor]]:
        """Initial weights (out, in) and biases (out, 1)."""
        linears = self.estimator.module_.linears
        return [m.weight.detach() for m in linears], [m.bias.detach()[:, None] for m in linears]

    def private(self, device: torch.device) -> Fold:
        """The same on that device, with an estimator of its own, to write weights into."""
        estimator, samples = copy.deepcopy(self.estimator), self.samples
        estimator.module_.to(device)
        if device != samples.device:
            X, y, weight = samples.X, samples.y, samples.host_weight
            samples = Samples(X, y, weight, device=device, dtype=samples.dtype)
        return Fold(estimator, samples, self.validation, self.penalty, self.seed)


def prepare_fold(estimator: BaseMLP, X, y, sample_weight=None) -> Fold:
    """Do what a lone fit of `estimator` does before its first epoch, on the CPU.

    The device is for whoever trains the fold to choose: it may be another machine.

    Parameters
    ----------
    estimator : BaseMLP
        A copy of it is prepared. With ``mgs_strength > 0`` the penalty is calibrated.
    X, y, sample_weight : array-like
        The fold's training samples.
    """
    est = clone(estimator).set_params(device="cpu")
    samples, validation, seed = est._prepare(X, y, sample_weight, None, incremental=False)
    return Fold(est, samples, validation, est.net_.criterion_.penalty, seed)


@dataclass(eq=False)
class Model:
    """One candidate on one fold, and how its training went.

    Attributes
    ----------
    candidate, split : int
        Which.
    params : dict
        The candidate's parameters.
    fold : Fold
        The fold.
    n_iter : int
        Epochs trained.
    best : float or None
        Best validation score, or minus the lowest loss, so far.
    stale : int
        Epochs since it improved.
    failure : str
        Why the training failed, if it did.
    parameters : list of Tensor or None
        Weights (out, in), then biases (out, 1), once it has stopped or paused.
    loss_curve, validation_scores : list of float
        Per epoch.
    fit_time, score_time : float
        Seconds; of the training, its share of the batch's.
    scores, earlier_scores : dict of str to float, or None
        On the samples that the fold leaves out, and those at the rung before.
    """

    candidate: int
    split: int
    params: dict[str, Any]
    fold: Fold | None
    n_iter: int = 0
    best: float | None = None
    stale: int = 0
    failure: str = ""
    parameters: list[Tensor] | None = None
    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    fit_time: float = 0.0
    score_time: float = 0.0
    scores: dict[str, float] | None = None
    earlier_scores: dict[str, float] | None = None

    def after_epoch(self, loss: float, score: float | None) -> bool:
        """Keep count by the rules of a lone fit; return whether this epoch is the best so far."""
        est = self.fold.estimator
        self.n_iter += 1
        self.loss_curve.append(loss)
        value = -loss
        if score is not None:
            self.validation_scores.append(score)
            value = score
        best = -np.inf if self.best is None else self.best
        self.stale = self.stale + 1 if value < best + est.tol else 0
        if value >= best:  # of equal scores the last counts, as in a lone fit
            self.best = value
            return True
        return False

    @property
    def exhausted(self) -> bool:
        """Whether it has not improved for too long."""
        return self.stale > self.fold.estimator.n_iter_no_change

    def load(self, parameters: list[Tensor]) -> BaseMLP:
        """Write weights (out, in), then biases (out, 1), into the fold's estimator."""
        L = len(parameters) // 2
        coefs, intercepts = [w.T for w in parameters[:L]], [b.flatten() for b in parameters[L:]]
        self.fold.estimator.module_.write(coefs, intercepts)
        return self.fold.estimator

    def forget(self) -> None:
        """Let go what only training and scoring need."""
        self.parameters = self.fold = None

    def as_estimator(self) -> BaseMLP:
        """The fold's estimator, made to look as a lone fit leaves it."""
        est = self.load(self.parameters).set_params(**self.params)
        watches = self.fold.validation is not None
        est.n_iter_, est.t_ = self.n_iter, self.n_iter * len(self.fold.samples)
        est.loss_curve_, est.loss_ = self.loss_curve, self.loss_curve[-1]
        est.best_loss_ = None if watches else -self.best
        est.validation_scores_ = self.validation_scores if watches else None
        est.best_validation_score_ = self.best if watches else None
        return est
