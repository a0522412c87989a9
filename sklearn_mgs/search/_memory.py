"""How many models fit into one batch."""

from __future__ import annotations

import ctypes
import os
from itertools import pairwise

import torch

__all__ = ["autograd_bytes", "default_max_models", "model_bytes", "trim_heap"]

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


def autograd_bytes(n_bytes: int, n_kernel: int, itemsize: int) -> int:
    """Estimate of what autograd keeps beside the `n_bytes` of a model's step while it runs.

    Twice as much again for the graph, and the metric's matrices of n_kernel² entries: the kernel,
    its shares and factors, and their gradients; ``n_kernel`` is 0 if there are none.
    """
    return 2 * n_bytes + 8 * itemsize * n_kernel**2


def default_max_models(
    n_bytes: int, device: torch.device, n_jobs: int = 1, n_passing: int = 0
) -> int:
    """Models in a batch: what is fast on the CPU, and never more than half of the free memory.

    Each takes `n_bytes` that every step goes through, and `n_passing` more at its peak.
    """
    fit = max(1, _free_bytes(device) // 2 // n_jobs // (n_bytes + n_passing))
    if device.type != "cpu":
        return fit
    return min(fit, max(CPU_LEAST_MODELS, CPU_WORKING_SET // n_bytes))


def _free_bytes(device: torch.device) -> int:
    """Free memory; where the system does not say, a gigabyte."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**30


def trim_heap() -> None:
    """Give freed memory back to the system, where the C library has to be asked to.

    glibc's heap otherwise grows with each batch: it does not find the aligned pieces again that
    torch has freed.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another library, or system
        return
    trim(0)
