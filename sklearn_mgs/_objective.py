"""The training objective: data loss, MGS penalty and the other regularisers of a mini-batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_mgs._data import Batch
from sklearn_mgs.gram._outputs import drawn
from sklearn_mgs.gram._reduce import divisor
from sklearn_mgs.penalty import MGSPenalty

__all__ = [
    "INVERSE_LINKS",
    "LOSSES",
    "Objective",
    "Terms",
    "gradient_penalty",
    "input_jacobian_penalty",
]


def log_loss(logits: Tensor, y: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    """Cross-entropy of softmax(logits) (n, C) and class indices y (n,)."""
    if weight is None:
        return F.cross_entropy(logits, y, label_smoothing=smoothing)
    losses = F.cross_entropy(logits, y, label_smoothing=smoothing, reduction="none")
    return _average(losses, weight)


def binary_log_loss(logits: Tensor, y: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    """Sum over outputs of the cross-entropies of sigmoid(logits) (n, C) and y in {0, 1} (n, C)."""
    if smoothing:
        y = y * (1 - smoothing) + smoothing / 2
    losses = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    return _average(losses.sum(1), weight)


def squared_error(outputs: Tensor, y: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    """Half the squared error, summed over outputs: what scikit-learn's gradient minimises."""
    return _average((outputs - y).square().sum(1), weight) / 2


def poisson(outputs: Tensor, y: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    """Half the Poisson deviance of exp(outputs), summed over outputs."""
    losses = torch.xlogy(y, y) - y * outputs - y + outputs.exp()
    return _average(losses.sum(1), weight)


def _average(losses: Tensor, weight: Tensor | None) -> Tensor:
    """Weighted mean; zero of samples without any weight."""
    if weight is None:
        return losses.mean()
    return torch.dot(losses, weight) / divisor(weight)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None, float], Tensor]] = {
    "log_loss": log_loss,
    "binary_log_loss": binary_log_loss,
    "squared_error": squared_error,
    "poisson": poisson,
}
"""Losses of linear outputs (n, C), targets, weights (n,) or None, and label smoothing."""

INVERSE_LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "log_loss": partial(torch.softmax, dim=1),
    "binary_log_loss": torch.sigmoid,
    "squared_error": nn.Identity(),
    "poisson": torch.exp,
}
"""What turns the linear outputs (n, C) of each loss into probabilities or predictions."""


def input_jacobian_penalty(X: Tensor, outputs: Tensor, weight: Tensor | None, exact: bool):
    """Mean over samples of ‖∂f/∂x‖²_F (Hoffman, Roberts & Yaida 2019).

    Estimated without bias from one random direction ``v ~ N(0, I_C)`` per sample, as
    ``E ‖vᵀ ∂f/∂x‖²``; with `exact`, from all C outputs. `X` must require a gradient.
    """
    if exact:
        directions = [
            torch.zeros_like(outputs).index_fill_(1, torch.tensor(c, device=X.device), 1.0)
            for c in range(outputs.shape[1])
        ]
    else:
        directions = [torch.randn_like(outputs)]
    norms = X.new_zeros(len(X))
    for v in directions:
        (g,) = torch.autograd.grad(outputs, X, v, create_graph=True)
        norms = norms + g.flatten(1).square().sum(1)
    return _average(norms, weight)


def gradient_penalty(loss: Tensor, module: nn.Module) -> Tensor:
    """‖∇_θ L‖² of the mini-batch's data loss (Barrett & Dherin 2021)."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    # ⟨2 g', g⟩ − ⟨g', g'⟩ with a copy g' kept fixed: the same value and gradient, for less work.
    pairs = [(g.detach().flatten(), g.flatten()) for g in gradients]
    total = torch.stack([torch.dot(*pair) for pair in pairs]).sum()
    return 2 * total - total.detach()


@dataclass
class Terms:
    """What one mini-batch's objective is made of."""

    data_loss: Tensor
    total: Tensor
    mgs_penalty: Tensor | None
    outputs: Tensor


