"""The gradient of data loss and trace penalty in closed form: faster than autograd.

With ``A_l`` the inputs of layer l and ``D_l`` the output gradients of the kernel's directions,
layer l's share of the trace is ``Σ_i r_i (‖a_i‖² + 1) ‖d_i‖²``. Two recursions are reversed:
that of ``D`` from the first layer to the last, which gives ``U`` (the adjoint of ``D W``), and
the forward pass from the last layer to the first:

    ∂/∂W_l = A_lᵀ G_l + U_lᵀ D_l,    G_{l-1} = (G_l W_lᵀ + 2 r ‖d‖² A_l) ∘ φ' + (adjoint of φ').
"""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_mgs.search._batched_data import BatchedBatch
from sklearn_mgs.search._batched_losses import LOSSES
from sklearn_mgs.search._batched_net import BatchedMLP, Pass, times
from sklearn_mgs.search._batched_objective import BatchedObjective, Terms

__all__ = ["covers", "explicit_gradients"]


def covers(objective: BatchedObjective, net: BatchedMLP) -> bool:
    """Whether the closed form is that of this objective."""
    if objective.jacobian_strength or objective.gradient_strength:
        return False
    penalty = objective.penalty
    if penalty is None:
        return True
    return penalty.is_plain_trace and not (net.dropout and penalty.size is not None)


def explicit_gradients(
    objective: BatchedObjective, net: BatchedMLP, batch: BatchedBatch, generator
) -> Terms:
    """Do what `BatchedObjective.gradients` does, for the objectives that `covers` names."""
    tape = net.forward(objective.inputs(batch, generator), generator)
    targets, shares = objective.targets(tape.output, batch), batch.shares()
    losses, residual = LOSSES[objective.loss](tape.output, targets)
    data_loss = (losses.unsqueeze(2) * shares).sum((1, 2))
    G = residual * shares
    trace = None
    if objective.penalty is not None:
        trace = _Trace(objective, net, tape, batch, targets, generator)
    _backward(net, tape, G, trace)
    return Terms(data_loss, None if trace is None else trace.value)


def _backward(net: BatchedMLP, tape: Pass, G: Tensor, trace: _Trace | None) -> None:
    """Write the gradients of weights and biases from that of the outputs, G (M, n, C)."""
    weights, L = net.weights, len(net.weights)
    for layer in reversed(range(L)):
        dW = torch.bmm(tape.inputs[layer].mT, G, out=net.gradients.parts[layer])
        if trace is not None and layer:
            dW.baddbmm_(trace.U[layer].mT, trace.D[layer])
        torch.sum(G, 1, keepdim=True, out=net.gradients.parts[L + layer])
        if layer:
            G = torch.bmm(G, weights[layer].mT)
            if trace is not None:
                trace.add_input_gradient(G, layer)
            G = times(G, tape.slopes[layer - 1], overwrite=True)
            if trace is not None:
                trace.add_curvature(G, layer - 1)


class _Trace:
    """The penalty and its adjoints.

    Attributes
    ----------
    value : Tensor of shape (M,)
        The penalty.
    D : list of Tensor of shape (M, n * k, out)
        Output gradients.
    U : dict of int to Tensor of shape (M, n * k, in)
        Adjoint of ``D W`` of each layer but the first.
    """

    def __init__(self, objective, net: BatchedMLP, tape: Pass, batch, targets, generator):
        penalty = objective.penalty
        self.n = min(batch.n_samples, penalty.size or batch.n_samples)
        if self.n < batch.n_samples:
            batch, tape = batch.part(slice(0, self.n)), tape.first(self.n)
        if objective.classes_are_targets:
            V = targets[:, : self.n].unsqueeze(2)
        else:
            V = objective.directions(tape.output, batch, generator)
        self.k = V.shape[2]
        self.tape = tape
        self.D, self.unsloped = net.output_gradients(tape, V)
        rows = penalty.twice_strength * batch.shares()  # (M, n or 1, 1)
        self.rows = [
            None if w is None else rows * w if isinstance(w, Tensor) else rows
            for w in penalty.layer_weights
        ]
        self._squares()
        self._adjoint(net)

    def _squares(self):
        """Squared norms of the factors, and the value."""
        D = self.D
        if self.k > 1:
            D = [d.unflatten(1, (self.n, self.k)).flatten(2) for d in D]
        self.d2 = [_squared_norms(d) for d in D]
        self.a2 = [_squared_norms(A).add_(1) for A in self.tape.inputs]
        self.factors = [None if r is None else r * a2 for r, a2 in zip(self.rows, self.a2)]
        shares = [f * d2 for f, d2 in zip(self.factors, self.d2) if f is not None]
        self.value = sum(shares[1:], start=shares[0]).sum((1, 2)) / 2

    def _adjoint(self, net: BatchedMLP):
        """Reverse the recursion of D."""
        self.U: dict[int, Tensor] = {}
        self.curvature: dict[int, Tensor] = {}
        E = None
        for layer in range(len(self.D) - 1):
            E = self._add_own(E, layer)
            slope, curvature = self.tape.slopes[layer], self.tape.curvatures[layer]
            if curvature is not None:
                product = (E * self.unsloped[layer]).unflatten(1, (self.n, self.k)).sum(2)
                self.curvature[layer] = product * curvature
            self.U[layer + 1] = times(E, slope, self.k, overwrite=True)
            if layer + 2 < len(self.D):
                E = torch.bmm(self.U[layer + 1], net.weights[layer + 1])

    def _add_own(self, E: Tensor | None, layer: int) -> Tensor:
        """Add the adjoint of D through the layer's own share, 2 r (‖a‖² + 1) D."""
        factor = self.factors[layer]
        if factor is None:
            return torch.zeros_like(self.D[layer]) if E is None else E
        if self.k > 1:
            factor = factor.repeat_interleave(self.k, 1)
        return self.D[layer] * factor if E is None else E.addcmul_(self.D[layer], factor)

    def add_input_gradient(self, G: Tensor, layer: int) -> None:
        """Add 2 r ‖d‖² A, the adjoint of the inputs of a layer through its share."""
        if self.rows[layer] is not None:
            factor = self.rows[layer] * self.d2[layer]
            G[:, : self.n].addcmul_(self.tape.inputs[layer], factor)

    def add_curvature(self, G: Tensor, layer: int) -> None:
        """Add the adjoint of the slopes, where they are not constant."""
        if layer in self.curvature:
            G[:, : self.n] += self.curvature[layer]


def _squared_norms(A: Tensor) -> Tensor:
    """Squared norm of each row, shape (M, n, 1); (1, n, 1) where all models have one `A`."""
    A = A[:1] if A.stride(0) == 0 else A
    return torch.linalg.vector_norm(A, dim=2, keepdim=True).square_()
