"""The kernel of modules of every kind against the loop over samples."""

import pytest
import torch
from torch import nn

from sklearn_mgs.gram import (
    explain,
    gram_matrix,
    gram_trace,
    jacobian,
    make_plan,
    mgs_metric,
)
from sklearn_mgs.penalty import MGSPenalty
from tests.cases import MODULES, build
from tests.oracles import gradients, loop_gram, loop_jacobian, loop_penalty, relative_error

TARGETS = torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize("implementation", ["auto", "jacobian", "matrix_free"])
@pytest.mark.parametrize("outputs", ["all", "target", "full"])
@pytest.mark.parametrize("name", MODULES)
def test_values_and_gradients_equal_the_loop(name, outputs, implementation):
    module, X, _ = build(name)
    options = {"outputs": outputs, "targets": TARGETS}
    expected = loop_gram(module, X, **options)
    K = gram_matrix(module, X, implementation=implementation, **options)
    trace = gram_trace(module, X, implementation=implementation, **options)
    assert relative_error(K, expected) < 1e-8
    assert relative_error(trace, expected.trace()) < 1e-8
    size = float(expected.detach().norm())
    for value, want in (
        (trace, expected.trace()),
        (mgs_metric(K, "det", jitter=0.1), mgs_metric(expected, "det", jitter=0.1)),
    ):
        error = relative_error(gradients(value, module), gradients(want, module), 1e-3 * size)
        assert error < 1e-8


@pytest.mark.parametrize("name", MODULES)
def test_layers_without_a_closed_form(name):
    module, X, without = build(name)
    plan = make_plan(module, X)
    assert sorted({parameter.rpartition(".")[0] for parameter in plan.fallback}) == without
    assert (plan.strategy == "loop") == (name in ("two inputs", "weight norm"))


@pytest.mark.parametrize("centered", [False, True, "class"])
@pytest.mark.parametrize("metric", ["trace", "det"])
@pytest.mark.parametrize("name", MODULES)
def test_penalty_equals_the_loop(name, metric, centered):
    module, X, _ = build(name)
    options = {"outputs": "target", "centered": centered, "jitter": 0.1}
    penalty = MGSPenalty(metric, **options).calibrate(module, X, TARGETS)
    with penalty.record(module) as tape:
        output = module(*X) if isinstance(X, tuple) else module(X)
    value = penalty(tape, output, TARGETS) * penalty.scale_
    weights = penalty.layer_weights_
    want = loop_penalty(module, X, metric, targets=TARGETS, weights=weights, **options)
    assert relative_error(value, want) < 1e-8
    floor = 1e-3 * float(want.detach())
    assert relative_error(gradients(value, module), gradients(want, module), floor) < 1e-8


@pytest.mark.parametrize(
    "name", ["mlp", "lstm", "transformer", "resnet, group norm", "two inputs"]
)
def test_chunks_and_keywords(name):
    module, X, _ = build(name)
    K = gram_matrix(module, X)
    assert relative_error(gram_matrix(module, X, chunk_size=3), K) < 1e-12
    if name == "two inputs":
        keywords = {"z": X[1], "x": X[0]}
        assert relative_error(gram_matrix(module, keywords), K) < 1e-12


@pytest.mark.parametrize("name", ["mlp", "lstm", "layer norms"])
def test_jacobian_equals_the_loop_in_the_order_of_the_parameters(name):
    module, X, _ = build(name)
    expected, _ = loop_jacobian(module, X)
    for chunk_size in (None, 3):
        J = jacobian(module, X, chunk_size=chunk_size)
        assert J.shape == expected.shape
        assert relative_error(J, expected) < 1e-12


@pytest.mark.parametrize("name", ["resnet, group norm", "transformer", "lstm"])
def test_float32_is_as_exact_as_it_can_be(name):
    module, X, _ = build(name)
    expected = gram_matrix(module, X).detach()
    module, X, _ = build(name, torch.float32)
    assert relative_error(gram_matrix(module, X).double(), expected) < 1e-5


