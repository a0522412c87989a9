"""The MGS penalty of a multilayer perceptron and its adjoints, without autograd.

The recursions and their letters are those of `sklearn_mgs._closed_form`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_mgs._data import Batch
from sklearn_mgs._objective import mgs_targets
from sklearn_mgs.gram._outputs import directions
from sklearn_mgs.gram._reduce import divisor

__all__ = ["KernelPenalty", "Recursion"]


class Recursion:
    """The recursion of a direction's gradients, and its reverse by the adjoints of their kernel.

    Subclasses set ``share``, which knows the adjoint of the kernel.

    Attributes
    ----------
    D : list of Tensor of shape (n, out)
        Gradients of the direction with respect to each layer's outputs.
    U : dict of int to Tensor of shape (n, in)
        Adjoint of ``D_l W_l``, of each layer but the first, or relative gradients' of all.
    """

    def __init__(self, form, inputs, slopes, n: int, relative: bool = False):
        self.linears, self.activations = form.linears, form.activations
        self.n, self.relative = n, relative
        self.A = [A[:n] for A in inputs]
        self.slopes = dict(enumerate((slope[:n] for slope in slopes), 1))

    def _recursion(self, V: Tensor) -> None:
        """``D_{l-1} = (D_l W_l) ∘ φ'_l``."""
        self.D, self.products = [V], {}
        for i in reversed(range(1, len(self.linears))):
            product = self.D[0] @ self.linears[i].weight
            if self.activations[i - 1].curvature is None and not self.relative:
                self.D.insert(0, product.mul_(self.slopes[i]))
            else:  # the product is needed once more
                self.products[i] = product
                self.D.insert(0, product * self.slopes[i])

    def _adjoint(self) -> None:
        """``E_l`` and ``U_l``, from the first layer to the last."""
        self.E, self.U = {}, {}
        E = None
        for i in range(len(self.linears)):
            if i:
                if self.activations[i - 1].curvature is None:
                    U = E.mul_(self.slopes[i])
                else:
                    self.E[i] = E
                    U = E * self.slopes[i]
                self.U[i] = self.share.add_adjoint(U, i) if self.relative else U
            elif self.relative:
                self.U[0] = self.share.add_adjoint(None, 0)
            if i + 1 < len(self.linears):
                E = self._output_adjoint(i)

    def _output_adjoint(self, i: int) -> Tensor | None:
        """``E_i``, that of layer i's outputs."""
        E = self.U[i] @ self.linears[i].weight.mT if i in self.U else None
        return E if self.relative else self.share.add_adjoint(E, i)

    def add_input_adjoint(self, G: Tensor, i: int) -> None:
        """Add the adjoint of layer i's inputs through its own share."""
        self.share.add_input_adjoint(G[: self.n], i)

    def add_slope_adjoint(self, G: Tensor, i: int) -> None:
        """Add the adjoint of the slopes below layer i, where they are not constant."""
        curvature = self.activations[i - 1].curvature
        if curvature is not None:
            G[: self.n] += self.E[i] * self.products[i] * curvature(self.A[i])


class KernelPenalty(Recursion):
    """Value of ``mgs_strength · m(K)/m(K_init)`` and its adjoints.

    Attributes
    ----------
    value : Tensor of shape ()
        The value.
    """

    def __init__(self, form, inputs, slopes, outputs, batch: Batch, n: int, blocks):
        objective = form.objective
        super().__init__(form, inputs, slopes, n, objective.penalty.relative)
        targets = mgs_targets(objective.loss, batch.y[:n])
        weight = None if batch.sample_weight is None else batch.sample_weight[:n]
        self._recursion(directions(outputs[:n], objective.penalty.outputs, targets)[0])
        share = _TraceShare if _is_plain_trace(objective.penalty) else _KernelShare
        gradients = self.D
        if self.relative:
            self.products[0] = self.D[0] @ self.linears[0].weight
            gradients = [self.products[i] for i in range(len(self.D))]
        self.share = share(self.A, gradients, form.weights)
        self.value = self.share.value(objective, targets, weight, outputs.shape[1], blocks)
        self._adjoint()


