"""Optimizers and weight regularisers of many models, with the arithmetic of a lone fit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sklearn_mgs.search._batched_coherence import BatchedGate
from sklearn_mgs.search._batched_net import BatchedMLP

__all__ = ["BatchedAdam", "BatchedRegularizer", "BatchedSGD"]


class BatchedAdam:
    """Adam with scikit-learn's epsilon; all models have taken the same number of steps."""

    def __init__(self, net: BatchedMLP, learning_rate, betas, eps):
        self.learning_rate, self.betas, self.eps = learning_rate, betas, eps
        self.moment, self.square = (net.parameters.zeros_like() for _ in range(2))
        self.steps = torch.zeros((), device=net.parameters.memory.device)
        self.t = 0

    def step(self, net: BatchedMLP) -> None:
        """Move the parameters."""
        self.t += 1
        torch._fused_adam_(  # what torch.optim.Adam calls, after sorting tensors by device
            [net.parameters.memory],
            [net.gradients.memory],
            [self.moment.memory],
            [self.square.memory],
            [],
            [self.steps.fill_(self.t)],
            lr=self.learning_rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps / math.sqrt(1 - self.betas[1] ** self.t),
            amsgrad=False,
            maximize=False,
        )

    def keep(self, rows: Tensor) -> None:
        """Go on with the models `rows` alone."""
        self.moment.keep(rows)
        self.square.keep(rows)


class BatchedSGD:
    """SGD with momentum and a learning rate for each model, of shape (M, 1, 1)."""

    def __init__(self, net: BatchedMLP, learning_rate, momentum, nesterov):
        self.learning_rate = torch.full_like(net.biases[0][:, :1], learning_rate)
        self.momentum, self.nesterov = momentum, nesterov
        self.buffers = [torch.zeros_like(p) for p in net.parameters.parts]

    def step(self, net: BatchedMLP) -> None:
        """Move the parameters."""
        for p, g, buffer in zip(net.parameters.parts, net.gradients.parts, self.buffers):
            buffer.mul_(self.momentum).add_(g)
            direction = g.add(buffer, alpha=self.momentum) if self.nesterov else buffer
            p.addcmul_(direction, self.learning_rate, value=-1)

    def set_learning_rate(self, learning_rate: Tensor) -> None:
        """Change the rates (M, 1, 1); the velocities keep the old ones, as scikit-learn's do."""
        ratio = self.learning_rate / learning_rate
        for buffer in self.buffers:
            buffer.mul_(ratio)
        self.learning_rate = learning_rate

    def keep(self, rows: Tensor) -> None:
        """Go on with the models `rows` alone."""
        self.buffers = [b[rows] for b in self.buffers]
        self.learning_rate = self.learning_rate[rows]


class BatchedRegularizer:
    """L2 as a gradient, L1 as a proximal step, each with a strength (M, 1, 1) per model.

    Parameters
    ----------
    alpha, l1 : Tensor of shape (M, 1, 1), or None
        Strengths; None where they are zero in every model.
    gate : BatchedGate, default=None
        Decides how strongly they act at each step.
    """

    def __init__(self, alpha: Tensor | None, l1: Tensor | None, gate: BatchedGate | None = None):
        self.alpha, self.l1, self.gate = alpha, l1, gate
        self.seen: list[tuple[list[Tensor], Tensor | float]] = []

    def keep(self, rows: Tensor) -> None:
        """Go on with the models `rows` alone."""
        self.alpha = None if self.alpha is None else self.alpha[rows]
        self.l1 = None if self.l1 is None else self.l1[rows]
        if self.gate is not None:
            self.gate.keep(rows)

    def mean_loss(self, share: Tensor) -> Tensor:
        """Mean of ``½ (α/n) ‖w‖²`` over the steps since the last call, shape (M,).

        Parameters
        ----------
        share : Tensor of shape (n_steps, M)
            Each step's in the mean.
        """
        if not self.seen:
            return share.new_zeros(())
        norms, numbers = zip(*self.seen)
        self.seen = []
        each = torch.stack([norm for step in norms for norm in step]).to(share.dtype)
        squares = each.square_().unflatten(0, (len(norms), -1)).sum(1)
        zero = torch.zeros_like(squares[0])
        n = torch.stack([zero + (n.flatten() if isinstance(n, Tensor) else n) for n in numbers])
        means = (share * squares / (2 * n)).sum(0) * self.alpha.flatten()
        return torch.where(self.alpha.flatten() > 0, means, zero)  # a norm may have overflowed

    def before_step(self, weights, gradients, n, coherence: Tensor | None = None) -> None:
        """Add L2's gradient; `n` is a number or of shape (M, 1, 1)."""
        if self.alpha is not None:
            self.seen.append(([torch.linalg.vector_norm(w, dim=(1, 2)) for w in weights], n))
        alpha = None if self.alpha is None else self.alpha / n
        if self.gate is not None:
            l1 = None if self.l1 is None else self.l1 / n
            self.gate.decide(weights, gradients, alpha, l1, coherence)
            alpha = None if alpha is None else alpha * self.gate.share
        if alpha is not None:
            for w, g in zip(weights, gradients):
                g.addcmul_(w, alpha)

    def after_step(self, weights, learning_rate, n) -> None:
        """Take L1's proximal step."""
        if self.l1 is None:
            return
        threshold = learning_rate * self.l1 / n
        if self.gate is not None:
            threshold = threshold * self.gate.share
        for w in weights:
            w.sub_(w.clamp(-threshold, threshold))
        if self.gate is not None and self.gate.free is not None:
            for w, free in zip(weights, self.gate.free):
                w.mul_(free)
