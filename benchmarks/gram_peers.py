r"""The kernel beside what other packages and recipes offer, on the same networks.

    python benchmarks/gram_peers.py [--samples 256] [--repeats 5] [--threads 2] [--device cpu]

Rows: the dense kernel, a product with a vector, five of them, and the trace ("all" outputs), each
with the median seconds of interleaved runs (of one run, where it takes over five seconds), the
growth of peak memory of a process of its own, and the relative difference from our result. A peer
that can't be imported or does not offer the quantity says so. None is a dependency; their
requirements replace torch, so install them in an environment apart, or beside ours without
requirements:

    pip install --target peers --no-deps curvlinops-for-pytorch nngeometry \
        backpack-for-pytorch torchvision einops einconv unfoldNd linear_operator jaxtyping
    PYTHONPATH=peers python benchmarks/gram_peers.py

For neural-tangents see gram_peers_jax.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timing import interleaved
from torch import nn

SAMPLES = {"mlp": (784,), "convnet": (3, 16, 16)}
TASKS = ("dense", "product", "products", "trace")
PRODUCTS = 5
SLOW = 5.0  # seconds; what takes longer runs once


NOT_BY_JAX = [("dense", "convnet")]  # it filled 23 GiB


def network(name):
    torch.manual_seed(0)
    if name == "mlp":
        return nn.Sequential(
            nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
        )
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 10),
    )


def ours(task, module, X, v):
    from sklearn_mgs.gram import GramOperator, gram_matrix, gram_trace

    with torch.no_grad():
        if task == "dense":
            return gram_matrix(module, X)
        if task == "trace":
            return gram_trace(module, X)
        operator = GramOperator(module, X)
        if task == "product":
            return operator @ v
        return torch.stack([operator @ v for _ in range(PRODUCTS)])


def torch_func(task, module, X, v):
    """The recipe of torch's tutorial on neural tangent kernels, chunked; products by vjp, jvp."""
    from torch.func import functional_call, jacrev, jvp, vjp, vmap

    parameters = {k: p.detach() for k, p in module.named_parameters()}

    def one(p, x):
        return functional_call(module, p, (x[None],))[0]

    def everything(p):
        return functional_call(module, p, (X,))

    if task == "product":
        outputs, pull = vjp(everything, parameters)
        result = 0
        for c in range(outputs.shape[1]):
            direction = torch.zeros_like(outputs)
            direction[:, c] = v
            push = jvp(everything, (parameters,), (pull(direction)[0],))[1]
            result = result + push[:, c]
        return result
    J = vmap(jacrev(one), (None, 0), chunk_size=64)(parameters, X)
    rows = [j.flatten(1) for j in J.values()]
    if task == "trace":
        return sum(j.square().sum() for j in rows)
    return sum(j @ j.T for j in rows)


def curvlinops(task, module, X, v):
    from curvlinops import JacobianLinearOperator, TransposedJacobianLinearOperator

    parameters = [p for p in module.parameters() if p.requires_grad]
    J = JacobianLinearOperator(module, parameters, [(X, X)])
    JT = TransposedJacobianLinearOperator(module, parameters, [(X, X)])
    if task != "product":
        raise NotImplementedError("offers products alone")
    result = 0
    for c in range(10):
        direction = torch.zeros(len(X), 10, device=X.device)
        direction[:, c] = v
        result = result + (J @ (JT @ direction.flatten())).view(len(X), 10)[:, c]
    return result


def nngeometry(task, module, X, v):
    from nngeometry.gram import GramMatrix

    if task != "dense":
        raise NotImplementedError("offers the dense kernel alone")
    data = torch.utils.data.TensorDataset(X, X.flatten(1)[:, 0])
    loader = torch.utils.data.DataLoader(data, len(X))
    K = GramMatrix(module, loader, function=lambda *d: module(d[0])).to_torch()
    return torch.einsum("cncm->nm", K)


def backpack(task, module, X, v):
    import backpack as bp
    from backpack.extensions import BatchGrad

    if task == "product":
        raise NotImplementedError("offers whole gradients alone")
    module = bp.extend(module)
    total = 0
    for c in range(10):
        with bp.backpack(BatchGrad()):
            module(X)[:, c].sum().backward()
        rows = [p.grad_batch.flatten(1) for p in module.parameters()]
        if task == "trace":
            total = total + sum(r.square().sum() for r in rows)
        else:
            total = total + sum(r @ r.T for r in rows)
    return total


