"""Scikit-learn's optimizers by torch's, and L1 and L2 regularisation of the weights."""

from __future__ import annotations

import inspect
import math

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from sklearn_mgs._coherence import CoherenceGate
from sklearn_mgs._proximal import soft_threshold_

__all__ = ["WeightRegularizer", "make_optimizer", "regularized_weights", "set_learning_rate"]


def regularized_weights(module: nn.Module) -> list[Tensor]:
    """Trainable parameters with two dimensions or more: L1 and L2 leave out the biases."""
    return [p for p in module.parameters() if p.requires_grad and p.ndim > 1]


class _Adam(torch.optim.Adam):
    """Adam with epsilon added before the bias correction, as scikit-learn does.

    scikit-learn divides by ``√v + ε``, torch by ``√v̂ + ε`` with ``v̂ = v / (1 − β₂ᵗ)``: torch's
    step is scikit-learn's where its ε is divided by ``√(1 − β₂ᵗ)``.

    The state is laid out once and handed to torch's functional Adam: on a small network the
    bookkeeping of `torch.optim.Adam.step` takes longer than the backward pass.
    """

    # torch's own, without the wrapper that imports the whole compiler: seconds in a first fit.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)

    def __init__(self, parameters, *, eps, **kwargs):
        super().__init__(parameters, eps=eps, fused=True, **kwargs)
        self.base_eps = eps
        self.t = 0
        self._lists, self._owners = None, []

    def step(self, closure=None):
        """Take one step with the parameters that have a gradient; gradients must be off."""
        (group,) = self.param_groups
        params = [p for p in group["params"] if p.grad is not None]
        if self._lists is None or self._owners != list(map(id, params)):
            self._lists, self._owners = self._state_lists(params), list(map(id, params))
        self.t += 1
        beta1, beta2 = group["betas"]
        adam(
            params,
            [p.grad for p in params],
            *self._lists,
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=0.0,
            eps=self.base_eps / math.sqrt(1 - beta2**self.t),
            maximize=False,
        )

    # Else torch wraps `step` in a profiler range, at a tenth of a small network's whole step.
    step.hooked = True  # type: ignore[attr-defined]

    def lends(self, decay: float, n_steps: int) -> bool:
        """Whether its first moments are running means of that decay over so many steps."""
        return self.t == n_steps and self.param_groups[0]["betas"][0] == decay

    def running_mean(self, weights: list[Tensor], gradients=None) -> list[Tensor]:
        """First moments as a mean, in which the first steps count as much as they should.

        With gradients as they will be after the step with these.
        """
        decay = self.param_groups[0]["betas"][0]
        states = [self.state.get(w) or {"exp_avg": torch.zeros_like(w)} for w in weights]
        moments = [state["exp_avg"] for state in states]
        if gradients is None:
            return list(torch._foreach_div(moments, 1 - decay**self.t or 1.0))
        means = list(torch._foreach_lerp(moments, gradients, 1 - decay))
        complete = 1 - decay ** (self.t + 1)
        if complete < 1:
            torch._foreach_div_(means, complete)
        return means

    def _state_lists(self, params):
        """First moments, second moments, no maxima, and step counts, made where missing."""
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        states = [self.state[p] for p in params]
        moments, squares, steps = (
            [s[k] for s in states] for k in ("exp_avg", "exp_avg_sq", "step")
        )
        return moments, squares, [], steps

    def __getstate__(self):
        return {**super().__getstate__(), "base_eps": self.base_eps, "t": self.t, "_lists": None}


def make_optimizer(
    solver: str,
    module: nn.Module,
    *,
    learning_rate: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """Make the optimizer that `solver` names for the module's trainable parameters."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if solver == "adam":
        return _Adam(parameters, lr=learning_rate, betas=betas, eps=eps)
    nesterov = nesterov and momentum > 0
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, nesterov=nesterov)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Change the learning rate as scikit-learn does, whose velocities hold the old one.

    scikit-learn keeps ``v = −lr·buffer``: after a change, torch's buffer is scaled by old / new.
    """
    for group in optimizer.param_groups:
        ratio = group["lr"] / learning_rate
        group["lr"] = learning_rate
        for p in group["params"]:
            buffer = optimizer.state.get(p, {}).get("momentum_buffer")
            if buffer is not None and ratio != 1:
                buffer.mul_(ratio)


class WeightRegularizer:
    """L2 as a gradient, L1 as a proximal step; both divided by the mini-batch's sample count.

    Biases are left out. With a coherence gate both act as strongly as it allows at each step.

    Parameters
    ----------
    module : torch.nn.Module
        Its weights are regularised.
    alpha : float, default=0.0
        Strength of ``½ ‖w‖²``.
    l1 : float, default=0.0
        Strength of ``‖w‖₁``; the step's soft threshold is ``learning rate × l1 / n``, so weights
        become exactly zero.

    Attributes
    ----------
    weights : list of Tensor
        The weights.
    coherence : CoherenceGate or None
        Decides how strongly they act at each step.
    """

    def __init__(self, module, alpha=0.0, l1=0.0):
        self.weights = regularized_weights(module)
        self.alpha = alpha
        self.l1 = l1
        self.coherence: CoherenceGate | None = None

    def squared_norm(self) -> Tensor | None:
        """``‖w‖²``, for the reported loss; None where `alpha` is zero."""
        if not self.alpha:
            return None
        total = None
        for w in self.weights:
            flat = w.detach().view(-1)
            square = torch.dot(flat, flat)
            total = square if total is None else total + square
        return total

    @torch.no_grad()
    def before_step(self, n: float, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Add L2's gradient."""
        if self.coherence is not None:
            adam = optimizer if isinstance(optimizer, _Adam) else None
            self.coherence.decide(self.weights, self.alpha / n, self.l1 / n, adam)
        elif self.alpha:
            for w in self.weights:
                if w.grad is None:  # the pass did not come by
                    w.grad = torch.zeros_like(w)
                w.grad.add_(w, alpha=self.alpha / n)

    @torch.no_grad()
    def after_step(self, learning_rate: float | list[float], n: float) -> None:
        """Take L1's proximal step; learning rates may be each weight's own."""
        if not self.l1:
            return
        one = not isinstance(learning_rate, list)
        rates = [learning_rate] * len(self.weights) if one else learning_rate
        thresholds = [rate * self.l1 / n for rate in rates]
        if self.coherence is not None:
            self.coherence.shrink(self.weights, thresholds)
            return
        for w, threshold in zip(self.weights, thresholds):
            soft_threshold_(w, threshold)

    def end_epoch(self, history) -> None:
        """Record how often the gate was open."""
        if self.coherence is not None:
            self.coherence.end_epoch(history)
