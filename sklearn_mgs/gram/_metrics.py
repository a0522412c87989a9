"""Metrics of a kernel: one number that says how similar the gradients are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["METRICS", "SIMILARITY_SIGN", "check_metric", "mgs_metric"]


def _trace(K: Tensor, jitter: float) -> Tensor:
    return K.diagonal(dim1=-2, dim2=-1).mean(-1)


def _logdet(K: Tensor, jitter: float) -> Tensor:
    n = K.shape[-1]
    # The smallest normal number keeps the factor of a zero kernel, and its gradient, finite.
    shift = jitter * _trace(K, jitter) + torch.finfo(K.dtype).tiny
    eye = torch.eye(n, dtype=K.dtype, device=K.device)
    # cholesky_ex does not wait for the device to report success.
    L, _ = torch.linalg.cholesky_ex(K + shift[..., None, None] * eye, check_errors=False)
    return 2 * L.diagonal(dim1=-2, dim2=-1).log().mean(-1)


def _det(K: Tensor, jitter: float) -> Tensor:
    return _logdet(K, jitter).exp()


def _effective_rank(K: Tensor, jitter: float) -> Tensor:
    # Of a kernel that overflowed there are no eigenvalues, and to ask for them is an error.
    finite = K.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    eigenvalues = torch.linalg.eigvalsh(K.where(finite, 0.0)).clamp_min(0)
    p = eigenvalues / eigenvalues.sum(-1, keepdim=True).clamp_min(torch.finfo(K.dtype).tiny)
    # p log p tends to 0 with p, but its derivative does not: put 1 log 1 in its place.
    p = torch.where(p > torch.finfo(K.dtype).eps ** 2, p, 1.0)
    return (-(p * p.log()).sum(-1)).exp().where(finite[..., 0, 0], torch.nan)


def _cosine(K: Tensor, jitter: float) -> Tensor:
    n = K.shape[-1]
    scale = K.diagonal(dim1=-2, dim2=-1).clamp_min(torch.finfo(K.dtype).tiny).rsqrt()
    R = scale[..., :, None] * K * scale[..., None, :]
    return (R.sum((-2, -1)) - R.diagonal(dim1=-2, dim2=-1).sum(-1)) / (n * (n - 1))


_METRICS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "trace": _trace,
    "logdet": _logdet,
    "det": _det,
    "effective_rank": _effective_rank,
    "cosine": _cosine,
}

METRICS: tuple[str, ...] = tuple(_METRICS)
"""Names that `mgs_metric` knows."""

SIMILARITY_SIGN: dict[str, int] = {
    "trace": -1,
    "logdet": -1,
    "det": -1,
    "effective_rank": -1,
    "cosine": 1,
}
"""1 where a higher value means more similar gradients, -1 where a lower value does."""


def check_metric(metric: str, valid: tuple[str, ...] = METRICS) -> None:
    """Raise a ValueError that lists the valid names, unless `metric` is one of them."""
    if metric not in valid:
        raise ValueError(f"Unknown metric {metric!r}; expected one of {list(valid)}.")


def mgs_metric(K: Tensor, metric: str = "trace", *, jitter: float = 1e-4) -> Tensor:
    r"""Reduce a kernel to one number, differentiable in its entries.

    Parameters
    ----------
    K : Tensor of shape (..., n_samples, n_samples)
        Symmetric positive semi-definite kernel; leading dimensions are separate kernels.
        Half precision is raised to float32.
    metric : {"trace", "logdet", "det", "effective_rank", "cosine"}, default="trace"
        - "trace": :math:`\operatorname{tr}(K) / n`, the mean squared gradient norm;
        - "logdet": :math:`\tfrac1n \log\det(K + \epsilon \tfrac{\operatorname{tr} K}{n} I)`;
        - "det": the exponential of "logdet", the geometric mean of the shifted eigenvalues;
        - "effective_rank": :math:`\exp(-\sum p \log p)`, :math:`p` the eigenvalues over their
          sum [1]_; 1 for a zero kernel;
        - "cosine": mean of :math:`K_{ij} / \sqrt{K_{ii} K_{jj}}` over :math:`i \neq j`; a zero
          gradient counts as similar to none.

        More similar gradients lower each of them, except "cosine", which they raise
        (`SIMILARITY_SIGN`). "trace", "logdet" and "det" move with the scale of the gradients;
        "effective_rank" and "cosine" do not.
    jitter : float, default=1e-4
        :math:`\epsilon`, relative to the mean eigenvalue. The kernel of duplicated samples, or
        of more samples than parameters, is singular, so "logdet" and "det" depend on it; it
        must exceed the rounding errors of `K`, in float32 up to about n · 1e-7.

    Returns
    -------
    value : Tensor of shape (...)
        Not a number for "cosine" of one sample, or where `K` is not finite.

    Raises
    ------
    ValueError
        If `metric` is unknown, `K` is not square, or `jitter` is negative.
    TypeError
        If `K` is no tensor of floating point.

    Notes
    -----
    "trace" and "cosine" cost O(n²) at most, the others O(n³). None waits for the device.

    References
    ----------
    .. [1] O. Roy and M. Vetterli. The effective rank: a measure of effective dimensionality.
       EUSIPCO 2007.

    Examples
    --------
    >>> import torch
    >>> from sklearn_mgs.gram import mgs_metric
    >>> mgs_metric(torch.diag(torch.tensor([3.0, 3.0, 0.0])), "effective_rank")
    tensor(2.)
    """
    check_metric(metric)
    if not isinstance(K, Tensor) or not K.is_floating_point():
        got = K.dtype if isinstance(K, Tensor) else type(K).__name__
        raise TypeError(
            f"K must be a torch.Tensor of floating point; got {got}. Pass torch.as_tensor(K) or "
            "K.double()."
        )
    if not jitter >= 0:
        raise ValueError(f"jitter must be 0 or more, got {jitter!r}.")
    if K.dim() < 2 or K.shape[-1] != K.shape[-2]:
        raise ValueError(f"Expected a square kernel; got shape {tuple(K.shape)}.")
    if K.dtype in (torch.float16, torch.bfloat16):
        K = K.float()
    return _METRICS[metric](K, jitter)
