"""Which outputs the gradients are of: directions in the space of outputs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["OUTPUTS", "check_targets", "directions", "drawn", "first_output", "output_matrix"]

OUTPUTS = ("all", "target", "random", "sum", "full")


def first_output(output) -> Tensor:
    """Return a module's output, or the first of several."""
    output = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(output, Tensor):
        raise TypeError(
            "The module must return a tensor, or several with that of the outputs first; got "
            f"{type(output).__name__}. Wrap it in a module that does."
        )
    return output


def output_matrix(output) -> Tensor:
    """Turn a module's output, or the first of several, into shape (n_samples, n_outputs)."""
    output = first_output(output)
    return output[:, None] if output.dim() == 1 else output.flatten(1)


def check_targets(targets: Tensor | None, n_samples: int, why: str) -> Tensor:
    """Class indices of shape (n_samples,), or a ValueError that says `why` they are needed."""
    if targets is None:
        raise ValueError(f"{why} needs targets (class indices); got None.")
    targets = torch.as_tensor(targets)
    if targets.shape != (n_samples,) or targets.is_floating_point() or targets.is_complex():
        raise ValueError(
            f"{why} needs targets as class indices: integers of shape ({n_samples},); got "
            f"{targets.dtype} of shape {tuple(targets.shape)}."
        )
    return targets.long()


def drawn(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Normal numbers where and of the type that `like` is; the generator may live elsewhere."""
    where = like.device if generator is None else generator.device
    numbers = torch.randn(shape, dtype=like.dtype, device=where, generator=generator)
    return numbers.to(like.device, non_blocking=True)


def directions(
    f: Tensor,
    outputs: str,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Directions that the kernel's gradients are taken in.

    Parameters
    ----------
    f : Tensor of shape (n_samples, n_outputs)
        The outputs.
    outputs : {"all", "target", "random", "sum", "full"}
        The choice, see `sklearn_mgs.gram.gram_matrix`.
    targets : Tensor of shape (n_samples,), default=None
        Class indices, for "target".
    generator : torch.Generator, default=None
        Source of the direction for "random".

    Returns
    -------
    V : Tensor of shape (n_directions, n_samples, n_outputs)
        No entry depends on the parameters. One direction, except for "all" and "full": one
        for each output.

    Raises
    ------
    ValueError
        If `outputs` is unknown, or targets are needed and are not class indices.
    """
    n, c = f.shape
    if outputs in ("all", "full"):
        return torch.eye(c, dtype=f.dtype, device=f.device)[:, None].expand(c, n, c)
    if outputs == "sum":
        return f.new_ones(1, n, c)
    if outputs == "random":
        return drawn((c,), f, generator).expand(1, n, c)
    if outputs == "target":
        targets = check_targets(targets, n, 'outputs="target"').to(f.device)
        if c == 1:  # the logit of class 1; that of class 0 is its negative
            return (2 * targets - 1).to(f.dtype).view(1, n, 1)
        # one_hot would wait for the device to look at the largest target
        return f.new_zeros(n, c).scatter_(1, targets[:, None], 1.0)[None]
    raise ValueError(f"Unknown outputs {outputs!r}; expected one of {list(OUTPUTS)}.")
