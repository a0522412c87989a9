"""Cosines between gradients, from inner products that are numbers on the CPU, else tensors."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

__all__ = [
    "Number",
    "cosine",
    "cosine_of_sum",
    "entries",
    "inner_products",
    "inner_products_of_pairs",
    "number",
    "numbers",
    "ratio",
    "strongest_share",
]

_SMALL = 2**15
"""Numbers in a vector up to which a copy costs less than an operation for each of its parts."""

Number = float | Tensor
"""What decides about a step: a number on the CPU, which has it at once; else a tensor (), for
which the device is not waited for."""


def inner_products(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Gram matrix (2, 2) of two lists of tensors, each seen as one vector.

    Vectors that are small are joined, for fewer operations.
    """
    if sum(x.numel() for x in a) <= _SMALL:
        both = torch.cat([x.reshape(-1) for x in (*a, *b)]).view(2, -1)
        return both @ both.mT
    ab = _inner(a, b)
    return torch.stack([_squared_norm(a), ab, ab, _squared_norm(b)]).view(2, 2)


def inner_products_of_pairs(pairs: Sequence[Tensor]) -> Tensor:
    """The same of two lists whose tensors lie side by side, (2, ...)."""
    return reduce(torch.add, [x @ x.mT for x in [pair.view(2, -1) for pair in pairs]])


def entries(products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """⟨a, a⟩, ⟨a, b⟩, ⟨b, b⟩ of Gram matrices (..., 2, 2)."""
    return products[..., 0, 0], products[..., 0, 1], products[..., 1, 1]


def numbers(products: Tensor) -> Sequence[Number]:
    """The same of one Gram matrix, read where they are at hand: on the CPU."""
    if products.device.type != "cpu":
        return entries(products)
    (aa, ab), (_, bb) = products.tolist()
    return aa, ab, bb


def number(x: Tensor) -> Number:
    """A tensor (), read where it is at hand."""
    return x if x.device.type != "cpu" else x.tolist()


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Cosine of the angle between two lists of tensors, each seen as one vector."""
    aa, ab, bb = entries(inner_products(a, b))
    return ratio(ab, aa, bb)


def cosine_of_sum(gg: Number, gr: Number, rr: Number) -> Number:
    """``cos(g, g + r)`` from the inner products."""
    along = gg + gr
    return ratio(along, gg, along + gr + rr)


def ratio(ab: Number, aa: Number, bb: Number) -> Number:
    """Cosine from inner products; zero where a vector is zero."""
    return ab / (_positive(aa) ** 0.5 * _positive(bb) ** 0.5 + _tiny(ab))


def _tiny(x: Number) -> float:
    """Least positive number, which makes a quotient with zero zero."""
    return torch.finfo(x.dtype).tiny if isinstance(x, Tensor) else sys.float_info.min


def _positive(x: Number) -> Number:
    return x.clamp_min(0) if isinstance(x, Tensor) else max(x, 0.0)


def strongest_share(gg: Number, gr: Number, rr: Number, threshold: float) -> Number:
    """Largest `s` with ``cos(g, g + s r) >= threshold``, infinite where there is none.

    The angle between g and g + s r grows with s, from 0 to that between g and r. In the triangle
    of both, by the law of sines, it is ``θ = arccos(threshold)`` at
    ``s = |g| sin θ / (|r| sin(φ − θ))``, φ being the angle between g and r. It is 0 where g is.

    Parameters
    ----------
    gg, gr, rr : float or Tensor
        Inner products ``⟨g, g⟩``, ``⟨g, r⟩``, ``⟨r, r⟩``.
    threshold : float
        Least cosine, in [-1, 1].
    """
    sine, norm = math.sqrt(1 - threshold**2), gg**0.5
    along = gr / (norm + _tiny(norm))
    across = _positive(rr - along * along) ** 0.5
    room = across * threshold - along * sine
    if isinstance(room, Tensor):
        return torch.where(room <= 0, torch.where(norm > 0, math.inf, 0.0), norm * sine / room)
    if room <= 0:
        return math.inf if norm > 0 else 0.0
    return norm * sine / room


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product of lists of tensors as one vector each."""
    return reduce(torch.add, [torch.dot(x.flatten(), y.flatten()) for x, y in zip(a, b)])


def _squared_norm(a: Sequence[Tensor]) -> Tensor:
    return _inner(a, a)
