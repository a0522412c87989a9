"""Forms of X and y: sparse, tables, precisions, labels, awkward memory."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_mgs import MLPClassifier, MLPRegressor

SMALL = {"hidden_layer_sizes": (6,), "max_iter": 4, "batch_size": 16, "random_state": 0}
SPARSE = ["csr_matrix", "csc_matrix", "coo_matrix", "csr_array", "csc_array", "coo_array"]
PENALTY = {"mgs_strength": 0.2, "mgs_metric": "det"}


def classifier(**parameters):
    return MLPClassifier(**{**SMALL, **parameters})


def assert_same_fit(a, b, atol=0.0):
    for u, v in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_):
        np.testing.assert_allclose(u, v, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def holes(blobs):
    """The samples of `blobs` with half of the entries zero."""
    X = blobs[0] * (np.random.RandomState(0).rand(*blobs[0].shape) < 0.5)
    return X, blobs[1]


@pytest.mark.parametrize("form", SPARSE)
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        PENALTY,
        {"early_stopping": True, "validation_fraction": 0.3},
        {"solver": "lbfgs"},
        {"shuffle": False, "input_noise": 0.1},
        {"coherence_threshold": 0.1, "coherence": "batch", "l1": 0.1},
    ],
    ids=str,
)
def test_sparse_equals_dense(holes, form, parameters):
    X, y = holes
    S = getattr(sp, form)(X)
    dense, sparse = (classifier(**parameters).fit(Z, y) for Z in (X, S))
    assert_same_fit(dense, sparse)
    np.testing.assert_array_equal(dense.predict_proba(X), sparse.predict_proba(S))
    assert dense.score(X, y) == sparse.score(S, y)


@pytest.mark.parametrize("form", SPARSE)
def test_sparse_parts_equal_dense(holes, form):
    X, y = holes
    S = getattr(sp, form)(X)
    dense, sparse = classifier(**PENALTY), classifier(**PENALTY)
    for _ in range(2):
        dense.partial_fit(X, y, classes=[0, 1, 2])
        sparse.partial_fit(S, y, classes=[0, 1, 2])
    assert_same_fit(dense, sparse)


def test_sparse_validation_set_equals_dense(holes):
    X, y = holes
    stop = {"early_stopping": True}
    a = classifier(**stop).fit(X, y, X_val=X[:20], y_val=y[:20])
    b = classifier(**stop).fit(sp.csr_array(X), y, X_val=sp.csc_matrix(X[:20]), y_val=y[:20])
    assert a.validation_scores_ == b.validation_scores_
    assert_same_fit(a, b)


def test_sparse_with_wide_indices(holes):
    X, y = holes
    S = sp.csr_matrix(X)
    S.indices, S.indptr = S.indices.astype(np.int64), S.indptr.astype(np.int64)
    assert_same_fit(classifier().fit(S, y), classifier().fit(X, y))


def test_sparse_indicator_of_labels(blobs, labels):
    X, y = blobs[0], labels["multilabel"]
    dense = classifier().fit(X, y)
    sparse = classifier().fit(X, sp.csr_matrix(y))
    assert_same_fit(dense, sparse)
    np.testing.assert_array_equal(sparse.predict(X).toarray(), dense.predict(X))


# ----------------------------------------------------------------------------- tables


@pytest.fixture
def table(blobs):
    return pd.DataFrame(blobs[0], columns=list("abcde")), pd.Series(blobs[1], name="label")


def test_tables_equal_arrays_and_leave_their_names(blobs, table):
    a, b = classifier().fit(*blobs), classifier().fit(*table)
    assert_same_fit(a, b)
    assert list(b.feature_names_in_) == list("abcde")
    assert not hasattr(a, "feature_names_in_")
    np.testing.assert_array_equal(a.predict(blobs[0]), b.predict(table[0]))


def test_reordered_columns_raise(table):
    X, y = table
    clf = classifier().fit(X, y)
    for Z in (X[list("edcba")], X.rename(columns={"a": "z"})):
        with pytest.raises(ValueError, match="feature names"):
            clf.predict(Z)
        with pytest.raises(ValueError, match="feature names"):
            clf.partial_fit(Z, y)
        with pytest.raises(ValueError, match="feature names"):
            classifier(early_stopping=True).fit(X, y, X_val=Z, y_val=y)


def test_absent_names_warn(table):
    X, y = table
    clf = classifier().fit(X, y)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        clf.predict(X.to_numpy())


def test_early_stopping_on_a_table_does_not_warn(table, recwarn):
    classifier(early_stopping=True).fit(*table)
    assert not [w for w in recwarn if "feature names" in str(w.message)]


def test_pipeline_with_table_output(table):
    X, y = table
    pipeline = make_pipeline(StandardScaler(), classifier()).set_output(transform="pandas")
    pipeline.fit(X, y)
    assert list(pipeline[-1].feature_names_in_) == list("abcde")
    array = make_pipeline(StandardScaler(), classifier()).fit(X.to_numpy(), y)
    np.testing.assert_allclose(pipeline.predict_proba(X), array.predict_proba(X.to_numpy()))


# -------------------------------------------------------------------------- precision


@pytest.mark.parametrize(
    ("given", "parameter", "kept"),
    [
        (np.float32, "auto", np.float32),
        (np.float64, "auto", np.float64),
        (np.float16, "auto", np.float64),
        (np.int64, "auto", np.float64),
        (np.float64, "float32", np.float32),
        (np.float32, "float64", np.float64),
    ],
)
def test_precision_follows_x_or_the_parameter(blobs, given, parameter, kept):
    X = (10 * blobs[0]).astype(given)
    clf = classifier(dtype=parameter, **PENALTY).fit(X, blobs[1])
    assert {c.dtype for c in clf.coefs_ + clf.intercepts_} == {np.dtype(kept)}
    assert clf.predict_proba(X).dtype == kept
    reg = MLPRegressor(**SMALL, dtype=parameter).fit(X, blobs[0][:, 0])
    assert reg.predict(X).dtype == kept


def test_single_precision_is_near_double(blobs):
    X, y = blobs
    single = classifier(**PENALTY).fit(X.astype(np.float32), y)
    assert_same_fit(single, classifier(**PENALTY).fit(X, y), atol=1e-4)


def test_precision_of_training_outlives_other_samples(blobs):
    X, y = blobs
    clf = classifier().fit(X.astype(np.float32), y).partial_fit(X, y)
    assert clf.coefs_[0].dtype == np.float32
    assert clf.predict_proba(X).dtype == np.float32


# ---------------------------------------------------------------------- labels, memory


@pytest.mark.parametrize(
    "names",
    [
        np.array([-7, 0, 300]),
        np.array([0.0, 1.0, 5.0]),
        np.array(["c", "a", "b"]),
        np.array(["c", "a", "b"], dtype=object),
    ],
    ids=lambda names: f"{names.dtype}",
)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_labels_of_any_kind(blobs, names, early_stopping):
    X, y = blobs
    named = names[y]
    clf = classifier(early_stopping=early_stopping).fit(X, named)
    np.testing.assert_array_equal(clf.classes_, np.unique(named))
    assert set(clf.predict(X)) <= set(names)
    assert clf.score(X, named) == (clf.predict(X) == named).mean()


def test_lists_will_do(blobs):
    X, y = blobs
    assert_same_fit(classifier().fit(X.tolist(), y.tolist()), classifier().fit(X, y))


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


AWKWARD = {
    "read-only": read_only,
    "big-endian": lambda X: X.astype(X.dtype.newbyteorder(">")),
    "negative strides": lambda X: X[::-1].copy()[::-1],
    "column major": np.asfortranarray,
    "every other": lambda X: np.repeat(X, 2, axis=0)[::2],
    "negative strides, both": lambda X: np.flip(np.flip(X).copy()),
}


@pytest.mark.parametrize("awkward", AWKWARD)
@pytest.mark.filterwarnings("error")
def test_memory_of_any_layout(blobs, awkward):
    X, y = blobs
    bend = AWKWARD[awkward]
    weight = np.linspace(1, 2, len(X))
    clf = {"max_iter": 5, "n_iter_no_change": 1, "tol": 1e9, "dtype": "float64"}  # 3 epochs
    plain = classifier(**clf).fit(X, y, weight)
    bent = classifier(**clf).fit(bend(X), bend(y), bend(weight))
    assert_same_fit(plain, bent)
    np.testing.assert_array_equal(plain.predict_proba(X), bent.predict_proba(bend(X)))
    reg = {**SMALL, **clf}
    assert_same_fit(
        MLPRegressor(**reg).fit(X, X[:, :2]), MLPRegressor(**reg).fit(bend(X), bend(X[:, :2]))
    )


def test_wide_floats(blobs):
    X, y = blobs
    clf = classifier().fit(X.astype(np.longdouble), y)
    np.testing.assert_array_equal(clf.predict_proba(X.astype(np.longdouble)), clf.predict_proba(X))


def test_fit_leaves_its_arguments_alone(blobs):
    X, y = blobs
    given = [X.copy(), y.copy(), np.ones(len(X))]
    classifier(input_noise=1.0, class_weight="balanced", **PENALTY).fit(*given)
    for a, b in zip(given, (X, y, np.ones(len(X)))):
        np.testing.assert_array_equal(a, b)


def test_predictions_come_in_parts_without_seams(blobs, monkeypatch):
    X, y = blobs
    clf = classifier().fit(X, y)
    whole = clf.predict_proba(X)
    monkeypatch.setattr("sklearn_mgs._fitted.PREDICTION_ROWS", 7)
    np.testing.assert_allclose(clf.predict_proba(X), whole, rtol=1e-14)
    np.testing.assert_allclose(clf.predict_proba(sp.csr_array(X)), whole, rtol=1e-14)


def test_module_gives_logits_and_can_be_called(blobs):
    X, y = blobs
    clf = classifier().fit(X, y)
    with torch.no_grad():
        p = torch.softmax(clf.module_(torch.tensor(X)), 1)
    np.testing.assert_allclose(p, clf.predict_proba(X), rtol=1e-14)
    assert not clf.module_.training


def test_one_sample_and_one_feature(blobs):
    X, y = blobs
    clf = classifier().fit(X[:, :1], y)
    assert clf.predict_proba(X[:1, :1]).shape == (1, 3)
    reg = MLPRegressor(**SMALL).set_params(batch_size="auto")
    assert reg.fit(X[:1], [1.0]).predict(X[:1]).shape == (1,)
