"""The training objective of many models at once, and its gradient by autograd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_mgs._objective import mgs_targets
from sklearn_mgs.gram._outputs import directions
from sklearn_mgs.gram._shares import Factors
from sklearn_mgs.penalty import MGSPenalty
from sklearn_mgs.search._batched_data import BatchedBatch
from sklearn_mgs.search._batched_losses import LOSSES, target_matrix
from sklearn_mgs.search._batched_net import BatchedMLP, Pass

__all__ = ["BatchedObjective", "BatchedPenalty", "Terms"]


class Terms(NamedTuple):
    """Values of one step, before it; each of shape (M,)."""

    data_loss: Tensor
    mgs_penalty: Tensor | None


@dataclass
class BatchedPenalty:
    """The MGS penalty of M models.

    Parameters
    ----------
    penalty : MGSPenalty
        Says which metric, outputs and centring; any of the models' own.
    strength : Tensor of shape (M,)
        ``mgs_strength / m(K_init)`` of each model.
    layer_weights : Tensor of shape (M, n_layers)
        Weight of each layer in the kernel; 0 where it takes no part.
    size : int or None
        The first so many samples of a mini-batch make the kernel.

    Attributes
    ----------
    strengths : Tensor of shape (M, n_layers, 1)
        Strength with which each layer's part of the trace acts.
    """

    penalty: MGSPenalty
    strength: Tensor
    layer_weights: Tensor
    size: int | None

    def __post_init__(self):
        self.strengths = (self.strength[:, None] * self.layer_weights).unsqueeze(2)

    @property
    def is_plain_trace(self) -> bool:
        """Whether it is a weighted sum of squared norms."""
        return self.penalty.metric == "trace" and not self.penalty.centered

    def keep(self, rows: Tensor) -> None:
        """Go on with the models `rows` alone."""
        self.strength, self.layer_weights = self.strength[rows], self.layer_weights[rows]
        self.strengths = self.strengths[rows]

    def value(self, net: BatchedMLP, tape: Pass, V: Tensor, batch, targets) -> Tensor:
        """Strength times metric over its initial value, shape (M,), by the lone fit's formula."""
        k = V.shape[2]
        D, unsloped = net.output_gradients(tape, V)
        if self.penalty.relative:
            D = net.relative_gradients(D, unsloped)
        layers = [
            # A layer's share is quadratic in D.
            (A.mT, (d * w.sqrt()).unflatten(2, (k, -1)).permute(0, 3, 2, 1).flatten(2))
            for A, d, w in zip(tape.inputs, D, self.layer_weights.T[:, :, None, None])
        ]
        names = {str(i): 1.0 for i in range(len(layers))}
        metric = MGSPenalty(
            self.penalty.metric, centered=self.penalty.centered, jitter=self.penalty.jitter
        )
        metric.layer_weights_ = names

        def one(layers, output, targets, weight):
            factors = {name: [Factors(A, d)] for name, (A, d) in zip(names, layers)}
            return metric._value(factors, output, len(output), targets, weight)

        arguments = (layers, tape.output.mT, targets, batch.sample_weight)
        dims = tuple(None if a is None else 0 for a in arguments)
        return self.strength * torch.func.vmap(one, in_dims=dims)(*arguments)


