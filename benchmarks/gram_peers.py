r"""The kernel beside what other packages and recipes offer, on the same networks.

    python benchmarks/gram_peers.py [--samples 256] [--repeats 3] [--threads 2] [--device cpu]

Rows: the dense kernel, a product with a vector and the trace ("all" outputs), each with median
seconds and the growth of peak memory of a process of its own, and the norm of the result, which
must be one for all. A peer that can't be imported or does not offer the quantity says so. None is
a dependency; their requirements replace torch, so install them in an environment apart, or beside
ours without requirements:

    pip install --target peers --no-deps curvlinops-for-pytorch nngeometry \
        backpack-for-pytorch torchvision einops einconv unfoldNd linear_operator jaxtyping
    PYTHONPATH=peers python benchmarks/gram_peers.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import torch
from torch import nn

SAMPLES = {"mlp": (784,), "convnet": (3, 16, 16)}
TASKS = ("dense", "product", "trace")


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
        return GramOperator(module, X) @ v


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
        direction = torch.zeros(len(X), 10)
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


def measure(peer, task, net, args):
    """In a process of its own: seconds, growth of peak memory in MiB, and a number to compare."""
    import resource

    torch.set_num_threads(args.threads)
    module, device = network(net).to(args.device), args.device
    X = torch.randn(args.samples, *SAMPLES[net], device=device)
    v = torch.randn(args.samples, device=device)
    module(X)
    cuda = device.startswith("cuda")

    def peak():
        if cuda:
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    before, times = peak(), []
    for _ in range(args.repeats + 1):
        start = time.perf_counter()
        result = PEERS[peer](task, module, X, v)
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    print(sorted(times[1:])[args.repeats // 2], peak() - before, float(result.detach().norm()))


def table(args, arguments):
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, n = {args.samples}")
    for net in SAMPLES:
        for task in TASKS:
            print(f"\n{task}, {net}")
            for peer in PEERS:
                command = [sys.executable, __file__, *arguments, "--only", peer, task, net]
                run = subprocess.run(command, capture_output=True, text=True, check=False)
                if run.returncode:
                    why = (run.stderr.strip().splitlines() or ["no message"])[-1][:70]
                    print(f"    {peer:12} skipped: {why}", flush=True)
                    continue
                seconds, memory, norm = map(float, run.stdout.split())
                print(f"    {peer:12} {seconds:9.4f} s {memory:9.0f} MiB   norm {norm:.6g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs=3, metavar=("PEER", "TASK", "NET"))
    args = parser.parse_args()
    if args.only:
        measure(*args.only, args)
    else:
        table(args, sys.argv[1:])
