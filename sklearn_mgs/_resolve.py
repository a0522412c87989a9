"""From whatever a user has fitted to a torch module and the tensor it is fed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch import NeuralNet
from torch import Tensor, nn

from sklearn_mgs._module import mlp_from_arrays

__all__ = ["resolved", "unwrap"]


def unwrap(estimator, X):
    """Follow pipelines and meta-estimators down to the one network that they hold.

    Returns
    -------
    estimator : object
        The innermost fitted estimator.
    X : array-like
        `X` as that estimator gets it (transformed by a pipeline's earlier steps).
    """
    if isinstance(estimator, Pipeline):
        check_is_fitted(estimator)
        for _, step in estimator.steps[:-1]:
            if step is not None and step != "passthrough":
                X = step.transform(X)
        return unwrap(estimator.steps[-1][1], X)
    for attribute in ("best_estimator_", "regressor_"):
        if hasattr(estimator, attribute):
            return unwrap(getattr(estimator, attribute), X)
    return estimator, X


@contextmanager
def resolved(estimator, X) -> Iterator[tuple[nn.Module, Tensor]]:
    """Yield the fitted network in evaluation mode and `X` as a tensor beside it.

    Parameters
    ----------
    estimator : object
        A fitted estimator of this package, a skorch net, scikit-learn's `MLPClassifier` or
        `MLPRegressor`, or a pipeline that ends in one of them.
    X : array-like of shape (n_samples, n_features)
        The samples, as the estimator's `predict` takes them.

    Yields
    ------
    module : torch.nn.Module
        In evaluation mode; its mode is restored afterwards.
    X : Tensor of shape (n_samples, ...)
        On the module's device, in its precision.

    Raises
    ------
    TypeError
        If no network can be found in `estimator`.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    """
    estimator, X = unwrap(estimator, X)
    module, X = _module_and_tensor(estimator, X)
    training = module.training
    module.eval()
    try:
        yield module, X
    finally:
        module.train(training)


def _module_and_tensor(estimator, X) -> tuple[nn.Module, Tensor]:
    if isinstance(estimator, NeuralNet):
        estimator.check_is_fitted()
        parameter = next(estimator.module_.parameters())
        X = torch.as_tensor(np.asarray(X) if not isinstance(X, Tensor) else X)
        if X.is_floating_point():
            X = X.to(parameter.dtype)
        return estimator.module_, X.to(parameter.device)
    if isinstance(estimator, MLPClassifier | MLPRegressor):
        check_is_fitted(estimator)
        X = validate_data(estimator, X, accept_sparse="csr", reset=False)
        X = X.toarray() if hasattr(X, "toarray") else X
        module = mlp_from_arrays(estimator.coefs_, estimator.intercepts_, estimator.activation)
        return module, torch.as_tensor(X, dtype=next(module.parameters()).dtype)
    if hasattr(type(estimator), "_to_tensor"):  # an estimator of this package
        check_is_fitted(estimator)
        return estimator.module_, estimator._to_tensor(X)
    raise TypeError(
        f"Expected a fitted MLPClassifier or MLPRegressor (of sklearn_mgs or scikit-learn), a "
        f"skorch net, or a pipeline that ends in one of them; got {type(estimator).__name__}."
    )
