"""How many models fit into one batch."""

from __future__ import annotations

import os
from itertools import pairwise

import torch

__all__ = ["default_max_models", "model_bytes"]

CPU_WORKING_SET = 32 * 2**20
"""Bytes that a batch on the CPU should not exceed: beyond them more models do not share more of
the overhead, and less of what they need is in the caches."""

CPU_LEAST_MODELS = 4
"""A batch on the CPU has at least so many, memory permitting: else the overhead is not shared."""


def model_bytes(units: list[int], n_batch: int, n_directions: int, itemsize: int) -> int:
    """Estimate of the memory that one model takes while it trains.

    Weights, gradients, two moments and the best weights; for each mini-batch the layers' inputs,
    their slopes and gradients, and as much again for each direction of the penalty's kernel.
    """
    parameters = sum((i + 1) * o for i, o in pairwise(units))
    activations = n_batch * sum(units) * (4 + 3 * n_directions)
    return itemsize * (5 * parameters + activations)


def default_max_models(bytes_per_model: int, device: torch.device, n_jobs: int = 1) -> int:
    """Models in a batch: what is fast on the CPU, and never more than half of the free memory."""
    fit = max(1, _free_bytes(device) // 2 // n_jobs // bytes_per_model)
    if device.type != "cpu":
        return fit
    return min(fit, max(CPU_LEAST_MODELS, CPU_WORKING_SET // bytes_per_model))


def _free_bytes(device: torch.device) -> int:
    """Free memory; where the system does not say, a gigabyte."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**30
