"""Gradient-coherent strong regularisation: L1 and L2 act only at coherent steps."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_mgs._data import Batch

__all__ = ["COHERENCES", "CoherenceGate"]

COHERENCES = ("total", "batch")
"""Names of the measures of coherence."""


class CoherenceGate:
    """Decide step by step whether L1 and L2 act, without asking the device for a value.

    The idea is Park, Ho, Chang and Zhang's (arXiv:1811.08056): strong regularisation is imposed
    only while the gradients are coherent. How coherence is measured is this package's own
    definition; `L` is the unregularised mini-batch loss, `R` the regulariser, over weights:

    - ``"total"``: ``c = cos(∇L, ∇L + ∇R)``, does the step still go where the data point?
    - ``"batch"``: ``c = cos(∇L_A, ∇L_B)`` of the mini-batch's two halves, do samples agree?

    Parameters
    ----------
    threshold : float
        The regulariser acts where ``c >= threshold``.
    measure : {"total", "batch"}, default="batch"
        The measure.

    Attributes
    ----------
    acts_ : Tensor of shape ()
        1 where the regulariser acts at this step, else 0.
    """

    def __init__(self, threshold: float, measure: str = "batch"):
        self.threshold = threshold
        self.measure = measure
        self._cosine: Tensor | None = None  # of the halves, from their passes to `decide`
        self._cosines: list[Tensor] = []
        self._acted: list[Tensor] = []

    def backward(self, objective, module, batch: Batch):
        """Backward pass of the objective; for "batch", one half after the other."""
        if self.measure != "batch" or batch.n_samples < 2:
            terms = objective(module, batch)
            terms.total.backward()
            return terms
        return self._two_halves(objective, module, batch)

    def _two_halves(self, objective, module, batch: Batch):
        first, second = _halves(batch)
        shares = _shares(batch, first, second)

        def run(half):
            terms = objective(module, half)
            terms.total.backward()
            return terms

        parameters = [p for p in module.parameters() if p.requires_grad]
        a, b = self.two_passes(parameters, [lambda: run(first), lambda: run(second)], shares)
        return _mix(a, b, shares)

    def two_passes(self, parameters: list[Tensor], passes, shares) -> list:
        """Run two backward passes, remember how coherent they are, and leave their mean gradient.

        Parameters
        ----------
        parameters : list of Tensor
            Trainable parameters; the coherence is that of those with two dimensions or more.
        passes : list of two callables
            Forward and backward pass of each half; what they return is returned.
        shares : list of two floats or Tensors
            Share of each half in the mini-batch.
        """
        results, gradients = [], []
        for run in passes:
            for p in parameters:
                p.grad = None
            results.append(run())
            gradients.append([p.grad for p in parameters])
        weights = [i for i, p in enumerate(parameters) if p.ndim > 1]
        self._cosine = cosine(*([g[i] for i in weights] for g in gradients))
        for p, a, b in zip(parameters, *gradients):
            p.grad = shares[0] * a + shares[1] * b
        return results

    @torch.no_grad()
    def decide(self, weights: list[Tensor], alpha: float, l1: float) -> None:
        """Set `acts_` from the gradients, and add L2's gradient where it acts."""
        gradients = [w.grad for w in weights]
        regular = [alpha * w + l1 * w.sign() if l1 else alpha * w for w in weights]
        coherence, self._cosine = self._cosine, None
        if coherence is None:
            coherence = cosine(gradients, [g + r for g, r in zip(gradients, regular)])
        self.acts_ = (coherence >= self.threshold).to(weights[0].dtype)
        if alpha:
            for w in weights:
                w.grad.addcmul_(w, self.acts_, value=alpha)
        self._cosines.append(coherence)
        self._acted.append(self.acts_)

    def end_epoch(self, history) -> None:
        """Record the epoch's mean coherence and the share of steps at which it acted."""
        if self._cosines:
            means = torch.stack([torch.stack(self._cosines), torch.stack(self._acted)]).mean(1)
            for name, value in zip(("coherence", "regularized"), means.tolist()):
                history.record(name, value)
        self._cosines, self._acted = [], []


def cosine(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Cosine of the angle between two lists of tensors, each seen as one vector."""
    dot = sum((x * y).sum() for x, y in zip(a, b))
    norms = sum(x.square().sum() for x in a) * sum(y.square().sum() for y in b)
    return dot / norms.sqrt().clamp(min=torch.finfo(norms.dtype).tiny)


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    """First and second half of a mini-batch."""
    middle = batch.n_samples // 2
    first, second = (
        Batch(
            batch.X[part],
            batch.y[part],
            None if batch.sample_weight is None else batch.sample_weight[part],
            n,
            float(n),
        )
        for part, n in (
            (slice(0, middle), middle),
            (slice(middle, None), batch.n_samples - middle),
        )
    )
    return first, second


def _shares(batch: Batch, first: Batch, second: Batch):
    """Each half's share of the mini-batch's weight; a number, or a tensor on the device."""
    if batch.sample_weight is None:
        return [half.n_samples / batch.n_samples for half in (first, second)]
    total = batch.sample_weight.sum()
    return [half.sample_weight.sum() / total for half in (first, second)]


def _mix(a, b, share):
    """Terms of the whole mini-batch from those of its halves."""
    a.data_loss = share[0] * a.data_loss + share[1] * b.data_loss
    a.total = share[0] * a.total + share[1] * b.total
    if a.mgs_penalty is not None:
        a.mgs_penalty = share[0] * a.mgs_penalty + share[1] * b.mgs_penalty
    a.outputs = torch.cat([a.outputs, b.outputs])
    return a
