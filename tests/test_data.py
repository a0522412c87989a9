"""Samples, mini-batches and choices by content."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.utils import shuffle

from sklearn_mgs._data import BatchIterator, Samples, as_tensor
from sklearn_mgs._held_out import choose_distinct, content_keys, hold_out

N = 11


@pytest.fixture
def arrays():
    rng = np.random.RandomState(0)
    X = rng.randn(N, 3)
    X[rng.rand(N, 3) < 0.4] = 0
    return X, torch.arange(N), rng.exponential(size=N)


def samples(arrays, form=np.asarray, weighted=False):
    X, y, weight = arrays
    return Samples(form(X), y, weight if weighted else None, dtype=torch.float64)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csr_array])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("index", [slice(2, 7), np.array([5, 0, 5])], ids=["slice", "index"])
def test_a_batch_is_what_its_index_names(arrays, form, weighted, index):
    X, y, weight = arrays
    batch = samples(arrays, form, weighted).batch(index)
    np.testing.assert_array_equal(batch.X, X[index])
    np.testing.assert_array_equal(batch.y, y[index])
    assert batch.n_samples == len(X[index])
    if weighted:
        np.testing.assert_array_equal(batch.sample_weight, weight[index])
        assert batch.weight_sum == weight[index].sum()
    else:
        assert batch.sample_weight is None
        assert batch.weight_sum == batch.n_samples


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csr_array])
def test_single_samples(arrays, form):
    data = samples(arrays, form)
    assert len(data) == N
    for i in (0, 7):
        X, y = data[i]
        np.testing.assert_array_equal(X, arrays[0][i])
        assert y == i


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [1, 4, 11])
def test_epochs_follow_scikit_learns_order(arrays, form, weighted, size):
    batches = BatchIterator(samples(arrays, form, weighted), size, True, np.random.RandomState(3))
    state, order = np.random.RandomState(3), np.arange(N)
    for _ in range(3):
        order = shuffle(order, random_state=state)
        epoch = list(batches)
        assert len(epoch) == len(batches) == -(-N // size)
        np.testing.assert_array_equal(torch.cat([b.y for b in epoch]), order)
        np.testing.assert_array_equal(torch.cat([b.X for b in epoch]), arrays[0][order])
        if weighted:
            np.testing.assert_array_equal(
                torch.cat([b.sample_weight for b in epoch]), arrays[2][order]
            )
            assert epoch[0].weight_sum == arrays[2][order[:size]].sum()


def test_without_shuffling_the_order_stays_and_nothing_is_drawn(arrays):
    state = np.random.RandomState(3)
    batches = BatchIterator(samples(arrays), 4, False, state)
    for _ in range(2):
        assert torch.cat([b.y for b in batches]).tolist() == list(range(N))
    assert state.randint(2**31) == np.random.RandomState(3).randint(2**31)


@pytest.mark.filterwarnings("error")
def test_tensors_of_read_only_or_foreign_memory():
    X = np.arange(6.0).reshape(2, 3)
    locked = X.copy()
    locked.flags.writeable = False
    for Z in (locked, X[::-1].copy()[::-1], X.astype(">f8"), sp.csc_array(X), X.T.copy().T):
        tensor = as_tensor(Z, torch.float64, "cpu")
        np.testing.assert_array_equal(tensor, X)
        tensor += 1  # may be written to
    np.testing.assert_array_equal(locked, X)


# -------------------------------------------------------------------- choices by content


def keys(X, y, seed=0):
    return content_keys(X, np.asarray(y), seed.to_bytes(16, "little"))


def test_keys_are_of_the_content(arrays):
    X, y = arrays[0], np.arange(N) % 3
    plain = keys(X, y)
    assert len(np.unique(plain)) == N
    order = np.random.RandomState(1).permutation(N)
    np.testing.assert_array_equal(keys(X[order], y[order]), plain[order])
    single = X.astype(np.float32)
    same = {
        "sparse": keys(sp.csr_array(X), y),
        "column major": keys(np.asfortranarray(X), y),
        "negative zeros": keys(np.where(X == 0, -0.0, X), y),
        "column of targets": keys(X, y[:, None]),
    }
    for name, got in same.items():
        np.testing.assert_array_equal(got, plain, err_msg=name)
    np.testing.assert_array_equal(keys(single, y), keys(single.astype(np.float64), y))
    assert not np.isin(keys(X, y, seed=1), plain).any()
    assert not np.isin(keys(X, y + 1), plain).any()
    assert not np.isin(keys(X + 1e-15, y), plain).any()


def test_keys_in_many_parts_are_the_same(arrays, monkeypatch):
    X, y = arrays[0], np.arange(N)
    whole = keys(X, y)
    monkeypatch.setattr("sklearn_mgs._held_out._ROWS", 4)
    np.testing.assert_array_equal(keys(X, y), whole)
    np.testing.assert_array_equal(keys(sp.csr_matrix(X), y), whole)


def test_choosing_distinct_samples_takes_all_their_copies():
    given = np.array([7, 3, 7, 9, 1, 3], dtype=np.uint64)
    assert choose_distinct(given, 1).tolist() == [4]
    assert choose_distinct(given, 2).tolist() == [1, 4, 5]
    assert choose_distinct(given, 3).tolist() == [0, 1, 2, 4, 5]
    assert choose_distinct(given, 99).tolist() == list(range(6))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_the_share_held_out_is_the_fraction(fraction):
    given = np.random.RandomState(0).permutation(1000).astype(np.uint64)
    assert hold_out(given, fraction).sum() == round(1000 * fraction)
    classes = np.repeat([0, 1], [900, 100])
    held_out = hold_out(given, fraction, groups=classes)
    assert [held_out[classes == k].sum() for k in (0, 1)] == [900 * fraction, 100 * fraction]
    assert given[held_out & (classes == 1)].max() < given[~held_out & (classes == 1)].min()


def test_a_weight_of_two_is_two_samples():
    rng = np.random.RandomState(0)
    given = rng.permutation(300).astype(np.uint64)
    repeats = rng.randint(0, 4, 300)
    groups = rng.randint(0, 3, 300)
    weighted = hold_out(given, 0.2, repeats.astype(float), groups)
    repeated = hold_out(given.repeat(repeats), 0.2, None, groups.repeat(repeats))
    np.testing.assert_array_equal(weighted.repeat(repeats), repeated)
    assert not weighted[repeats == 0].any()


def test_small_sets_still_hold_two_out():
    given = np.arange(5, dtype=np.uint64)
    assert hold_out(given, 0.1).sum() == 2
    assert hold_out(given, 0.1, groups=np.array([0, 0, 1, 1, 1])).sum() == 2
    weight = np.array([0.0, 0, 1, 1, 1])
    assert hold_out(given, 0.1, weight).tolist() == [False, False, True, True, False]
    with pytest.raises(ValueError, match="got n_samples=5 with 2 distinct"):
        hold_out(given // 3, 0.1)
    with pytest.raises(ValueError, match="too small: early stopping holds out at least 2"):
        hold_out(given, 0.1, np.array([0.0, 0, 0, 1, 1]))
