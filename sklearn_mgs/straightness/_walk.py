"""Exact walk of piecewise-linear modules along straight segments between samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from sklearn_mgs.gram._outputs import output_matrix
from sklearn_mgs.straightness._kinks import Growth, growth, maximum_changes, sign_changes
from sklearn_mgs.straightness._operations import (
    AFFINE,
    MAXIMA,
    PRODUCTS,
    SMOOTH,
    SWITCHES,
    NotWalkable,
    is_random,
)

__all__ = ["Path", "Walk", "walk"]

ROUNDING = 1e-14
"""A value below this share of the largest one beside it may be a rounding error of zero."""

N_CHECKED = 8
"""Pieces of a path on which the module itself is evaluated once more."""

BETWEEN = 0.382
"""Where on them, as a share of the piece; no symmetry makes this point special."""

TOLERANCE = 1e-7
"""By how much the outputs may differ there, relative to the largest output."""


class Path(NamedTuple):
    """A module's outputs on segments, at their knots in the order of (segment, t).

    The knots of a segment are its two ends and every kink between them.
    """

    segment: Tensor  # (n_knots,), integer
    t: Tensor  # (n_knots,), from 0 to 1 within each segment
    values: Tensor  # (n_knots, n_outputs)
    is_linear: bool  # whether the outputs are linear from one knot to the next


class _State(NamedTuple):
    """What is known of a tensor that depends on the points."""

    n_growths: int  # that its rows have seen
    is_linear: bool  # from one knot to the next


class _InFloat64(TorchDispatchMode):
    """Leave tensors in float64 where a module changes their precision."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("to", "_to_copy", "type_as"):
            if args[0].dtype == torch.float64 and outputs.is_floating_point():
                return args[0]
        return outputs


