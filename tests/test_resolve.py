"""Every route from a fitted estimator ends at the module and the tensor of its network."""

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array, csr_matrix
from sklearn import neural_network
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification
from sklearn.ensemble import BaggingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import RFE
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from torch import nn

from sklearn_mgs import MLPClassifier, gradient_deflection, mgs_score
from sklearn_mgs._resolve import innermost, resolved

X, y = make_classification(60, 6, n_informative=4, random_state=0)


def sklearn_mlp(**kwargs):
    return neural_network.MLPClassifier((5,), max_iter=3, random_state=0, **kwargs)


def skorch_net(**kwargs):
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 2))
    settings = {"max_epochs": 1, "train_split": None, "verbose": 0}
    return NeuralNetClassifier(module, criterion=nn.CrossEntropyLoss, **settings | kwargs)


def fitted_net(**kwargs):
    return skorch_net(**kwargs).fit(X.astype(np.float32), y)


def logits(network, data):
    """Outputs before the logistic function, of scikit-learn's own forward pass."""
    p = network.predict_proba(data)[:, 1]
    return np.log(p / (1 - p))


ROUTES = {
    "itself": lambda: sklearn_mlp(),
    "pipeline": lambda: make_pipeline(StandardScaler(), sklearn_mlp()),
    "nested pipeline": lambda: make_pipeline(
        StandardScaler(), make_pipeline("passthrough", StandardScaler(), sklearn_mlp())
    ),
    "search": lambda: GridSearchCV(
        make_pipeline(StandardScaler(), sklearn_mlp()), {"mlpclassifier__alpha": [1.0]}, cv=2
    ),
    "calibrated": lambda: CalibratedClassifierCV(sklearn_mlp(), ensemble=False, cv=2),
    "frozen": lambda: FrozenEstimator(sklearn_mlp().fit(X, y)),
    "frozen pipeline": lambda: FrozenEstimator(
        make_pipeline(StandardScaler(), sklearn_mlp()).fit(X, y)
    ),
    "threshold": lambda: FixedThresholdClassifier(make_pipeline(StandardScaler(), sklearn_mlp())),
}


@pytest.mark.parametrize("route", ROUTES)
def test_module_gives_the_outputs_of_the_network_inside(route):
    estimator = ROUTES[route]().fit(X, y)
    network, transformers = innermost(estimator)
    assert isinstance(network, neural_network.MLPClassifier)
    data = X
    for transformer in transformers:
        data = transformer.transform(data)
    with resolved(estimator, X) as (module, tensor):
        assert tensor.dtype == torch.float64
        np.testing.assert_allclose(
            module(tensor)[:, 0].detach(), logits(network, data), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_scikit_learns_regressor_is_read_in_its_own_precision(activation, kind):
    mlp = neural_network.MLPRegressor(
        hidden_layer_sizes=(4, 3), activation=activation, max_iter=3, random_state=0
    )
    data = X.astype(kind)
    mlp.fit(data, np.column_stack([y, X[:, 0]]))
    with resolved(mlp, data) as (module, tensor):
        assert tensor.dtype == torch.from_numpy(data).dtype
        tol = 1e-12 if kind is np.float64 else 1e-5
        np.testing.assert_allclose(module(tensor).detach(), mlp.predict(data), rtol=tol, atol=tol)


def test_transformed_target():
    inner = make_pipeline(StandardScaler(), neural_network.MLPRegressor(max_iter=3))
    estimator = TransformedTargetRegressor(inner, transformer=StandardScaler()).fit(X, X[:, 0])
    with resolved(estimator, X) as (module, tensor):
        np.testing.assert_allclose(
            module(tensor)[:, 0].detach(), estimator.regressor_.predict(X), rtol=1e-12
        )


def test_sliced_pipelines():
    pipe = make_pipeline(StandardScaler(), StandardScaler(with_std=False), sklearn_mlp()).fit(X, y)
    with resolved(pipe, X) as (_, whole), resolved(pipe[2:], pipe[:2].transform(X)) as (_, tail):
        assert torch.equal(whole, tail)
    with pytest.raises(TypeError, match="got StandardScaler"):
        innermost(pipe[:2])


def test_pipeline_without_a_network_at_its_end():
    with pytest.raises(TypeError, match="got str"):
        innermost(Pipeline([("a", StandardScaler()), ("b", "passthrough")]))


def test_samplers_of_a_pipeline_act_in_fit_alone():
    class Sampler:  # as those of imbalanced-learn
        def fit_resample(self, X, y):
            raise AssertionError

    scaler = StandardScaler().fit(X)
    mlp = sklearn_mlp().fit(scaler.transform(X), y)
    pipeline = Pipeline([("scaler", scaler), ("sampler", Sampler()), ("mlp", mlp)])
    with resolved(pipeline, X) as (_, tensor):
        np.testing.assert_array_equal(tensor, scaler.transform(X))


@pytest.mark.parametrize(
    "convert",
    [csr_matrix, csr_array, pd.DataFrame, list, np.asfortranarray, lambda a: a.astype(np.float32)],
    ids=["csr_matrix", "csr_array", "DataFrame", "list", "fortran", "float32"],
)
@pytest.mark.parametrize("fitted", [lambda: sklearn_mlp().fit(X, y), fitted_net])
def test_kinds_of_X(convert, fitted):
    estimator = fitted()
    with resolved(estimator, X) as (module, expected), resolved(estimator, convert(X)) as (_, got):
        assert got.dtype == expected.dtype == next(module.parameters()).dtype
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_X_that_is_no_array_of_numbers():
    with (
        pytest.raises(TypeError, match="one array of numbers, got dict of dtype object"),
        resolved(fitted_net(), {"X": X}),
    ):
        pass


def test_read_only_X_gives_no_warning(recwarn):
    data = X.astype(np.float32)
    data.flags.writeable = False
    with resolved(fitted_net(), data) as (_, tensor):
        np.testing.assert_array_equal(tensor, data)
    assert not recwarn.list


def test_feature_names_are_checked():
    frame = pd.DataFrame(X, columns=list("abcdef"))
    mlp = sklearn_mlp().fit(frame, y)
    with pytest.raises(ValueError, match="feature names"), resolved(mlp, frame[list("fedcba")]):
        pass


def test_integers_stay_integers_for_embeddings():
    module = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 2))
    net = NeuralNetClassifier(module, train_split=None, verbose=0).initialize()
    with resolved(net, np.array([[0, 6], [1, 2]])) as (module, tensor):
        assert tensor.dtype == torch.int64
        assert module(tensor).shape == (2, 2)


