"""Does a network predict what its gradients' kernel makes of the other samples' labels?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

__all__ = ["agreement"]


def agreement(K: Tensor, outputs: Tensor, y: Tensor, ridge: float) -> Tensor:
    r"""Agreement of a network with leave-one-out kernel regression, beyond chance.

    With :math:`R_{ij} = K_{ij} / \sqrt{K_{ii} K_{jj}}`, :math:`A = (R + \rho I)^{-1}` and centred
    labels :math:`Y` (one-hot rows for classes), the prediction for sample i from the others is
    :math:`Y_i - (A Y)_i / A_{ii}` [1]_. Classes predicted so and by the network are compared by
    Cohen's kappa [2]_, numbers by Lin's concordance [3]_, its analogue. Both are 1 for equal
    predictions, and 0 where one of them is constant, as those of a network that has collapsed.

    Parameters
    ----------
    K : Tensor of shape (n_samples, n_samples)
        Kernel of the network's gradients.
    outputs : Tensor of shape (n_samples, n_outputs)
        The network's outputs.
    y : Tensor of shape (n_samples,) or (n_samples, n_outputs)
        Class indices, zeros and ones (two classes for each output), or other targets.
    ridge : float
        :math:`\rho`.

    Returns
    -------
    value : Tensor of shape ()
        Mean over the columns of `y`.

    Raises
    ------
    ValueError
        If `y` has neither one class for each sample nor a target for each output.

    References
    ----------
    .. [1] C. E. Rasmussen and C. K. I. Williams. Gaussian Processes for Machine Learning.
       MIT Press, 2006. Equation 5.12.
    .. [2] J. Cohen. A coefficient of agreement for nominal scales. Educational and
       Psychological Measurement 20, 1960.
    .. [3] L. I.-K. Lin. A concordance correlation coefficient to evaluate reproducibility.
       Biometrics 45, 1989.
    """
    if y.dim() == 1 and not y.is_floating_point() and outputs.shape[1] > 1:
        Y = one_hot(y.long(), outputs.shape[1]).to(K.dtype)
        return _kappa(_left_out(K, Y, ridge).argmax(1)[:, None], outputs.argmax(1)[:, None])
    Y = y.reshape(len(y), -1).to(K.dtype)
    if Y.shape != outputs.shape:
        raise ValueError(
            f"MGSEarlyStopping needs one class for each sample, or a target for each output; got "
            f"targets of shape {tuple(y.shape)} for outputs of shape {tuple(outputs.shape)}."
        )
    left_out = _left_out(K, Y, ridge)
    if ((Y == 0) | (Y == 1)).all():
        return _kappa((left_out > 0.5).long(), (outputs > 0).long())
    return _concordance(left_out, outputs)


def _left_out(K: Tensor, Y: Tensor, ridge: float) -> Tensor:
    """Kernel ridge prediction of each row of Y from the others, shape (n_samples, n_outputs)."""
    scale = K.diagonal().clamp_min(torch.finfo(K.dtype).tiny).rsqrt()
    R = scale[:, None] * K * scale
    L = torch.linalg.cholesky(R + ridge * torch.eye(len(R), dtype=R.dtype, device=R.device))
    A = torch.cholesky_inverse(L)
    mean = Y.mean(0)
    return Y - A @ (Y - mean) / A.diagonal()[:, None]


def _kappa(a: Tensor, b: Tensor) -> Tensor:
    """Share of equal classes beyond that expected by chance, shape (n_samples, n_columns) each."""
    observed = (a == b).double().mean(0)
    classes = torch.arange(int(torch.maximum(a, b).max()) + 1, device=a.device)
    shares = [(x[..., None] == classes).double().mean(0) for x in (a, b)]
    chance = (shares[0] * shares[1]).sum(1)
    return ((observed - chance) / (1 - chance).clamp_min(1e-12)).mean()


def _concordance(a: Tensor, b: Tensor) -> Tensor:
    """Twice the covariance over what it would be for equal columns, shape (n, n_columns) each."""
    spread = a.var(0, correction=0) + b.var(0, correction=0) + (a.mean(0) - b.mean(0)).square()
    covariance = ((a - a.mean(0)) * (b - b.mean(0))).mean(0)
    return (2 * covariance / spread.clamp_min(torch.finfo(spread.dtype).tiny)).mean()
