"""The layers of a module and how they weigh in the kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

__all__ = [
    "LAYERS",
    "check_samples_apart",
    "evaluating",
    "n_inputs",
    "parameter_layers",
    "resolve_layers",
]

LAYERS = ("all", "hidden", "first", "balanced")


def parameter_layers(module: nn.Module) -> dict[str, list[str]]:
    """Layers, the modules that own trainable parameters, with their parameters' full names.

    In order of registration; a shared parameter belongs to its first owner.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a torch.nn.Module; got {type(module).__name__}. Of a fitted "
            "estimator or skorch net pass its module_."
        )
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "Within torch.inference_mode() no gradients can be taken; use torch.no_grad()."
        )
    layers: dict[str, list[str]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            layers.setdefault(name.rpartition(".")[0], []).append(name)
    if not layers:
        raise ValueError(
            f"{type(module).__name__} has no trainable parameters, so its kernel is undefined; "
            "pass a module with at least one parameter that requires a gradient."
        )
    return layers


def resolve_layers(module: nn.Module, layers: str | Mapping[str, float]) -> dict[str, float]:
    """Weight of each layer that takes part in the kernel.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    layers : {"all", "hidden", "first", "balanced"} or mapping of str to float
        See `sklearn_mgs.gram.gram_matrix`. "balanced" starts from ones: its weights depend on
        the kernel.

    Returns
    -------
    weights : dict of str to float
        In order of registration.

    Raises
    ------
    ValueError
        If `layers` is unknown, names an unknown layer, leaves none, or has a negative weight.
    """
    names = list(parameter_layers(module))
    if isinstance(layers, Mapping):
        unknown = [name for name in layers if name not in names]
        if unknown:
            raise ValueError(f"layers names {unknown}, which are not among the layers {names}.")
        weights = {name: float(layers[name]) for name in names if name in layers}
        if not any(weights.values()) or min(weights.values()) < 0:
            raise ValueError(
                f"Weights of layers must be at least 0 and one of them more; got {dict(layers)}."
            )
        return {name: weight for name, weight in weights.items() if weight}
    if layers not in LAYERS:
        raise ValueError(
            f"Unknown layers {layers!r}; expected one of {list(LAYERS)} or a mapping from "
            f"names of layers to weights."
        )
    chosen = {"hidden": names[:-1], "first": names[:1]}.get(layers, names)
    if not chosen:
        raise ValueError(
            f'layers="hidden" leaves nothing of {type(module).__name__}, whose only layer is '
            f'{names[0]!r}; use layers="all".'
        )
    return dict.fromkeys(chosen, 1.0)


def n_inputs(layer: nn.Module) -> int:
    """Inputs, or numbers in a patch of them, that the layer's weight multiplies; 1 if none."""
    weight = getattr(layer, "weight", None)
    return 1 if weight is None or weight.dim() < 2 else weight[0].numel()


def check_samples_apart(module: nn.Module) -> None:
    """Raise a ValueError if a layer mixes the samples of a batch, as batch statistics do."""
    for name, layer in module.named_modules():
        mixes = isinstance(layer, nn.modules.batchnorm._BatchNorm) and (
            layer.training or layer.running_mean is None
        )
        if mixes:
            raise ValueError(
                f"{type(layer).__name__} {name!r} uses the statistics of the batch, so samples "
                "interact and have no gradients of their own; call module.eval() (with running "
                "statistics), or use GroupNorm or LayerNorm."
            )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put the module in evaluation mode; afterwards each submodule is as it was."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training
