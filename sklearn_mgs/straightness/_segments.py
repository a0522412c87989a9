"""Statistics of modules on segments between samples, from the exact walk."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sklearn_mgs.straightness._operations import NotWalkable
from sklearn_mgs.straightness._walk import Path, walk

__all__ = ["SegmentStatistics", "kink_counts", "paths", "segment_statistics"]

CHUNK_NUMBERS = 2**22
"""About how many numbers one layer holds of the segments that are walked at once."""


class SegmentStatistics(NamedTuple):
    """What the walk finds on each segment; squares are means over the outputs."""

    deflection: Tensor  # (n_segments,), ∫ (g - chord)² dt
    gap: Tensor  # (n_segments,), mean of (g(t_k⁺) - g(t_k⁻))² over the kinks; 0 without kinks
    chord: Tensor  # (n_segments,), (h(1) - h(0))²
    kinks: Tensor  # (n_segments,), integer


@torch.no_grad()
def _statistics(path: Path, n: int) -> SegmentStatistics:
    """Exact integrals and sums over the linear pieces of each of `n` segments."""
    values = path.values
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


def _in_float64(module: nn.Module, device: torch.device) -> tuple[nn.Module, Tensor]:
    """A copy of the module, and an empty tensor of its type and device."""
    like = torch.empty(0, dtype=torch.float64, device="cpu" if device.type == "mps" else device)
    try:
        return copy.deepcopy(getattr(module, "_orig_mod", module)).to(like), like  # not compiled
    except Exception as error:  # whatever stands in the way of a copy
        raise NotWalkable(f"a copy in float64 fails: {error}") from error


def paths(module: nn.Module, X: Tensor, pairs: Tensor) -> Iterator[tuple[Path, int]]:
    """Walk the segments between samples ``pairs[i]``; yield paths of several, and of how many.

    In float64 (where the device has it; else on the CPU). So that memory is bounded, some
    segments are walked at once, or only a part of one.
    """
    module, like = _in_float64(module, X.device)
    _, counts = walk(module, X[[0, 0]][None].to(like))  # nothing between: only to count
    numbers = (2 + counts.n_units) * counts.widest  # at most: a kink of each unit is generous
    n_parts = (numbers // CHUNK_NUMBERS) | 1  # odd: the middle may be the kink of every unit
    at_once = max(1, CHUNK_NUMBERS // numbers)
    for chosen in pairs.split(at_once):
        ends = X[chosen].to(like)
        found = [walk(module, part)[0] for part in _split(ends, n_parts).split(at_once)]
        yield _joined(found, n_parts), len(chosen)


def _split(ends: Tensor, n_parts: int) -> Tensor:
    """Ends (n_segments, 2, ...) of segments to those of `n_parts` equal parts of each."""
    t = torch.linspace(0, 1, n_parts + 1, dtype=ends.dtype, device=ends.device)
    t = t.view(-1, *[1] * (ends.ndim - 2))
    points = torch.lerp(ends[:, :1], ends[:, 1:], t)  # (n_segments, n_parts + 1, ...)
    return torch.stack([points[:, :-1], points[:, 1:]], 2).flatten(0, 1)


def _joined(found: list[Path], n_parts: int) -> Path:
    """One path from the paths of parts, whose inner ends are no kinks."""
    if n_parts == 1:
        return found[0]
    segment = torch.cat([path.segment + i for i, path in enumerate(found)])
    part = segment % n_parts
    changes = segment.diff(prepend=segment[:1] - 1) != 0
    first, last = changes & (part > 0), changes.roll(-1) & (part < n_parts - 1)
    kept = ~(first | last)
    t = (part + torch.cat([path.t for path in found])) / n_parts
    values = torch.cat([path.values for path in found])
    is_linear = all(path.is_linear for path in found)
    return Path((segment // n_parts)[kept], t[kept], values[kept], is_linear)


def segment_statistics(module: nn.Module, X: Tensor, pairs: Tensor) -> SegmentStatistics:
    """Statistics of the segments between samples ``pairs[i]``, of shape (n_segments, 2)."""
    found = []
    for path, n in paths(module, X, pairs):
        if not path.is_linear:
            raise NotWalkable("its outputs are not piecewise linear")
        found.append(_statistics(path, n))
    return SegmentStatistics(*map(torch.cat, zip(*found)))


def kink_counts(module: nn.Module, X: Tensor, pairs: Tensor) -> Tensor:
    """Number of kinks of the segments between samples ``pairs[i]``."""
    return torch.cat([path.segment.bincount() - 2 for path, _ in paths(module, X, pairs)])
