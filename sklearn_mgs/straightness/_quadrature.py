"""Slopes of any module along straight segments: adaptive integrals, and steps of a grid."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sklearn_mgs.gram._outputs import output_matrix

__all__ = ["Segments", "deflection_by_quadrature", "gap_over_grid", "integrate"]

N_NODES = 7
"""Gauss-Legendre nodes in each interval."""

FORGIVEN = 8.0
"""How much more than now the rules may have differed on the interval that was bisected."""

MAX_BISECTIONS = 30
"""Where the slope jumps, each halves the error: after 30 it is below 1e-9 of the jump's."""

MAX_INTERVALS = 4096
"""Per segment, on average; noise would go on doubling their number."""

CHUNK_ROWS = 1024
"""Points at which the module is evaluated at once."""

ROUNDING = 100.0
"""Relative rounding error of a slope, as a generous multiple of the machine epsilon."""


def _gauss_legendre(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], by the eigenvalues of the Jacobi matrix (Golub, Welsch)."""
    k = torch.arange(1, N_NODES, dtype=torch.float64)
    off_diagonal = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off_diagonal, -1))
    return ((1 + nodes) / 2).to(like), vectors[0].square().to(like)


def integrate(
    f: Callable[[Tensor, Tensor], Tensor],
    n: int,
    tol: Callable[[Tensor], Tensor],
    like: Tensor,
) -> Tensor:
    """Integrals over [0, 1] of `n` functions, each bisected where its error needs it.

    ``f(i, t)``, with `i` of shape (m,) and `t` of shape (m, n_t), gives the value of function
    ``i[k]`` at ``t[k]``. An interval is final when its rule and the rule on its two halves
    differ by no more than its share of ``tol(integrals)``, the absolute tolerances. Warns if
    that takes too many intervals.
    """
    nodes, weights = _gauss_legendre(like)

    def rule(i: Tensor, start: Tensor, width: Tensor) -> Tensor:
        return f(i, start[:, None] + width[:, None] * nodes) @ weights * width

    i = torch.arange(n, device=like.device)
    start, width = like.new_zeros(n), like.new_ones(n)
    coarse = rule(i, start, width)
    earlier = torch.full_like(coarse, torch.inf)
    final = like.new_zeros(n)
    for _ in range(MAX_BISECTIONS):
        width = (width / 2).repeat_interleave(2)
        start = start.repeat_interleave(2)
        start[1::2] += width[1::2]
        halves = rule(i.repeat_interleave(2), start, width)
        fine = halves.view(-1, 2).sum(1)
        difference = (fine - coarse).abs()
        # Half of the tolerance in one round, since the errors of the rounds add up.
        share = 0.5 / torch.bincount(i, minlength=n).clamp(min=1)
        allowed = tol(final.index_add(0, i, fine)) * share
        # Two rules can agree by accident at a jump, but hardly so twice.
        refine = torch.maximum(difference, earlier / FORGIVEN) > allowed[i]
        final.index_add_(0, i[~refine], fine[~refine])
        if not refine.any():
            return final
        i, earlier = (x[refine].repeat_interleave(2) for x in (i, difference))
        refine = refine.repeat_interleave(2)
        start, width, coarse = start[refine], width[refine], halves[refine]
        if len(i) > MAX_INTERVALS * n:
            break
    warnings.warn(
        "The integrals along the segments did not reach the tolerance; raise tol, or run the "
        "network in float64.",
        RuntimeWarning,
        stacklevel=2,
    )
    return final.index_add(0, i, coarse)


class Segments(NamedTuple):
    """A network on the straight segments between pairs of samples."""

    module: nn.Module
    X: Tensor  # (n_samples, ...)
    pairs: Tensor  # (n_segments, 2), indices of samples

    def evaluate(self, f: Callable[[Tensor, Tensor], Tensor], i: Tensor, t: Tensor) -> Tensor:
        """``f(points, directions)`` at ``t[k]`` on segment ``i[k]``: (m, n_t, n_outputs)."""
        found = []
        per_chunk = max(1, CHUNK_ROWS // t.shape[1])
        for chosen, at in zip(self.pairs[i].split(per_chunk), t.split(per_chunk)):
            start, end = self.X[chosen.repeat_interleave(t.shape[1], 0)].unbind(1)
            along = at.reshape(-1, *[1] * (start.ndim - 1))
            points = f(torch.lerp(start, end, along), end - start)
            found.append(points.unflatten(0, at.shape))
        return torch.cat(found)

    @torch.no_grad()
    def outputs(self, t: Tensor) -> Tensor:
        """Outputs at the same `t`, of shape (n_t,), on every segment."""
        i = torch.arange(len(self.pairs), device=t.device)
        return self.evaluate(lambda x, _: output_matrix(self.module(x)), i, t.expand(len(i), -1))

    def slopes(self, i: Tensor, t: Tensor) -> Tensor:
        """Derivatives of the outputs with respect to t, by forward mode."""

        def slope(x: Tensor, direction: Tensor) -> Tensor:
            jvp = torch.func.jvp(lambda x: output_matrix(self.module(x)), (x,), (direction,))
            return jvp[1].detach()

        # The fused kernels of attention have no forward mode.
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            # torch's own forward mode warns of its own use of torch.jit.script.
            warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
            try:
                return self.evaluate(slope, i, t)
            except Exception as error:  # of many types: its values can be computed
                raise ValueError(
                    f"The slope of {type(self.module).__name__} between samples cannot be "
                    f"computed ({error}); write its forward with torch operations that have "
                    "forward-mode derivatives."
                ) from error

    def chords(self) -> Tensor:
        """Differences of the outputs at the two ends, of shape (n_segments, n_outputs)."""
        return self.outputs(self.X.new_tensor([0.0, 1.0])).diff(dim=1)[:, 0]


def deflection_by_quadrature(segments: Segments, tol: float) -> tuple[Tensor, Tensor]:
    """Mean over the outputs of ∫ (g - chord)² dt, and of chord²; both of shape (n_segments,).

    The first to a relative tolerance `tol`, as far as rounding in the module's own precision
    lets it.
    """
    chord = segments.chords()
    chord_square = chord.square().mean(1)
    rounding = ROUNDING * torch.finfo(chord.dtype).eps

    def deviation(i: Tensor, t: Tensor) -> Tensor:
        return (segments.slopes(i, t) - chord[i, None]).square().mean(2)

    def tolerance(squared: Tensor) -> Tensor:
        slope = (squared + chord_square).sqrt()
        return tol * squared + rounding * slope * (squared.sqrt() + rounding * slope)

    return integrate(deviation, len(chord), tolerance, chord), chord_square


def gap_over_grid(segments: Segments, n_steps: int) -> tuple[Tensor, Tensor]:
    """Mean over steps and outputs of the squared change of slope, and mean square chord."""
    X = segments.X
    chord = segments.chords()
    t = torch.linspace(0, 1, n_steps + 1, dtype=X.dtype, device=X.device)
    i = torch.arange(len(segments.pairs), device=X.device)
    slopes = segments.slopes(i, t.expand(len(i), -1))
    return slopes.diff(dim=1).square().mean((1, 2)), chord.square().mean(1)
