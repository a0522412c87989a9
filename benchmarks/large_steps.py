"""Training steps at the sizes a GPU is for: plain, trace and det, and per-sample gradients.

    python benchmarks/large_steps.py --device cuda [--compile] [--graphs] [--repeats 5]
        [--nets 784-300]

With --graphs the compiled step is replayed by CUDA graphs.

Each row has the median milliseconds of a step (forward, backward, Adam) in interleaved runs, its
ratio to the plain step, and the same ratio of the operations that torch counts: the floor. Last
the trace penalty by torch.func's per-sample gradients, with the largest mini-batch that fits.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from timing import arguments, interleaved
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sklearn_mgs._compiled import CompiledPasses
from sklearn_mgs.gram import gram_trace
from sklearn_mgs.penalty import MGSPenalty

STEPS = 10
TARGETS = {"trace": 1.5, "det": 2.2}


class Block(nn.Module):
    """Two convolutions around a short cut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.GroupNorm(32, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.GroupNorm(32, outputs),
        )
        straight = stride == 1 and inputs == outputs
        self.short = nn.Identity() if straight else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, X):
        return torch.relu(self.short(X) + self.body(X))


def resnet18():
    """Of the size of ResNet-18 for 32 x 32 images, with group normalisation."""
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    strides = [1, 1, 2, 1, 2, 1, 2, 1]
    blocks = [Block(a, b, s) for (a, b), s in zip(pairwise(widths), strides)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), *blocks, *head)


def mlp(*units):
    layers = [m for a, b in pairwise(units) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


NETS = {
    "784-300-100-10, batch 128": (lambda: mlp(784, 300, 100, 10), (128, 784)),
    "784-2048-2048-2048-10, batch 1024": (lambda: mlp(784, 2048, 2048, 2048, 10), (1024, 784)),
    "ResNet-18, batch 256": (resnet18, (256, 3, 32, 32)),
}


def make_step(module, X, y, kind, compile=None):
    """One step of training; its forward and backward pass may be compiled with some options."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-5, fused=True)
    penalty = None
    if kind != "plain":
        penalty = MGSPenalty(kind, outputs="target").calibrate(module, X[:256], y[:256])

    def passes(X, y):
        if penalty is None:
            loss = nn.functional.cross_entropy(module(X), y)
        else:
            with penalty.record(module) as tape:
                output = module(X)
            loss = nn.functional.cross_entropy(output, y) + 0.1 * penalty(tape, output, y)
        loss.backward()
        return loss.detach()

    run = passes if compile is None else CompiledPasses(passes, module, options=compile)

    def step():
        optimizer.zero_grad()
        run(X, y)
        optimizer.step()

    return step


def several(step, device):
    for _ in range(STEPS):
        step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def operations(step):
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def by_samples(make, shape, device, repeats):
    """Milliseconds of the trace and its gradient by torch.func, and the mini-batch that fits."""
    n = shape[0]
    while n:
        module = make().to(device)
        X = torch.randn(n, *shape[1:], device=device)
        y = torch.randint(10, (n,), device=device)

        def step(module=module, X=X, y=y):
            options = {"outputs": "target", "targets": y, "implementation": "jacobian"}
            gram_trace(module, X, chunk_size=len(X), **options).backward()
            if device.startswith("cuda"):
                torch.cuda.synchronize()

        try:
            return 1e3 * interleaved({"": step}, repeats)[""], n
        except torch.cuda.OutOfMemoryError:
            n //= 2
    return float("nan"), 0


def main():
    args = arguments(__doc__, flags=["compile", "graphs"], nets="")
    for name, (make, shape) in NETS.items():
        if args.nets not in name:
            continue
        torch.manual_seed(0)
        X = torch.randn(shape, device=args.device)
        y = torch.randint(10, shape[:1], device=args.device)
        kinds = ("plain", *TARGETS)
        steps = {k: make_step(make().to(args.device), X, y, k) for k in kinds}
        floor = {k: operations(step) for k, step in steps.items()}
        if args.compile or args.graphs:
            options = {"options": {"triton.cudagraphs": True}} if args.graphs else {}
            steps = {k: make_step(make().to(args.device), X, y, k, options) for k in kinds}
        runs = {k: lambda k=k: several(steps[k], args.device) for k in kinds}  # noqa: B023
        t = interleaved(runs, args.repeats)
        print(name)
        for k in kinds:
            ratio, least = t[k] / t["plain"], floor[k] / floor["plain"]
            target = f"  <= {TARGETS[k]}" if k in TARGETS else ""
            print(
                f"    {k:8}{1e3 * t[k] / STEPS:9.2f} ms {ratio:6.2f}{target:8} floor {least:.2f}"
            )
        ms, n = by_samples(make, shape, args.device, 1)
        faster = ms / n * shape[0] / (1e3 * t["trace"] / STEPS) if n else float("inf")
        print(
            f"    torch.func, batch {n}: {ms:.1f} ms; trace is {faster:.0f} times faster a sample"
        )


if __name__ == "__main__":
    main()