PEERS = {
    "sklearn_mgs": ours,
    "torch.func": torch_func,
    "curvlinops": curvlinops,
    "nngeometry": nngeometry,
    "backpack": backpack,
}


def call(peer, task, *arguments):
    """Run a peer; several products are so many calls, where there is no operator to keep."""
    if task == "products" and peer != "sklearn_mgs":
        return torch.stack([PEERS[peer]("product", *arguments) for _ in range(PRODUCTS)])
    return PEERS[peer](task, *arguments)


def problem(net, args):
    """Module, samples and a vector, the same for each peer."""
    module, generator = network(net).to(args.device), torch.Generator().manual_seed(1)
    X = torch.randn(args.samples, *SAMPLES[net], generator=generator).to(args.device)
    return module, X, torch.randn(args.samples, generator=generator).to(args.device)


def runs(task, net, args):
    """Function, seconds and result of each peer that offers the task; why others don't."""
    able, unable = {}, {}
    for name in PEERS:
        arguments = problem(net, args)

        def run(name=name, arguments=arguments):
            result = call(name, task, *arguments).detach()
            if args.device.startswith("cuda"):
                torch.cuda.synchronize()
            return result

        start = time.perf_counter()
        try:
            result = run()
        except Exception as error:  # whatever another package raises
            unable[name] = (str(error).splitlines() or [type(error).__name__])[0][:70]
        else:
            able[name] = run, time.perf_counter() - start, result
    return able, unable


def memory(peer, task, net, args):
    """Growth of peak memory, in MiB, of a process of its own."""
    torch.set_num_threads(args.threads)
    module, X, v = problem(net, args)
    module(X)
    call(peer, task, module, X[:2], v[:2])  # imports

    def peak():
        if args.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated() / 2**20
        # Not ru_maxrss, which is inherited from the process that starts this one.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10

    before = peak()
    call(peer, task, module, X, v)
    print(peak() - before)


def by_jax(task, net, args):
    """Seconds, growth of peak memory in MiB and result of neural-tangents."""
    module, X, v = problem(net, args)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/problem.npz"
        arrays = {f"p{i}": p.detach().cpu().numpy() for i, p in enumerate(module.parameters())}
        np.savez(path, X=X.cpu().numpy(), v=v.cpu().numpy(), **arrays)
        script = str(Path(__file__).with_name("gram_peers_jax.py"))
        command = [args.jax, script, task, net, path, str(args.repeats), str(args.threads)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, grown = map(float, run.stdout.split())
        return seconds, grown, torch.as_tensor(np.load(path + ".npy"), device=args.device)


def table(args, arguments):
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, n = {args.samples}")
    for net in SAMPLES:
        for task in args.tasks:
            print(f"\n{task}, {net}")
            able, unable = runs(task, net, args)
            want = able["sklearn_mgs"][2]
            quick = {peer: run for peer, (run, seconds, _) in able.items() if seconds <= SLOW}
            medians = interleaved(quick, args.repeats, warmup=0)
            for peer, (_, first, result) in able.items():
                seconds = medians.get(peer, first)
                command = [sys.executable, __file__, *arguments, "--only", peer, task, net]
                grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                error = float((result - want).norm() / want.norm())
                print(
                    f"    {peer:12} {seconds:9.4f} s {float(grown):7.0f} MiB, "
                    f"difference {error:.0e}",
                    flush=True,
                )
            if args.jax and task != "products" and (task, net) not in NOT_BY_JAX:
                seconds, grown, result = by_jax(task, net, args)
                error = float((result - want).norm() / want.norm())
                print(
                    f"    {'neural-tangents':12} {seconds:6.4f} s {grown:7.0f} MiB, "
                    f"difference {error:.0e} (a process of its own, compiled before)",
                    flush=True,
                )
            for peer, why in unable.items():
                print(f"    {peer:12} -: {why}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--jax", metavar="PYTHON", help="an interpreter with neural-tangents")
    parser.add_argument("--only", nargs=3, metavar=("PEER", "TASK", "NET"))
    args = parser.parse_args()
    if args.only:
        memory(*args.only, args)
    else:
        table(args, sys.argv[1:])
