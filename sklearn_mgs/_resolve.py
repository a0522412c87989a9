"""From whatever a user has fitted to a torch module and the tensor it is fed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch import NeuralNet
from torch import Tensor, nn
from torch.utils.data import Dataset

from sklearn_mgs._data import stacked
from sklearn_mgs._module import MLP, mlp_from_arrays

__all__ = ["innermost", "resolved", "unwrap"]

_TURNS = threading.RLock()
"""Modes and hooks are a module's, levels of forward mode the process's: threads take turns."""


def innermost(estimator) -> tuple[object, list]:
    """Follow pipelines and meta-estimators down to the one network that they hold.

    Parameters
    ----------
    estimator : object
        A fitted network, a pipeline that ends in one, or a meta-estimator that holds one: a
        search, `TransformedTargetRegressor`, `TunedThresholdClassifierCV`, `FrozenEstimator`,
        `CalibratedClassifierCV(ensemble=False)`, nested as they like.

    Returns
    -------
    network : object
        The innermost estimator: of this package, a skorch net, or scikit-learn's MLP.
    transformers : list
        What a sample passes on its way there, in order.

    Raises
    ------
    TypeError
        If `estimator` holds no network, or several.
    sklearn.exceptions.NotFittedError
        If `estimator` is a meta-estimator that is not fitted.
    """
    transformers = []
    while not _is_network(estimator):
        if isinstance(estimator, Pipeline):
            *before, (_, estimator) = estimator.steps
            # Not "passthrough", and not the samplers of imbalanced-learn, which act in fit alone.
            transformers += [step for _, step in before if hasattr(step, "transform")]
        else:
            estimator = _held(estimator)
    return estimator, transformers


def unwrap(estimator, X):
    """Return the network inside `estimator`, and `X` as that network gets it."""
    network, transformers = innermost(estimator)
    for transformer in transformers:
        X = transformer.transform(X)
    return network, X


@contextmanager
def resolved(estimator, X) -> Iterator[tuple[nn.Module, Tensor]]:
    """Yield the fitted network in evaluation mode and `X` as a tensor beside it.

    Gradients can be taken inside, even within `torch.inference_mode()`; one thread is there at a
    time.

    Parameters
    ----------
    estimator : object
        A fitted estimator of this package, a skorch net, scikit-learn's `MLPClassifier` or
        `MLPRegressor`, or whatever `innermost` follows to one of them.
    X : array-like of shape (n_samples, n_features), or torch Dataset for a skorch net
        The samples, as the estimator's `predict` takes them.

    Yields
    ------
    module : torch.nn.Module
        In evaluation mode; the mode of each of its parts is restored afterwards.
    X : Tensor of shape (n_samples, ...)
        On the module's device, in its precision.

    Raises
    ------
    TypeError
        If no network can be found in `estimator`, or several.
    ValueError
        If `X` holds NaN or infinity, or has another number of features than in fit.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    """
    network, X = unwrap(estimator, X)
    with _TURNS, torch.inference_mode(False):
        module, X = _module_and_tensor(network, X)
        training = [part for part in module.modules() if part.training]
        module.eval()
        try:
            yield module, X
        finally:
            for part in training:
                part.training = True


def _is_network(estimator) -> bool:
    ours = hasattr(type(estimator), "_to_tensor")
    return ours or isinstance(estimator, NeuralNet | MLPClassifier | MLPRegressor)


def _held(estimator):
    """The one fitted estimator inside a meta-estimator."""
    if isinstance(estimator, FrozenEstimator):
        return estimator.estimator
    name = type(estimator).__name__
    calibrated = getattr(estimator, "calibrated_classifiers_", ())
    if len(calibrated) == 1:
        return calibrated[0].estimator
    several = max(len(calibrated), len(getattr(estimator, "estimators_", ())))
    if several:
        raise TypeError(
            f"{name} holds {several} estimators, and gradients are compared within one network; "
            "score each of them alone (CalibratedClassifierCV with ensemble=False holds one)."
        )
    for attribute in ("best_estimator_", "regressor_", "estimator_"):
        # A selector such as RFE also has an estimator_, fed with other features than its own.
        if hasattr(estimator, attribute) and not hasattr(estimator, "get_support"):
            return getattr(estimator, attribute)
    if hasattr(estimator, "fit"):
        check_is_fitted(estimator)
    raise TypeError(
        "Expected a fitted MLPClassifier or MLPRegressor (of sklearn_mgs or scikit-learn), a "
        "skorch net, or a pipeline, a search with refit or another meta-estimator that holds one "
        f"of them; got {name}."
    )


def _module_and_tensor(network, X) -> tuple[nn.Module, Tensor]:
    check_is_fitted(network)
    if isinstance(network, NeuralNet):
        X = _finite(_like_parameters(network.module_, X))
        if isinstance(network.module_, MLP):  # the estimators', which has no use for integers
            X = X.to(next(network.module_.parameters()).dtype)
        return network.module_, X
    if isinstance(network, MLPClassifier | MLPRegressor):
        dtypes = (np.float64, np.float32)
        X = validate_data(network, X, accept_sparse="csr", dtype=dtypes, reset=False)
        module = mlp_from_arrays(network.coefs_, network.intercepts_, network.activation)
        return module, _like_parameters(module, X)
    return network.module_, network._to_tensor(X)


def _like_parameters(module: nn.Module, X) -> Tensor:
    """`X` on the module's device; floats in its precision, integers (for embeddings) as such."""
    parameter = next(module.parameters(), None)
    if parameter is None:
        raise ValueError(
            f"{type(module).__name__} has no parameters, so it has no gradients to compare; pass "
            "a module with at least one."
        )
    if isinstance(X, Dataset):
        X, _ = stacked(X, np.arange(len(X)))
    if not isinstance(X, Tensor):
        given = type(X).__name__
        X = X.toarray() if issparse(X) else np.asarray(X)
        if X.dtype.kind not in "fiub":
            raise TypeError(
                f"Expected X as one array of numbers, got {given} of dtype {X.dtype}; pass what "
                "the network takes as a single array."
            )
        X = torch.as_tensor(X if X.flags.writeable else X.copy())
    dtype = parameter.dtype if X.is_floating_point() else X.dtype
    return X.to(parameter.device, dtype)


def _finite(X: Tensor) -> Tensor:
    if X.is_floating_point() and not X.isfinite().all():
        raise ValueError(
            "Input X contains NaN or infinity; impute or drop these samples, or scale X."
        )
    return X
