"""What each kind of layer's per-sample gradients are made of, in closed form."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

__all__ = ["find_rule"]

# A rule turns the input a (n, ...) of one call of a layer, and the output gradients
# D (k, n, ...) in k directions, into (A, D) as in `linear_gram`, D with its leading k.
Rule = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor | None, Tensor]]


def _linear(layer: nn.Module, a: Tensor, D: Tensor) -> tuple[Tensor | None, Tensor]:
    return a, D


# Keyed by the method that runs, so that a subclass which only renames a layer has its rule
# and one that computes something else has none.
_RULES: dict[Callable, Rule] = {
    nn.Linear.forward: _linear,
}


def find_rule(layer: nn.Module) -> Rule | None:
    """Return the rule for `layer`, or None."""
    return _RULES.get(type(layer).forward)
