"""What a fit keeps, changes and leaves alone: copies, refits, warm starts, random states."""

import copy
import io
import pickle
import random

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_mgs import MLPClassifier, MLPRegressor, _lbfgs
from sklearn_mgs.gram import gram_matrix, mgs_metric

SMALL = {"hidden_layer_sizes": (6,), "max_iter": 4, "batch_size": 16, "random_state": 0}
NOISY = {"mgs_strength": 0.3, "dropout": 0.3, "input_noise": 0.1, "mgs_outputs": "random"}
KINDS = [
    {"solver": "adam"},
    {"solver": "sgd", "learning_rate": "invscaling"},
    {"solver": "adam", **NOISY},
    {"solver": "adam", "mgs_strength": 0.3, "mgs_metric": "det", "mgs_layers": "balanced"},
    {"solver": "sgd", "coherence_threshold": 0.1, "l1": 0.1, "early_stopping": True},
]


def classifier(**parameters):
    return MLPClassifier(**{**SMALL, **parameters})


def assert_equal(a, b):
    for u, v in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_):
        np.testing.assert_array_equal(u, v)
    assert a.loss_ == b.loss_
    assert a.t_ == b.t_


def through_joblib(estimator):
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


COPIES = {
    "pickle": lambda estimator: pickle.loads(pickle.dumps(estimator)),
    "joblib": through_joblib,
    "deepcopy": copy.deepcopy,
}

# ----------------------------------------------------------------------------- copies


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("parameters", KINDS, ids=str)
def test_copies_answer_and_go_on_alike(blobs, parameters, copied):
    X, y = blobs
    clf = classifier(**parameters).fit(X, y).partial_fit(X, y)
    again = COPIES[copied](clf)
    assert_equal(clf, again)
    np.testing.assert_array_equal(clf.predict_proba(X), again.predict_proba(X))
    assert clf.history_ == again.history_
    before = clf.coefs_[0].copy()
    again.partial_fit(X, y).partial_fit(X, y)
    np.testing.assert_array_equal(clf.coefs_[0], before)
    assert_equal(clf.partial_fit(X, y).partial_fit(X, y), again)


@pytest.mark.parametrize("copied", COPIES)
def test_copies_warm_start_alike(blobs, copied):
    clf = classifier(warm_start=True, **NOISY).fit(*blobs)
    again = COPIES[copied](clf)
    assert_equal(clf.fit(*blobs), again.fit(*blobs))


def test_unfitted_copies(blobs):
    for make in COPIES.values():
        assert_equal(make(classifier()).fit(*blobs), classifier().fit(*blobs))


def test_no_tensor_travels_outside_the_net(blobs):
    """The net brings its tensors to the CPU where their device is absent; nothing else does."""

    class NoTensors(pickle.Pickler):
        def reducer_override(self, thing):
            assert not isinstance(thing, torch.Tensor | torch.device), thing
            return NotImplemented

    NoTensors(io.BytesIO()).dump(classifier(**NOISY, early_stopping=True).fit(*blobs))


def test_a_pickle_from_an_absent_device_loads_on_the_cpu(blobs, monkeypatch):
    X, y = blobs
    clf = classifier(mgs_strength=0.1).fit(X, y)
    data, load = pickle.dumps(clf), torch.load

    def load_without_the_device(buffer, map_location=None, **kwargs):
        if map_location is None:
            raise RuntimeError("Attempting to deserialize object on a CUDA device")
        return load(buffer, map_location=map_location, **kwargs)

    monkeypatch.setattr(torch, "load", load_without_the_device)
    again = pickle.loads(data)
    assert again.net_.device == "cpu"
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert_equal(again.partial_fit(X, y), clf.partial_fit(X, y))


def test_clone_and_nested_parameters(blobs):
    parameters = {"mgs_strength": 0.1, "mgs_metric": "det", "hidden_layer_sizes": (3, 2)}
    clf = classifier(**parameters).fit(*blobs)
    again = clone(clf)
    assert again.get_params() == clf.get_params()
    assert not hasattr(again, "net_")
    with pytest.raises(NotFittedError):
        again.predict(blobs[0])
    pipeline = make_pipeline(StandardScaler(), clf)
    pipeline.set_params(mlpclassifier__mgs_strength=0.7, mlpclassifier__callbacks=None)
    assert pipeline.get_params()["mlpclassifier__mgs_strength"] == clf.mgs_strength == 0.7


