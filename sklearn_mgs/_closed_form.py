"""The gradient of data loss and MGS penalty of a multilayer perceptron, without autograd.

What `Objective` says and autograd differentiates is written out here for the networks and the
terms that most fits are made of. With ``a_l`` the inputs of layer l, ``W_l`` its weights, ``d_l``
the gradients of the kernel's direction with respect to its outputs, and ``φ'_l`` the slopes of
the activation below it,

- the kernel is ``K = Σ_l ω_l (A_l A_lᵀ + 1) ∘ (D_l D_lᵀ)``, the penalty's adjoint ``S = ∂m/∂K``
  (diagonal for the trace);
- the recursion ``D_{l-1} = (D_l W_l) ∘ φ'_l`` is reversed from the first layer to the last:
  ``E_l = 2 ω_l (S ∘ (A_l A_lᵀ + 1)) D_l + U_l W_lᵀ`` with ``U_l = E_{l-1} ∘ φ'_l``; relative
  gradients have ``D_l W_l`` for ``D_l`` in K, and the first term is one of ``U_l``;
- then the forward pass from the last to the first, with ``G_l`` the adjoint of layer l's outputs:
  ``∂/∂W_l = G_lᵀ A_l + D_lᵀ U_l``, and
  ``G_{l-1} = (G_l W_l + 2 ω_l (S ∘ D_l D_lᵀ) A_l) ∘ φ'_l + E_{l-1} ∘ (D_l W_l) ∘ φ''_l``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_mgs._closed_form_penalty import KernelPenalty
from sklearn_mgs._data import Batch
from sklearn_mgs._half_rows import HalfRows
from sklearn_mgs._loss_gradient import LossGradient
from sklearn_mgs._module import MLP
from sklearn_mgs._objective import Objective, Terms
from sklearn_mgs.gram._reduce import divisor

__all__ = ["ClosedForm"]


class ClosedForm:
    """Forward and backward pass of an objective on an `MLP`, in closed form.

    Parameters
    ----------
    objective : Objective
        What is minimised; see `covers`.
    module : MLP
        The network; its parameters get their ``grad``.
    """

    def __init__(self, objective: Objective, module: MLP):
        self.objective = objective
        self.linears = module.linears
        hidden = [m for m in module if not isinstance(m, nn.Linear)]
        self.activations = [_ACTIVATIONS[type(m)] for m in hidden]
        self.weights = None
        if objective.mgs_strength:
            names = [f"linear{i}" for i in range(len(self.linears))]
            self.weights = [objective.penalty.layer_weights_.get(name) for name in names]

    @staticmethod
    def covers(objective: Objective, module: nn.Module) -> bool:
        """Whether this is the objective's gradient: no other terms, dropout, hooks or modules,
        and no parameters that are not trained.

        Of the penalties of kernel and loss gradient there is one at most.
        """
        if objective.jacobian_strength or (objective.mgs_strength and objective.gradient_strength):
            return False
        if not all(p.requires_grad for p in module.parameters()):
            return False
        if not isinstance(module, MLP) or any(map(_watched, module.modules())):
            return False
        if not all(type(m) in _ACTIVATIONS or type(m) is nn.Linear for m in module):
            return False
        penalty = objective.penalty
        several = module.linears[-1].out_features > 1
        return not (objective.mgs_strength and penalty.outputs == "all" and several)

    @property
    def splits(self) -> bool:
        """Whether one pass gives both halves' gradients: no random numbers are drawn for it."""
        random = self.weights is not None and self.objective.penalty.outputs == "random"
        return not (self.objective.input_noise or random)

    @torch.no_grad()
    def backward(self, batch: Batch, halves: list[Tensor] | None = None) -> Terms:
        """Set every parameter's gradient, and return the objective's terms.

        Where the form `splits`, `halves` gets each weight's gradient in two parts (2, ...), which
        the mini-batch's halves have in their sum; each half makes a kernel of its own.
        """
        rows, size = None, self.objective.mgs_batch_size if self.weights is not None else None
        n = batch.n_samples if size is None else min(batch.n_samples, size)
        if halves is not None:
            rows = HalfRows(batch, size, even=bool(self.objective.gradient_strength))
            batch, n = rows.batch, rows.n_kernel
        X = batch.X
        if self.objective.input_noise:
            X = X + self.objective.input_noise * torch.randn_like(X)
        inputs, outputs = self._forward(X)
        loss, G = _LOSSES[self.objective.loss](
            outputs, batch.y, batch.sample_weight, self.objective.label_smoothing
        )
        slopes = [a.slope(A) for a, A in zip(self.activations, inputs[1:])]
        penalty = mgs = None
        if self.weights is not None:
            blocks = [(slice(0, n), 1.0)] if rows is None else rows.blocks
            penalty = KernelPenalty(self, inputs, slopes, outputs, batch, n, blocks)
            mgs = penalty.value
        elif self.objective.gradient_strength:
            shares = [1.0] if rows is None else [share for _, share in rows.blocks]
            penalty = LossGradient(self, inputs, slopes, outputs, G, batch, shares)
            G = G + penalty.by_outputs
        self._backward(G, inputs, slopes, penalty, rows, halves)
        total = loss if penalty is None else loss + penalty.value
        outputs = outputs if rows is None else rows.restored(outputs)
        return Terms(loss, total, mgs, outputs)

    def _backward(self, G: Tensor, inputs, slopes, penalty, rows, halves) -> None:
        """Set every parameter's gradient from the outputs' adjoint, in halves where asked for."""
        for i in reversed(range(len(self.linears))):
            linear, pairs = self.linears[i], [(G, inputs[i])]
            if penalty is not None and i in penalty.U:
                pairs.append((penalty.D[i], penalty.U[i]))
            if rows is None:
                linear.weight.grad = _sum_of_products(pairs)
            else:
                halves.append(rows.sums_of_products(pairs))
                first, second = halves[-1].unbind()
                linear.weight.grad = first + second
            linear.bias.grad = G.sum(0)
            if i:
                G = G @ linear.weight
                if penalty is not None:
                    penalty.add_input_adjoint(G, i)
                G = G.mul_(slopes[i - 1])
                if penalty is not None:
                    penalty.add_slope_adjoint(G, i)

    def _forward(self, X: Tensor) -> tuple[list[Tensor], Tensor]:
        """Inputs of each layer, and the outputs."""
        inputs = [X]
        for linear, activation in zip(self.linears, self.activations):
            Z = torch.addmm(linear.bias, inputs[-1], linear.weight.mT)
            inputs.append(activation.value(Z))
        last = self.linears[-1]
        return inputs, torch.addmm(last.bias, inputs[-1], last.weight.mT)


