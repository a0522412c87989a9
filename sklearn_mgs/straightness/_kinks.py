"""Where functions that are linear between knots have kinks, and knots added there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Growth", "growth", "maximum_changes", "sign_changes"]

RESOLUTION = 1e-10
"""Kinks whose t differ by no more than this are one point."""


class Growth(NamedTuple):
    """New knots among the old: where they come, and between which."""

    is_old: Tensor  # (n_after,), bool
    position: Tensor  # (n_new,), of the new knots
    piece: Tensor  # (n_new,), the old knot before each
    fraction: Tensor  # (n_new,), of the way to the one after

    def __call__(self, old: Tensor) -> Tensor:
        """Rows at the old knots to rows at all of them, by linear interpolation."""
        fraction = self.fraction.view(-1, *[1] * (old.ndim - 1))
        return self.merge(old, torch.lerp(old[self.piece], old[self.piece + 1], fraction))

    def merge(self, old: Tensor, new: Tensor) -> Tensor:
        """Rows at the old knots and at the new ones, in the order of the knots."""
        grown = old.new_empty(len(self.is_old), *old.shape[1:])
        grown[self.is_old], grown[self.position] = old, new
        return grown


def sign_changes(values: Tensor, segment: Tensor, tiny: Tensor) -> tuple[Tensor, Tensor]:
    """Where columns of `values` (n_knots, n_columns) change sign between knots of a segment.

    Returns the knots before and the fractions of the way to the next. A value of no more than
    `tiny` at a knot is zero there: a change at a knot needs no second one.
    """
    negative = values < 0
    crossed = negative[1:] ^ negative[:-1]
    crossed &= (segment[1:] == segment[:-1])[:, None]
    piece, column = crossed.nonzero(as_tuple=True)
    left, right = values[piece, column], values[piece + 1, column]
    clear = (left.abs() > tiny) & (right.abs() > tiny)
    return piece[clear], (left / (left - right))[clear]


def maximum_changes(windows: Tensor, segment: Tensor, tiny: Tensor) -> tuple[Tensor, Tensor]:
    """Where the largest of the entries of a window changes between knots; as `sign_changes`.

    `windows` has the shape (n_knots, n_windows, n_entries). The maximum of linear functions is
    convex: it is followed from line to line, each time to the one that next exceeds it.
    """
    largest = windows.argmax(-1)
    changed = (largest[1:] != largest[:-1]) & (segment[1:] == segment[:-1])[:, None]
    piece, window = changed.nonzero(as_tuple=True)
    left, right = windows[piece, window], windows[piece + 1, window]
    line = largest[piece, window][:, None]
    pieces, fractions = [piece[:0]], [left[:0, 0]]
    while len(piece):
        behind = left.gather(1, line) - left
        ahead = right - right.gather(1, line)
        behind = behind.where(behind > tiny, 0.0)
        fraction, line = (
            (behind / (behind + ahead)).where(ahead > 0, torch.inf).min(1, keepdim=True)
        )
        goes_on = fraction[:, 0].isfinite()
        piece, left, right, line = (x[goes_on] for x in (piece, left, right, line))
        pieces.append(piece)
        fractions.append(fraction[goes_on, 0])
    return torch.cat(pieces), torch.cat(fractions)


def growth(piece: Tensor, fraction: Tensor, segment: Tensor, t: Tensor) -> Growth:
    """New knots at these fractions of these pieces, where no knot is yet; one for each point."""
    at = torch.lerp(t[piece], t[piece + 1], fraction)
    inside = (at - t[piece] > RESOLUTION) & (t[piece + 1] - at > RESOLUTION)
    piece, fraction, at = piece[inside], fraction[inside], at[inside]
    order = at.argsort()
    order = order[piece[order].argsort(stable=True)]
    piece, fraction, at = piece[order], fraction[order], at[order]
    first = torch.ones_like(piece, dtype=torch.bool)  # of the changes at one point
    first[1:] = (piece[1:] != piece[:-1]) | (at.diff() > RESOLUTION)
    piece, fraction = piece[first], fraction[first]

    position = piece + 1 + torch.arange(len(piece), device=piece.device)
    is_old = torch.ones(len(t) + len(piece), dtype=torch.bool, device=piece.device)
    is_old[position] = False
    return Growth(is_old, position, piece, fraction)