@pytest.mark.parametrize("make", [MLPClassifier, MLPRegressor])
def test_the_constructor_stores_and_fit_keeps_parameters(make, blobs):
    sizes, callbacks = np.array([3, 2]), []
    estimator = make(hidden_layer_sizes=sizes, callbacks=callbacks, max_iter=2)
    before = estimator.get_params()
    estimator.fit(*blobs)
    for name, value in estimator.get_params().items():
        assert value is before[name]


# ------------------------------------------------------------------------- randomness


@pytest.mark.parametrize("parameters", KINDS, ids=str)
def test_the_same_seed_gives_the_same_bits(blobs, parameters):
    clf = classifier(**parameters)
    first = copy.deepcopy(clf.fit(*blobs))
    assert_equal(first, clf.fit(*blobs))
    assert_equal(first, clone(clf).fit(*blobs))


@pytest.mark.parametrize("parameters", [{}, NOISY], ids=str)
def test_another_seed_gives_another_network(blobs, parameters):
    fits = [classifier(**parameters, **{"random_state": seed}) for seed in (0, 1, None, None)]
    weights = {float(clf.fit(*blobs).coefs_[0][0, 0]) for clf in fits}
    assert len(weights) == 4


@pytest.mark.parametrize("random_state", [None, 0, np.random.RandomState(3)])
@pytest.mark.parametrize("parameters", [NOISY, {"early_stopping": True}, {"solver": "lbfgs"}])
def test_global_random_states_are_left_alone(blobs, parameters, random_state):
    def states():
        kind, keys, *rest = np.random.get_state()  # noqa: NPY002
        return torch.get_rng_state().tolist(), kind, keys.tolist(), rest, random.getstate()

    before = states()
    clf = classifier(**{**parameters, "random_state": random_state}).fit(*blobs)
    clf.predict_proba(blobs[0])
    if "solver" not in parameters:
        clf.partial_fit(*blobs)
    assert states() == before


def test_global_random_states_play_no_part(blobs):
    fits = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        fits.append(classifier(**NOISY).fit(*blobs))
    assert_equal(*fits)


def test_fits_in_threads_are_those_in_turn(blobs):
    clf = classifier(**{**NOISY, "max_iter": 30})
    before = torch.get_rng_state()
    fits = joblib.Parallel(4, backend="threading")(
        joblib.delayed(clone(clf).fit)(*blobs) for _ in range(8)
    )
    assert torch.equal(torch.get_rng_state(), before)
    alone = clone(clf).fit(*blobs)
    for fit in fits:
        assert_equal(fit, alone)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_of_autograd_play_no_part(blobs, mode):
    parameters = {**KINDS[2], "jacobian_strength": 0.1}
    with mode():
        inside = classifier(**parameters).fit(*blobs).partial_fit(*blobs)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert_equal(inside, classifier(**parameters).fit(*blobs).partial_fit(*blobs))


