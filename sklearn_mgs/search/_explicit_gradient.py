"""The gradient of data loss and trace penalty in closed form: faster than autograd.

With ``A_l`` the inputs of layer l and ``D_l`` the output gradients of the kernel's directions, a
column for each sample, layer l's share of the trace is ``Σ_i r_i (‖a_i‖² + 1) ‖d_i‖²``. Two
recursions are reversed: that of ``D`` from the first layer to the last, which gives ``U`` (half
the adjoint of ``Wᵀ D``), and the forward pass from the last layer to the first:

    ∂/∂W_l = G_l A_lᵀ + 2 D_l U_lᵀ,    G_{l-1} = (W_lᵀ G_l + 2 A_l r ‖d‖²) ∘ φ' + (adjoint of φ').
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
    X = objective.inputs(batch, generator)
    out = net.buffers("inputs", len(batch.fold_of), *X.shape[1:])
    tape = net.forward(batch.of_models(X, out), generator)
    targets, shares = objective.targets(tape.output, batch), batch.shares()
    losses, residual = LOSSES[objective.loss](tape.output, targets)
    data_loss = losses.mul_(shares).sum((1, 2))
    G = residual.mul_(shares)
    trace = None
    if objective.penalty is not None:
        batch = batch._replace(X=X)
        trace = _Trace(objective, net, tape, batch, targets, generator)
    _backward(net, tape, G, trace)
    return Terms(data_loss, None if trace is None else trace.value)


def _backward(net: BatchedMLP, tape: Pass, G: Tensor, trace: _Trace | None) -> None:
    """Write the gradients of weights and biases from that of the outputs, G (M, C, n)."""
    weights, L = net.weights, len(net.weights)
    for layer in reversed(range(L)):
        dW = torch.bmm(G, tape.inputs[layer].mT, out=net.gradients.parts[layer])
        if trace is not None and layer in trace.U:
            dW.baddbmm_(trace.D[layer], trace.U[layer].mT, alpha=2)
        torch.sum(G, 2, keepdim=True, out=net.gradients.parts[L + layer])
        if layer:
            W = weights[layer].mT
            out = net.buffers(f"gradient{layer % 2}", *W.shape[:2], G.shape[2])
            G = torch.bmm(W, G, out=out)
            if trace is not None:
                trace.add_input_gradient(G, layer)
            G = times(G, tape.slopes[layer - 1], out=G)
            if trace is not None:
                trace.add_curvature(G, layer - 1)


class _Trace:
    """The penalty and its adjoints.

    Attributes
    ----------
    value : Tensor of shape (M,)
        The penalty.
    D : list of Tensor of shape (M, out, k * n)
        Output gradients; those of the first layer are overwritten.
    U : dict of int to Tensor of shape (M, in, k * n)
        Half the adjoint of ``Wᵀ D`` of each layer but the first, or relative gradients' of all.
    """

    def __init__(self, objective, net: BatchedMLP, tape: Pass, batch, targets, generator):
        penalty, self.buffers = objective.penalty, net.buffers
        self.n = min(batch.n_samples, penalty.size or batch.n_samples)
        if self.n < batch.n_samples:
            batch, tape = batch.part(slice(0, self.n)), tape.first(self.n)
        if objective.classes_are_targets:
            V = self._first(targets).unsqueeze(2)
        else:
            V = objective.directions(tape.output, batch, generator)
        self.k = V.shape[2]
        self.tape = tape
        self.relative = penalty.penalty.relative
        self.D, self.unsloped = net.output_gradients(tape, V, overwrite=not self.relative)
        self.factors = net.relative_gradients(self.D, self.unsloped) if self.relative else self.D
        self._squares(penalty.strengths * batch.shares(), batch)
        self._adjoint(net)

    def _first(self, A: Tensor) -> Tensor:
        """Columns of the samples that the kernel is of."""
        return A if self.n == A.shape[2] else A[:, :, : self.n]

    def _squares(self, r: Tensor, batch: BatchedBatch) -> None:
        """The value, and the factors of its adjoints; all layers' at once."""
        x2 = batch.of_models(batch.X.square().sum(2).unsqueeze(1))
        a2 = torch.cat([x2, *map(self._squared_norms, self.tape.inputs[1:])], 1)
        d2 = torch.cat([self._squared_norms(D, self.k) for D in self.factors], 1)
        self.output_factors = torch.addcmul(r, r, a2)  # r (‖a‖² + 1)
        self.input_factors = d2 * r
        self.value = (self.output_factors * d2).sum((1, 2))

    def _squared_norms(self, A: Tensor, k: int = 1) -> Tensor:
        """Of each sample, shape (M, 1, n)."""
        squares = torch.mul(A, A, out=self.buffers("gradient0", *A.shape))
        if k > 1:
            squares = squares.unflatten(2, (k, -1)).sum(2)
        return squares.sum(1, keepdim=True)

    def _adjoint(self, net: BatchedMLP):
        """Reverse the recursion of D."""
        self.U: dict[int, Tensor] = {}
        self.curvature: dict[int, Tensor] = {}
        E = None
        for layer, W in enumerate(net.weights):
            if layer:
                self._add_slope_adjoint(E, layer - 1)
                if layer > 1 or self.relative or not net.slopes_are_masks:
                    E = times(E, self.tape.slopes[layer - 1], self.k, out=E)
            if layer or self.relative:
                self.U[layer] = self._add_own(E, layer) if self.relative else E
            if layer + 1 == len(net.weights):
                return
            if layer in self.U:
                U = self.U[layer]
                out = self.buffers(f"adjoint{layer}", *W.shape[:2], U.shape[2])
                E = torch.bmm(W, U, out=out)
            if not self.relative:
                E = self._add_own(E, layer)

    def _add_slope_adjoint(self, E: Tensor, layer: int) -> None:
        """Keep half the adjoint of the slopes above `layer`, where they are not constant."""
        curvature = self.tape.curvatures[layer]
        if curvature is not None:
            product = self.unsloped[layer]
            product = torch.mul(E, product, out=None if self.relative else product)
            product = product if self.k == 1 else product.unflatten(2, (self.k, -1)).sum(2)
            self.curvature[layer] = times(product, curvature, out=product)

    def _add_own(self, E: Tensor | None, layer: int) -> Tensor:
        """Add half the adjoint of D through the layer's own share, r (‖a‖² + 1) D."""
        factor, D = self.output_factors[:, layer : layer + 1], self.factors[layer]
        factor = factor if self.k == 1 else factor.repeat(1, 1, self.k)
        # The first layer's is not needed again.
        return D.mul_(factor) if E is None else E.addcmul_(D, factor)

    def add_input_gradient(self, G: Tensor, layer: int) -> None:
        """Add 2 r ‖d‖² A, the adjoint of the inputs of a layer through its share."""
        factor = self.input_factors[:, layer : layer + 1]
        self._first(G).addcmul_(self.tape.inputs[layer], factor, value=2)

    def add_curvature(self, G: Tensor, layer: int) -> None:
        """Add the adjoint of the slopes, where they are not constant."""
        if layer in self.curvature:
            self._first(G).add_(self.curvature[layer], alpha=2)
