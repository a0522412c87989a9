"""Metrics of a small kernel in as few calls as will do, since calls are most of the cost."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

__all__ = ["kernel_metrics"]

JITTER = 1e-4
"""The default of `sklearn_mgs.gram.mgs_metric`."""
TINY = float(np.finfo(np.float64).tiny)


def kernel_metrics(K: Tensor, names: Collection[str]) -> dict[str, float]:
    """Metrics of one kernel by name, see `sklearn_mgs.gram.mgs_metric`, with its default jitter.

    A single eigenvalue decomposition serves all that need one. NaN for a kernel that is not
    finite.
    """
    n, K = len(K), K.cpu()  # one wait for the device
    total = float(K.trace())
    if not math.isfinite(total):  # no inner product exceeds the squared norms
        return dict.fromkeys(names, math.nan)
    values = {"trace": total / n}
    if "cosine" in names:
        R = K.double().numpy()
        scale = 1 / np.sqrt(np.maximum(R.diagonal(), TINY))
        R = scale[:, None] * R * scale
        values["cosine"] = (R.sum() - R.trace()) / (n * (n - 1)) if n > 1 else math.nan
    if not {"logdet", "det", "effective_rank"}.isdisjoint(names):
        # Python's own numbers: for so few, an epoch apart, array functions take longer.
        eigenvalues = [max(v, TINY) for v in torch.linalg.eigvalsh(K).tolist()]
        shift = JITTER * total / n
        values["logdet"] = math.fsum(math.log(v + shift) for v in eigenvalues) / n
        values["det"] = math.exp(values["logdet"])
        mass = math.fsum(eigenvalues)  # the entropy of p = eigenvalues / mass, without forming p
        entropy = math.log(mass) - math.fsum(v * math.log(v) for v in eigenvalues) / mass
        values["effective_rank"] = math.exp(entropy) if total > 0 else 1.0
    return {name: float(values[name]) for name in names}
