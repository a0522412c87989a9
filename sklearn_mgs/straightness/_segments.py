"""Exact walk of piecewise-linear networks along straight segments between samples."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sklearn_mgs.straightness._layers import has_kinks

__all__ = ["Path", "SegmentStatistics", "in_float64", "kink_counts", "segment_statistics", "walk"]

RESOLUTION = 1e-10
"""Kinks whose t differ by no more than this are one point."""

CHUNK_NUMBERS = 2**22
"""About how many numbers one layer of one chunk of segments holds."""


class Path(NamedTuple):
    """Piecewise-linear functions on segments, by their knots in the order of (segment, t).

    The knots of a segment are its two ends and every kink between them; the functions are
    linear from one knot to the next.
    """

    segment: Tensor  # (n_knots,), integer
    t: Tensor  # (n_knots,), from 0 to 1 within each segment
    values: Tensor  # (n_knots, ...)


class SegmentStatistics(NamedTuple):
    """What the walk finds on each segment; squares are means over the outputs."""

    deflection: Tensor  # (n_segments,), ∫ (g - chord)² dt
    gap: Tensor  # (n_segments,), mean of (g(t_k⁺) - g(t_k⁻))² over the kinks; 0 without kinks
    chord: Tensor  # (n_segments,), (h(1) - h(0))²
    kinks: Tensor  # (n_segments,), integer


@torch.no_grad()
def walk(stack: nn.Sequential, ends: Tensor) -> Path:
    """Outputs of a piecewise-linear stack along segments, exactly; `ends`: (n_segments, 2, ...).

    Layer by layer: an affine layer maps the values at the knots, since it keeps a function
    linear between them; before an activation, each sign change of a unit between two knots
    becomes a knot itself, where all units are interpolated, which is exact too.
    """
    n = len(ends)
    segment = torch.arange(n, device=ends.device).repeat_interleave(2)
    path = Path(segment, ends.new_tensor([0.0, 1.0]).repeat(n), ends.flatten(0, 1))
    for layer in stack:
        if has_kinks(layer):
            path = _with_sign_changes(path)
        path = path._replace(values=layer(path.values))
    return path


def _sign_changes(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where units change sign between knots: (piece, fraction of the piece, t, unit), sorted."""
    t, values = path.t, path.values.flatten(1)
    negative = values < 0
    crossed = negative[1:] ^ negative[:-1]
    crossed &= (path.segment[1:] == path.segment[:-1])[:, None]
    piece, unit = crossed.nonzero(as_tuple=True)
    left, right = values[piece, unit], values[piece + 1, unit]
    fraction = left / (left - right)
    t_new = t[piece] + fraction * (t[piece + 1] - t[piece])
    # A change at a knot needs no second one: an earlier layer's kink is there, or an end.
    inside = (t_new - t[piece] > RESOLUTION) & (t[piece + 1] - t_new > RESOLUTION)
    found = [x[inside] for x in (piece, fraction, t_new, unit)]
    order = found[2].argsort()
    order = order[found[0][order].argsort(stable=True)]
    return tuple(x[order] for x in found)


def _with_sign_changes(path: Path) -> Path:
    """Add a knot wherever units change sign between two knots of one segment."""
    piece, fraction, t, unit = _sign_changes(path)
    first = torch.ones_like(piece, dtype=torch.bool)  # of the changes at one point
    first[1:] = (piece[1:] != piece[:-1]) | (t.diff() > RESOLUTION)
    knot = first.cumsum(0) - 1
    piece, fraction, t = piece[first], fraction[first], t[first]

    fraction = fraction.view(-1, *[1] * (path.values.ndim - 1))
    values = torch.lerp(path.values[piece], path.values[piece + 1], fraction).contiguous()
    values.flatten(1)[knot, unit] = 0.0  # not a rounding error, which has a sign
    new = Path(path.segment[piece], t, values)
    position = piece + 1 + torch.arange(len(piece), device=piece.device)
    is_old = torch.ones(len(path.t) + len(piece), dtype=torch.bool, device=piece.device)
    is_old[position] = False

    def merge(old: Tensor, new: Tensor) -> Tensor:
        merged = old.new_empty(len(is_old), *old.shape[1:])
        merged[is_old], merged[position] = old, new
        return merged

    return Path(*(merge(o, n) for o, n in zip(path, new)))


@torch.no_grad()
def _statistics(path: Path, n: int) -> SegmentStatistics:
    """Exact integrals and sums over the linear pieces of each of `n` segments."""
    values = path.values.flatten(1)
    within = path.segment[1:] == path.segment[:-1]
    segment = path.segment[1:][within]  # of each piece
    length = (path.t[1:] - path.t[:-1])[within]
    slope = (values[1:] - values[:-1])[within] / length[:, None]

    def total(of_segment: Tensor, amounts: Tensor) -> Tensor:
        return amounts.new_zeros(n).index_add_(0, of_segment, amounts)

    first = torch.searchsorted(path.segment, torch.arange(n + 1, device=segment.device))
    chord = values[first[1:] - 1] - values[first[:-1]]
    deflection = total(segment, (slope - chord[segment]).square().mean(1) * length)
    at_kink = segment[1:] == segment[:-1]
    jumps = (slope[1:] - slope[:-1])[at_kink].square().mean(1)
    kinks = first.diff() - 2
    gap = total(segment[1:][at_kink], jumps) / kinks.clamp(min=1)
    return SegmentStatistics(deflection, gap, chord.square().mean(1), kinks)


def in_float64(layers: list[nn.Module], device: torch.device) -> tuple[nn.Sequential, Tensor]:
    """A copy of the layers as one stack, and an empty tensor of its type and device."""
    like = torch.empty(0, dtype=torch.float64, device="cpu" if device.type == "mps" else device)
    return copy.deepcopy(nn.Sequential(*layers)).to(like), like


def _walks(layers: list[nn.Module], X: Tensor, pairs: Tensor) -> Iterator[tuple[Path, int]]:
    """Walk some segments at once, so that memory is bounded; yield their path and number."""
    stack, like = in_float64(layers, X.device)
    for chosen in pairs.split(max(1, CHUNK_NUMBERS // _numbers(stack, X[:1].to(like)))):
        yield walk(stack, X[chosen].to(like)), len(chosen)


@torch.no_grad()
def _numbers(stack: nn.Sequential, x: Tensor) -> int:
    """About how many numbers the widest layer holds of one segment's knots, at most."""
    units, widest = 2, x.numel()
    for layer in stack:
        x = layer(x)
        widest = max(widest, x.numel())
        units += x.numel() if has_kinks(layer) else 0  # a kink of each is generous
    return units * widest


def segment_statistics(layers: list[nn.Module], X: Tensor, pairs: Tensor) -> SegmentStatistics:
    """Statistics of the segments between samples ``pairs[i]``, of shape (n_segments, 2).

    The computation is in float64 (where the device has it; else on the CPU).
    """
    found = [_statistics(path, n) for path, n in _walks(layers, X, pairs)]
    return SegmentStatistics(*map(torch.cat, zip(*found)))


def kink_counts(layers: list[nn.Module], X: Tensor, pairs: Tensor) -> Tensor:
    """Number of kinks of the segments between samples ``pairs[i]``; as `segment_statistics`."""
    return torch.cat([path.segment.bincount() - 2 for path, _ in _walks(layers, X, pairs)])
