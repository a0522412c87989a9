"""Traces of functions of a large symmetric matrix by stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_mgs.gram._outputs import drawn

__all__ = ["Estimate", "spectral_sum"]


class Estimate(NamedTuple):
    """A value and the half width of an interval around it."""

    value: Tensor
    error: Tensor


class _Lanczos:
    """Lanczos recursions from several vectors at once, fully reorthogonalised."""

    def __init__(self, matmul: Callable[[Tensor], Tensor], Z: Tensor):
        self.matmul = matmul
        self.basis = (Z / Z.norm(dim=0)).mT[:, None].contiguous()  # (q, capacity, n)
        self.alpha: list[Tensor] = []
        self.beta: list[Tensor] = []

    def step(self) -> None:
        m = len(self.alpha)
        w = self.matmul(self.basis[:, m].mT).mT[..., None]  # (q, n, 1)
        scale = 10 * torch.finfo(w.dtype).eps * w.norm(dim=1)[:, 0]
        Q = self.basis[:, : m + 1]
        for i in range(2):  # twice is enough
            coefficients = Q @ w
            w = w - Q.mT @ coefficients
            if i == 0:
                self.alpha.append(coefficients[:, m, 0])
        beta = w.norm(dim=1)[:, 0]
        # An invariant subspace: go on with nothing, which gets no weight.
        beta = torch.where(beta > scale, beta, 0.0)
        self.beta.append(beta)
        w = torch.where(beta > 0, w[..., 0].mT / beta.clamp_min(1e-300), 0.0)
        if m + 1 == self.basis.shape[1]:
            self.basis = torch.cat([self.basis, torch.empty_like(self.basis)], 1)
        self.basis[:, m + 1] = w.mT

    def quadrature(self, f: Callable[[Tensor], Tensor], end: Tensor | None = None) -> Tensor:
        """Gauss rule for zᵀ f(K) z / zᵀ z, or, with a node fixed at `end`, Gauss-Radau; (q,)."""
        alpha, beta = torch.stack(self.alpha, 1), torch.stack(self.beta, 1)  # (q, m)
        T = _tridiagonal(alpha, beta[:, :-1])
        if end is not None:
            unit = torch.zeros_like(alpha)
            unit[:, -1] = beta[:, -1] ** 2
            shifted = T - end * torch.eye(T.shape[-1], dtype=T.dtype, device=T.device)
            last = end + torch.linalg.solve(shifted, unit)[:, -1]
            T = _tridiagonal(torch.cat([alpha, last[:, None]], 1), beta)
        nodes, vectors = torch.linalg.eigh(T)
        return (vectors[:, 0, :] ** 2 * f(nodes)).sum(-1)


def _tridiagonal(alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha.diag_embed() + beta.diag_embed(1) + beta.diag_embed(-1)


def spectral_sum(
    matmul: Callable[[Tensor], Tensor],
    f: Callable[[Tensor], Tensor],
    n: int,
    *,
    end: Tensor,
    n_probes: int,
    max_steps: int,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Estimate tr f(K), and how far from it the estimate may be.

    The trace is that over the span of a few leading vectors, without chance, plus that over
    their complement, from random vectors in it: what is large is not left to chance. Of so few
    rows that there are as many vectors, nothing is.

    Parameters
    ----------
    matmul : callable
        V (n, q) to K V, K symmetric with no eigenvalue below `end`.
    f : callable
        Function whose even derivatives are of one sign between the eigenvalues, so that the
        Gauss rule and the Gauss-Radau rule with a node at `end` are bounds on either side.
    n : int
        Rows of K.
    end : Tensor of shape ()
        Lower bound of the spectrum; its type and device are those of the vectors.
    n_probes : int
        Random vectors, at least 2, and as many leading ones.
    max_steps : int
        Most Lanczos steps; they stop when the bounds are ten times closer than the scatter.
    generator : torch.Generator, default=None
        Source of the random vectors.

    Returns
    -------
    estimate : Estimate
        The half width is that of a 99 % interval from the scatter (Student's t), plus half the
        distance of the bounds.
    """
    if n_probes < 2 or max_steps < 1:
        raise ValueError(
            f"The estimate needs n_probes of at least 2 and max_steps of at least 1; got "
            f"{n_probes} and {max_steps}."
        )
    rank = n if n <= 2 * n_probes else n_probes
    lanczos = _Lanczos(matmul, _starts(matmul, n, end, n_probes, generator))
    check, steps = 8, min(n, max_steps)
    for step in range(1, steps + 1):
        lanczos.step()
        if step < min(check, steps):
            continue
        check = check * 3 // 2
        bounds = torch.stack([lanczos.quadrature(f), lanczos.quadrature(f, end)])
        gaps, middle = (bounds[0] - bounds[1]).abs() / 2, bounds.mean(0)
        value, distance, scatter = middle[:rank].sum(), gaps[:rank].sum(), 0.0
        if rank < n:
            values = (n - rank) * middle[rank:]
            value = value + values.mean()
            distance = distance + (n - rank) * gaps[rank:].mean()
            scatter = _t_quantile(n_probes - 1) * values.std() / n_probes**0.5
            if distance < scatter / 10:
                break
    return Estimate(value, scatter + distance)


def _starts(matmul, n: int, like: Tensor, n_probes: int, generator) -> Tensor:
    """Orthonormal leading vectors, then random ones orthogonal to them; unit vectors if few."""
    if n <= 2 * n_probes:
        return torch.eye(n, dtype=like.dtype, device=like.device)
    Z = drawn((n, 2 * n_probes), like, generator)
    Q = torch.linalg.qr(matmul(torch.linalg.qr(matmul(Z[:, :n_probes]))[0]))[0]
    Z = Z[:, n_probes:]
    for _ in range(2):
        Z = Z - Q @ (Q.mT @ Z)
    return torch.cat([Q, Z], 1)


def _t_quantile(freedom: int) -> float:
    """99.5 % quantile of Student's t by its expansion about the normal's."""
    z = 2.5758
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
