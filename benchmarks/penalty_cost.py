"""What the penalty costs: time and peak memory of a fit, and the step by either implementation.

    python benchmarks/penalty_cost.py [--repeats 5] [--threads 2] [--device cpu] [--compile]

Memory is the peak resident set of a process of its own (on Linux). With --compile, the training
step by `compile=True` against that without, and nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timing import arguments, interleaved, row

from sklearn_mgs import MLPClassifier
from sklearn_mgs._data import Samples
from sklearn_mgs.gram import gram_matrix, mgs_metric

NETS = {"784-300-100-10": (300, 100), "784-512-512-512-10": (512, 512, 512)}
KINDS = {
    "plain": {"mgs_strength": 0.0},
    "trace": {"mgs_strength": 0.1},
    "det": {"mgs_strength": 0.1, "mgs_metric": "det"},
    "plain trace": {"mgs_strength": 0.1, "mgs_layers": "all"},
    "trace of all samples": {"mgs_strength": 0.1, "mgs_batch_size": None},
}
TARGETS = {"trace": 1.7, "det": 2.3, "plain trace": 1.7, "trace of all samples": None}


def data(n):
    rng = np.random.default_rng(0)
    return rng.random((n, 784), dtype=np.float32), rng.integers(0, 10, n)


def model(hidden, kind, device, epochs):
    return MLPClassifier(
        hidden,
        batch_size=128,
        max_iter=epochs,
        random_state=0,
        n_iter_no_change=1000,
        device=device,
        **KINDS[kind],
    )


def fits(args):
    X, y = data(4000)
    for name, hidden in NETS.items():
        t = interleaved(
            {k: lambda k=k: model(hidden, k, args.device, 4).fit(X, y) for k in KINDS},  # noqa: B023
            args.repeats,
        )
        for kind, target in TARGETS.items():
            seconds = f"({t[kind]:.3f} s : {t['plain']:.3f} s)"
            row(f"fit, {name}, batch 128: {kind} : plain", t[kind] / t["plain"], target, seconds)


def steps(args):
    """Forward and backward pass of the trace penalty alone."""
    X, y = data(128)
    module = model((300, 100), "plain", args.device, 1).fit(X, y).module_
    device = next(module.parameters()).device
    X, y = torch.as_tensor(X, device=device), torch.as_tensor(y, device=device)

    def step(implementation):
        K = gram_matrix(module, X, outputs="target", targets=y, implementation=implementation)
        mgs_metric(K, "trace").backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    names = ("jacobian", "layerwise")
    t = interleaved({n: lambda n=n: step(n) for n in names}, args.repeats)
    a, b = (t[n] for n in names)
    what = "penalised step, 784-300-100-10, batch 128: jacobian : layerwise"
    row(what, a / b, 50, f"({a * 1e3:.1f} ms : {b * 1e3:.2f} ms)", at_least=True)


def peak(hidden, kind):
    """Peak resident set, in MiB, of a process that fits (or, without a kind, does not)."""
    code = f"import penalty_cost as p; p.one_fit({hidden!r}, {kind!r})"
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=sys.path[0],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(out.stdout)


def one_fit(hidden, kind):
    X, y = data(4000)
    if kind is not None:
        model(hidden, kind, "cpu", 2).fit(X, y)
    # VmHWM, not ru_maxrss: the latter is inherited from the process that starts this one.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def memory():
    for name, hidden in NETS.items():
        base, plain = peak(hidden, None), peak(hidden, "plain")
        for kind in ("trace", "det"):
            value = peak(hidden, kind)
            detail = f"({value:.0f} MiB : {plain:.0f} MiB; {base:.0f} MiB before the fit)"
            row(f"peak memory, {name}, batch 128: {kind} : plain", value / plain, 1.3, detail)


def compiled(args):
    """Training steps with and without the compiler; those of dropout have no closed form."""
    X, y = data(256)  # two mini-batches: of one alone, all samples make the kernel
    print(f"{'step, batch 128':42}{'ms':>8}{'compiled':>10}{'ratio':>7}{'s to compile':>14}")
    options = {**KINDS, "plain trace, dropout": {**KINDS["plain trace"], "dropout": 0.1}}
    for name, hidden in NETS.items():
        for kind, parameters in options.items():
            fits, start = {}, time.perf_counter()
            for compile in (False, True):
                clf = model(hidden, "plain", args.device, 1).set_params(**parameters)
                fits[compile] = clf.set_params(compile=compile).fit(X, y)
            took = time.perf_counter() - start
            t = interleaved(
                {c: partial(steps_of, clf.net_, X[:128], y[:128]) for c, clf in fits.items()},
                args.repeats,
            )
            ms = [1e3 * t[c] / STEPS for c in fits]
            columns = f"{ms[0]:8.2f}{ms[1]:10.2f}{ms[1] / ms[0]:7.2f}{took:14.1f}"
            print(f"{name + ', ' + kind:42}{columns}", flush=True)


STEPS = 50


def steps_of(net, X, y):
    p = next(net.module_.parameters())
    samples = Samples(X, torch.as_tensor(y), device=p.device, dtype=p.dtype)
    batch = samples.batch(slice(0, len(X)))
    net._set_training(True)
    for _ in range(STEPS):
        net.train_step(batch)
    float(p.detach().sum())  # waits for the device


def main():
    args = arguments(__doc__, flags=["compile"])
    if args.compile:
        return compiled(args)
    print(f"{'what':62} {'ratio':>8}    target")
    fits(args)
    steps(args)
    memory()


if __name__ == "__main__":
    main()