def test_predictions_under_autocast_are_in_the_networks_precision(blobs):
    X, y = blobs[0].astype(np.float32), blobs[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        clf = classifier(early_stopping=True).fit(X, y)
        inside = clf.predict_proba(X)
    assert inside.dtype == np.float32
    np.testing.assert_allclose(inside, clf.predict_proba(X), atol=0.1)


# ------------------------------------------------------------------------------ refits


def broken_inputs(X, y):
    nan = np.where(np.arange(X.size).reshape(X.shape) == 3, np.nan, X)
    return {
        "not a number": (nan, y, {}),
        "other features": (X[:, :3], y, {"sample_weight": np.ones(3)}),
        "other classes": (X, y + 7, {"sample_weight": np.ones(3)}),
        "no validation": (X[:, :3], y, {"X_val": X, "y_val": y}),
        "too few samples": (X[:2, :3], y[:2], {}),
        "zero kernel": (np.zeros((40, 3)), y, {}),
    }


@pytest.mark.parametrize("what", broken_inputs(np.zeros((4, 5)), np.zeros(4)))
def test_bad_input_leaves_the_fit_as_it_was(blobs, what):
    X, y = blobs
    parameters = {
        "early_stopping": True,
        "mgs_strength": 0.1,
        "hidden_layer_sizes": (),
        "batch_size": "auto",
    }
    clf = classifier(**parameters, mgs_centered="class").fit(X, y)
    attributes, probabilities = dict(vars(clf)), clf.predict_proba(X)
    bad_X, bad_y, rest = broken_inputs(X, y)[what]
    with pytest.raises(ValueError, match=r".+"):
        clf.fit(bad_X, bad_y, **rest)
    assert vars(clf).keys() == attributes.keys()
    assert all(value is attributes[name] for name, value in vars(clf).items())
    np.testing.assert_array_equal(clf.predict_proba(X), probabilities)
    fresh = clone(clf)
    with pytest.raises(ValueError, match=r".+"):
        fresh.fit(bad_X, bad_y, **rest)
    with pytest.raises(NotFittedError):
        fresh.predict(X)


def test_a_refit_forgets(blobs, labels):
    X, y = blobs
    clf = classifier(early_stopping=True).fit(X, y)
    clf.set_params(early_stopping=False, hidden_layer_sizes=(3, 2)).fit(X[:, :4], labels["binary"])
    fresh = clone(clf).fit(X[:, :4], labels["binary"])
    assert_equal(clf, fresh)
    assert vars(clf).keys() == vars(fresh).keys()
    assert clf.validation_scores_ is None
    assert len(clf.history_) == clf.n_iter_
    clf.set_params(solver="lbfgs").fit(X, y)
    assert not hasattr(clf, "loss_curve_")


# ------------------------------------------------------------------------- warm starts


def test_a_warm_start_goes_on(blobs):
    clf = classifier(warm_start=True).fit(*blobs)
    module, curve = clf.module_, list(clf.loss_curve_)
    clf.fit(*blobs)
    assert clf.module_ is module
    assert clf.loss_curve_[:4] == curve
    assert len(clf.loss_curve_) == len(clf.history_) == 8
    assert (clf.n_iter_, clf.t_) == (4, 8 * 40)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"solver": "lbfgs"}, {"solver": "adam"}),
        ({"solver": "adam"}, {"solver": "lbfgs"}),
        ({"solver": "sgd"}, {"solver": "adam", "early_stopping": True}),
        ({"early_stopping": True}, {"early_stopping": False}),
        ({"mgs_strength": 0.0}, {"mgs_strength": 0.5}),
        ({"mgs_strength": 0.5}, {"mgs_strength": 0.0}),
        ({"l1": 0.5}, {"l1": 0.0, "coherence_threshold": 0.0}),
    ],
    ids=str,
)
def test_parameters_may_change_between_warm_starts(blobs, first, second):
    clf = classifier(warm_start=True, **first).fit(*blobs)
    clf.set_params(**second).fit(*blobs)
    assert clf.n_iter_ == 4
    assert np.isfinite(clf.loss_)
    watched = clf.early_stopping
    assert (clf.validation_scores_ is not None) >= watched
    assert ("mgs_penalty" in clf.history_[-1]) == (clf.mgs_strength > 0)


def test_another_penalty_is_measured_anew(blobs):
    X, y = (torch.tensor(a) for a in blobs)
    clf = classifier(warm_start=True, mgs_strength=0.2, batch_size=40).fit(*blobs)
    for changed in (
        {"mgs_metric": "det"},
        {"mgs_centered": True},
        {"mgs_layers": "first"},
        {"mgs_relative": True},
    ):
        clf.set_params(**changed).fit(*blobs)
        np.testing.assert_allclose(clf.history_[-4, "mgs_penalty"], 0.2, rtol=1e-12)
    unit = clf.net_.criterion_.penalty.scale_
    clf.fit(*blobs)
    assert clf.net_.criterion_.penalty.scale_ is unit
    K = gram_matrix(clf.module_, X, outputs="target", targets=y, layers="first", centered=True)
    clf.set_params(solver="lbfgs", max_iter=1).fit(*blobs)
    ratio = (mgs_metric(K, "det") / unit).item()
    assert 0 < clf.history_[-1, "mgs_penalty"] / 0.2 < 2 * ratio


def test_strength_alone_may_change_without_a_new_unit(blobs):
    clf = classifier(warm_start=True, mgs_strength=0.2).fit(*blobs)
    unit = clf.net_.criterion_.penalty.scale_
    clf.set_params(mgs_strength=0.4).fit(*blobs)
    assert clf.net_.criterion_.penalty.scale_ is unit
    assert clf.net_.criterion_.mgs_strength == 0.4


