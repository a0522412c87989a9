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

from sklearn_mgs._closed_form_pass import ACTIVATIONS, Draws, Pass, draw, forward
from sklearn_mgs._closed_form_penalty import JacobianPenalty, KernelPenalty
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
        self.activations = [ACTIVATIONS[type(m)] for m in module if type(m) in ACTIVATIONS]
        self._dropouts = [m for m in module if type(m) is nn.Dropout]
        self.weights = None
        if objective.mgs_strength:
            names = [f"linear{i}" for i in range(len(self.linears))]
            self.weights = [objective.penalty.layer_weights_.get(name) for name in names]

    @staticmethod
    def covers(objective: Objective, module: nn.Module) -> bool:
        """Whether this is the objective's gradient: no hooks or other modules, no parameters
        that are not trained, no forward pass for the kernel alone that drops out other units,
        and no exact input Jacobian.
        """
        if objective.jacobian_strength and objective.exact:
            return False
        if not all(p.requires_grad for p in module.parameters()):
            return False
        if not isinstance(module, MLP) or any(map(_watched, module.modules())):
            return False
        if not all(type(m) in (*ACTIVATIONS, nn.Linear, nn.Dropout) for m in module):
            return False
        drops = any(type(m) is nn.Dropout for m in module)
        return not (drops and objective.mgs_strength and objective.mgs_batch_size is not None)

    def splits(self, n: int) -> bool:
        """Whether one pass gives both halves' gradients of a mini-batch of n samples.

        The penalty of the loss's gradient needs halves as long as each other and in their own
        order, which a kernel of a part changes, and samples without weight.
        """
        o = self.objective
        both = o.mgs_strength and o.gradient_strength
        return not both or (n % 2 == 0 and o.mgs_batch_size is None)

    @property
    def dropout_rates(self) -> list[float]:
        """Of each hidden layer."""
        if not self._dropouts:
            return [0.0] * len(self.activations)
        return [m.p if m.training else 0.0 for m in self._dropouts]

    @torch.no_grad()
    def backward(self, batch: Batch, halves: list[Tensor] | None = None) -> Terms:
        """Set every parameter's gradient, and return the objective's terms.

        Where the form `splits`, `halves` gets each weight's gradient in two parts (2, ...), which
        the mini-batch's halves have in their sum; each half makes a kernel of its own.
        """
        objective, n = self.objective, batch.n_samples
        draws = draw(self, batch.X, [n] if halves is None else [n // 2, n - n // 2])
        if draws.noise is not None:
            batch = batch._replace(X=batch.X + objective.input_noise * draws.noise)
        rows = None
        if halves is not None:
            size = objective.mgs_batch_size if self.weights is not None else None
            rows = HalfRows(batch, size, even=bool(objective.gradient_strength))
            batch, draws = rows.batch, _ordered(draws, rows)
        tape = forward(self.linears, self.activations, batch.X, draws.masks)
        loss, G = _LOSSES[objective.loss](
            tape.outputs, batch.y, batch.sample_weight, objective.label_smoothing
        )
        penalties = self._penalties(tape, G, batch, draws, rows)
        total, mgs = loss, None
        for penalty in penalties:
            total = total + penalty.value
            if isinstance(penalty, KernelPenalty):
                mgs = penalty.value
            elif isinstance(penalty, LossGradient):
                G = G + penalty.by_outputs
        self._backward(G, tape, penalties, rows, halves)
        outputs = tape.outputs if rows is None else rows.restored(tape.outputs)
        return Terms(loss, total, mgs, outputs)

    def _penalties(self, tape: Pass, G: Tensor, batch: Batch, draws: Draws, rows) -> list:
        """The terms besides the data loss, whose gradient with respect to the outputs is `G`."""
        objective, penalties = self.objective, []
        if self.weights is not None:
            n = min(batch.n_samples, objective.mgs_batch_size or batch.n_samples)
            blocks = [(slice(0, n), 1.0)] if rows is None else rows.blocks
            penalties.append(KernelPenalty(self, tape, batch, blocks, draws.directions))
        if objective.jacobian_strength:
            penalties.append(JacobianPenalty(self, tape, batch, draws.by_sample))
        if objective.gradient_strength:
            shares = [1.0] if rows is None else [share for _, share in rows.blocks]
            penalties.append(LossGradient(self, tape, G, batch, shares))
        return penalties

    def _backward(self, G: Tensor, tape: Pass, penalties, rows, halves) -> None:
        """Set every parameter's gradient from the outputs' adjoint, in halves where asked for."""
        for i in reversed(range(len(self.linears))):
            linear = self.linears[i]
            pairs = [(G, tape.inputs[i])]
            pairs += [penalty.pair(i) for penalty in penalties if i in penalty.U]
            if rows is None:
                linear.weight.grad = _sum_of_products(pairs)
            else:
                halves.append(rows.sums_of_products(pairs))
                first, second = halves[-1].unbind()
                linear.weight.grad = first + second
            linear.bias.grad = G.sum(0)
            if i:
                G = G @ linear.weight
                for penalty in penalties:
                    penalty.add_input_adjoint(G, i)
                G = G.mul_(tape.slopes[i - 1])
                for penalty in penalties:
                    penalty.add_slope_adjoint(G, i)


def _ordered(draws: Draws, rows: HalfRows) -> Draws:
    """What was drawn for the mini-batch, in the order of the rows."""
    return draws._replace(
        masks=[m if m is None else rows.ordered(m) for m in draws.masks],
        by_sample=None if draws.by_sample is None else rows.ordered(draws.by_sample),
    )


def _sum_of_products(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum of ``Gᵀ A`` over pairs."""
    (G, A), *others = pairs
    total = G.mT @ A
    for G, A in others:
        total.addmm_(G.flatten(0, -2).mT, A.flatten(0, -2))
    return total


def _watched(module: nn.Module) -> bool:
    """Whether somebody hooked into the module: hooks only see a real forward pass."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


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