class Walk(_InFloat64):
    """Watch a module map points of segments, and add a point wherever an operation has a kink.

    The rows of each tensor that depends on the points are its values at the knots. An affine
    operation keeps it linear between them. Before an operation with kinks, each of these
    becomes a knot itself, where the tensors are interpolated, which is exact; those of earlier
    operations (of a residual connection, say) when they are next used.
    """

    def __init__(self, points: Tensor):
        super().__init__()
        n_segments = len(points) // 2
        self.segment = torch.arange(n_segments, device=points.device).repeat_interleave(2)
        self.t = points.new_tensor([0.0, 1.0]).repeat(n_segments)
        self.n_units = self.widest = 0  # quantities that may have kinks; numbers per knot
        self._growths: list[Growth] = []
        self._counts: list[int] = []  # of knots before each growth
        self._states = WeakTensorKeyDictionary()
        self._follow(points, is_linear=True)

    def _follow(self, x: Tensor, is_linear: bool) -> None:
        """Note that the rows of `x` are values at the present knots."""
        self._states[x] = _State(len(self._growths), is_linear)
        self.widest = max(self.widest, x.numel() // len(x))

    def is_linear(self, x: Tensor) -> bool:
        """Bring the rows of `x` to the present knots; say if it is linear between them."""
        n_growths, is_linear = self._states[x]
        if n_growths < len(self._growths):
            rows = x
            for grow in self._growths[n_growths:]:
                rows = grow(rows)
            # The same tensor, since the module may use it again.
            x.set_(rows.untyped_storage(), 0, rows.shape, rows.stride())
            self._follow(x, is_linear)
        return is_linear

    def followed(self, tensors: Iterable) -> list[Tensor]:
        """Those that depend on the points."""
        return [x for x in tensors if isinstance(x, Tensor) and x in self._states]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = self.followed(_flat((*args, *kwargs.values())))
        if not inputs:
            return super().__torch_dispatch__(func, types, args, kwargs)
        name = func.overloadpacket.__name__
        if name not in _KNOWN and name.endswith("_"):
            name = name.removesuffix("_")
            self._forget_aliases(args[0])
        if name not in _KNOWN or is_random(name, args):
            return self._decomposed(func, args, kwargs)
        is_linear = self._before(name, args, inputs)
        args = self._with_present_size(name, args)
        outputs = super().__torch_dispatch__(func, types, args, kwargs)
        for x in _flat([outputs]):
            if x.shape[:1] != self.t.shape:
                raise NotWalkable(f"it moves the samples from the first dimension ({func})")
            self._follow(x, is_linear)
        return outputs

    def _forget_aliases(self, x: Tensor) -> None:
        """Other tensors with the memory of `x`, which is to be changed, hold nothing known."""
        if x not in self._states:
            raise NotWalkable("it writes into a tensor that does not depend on the samples")
        memory = x.untyped_storage().data_ptr()
        for other, state in list(self._states.items()):
            if other is not x and other.untyped_storage().data_ptr() == memory:
                self._states[other] = state._replace(is_linear=False)

    def _decomposed(self, func, args: tuple, kwargs: dict):
        """Run the simpler operations that an unknown one consists of."""
        with self:
            outputs = func.decompose(*args, **kwargs)
        if outputs is NotImplemented:
            raise NotWalkable(f"it uses {func}, whose kinks are not known")
        return outputs

    def _before(self, name: str, args: tuple, inputs: list[Tensor]) -> bool:
        """Add a knot at each kink of an operation; say whether its output is linear between."""
        if not all(x.is_floating_point() for x in inputs):
            raise NotWalkable(f"it computes integers or truth values from the samples ({name})")
        is_linear = all([self.is_linear(x) for x in inputs])
        if name in PRODUCTS:
            divisor = args[1] if name in _QUOTIENTS else None
            return is_linear and len(inputs) == 1 and inputs[0] is not divisor
        if name in SWITCHES or name in MAXIMA:
            if not is_linear:
                raise NotWalkable(f"it applies {name} to what is not piecewise linear")
            self._add_knots(name, args, inputs)
        return is_linear and name not in SMOOTH

    def _add_knots(self, name: str, args: tuple, inputs: list[Tensor]) -> None:
        tiny = ROUNDING * max(torch.linalg.vector_norm(x, torch.inf) for x in inputs)
        n, found = len(self.t), []
        if name in MAXIMA:
            windows = MAXIMA[name](*args)
            windows = windows.reshape(n, -1, windows.shape[-1])
            self.n_units += windows.shape[1]
            found.append(maximum_changes(windows, self.segment, tiny))
        else:
            for switch in SWITCHES[name](*args):
                self.n_units += switch.numel() // n
                found.append(sign_changes(switch.reshape(n, -1), self.segment, tiny))
        if not found:
            return
        piece, fraction = map(torch.cat, zip(*found))
        grow = growth(piece, fraction, self.segment, self.t)
        if not len(grow.piece):
            return
        self.segment, self.t = grow.merge(self.segment, self.segment[grow.piece]), grow(self.t)
        self._growths.append(grow)
        self._counts.append(n)
        for x in inputs:
            self.is_linear(x)

    def _with_present_size(self, name: str, args: tuple) -> tuple:
        """A number of rows that the module read before knots were added is the present one."""
        if name in _SIZED and args[1] and args[1][0] in self._counts:
            return (args[0], [len(self.t), *args[1][1:]], *args[2:])
        return args


_KNOWN = AFFINE | PRODUCTS | SMOOTH | SWITCHES.keys() | MAXIMA.keys()
_QUOTIENTS = {"div", "divide", "true_divide"}
_SIZED = {"view", "_unsafe_view", "reshape", "expand"}


def _flat(values: Iterable) -> list:
    """What is in `values` and in its tuples and lists."""
    return [y for x in values for y in (x if isinstance(x, tuple | list) else [x])]


@torch.inference_mode()
def walk(module: nn.Module, ends: Tensor) -> tuple[Path, Walk]:
    """A module's outputs on segments, exactly, and the walk; `ends`: (n_segments, 2, ...).

    Raises `NotWalkable` unless all of its operations are known, and those with kinks get what
    is piecewise linear.
    """
    points = ends.flatten(0, 1).clone()
    mode = Walk(points)
    try:
        with mode:
            values = output_matrix(module(points))
        if not mode.followed([values]):
            raise NotWalkable("how its outputs depend on the samples can't be followed")
        path = Path(mode.segment, mode.t, values, mode.is_linear(values))
        with _InFloat64():
            _check(path, module, ends)
    except NotWalkable:
        raise
    except Exception as error:  # whatever a module may raise at float64, or at rows that are added
        raise NotWalkable(f"it fails with {type(error).__name__}: {error}") from error
    return path, mode


def _check(path: Path, module: nn.Module, ends: Tensor) -> None:
    """Compare with the module itself at some points, in case it changes tensors unseen."""
    piece = (path.segment[1:] == path.segment[:-1]).nonzero()[:, 0]
    piece = piece[:: -(-len(piece) // N_CHECKED)]
    share = torch.tensor(BETWEEN if path.is_linear else 0.0).to(path.t)
    t = torch.lerp(path.t[piece], path.t[piece + 1], share)
    expected = torch.lerp(path.values[piece], path.values[piece + 1], share)
    start, end = ends[path.segment[piece]].unbind(1)
    found = output_matrix(module(torch.lerp(start, end, t.view(-1, *[1] * (start.ndim - 1)))))
    if not ((found - expected).abs() <= TOLERANCE * path.values.abs().max()).all():
        raise NotWalkable("its outputs are not those that the walk finds")
