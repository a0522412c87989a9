"""The kernel of all outputs of a multilayer perceptron, without hooks or autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_mgs._closed_form_pass import ACTIVATIONS
from sklearn_mgs._module import MLP
from sklearn_mgs.gram import linear_gram

__all__ = ["mlp_gram"]


@torch.no_grad()
def mlp_gram(module: MLP, X: Tensor) -> Tensor:
    r"""Kernel of all outputs in evaluation mode, shape (n_samples, n_samples).

    With inputs :math:`A_l`, slopes :math:`\Phi_l` of the activation below layer l, and outputs'
    gradients :math:`D_l` of shape (n, C, out), the kernel is
    :math:`\sum_l (A_l A_l^\top + 1) \circ \sum_c D_{l,c} D_{l,c}^\top`. The last layer's sum is
    :math:`C`, and that of the layer below it :math:`\Phi\, \mathrm{diag}(\sum_c W_c^2)\,
    \Phi^\top`, without a factor C in its cost.
    """
    linears = module.linears
    activations = [ACTIVATIONS[type(part)] for part in module if type(part) in ACTIVATIONS]
    inputs = [X]
    for linear, activation in zip(linears, activations):
        Z = torch.addmm(linear.bias, inputs[-1], linear.weight.mT)
        inputs.append(activation.value(Z))
    last = linears[-1].weight
    K = len(last) * (inputs[-1] @ inputs[-1].mT + 1)
    D = None
    for i in reversed(range(len(linears) - 1)):
        slope = activations[i].slope(inputs[i + 1])
        if D is None:
            rows = slope * torch.linalg.vector_norm(last, dim=0)
            D = last * slope[:, None] if i else None
        else:
            D = (D @ linears[i + 1].weight) * slope[:, None]
            rows = D.flatten(1)
        K += linear_gram(inputs[i], rows)
    return K
