"""Closed forms of a linear layer against its gradients; leading dimensions are separate nets."""

import pytest
import torch

from sklearn_mgs.gram import linear_gram, linear_trace
from sklearn_mgs.gram._shares import Factors


@pytest.mark.parametrize("bias", [True, False])
def test_leading_dimensions_broadcast(bias):
    A, D = torch.randn(5, 3).double(), torch.randn(2, 4, 5, 2).double()
    K = linear_gram(A, D, bias)
    assert K.shape == (2, 4, 5, 5)
    assert torch.allclose(linear_trace(A, D, bias), K.diagonal(dim1=-2, dim2=-1))
    for i in range(2):
        for j in range(4):
            G = torch.einsum("no,ni->noi", D[i, j], A).flatten(1)
            G = torch.cat([G, D[i, j]], 1) if bias else G
            assert torch.allclose(K[i, j], G @ G.T)


def whole(A, D, bias):
    """Gradients sample by sample, of shape (n, p)."""
    if A is None:
        return D
    D = D if D.dim() == 3 else D[:, None]
    A = A if not A.is_floating_point() or A.dim() == 3 else A[:, None]
    if A.is_floating_point():
        G = torch.stack([sum(torch.outer(d, a) for d, a in zip(*x)).flatten() for x in zip(D, A)])
    else:
        one_hot = torch.nn.functional.one_hot(A, VOCABULARY).double()
        G = torch.einsum("nti,nto->nio", one_hot, D).flatten(1)
    return torch.cat([G, D.sum(1)], 1) if bias else G


VOCABULARY = 6
FACTORS = {
    "rows": (torch.randn(5, 3).double(), torch.randn(5, 2).double()),
    "few positions": (torch.randn(5, 2, 30).double(), torch.randn(5, 2, 20).double()),
    "many positions": (torch.randn(5, 30, 2).double(), torch.randn(5, 30, 3).double()),
    "few tokens": (torch.randint(VOCABULARY, (5, 2)), torch.randn(5, 2, 20).double()),
    "many tokens": (torch.randint(VOCABULARY, (5, 90)), torch.randn(5, 90, 2).double()),
    "no outputs": (torch.randn(5, 3).double(), torch.randn(5, 0).double()),
    "whole": (None, torch.randn(5, 7).double()),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", FACTORS)
def test_both_forms_and_products_with_vectors(name, bias):
    A, D = FACTORS[name]
    bias = bias and (A is None or A.is_floating_point())
    factors = Factors(A, D, bias, VOCABULARY if A is None or A.dim() < 3 else A.shape[-1])
    if A is not None and A.dim() == 2 and A.is_floating_point():
        factors.n_inputs = A.shape[-1]
    G = whole(A, D, bias)
    assert torch.allclose(factors.gram(), G @ G.T)
    assert torch.allclose(factors.squares(), (G**2).sum(1))
    other = Factors(None if A is None else A[:3], D[:3], bias, factors.n_inputs)
    assert torch.allclose(factors.gram(other), G @ G[:3].T)
    for q in (1, 4):
        S, U = torch.randn(5, q).double(), torch.randn(q, G.shape[1]).double()
        assert torch.allclose(factors.combine(S), S.T @ G)
        assert torch.allclose(factors.project(U), G @ U.T)
        assert torch.allclose(factors.product(S), G @ (G.T @ S))
        assert torch.allclose(factors.combined_squares(S), ((S.T @ G) ** 2).sum())


def test_whole_gradients_are_held_where_they_are_fewer_numbers():
    for name, n_numbers in {"few positions": None, "many positions": 2 * 3 + 3}.items():
        A, D = FACTORS[name]
        for k in (1, 2):  # directions, with positions before or after the layer's outputs
            for directions in (D.expand(k, *D.shape), D.mT.contiguous().mT.expand(k, *D.shape)):
                factors = Factors.of(A, directions, True, False)
                G = whole(A, torch.cat([D] * k, 2), True)
                assert torch.allclose(factors.gram(), G @ G.T)
                assert factors.A is not None or factors.D.shape == (5, k * n_numbers)


def test_forms_are_chosen_by_their_operations():
    for name, form in {"few positions": "inner products", "many positions": "whole"}.items():
        A, D = FACTORS[name]
        forms = Factors(A, D, True, A.shape[-1]).forms()
        assert all(text.startswith(form) for text in forms.values()), forms
