"""Candidates, rungs, the size of batches, the table: what a search is made of."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_mgs.search import _memory
from sklearn_mgs.search._fold import Model
from sklearn_mgs.search._grid import default_strengths, make_candidates, make_rungs
from sklearn_mgs.search._memory import autograd_bytes, default_max_models, model_bytes
from sklearn_mgs.search._results import make_cv_results
from sklearn_mgs.search._search import _extrapolated, staying_candidates

CPU = torch.device("cpu")


def test_default_strengths():
    assert_array_equal(default_strengths(2), [0, 0.001])
    assert_array_equal(default_strengths(6), [0, 0.001, 0.01, 0.1, 1, 10])
    assert_allclose(default_strengths(10)[1:], np.logspace(-3, 1, 9), rtol=1e-11)


def test_candidates_are_all_combinations():
    candidates = make_candidates([0, 1], alphas=[0.5], l1s=(0.1, 0.2))
    assert candidates == [
        {"alpha": 0.5, "l1": l1, "mgs_strength": s} for l1 in (0.1, 0.2) for s in (0.0, 1.0)
    ]
    assert make_candidates(np.array([1.0])) == [{"mgs_strength": 1.0}]


@pytest.mark.parametrize(
    ("n_candidates", "max_iter", "factor", "rungs"),
    [
        (10, 50, None, [50]),
        (10, 50, 2, [3, 6, 12, 25, 50]),
        (8, 50, 2, [6, 12, 25, 50]),
        (10, 50, 3, [1, 5, 16, 50]),
        (10, 5, 2, [1, 2, 5]),  # no half epochs
        (3, 50, 2, [12, 25, 50]),
        (2, 50, 2, [50]),
        (1, 50, 2, [50]),
    ],
)
def test_rungs(n_candidates, max_iter, factor, rungs):
    assert make_rungs(n_candidates, max_iter, factor) == rungs


GOOD, BLURRED = [0.8, 0.9, 0.8, 0.9], [0.9, 0.6, 0.9, 0.6]


@pytest.mark.parametrize(
    ("scores", "factor", "staying"),
    [
        ([GOOD, [0.5] * 4, [0.4] * 4, [0.3] * 4], 2, [0, 1]),
        ([[0.3] * 4, [0.4] * 4, [0.5] * 4, GOOD], 2, [2, 3]),
        ([GOOD, [0.5] * 4, [0.4] * 4, [0.3] * 4], 4, [0]),
        ([GOOD, [0.5] * 4, [0.4] * 4], 2, [0, 1]),  # rounded up
        ([GOOD, [0.8] * 4, BLURRED, [0.3] * 4], 4, [0, 1, 2]),  # not clearly behind
        ([GOOD, [s - 0.01 for s in GOOD]], 2, [0]),  # a little, but on each split
        ([[0.5] * 4, [np.nan] * 4, [np.nan] * 4], 2, [0, 1]),
        ([[np.nan] * 4, [0.5, 0.5, 0.5, np.nan], [0.5] * 4], 3, [2]),
        ([[0.5] * 4, [np.inf] * 4, [0.6] * 4], 3, [0, 1, 2]),  # nobody is at a known distance
        ([[0.5], [0.49], [0.51]], 3, [2]),  # one split: no error to go by
    ],
)
def test_who_stays(scores, factor, staying):
    table = {i: np.array(s) for i, s in enumerate(scores)}
    assert staying_candidates(table, table, factor) == staying


def test_who_is_behind_but_catches_up_stays():
    now = {i: np.array(s) for i, s in enumerate([GOOD, [0.5] * 4, [0.5] * 4])}
    earlier = {**now, 1: now[1] - 0.2, 2: now[2] - 0.02}
    ahead = _extrapolated(earlier, now, [10, 20, 40, 80])  # two more doublings
    assert_allclose(ahead[0], GOOD)
    assert_allclose(ahead[1], [0.9] * 4)
    assert_allclose(ahead[2], [0.54] * 4)
    assert staying_candidates(now, ahead, 3) == [0, 1]
    assert staying_candidates(ahead, now, 3) == [0, 1]  # nor who is good, but falls back


def test_size_of_a_model():
    # weights 3 * 4 + 4 * 2, biases 4 + 2; 10 samples in layers of 3 + 4 + 2
    assert model_bytes([3, 4, 2], 10, 0, 8) == 8 * (5 * 26 + 10 * 9 * 4)
    assert model_bytes([3, 4, 2], 10, 2, 4) == 4 * (5 * 26 + 10 * 9 * 10)


@pytest.mark.parametrize(
    ("bytes_per_model", "n_jobs", "expected"),
    [
        (2**20, 1, _memory.CPU_WORKING_SET // 2**20),  # what the caches hold
        (2**25, 1, _memory.CPU_LEAST_MODELS),  # too large for them
        (2**28, 1, 2),  # what half of the free memory holds
        (2**28, 2, 1),
        (2**34, 1, 1),  # never none
    ],
)
def test_models_in_a_batch(monkeypatch, bytes_per_model, n_jobs, expected):
    monkeypatch.setattr(_memory, "_free_bytes", lambda device: 2**30)
    assert default_max_models(bytes_per_model, CPU, n_jobs) == expected


def test_the_peak_fits_into_memory_too(monkeypatch):
    monkeypatch.setattr(_memory, "_free_bytes", lambda device: 2**30)
    extra = autograd_bytes(2**20, 256, 8)
    assert extra == 2 * 2**20 + 8 * 8 * 2**16
    assert default_max_models(2**20, CPU, 1, extra) == 32  # what the caches hold
    assert default_max_models(2**20, CPU, 8, extra) == 64 // 7


def test_on_a_gpu_memory_alone_counts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**31))
    assert default_max_models(2**20, torch.device("cuda", 0)) == 512


def test_free_memory_where_the_system_does_not_say(monkeypatch):
    assert _memory._free_bytes(CPU) > 0
    monkeypatch.delattr(_memory.os, "sysconf")
    assert _memory._free_bytes(CPU) == 2**30


@pytest.mark.parametrize("missing", [AttributeError, OSError, TypeError])
def test_where_the_heap_can_not_be_trimmed_it_is_not(monkeypatch, missing):
    def library(name):
        raise missing

    monkeypatch.setattr(_memory.ctypes, "CDLL", library)
    _memory.trim_heap()


def scored(scores):
    """Models of a table of scores (n_candidates, n_splits)."""
    models = []
    for (candidate, split), score in np.ndenumerate(scores):
        model = Model(candidate, split, {}, None, fit_time=candidate, score_time=split)
        model.scores = {"score": score}
        models.append(model)
    return models


def test_table():
    scores = np.array([[0.5, 0.7], [0.9, 0.7], [np.nan, 0.8], [0.6, 0.6]])
    candidates = [{"mgs_strength": float(i)} for i in range(4)]
    table = make_cv_results(candidates, scored(scores), ["score"])
    assert_array_equal(table["split1_test_score"], scores[:, 1])
    assert_allclose(table["mean_test_score"], [0.6, 0.8, np.nan, 0.6])
    assert_allclose(table["std_test_score"], [0.1, 0.1, np.nan, 0])
    assert_array_equal(table["rank_test_score"], [2, 1, 4, 2])
    assert_array_equal(table["mean_fit_time"], [0, 1, 2, 3])
    assert_array_equal(table["mean_score_time"], [0.5] * 4)
    assert table["params"] == candidates
    assert isinstance(table["param_mgs_strength"], np.ma.MaskedArray)


def test_infinite_scores_rank_as_numbers():
    scores = np.array([[0.5], [-np.inf], [np.inf], [0.7]])
    candidates = [{"mgs_strength": float(i)} for i in range(4)]
    table = make_cv_results(candidates, scored(scores), ["score"])
    assert_array_equal(table["rank_test_score"], [3, 4, 1, 2])


def test_those_that_were_dropped_rank_behind():
    scores = np.array([[0.9], [0.5], [np.nan], [0.6]])
    candidates = [{"mgs_strength": float(i)} for i in range(4)]
    given = np.array([5, 10, 10, 5])
    table = make_cv_results(candidates, scored(scores), ["score"], given)
    assert_array_equal(table["rank_test_score"], [3, 1, 2, 4])
    assert_array_equal(table["n_resources"], given)