@pytest.mark.parametrize("name", ["resnet, batch norm in eval", "resnet, group norm", "mlp"])
def test_half_precision_keeps_its_rules(name):
    module, X, _ = build(name, torch.bfloat16)
    assert not make_plan(module, X).fallback
    exact = gram_matrix(module.double(), X.double())
    K = gram_matrix(module.bfloat16(), X)
    assert K.dtype == torch.float32
    assert relative_error(K.double(), exact) < 0.05


def test_a_subclass_that_computes_something_else_has_no_rule():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Renamed(nn.Linear):
        pass

    module = nn.Sequential(Renamed(3, 4), nn.Tanh(), Doubled(4, 2)).double()
    X = torch.randn(4, 3).double()
    assert set(make_plan(module, X).fallback.values()) == {"no rule for Doubled"}
    assert relative_error(gram_matrix(module, X), loop_gram(module, X)) < 1e-12


def plain_gram(module, X, create_graph=False):
    """Gradients of each output of each sample, one sample after the other."""
    parameters = list(module.parameters())
    options = {"create_graph": create_graph, "retain_graph": True}
    rows = [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(v, parameters, **options)])
        for x in X
        for v in module(x[None])[0]
    ]
    G = torch.stack(rows).view(len(X), -1)
    return G @ G.T


class Bag(nn.Module):
    """EmbeddingBag, of which torch has no second derivative, from an embedding."""

    def __init__(self, bag):
        super().__init__()
        self.weight, self.mode = bag.weight, bag.mode
        self.padding_idx = -1 if bag.padding_idx is None else bag.padding_idx

    def forward(self, X):
        counted = (X != self.padding_idx).double()[..., None]
        total = (self.weight[X] * counted).sum(1)
        return total if self.mode == "sum" else total / counted.sum(1).clamp_min(1)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding_idx", [None, 1])
def test_embedding_bag(mode, padding_idx):
    torch.manual_seed(0)
    X = torch.tensor([[0, 1, 1], [2, 3, 3], [1, 1, 1], [1, 0, 2]])
    bag, head = nn.EmbeddingBag(4, 3, mode=mode, padding_idx=padding_idx), nn.Linear(3, 2)
    module = nn.Sequential(bag, nn.Tanh(), head).double()
    assert list(make_plan(module, X).ruled) == ["0", "2"]
    K, want = gram_matrix(module, X), nn.Sequential(Bag(bag), nn.Tanh(), head)
    expected = plain_gram(want, X, create_graph=True)
    assert relative_error(K, expected) < 1e-12
    got, wanted = (gradients(k.square().sum(), m) for k, m in ((K, module), (expected, want)))
    assert relative_error(got, wanted) < 1e-12


def test_first_derivatives_alone_make_a_kernel():
    torch.manual_seed(0)
    module = nn.Sequential(nn.EmbeddingBag(4, 3, mode="max"), nn.Linear(3, 2)).double()
    X = torch.tensor([[0, 1], [2, 3], [1, 1]])
    with torch.no_grad():
        K = gram_matrix(module, X)
    assert relative_error(K, plain_gram(module, X)) < 1e-12


def test_explain_names_every_layer():
    module, X, _ = build("transformer")
    reasons = explain(module, X)
    assert set(reasons) == {name.rpartition(".")[0] for name, _ in module.named_parameters()}
    assert reasons["head"][0].startswith("gram: inner products")
    assert reasons[""] == ["position: torch.func (shared): no rule for Transformer"]
    assert "never called" in reasons["block.self_attn.out_proj"][0]


def test_a_chain_with_hooks_is_checked_like_any_module():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    X = torch.randn(5, 3, dtype=torch.float64)
    assert all("gram: inner products" in reasons[0] for reasons in explain(net, X).values())
    net[0].register_forward_hook(lambda layer, args, output: output.flip(0))
    net[1].register_forward_hook(lambda layer, args, output: output.flip(0))
    assert "elsewhere" not in str(explain(net, X)["2"])
    assert "elsewhere" in str(explain(net, X)["0"])
    K = gram_matrix(net, X, implementation="layerwise")
    assert relative_error(K, loop_gram(net, X)) < 1e-10