@dataclass
class BatchedObjective:
    """Data loss plus penalties of M models, as `sklearn_mgs._objective.Objective` has them.

    Parameters
    ----------
    loss : str
        Name of the data loss.
    penalty : BatchedPenalty or None
        The MGS penalty.
    label_smoothing, input_noise, jacobian_strength, gradient_strength : float
        The other regularisers. Random numbers are drawn once for all models, in the order in
        which a lone fit draws them.
    """

    loss: str
    penalty: BatchedPenalty | None
    label_smoothing: float
    input_noise: float
    jacobian_strength: float
    gradient_strength: float

    def keep(self, rows: Tensor) -> None:
        """Go on with the models `rows` alone."""
        if self.penalty is not None:
            self.penalty.keep(rows)

    def inputs(self, batch: BatchedBatch, generator) -> Tensor:
        """The mini-batch's inputs (F, n, n_features), with noise."""
        if not self.input_noise:
            return batch.X
        noise = torch.randn(
            batch.X.shape[1:], dtype=batch.X.dtype, device=batch.X.device, generator=generator
        )
        return batch.X + self.input_noise * noise

    def targets(self, output: Tensor, batch: BatchedBatch) -> Tensor:
        """Targets of the data loss, shape (M, C, n)."""
        targets = target_matrix(self.loss, batch.y, output.detach(), self.label_smoothing)
        return batch.of_models(targets)

    @property
    def classes_are_targets(self) -> bool:
        """Whether the penalty's directions are what `targets` returns."""
        is_target = self.penalty.penalty.outputs == "target" and self.loss == "log_loss"
        return is_target and not self.label_smoothing

    def classes(self, batch: BatchedBatch) -> Tensor | None:
        """Class indices (M, n) where there are classes."""
        y = batch.of_models(batch.y)
        targets = mgs_targets(self.loss, y if y.ndim == 2 else y.flatten(0, 1))
        return None if targets is None else targets.view(y.shape[:2])

    def directions(self, output: Tensor, batch: BatchedBatch, generator) -> Tensor:
        """Directions of the kernel's gradients, shape (M, C, k, n)."""
        classes = self.classes(batch)
        classes = None if classes is None else classes.flatten()
        outputs = output.detach().mT
        V = directions(outputs.flatten(0, 1), self.penalty.penalty.outputs, classes, generator)
        return V.unflatten(1, outputs.shape[:2]).permute(1, 3, 0, 2)

    @torch.enable_grad()
    def gradients(self, net: BatchedMLP, batch: BatchedBatch, generator) -> Terms:
        """Terms of a step; its gradients are written to ``net.gradients``, by autograd."""
        parameters = [p.requires_grad_() for p in net.parameters.parts]
        X = batch.of_models(self.inputs(batch, generator))
        tape = net.forward(X, generator)
        each, _ = LOSSES[self.loss](tape.output, self.targets(tape.output, batch))
        total = data_loss = (each * batch.shares()).sum((1, 2))
        mgs = None
        if self.penalty is not None:
            mgs = self._mgs_penalty(net, X, tape, batch, generator)
            total = total + mgs
        if self.jacobian_strength:
            total = total + self.jacobian_strength * self._jacobian(net, tape, batch, generator)
        if self.gradient_strength:
            gradients = torch.autograd.grad(data_loss.sum(), parameters, create_graph=True)
            squares = sum(g.square().sum((1, 2)) for g in gradients)
            total = total + self.gradient_strength * squares
        gradients = torch.autograd.grad(total.sum(), parameters)
        for p in parameters:
            p.requires_grad_(False)
        with torch.no_grad():
            torch.cat([g.flatten() for g in gradients], out=net.gradients.memory)
        return Terms(data_loss.detach(), None if mgs is None else mgs.detach())

    def _mgs_penalty(self, net, X, tape, batch, generator):
        size = self.penalty.size
        if size is not None and size < batch.n_samples:
            batch = batch.part(slice(0, size))
            tape = net.forward(X[:, :size], generator)  # dropout draws anew, as in a lone fit
        V = self.directions(tape.output, batch, generator)
        return self.penalty.value(net, tape, V, batch, self.classes(batch))

    def _jacobian(self, net, tape, batch, generator):
        """Mean of ‖vᵀ ∂f/∂x‖² over samples, v ~ N(0, I) for each."""
        f = tape.output.mT
        v = torch.randn(f.shape[1:], dtype=f.dtype, device=f.device, generator=generator)
        G = net.input_gradients(tape, v.expand_as(f).mT.unsqueeze(2))
        return (G.square() * batch.shares()).sum((1, 2))
