"""What happens after each epoch, by the rules of scikit-learn's MLP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_mgs._optimizer import set_learning_rate

__all__ = ["AfterEpoch", "ValidationSet", "restore", "snapshot"]


@dataclass
class ValidationSet:
    """Held-out samples for early stopping; `y` in the user's own labels."""

    X: Any
    y: np.ndarray
    sample_weight: np.ndarray | None = None


def snapshot(module: nn.Module) -> list[Tensor]:
    """Copy of the parameters."""
    return [p.detach().clone() for p in module.parameters()]


@torch.no_grad()
def restore(module: nn.Module, parameters: list[Tensor]) -> None:
    """Write the parameters back."""
    for p, value in zip(module.parameters(), parameters):
        p.copy_(value)


@dataclass
class AfterEpoch:
    """Update the estimator's fitted attributes after an epoch; say whether to stop.

    Parameters
    ----------
    estimator : BaseMLP
        Its ``loss_curve_``, ``best_loss_``, … are kept as scikit-learn's MLP keeps them.
    n_samples : int
        Training samples of the call to `fit`, as scikit-learn counts them in ``t_``.
    validation : ValidationSet, default=None
        Where early stopping looks; None: at the training loss.
    """

    estimator: Any
    n_samples: int
    validation: ValidationSet | None = None

    def __post_init__(self):
        self.converged = False
        self.last_finite = self.best = snapshot(self.estimator.module_)

    def __call__(self, net) -> bool:
        est = self.estimator
        self._check_finite(net)
        epoch = net.history[-1]
        est.n_iter_ += 1
        est.loss_ = est._reported_loss(epoch)
        est.t_ += self.n_samples
        est.loss_curve_.append(est.loss_)
        self._count_no_improvement(net)
        if est.learning_rate == "invscaling" and est.solver == "sgd":
            rate = est.learning_rate_init / (est.t_ + 1) ** est.power_t
            set_learning_rate(net.optimizer_, rate)
        self.converged = self._tolerance_reached(net)
        return self.converged

    def _check_finite(self, net) -> None:
        """Keep the parameters if they are finite; else restore the last that were, and raise."""
        epoch = net.history[-1]
        sums = torch.stack([p.detach().sum() for p in net.module_.parameters()])
        l2, mgs = epoch.get("l2", 0.0), epoch.get("mgs_penalty", 0.0)
        values = (epoch["train_loss"], l2, mgs, sums.sum().item())
        if all(map(math.isfinite, values)):
            self.last_finite = snapshot(net.module_)
            return
        restore(net.module_, self.last_finite)
        net.forget_steps()  # moments that are not finite would outlive the weights
        raise ValueError(
            f"Solver produced non-finite parameter weights or losses in epoch "
            f"{self.estimator.n_iter_ + 1}: training loss {values[0]}, L2 term {l2}, MGS penalty "
            f"{mgs}. The parameters from before that epoch are kept. Scale the input data, or "
            f"lower learning_rate_init or the regularisation strengths."
        )

    def _count_no_improvement(self, net) -> None:
        est = self.estimator
        if self.validation is None:
            value, best, sign = est.loss_, est.best_loss_, -1
        else:
            value, best, sign = self._validation_score(net), est.best_validation_score_, 1
        worse = value < best + est.tol if sign > 0 else value > best - est.tol
        est._no_improvement_count = est._no_improvement_count + 1 if worse else 0
        # Of equal scores the last counts: few held-out samples give many ties, and the network of
        # the first of them has only begun to learn.
        if sign * value >= sign * best:
            if self.validation is None:
                est.best_loss_ = value
            else:
                est.best_validation_score_ = value
                self.best = self.last_finite

    def _validation_score(self, net) -> float:
        score = self.estimator._score_validation(self.validation)
        self.estimator.validation_scores_.append(score)
        net.history.record("valid_score", score)
        return score

    def _tolerance_reached(self, net) -> bool:
        """Whether to stop; scikit-learn's "adaptive" schedule divides the rate by 5 instead."""
        est = self.estimator
        if est._no_improvement_count <= est.n_iter_no_change:
            return False
        if est.learning_rate == "adaptive" and est.solver == "sgd":
            rate = net.optimizer_.param_groups[0]["lr"]
            if rate > 1e-6:
                set_learning_rate(net.optimizer_, rate / 5)
                est._no_improvement_count = 0
                return False
        return True
