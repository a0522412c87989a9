"""What bad input gets: an error that names it and the remedy, before any training."""

import re

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import torch

from sklearn_mgs import MLPClassifier, MLPRegressor

SMALL = {"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0}
MAKE = {"classifier": MLPClassifier, "regressor": MLPRegressor}


def classifier(**parameters):
    return MLPClassifier(**{**SMALL, **parameters})


def names(*valid):
    """A message that lists all of these."""
    return "".join(f"(?=.*{re.escape(repr(name))})" for name in valid)


# ------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize(
    "parameter",
    [
        "alpha",
        "mgs_strength",
        "l1",
        "input_noise",
        "dropout",
        "label_smoothing",
        "jacobian_strength",
        "gradient_strength",
    ],
)
@pytest.mark.parametrize("value", [-0.1, np.nan, "0.1", None])
def test_strengths_are_numbers_from_zero(blobs, kind, parameter, value):
    if parameter == "label_smoothing" and kind == "regressor":
        assert parameter not in MLPRegressor().get_params()
        return
    estimator = MAKE[kind](**{**SMALL, parameter: value})
    with pytest.raises(ValueError, match=rf"'{parameter}' parameter.* must be a float in.*Got"):
        estimator.fit(*blobs)
    assert not hasattr(estimator, "net_")


@pytest.mark.parametrize(
    ("parameter", "value", "valid"),
    [
        ("mgs_metric", "logdet", ("trace", "det")),
        ("mgs_outputs", "full", ("auto", "target", "all", "random", "sum")),
        ("mgs_layers", "last", ("all", "hidden", "first", "balanced")),
        ("mgs_relative", "first", ("bool",)),
        ("mgs_centered", "classes", ("class",)),
        ("coherence", "norm", ("total", "batch", "trend")),
        ("solver", "adamw", ("adam", "sgd", "lbfgs")),
        ("activation", "gelu", ("identity", "logistic", "tanh", "relu")),
        ("learning_rate", "cosine", ("constant", "invscaling", "adaptive")),
        ("class_weight", "even", ("balanced",)),
        ("dtype", "float16", ("auto", "float32", "float64")),
    ],
)
def test_unknown_names_list_the_valid_ones(blobs, parameter, value, valid):
    message = f"'{parameter}' parameter of MLPClassifier must be {names(*valid)}.*Got '{value}'"
    with pytest.raises(ValueError, match=message):
        classifier(**{parameter: value}).fit(*blobs)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dropout": 1.0}, r"'dropout'.*\[0.0, 1.0\)"),
        ({"coherence_threshold": 2.0}, r"'coherence_threshold'.*\[-1.0, 1.0\]"),
        ({"mgs_batch_size": 0}, r"'mgs_batch_size'.*\[1, inf\)"),
        ({"mgs_batch_size": 2.5}, r"'mgs_batch_size'.*int"),
        ({"batch_size": 0}, r"'batch_size'.*\[1, inf\)"),
        (
            {"hidden_layer_sizes": (2.5,)},
            r"hidden_layer_sizes must be > 0, got \[2.5\]; give whole numbers",
        ),
        (
            {"mgs_strength": 1, "mgs_centered": True, "mgs_batch_size": 1},
            "mgs_centered=True compares samples: mgs_batch_size must be at least 2, got 1",
        ),
        (
            {"mgs_strength": 1, "mgs_centered": True, "mgs_batch_size": 2}
            | {"coherence_threshold": 0.5, "coherence": "batch"},
            "mgs_batch_size must be at least 3 where halves are compared, got 2",
        ),
        ({"max_iter": 0}, r"'max_iter'.*\[1, inf\)"),
        ({"callbacks": "EarlyStopping"}, "'callbacks'.*Got 'EarlyStopping'"),
        ({"device": 0}, "'device'.*str.*Got 0"),
        ({"hidden_layer_sizes": (5, 0)}, r"hidden_layer_sizes must be > 0, got \[5, 0\]"),
        ({"hidden_layer_sizes": -3}, "hidden_layer_sizes"),
        (
            {"mgs_strength": 0.1, "mgs_metric": "det", "mgs_batch_size": 1},
            "mgs_metric='det' compares samples: mgs_batch_size must be at least 2, got 1",
        ),
        (
            {"mgs_strength": 0.1, "mgs_layers": "hidden", "hidden_layer_sizes": ()},
            r"no other with hidden_layer_sizes=\(\); use mgs_layers='all'",
        ),
    ],
    ids=str,
)
def test_values_out_of_range(blobs, parameters, message):
    estimator = classifier(**parameters)
    with pytest.raises(ValueError, match=message):
        estimator.fit(*blobs)
    with pytest.raises(ValueError, match=message):
        estimator.partial_fit(*blobs, classes=[0, 1, 2])
    assert not hasattr(estimator, "net_")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("dropout", {"dropout": 0.1}),
        ("input_noise", {"input_noise": 0.1}),
        ("l1", {"l1": 0.1}),
        ("coherence_threshold", {"coherence_threshold": 0.5}),
        ("mgs_outputs", {"mgs_outputs": "random", "mgs_strength": 0.1}),
        ("mgs_batch_size", {"mgs_batch_size": 5, "mgs_strength": 0.1}),
    ],
)
def test_lbfgs_takes_nothing_random_or_rough(blobs, name, parameters):
    message = f"solver='lbfgs' minimises a smooth.*combined with {name}. Use solver='adam' or"
    with pytest.raises(ValueError, match=message):
        classifier(solver="lbfgs", **parameters).fit(*blobs)


