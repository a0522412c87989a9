"""A layer's share of the kernel, from what its per-sample gradients are made of."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from sklearn_mgs.gram._chunks import parts

__all__ = ["Factors", "linear_gram", "linear_trace", "promoted"]

_MOST_PRODUCTS = 2**21  # numbers in a temporary of products with vectors


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
    inputs = _inner(A, A2)
    return K * (inputs + 1 if bias else inputs)


def _inner(A: Tensor, B: Tensor) -> Tensor:
    """Inner products of rows; an integer (..., n) stands for its one-hot row."""
    if A.is_floating_point():
        return A @ B.mT
    return A[..., :, None] == B[..., None, :]


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


def promoted(X: Tensor) -> Tensor:
    """At least float32, in which kernels are accumulated; integers stay."""
    return X.float() if X.dtype in (torch.float16, torch.bfloat16) else X


@dataclass
class Factors:
    """Per-sample gradients of a layer: sums over positions of d aᵀ and d, or whole.

    Attributes
    ----------
    A : Tensor of shape (n, in) or (n, T, in), integer of shape (n, T), or None
        Inputs; integers stand for one-hot rows; None if `D` holds whole gradients.
    D : Tensor of shape (n, out) or (n, T, out)
        Output gradients, or whole gradients.
    bias : bool
        Whether d is a gradient too, beside d aᵀ.
    n_inputs : int
        Length of the rows of `A`.
    """

    A: Tensor | None
    D: Tensor
    bias: bool = True
    n_inputs: int = 0

    @classmethod
    def of(cls, A: Tensor | None, D: Tensor, bias: bool, separate: bool, n_inputs: int = 0):
        """Put the k directions of `D` (k, n, ...) side by side, or in rows of their own."""
        if A is not None and A.is_floating_point():
            n_inputs = A.shape[-1]
        k = len(D)
        if k == 1:
            return cls(A, D.squeeze(0), bias, n_inputs).smallest()
        if separate:
            A = A if A is None else A.repeat_interleave(k, 0)
            return cls(A, D.transpose(0, 1).flatten(0, 1), bias, n_inputs)
        if D.dim() == 4 and D.stride(-1) > D.stride(-2):  # positions last, as convolutions have
            return cls(A, D.mT.transpose(0, 1).flatten(1, 2).mT, bias, n_inputs).smallest()
        return cls(A, D.movedim(0, -2).flatten(-2), bias, n_inputs).smallest()

    @classmethod
    def of_gradients(cls, G: Tensor, separate: bool) -> Factors:
        """Whole gradients of a parameter, of shape (n, k, ...)."""
        rows = G.unsqueeze(-1).flatten(2)  # a parameter may be a single number
        return cls.of(None, promoted(rows.transpose(0, 1)), False, separate)

    def smallest(self) -> Factors:
        """Whole gradients, where they are fewer numbers: all that is made of them costs less."""
        if self.D.dim() == 2 or self.A is None or not self.A.is_floating_point():
            return self
        factors = self.D.shape[1] * (self.n_inputs + self.D.shape[2])
        return self.whole() if self.n_gradients < factors else self

    def forms(self) -> dict[str, str]:
        """Say how `gram` and `squares` are computed, and the operations of either way."""
        if self.A is None:
            return {"gram": "whole gradients", "squares": "whole gradients"}
        n, T = self.D.shape[:2] if self.D.dim() == 3 else (len(self.D), 1)
        costs = {
            "gram": self._costs((n * T) ** 2, 2 * n * T, n * n),
            "squares": self._costs(n * T * T, n * T, n),
        }
        return {
            what: f"{'inner products' if T == 1 or pairs <= whole else 'whole gradients'}: "
            f"{pairs:.1e} against {whole:.1e} operations"
            for what, (pairs, whole) in costs.items()
        }

    @property
    def n_gradients(self) -> int:
        """Length of a whole gradient."""
        o = self.D.shape[-1]
        return o if self.A is None else o * (self.n_inputs + self.bias)

    @property
    def size(self) -> int:
        """Numbers held, those of a sample's squared norm included."""
        held = self.D.numel() + (0 if self.A is None else self.A.numel())
        if self.D.dim() == 2:
            return held
        n, T = self.D.shape[:2]
        whole = self._whole_is_cheaper(n * T * T, n * T, n)
        return held + n * (self.n_gradients if whole else 2 * T * T)

    def to(self, dtype: torch.dtype) -> Factors:
        """Return the same in another precision."""
        A = self.A if self.A is None or not self.A.is_floating_point() else self.A.to(dtype)
        return Factors(A, self.D.to(dtype), self.bias, self.n_inputs)

    def gram(self, other: Factors | None = None) -> Tensor:
        """Inner products with the gradients of `other`, by default of the same samples."""
        other = self if other is None else other
        if self.D.dim() == 2:
            return linear_gram(self.A, self.D, self.bias, (other.A, other.D))
        (n, T), (m, S) = self.D.shape[:2], other.D.shape[:2]
        if self._whole_is_cheaper(n * T * m * S, n * T + m * S, n * m):
            return self.whole().gram(other.whole())
        A, D, _ = self._rows()
        return linear_gram(A, D, self.bias, other._rows()[:2]).view(n, T, m, S).sum((1, 3))

    def squares(self) -> Tensor:
        """Squared norms, of shape (n,)."""
        if self.D.dim() == 2:
            return linear_trace(self.A, self.D, self.bias)
        n, T = self.D.shape[:2]
        if self._whole_is_cheaper(n * T * T, n * T, n):
            return self.whole().squares()
        return linear_gram(self.A, self.D, self.bias).sum((1, 2))

    def _costs(self, pairs: int, rows: int, products: int) -> tuple[int, int]:
        """Operations of inner products of pairs of rows, and of gradients and their products."""
        inner, o = self._inner_cost, self.D.shape[-1]
        return pairs * (inner + o), (rows * inner + products * self.n_inputs) * o

    def _whole_is_cheaper(self, pairs: int, rows: int, products: int) -> bool:
        by_pairs, by_gradients = self._costs(pairs, rows, products)
        return by_pairs > by_gradients

    @property
    def _inner_cost(self) -> int:
        """Operations of an inner product of two rows of A."""
        return self.n_inputs if self.A is not None and self.A.is_floating_point() else 1

    def whole(self) -> Factors:
        """Return the gradients themselves."""
        A, D = self.A, self.D
        assert A is not None
        if A.is_floating_point():
            G = (D.mT @ A).flatten(1)
        else:
            index = A[..., None].expand_as(D)
            G = D.new_zeros(len(D), self.n_inputs, D.shape[-1]).scatter_add(1, index, D).flatten(1)
        return Factors(None, torch.cat([G, D.sum(1)], 1) if self.bias else G)

    def combine(self, S: Tensor) -> Tensor:
        """Sums Σ_i S_iq g_i of gradients, of shape (q, p), for `S` of shape (n, q)."""
        blocks = self._row_blocks(self._numbers_with(S.shape[1]))
        terms = (f.to(S.dtype)._combine(S[rows]) for rows, f in blocks)
        return reduce(operator.add, terms)

    def _combine(self, S: Tensor) -> Tensor:
        if self._whole_pays(S.shape[1]):
            return self.whole()._combine(S)
        if self.A is None:
            return S.mT @ self.D
        A, D, S = self._rows(S)
        if A.is_floating_point():
            sums = torch.einsum("rq,ro,ri->qoi", S, D, A)
        else:
            sums = D.new_zeros(S.shape[1], self.n_inputs, D.shape[1])
            sums = sums.index_add(1, A, S.mT[:, :, None] * D)
        sums = sums.flatten(1)
        return torch.cat([sums, S.mT @ D], 1) if self.bias else sums

    def project(self, U: Tensor) -> Tensor:
        """Inner products <g_i, u_q> with vectors `U` (q, p) laid out as by `combine`, (n, q)."""
        blocks = self._row_blocks(self._numbers_with(len(U)))
        return torch.cat([f.to(U.dtype)._project(U) for _, f in blocks])

    def _project(self, U: Tensor) -> Tensor:
        if self._whole_pays(len(U)):
            return self.whole()._project(U)
        if self.A is None:
            return self.D @ U.mT
        A, D, _ = self._rows()
        o = D.shape[1]
        W = U[:, : o * self.n_inputs]
        if A.is_floating_point():
            inner = torch.einsum("ri,qoi->rqo", A, W.unflatten(1, (o, self.n_inputs)))
        else:
            inner = W.unflatten(1, (self.n_inputs, o))[:, A].transpose(0, 1)
        products = (inner * D[:, None]).sum(-1)  # not matmul, slow for so many small products
        if self.bias:
            products = products + D @ U[:, -o:].mT
        return products.view(len(self.D), -1, len(U)).sum(1)

    def product(self, V: Tensor) -> Tensor:
        """Product of the samples' own kernel with `V` (n, q): by its rows, or by J and Jᵀ."""
        n, rows = len(self.D), self.D.shape[:-1].numel()
        whole = rows * self.n_gradients if self.D.dim() == 3 else 0
        inner = 0 if self.A is None else self._inner_cost
        if rows**2 * (inner + self.D.shape[-1]) > whole + 2 * V.shape[1] * n * self.n_gradients:
            return self.project(self.combine(V))
        own, blocks = self.to(V.dtype), self._row_blocks(rows * rows // n)
        return torch.cat([f.to(V.dtype).gram(own) @ V for _, f in blocks])

    def _whole_pays(self, n_vectors: int) -> bool:
        """Whether `combine` and `project` form gradients first: with several positions."""
        return self.A is not None and self.D.dim() == 3 and n_vectors > 1

    def _numbers_with(self, n_vectors: int) -> int:
        """Numbers that `combine` and `project` make for each sample."""
        if self.A is None or self._whole_pays(n_vectors):
            return self.n_gradients
        positions = self.D.shape[1] if self.D.dim() == 3 else 1
        return positions * (self.n_inputs + n_vectors * self.D.shape[-1])

    def _row_blocks(self, numbers: int) -> Iterator[tuple[slice, Factors]]:
        """Parts of the samples for a temporary of so many numbers for each sample."""
        for rows in parts(len(self.D), max(1, _MOST_PRODUCTS // max(1, numbers))):
            A = self.A if self.A is None else self.A[rows]
            yield rows, Factors(A, self.D[rows], self.bias, self.n_inputs)

    def _rows(self, S: Tensor | None = None) -> tuple:
        """Factors, and the samples' weights beside them, with positions as rows."""
        A, D = self.A, self.D
        assert A is not None
        if D.dim() == 2:
            return A, D, S
        if S is not None:
            S = S.repeat_interleave(D.shape[1], 0)
        return A.flatten(0, 1), D.flatten(0, 1), S

    def combined_squares(self, S: Tensor) -> Tensor:
        """Sum over the columns of `S` (n, q) of the squared norm of Σ_i S_iq g_i."""
        q = S.shape[1]
        rows = self.D.shape[:-1].numel()
        inner, o = self._inner_cost, self.D.shape[-1]
        if self.A is not None and rows * (inner + o) < q * inner * o:
            return (self.gram() * (S @ S.mT)).sum()
        return self.combine(S).square().sum()