def _sum_of_products(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum of ``Gᵀ A`` over pairs."""
    (G, A), *others = pairs
    total = G.mT @ A
    for G, A in others:
        total.addmm_(G.mT, A)
    return total


def _watched(module: nn.Module) -> bool:
    """Whether somebody hooked into the module: hooks only see a real forward pass."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


class _Activation:
    """An activation, with slope and curvature as functions of its *value*."""

    curvature = None


class _Identity(_Activation):
    @staticmethod
    def value(Z):
        return Z

    @staticmethod
    def slope(A):
        return torch.ones_like(A)


class _ReLU(_Activation):
    value = staticmethod(torch.relu_)

    @staticmethod
    def slope(A):
        return A.sign()


class _Tanh(_Activation):
    value = staticmethod(torch.tanh_)

    @staticmethod
    def slope(A):
        return 1 - A * A

    @staticmethod
    def curvature(A):
        return -2 * A * (1 - A * A)


class _Sigmoid(_Activation):
    value = staticmethod(torch.sigmoid_)

    @staticmethod
    def slope(A):
        return A * (1 - A)

    @staticmethod
    def curvature(A):
        return A * (1 - A) * (1 - 2 * A)


_ACTIVATIONS = {nn.Identity: _Identity, nn.ReLU: _ReLU, nn.Tanh: _Tanh, nn.Sigmoid: _Sigmoid}


def _averaged(losses: Tensor, G: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weighted mean of the losses (n,), and its gradient from that of each loss (n, C)."""
    if weight is None:
        return losses.mean(), G.div_(len(G))
    total = divisor(weight)
    return torch.dot(losses, weight) / total, G.mul_((weight / total)[:, None])


def _log_loss(logits, y, weight, smoothing):
    log_p = torch.log_softmax(logits, 1)
    G = log_p.exp()
    n, C = logits.shape
    losses = -log_p.gather(1, y[:, None]).squeeze(1)
    if smoothing:
        losses = (1 - smoothing) * losses - (smoothing / C) * log_p.sum(1)
        G -= smoothing / C
    G.scatter_add_(1, y[:, None], G.new_full((n, 1), smoothing - 1.0))
    return _averaged(losses, G, weight)


def _binary_log_loss(logits, y, weight, smoothing):
    if smoothing:
        y = y * (1 - smoothing) + smoothing / 2
    losses = F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(1)
    return _averaged(losses, torch.sigmoid(logits).sub_(y), weight)


def _squared_error(outputs, y, weight, smoothing):
    G = outputs - y
    return _averaged(torch.linalg.vecdot(G, G) / 2, G, weight)


def _poisson(outputs, y, weight, smoothing):
    mean = outputs.exp()
    losses = (torch.xlogy(y, y) - y * outputs - y + mean).sum(1)
    return _averaged(losses, mean.sub_(y), weight)


_LOSSES = {
    "log_loss": _log_loss,
    "binary_log_loss": _binary_log_loss,
    "squared_error": _squared_error,
    "poisson": _poisson,
}
"""Each loss of `sklearn_mgs._objective.LOSSES`, with its gradient in the outputs."""