def test_lbfgs_ignores_options_of_a_penalty_that_is_off(blobs):
    classifier(solver="lbfgs", mgs_outputs="random", mgs_batch_size=1).fit(*blobs)
    classifier(mgs_metric="det", mgs_batch_size=1).fit(*blobs)


@pytest.mark.parametrize(
    "parameters", [{"mgs_outputs": "target"}, {"mgs_centered": "class"}], ids=str
)
def test_a_regressor_has_no_classes(line, parameters):
    with pytest.raises(ValueError, match="needs class labels; a regressor has none"):
        MLPRegressor(**SMALL, mgs_strength=0.1, **parameters).fit(*line)


@pytest.mark.parametrize(
    "parameters", [{"mgs_outputs": "target"}, {"mgs_centered": "class"}], ids=str
)
def test_several_labels_have_no_class(blobs, labels, parameters):
    clf = classifier(mgs_strength=0.1, **parameters)
    with pytest.raises(ValueError, match=r"needs one class per sample.*Use mgs_outputs='all' and"):
        clf.fit(blobs[0], labels["multilabel"])
    assert not hasattr(clf, "net_")
    clf.set_params(mgs_strength=0.0).fit(blobs[0], labels["multilabel"])


# ---------------------------------------------------------------------------- devices


@pytest.mark.parametrize("device", ["cuda:99", "xpu", "meta"])
def test_absent_devices(blobs, device):
    message = (
        rf"device='{device}' can't be used here \(.{{1,100}}\); torch finds \d+ CUDA devices. Use"
    )
    with pytest.raises(ValueError, match=message):
        classifier(device=device).fit(*blobs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(blobs):
    with pytest.raises(ValueError, match=r"device='cuda' can't be used here.* finds 0 CUDA"):
        classifier(device="cuda").fit(*blobs)


def test_mps_in_double_precision(blobs, monkeypatch):
    monkeypatch.setattr("sklearn_mgs._base.resolve_device", lambda device: torch.device("mps"))
    with pytest.raises(ValueError, match=r"device='mps' has no double.*set dtype='float32'"):
        classifier(device="mps").fit(*blobs)


@pytest.mark.parametrize("device", ["gpu", "tpu:0", "", "cpu:x"])
def test_unknown_devices(blobs, device):
    with pytest.raises(ValueError, match=f"device='{device}' is no device; use 'auto', 'cpu'"):
        classifier(device=device).fit(*blobs)


# ------------------------------------------------------------------------------- data


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(blobs, kind, value):
    X, y = blobs
    estimator = MAKE[kind](**SMALL)
    bad = X.copy()
    bad[3, 2] = value
    message = "Input X contains (NaN|infinity)"
    with pytest.raises(ValueError, match=message):
        estimator.fit(bad, y)
    bad_y = y.astype(float)
    bad_y[3] = value
    with pytest.raises(ValueError, match=r"Input y contains (NaN|infinity)"):
        estimator.fit(X, bad_y)
    assert not hasattr(estimator, "net_")
    estimator.fit(X, y)
    with pytest.raises(ValueError, match=message):
        estimator.predict(bad)
    with pytest.raises(ValueError, match=message):
        estimator.partial_fit(bad, y)


def test_shapes_that_do_not_fit(blobs):
    X, y = blobs
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier().fit(X, y[:-1])
    with pytest.raises(ValueError, match="Expected 2D array"):
        classifier().fit(X[:, 0], y)
    clf = classifier().fit(X, y)
    with pytest.raises(ValueError, match="3 features, but MLPClassifier is expecting 5"):
        clf.predict(X[:, :3])


def test_targets_of_the_wrong_kind(blobs):
    X, y = blobs
    with pytest.raises(ValueError, match=r"Unknown label type|continuous"):
        classifier().fit(X, X[:, 0])
    with pytest.raises(ValueError, match=r"could not convert string to float|dtype='numeric'"):
        MLPRegressor(**SMALL).fit(X, np.array(["a", "b", "c"])[y])
    with pytest.raises(ValueError, match=r"loss='poisson' needs y >= 0, got a minimum of -"):
        MLPRegressor("poisson", **SMALL).fit(X, X[:, 0])


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(3), r"sample_weight.shape == \(3,\), expected \(40,\)"),
        (-np.ones(40), "[Nn]egative values in data passed to `?sample_weight"),
        (np.full(40, np.nan), "Input sample_weight contains NaN"),
        (np.ones((40, 1)), "1D array or scalar"),
    ],
)
@pytest.mark.parametrize("kind", MAKE)
def test_weights(blobs, kind, weight, message):
    estimator = MAKE[kind](**SMALL)
    with pytest.raises(ValueError, match=message):
        estimator.fit(*blobs, sample_weight=weight)
    with pytest.raises(ValueError, match=message):
        estimator.set_params(early_stopping=True).fit(
            *blobs, X_val=blobs[0], y_val=blobs[1], sample_weight_val=weight
        )
    assert not hasattr(estimator, "net_")


