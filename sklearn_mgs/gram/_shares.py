"""A layer's share of the kernel, from what its per-sample gradients are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Factors", "linear_gram", "linear_trace", "promoted"]


def linear_gram(
    A: Tensor | None, D: Tensor, bias: bool = True, other: tuple | None = None
) -> Tensor:
    r"""Inner products of a linear layer's per-sample gradients.

    Parameters
    ----------
    A : Tensor of shape (..., n, in) or None
        Inputs of the layer; None leaves the weight out.
    D : Tensor of shape (..., n, out)
        Output gradients, those of several directions side by side.
    bias : bool, default=True
        Whether the bias counts.
    other : (A, D) of m samples, default=None
        The second factor, if it is not the first itself.

    Returns
    -------
    K : Tensor of shape (..., n, m)
        :math:`(A A^\top + 1) \circ (D D^\top)`, without ever forming a gradient, at a cost of
        n m (in + out).
    """
    A2, D2 = (A, D) if other is None else other
    K = D @ D2.mT
    if A is None:
        return K
    inputs = A @ A2.mT
    return K * (inputs + 1 if bias else inputs)


def linear_trace(A: Tensor | None, D: Tensor, bias: bool = True) -> Tensor:
    r"""Squared norms of a linear layer's per-sample gradients, the diagonal of `linear_gram`.

    Parameters
    ----------
    A, D, bias
        As for `linear_gram`.

    Returns
    -------
    squares : Tensor of shape (..., n)
        :math:`(\|a_i\|^2 + 1) \|d_i\|^2`, at a cost of n (in + out).
    """
    # Backwards, vecdot touches D less often than square().sum(-1) does.
    squares = torch.linalg.vecdot(D, D)
    if A is None:
        return squares
    inputs = torch.linalg.vecdot(A, A)
    return squares * (inputs + 1 if bias else inputs)


def promoted(dtype: torch.dtype) -> torch.dtype:
    """At least float32: the type in which kernels are accumulated."""
    return torch.promote_types(dtype, torch.float32)


@dataclass
class Factors:
    """Per-sample gradients of some parameters: outer products d aᵀ and d, or d alone.

    Attributes
    ----------
    A : Tensor of shape (n, in) or None
        Inputs; None if `D` holds whole gradients.
    D : Tensor of shape (n, out)
        Output gradients, or whole gradients.
    bias : bool
        Whether d is a gradient too, beside d aᵀ.
    """

    A: Tensor | None
    D: Tensor
    bias: bool = True

    @classmethod
    def of(cls, A: Tensor | None, D: Tensor, bias: bool, separate: bool) -> Factors:
        """Put the k directions of `D` (k, n, ...) side by side, or in rows of their own."""
        D = D.to(promoted(D.dtype))
        A = A if A is None else A.to(promoted(A.dtype))
        k = len(D)
        if k == 1:
            return cls(A, D.squeeze(0), bias)
        if separate:
            A = A if A is None else A.repeat_interleave(k, 0)
            return cls(A, D.transpose(0, 1).flatten(0, 1), bias)
        return cls(A, D.movedim(0, -2).flatten(-2), bias)

    def gram(self, other: Factors | None = None) -> Tensor:
        """Inner products with the gradients of `other`, by default of the same samples."""
        return linear_gram(
            self.A, self.D, self.bias, None if other is None else (other.A, other.D)
        )

    def squares(self) -> Tensor:
        """Squared norms, of shape (n,)."""
        return linear_trace(self.A, self.D, self.bias)

    def combined_squares(self, S: Tensor) -> Tensor:
        """Sum over the columns of `S` (n, q) of the squared norm of Σ_i S_iq g_i."""
        n, q = S.shape
        if self.A is None:
            return (S.mT @ self.D).square().sum()
        fan_in, fan_out = self.A.shape[-1], self.D.shape[-1]
        if n * (fan_in + fan_out) < q * fan_in * fan_out:
            return (self.gram() * (S @ S.mT)).sum()
        sums = torch.einsum("nq,no,ni->qoi", S, self.D, self.A).square().sum()
        return sums + (S.mT @ self.D).square().sum() if self.bias else sums
