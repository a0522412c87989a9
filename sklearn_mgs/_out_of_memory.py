"""What to lower when training runs out of memory."""

from __future__ import annotations

import torch

from sklearn_mgs.penalty import MGSPenalty

__all__ = ["with_remedy"]


def with_remedy(
    error: torch.cuda.OutOfMemoryError,
    n_samples: int,
    penalty: MGSPenalty | None,
    mgs_batch_size: int | None,
) -> torch.cuda.OutOfMemoryError:
    """Return the same error with the parameters whose lowering helps, and their present values."""
    remedies = [f"lower batch_size (this mini-batch has {n_samples} samples)"]
    if penalty is not None:
        kernel = "all of them" if mgs_batch_size is None else mgs_batch_size
        remedies.append(f"lower mgs_batch_size, the samples that make the kernel (now {kernel})")
        if penalty.outputs == "all":
            remedies.append("set mgs_outputs='random', one direction instead of one per output")
    return torch.cuda.OutOfMemoryError(
        f"Training ran out of memory; {', or '.join(remedies)}. torch says: {error}"
    )
