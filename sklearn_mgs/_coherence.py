"""Gradient-coherent strong regularisation: L1 and L2 act as far as gradients stay coherent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sklearn_mgs._cosines import (
    Number,
    cosine_of_sum,
    inner_products,
    number,
    numbers,
    ratio,
    strongest_share,
)
from sklearn_mgs._data import Batch
from sklearn_mgs._proximal import soft_threshold_

__all__ = ["COHERENCES", "CoherenceGate", "flushed", "make_gate"]

COHERENCES = ("total", "batch", "trend")
"""Names of the measures of coherence."""

TREND_DECAY = 0.9
"""Decay of the running mean of gradients, of each step."""

RENEWAL = 4
"""Steps from one look at the trend to the next: a mean of about ten steps changes slowly, but a
share that is older lets the regulariser overshoot, and the network may not recover."""

HOLDING = 8
"""Steps for which the same weights are held at zero."""

FLUSHING = 256
"""Steps from one search for means that have all but vanished to the next: by then the others are
not yet too small, as 0.9 to this power is 2e-12."""


class CoherenceGate:
    """Decide step by step how strongly L1 and L2 act, without waiting for the device.

    The idea is Park, Ho, Chang and Zhang's (arXiv:1811.08056): strong regularisation is imposed
    only while the gradients are coherent. How coherence is measured is this package's own
    definition; `L` is the unregularised mini-batch loss, `R` the regulariser times its strength,
    both as functions of the weights:

    - ``"total"``: ``c = cos(∇L, ∇L + ∇R)``, does the step still go where the data point?
    - ``"batch"``: ``c = cos(∇L_A, ∇L_B)`` of the mini-batch's two halves, do samples agree?
      A mini-batch of one sample has no halves: there it is "total".
    - ``"trend"``: ``c = cos(m, m + ∇R)``, `m` the running mean of ∇L over about ten steps: does
      the regulariser leave the direction in which the data have been pulling?

    With "total" and "batch" the regulariser acts in full where ``c >= threshold``, else not at
    all. With "trend" it acts with its strongest share `s` in [0, 1] for which
    ``cos(m, m + s ∇R) >= threshold``, and a weight that L1 has set to zero stays zero until
    ``|m_i|`` exceeds L1's strength times `s`; `s` is found anew every fourth step, such weights
    every eighth, and until then they hold for the mini-batch's size at that step. With L1, `m` in
    the cosine is that of the weights that are not zero: of those that L1 moves.

    Parameters
    ----------
    threshold : float
        Least coherence, in [-1, 1].
    measure : {"total", "batch", "trend"}, default="trend"
        The measure.

    Attributes
    ----------
    share_ : float, or Tensor of shape () elsewhere than on the CPU
        Share of its strength with which the regulariser acts at this step.
    """

    def __init__(self, threshold: float, measure: str = "trend"):
        self.threshold = threshold
        self.measure = measure
        self._halves: Number | None = None  # cosine of the halves, from their passes to `decide`
        self._coherence: Number | None = None  # as last measured
        self._mean: list[Tensor] = []  # running mean of gradients; empty while Adam lends its own
        self._shapes: list[torch.Size] = []  # of the weights that it is of
        self._strongest: Number = 0.0  # strength that the trend allows
        self._free: list[Tensor | None] = []  # 0 where a weight is held at zero, else 1
        self._mixture: float | None = None  # of L1 and L2, for which these were found
        self._n_steps = 0
        self._cosines: list[Number] = []
        self._shares: list[Number] = []

    def goes_on_with(self, weights: list[Tensor]) -> bool:
        """Whether what is remembered, if anything, is of such weights."""
        return not self._shapes or self._shapes == [w.shape for w in weights]

    def compares_halves(self, batch: Batch) -> bool:
        """Whether the gradients of this mini-batch's halves are to be compared."""
        return self.measure == "batch" and batch.n_samples > 1

    def compare(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        """Remember how coherent the gradients of the two halves are, in whatever scale."""
        self.compare_products(inner_products(first, second))

    def compare_products(self, products: Tensor) -> None:
        """The same from the Gram matrix (2, 2) of the two."""
        aa, ab, bb = numbers(products)
        self._halves = ratio(ab, aa, bb)

    def backward(self, run, module, batch: Batch):
        """Backward pass of a mini-batch by `run`, one half after the other."""
        first, second = _halves(batch)
        shares = _shares(batch, first, second)
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
            gradients.append([_gradient(p) for p in parameters])
        weights = [i for i, p in enumerate(parameters) if p.ndim > 1]
        self.compare(*([g[i] for i in weights] for g in gradients))
        for p, a, b in zip(parameters, *gradients):
            p.grad = a.lerp_(b, shares[1])
        return results

    def decide(self, weights: list[Tensor], alpha: float, l1: float, adam=None) -> None:
        """Set `share_` from the gradients, and add L2's gradient.

        `adam` may lend its own running mean of gradients, which is that of ∇L without L2.
        """
        gradients = [_gradient(w) for w in weights]
        if self.measure == "trend":
            lent = adam is not None and not self._mean and adam.lends(TREND_DECAY, self._n_steps)
            if lent and alpha:
                self._mean = adam.running_mean(weights)
            if not lent or alpha:
                self._follow(gradients)
            steps, changed = self._n_steps, self._mixture != _mixture(alpha, l1)
            self._n_steps += 1
            if changed or steps % RENEWAL == 0:
                means = self._mean or adam.running_mean(weights, gradients)
                self._look(means, weights, alpha, l1, anew=changed or steps % HOLDING == 0)
            self.share_ = _at_most_one(self._strongest / (alpha + l1 or 1.0))
        else:
            self._coherence, self._halves = self._halves, None
            if self._coherence is None:
                self._coherence = cosine_of_sum(*_products(gradients, weights, alpha, l1))
            self.share_ = _one_from(self.threshold, self._coherence)
        if alpha:
            for w, gradient in zip(weights, gradients):
                _add(gradient, alpha, self.share_, w)
        self._cosines.append(self._coherence)
        self._shares.append(self.share_)

    def _follow(self, gradients: list[Tensor]) -> None:
        """Update the running mean, in which the first steps count as much as they should."""
        if not self._mean:  # from the start, or where a step that Adam lent for was cut short
            self._mean = [torch.zeros_like(g) for g in gradients]
            self._n_steps = 0
        self._mean = flushed(self._mean, self._n_steps)
        share = (1 - TREND_DECAY) / (1 - TREND_DECAY ** (self._n_steps + 1))
        torch._foreach_lerp_(self._mean, gradients, share)

    def _look(self, means, weights: list[Tensor], alpha: float, l1: float, anew: bool) -> None:
        """Find the strength that the trend allows, and `anew` which weights are held at zero."""
        self._mixture, self._shapes = _mixture(alpha, l1), [w.shape for w in weights]
        sizes: list[Tensor] | None = [] if anew else None
        products = _products_of_nonzero(means, weights, alpha, l1, sizes)
        self._coherence = cosine_of_sum(*products)
        share = strongest_share(*products, self.threshold)
        self._strongest = share * (alpha + l1 or 1.0)
        if sizes is not None:
            least = _at_most_one(share) * l1
            free = [size.gt_(least) for size in sizes]  # in numbers: bools take longer
            self._free = [None if _surely_ones(f) else f for f in free]

    def shrink(self, weights: list[Tensor], thresholds: list[float]) -> None:
        """Take L1's proximal step, of these thresholds times `share_`."""
        for w, threshold in zip(weights, thresholds):
            soft_threshold_(w, threshold * self.share_)
        if self.measure == "trend":
            for w, free in zip(weights, self._free, strict=True):
                if free is not None:
                    w.mul_(free)

    def end_epoch(self, history) -> None:
        """Record the epoch's mean coherence and mean share of the regulariser's strength."""
        for name, values in (("coherence", self._cosines), ("regularized", self._shares)):
            if values:
                history.record(name, _mean(values))
        self._cosines, self._shares = [], []


def make_gate(
    threshold: float | None, measure: str, previous: CoherenceGate | None, weights: list[Tensor]
) -> CoherenceGate | None:
    """Gate of a further part of a fit: the previous one, running mean and all, if it is alike."""
    if threshold is None:
        return None
    if previous is not None and (previous.threshold, previous.measure) == (threshold, measure):
        if previous.goes_on_with(weights):
            return previous
    return CoherenceGate(threshold, measure)


def _mixture(alpha: float, l1: float) -> float | None:
    """Share of L1, but for rounding: both move with the mini-batch's size."""
    return round(l1 / (alpha + l1), 9) if alpha + l1 else None


def flushed(means: list[Tensor], n_steps: int) -> list[Tensor]:
    """Means with zeros where they have all but vanished, every so many steps.

    The mean of gradients that have become zero would come to rest where numbers have lost their
    precision, and take a processor many times as long.
    """
    if n_steps % FLUSHING:
        return means
    tiny = torch.finfo(means[0].dtype).tiny
    if tiny > 1e-30:  # half precision, in which ordinary means are as small
        return means
    return [F.hardshrink(m, tiny**0.5) for m in means]


Products = tuple[Number, Number, Number]
"""⟨g, g⟩, ⟨g, r⟩ and ⟨r, r⟩ of gradients g and the regulariser's gradient r."""


def _products(gradients: list[Tensor], weights: list[Tensor], alpha: float, l1: float) -> Products:
    """Inner products of gradients and the regulariser's, ``alpha w + l1 sign(w)``."""
    if not l1:
        gg, gr, rr = numbers(inner_products(gradients, weights))
        return gg, alpha * gr, alpha * (alpha * rr)
    gg = gr = rr = 0.0
    for g, w in zip(gradients, weights):
        g, w = g.flatten(), w.flatten()
        pull = _pull(w, w.sign(), alpha, l1)
        rr, gr, gg = rr + _dot(pull, pull), gr + _dot(g, pull), gg + _dot(g, g)
    return gg, l1 * gr, l1 * (l1 * rr)


def _products_of_nonzero(
    means: list[Tensor],
    weights: list[Tensor],
    alpha: float,
    l1: float,
    sizes: list[Tensor] | None,
) -> Products:
    """The same of the weights that L1 moves; `sizes` gets ``|m|``, made larger where these are.

    Few passes over memory: the sign of the weights becomes the mean that counts.
    """
    if not l1:
        return _products(means, weights, alpha, l1)
    gg = gr = rr = 0.0
    for m, w in zip(means, weights):
        shape, m, w = w.shape, m.flatten(), w.flatten()
        sign = w.sign()
        pull = _pull(w, sign, alpha, l1)
        rr += _dot(pull, pull)
        if sizes is not None:
            sizes.append(m.abs().addcmul_(sign, sign, value=2 * l1).view(shape))
        along = sign.mul_(m)
        gg += _dot(along, along)
        gr += _dot(m, pull) if alpha else number(along.sum())
    return gg, l1 * gr, l1 * (l1 * rr)


def _pull(w: Tensor, sign: Tensor, alpha: float, l1: float) -> Tensor:
    """The regulariser's gradient over its strength of L1; the sign itself without L2."""
    return sign.add(w, alpha=alpha / l1) if alpha else sign


def _dot(x: Tensor, y: Tensor) -> Number:
    return number(torch.dot(x, y))


def _surely_ones(x: Tensor) -> bool:
    """Whether no entry is 0, if that is at hand."""
    least = number(x.amin())
    return not isinstance(least, Tensor) and least > 0


def _one_from(threshold: float, coherence: Number) -> Number:
    """1 where the coherence reaches the threshold, else 0."""
    if isinstance(coherence, Tensor):
        return (coherence >= threshold).to(coherence.dtype)
    return float(coherence >= threshold)


def _mean(values: list[Number]) -> float:
    """Mean of numbers or tensors; of both in a fit that goes on after a change of the device."""
    total = sum(x for x in values if not isinstance(x, Tensor))
    tensors = [x for x in values if isinstance(x, Tensor)]
    if tensors:
        total += torch.stack(tensors).double().sum().item()
    return total / len(values)


def _add(x: Tensor, factor: float, share: Number, y: Tensor) -> None:
    """Add ``factor · share · y`` to `x`."""
    if isinstance(share, Tensor):
        x.addcmul_(y, share, value=factor)
    elif share:
        x.add_(y, alpha=factor * share)


def _gradient(p: Tensor) -> Tensor:
    """The gradient, set to zeros where the pass did not come by."""
    if p.grad is None:
        p.grad = torch.zeros_like(p)
    return p.grad


def _at_most_one(x: Number) -> Number:
    return x.clamp(max=1.0) if isinstance(x, Tensor) else min(x, 1.0)


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
