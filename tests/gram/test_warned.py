"""vmap's warning is an error where it is asked for; every other warning stays what it is."""

import threading
import warnings

import pytest
import torch

from sklearn_mgs.gram._warned import without_slow_vmap


def test_slow_vmap_is_an_error():
    x = torch.randn(3, 2, 4)
    index = torch.zeros(3, 2, 1, dtype=torch.int64)

    def slow():
        return torch.func.vmap(lambda a, i: a.new_zeros(2, 4).scatter_(1, i, 1.0))(x, index)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        slow()
    assert "batching rule" in str(caught[0].message)
    with pytest.raises(RuntimeError, match="batching rule"):
        without_slow_vmap(slow)


def test_other_warnings_stay_warnings():
    def compute():
        warnings.warn("of something else")
        return 3

    with pytest.warns(UserWarning, match="of something else"):
        assert without_slow_vmap(compute) == 3


def test_warnings_of_other_threads_are_no_errors():
    inside, warned, errors = threading.Event(), threading.Event(), []

    def compute():
        inside.set()
        assert warned.wait(5)

    def other():
        assert inside.wait(5)
        try:
            warnings.warn("of another thread")
        except UserWarning as error:
            errors.append(error)
        warned.set()

    thread = threading.Thread(target=other)
    thread.start()
    with pytest.warns(UserWarning, match="of another thread"):
        without_slow_vmap(compute)
    thread.join()
    assert not errors
