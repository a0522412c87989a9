"""The kernel where the module is: a penalty's step stays there and waits for nothing."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_mgs.gram import GramOperator, gram_matrix, gram_trace
from sklearn_mgs.gram._outputs import drawn
from sklearn_mgs.penalty import MGSPenalty
from tests.cases import MODULES, build
from tests.oracles import relative_error

TARGETS = torch.tensor([0, 1, 0, 1])
CLOSED = [name for name, (_, _, without) in MODULES.items() if not without]
PENALTIES = [
    {"metric": "trace", "outputs": "target"},
    {"metric": "det", "outputs": "all", "centered": "class"},
    {"metric": "trace", "outputs": "random", "centered": True},
]


def moved(X, device):
    return tuple(x.to(device) for x in X) if isinstance(X, tuple) else X.to(device)


def step(penalty, module, X, targets):
    with penalty.record(module) as tape:
        output = module(*X) if isinstance(X, tuple) else module(X)
    first = output[0] if isinstance(output, tuple) else output
    (first.square().mean() + penalty(tape, output, targets)).backward()


class NoTransfer(TorchDispatchMode):
    """Raises where a tensor goes to another device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name == "aten::_to_copy":
            assert result.device == args[0].device, func
        if name == "aten::copy_":
            assert args[0].device == args[1].device, func
        return result


def test_the_watch_on_transfers_sees_them():
    with pytest.raises(AssertionError, match="_to_copy"), NoTransfer():
        torch.ones(1).to("meta")


@pytest.mark.parametrize("options", PENALTIES, ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_a_penalty_step_stays_on_its_device(name, options):
    """Tensors of the device "meta" have no values: whatever asks for one raises."""
    module, X, _ = build(name)
    penalty = MGSPenalty(**options, jitter=0.1).calibrate(module, X, TARGETS)
    penalty.scale_ = penalty.scale_.to("meta")
    module, X, targets = module.to("meta"), moved(X, "meta"), TARGETS.to("meta")
    with NoTransfer():
        step(penalty, module, X, targets)


def test_a_generator_may_live_elsewhere():
    like = torch.empty(0, dtype=torch.float64, device="meta")
    assert drawn((3,), like, torch.Generator()).device.type == "meta"
    module, X, _ = build("mlp")
    value = GramOperator(module, X).logdet(generator=torch.Generator().manual_seed(0))
    assert value == GramOperator(module, X).logdet(generator=torch.Generator().manual_seed(0))


@pytest.mark.gpu
@pytest.mark.parametrize("outputs", ["all", "target", "full"])
@pytest.mark.parametrize("name", MODULES)
def test_cuda_gives_what_the_cpu_does(name, outputs):
    module, X, _ = build(name)
    options = {"outputs": outputs, "targets": TARGETS}
    K = gram_matrix(module, X, **options).detach()
    v = torch.randn(len(K), dtype=torch.float64)
    module.to("cuda")
    X = moved(X, "cuda")
    assert relative_error(gram_matrix(module, X, **options).cpu(), K) < 1e-9
    assert relative_error(gram_trace(module, X, **options).cpu(), K.trace()) < 1e-9
    operator = GramOperator(module, X, chunk_size=3, **options)
    assert relative_error((operator @ v.cuda()).cpu(), K @ v) < 1e-9
    assert relative_error(operator.diagonal().cpu(), K.diagonal()) < 1e-9


@pytest.mark.gpu
@pytest.mark.parametrize("metric", ["logdet", "det", "effective_rank", "cosine"])
def test_spectra_on_cuda_follow_the_cpu(metric):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    X = torch.randn(40, 5, dtype=torch.float64)
    here, there = (
        GramOperator(module.to(device), X.to(device)).metric(
            metric, generator=torch.Generator().manual_seed(0)
        )
        for device in ("cpu", "cuda")
    )
    assert there.device.type == "cuda"
    assert float(there) == pytest.approx(float(here), rel=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("options", PENALTIES, ids=str)
@pytest.mark.parametrize("name", CLOSED)
def test_a_penalty_step_on_cuda_does_not_wait(name, options):
    module, X, _ = build(name)
    module, X, targets = module.to("cuda"), moved(X, "cuda"), TARGETS.to("cuda")
    penalty = MGSPenalty(**options, jitter=0.1).calibrate(module, X, targets)
    step(penalty, module, X, targets)  # libraries are set up
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(penalty, module, X, targets)
    finally:
        torch.cuda.set_sync_debug_mode("default")
