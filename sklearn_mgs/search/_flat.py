"""Tensors of many models, one after the other in one piece of memory."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Flat"]


class Flat:
    """Copies of tensors that share a first dimension, for the model.

    Parameters
    ----------
    parts : list of Tensor of shape (M, ...)
        What is copied.

    Attributes
    ----------
    memory : Tensor of shape (n,)
        All of it: what goes element by element takes one operation.
    parts : list of Tensor of shape (M, ...)
        Views of it, contiguous.
    """

    def __init__(self, parts: list[Tensor]):
        self._view(torch.cat([p.flatten() for p in parts]), [p.shape for p in parts])

    def _view(self, memory: Tensor, shapes: list[torch.Size]) -> None:
        self.memory = memory
        parts = memory.split([shape.numel() for shape in shapes])
        self.parts = [part.view(shape) for part, shape in zip(parts, shapes)]

    def zeros_like(self) -> Flat:
        """Zeros of the same shapes."""
        return Flat([torch.zeros_like(p) for p in self.parts])

    def keep(self, rows: Tensor) -> None:
        """Go on with the models `rows` alone."""
        self.__init__([p[rows] for p in self.parts])

    def row(self, row: int) -> list[Tensor]:
        """Copies of one model's, on the CPU."""
        return [p[row].to("cpu", copy=True) for p in self.parts]

    def __getstate__(self) -> tuple:
        """Without the views, which would come back as copies."""
        return self.memory, [p.shape for p in self.parts]

    def __setstate__(self, state: tuple) -> None:
        """Make the views again."""
        self._view(*state)