@pytest.mark.parametrize(
    "changed",
    [{"hidden_layer_sizes": (7,)}, {"activation": "tanh"}, {"dropout": 0.5}, {"dtype": "float32"}],
    ids=str,
)
def test_another_network_is_no_warm_start(blobs, changed):
    clf = classifier(warm_start=True).fit(*blobs).set_params(**changed)
    with pytest.raises(ValueError, match=r"can't go on with .*set warm_start=False"):
        clf.fit(*blobs)
    with pytest.raises(ValueError, match=r"can't go on with"):
        clf.partial_fit(*blobs)
    assert_equal(clf.set_params(warm_start=False).fit(*blobs), clone(clf).fit(*blobs))


def test_other_classes_or_outputs_are_no_warm_start(blobs, line):
    X, y = blobs
    clf = classifier(warm_start=True).fit(X, y)
    for other in (y + 1, y > 0):
        with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same"):
            clf.fit(X, other)
    reg = MLPRegressor(**SMALL, warm_start=True).fit(X, X[:, 0])
    with pytest.raises(ValueError, match="can't go on with"):
        reg.fit(X, X[:, :2])
    with pytest.raises(ValueError, match="5 features"):
        reg.fit(X[:, :4], X[:, 0])


def test_a_warm_start_keeps_the_loss(line):
    X, y = line
    reg = MLPRegressor(**SMALL, warm_start=True).fit(X, abs(y)).set_params(loss="poisson")
    with pytest.raises(ValueError, match=r"can't go on with .*'loss': 'squared_error'"):
        reg.fit(X, abs(y))


def test_a_first_partial_fit_that_fails_leaves_nothing(blobs):
    X, y = blobs
    clf = classifier()
    with pytest.raises(ValueError, match="NaN"):
        clf.partial_fit(np.full_like(X, np.nan), y, classes=[0, 1, 2])
    assert vars(clf) == clf.get_params()
    names = np.array(["ant", "bee", "cow"])
    assert clf.partial_fit(X, names[y], classes=names).classes_.tolist() == names.tolist()


def test_partial_fit_checks_classes(blobs):
    X, y = blobs
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        classifier().partial_fit(X, y)
    clf = classifier().partial_fit(X, y, classes=[0, 1, 2, 5])
    assert clf.predict_proba(X).shape == (40, 4)
    with pytest.raises(ValueError, match="not the same as on last call"):
        clf.partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="`y` has classes not in"):
        clf.partial_fit(X, y + 3)
    with pytest.raises(ValueError, match="class_weight='balanced' is not supported"):
        classifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])
    weighted = classifier(class_weight={0: 2.0, 1: 1.0, 2: 1.0})
    weighted.partial_fit(X, y, classes=[0, 1, 2])
    by_hand = classifier().partial_fit(X, y, np.where(y == 0, 2.0, 1.0), classes=[0, 1, 2])
    assert_equal(weighted, by_hand)


def test_lbfgs_has_no_partial_fit(blobs):
    clf = classifier(solver="lbfgs")
    assert not hasattr(clf, "partial_fit")
    with pytest.raises(AttributeError, match="partial_fit"):
        clf.partial_fit(*blobs)


# ------------------------------------------------------------------ fitted attributes


def test_coefs_may_be_assigned(blobs):
    X, y = blobs
    clf = classifier().fit(X, y)
    other = classifier(random_state=9).fit(X, y)
    clf.coefs_, clf.intercepts_ = other.coefs_, other.intercepts_
    np.testing.assert_array_equal(clf.predict_proba(X), other.predict_proba(X))
    clf.coefs_ = [0 * c for c in clf.coefs_]
    assert np.abs(other.coefs_[0]).max() > 0  # copied in, not tied
    assert clf.compression_ratio_ > 1


def test_coefs_of_one_layer_may_be_assigned(blobs):
    X, y = blobs
    clf = classifier().fit(X, y)
    other = classifier(random_state=9).fit(X, y)
    for layer in range(2):
        clf.coefs_[layer] = other.coefs_[layer]
        clf.intercepts_[layer] = other.intercepts_[layer]
    np.testing.assert_array_equal(clf.predict_proba(X), other.predict_proba(X))
    clf.coefs_[-1] *= 0
    assert not clf.coefs_[-1].any()
    with pytest.raises(ValueError, match=r"Layer 1 has coefs of shape \(6, 3\)"):
        clf.coefs_[1] = np.zeros((3, 6))
    copied = pickle.loads(pickle.dumps(clf.coefs_))
    assert type(copied) is list
    copied[0] = other.coefs_[0] + 1
    assert (clf.coefs_[0] < copied[0]).all()