def look_inside_and_fail(net):
    with resolved(net, X) as (module, _):
        assert not any(part.training for part in module.modules())
        raise RuntimeError("inside")


def test_modes_of_all_parts_are_restored_even_after_an_error():
    net = fitted_net()
    net.module_.train()
    net.module_[2].eval()
    before = [part.training for part in net.module_.modules()]
    with pytest.raises(RuntimeError, match="inside"):
        look_inside_and_fail(net)
    assert [part.training for part in net.module_.modules()] == before


def logdet(net, data):
    return mgs_score(net, data, metric="logdet")


@pytest.mark.parametrize("measure", [logdet, gradient_deflection])
def test_threads_take_turns(measure):
    net = MLPClassifier((5,), "tanh", max_iter=3, random_state=0).fit(X, y)
    net.module_.train()
    in_threads = joblib.Parallel(4, backend="threading")(
        joblib.delayed(measure)(net, X) for _ in range(24)
    )
    assert set(in_threads) == {measure(net, X)}
    assert net.module_.training


@pytest.mark.parametrize("measure", [logdet, gradient_deflection])
def test_inference_mode_plays_no_part(measure):
    net = MLPClassifier((5,), "tanh", max_iter=3, random_state=0).fit(X, y)
    expected = measure(net, X)
    with torch.inference_mode():
        assert measure(net, X) == expected
        assert torch.is_inference_mode_enabled()


def several(kind, **kwargs):
    return kind(sklearn_mlp(), **kwargs).fit(X, y)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: several(CalibratedClassifierCV, cv=2), TypeError, "holds 2 estimators.*ensemble"),
        (lambda: several(BaggingClassifier, n_estimators=3), TypeError, "holds 3 estimators"),
        (
            lambda: VotingClassifier([("a", sklearn_mlp())]).fit(X, y),
            TypeError,
            "VotingClassifier holds 1 estimators",
        ),
        (lambda: LogisticRegression().fit(X, y), TypeError, "got LogisticRegression"),
        (
            lambda: RFE(LogisticRegression(), n_features_to_select=2).fit(X, y),
            TypeError,
            "got RFE",
        ),
        (
            lambda: several(GridSearchCV, param_grid={}, cv=2, refit=False),
            TypeError,
            "with refit.*got GridSearchCV",
        ),
        (lambda: "mlp", TypeError, "got str"),
        (lambda: sklearn_mlp(), NotFittedError, "MLPClassifier instance is not fitted"),
        (lambda: skorch_net(), NotFittedError, "not fitted"),
        (lambda: make_pipeline(StandardScaler(), sklearn_mlp()), NotFittedError, "StandardScaler"),
        (lambda: GridSearchCV(sklearn_mlp(), {}), NotFittedError, "GridSearchCV"),
        (lambda: FrozenEstimator(sklearn_mlp()), NotFittedError, "MLPClassifier"),
    ],
)
def test_what_holds_no_single_fitted_network(make, error, match):
    with pytest.raises(error, match=match), resolved(make(), X):
        pass


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("fitted", [lambda: sklearn_mlp().fit(X, y), fitted_net])
def test_values_that_are_not_finite(fitted, value):
    data = X.copy()
    data[3, 2] = value
    with pytest.raises(ValueError, match="Input X contains"):
        with resolved(fitted(), data):
            pass


def test_module_without_parameters():
    net = fitted_net()
    net.__dict__["module_"] = (
        nn.ReLU()
    )  # skorch itself refuses such a module later, at the optimizer
    with pytest.raises(ValueError, match="ReLU has no parameters"), resolved(net, X):
        pass