def test_sparse_targets_of_a_regression(blobs):
    X, _ = blobs
    with pytest.raises(TypeError, match=r"y must be a dense array.*pass y.toarray\(\)"):
        MLPRegressor(**SMALL).fit(X, scipy.sparse.csr_matrix(X[:, :2]))


def test_weights_without_any_weight(blobs):
    message = "Sample weights must contain at least one non-zero number"
    with pytest.raises(ValueError, match=message):
        classifier().fit(*blobs, sample_weight=np.zeros(40))
    with pytest.raises(ValueError, match=message):
        classifier(class_weight={0: 0, 1: 0, 2: 0}).fit(*blobs)
    with pytest.raises(ValueError, match=r"class_weight must not be negative, got \{0: -1"):
        classifier(class_weight={0: -1, 1: 1, 2: 1}).fit(*blobs)


# -------------------------------------------------------------------- validation sets


def validation_sets(X, y):
    return {
        "no labels": ({"X_val": X}, "y_val is missing: pass X_val and y_val together"),
        "no samples": ({"y_val": y}, "X_val is missing: pass X_val and y_val together"),
        "weights only": ({"sample_weight_val": np.ones(40)}, "X_val is missing"),
        "features": ({"X_val": X[:, :3], "y_val": y}, "3 features, but .* expecting 5"),
        "lengths": ({"X_val": X, "y_val": y[:3]}, "inconsistent numbers of samples"),
        "NaN in X": ({"X_val": X * np.nan, "y_val": y}, "Input X contains NaN"),
        "NaN in y": ({"X_val": X, "y_val": y * np.nan}, "Input y contains NaN"),
        "outputs": (
            {"X_val": X, "y_val": np.stack([y, y], 1)},
            r"y_val must have the outputs of y: got shapes \(40, 2\) and \(40,\)",
        ),
        "empty": ({"X_val": X[:0], "y_val": y[:0]}, "0 sample"),
    }


@pytest.mark.parametrize("what", validation_sets(np.zeros((40, 5)), np.zeros(40)))
@pytest.mark.parametrize("kind", MAKE)
def test_validation_sets(blobs, kind, what):
    given, message = validation_sets(*blobs)[what]
    estimator = MAKE[kind](**SMALL, early_stopping=True)
    with pytest.raises(ValueError, match=message):
        estimator.fit(*blobs, **given)
    assert not hasattr(estimator, "net_")


@pytest.mark.parametrize("labels_val", [np.array(["a", "b", "c"]), np.array([5, 6, 7])])
def test_validation_labels_that_training_does_not_know(blobs, labels_val):
    X, y = blobs
    clf = classifier(early_stopping=True)
    with pytest.raises(ValueError, match=r"y_val has classes that y has not: .* and \[0 1 2\]"):
        clf.fit(X, y, X_val=X, y_val=labels_val[y])


def test_a_single_sample_has_no_r2(blobs):
    X, y = blobs
    reg = MLPRegressor(**SMALL, early_stopping=True)
    with pytest.raises(ValueError, match="must hold at least 2 samples for an R², got 1"):
        reg.fit(X, y, X_val=X[:1], y_val=y[:1])
    assert classifier(early_stopping=True).fit(X, y, X_val=X[:1], y_val=y[:1]).n_iter_ == 3


