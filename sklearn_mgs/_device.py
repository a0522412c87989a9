"""Where a network lives, and random numbers that are its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["private_rng", "resolve_device"]

_GENERATORS = threading.RLock()


def resolve_device(device: str) -> torch.device:
    """Turn the `device` parameter into a device that exists; "auto" is CUDA where there is one.

    Raises
    ------
    ValueError
        If the device is unknown or absent.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is no device; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from error
    try:
        torch.zeros(1, device=resolved).item()
    except Exception as error:  # each kind of device raises its own kind of error
        # What follows the first sentence is for torch's authors.
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"device={device!r} can't be used here ({reason}); torch finds "
            f"{torch.cuda.device_count()} CUDA devices. Use device='auto' or 'cpu'."
        ) from error
    return resolved


@contextmanager
def private_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch inside the block, and leave its global generators as they were.

    The generators are the process's: threads take turns, or they would draw each other's numbers.
    """
    cuda = [device] if device.type == "cuda" else []
    with _GENERATORS, torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
