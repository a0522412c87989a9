"""The rows of gram_peers.py by neural-tangents, run by `gram_peers.py --jax PYTHON`.

neural-tangents 0.6.5 has to have an older JAX (0.4.30 does), and TensorFlow to be imported; so it
lives in an environment of its own:

    pip install "jax==0.4.30" "jaxlib==0.4.30" tensorflow-cpu frozendict absl-py dm-tree
    pip install --no-deps neural-tangents==0.6.5 "tf2jax==0.3.6" jaxopt
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

task, net, path, repeats, threads = sys.argv[1:]
# JAX takes what cores there are.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])

resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30,) * 2)  # rather than fill the machine

import jax  # noqa: E402
import neural_tangents as nt  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402
from jax import numpy as jnp  # noqa: E402


def mlp(p, X):
    for i in range(0, len(p) - 2, 2):
        X = jax.nn.relu(X @ p[i].T + p[i + 1])
    return X @ p[-2].T + p[-1]


def convnet(p, X):
    for i, (stride, padding) in enumerate(((1, 1), (2, 0))):
        pads = [(padding, padding)] * 2
        X = lax.conv_general_dilated(X, p[2 * i], (stride, stride), pads)
        X = jax.nn.relu(X + p[2 * i + 1][:, None, None])
    return X.reshape(len(X), -1) @ p[-2].T + p[-1]


def made(f, X):
    """The task as a function of the parameters and v; traces are divided by the axis's size."""
    if task == "product":

        def product(p, v):
            multiply = nt.empirical_ntk_vp_fn(f, X, None, p)
            units = jnp.eye(10)[:, None] * v[:, None]  # (10, n, 10)
            return sum(multiply(u)[:, c] for c, u in enumerate(units))

        return product
    options = {"vmap_axes": 0, "trace_axes": (-1,)}
    if task == "trace":
        kernel = nt.empirical_ntk_fn(f, diagonal_axes=(0,), **options)
        return lambda p, v: 10 * kernel(X, None, p).sum()
    kernel = nt.empirical_ntk_fn(f, implementation=2, **options)  # "NTK-vector products"
    return lambda p, v: 10 * kernel(X, None, p)


def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


arrays = np.load(path)
parameters = [jnp.asarray(arrays[f"p{i}"]) for i in range(len(arrays.files) - 2)]
X, v = jnp.asarray(arrays["X"]), jnp.asarray(arrays["v"])
f = {"mlp": mlp, "convnet": convnet}[net]
f(parameters, X).block_until_ready()
function, before, times = jax.jit(made(f, X)), peak(), []
for _ in range(int(repeats) + 1):
    start = time.perf_counter()
    result = function(parameters, v).block_until_ready()
    times.append(time.perf_counter() - start)
    if len(times) > 1 and times[-1] > 5:
        break
np.save(path + ".npy", np.asarray(result))
print(np.median(times[1:]), peak() - before)
