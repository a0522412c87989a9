"""Side-by-side timing: interleaved runs, medians, thread counts said."""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import torch
from threadpoolctl import threadpool_limits


def interleaved(runs, repeats, warmup=1):
    """Median wall time in seconds of each function, run in turn `repeats` times."""
    times = {name: [] for name in runs}
    for i in range(repeats + warmup):
        for name, function in runs.items():
            start = time.perf_counter()
            function()
            if i >= warmup:
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def arguments(description, repeats=5, flags=(), **options):
    """Command line shared by the benchmarks, with further options; sets the thread counts."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    for flag in flags:
        parser.add_argument(f"--{flag}", action="store_true")
    for option, default in options.items():
        parser.add_argument(f"--{option}", default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    threadpool_limits(args.threads)
    warnings.simplefilter("ignore")
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    print(
        f"torch {torch.__version__}, {device}, {args.threads} threads, "
        f"median of {args.repeats} interleaved runs\n"
    )
    return args


def row(what, ratio, target, detail, at_least=False):
    """Print one line of a table of ratios; without a target, the ratio alone."""
    if target is None:
        print(f"{what:62} {ratio:8.2f} {'':13} {detail}")
        return
    holds = ratio >= target if at_least else ratio <= target
    sign = ">=" if at_least else "<="
    print(f"{what:62} {ratio:8.2f} {sign} {target:<5g} {'yes' if holds else 'NO':4} {detail}")
