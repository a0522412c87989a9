"""MGS and input-Jacobian penalty of a multilayer perceptron, and adjoints, without autograd.

The recursions and their letters are those of `sklearn_mgs._closed_form`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_mgs._closed_form_pass import Pass
from sklearn_mgs._data import Batch
from sklearn_mgs._objective import mgs_targets
from sklearn_mgs.gram._outputs import directions
from sklearn_mgs.gram._reduce import divisor

__all__ = ["JacobianPenalty", "KernelPenalty", "Recursion"]


class Recursion:
    """The recursion of directions' gradients, and its reverse by the adjoints of their kernel.

    Subclasses set ``share``, which knows the adjoint of the kernel. Rows are samples or, where
    there are k directions for each, k rows for each sample.

    Attributes
    ----------
    D : list of Tensor of shape (n * k, out)
        Gradients of the directions with respect to each layer's outputs.
    U : dict of int to Tensor of shape (n * k, in)
        Adjoint of ``D_l W_l``, of each layer but the first, or relative gradients' of all.
    """

    def __init__(self, form, tape: Pass, n: int, relative: bool = False):
        self.linears, self.tape = form.linears, tape
        self.n, self.relative = n, relative
        self.A = tape.inputs if n == len(tape.outputs) else [A[:n] for A in tape.inputs]

    def _recursion(self, V: Tensor) -> None:
        """``D_{l-1} = (D_l W_l) ∘ φ'_l``, from directions of shape (n * k, C)."""
        self.k = len(V) // self.n
        self.slopes = self.tape.slopes
        if self.n < len(self.tape.outputs) or self.k > 1:
            self.slopes = [repeated(slope[: self.n], self.k) for slope in self.slopes]
        self.D, self.products = [V], {}
        for i in reversed(range(1, len(self.linears))):
            product = self.D[0] @ self.linears[i].weight
            if self.relative or self.tape.is_curved(i):  # the product is needed once more
                self.products[i] = product
                self.D.insert(0, product * self.slopes[i - 1])
            else:
                self.D.insert(0, product.mul_(self.slopes[i - 1]))
        if self.relative:
            self.products[0] = self.D[0] @ self.linears[0].weight

    def _adjoint(self) -> None:
        """``E_l`` and ``U_l``, from the first layer to the last."""
        self.E, self.U = {}, {}
        E = None
        for i in range(len(self.linears)):
            if i:
                if self.tape.is_curved(i):
                    self.E[i] = E
                    U = E * self.slopes[i - 1]
                else:
                    U = E.mul_(self.slopes[i - 1])
                self.U[i] = self.share.add_adjoint(U, i) if self.relative else U
            elif self.relative:
                self.U[0] = self.share.add_adjoint(None, 0)
            if i + 1 < len(self.linears):
                E = self._output_adjoint(i)

    def _output_adjoint(self, i: int) -> Tensor | None:
        """``E_i``, that of layer i's outputs."""
        E = self.U[i] @ self.linears[i].weight.mT if i in self.U else None
        return E if self.relative else self.share.add_adjoint(E, i)

    def pair(self, i: int) -> tuple[Tensor, Tensor]:
        """What layer i's weight has in its gradient, a sample's rows side by side."""
        D, U = self.D[i], self.U[i]
        if self.k == 1:
            return D, U
        return D.unflatten(0, (-1, self.k)), U.unflatten(0, (-1, self.k))

    def add_input_adjoint(self, G: Tensor, i: int) -> None:
        """Add the adjoint of layer i's inputs through its own share."""
        self.share.add_input_adjoint(G[: self.n], i)

    def add_slope_adjoint(self, G: Tensor, i: int) -> None:
        """Add the adjoint of the slopes below layer i, where they are not constant."""
        if self.tape.is_curved(i):
            by_slope = summed(self.E[i] * self.products[i], self.k)
            G[: self.n] += by_slope * self.tape.curvature(i, self.n)


class KernelPenalty(Recursion):
    """Value of ``mgs_strength · m(K)/m(K_init)`` and its adjoints.

    Parameters
    ----------
    form : ClosedForm
        Objective and network.
    tape : Pass
        The forward pass.
    batch : Batch
        The mini-batch.
    blocks : list of (slice, float or Tensor)
        Samples that make a kernel, the first ones in all, and what share it has.
    drawn : list of Tensor of shape (C,)
        The direction of each block, where it is random; else empty.

    Attributes
    ----------
    value : Tensor of shape ()
        The value.
    """

    def __init__(self, form, tape: Pass, batch: Batch, blocks, drawn: list[Tensor]):
        objective, n = form.objective, blocks[-1][0].stop
        super().__init__(form, tape, n, objective.penalty.relative)
        targets = mgs_targets(objective.loss, batch.y[:n])
        weight = None if batch.sample_weight is None else batch.sample_weight[:n]
        if drawn:
            sizes = [rows.stop - rows.start for rows, _ in blocks]
            V = torch.cat([v.expand(size, -1) for v, size in zip(drawn, sizes)])
        else:
            V = directions(tape.outputs[:n], objective.penalty.outputs, targets)
            V = V[0] if len(V) == 1 else V.transpose(0, 1).flatten(0, 1)
        self._recursion(V)
        gradients = [self.products[i] for i in range(len(self.D))] if self.relative else self.D
        share = _TraceShare if _is_plain_trace(objective.penalty) else _KernelShare
        self.share = share(self.A, gradients, form.weights, self.k)
        C = tape.outputs.shape[1]
        self.value = self.share.value(objective, targets, weight, C, blocks)
        self._adjoint()


