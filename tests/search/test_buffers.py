"""Memory that is written to again."""

import pickle

import pytest
import torch

from sklearn_mgs.search._buffers import Buffers


@pytest.fixture
def buffers():
    return Buffers(torch.zeros(3, dtype=torch.float64))


@torch.no_grad()
def test_one_name_is_one_memory(buffers):
    large, small = buffers("a", 2, 3), buffers("a", 1, 3)
    assert large.dtype == torch.float64
    assert (large.shape, small.shape) == ((2, 3), (1, 3))
    assert large.data_ptr() == small.data_ptr() == buffers("a", 2, 3).data_ptr()
    assert buffers("b", 2, 3).data_ptr() != large.data_ptr()
    assert buffers("a", 4, 3).shape == (4, 3)


def test_autograd_gets_new_results(buffers):
    assert buffers("a", 2) is None


@torch.no_grad()
def test_they_travel_empty(buffers):
    buffers("a", 1000)
    assert pickle.loads(pickle.dumps(buffers)).memory == {}
    buffers.clear()
    assert buffers.memory == buffers.views == {}