@dataclass
class Objective:
    """Data loss plus penalties, as a function of a module and a mini-batch.

    ``total = L + mgs_strength · m(K)/m(K_init) + jacobian_strength · mean ‖∂f/∂x‖²_F
    + gradient_strength · ‖∇_θ L‖²``. L1 and L2 act on the weights themselves and are not here.

    Parameters
    ----------
    loss : {"log_loss", "binary_log_loss", "squared_error", "poisson"}
        The data loss.
    mgs_strength : float, default=0.0
        Strength of the MGS penalty, dimensionless.
    penalty : MGSPenalty, default=None
        The penalty, calibrated; only used where ``mgs_strength > 0``.
    mgs_batch_size : int, default=None
        The first so many samples of a mini-batch make the kernel; None: all.
    label_smoothing, input_noise, jacobian_strength, gradient_strength : float, default=0.0
        The other regularisers; `input_noise` is the noise's standard deviation.
    exact : bool, default=False
        Whether the objective must be a deterministic function (for L-BFGS).
    """

    loss: str
    mgs_strength: float = 0.0
    penalty: MGSPenalty | None = None
    mgs_batch_size: int | None = None
    label_smoothing: float = 0.0
    input_noise: float = 0.0
    jacobian_strength: float = 0.0
    gradient_strength: float = 0.0
    exact: bool = False

    def data_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Weighted mean loss of the mini-batch."""
        return LOSSES[self.loss](outputs, batch.y, batch.sample_weight, self.label_smoothing)

    def __call__(self, module: nn.Module, batch: Batch) -> Terms:
        """Evaluate the terms; gradients flow from ``total`` and, apart, from ``data_loss``."""
        X, mgs = batch.X, None
        if self.input_noise:
            X = X + self.input_noise * drawn(tuple(X.shape), X, None)
        if self.jacobian_strength:
            X = X.detach().requires_grad_()
        if self._shares_forward(batch):
            with self.penalty.record(module) as tape:
                outputs = module(X)
            mgs = self.penalty(tape, outputs, self._targets(batch), batch.sample_weight)
        else:
            outputs = module(X)
            if self.mgs_strength:
                mgs = self._mgs_on_part(module, X, batch)
        data_loss = total = self.data_loss(outputs, batch)
        if mgs is not None:
            mgs = self.mgs_strength * mgs
            total = total + mgs
        if self.jacobian_strength:
            jacobian = input_jacobian_penalty(X, outputs, batch.sample_weight, self.exact)
            total = total + self.jacobian_strength * jacobian
        if self.gradient_strength:
            total = total + self.gradient_strength * gradient_penalty(data_loss, module)
        return Terms(data_loss, total, mgs, outputs)

    def _shares_forward(self, batch: Batch) -> bool:
        """Whether the kernel is of the whole mini-batch, so that one forward pass serves both."""
        size = self.mgs_batch_size
        return self.mgs_strength > 0 and (size is None or size >= batch.n_samples)

    def _mgs_on_part(self, module: nn.Module, X: Tensor, batch: Batch) -> Tensor:
        size = self.mgs_batch_size
        targets, weight = self._targets(batch), batch.sample_weight
        with self.penalty.record(module) as tape:
            outputs = module(X[:size])
        return self.penalty(
            tape,
            outputs,
            None if targets is None else targets[:size],
            None if weight is None else weight[:size],
        )

    def _targets(self, batch: Batch) -> Tensor | None:
        """Class indices (n,) where the penalty asks for them."""
        return mgs_targets(self.loss, batch.y)


def mgs_targets(loss: str, y: Tensor) -> Tensor | None:
    """Class indices (n,) of a classification target, None for what has no single class."""
    if loss == "log_loss":
        return y
    if loss == "binary_log_loss" and y.shape[1] == 1:
        return y[:, 0].long()
    return None
