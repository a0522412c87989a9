"""Closed forms of a linear layer against its gradients; leading dimensions are separate nets."""

import pytest
import torch

from sklearn_mgs.gram import linear_gram, linear_trace


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
