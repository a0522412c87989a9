"""
The same search on one machine and on a cluster
===============================================

``python examples/cluster.py`` searches on this machine. With ``--workers 2`` two worker processes
are started here, as they would be on other machines; with ``--scheduler tcp://host:8786`` those of
a running cluster do the work. The script is the same, and so are the results. The last two need
``pip install "sklearn_mgs[distributed]"``.
"""

import argparse
import time
from contextlib import ExitStack

import numpy as np
from joblib import parallel_config
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from sklearn_mgs import MLPClassifier, MLPClassifierCV

PARAMS = {
    "hidden_layer_sizes": (64,),
    "batch_size": 64,
    "learning_rate_init": 0.01,
    "max_iter": 15,
    "n_iter_no_change": 15,
    "random_state": 0,
}
STRENGTHS = [0, 0.03, 0.1, 0.3, 1, 3]


def searches():
    """One search fit by fit, of anything; one of strengths, in groups that train together."""
    grid = {"mgs_strength": STRENGTHS, "alpha": [1e-4, 1e-2]}
    yield GridSearchCV(MLPClassifier(**PARAMS), grid, cv=3)
    yield MLPClassifierCV(mgs_strengths=STRENGTHS, alphas=[1e-4, 1e-2], cv=3, **PARAMS)


def noisy_digits():
    """Digits, 40 % of the labels random."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    y = np.where(rng.random(len(y)) < 0.4, rng.integers(10, size=len(y)), y)
    return (X / 16).astype(np.float32), y


def use_cluster(stack, args, data):
    """Let joblib send its work to dask: the only lines that know of a cluster."""
    from dask.distributed import Client, LocalCluster

    where = args.scheduler
    if where is None:
        cluster = LocalCluster(args.workers, threads_per_worker=1, dashboard_address=None)
        where = stack.enter_context(cluster)
    client = stack.enter_context(Client(where))
    print(f"{sum(client.ncores().values())} workers")
    # Copies of the data on each worker: one that is lost takes none with it.
    stack.enter_context(parallel_config("dask", scatter=data))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, help="start so many worker processes here")
    parser.add_argument("--scheduler", help="address of a running cluster's scheduler")
    args = parser.parse_args()
    X, y = noisy_digits()
    with ExitStack() as stack:
        if args.workers or args.scheduler:
            use_cluster(stack, args, [X, y])
        for search in searches():
            start = time.perf_counter()
            search.fit(X, y)
            print(
                f"{type(search).__name__:16} {search.best_params_}, accuracy on the noisy labels "
                f"{search.best_score_:.3f}, {time.perf_counter() - start:.1f} s"
            )


if __name__ == "__main__":
    main()