@pytest.mark.parametrize(
    ("coefs", "message"),
    [
        ([np.zeros((5, 6))], "one array per layer"),
        ([np.zeros((5, 6)), np.zeros((3, 6))], r"Layer 1 has coefs of shape \(6, 3\)"),
        ([np.zeros((5, 7)), np.zeros((6, 3))], r"Layer 0 has coefs of shape \(5, 6\)"),
        ([np.zeros(30), np.zeros((6, 3))], "Layer 0 has coefs"),
    ],
)
def test_coefs_of_other_shapes_are_refused(blobs, coefs, message):
    clf = classifier().fit(*blobs)
    before = [c.copy() for c in clf.coefs_]
    with pytest.raises(ValueError, match=message):
        clf.coefs_ = coefs
    for a, b in zip(before, clf.coefs_):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="intercepts"):
        clf.intercepts_ = [np.zeros(6), np.zeros(4)]


@pytest.mark.parametrize(
    "attribute",
    ["coefs_", "intercepts_", "module_", "history_", "compression_ratio_", "loss_", "classes_"],
)
def test_there_are_no_fitted_attributes_before_fit(attribute):
    clf = classifier()
    assert not hasattr(clf, attribute)
    with pytest.raises(AttributeError, match=attribute):
        getattr(clf, attribute)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "score"])
@pytest.mark.parametrize("make", [MLPClassifier, MLPRegressor])
def test_not_fitted(blobs, make, method):
    if method.startswith("predict_") and make is MLPRegressor:
        assert not hasattr(make(), method)
        return
    arguments = blobs if method == "score" else blobs[:1]
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(make(), method)(*arguments)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("gate", [{}, {"coherence_threshold": 0.3, "alpha": 1.0}])
def test_training_goes_on_after_a_chunk_that_overflowed(blobs, solver, gate):
    """Neither the optimizer's moments nor the gate's means of that chunk outlive it."""
    X, y = blobs
    reg = MLPRegressor(**SMALL, solver=solver, **gate).partial_fit(X, y)
    kept = reg.coefs_[0].copy()
    with pytest.raises(ValueError, match="parameters from before that epoch are kept"):
        reg.partial_fit(X, y * 1e200)
    np.testing.assert_array_equal(reg.coefs_[0], kept)
    for _ in range(3):
        reg.partial_fit(X, y)
    assert 0 < abs(reg.coefs_[0] - kept).max() < 1
    if gate:
        assert np.isfinite(reg.history_[-1, "coherence"])


def test_lbfgs_leaves_frozen_weights(blobs):
    clf = classifier(solver="lbfgs", warm_start=True).fit(*blobs)
    before = [w.copy() for w in clf.coefs_]
    clf.module_.linears[0].requires_grad_(False)
    clf.fit(*blobs)
    np.testing.assert_array_equal(clf.coefs_[0], before[0])
    assert not np.array_equal(clf.coefs_[1], before[1])


def test_an_interrupt_of_lbfgs_is_told(blobs, monkeypatch):
    calls = []

    def interrupted(self, vector, call=_lbfgs._FlatObjective.__call__):
        calls.append(vector)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return call(self, vector)

    monkeypatch.setattr(_lbfgs._FlatObjective, "__call__", interrupted)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        clf = classifier(solver="lbfgs", max_iter=50).fit(*blobs)
    assert 0 < clf.n_iter_ < 50


def test_momentum_may_be_a_bool(blobs):
    """As scikit-learn has it."""
    one, two = (classifier(solver="sgd", momentum=m).fit(*blobs) for m in (True, 1.0))
    assert_equal(one, two)


@pytest.mark.parametrize("fit", ["fit", "partial_fit"])
def test_a_network_that_is_all_frozen_is_refused(blobs, fit):
    clf = classifier(warm_start=True).fit(*blobs)
    clf.module_.requires_grad_(False)
    with pytest.raises(ValueError, match="All parameters of module_ are frozen"):
        getattr(clf, fit)(*blobs)
