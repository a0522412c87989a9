"""A training step's gradient in closed form against the same by autograd.

python benchmarks/closed_form.py --threads 1 [--repeats 15]
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from timing import arguments, interleaved

from sklearn_mgs import MLPClassifier
from sklearn_mgs._data import Batch

NETS = {"784-300-100-10": (784, (300, 100), 128), "64-100-100-10": (64, (100, 100), 64)}
TERMS = {
    "loss alone": {},
    "MGS as by default": {"mgs_strength": 0.1},
    "MGS of all outputs": {"mgs_strength": 0.1, "mgs_layers": "all", "mgs_outputs": "all"},
    "MGS det": {"mgs_strength": 0.1, "mgs_metric": "det"},
    "dropout": {"dropout": 0.2},
    "dropout, MGS as by default": {"dropout": 0.2, "mgs_strength": 0.1},
    "input Jacobian": {"jacobian_strength": 0.01},
    "loss gradient": {"gradient_strength": 0.01},
    "MGS as by default, loss gradient": {"mgs_strength": 0.1, "gradient_strength": 0.01},
}
CALLS = 20


def passes(n_features, hidden, n, params, device):
    """A mini-batch's backward pass by either way, as functions without arguments."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(4 * n, n_features)).astype("float32"), np.arange(4 * n) % 10
    clf = MLPClassifier(hidden, batch_size=n, max_iter=1, random_state=0, device=device, **params)
    net = clf.fit(X, y).net_
    objective, module, form = net.criterion_, net.module_.train(), net.closed_form_
    X, y = (torch.as_tensor(a[:n], device=clf.module_.linears[0].weight.device) for a in (X, y))
    batch = Batch(X, y, None, n, float(n))

    def autograd():
        for _ in range(CALLS):
            for p in module.parameters():
                p.grad = None
            objective(module, batch).total.backward()
        float(p.grad.sum())  # waits for the device

    def closed():
        for _ in range(CALLS):
            form.backward(batch)
        float(form.linears[-1].bias.grad.sum())

    return {"autograd": autograd, "closed form": closed}


def main():
    args = arguments(__doc__, repeats=15)
    print("| terms | network | autograd, ms | closed form, ms | ratio |")
    print("|---" * 5 + "|")
    for (terms, params), (net, (d, hidden, n)) in itertools.product(TERMS.items(), NETS.items()):
        t = interleaved(passes(d, hidden, n, params, args.device), args.repeats)
        a, c = (1e3 * t[name] / CALLS for name in ("autograd", "closed form"))
        print(f"| {terms} | {net} | {a:.2f} | {c:.2f} | {a / c:.2f} |", flush=True)


if __name__ == "__main__":
    main()
