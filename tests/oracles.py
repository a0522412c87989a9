"""Slow and obvious: a loop over the samples with plain autograd."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sklearn_mgs.gram import mgs_metric


def loop_jacobian(module, X):
    """(n_samples, n_outputs, n_parameters), and the layer that owns each column."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    J = []
    inputs = X if isinstance(X, tuple) else (X,)
    for i in range(len(inputs[0])):
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivatives
            f = module(*(x[i : i + 1] for x in inputs))
        f = (f[0] if isinstance(f, tuple) else f).reshape(-1)
        rows = [
            torch.autograd.grad(
                f[c], [p for _, p in named], create_graph=True, materialize_grads=True
            )
            for c in range(len(f))
        ]
        J.append(torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows]))
    owners = [name.rpartition(".")[0] for name, p in named for _ in range(p.numel())]
    return torch.stack(J), owners


def loop_rows(module, X, outputs="all", targets=None):
    """Gradients (n_samples, n_directions, n_parameters) in the directions of `outputs`."""
    J, owners = loop_jacobian(module, X)
    n, C, _ = J.shape
    if outputs in ("all", "full"):
        return J, owners
    if outputs == "sum":
        return J.sum(1, keepdim=True), owners
    if C == 1:
        return torch.stack([J[i] if targets[i] == 1 else -J[i] for i in range(n)]), owners
    return torch.stack([J[i, targets[i]][None] for i in range(n)]), owners


def relative_rows(module, G, owners):
    """Columns Wᵀ ∂f/∂W and Wᵀ ∂f/∂b of each linear layer, in place of ∂f/∂W and ∂f/∂b."""
    parts = []
    for owner in dict.fromkeys(owners):
        layer = module.get_submodule(owner)
        W, columns = layer.weight, [other == owner for other in owners]
        g = G[..., columns]
        dW, db = g[..., : W.numel()].unflatten(-1, W.shape), g[..., W.numel() :]
        parts.append((W.T @ dW).flatten(-2))
        if layer.bias is not None:
            parts.append(db @ W)
    names = [
        owner
        for owner in dict.fromkeys(owners)
        for p in module.get_submodule(owner).parameters()
        for _ in range(module.get_submodule(owner).in_features ** (2 if p.ndim > 1 else 1))
    ]
    return torch.cat(parts, -1), names


def centered_rows(G, centered, targets=None, weight=None):
    weight = torch.ones(len(G), dtype=G.dtype) if weight is None else weight
    if not centered:
        return G
    groups = targets if centered == "class" else torch.zeros(len(G), dtype=torch.long)
    rows = []
    for i in range(len(G)):
        same = (groups == groups[i]).to(G.dtype) * weight
        rows.append(G[i] - (same[:, None, None] * G).sum(0) / same.sum())
    return torch.stack(rows)


def layer_columns(owners, weights):
    """Square roots of the layers' weights, by parameter."""
    return torch.tensor([weights.get(owner, 0.0) for owner in owners], dtype=torch.float64).sqrt()


def named_weights(rows, owners, layers):
    names = list(dict.fromkeys(owners))
    if layers == "all":
        return dict.fromkeys(names, 1.0)
    if layers == "hidden":
        return dict.fromkeys(names[:-1], 1.0)
    if layers == "first":
        return {names[0]: 1.0}
    if layers == "balanced":
        trace = {
            name: float(
                (rows[..., [owner == name for owner in owners]] ** 2).sum().detach() / len(rows)
            )
            for name in names
        }
        alive = [name for name in names if trace[name] > 0]
        return {name: 1 / (len(alive) * trace[name]) for name in alive}
    return layers


def loop_gram(module, X, *, outputs="all", targets=None, layers="all", centered=False):
    G, owners = loop_rows(module, X, outputs, targets)
    G = G * layer_columns(owners, named_weights(G, owners, layers))
    G = centered_rows(G, centered, targets)
    G = G.flatten(0, 1) if outputs == "full" else G.flatten(1)
    return G @ G.T


def loop_penalty(
    module,
    X,
    metric,
    *,
    outputs="all",
    targets=None,
    weights,
    relative=False,
    centered=False,
    jitter,
    w=None,
):
    """m(K) of a mini-batch, samples weighed; for "det", integers that repeat them."""
    G, owners = loop_rows(module, X, outputs, targets)
    if relative:
        G, owners = relative_rows(module, G, owners)
    G = centered_rows(G * layer_columns(owners, weights), centered, targets, w).flatten(1)
    if w is not None and metric == "trace":
        G = G * (w / w.mean()).sqrt()[:, None]
    elif w is not None:
        G = G.repeat_interleave(w.long(), 0)
    return mgs_metric(G @ G.T, metric, jitter=jitter)


def gradients(value, module):
    """All gradients of a scalar, in one vector."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    value = value + 0 * sum(p.sum() for p in parameters)
    return torch.cat(
        [g.reshape(-1) for g in torch.autograd.grad(value, parameters, retain_graph=True)]
    )


def relative_error(a, b, floor=0.0):
    return float((a - b).detach().norm() / b.detach().norm().clamp_min(floor + 1e-300))
