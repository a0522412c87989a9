"""The MGS penalty of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from sklearn_mgs.gram import OUTPUTS, LayerwiseKernel, Plan, Tape, mgs_metric
from sklearn_mgs.gram._centering import check_centered, membership
from sklearn_mgs.gram._chunked import chunked_gram, chunked_spread
from sklearn_mgs.gram._chunks import with_halved_chunks
from sklearn_mgs.gram._factorizer import Factorizer
from sklearn_mgs.gram._layers import check_samples_apart, evaluating
from sklearn_mgs.gram._metrics import check_metric
from sklearn_mgs.gram._outputs import directions, output_matrix
from sklearn_mgs.gram._reduce import (
    divisor,
    gram,
    no_autocast,
    repeated_logdet,
    spread,
    weighted_gram,
)
from sklearn_mgs.gram._samples import Samples, n_samples
from sklearn_mgs.gram._shares import Factors, promoted

__all__ = ["MGSPenalty"]

_NOT_CALIBRATED = (
    "The penalty has no scale or has seen no forward pass: call calibrate(module, X) once, then "
    "run the module inside `with penalty.record(module) as tape` at each step."
)


_TOGETHER = 256
"""Rows of factors up to which both halves' means come from one product, with columns for each."""


class MGSPenalty:
    r"""Similarity of a mini-batch's gradients, over its value at initialisation.

    The value of a step is :math:`m(K_{batch}) / m(K_{init})`, to be multiplied by a strength
    and added to the loss. It is taken from the forward pass that serves the loss, costs one
    backward recursion more, and never waits for the device.

    Parameters
    ----------
    metric : {"trace", "det"}, default="trace"
        m, see `sklearn_mgs.gram.mgs_metric`. The logarithm of the determinant has no lower
        bound and is no penalty; its exponential is one.
    outputs : {"all", "target", "random", "sum"}, default="all"
        Whose gradients, see `sklearn_mgs.gram.gram_matrix`.
    layers : {"all", "hidden", "first", "balanced"} or mapping, default="all"
        Which layers; "balanced" takes its constants at calibration.
    relative : bool, default=False
        Whether gradients are those with respect to *relative* changes of the layers,
        :math:`W (I + \sqrt{p} E)` and :math:`b + \sqrt{p} W e`, in place of W and b, p being
        the number of a layer's inputs. See the notes.
    centered : bool or "class", default=False
        Around which mean; classes are those of `targets`, 0 to n_outputs - 1.
    jitter : float, default=1e-4
        Relative jitter of "det".

    Attributes
    ----------
    scale_ : Tensor of shape ()
        :math:`m(K_{init})`.
    layer_weights_ : dict of str to float
        Weight of each layer that takes part; of relative gradients times its number of inputs.
    plan_ : sklearn_mgs.gram.Plan
        Which layers have a closed form.

    Raises
    ------
    ValueError
        If an option is unknown, or by `calibrate` if no layer has relative gradients.

    Notes
    -----
    Samples weigh by :math:`w_i`: the trace is :math:`\sum_i w_i K_{ii} / \sum_i w_i`, means are
    weighted means, and "det" is that of the kernel in which sample i stands :math:`w_i` times.
    So integer weights equal repeated samples, and unit weights equal none. The trace does not
    depend on the weights' scale, nor does "det" where their mean is below 1.

    With ``relative=True`` the output gradient d of a layer with p inputs is replaced by
    :math:`\sqrt{p} W^\top d`, where :math:`W^\top d` is the gradient with respect to the layer's
    *input* a: its share of the kernel is
    :math:`p (\langle a_i, a_j \rangle + 1) \langle W^\top d_i, W^\top d_j \rangle`. The unit
    of a change is then the identity's norm, :math:`\|I\|_F = \sqrt{p}`. A ReLU network
    computes the same function when one layer's parameters grow and the next layer's weights
    shrink. The plain shares change by that, and can be lowered without any change of the
    function. Of the first layer the relative share depends on the function alone: it is the
    squared norm of the input gradient, times :math:`p (\|x\|^2 + 1)`; of later layers the
    weights' part does not change, the biases' (the 1) does. Linear layers, and convolutions
    without groups, whose weight no other layer shares have such gradients; other layers take no
    part. The relative gradient is due to Cardoso and Laheld (1996); its use in this penalty is
    our own definition.

    A penalty pickles and copies without the network it was used with.

    Examples
    --------
    >>> import torch
    >>> from sklearn_mgs.penalty import MGSPenalty
    >>> module, X = torch.nn.Linear(3, 2), torch.ones(4, 3)
    >>> penalty = MGSPenalty("trace").calibrate(module, X)
    >>> with penalty.record(module) as tape:
    ...     output = module(X)
    >>> penalty(tape, output)
    tensor(1.)
    """

    def __init__(
        self,
        metric: str = "trace",
        *,
        outputs: str = "all",
        layers: str | Mapping[str, float] = "all",
        relative: bool = False,
        centered: bool | str = False,
        jitter: float = 1e-4,
    ):
        check_metric(metric, ("trace", "det"))
        if outputs not in OUTPUTS or outputs == "full":
            valid = [name for name in OUTPUTS if name != "full"]
            raise ValueError(f"Unknown outputs {outputs!r}; expected one of {valid}.")
        check_centered(centered)
        if relative not in (False, True):
            raise ValueError(f"relative must be True or False, got {relative!r}.")
        self.metric = metric
        self.outputs = outputs
        self.layers = layers
        self.relative = relative
        self.centered = centered
        self.jitter = jitter
        self._kernel: LayerwiseKernel | None = None

    def calibrate(
        self,
        module: nn.Module,
        X: Samples,
        targets: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> MGSPenalty:
        """Find the layers' weights and m(K_init), in evaluation mode, which is then undone.

        Parameters
        ----------
        module : torch.nn.Module
            The network at initialisation.
        X : Tensor of shape (n_samples, ...), or a tuple or dict of such
            Some training samples.
        targets : Tensor of shape (n_samples,), default=None
            Class indices, for ``outputs="target"`` and ``centered="class"``.
        sample_weight : Tensor of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        self : MGSPenalty
            With ``outputs="random"`` calibrated by "all", its expectation.

        Raises
        ------
        ValueError
            If the value is zero or not finite, or as for `sklearn_mgs.gram.gram_matrix`.
        """
        check_samples_apart(module)
        outputs = "all" if self.outputs == "random" else self.outputs
        with evaluating(module), torch.no_grad():
            factorizer = Factorizer(
                module,
                X,
                outputs=outputs,
                targets=targets,
                layers=self.layers,
                relative=self.relative,
                implementation="layerwise",
                sample_weight=sample_weight,
            )
            self.plan_: Plan = factorizer.plan
            self.layer_weights_ = factorizer.weights
            n = n_samples(X)
            with no_autocast(factorizer.example.device):
                self.scale_, size = self._at_start(factorizer, n, targets, sample_weight)
        # What centred gradients leave of nothing.
        rounding = 100 * torch.finfo(size.dtype).eps * size
        if not (self.scale_.isfinite() and self.scale_ > rounding and size > 0):
            raise ValueError(
                f"The {self.metric} of the kernel at initialisation is {float(self.scale_)} on "
                f"n_samples={n}, so the penalty can't be measured in units of it. Check X, "
                "sample_weight and the initial parameters for values that are zero or not finite, "
                "and with centered, that there are samples with different gradients."
            )
        self._kernel = None
        return self

    def _at_start(
        self, factorizer: Factorizer, n: int, targets: Tensor | None, sample_weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """m(K), and the mean squared norm; from chunks, halved where memory runs out."""
        f, chunk_size = factorizer.example, factorizer.chunk_size
        n_classes = max(2, f.shape[1])
        if self.metric != "trace":
            K, _ = with_halved_chunks(partial(chunked_gram, factorizer), chunk_size)
            squares = K.diagonal() if sample_weight is None else sample_weight * K.diagonal()
            size = _mean(squares.sum(), n, sample_weight)
            return self._metric(K, targets, sample_weight, n_classes), size

        def trace(B: Tensor | None) -> Tensor:
            compute = partial(chunked_spread, factorizer, B=B, sample_weight=sample_weight)
            return _mean(with_halved_chunks(compute, chunk_size)[0], n, sample_weight)

        size = trace(None)
        B = membership(f.new_empty(n), self.centered, targets, n_classes)
        return size if B is None else trace(B), size

    def record(self, module: nn.Module) -> Tape:
        """Context for the forward pass of a training step."""
        if self._kernel is None or self._kernel.module is not module:
            if not hasattr(self, "scale_"):
                raise ValueError(_NOT_CALIBRATED)
            self._kernel = LayerwiseKernel(module, self.plan_, self.layer_weights_, self.relative)
        return self._kernel.record()

    def __call__(
        self,
        tape: Tape,
        output: Tensor,
        targets: Tensor | None = None,
        sample_weight: Tensor | None = None,
        generator: torch.Generator | None = None,
        shares: tuple[float, float] | None = None,
    ) -> Tensor:
        """Value for one mini-batch, differentiable in the parameters.

        Parameters
        ----------
        tape : Tape
            From ``with penalty.record(module) as tape``.
        output : Tensor of shape (n_samples, ...)
            What the module returned within that context.
        targets, sample_weight
            As for `calibrate`.
        generator : torch.Generator, default=None
            Source of the direction for "random".
        shares : tuple of two floats, default=None
            Shares of two halves. If given, each half, the first ``n_samples // 2`` samples and
            the others, is a mini-batch of its own, and the value is the mean of theirs.

        Returns
        -------
        value : Tensor of shape ()

        Raises
        ------
        ValueError
            If the penalty is not calibrated, or if one sample should make two halves.
        """
        if self._kernel is None:
            raise ValueError(_NOT_CALIBRATED)
        f = output_matrix(output)
        n, parts = len(f), [f] if shares is None else _halved(f)
        if shares is not None and n < 2:
            raise ValueError(f"shares of two halves need 2 samples, got {n}; leave shares out.")
        with no_autocast(f.device):
            if self.outputs == "random":  # each half draws its own
                V = torch.cat([directions(part, "random", None, generator) for part in parts], 1)
            else:
                V = directions(f, self.outputs, targets)
            factors = self._kernel.factors(tape, f, V)
            alone = self.metric == "trace" and self.centered is False and sample_weight is None
            if shares is None or (alone and shares[0] == n // 2 / n):  # one mean over samples
                return self._value(factors, f, n, targets, sample_weight) / self.scale_
            ys, ws = ([None, None] if x is None else _halved(x) for x in (targets, sample_weight))
            return self._value_of_halves(factors, parts, shares, ys, ws) / self.scale_

    def _value_of_halves(self, factors, fs: list[Tensor], shares, ys: list, ws: list) -> Tensor:
        """Mean of m(K) of both halves; their outputs, targets and weights are listed."""
        n, n_classes = len(fs[0]), max(2, fs[0].shape[1])
        if self.metric != "trace":
            K = gram(factors, self.layer_weights_)
            blocks = K[:n, :n], K[n:, n:]
            if self.centered is False and ws[0] is None and len(K) == 2 * n:
                first, second = mgs_metric(torch.stack(blocks), self.metric, jitter=self.jitter)
            else:
                first, second = (self._metric(*x, n_classes) for x in zip(blocks, ys, ws))
            return shares[0] * first + shares[1] * second
        ws = [
            f.new_full((len(f),), share / len(f)) if w is None else share * w / divisor(w)
            for f, share, w in zip(map(promoted, fs), shares, ws)
        ]
        if self.centered is False:
            return spread(factors, self.layer_weights_, None, torch.cat(ws))
        Bs = [membership(f[:, 0], self.centered, y, n_classes) for f, y in zip(fs, ys)]
        rows = max(x.D.shape[:-1].numel() for of_layer in factors.values() for x in of_layer)
        if rows <= _TOGETHER:
            B = torch.block_diag(*Bs)
            return spread(factors, self.layer_weights_, B, torch.cat(ws))
        halves = zip(_halved_factors(factors), Bs, ws)
        first, second = (spread(x, self.layer_weights_, B, w) for x, B, w in halves)
        return first + second

    def from_kernel(
        self,
        K: Tensor,
        targets: Tensor | None = None,
        sample_weight: Tensor | None = None,
        n_classes: int = 2,
    ) -> Tensor:
        """Value of a mini-batch whose kernel K (n_samples, n_samples) is at hand already."""
        return self._metric(K, targets, sample_weight, n_classes) / self.scale_

    def _value(
        self, factors, f: Tensor, n: int, targets: Tensor | None, sample_weight: Tensor | None
    ) -> Tensor:
        """m(K) from the layers' factors; the trace without K."""
        n_classes = max(2, f.shape[1])
        if self.metric != "trace":
            K = gram(factors, self.layer_weights_)
            return self._metric(K, targets, sample_weight, n_classes)
        B = membership(f.new_empty(n), self.centered, targets, n_classes)
        return _mean(spread(factors, self.layer_weights_, B, sample_weight), n, sample_weight)

    def _metric(
        self, K: Tensor, targets: Tensor | None, sample_weight: Tensor | None, n_classes: int
    ) -> Tensor:
        """m(K), of the (weighted) samples around their means."""
        B = membership(K[0], self.centered, targets, n_classes)
        K = weighted_gram(K, B, sample_weight)
        if self.metric == "trace":
            return _mean(K.diagonal().sum(), len(K), sample_weight)
        if sample_weight is not None:
            return repeated_logdet(K, sample_weight, self.jitter).exp()
        return mgs_metric(K, self.metric, jitter=self.jitter)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_kernel": None}


def _mean(total: Tensor, n: int, sample_weight: Tensor | None) -> Tensor:
    """Over samples, or over their weights (zero for samples without weight)."""
    return total / (n if sample_weight is None else divisor(sample_weight))


def _halved(X: Tensor) -> list[Tensor]:
    """First half of the samples, and the others."""
    return list(X.split((len(X) // 2, len(X) - len(X) // 2)))


def _halved_factors(factors) -> list[dict[str, list[Factors]]]:
    """The same of the layers' factors."""
    halves: list[dict[str, list[Factors]]] = [{}, {}]
    for name, of_layer in factors.items():
        for f in of_layer:
            As = (None, None) if f.A is None else _halved(f.A)
            for half, A, D in zip(halves, As, _halved(f.D)):
                half.setdefault(name, []).append(replace(f, A=A, D=D))
    return halves