class JacobianPenalty(Recursion):
    """Value of ``jacobian_strength · mean ‖vᵀ ∂f/∂x‖²``, v each sample's own, and its adjoints.

    Parameters
    ----------
    form, tape, batch
        As for `KernelPenalty`.
    V : Tensor of shape (n, C)
        The directions.

    Attributes
    ----------
    value : Tensor of shape ()
        The value.
    """

    def __init__(self, form, tape: Pass, batch: Batch, V: Tensor):
        super().__init__(form, tape, len(V), relative=True)
        self._recursion(V)
        mean = _weights_of_mean(V, batch.sample_weight, [(slice(0, len(V)), 1.0)])
        by_square = 2 * form.objective.jacobian_strength * mean
        self.share = _InputShare(self.products[0], by_square)
        self.value = self.share.value() / 2
        self._adjoint()


class _InputShare:
    """The first layer's inputs alone have a share: the squares of their gradients' norms."""

    def __init__(self, gradients: Tensor, by_square: Tensor | float):
        self.gradients = gradients
        self.by_square = by_square[:, None] if isinstance(by_square, Tensor) else by_square

    def value(self) -> Tensor:
        """Twice the value."""
        squares = _squared_norms(self.gradients)
        if isinstance(self.by_square, Tensor):
            return torch.dot(squares, self.by_square[:, 0])
        return self.by_square * squares.sum()

    def add_adjoint(self, E: Tensor | None, i: int) -> Tensor:
        return self.by_square * self.gradients if E is None else E

    def add_input_adjoint(self, G: Tensor, i: int) -> None:
        """There is none: the gradients do not depend on a layer's inputs but by the slopes."""


def repeated(rows: Tensor, k: int) -> Tensor:
    """Each row k times."""
    return rows if k == 1 else rows.repeat_interleave(k, 0)


def summed(rows: Tensor, k: int) -> Tensor:
    """Sums of k rows each."""
    return rows if k == 1 else rows.unflatten(0, (-1, k)).sum(1)


class _TraceShare:
    """Shares of the layers where S is diagonal: row norms do."""

    def __init__(self, A, D, omega, k: int):
        self.A, self.D, self.omega, self.k = A, D, omega, k

    def value(self, objective, targets, weight, n_outputs, blocks) -> Tensor:
        """The value; what it changes by with each ``‖d‖²`` and ``‖a‖²`` is kept, twice."""
        mean = _weights_of_mean(self.A[0], weight, blocks)
        twice = 2 * objective.mgs_strength / objective.penalty.scale_ * mean
        value = torch.zeros_like(objective.penalty.scale_)
        self.by_d, self.by_a = {}, {}
        for i, omega in enumerate(self.omega):
            if omega is not None:
                share, d2 = omega * twice, summed(_squared_norms(self.D[i]), self.k)
                self.by_d[i] = _squared_norms(self.A[i]).add_(1).mul_(share)
                self.by_a[i] = share * d2
                value += torch.dot(self.by_d[i], d2)
        return value / 2

    def add_adjoint(self, E: Tensor | None, i: int) -> Tensor:
        """Add the adjoint of D_i through the layer's share."""
        if self.omega[i] is None:
            return torch.zeros_like(self.D[i]) if E is None else E
        factor = repeated(self.by_d[i], self.k)[:, None]
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

    def __init__(self, A, D, omega, k: int):
        self.A, self.omega = A, omega
        self.units = [d.shape[1] for d in D]
        self.D = [d.reshape(len(d) // k, -1) for d in D]  # a sample's k rows are one
        self.AA = [None if w is None else (a @ a.mT).add_(1) for a, w in zip(A, omega)]
        self.DD = [None if w is None else d @ d.mT for d, w in zip(self.D, omega)]

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
        D = self.D[i]
        if self.omega[i] is None:
            return torch.zeros_like(D).view(-1, self.units[i]) if E is None else E
        mix = (self.omega[i] * self.S) * self.AA[i]
        E = mix @ D if E is None else E.view_as(D).addmm_(mix, D)
        return E.view(-1, self.units[i])

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
    inverse = m * torch.cholesky_inverse(L)  # the inverse alone may overflow where K is zero
    return m, (inverse + (jitter * inverse.diagonal().mean()) * eye) / n


def _is_plain_trace(penalty) -> bool:
    return penalty.metric == "trace" and penalty.centered is False
