"""The gradient of the training objective of a multilayer perceptron, without autograd.

What `Objective` says and autograd differentiates is written out here for the estimators' network.
With ``a_l`` the inputs of layer l, ``W_l`` its weights, ``d_l``
the gradients of the kernel's direction with respect to its outputs, and ``φ'_l`` the slopes of
the activation below it, times dropout's factors,

- the kernel is ``K = Σ_l ω_l (A_l A_lᵀ + 1) ∘ (D_l D_lᵀ)``, the penalty's adjoint ``S = ∂m/∂K``
  (diagonal for the trace);
- the recursion ``D_{l-1} = (D_l W_l) ∘ φ'_l`` is reversed from the first layer to the last:
  ``E_l = 2 ω_l (S ∘ (A_l A_lᵀ + 1)) D_l + U_l W_lᵀ`` with ``U_l = E_{l-1} ∘ φ'_l``; relative
  gradients have ``D_l W_l`` for ``D_l`` in K, and the first term is one of ``U_l``;
- then the forward pass from the last to the first, with ``G_l`` the adjoint of layer l's outputs:
  ``∂/∂W_l = G_lᵀ A_l + D_lᵀ U_l``, and
  ``G_{l-1} = (G_l W_l + 2 ω_l (S ∘ D_l D_lᵀ) A_l) ∘ φ'_l + E_{l-1} ∘ (D_l W_l) ∘ φ''_l``.

The input-Jacobian penalty is the sum of the squared norms of ``D_1 W_1``, of directions drawn for
each sample; that of the loss's gradient is in `sklearn_mgs._loss_gradient`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_mgs._closed_form_pass import ACTIVATIONS, Draws, Pass, draw, forward, is_known
from sklearn_mgs._closed_form_penalty import JacobianPenalty, KernelPenalty
from sklearn_mgs._data import Batch
from sklearn_mgs._half_rows import HalfRows
from sklearn_mgs._loss_gradient import LossGradient
from sklearn_mgs._module import MLP
from sklearn_mgs._objective import Objective, Terms
from sklearn_mgs.gram._reduce import divisor, is_autocasting

__all__ = ["ClosedForm"]

MANY = 256
"""Samples up to which the kernel's matrix costs less than autograd's passes."""


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
        self.activations, self._dropouts = [], []
        for m in module:
            if type(m) in ACTIVATIONS:
                self.activations.append(ACTIVATIONS[type(m)])
                self._dropouts.append(None)
            elif type(m) is nn.Dropout:
                self._dropouts[-1] = m
        self.weights = None
        if objective.mgs_strength:
            names = [f"linear{i}" for i in range(len(self.linears))]
            self.weights = [objective.penalty.layer_weights_.get(name) for name in names]
        random = self.weights is not None and objective.penalty.outputs == "random"
        draws = (objective.input_noise, objective.jacobian_strength, *self._dropouts, random)
        self.has_random_outputs, self.is_random = random, any(draws)
        self.no_draws = Draws(None, [None] * len(self.activations), [], None, [])

    @staticmethod
    def covers(objective: Objective, module: nn.Module) -> bool:
        """Whether this is the objective's gradient: no changed module, no parameters that are not
        trained, no hooks, no exact input Jacobian, no autocasting.
        """
        if not is_known(module) or (objective.jacobian_strength and objective.exact):
            return False
        if is_autocasting(next(module.parameters()).device):
            return False
        return not any(map(_watched, (*module.modules(), *module.parameters())))

    def suits(self, n: int) -> bool:
        """Whether autograd takes no less time for a mini-batch of n samples.

        The centred trace is a sum over samples for autograd, and here one over pairs.
        """
        penalty = self.objective.penalty
        if self.weights is None or penalty.metric != "trace" or not penalty.centered:
            return True
        return min(n, self.objective.mgs_batch_size or n) <= MANY

    @property
    def dropout_rates(self) -> list[float]:
        """Of each hidden layer."""
        return [m.p if m is not None and m.training else 0.0 for m in self._dropouts]

    @torch.no_grad()
    def backward(self, batch: Batch, halves: list[Tensor] | None = None) -> Terms:
        """Set every parameter's gradient, and return the objective's terms.

        `halves` gets each weight's gradient in two parts (2, ...), which the mini-batch's halves
        have in their sum; each half makes a kernel of its own.
        """
        n, compared = batch.n_samples, halves is not None
        draws = draw(self, batch.X, [n // 2, n - n // 2] if compared else [n])
        if draws.noise is not None:
            batch = batch._replace(X=batch.X + self.objective.input_noise * draws.noise)
        apart = self._kernel_is_apart(draws, compared)
        main, terms = self._main_pass(batch, draws, compared, with_kernel=not apart)
        passes = [main]
        if apart:
            passes.append(self._kernel_pass(batch, draws, compared))
            (kernel,) = passes[1].penalties
            terms.total, terms.mgs_penalty = terms.total + kernel.value, kernel.value
        self._backward(passes, halves)
        return terms

    def _kernel_is_apart(self, draws: Draws, compared: bool) -> bool:
        """Whether the kernel has a forward pass of its own.

        It has where units are dropped out for it that are not for the loss, and beside a penalty
        of halves' loss gradients, which asks for the rows in another order.
        """
        if self.weights is None:
            return False
        return bool(draws.kernel_masks) or (compared and self.objective.gradient_strength > 0)

    def _main_pass(self, batch: Batch, draws: Draws, compared: bool, with_kernel: bool):
        """The loss and the penalties of one forward pass, up to the outputs; their terms."""
        objective, rows = self.objective, None
        if compared:
            size = objective.mgs_batch_size if self.weights is not None and with_kernel else None
            rows = HalfRows(batch, size, even=bool(objective.gradient_strength))
            batch, draws = rows.batch, draws.ordered(rows)
        tape = forward(self.linears, self.activations, batch.X, draws.masks)
        loss, G = _LOSSES[objective.loss](
            tape.outputs, batch.y, batch.sample_weight, objective.label_smoothing
        )
        outputs = tape.outputs if rows is None else rows.restored(tape.outputs)
        terms = Terms(loss, loss, None, outputs)
        penalties: list = []
        if self.weights is not None and with_kernel:
            blocks = self._blocks(batch, rows)
            penalties.append(KernelPenalty(self, tape, batch, blocks, draws.directions))
            terms.mgs_penalty = penalties[0].value
        if objective.jacobian_strength:
            penalties.append(JacobianPenalty(self, tape, batch, draws.by_sample))
        if objective.gradient_strength:
            shares = [1.0] if rows is None else [share for _, share in rows.blocks]
            penalties.append(LossGradient(self, tape, G, batch, shares))
            G = G + penalties[-1].by_outputs
        for penalty in penalties:
            terms.total = terms.total + penalty.value
        return _Adjoint(G, tape, penalties, rows), terms

    def _kernel_pass(self, batch: Batch, draws: Draws, compared: bool) -> _Adjoint:
        """The kernel's penalty in a forward pass of its own."""
        rows = HalfRows(batch, self.objective.mgs_batch_size) if compared else None
        if rows is not None:
            batch, draws = rows.batch, draws.ordered(rows)
        blocks = self._blocks(batch, rows)
        n = blocks[-1][0].stop
        masks = draws.kernel_masks or draws.masks
        tape = forward(
            self.linears, self.activations, batch.X[:n], [m if m is None else m[:n] for m in masks]
        )
        penalty = KernelPenalty(self, tape, batch, blocks, draws.directions)
        return _Adjoint(torch.zeros_like(tape.outputs), tape, [penalty], rows)

    def _blocks(self, batch: Batch, rows: HalfRows | None) -> list[tuple]:
        """Samples that make a kernel, and its share: of the mini-batch, or of each half."""
        if rows is not None:
            return rows.blocks
        n = batch.n_samples
        return [(slice(0, min(n, self.objective.mgs_batch_size or n)), 1.0)]

    def _backward(self, passes: list[_Adjoint], halves: list[Tensor] | None) -> None:
        """Set every parameter's gradient from the outputs' adjoints, in halves where asked for."""
        for i in reversed(range(len(self.linears))):
            linear = self.linears[i]
            gradient = reduce(torch.add, [p.weight_gradient(i) for p in passes])
            if halves is not None:
                halves.append(gradient)
                gradient = gradient[0] + gradient[1]
            linear.weight.grad = gradient
            linear.bias.grad = reduce(torch.add, [p.G.sum(0) for p in passes])
            if i:
                for p in passes:
                    p.descend(i, linear.weight)