def test_a_fraction_that_leaves_nothing_to_train_on(blobs):
    X, y = blobs
    clf = classifier(early_stopping=True, validation_fraction=0.999)
    with pytest.raises(ValueError, match=r"=0.999 holds out all 40 distinct.*Lower it"):
        clf.fit(X, y)
    with pytest.raises(ValueError, match=r"holds out all \d+ distinct"):
        clf.fit(np.vstack([X, X + 9]), np.tile(y, 2), np.repeat([1, 0], 40))


@pytest.mark.parametrize(
    "parameters", [{"early_stopping": False}, {"early_stopping": True, "solver": "lbfgs"}], ids=str
)
def test_a_validation_set_needs_early_stopping(blobs, parameters):
    X, y = blobs
    message = "only used for early stopping; set early_stopping=True with solver='adam' or 'sgd'"
    with pytest.raises(ValueError, match=message):
        classifier(**parameters).fit(X, y, X_val=X, y_val=y)


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_samples_to_hold_any_out(blobs, n):
    message = f"at least 2 distinct samples of at least 3, got n_samples={n}"
    with pytest.raises(ValueError, match=message):
        classifier(early_stopping=True).fit(blobs[0][:n], blobs[1][:n])


# ----------------------------------------------------------------------- non-finite loss


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("penalty", [{}, {"mgs_strength": 0.1}], ids=str)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_loss_that_explodes_stops_the_fit_and_keeps_the_last_finite_weights(
    line, early_stopping, penalty
):
    X, y = line
    explode = {"solver": "sgd", "learning_rate_init": 1e3, "activation": "identity"}
    reg = MLPRegressor(**{**SMALL, "max_iter": 200}, **explode, **penalty)
    reg.set_params(early_stopping=early_stopping)
    message = (
        r"non-finite parameter weights or losses in epoch \d+: training loss .*parameters from "
        r"before that epoch are kept. Scale the input data, or lower learning_rate_init"
    )
    with pytest.raises(ValueError, match=message):
        reg.fit(X, y)
    assert all(np.isfinite(c).all() for c in reg.coefs_ + reg.intercepts_)
    assert reg.predict(X).shape == y.shape
    assert not reg.module_.training
    assert reg.n_iter_ == len(reg.loss_curve_) == len(reg.history_) - 1
    assert np.isfinite(reg.loss_curve_).all()
    assert reg.set_params(learning_rate_init=1e-3).fit(X, y).loss_ < 10


def test_lbfgs_with_a_loss_that_is_not_finite(line):
    X, y = line
    reg = MLPRegressor("poisson", **SMALL, solver="lbfgs", activation="identity")
    message = "non-finite parameter weights or losses: training loss (inf|nan).*are kept"
    with pytest.raises(ValueError, match=message):
        reg.fit(1e8 * X, np.abs(y))
    assert all(np.isfinite(c).all() for c in reg.coefs_ + reg.intercepts_)


@pytest.mark.parametrize("mgs", [{"mgs_strength": 1e308}, {"jacobian_strength": 1e308}], ids=str)
def test_lbfgs_with_a_penalty_that_is_not_finite(blobs, mgs):
    clf = classifier(solver="lbfgs", **mgs)
    with pytest.raises(ValueError, match=r"training loss (inf|nan) \(penalties included\)"):
        clf.fit(*blobs)
    assert all(np.isfinite(c).all() for c in clf.coefs_ + clf.intercepts_)


def test_lbfgs_keeps_the_last_finite_iterate(line, monkeypatch):
    reached = []

    def broken(objective, start, callback, **kwargs):
        reached.append(start + 1)
        callback(reached[0])
        objective(np.full_like(start, np.nan))
        return scipy.optimize.OptimizeResult(x=start * np.nan, fun=np.nan, status=2, nit=1)

    monkeypatch.setattr(scipy.optimize, "minimize", broken)
    reg = MLPRegressor(**SMALL, solver="lbfgs")
    with pytest.raises(ValueError, match=r"training loss nan .* after 1 iteration"):
        reg.fit(*line)
    kept = [p.detach().numpy().ravel() for p in reg.module_.parameters()]
    np.testing.assert_array_equal(np.concatenate(kept), reached[0])


def test_an_l2_term_that_is_not_finite(blobs):
    clf = classifier(alpha=1e308)
    with pytest.raises(ValueError, match=r"in epoch 1: training loss .*, L2 term inf, MGS"):
        clf.fit(*blobs)
    assert clf.n_iter_ == 0
    assert clf.predict(blobs[0]).shape == blobs[1].shape


def test_a_batch_larger_than_the_data_warns_as_scikit_learns_does(blobs):
    with pytest.warns(UserWarning, match="Got `batch_size`=100 larger than the sample size 40"):
        classifier(batch_size=100).fit(*blobs)
