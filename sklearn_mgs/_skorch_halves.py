"""The step of a skorch net in which the gradients of a mini-batch's halves are compared."""

from __future__ import annotations

from functools import partial

import torch
from skorch.dataset import get_len
from torch.utils._pytree import tree_map

from sklearn_mgs._halves import HalvesTape, forget_gradients, one_pass_suffices
from sklearn_mgs.gram._samples import take

__all__ = ["ComparesHalves", "picked"]


class ComparesHalves:
    """Passes of both halves at once or, where they don't suffice, of one by one.

    While `halves_` is set, it records a pass of both, and the penalty is that of halves.
    """

    def _compare_halves(self, X, y, n, fit_params):
        """Forward and backward passes of a mini-batch; the gate learns how coherent halves are."""
        if self.layers_ is None:  # once an epoch, as the regularised weights are found
            self.layers_ = self._one_pass_suffices(X, y, n, fit_params)
        tape = HalvesTape(self.module_, n, self._kernel_size(), self.layers_)
        if not self.layers_:
            return self._half_passes(X, y, tape, fit_params)
        with tape:
            step = self._with_halves(tape, partial(self._passes, X, y, **fit_params))
        products = tape.products()
        if products is None:  # in training the network takes other ways than when it was tried
            self.layers_ = []
            self.one_pass_ = self.one_pass_[0], self.layers_
            forget_gradients(self.module_)
            return self._half_passes(X, y, tape, fit_params)
        self.regularizer_.coherence.compare_products(products)
        return step

    def _with_halves(self, tape, run):
        self.halves_ = tape
        try:
            return run()
        finally:
            self.halves_ = None

    def _one_pass_suffices(self, X, y, n, fit_params):
        """The layers if it does: found out once for this module, its trained part, and so on."""
        trained = [p.requires_grad for p in self.module_.parameters()]
        penalty = self.penalty_ if self.mgs_strength else None
        setting = self.module_, self.criterion_, trained, penalty, self.mgs_batch_size
        if self.compile or (penalty and penalty.outputs == "all"):
            return []  # all outputs' gradients come at once, in a pass that can't be recorded
        if getattr(self.criterion_, "weight", None) is not None:
            return []  # a mean by class weights: that halves weigh the same may be chance
        if self.one_pass_ is None or self.one_pass_[0] != setting:
            tape = HalvesTape(self.module_, n, self._kernel_size())

            def run(part):
                x, t = take(X, part), take(y, part)
                y_pred = self.infer(x, **fit_params)
                self.get_loss(y_pred, t, X=x, training=True).backward()

            def both():
                self._with_halves(tape, partial(run, slice(0, tape.n)))

            self.one_pass_ = setting, tape.layers if one_pass_suffices(tape, both, run) else []
        return self.one_pass_[1]

    def _half_passes(self, X, y, tape, fit_params):
        """One half after the other."""
        values, shares = [], tape.shares

        def run(part):
            step = self._passes(take(X, part), take(y, part), **fit_params)
            values.append(self.value_)
            return step

        trained = [p for p in self.module_.parameters() if p.requires_grad]
        passes = [partial(run, half) for half in tape.halves]
        steps = self.regularizer_.coherence.two_passes(trained, passes, shares)
        if self.mgs_strength:
            self.value_ = shares[0] * values[0] + shares[1] * values[1]
        loss = shares[0] * steps[0]["loss"] + shares[1] * steps[1]["loss"]
        y_pred = tree_map(lambda *halves: torch.cat(halves), *(step["y_pred"] for step in steps))
        return {"loss": loss, "y_pred": y_pred}

    def _kernel_rows(self, x):
        """Samples that make the kernel, the first ones or the first ones of both halves."""
        if self.halves_ is not None:
            return self.halves_.rows
        n, size = get_len(x), self._kernel_size()
        return [slice(0, n if size is None else min(n, size))]

    def _kernel_size(self):
        """Samples of a pass that make the kernel; the passes are half ones, or a pass of both."""
        size, regularizer = self.mgs_batch_size, self.regularizer_
        gate = None if regularizer is None else regularizer.coherence
        return size if size is None or gate is None or gate.measure != "batch" else -(-size // 2)


def picked(X, rows):
    """Samples of these slices, one after the other."""
    if len(rows) == 1:
        return take(X, rows[0])
    return tree_map(lambda x: torch.cat([x[part] for part in rows]), X)