@dataclass
class _Adjoint:
    """The adjoint ``G`` of a forward pass's outputs, on its way to the first layer.

    Attributes
    ----------
    G : Tensor of shape (n, out)
        Adjoint of the outputs of the layer that it has come to.
    tape : Pass
        The forward pass.
    penalties : list
        The penalties that are made of it.
    rows : HalfRows or None
        Order of the samples, where the halves' gradients are asked for.
    """

    G: Tensor
    tape: Pass
    penalties: list
    rows: HalfRows | None

    def weight_gradient(self, i: int) -> Tensor:
        """Gradient of layer i's weight, or those of the two halves (2, ...)."""
        pairs = [(self.G, self.tape.inputs[i])]
        pairs += [penalty.pair(i) for penalty in self.penalties if i in penalty.U]
        return _sum_of_products(pairs) if self.rows is None else self.rows.sums_of_products(pairs)

    def descend(self, i: int, weight: Tensor) -> None:
        """Go on from layer i to the one below."""
        G = self.G @ weight
        for penalty in self.penalties:
            penalty.add_input_adjoint(G, i)
        G.mul_(self.tape.slopes[i - 1])
        for penalty in self.penalties:
            penalty.add_slope_adjoint(G, i)
        self.G = G


def _sum_of_products(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum of ``Gᵀ A`` over pairs."""
    (G, A), *others = pairs
    total = G.mT @ A
    for G, A in others:
        if G.ndim > 2:  # several rows for each sample
            G, A = G.flatten(0, 1), A.flatten(0, 1)
        total.addmm_(G.mT, A)
    return total


def _watched(part: nn.Module | nn.Parameter) -> bool:
    """Whether somebody hooked into it: hooks only see autograd's passes."""
    return any(getattr(part, name, None) for name in _HOOKS)


_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_post_accumulate_grad_hooks",
)


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
