"""A module called with other values for its parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["call_with"]


def call_with(
    module: nn.Module, values: Mapping[str, Tensor], args: tuple, kwargs: Mapping | None = None
):
    """Call `module` with `values` for parameters and buffers, by the names that torch gives them.

    Of a layer with two names torch's own `functional_call` replaces the parameters twice and
    afterwards puts the first replacement back: the module would be broken. So it is told each
    place once, and ties nothing itself.
    """
    names = {id(tensor): name for name, tensor in _tensors(module, shared=False)}
    places = {place: names[id(tensor)] for place, tensor in _tensors(module, shared=True)}
    chosen = {place: values[name] for place, name in places.items() if name in values}
    return functional_call(module, chosen, args, dict(kwargs or {}), tie_weights=False)


def _tensors(module: nn.Module, shared: bool) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of every layer, once for each layer, or the first time alone."""
    seen: set[int] = set()
    for prefix, layer in module.named_modules():
        for local, tensor in [*layer._parameters.items(), *layer._buffers.items()]:
            if tensor is not None and (shared or id(tensor) not in seen):
                seen.add(id(tensor))
                yield f"{prefix}.{local}".lstrip("."), tensor