class _TraceShare:
    """Shares of the layers where S is diagonal: row norms do."""

    def __init__(self, A, D, omega):
        self.A, self.D, self.omega = A, D, omega

    def value(self, objective, targets, weight, n_outputs, blocks) -> Tensor:
        """The value; what it changes by with each ``‖d‖²`` and ``‖a‖²`` is kept, twice."""
        mean = _weights_of_mean(self.A[0], weight, blocks)
        twice = 2 * objective.mgs_strength / objective.penalty.scale_ * mean
        value = torch.zeros_like(objective.penalty.scale_)
        self.by_d, self.by_a = {}, {}
        for i, omega in enumerate(self.omega):
            if omega is not None:
                share, d2 = omega * twice, _squared_norms(self.D[i])
                self.by_d[i] = _squared_norms(self.A[i]).add_(1).mul_(share)
                self.by_a[i] = share * d2
                value += torch.dot(self.by_d[i], d2)
        return value / 2

    def add_adjoint(self, E: Tensor | None, i: int) -> Tensor:
        """Add the adjoint of D_i through the layer's share."""
        if self.omega[i] is None:
            return torch.zeros_like(self.D[i]) if E is None else E
        factor = self.by_d[i][:, None]
        return self.D[i] * factor if E is None else E.addcmul_(self.D[i], factor)

    def add_input_adjoint(self, G: Tensor, i: int) -> None:
        if self.omega[i] is not None:
            G.addcmul_(self.A[i], self.by_a[i][:, None])


def _weights_of_mean(like: Tensor, weight: Tensor | None, blocks) -> Tensor | float:
    """What samples weigh in the blocks' (weighted) means, themselves weighted by their shares."""
    if weight is not None:
        return torch.cat(
            [weight[rows] * (share / divisor(weight[rows])) for rows, share in blocks]
        )
    each = [share / (rows.stop - rows.start) for rows, share in blocks]
    if len({*each}) == 1:
        return each[0]
    return torch.cat([like.new_full((r.stop - r.start,), x) for (r, _), x in zip(blocks, each)])


def _squared_norms(rows: Tensor) -> Tensor:
    """Of each row; in one pass, which `vecdot` does not make of it."""
    return torch.linalg.vector_norm(rows, dim=-1).square_()


class _KernelShare:
    """Shares of the layers for any metric of the kernel, by its adjoint."""

    def __init__(self, A, D, omega):
        self.A, self.D, self.omega = A, D, omega
        self.AA = [(a @ a.mT).add_(1) for a in A]
        self.DD = [d @ d.mT for d in D]

    def value(self, objective, targets, weight, n_outputs, blocks) -> Tensor:
        """The value; its adjoint, twice over, is kept in ``S``."""
        penalty = objective.penalty
        shares = zip(self.omega, self.AA, self.DD)
        K = sum(w * AA * DD for w, AA, DD in shares if w is not None)
        value, self.S = 0.0, torch.zeros_like(K)
        for rows, share in blocks:
            y, w = (None if t is None else t[rows] for t in (targets, weight))
            m, S = _value_and_adjoint(penalty, K[rows, rows], y, w, max(2, n_outputs))
            value = value + share * objective.mgs_strength * m
            self.S[rows, rows] = (share * objective.mgs_strength) * (S + S.mT)
        return value

    def add_adjoint(self, E: Tensor | None, i: int) -> Tensor:
        """Add the adjoint of D_i through the layer's share."""
        if self.omega[i] is None:
            return torch.zeros_like(self.D[i]) if E is None else E
        mix = (self.omega[i] * self.S) * self.AA[i]
        return mix @ self.D[i] if E is None else E.addmm_(mix, self.D[i])

    def add_input_adjoint(self, G: Tensor, i: int) -> None:
        if self.omega[i] is not None:
            G.addmm_((self.omega[i] * self.S) * self.DD[i], self.A[i])


def _value_and_adjoint(penalty, K: Tensor, targets, weight, n_classes: int):
    """The penalty of a kernel, and its gradient in the kernel."""
    if penalty.metric == "det" and penalty.centered is False and weight is None:
        m, S = _det_and_adjoint(K, penalty.jitter)
        return m / penalty.scale_, S / penalty.scale_
    with torch.enable_grad():
        K = K.detach().requires_grad_()
        m = penalty.from_kernel(K, targets, weight, n_classes)
        return m.detach(), *torch.autograd.grad(m, K)


def _det_and_adjoint(K: Tensor, jitter: float) -> tuple[Tensor, Tensor]:
    """Metric "det", ``m = det(M)^(1/n)`` with ``M = K + δ I`` and ``δ = ε tr(K)/n``; its adjoint.

    The adjoint is ``(m/n) (M⁻¹ + (ε/n) tr(M⁻¹) I)``.
    """
    n = len(K)
    shift = jitter * K.diagonal().mean() + torch.finfo(K.dtype).tiny
    eye = torch.eye(n, dtype=K.dtype, device=K.device)
    L, _ = torch.linalg.cholesky_ex(K + shift * eye, check_errors=False)
    m = (2 * L.diagonal().log().mean()).exp()
    inverse = torch.cholesky_inverse(L)
    return m, (m / n) * (inverse + (jitter * inverse.diagonal().mean()) * eye)


def _is_plain_trace(penalty) -> bool:
    return penalty.metric == "trace" and penalty.centered is False
