"""Where the network lives: CUDA where there is one, and steps that never wait for it."""

import io
import pickle

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_mgs import MLPClassifier, MLPRegressor
from sklearn_mgs._data import BatchIterator, Samples

SMALL = {"hidden_layer_sizes": (16, 8), "max_iter": 5, "batch_size": 16, "random_state": 0}
STEPS = [
    {},
    {"solver": "sgd", "l1": 0.1},
    {"mgs_strength": 0.1},
    {"mgs_strength": 0.1, "mgs_metric": "det", "mgs_centered": "class"},
    {"mgs_strength": 0.1, "mgs_outputs": "all", "mgs_layers": "balanced"},
    {"mgs_strength": 0.1, "mgs_outputs": "random", "mgs_batch_size": 4},
    {"dropout": 0.1, "input_noise": 0.1, "label_smoothing": 0.1},
    {"jacobian_strength": 0.1, "gradient_strength": 0.1, "activation": "tanh"},
    {"coherence_threshold": 0.1, "coherence": "batch", "mgs_strength": 0.1},
    {"coherence_threshold": 0.1, "coherence": "total", "l1": 0.1},
    {"coherence_threshold": 0.5, "coherence": "trend", "l1": 0.1},
]


def prepared(blobs, device, weighted, **parameters):
    """A fitted classifier, and mini-batches where it lives."""
    X, y = blobs
    weight = np.linspace(0.5, 2, len(X)) if weighted else None
    clf = MLPClassifier(**{**SMALL, **parameters}, device=device).fit(X, y, weight)
    p = next(clf.module_.parameters())
    samples = Samples(X, torch.as_tensor(y), weight, device=p.device, dtype=p.dtype)
    return clf, list(BatchIterator(samples, 16, True, np.random.RandomState(0)))


class NoWaiting(TorchDispatchMode):
    """Raises where an operation would ask the device for a value or for a size."""

    WAITS = ("_local_scalar_dense", "nonzero", "_unique2", "equal", "masked_select")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name.removeprefix("aten::") not in self.WAITS, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("parameters", STEPS, ids=str)
def test_a_step_asks_the_device_for_nothing(blobs, parameters, weighted):
    clf, batches = prepared(blobs, "cpu", weighted, **parameters)
    clf.module_.train()
    with NoWaiting():
        for batch in batches:
            clf.net_.train_step(batch)


def test_the_watch_on_waiting_sees_it():
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        torch.ones(1).item()


def test_auto_takes_what_there_is(blobs):
    clf = MLPClassifier(**SMALL).fit(*blobs)
    there_is = "cuda" if torch.cuda.is_available() else "cpu"
    assert next(clf.module_.parameters()).device.type == there_is


@pytest.mark.gpu
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("parameters", STEPS, ids=str)
def test_a_step_on_cuda_does_not_wait(blobs, parameters, weighted):
    clf, batches = prepared(blobs, "cuda", weighted, **parameters)
    clf.module_.train()
    clf.net_.train_step(batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            clf.net_.train_step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("make", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("mgs_metric", ["trace", "det"])
def test_cuda_follows_the_cpu(blobs, make, solver, mgs_metric):
    parameters = {"solver": solver, "mgs_strength": 0.1, "mgs_metric": mgs_metric}
    cpu, cuda = (
        make(**SMALL, **parameters, activation="tanh", device=device).fit(*blobs)
        for device in ("cpu", "cuda")
    )
    assert next(cuda.module_.parameters()).device.type == "cuda"
    np.testing.assert_allclose(cuda.loss_, cpu.loss_, rtol=1e-8)
    for a, b in zip(cuda.coefs_, cpu.coefs_):
        np.testing.assert_allclose(a, b, atol=1e-7)
    assert isinstance(cuda.predict(blobs[0]), np.ndarray)


@pytest.mark.gpu
@pytest.mark.parametrize("parameters", STEPS, ids=str)
def test_cuda_fits_repeat_and_leave_the_generator_alone(blobs, parameters):
    clf = MLPClassifier(**{**SMALL, **parameters}, device="cuda")
    before = torch.cuda.get_rng_state()
    first = [c.copy() for c in clf.fit(*blobs).coefs_]
    for a, b in zip(first, clf.fit(*blobs).coefs_):
        np.testing.assert_array_equal(a, b)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_fit_on_cuda_loads_where_there_is_none(blobs, monkeypatch, early_stopping):
    X, y = blobs
    parameters = {"mgs_strength": 0.1, "early_stopping": early_stopping}
    clf = MLPClassifier(**SMALL, **parameters, device="cuda").fit(X, y)

    class NoTensors(pickle.Pickler):
        def reducer_override(self, thing):
            assert not isinstance(thing, torch.Tensor), thing
            return NotImplemented

    NoTensors(io.BytesIO()).dump(clf)
    data = pickle.dumps(clf)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    again = pickle.loads(data)
    assert next(again.module_.parameters()).device.type == "cpu"
    np.testing.assert_allclose(again.predict_proba(X), clf.predict_proba(X), atol=1e-10)
    again.set_params(device="cpu").partial_fit(X, y)


@pytest.mark.gpu
def test_sparse_samples_on_cuda(blobs):
    import scipy.sparse as sp

    X, y = blobs
    dense, sparse = (
        MLPClassifier(**SMALL, device="cuda").fit(form(X), y)
        for form in (np.asarray, sp.csr_array)
    )
    np.testing.assert_array_equal(dense.coefs_[0], sparse.coefs_[0])
