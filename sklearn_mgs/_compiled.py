"""A training step's forward and backward pass as one compiled function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from sklearn_mgs.gram._functional import call_with
from sklearn_mgs.gram._reduce import is_autocasting, no_autocast

__all__ = ["CompiledPasses"]

# Rewriting by patterns gave NaN for a network with dropout, in torch 2.13.
OPTIONS: dict[str, Any] = {"options": {"fallback_random": True, "pattern_matcher": False}}
"""Options of `torch.compile`; dropout and noise are drawn as without it."""


class CompiledPasses:
    """Forward and backward pass of a mini-batch, compiled once for each kind of mini-batch.

    The passes are run once on tensors without data, and every operation is recorded, those of
    autograd included: the hooks that record layers and the second derivatives of the penalty,
    which `torch.compile` can't look into, are ordinary operations of the recording. That is what
    is compiled. What Python decides on the way (the module's own control flow, hooks) is decided
    when the recording is made.

    Parameters
    ----------
    run : callable
        Takes tensors (in tuples, dicts, None among them), runs the modules on them and calls
        ``backward``; what it returns has no gradient.
    module : torch.nn.Module
        Every module that `run` uses; the parameters get their ``grad``.
    settings : object, default=None
        What else the recording depends on: its owner makes a new one where they differ.
    options : dict, default=None
        Of `torch.compile`; its own `options` are added to `OPTIONS`, and `mode` stands for some.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        module: nn.Module,
        settings: object = None,
        options: dict | None = None,
    ):
        self.settings = settings
        self._passes = _Passes(run, module)
        self._parts = list(module.modules())
        self._options = compiler_options(options or {})
        self._graphs = bool(self._options.get("options", {}).get("triton.cudagraphs"))
        self._functions: dict[tuple, Callable] = {}

    def __call__(self, *args):
        """Return what `run` does, and add to the parameters' ``grad`` as it does.

        Raises
        ------
        ValueError
            If the passes can't be compiled.
        """
        state = dict([*self._passes.named_parameters(), *self._passes.named_buffers()])
        device = next(p.device for p in state.values())
        kind = self._kind(state, args, device)
        if kind not in self._functions:
            function, results, gradients = self._first_call(state, args, device)
            self._functions[kind] = function
        else:
            results, gradients = _call(self._functions[kind], state, args, device)
        if self._graphs:  # the next replay of a CUDA graph writes into the same tensors
            results, gradients = tree_map_only(Tensor, Tensor.clone, (results, gradients))
        for name, gradient in gradients.items():
            p = state[name]
            p.grad = gradient if p.grad is None else p.grad + gradient
        return results

    def _kind(self, state: dict[str, Tensor], args: tuple, device: torch.device) -> tuple:
        """What a recording is good for: shapes, types, modes and trained parameters."""
        return (
            *((leaf.shape, leaf.dtype) for leaf in tree_leaves(args) if leaf is not None),
            *(part.training for part in self._parts),
            *(p.requires_grad for p in state.values()),
            is_autocasting(device),
        )

    def _first_call(self, state: dict[str, Tensor], args: tuple, device: torch.device) -> tuple:
        """Record, compile and call; `torch.compile` itself only gets to work at the call."""
        try:
            function = self._compile(state, args)
            return function, *_call(function, state, args, device)
        except (ValueError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a compiler can raise
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise ValueError(
                f"compile=True: torch can't compile the training step here "
                f"({type(error).__name__}: {reason}). Set compile=False; on a CPU, torch.compile "
                f"needs a C++ compiler such as g++."
            ) from error

    def _compile(self, state: dict[str, Tensor], args: tuple) -> Callable:
        from torch.fx.experimental.proxy_tensor import make_fx  # seconds: only where needed

        trained = [name for name, p in state.items() if p.requires_grad]

        def differentiated(values: dict[str, Tensor], args: tuple):
            """What `run` returns, and the gradients that it leaves."""
            leaves = {
                name: v.detach().requires_grad_(name in trained) for name, v in values.items()
            }
            with torch.enable_grad():
                results = call_with(self._passes, leaves, args)
            gradients = {name: leaves[name].grad for name in trained}
            return results, {name: g for name, g in gradients.items() if g is not None}

        record = make_fx(differentiated, tracing_mode="fake", _allow_non_fake_inputs=True)
        return torch.compile(record(_detached(state), args), **self._options)


def compiler_options(given: dict[str, Any]) -> dict[str, Any]:
    """Options of `torch.compile`: ours under those that are given, for its own backend."""
    if given.get("backend", "inductor") != "inductor":
        return given
    given = {**OPTIONS, **given}
    mode, options = given.pop("mode", None), given.get("options") or {}
    if mode is not None:  # torch.compile takes a mode or options
        from torch._inductor import list_mode_options

        options = {**list_mode_options(mode), **options}
    return {**given, "options": {**OPTIONS["options"], **options}}


class _Passes(nn.Module):
    """A function as the forward pass of what it runs: `call_with` swaps parameters then."""

    def __init__(self, run: Callable[..., Any], module: nn.Module):
        super().__init__()
        self.module = module
        self.run = run

    def forward(self, *args):
        return self.run(*args)


def _detached(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in state.items()}


def _call(function: Callable, state: dict[str, Tensor], args: tuple, device: torch.device):
    # Autocasting is part of the recording.
    with torch.no_grad(), no_autocast(device):
        return function(_detached(state), args)
