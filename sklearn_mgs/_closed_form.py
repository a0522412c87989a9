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

from sklearn_mgs._data import Batch
from sklearn_mgs._half_rows import HalfRows
from sklearn_mgs._module import MLP
from sklearn_mgs._objective import Objective, Terms, mgs_targets
from sklearn_mgs.gram._outputs import directions
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
        """Whether this is the objective's gradient: no other terms, dropout, hooks or modules."""
        if objective.jacobian_strength or objective.gradient_strength:
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
        rows, size = None, self.objective.mgs_batch_size
        n = batch.n_samples if size is None else min(batch.n_samples, size)
        blocks = [(slice(0, n), 1.0)]
        if halves is not None:
            rows = HalfRows(batch, size if self.weights is not None else None)
            batch, n, blocks = rows.batch, rows.n_kernel, rows.blocks
        X = batch.X
        if self.objective.input_noise:
            X = X + self.objective.input_noise * torch.randn_like(X)
        inputs, outputs = self._forward(X)
        loss, G = _LOSSES[self.objective.loss](
            outputs, batch.y, batch.sample_weight, self.objective.label_smoothing
        )
        slopes = [a.slope(A) for a, A in zip(self.activations, inputs[1:])]
        penalty = None
        if self.weights is not None:
            penalty = _Penalty(self, inputs, slopes, outputs, batch, n, blocks)
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
        value = None if penalty is None else penalty.value
        outputs = outputs if rows is None else rows.restored(outputs)
        return Terms(loss, loss if value is None else loss + value, value, outputs)

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


class _Penalty:
    """Value of ``mgs_strength · m(K)/m(K_init)`` and its adjoints.

    Attributes
    ----------
    value : Tensor of shape ()
        The value.
    D : list of Tensor of shape (n, out)
        Gradients of the direction with respect to each layer's outputs.
    U : dict of int to Tensor of shape (n, in)
        Adjoint of ``D_l W_l``, of each layer but the first, or relative gradients' of all.
    """

    def __init__(self, form: ClosedForm, inputs, slopes, outputs, batch: Batch, n: int, blocks):
        objective = form.objective
        self.n, self.omega, self.relative = n, form.weights, objective.penalty.relative
        self.A = [A[:n] for A in inputs]
        self.slopes = dict(enumerate((slope[:n] for slope in slopes), 1))
        self.activations = form.activations
        targets = mgs_targets(objective.loss, batch.y[:n])
        weight = None if batch.sample_weight is None else batch.sample_weight[:n]
        V = directions(outputs[:n], objective.penalty.outputs, targets)[0]
        self._recursion(form.linears, V)
        share = _TraceShare if _is_plain_trace(objective.penalty) else _KernelShare
        gradients = self.D
        if self.relative:
            self.products[0] = self.D[0] @ form.linears[0].weight
            gradients = [self.products[i] for i in range(len(self.D))]
        self.share = share(self.A, gradients, self.omega)
        self.value = self.share.value(objective, targets, weight, outputs.shape[1], blocks)
        self._adjoint(form.linears)

    def _recursion(self, linears, V: Tensor) -> None:
        """``D_{l-1} = (D_l W_l) ∘ φ'_l``."""
        self.D, self.products = [V], {}
        for i in reversed(range(1, len(linears))):
            product = self.D[0] @ linears[i].weight
            if self.activations[i - 1].curvature is None and not self.relative:
                self.D.insert(0, product.mul_(self.slopes[i]))
            else:  # the product is needed once more
                self.products[i] = product
                self.D.insert(0, product * self.slopes[i])

    def _adjoint(self, linears) -> None:
        """``E_l`` and ``U_l``, from the first layer to the last."""
        self.E, self.U = {}, {}
        E = None
        for i, linear in enumerate(linears):
            if i:
                if self.activations[i - 1].curvature is None:
                    U = E.mul_(self.slopes[i])
                else:
                    self.E[i] = E
                    U = E * self.slopes[i]
                self.U[i] = self.share.add_adjoint(U, i) if self.relative else U
            elif self.relative:
                self.U[0] = self.share.add_adjoint(None, 0)
            if i + 1 < len(linears):
                E = self.U[i] @ linear.weight.mT if i in self.U else None
                E = E if self.relative else self.share.add_adjoint(E, i)

    def add_input_adjoint(self, G: Tensor, i: int) -> None:
        """Add the adjoint of layer i's inputs through its own share."""
        self.share.add_input_adjoint(G[: self.n], i)

    def add_slope_adjoint(self, G: Tensor, i: int) -> None:
        """Add the adjoint of the slopes below layer i, where they are not constant."""
        curvature = self.activations[i - 1].curvature
        if curvature is not None:
            G[: self.n] += self.E[i] * self.products[i] * curvature(self.A[i])


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
