"""The squared norm of the loss's gradient, for a multilayer perceptron, without autograd.

Of a mean loss L over samples, ``‖∇L‖²`` is the sum of the kernel of `sklearn_mgs._closed_form`
whose direction is ``G``, the gradient of L with respect to the outputs: S is constant. The
adjoints are those written there, and as this direction depends on the outputs, the loss's Hessian
takes its adjoint back to them. What comes out is Pearlmutter's product of Hessian and gradient:
``E_l`` is the derivative of layer l's outputs along the gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_mgs._closed_form_pass import Pass
from sklearn_mgs._closed_form_penalty import Recursion
from sklearn_mgs._data import Batch
from sklearn_mgs.gram._reduce import divisor

__all__ = ["LossGradient"]


class LossGradient(Recursion):
    """Value of ``gradient_strength · Σ_b s_b ‖∇L_b‖²`` over blocks of samples, and its adjoints.

    A block's loss ``L_b`` is a mean, and ``s_b`` its share in the mini-batch's. The block has the
    direction ``V = √(2 · gradient_strength / s_b) G``: the value is half the kernel's sum.

    Parameters
    ----------
    form : ClosedForm
        Objective and network.
    tape : Pass
        The forward pass.
    G : Tensor of shape (n, C)
        The gradient of the mini-batch's loss with respect to the outputs.
    batch : Batch
        The mini-batch.
    shares : list of float or Tensor
        Shares of the blocks, which have as many rows each.

    Attributes
    ----------
    value : Tensor of shape ()
        The value.
    by_outputs : Tensor of shape (n, C)
        Adjoint of the outputs through the direction.
    """

    def __init__(self, form, tape: Pass, G: Tensor, batch: Batch, shares):
        super().__init__(form, tape, len(G))
        scale = _scale(2 * form.objective.gradient_strength, shares, G)
        self._recursion(scale * G)
        self.share = _SumShare(self.A, self.D, len(shares))
        self._adjoint()
        E = self._output_adjoint(len(self.linears) - 1)
        self.value = torch.dot(self.D[-1].flatten(), E.flatten()) / 2
        product = _HESSIANS[form.objective.loss](tape.outputs, E)
        self.by_outputs = product * (scale * _weights(G, batch.sample_weight))


class _SumShare:
    """Shares of the layers where S is one half within blocks, and zero elsewhere.

    Adjoints are ``(A Aᵀ + 1) D`` and ``(D Dᵀ) A`` or, of many rows, ``A Vᵀ + Σ d`` and ``D V``
    with the gradient ``V = Dᵀ A``.
    """

    def __init__(self, A, D, n_blocks: int):
        self.A, self.D = ([t.view(n_blocks, -1, t.shape[1]) for t in each] for each in (A, D))
        self.V = {}

    def add_adjoint(self, E: Tensor | None, i: int) -> Tensor:
        """Add the adjoint of D_i through the layer's share."""
        A, D = self.A[i], self.D[i]
        E = torch.zeros_like(D) if E is None else E.view_as(D)
        if self._few_rows(i):
            E.baddbmm_(torch.bmm(A, A.mT).add_(1), D)
        else:
            self.V[i] = torch.bmm(D.mT, A)
            E.baddbmm_(A, self.V[i].mT).add_(D.sum(1, keepdim=True))
        return E.flatten(0, 1)

    def add_input_adjoint(self, G: Tensor, i: int) -> None:
        A, D = self.A[i], self.D[i]
        if self._few_rows(i):
            G.view_as(A).baddbmm_(torch.bmm(D, D.mT), A)
        else:
            G.view_as(A).baddbmm_(D, self.V[i])

    def _few_rows(self, i: int) -> bool:
        """Whether two products of rows by rows take less than three of the weights' shape."""
        (_, n, fan_in), fan_out = self.A[i].shape, self.D[i].shape[2]
        return 2 * n * (fan_in + fan_out) < 3 * fan_in * fan_out


def _scale(twice: float, shares, G: Tensor) -> float | Tensor:
    """``√(2 · strength / s_b)``; of a block without any weight, whose G is zero, anything."""
    if not isinstance(shares[0], Tensor):
        if len({*shares}) == 1:
            return (twice / shares[0]) ** 0.5
        shares = [G.new_full((), share) for share in shares]
    each = torch.stack(shares)
    root = (twice / torch.where(each > 0, each, 1.0)).sqrt()
    return root.repeat_interleave(len(G) // len(shares))[:, None]


def _weights(like: Tensor, weight: Tensor | None) -> float | Tensor:
    """What samples weigh in a (weighted) mean, a column or a number."""
    return 1 / len(like) if weight is None else (weight / divisor(weight))[:, None]


def _log_loss(logits: Tensor, R: Tensor) -> Tensor:
    p = torch.softmax(logits, 1)
    pR = p * R
    return pR.addcmul_(p, pR.sum(1, keepdim=True), value=-1)


def _binary_log_loss(logits: Tensor, R: Tensor) -> Tensor:
    p = torch.sigmoid(logits)
    return R * p * (1 - p)


def _squared_error(outputs: Tensor, R: Tensor) -> Tensor:
    return R


def _poisson(outputs: Tensor, R: Tensor) -> Tensor:
    return R * outputs.exp()


_HESSIANS = {
    "log_loss": _log_loss,
    "binary_log_loss": _binary_log_loss,
    "squared_error": _squared_error,
    "poisson": _poisson,
}
"""Each loss's Hessian in the outputs times R (n, C); targets and smoothing don't change it."""
