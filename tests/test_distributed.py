"""Searches on a dask cluster of two worker processes: the answers of one machine."""

import os
import signal

import distributed
import numpy as np
import pytest
import torch
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV

from sklearn_mgs import MLPClassifier, MLPClassifierCV, MLPRegressorCV

PARAMS = {
    "hidden_layer_sizes": (8,),
    "learning_rate_init": 0.02,
    "max_iter": 8,
    "random_state": 0,
}
STRENGTHS = [0.0, 0.1, 1.0, 10.0]
SEARCH = {"mgs_strengths": STRENGTHS, "cv": 3, **PARAMS}


@pytest.fixture(scope="module")
def client():
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(2, **options) as cluster, distributed.Client(cluster) as client:
        yield client


def grid(**options):
    return GridSearchCV(MLPClassifier(**PARAMS), {"mgs_strength": STRENGTHS}, cv=3, **options)


def halving_grid():
    options = {"cv": 2, "min_resources": 12, "factor": 2, "random_state": 0}
    return HalvingGridSearchCV(MLPClassifier(**PARAMS), {"mgs_strength": STRENGTHS}, **options)


def classifier(**options):
    return MLPClassifierCV(**{**SEARCH, **options})


SEARCHES = {
    "GridSearchCV": grid,
    "HalvingGridSearchCV": halving_grid,
    "MLPClassifierCV": classifier,
    "MLPClassifierCV, halving": lambda: classifier(halving=True),
}


def assert_same(here, there):
    for key, column in here.cv_results_.items():
        if not key.endswith("_time") and key != "params":
            assert_array_equal(column, there.cv_results_[key])
    assert here.best_params_ == there.best_params_
    for a, b in zip(here.best_estimator_.coefs_, there.best_estimator_.coefs_):
        assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_a_cluster_gives_the_answer_of_one_machine(client, blobs, search):
    here = search().fit(*blobs)
    with parallel_config("dask", scatter=list(blobs)):
        assert_same(here, search().fit(*blobs))


def test_regressor(client, line):
    here = MLPRegressorCV(**SEARCH).fit(*line)
    with parallel_config("dask"):
        assert_same(here, MLPRegressorCV(**SEARCH).fit(*line))


@pytest.mark.parametrize(("search", "scattered"), [(grid, True), (classifier, False)])
def test_a_killed_worker_costs_no_results(client, blobs, tmp_path, search, scattered):
    once = str(tmp_path / "killed")

    def deadly(estimator, X, y):
        """Score; but the first worker to come here does not survive it."""
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return estimator.score(X, y)
        os.kill(os.getpid(), signal.SIGKILL)

    before = set(client.run(os.getpid).values())
    # GridSearchCV's data would die with the one worker that has them.
    with parallel_config("dask", scatter=list(blobs) if scattered else None):
        there = search(scoring=deadly).fit(*blobs)
    assert os.path.exists(once)
    client.wait_for_workers(2)
    assert len(before & set(client.run(os.getpid).values())) == 1
    assert_same(search().fit(*blobs), there)


@pytest.mark.parametrize("search", [grid, classifier])
def test_work_is_done_in_the_workers_by_one_thread_each(client, blobs, search):
    def process(estimator, X, y):
        return os.getpid()

    def threads(estimator, X, y):
        return torch.get_num_threads()

    workers = set(client.run(os.getpid).values())
    scoring = {"process": process, "threads": threads}
    with parallel_config("dask"):
        table = search(scoring=scoring, refit="threads").fit(*blobs).cv_results_
    assert {table[f"split{i}_test_process"][j] for i in range(3) for j in range(4)} <= workers
    assert set(table["mean_test_threads"]) == {1}


def test_the_device_is_for_the_worker_to_choose(client, blobs):
    def unresolved(estimator, X, y):
        return float(estimator.device == "auto")

    with parallel_config("dask"):
        search = grid(scoring=unresolved).fit(*blobs)
    assert np.all(search.cv_results_["mean_test_score"] == 1)
