"""Memory that every step of a fit writes to again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Buffers"]


class Buffers:
    """Where operations put their results, by name: for the argument `out` of torch's functions.

    Fresh memory of this size comes from the operating system, which clears it page by page: that
    takes longer than most of the operations.

    Parameters
    ----------
    like : Tensor
        Its precision and device are those of all buffers.
    """

    def __init__(self, like: Tensor):
        self.like = like[:0].detach()
        self.clear()

    def clear(self) -> None:
        """Give all memory back."""
        self.memory: dict[str, Tensor] = {}
        self.views: dict[tuple, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor | None:
        """The memory of that name in that shape; None, a new result, where autograd records."""
        if torch.is_grad_enabled():
            return None
        key = name, shape
        view = self.views.get(key)
        if view is None:
            n, memory = math.prod(shape), self.memory.get(name, self.like)
            if len(memory) < n:
                memory = self.memory[name] = self.like.new_empty(n)
                self.views = {k: v for k, v in self.views.items() if k[0] != name}
            view = self.views[key] = memory[:n].view(shape)
        return view

    def __getstate__(self) -> dict:
        """Without what is in them."""
        return {"like": self.like, "memory": {}, "views": {}}
