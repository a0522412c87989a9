"""What a fitted estimator shows and answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch.history import History
from torch import Tensor, nn

from sklearn_mgs._data import as_tensor
from sklearn_mgs._objective import INVERSE_LINKS

__all__ = ["FittedNetwork"]

PREDICTION_ROWS = 8192
"""Samples that go through the network at once when predicting: bounds the memory."""


class _Arrays(list):
    """Arrays of the layers; what takes the place of one is written into the network."""

    def __init__(self, arrays, write: Callable[[list], object]):
        super().__init__(arrays)
        self.write = write

    def __setitem__(self, place, value):
        changed = list(self)
        changed[place] = value
        self.write(changed)
        super().__setitem__(place, value)

    def __reduce__(self):
        return list, (list(self),)  # a copy is only a list


class FittedNetwork:
    """Fitted attributes and outputs of an estimator that holds its skorch net as ``net_``."""

    # ------------------------------------------------------------- attributes

    @property
    def module_(self) -> nn.Module:
        """The torch module: linear layers and activations, outputs linear."""
        return self._fitted_net("module_").module_

    @property
    def history_(self) -> History:
        """The skorch history: a row per epoch (with "lbfgs", per iteration)."""
        return self._fitted_net("history_").history

    @property
    def compression_ratio_(self) -> float:
        """Number of parameters over the number of those that are not zero."""
        parameters = list(self._fitted_net("compression_ratio_").module_.parameters())
        nonzero = sum(int(torch.count_nonzero(p)) for p in parameters)
        return sum(p.numel() for p in parameters) / max(nonzero, 1)

    @available_if(lambda est: hasattr(est, "net_"))
    def sparsify(self):
        """Make pickles of the fitted estimator small where many weights are zero.

        They hold each weight matrix in SciPy's sparse rows where these take fewer bytes, about
        8 per weight that is not zero in single precision, and leave out the optimizer's state.
        Predictions are unchanged, in memory the weights stay dense. Training may go on, with a
        new optimizer; pickles are then full again until the next call.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        self.net_.sparsify()
        return self

    @property
    def coefs_(self) -> list[np.ndarray]:
        """Weights, the l-th of shape (n_units[l], n_units[l + 1])."""
        module = self._fitted_net("coefs_").module_
        arrays = [m.weight.detach().cpu().numpy().T for m in module.linears]
        return _Arrays(arrays, lambda coefs: module.write(coefs, self.intercepts_))

    @coefs_.setter
    def coefs_(self, coefs):
        self._fitted_net("coefs_").module_.write(coefs, self.intercepts_)

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """Biases, the l-th of shape (n_units[l + 1],)."""
        module = self._fitted_net("intercepts_").module_
        arrays = [m.bias.detach().cpu().numpy() for m in module.linears]
        return _Arrays(arrays, lambda intercepts: module.write(self.coefs_, intercepts))

    @intercepts_.setter
    def intercepts_(self, intercepts):
        self._fitted_net("intercepts_").module_.write(self.coefs_, intercepts)

    def _fitted_net(self, attribute):
        try:
            return self.__dict__["net_"]
        except KeyError:
            raise AttributeError(
                f"This {type(self).__name__} is not fitted yet, so it has no {attribute!r}."
            ) from None

    # ---------------------------------------------------------------- answers

    def _check_fitted(self):
        check_is_fitted(self, "net_")

    def _to_tensor(self, X) -> Tensor:
        """Validated samples on the network's device, in its precision; shape (n, n_features)."""
        X = validate_data(self, X, accept_sparse="csr", reset=False)
        parameter = next(self.module_.parameters())
        return as_tensor(X, parameter.dtype, parameter.device)

    @torch.no_grad()
    def _outputs(self, X, check_input=True) -> np.ndarray:
        """Outputs after the output activation, shape (n_samples, n_outputs)."""
        if check_input:
            X = validate_data(self, X, accept_sparse="csr", reset=False)
        module = self.module_
        training = module.training
        module.eval()
        parameter = next(module.parameters())
        activate = INVERSE_LINKS[self.net_.criterion_.loss]
        parts = [
            activate(
                module(as_tensor(X[i : i + PREDICTION_ROWS], parameter.dtype, parameter.device))
            )
            for i in range(0, X.shape[0], PREDICTION_ROWS)
        ]
        module.train(training)
        return torch.cat(parts).to(parameter.dtype).cpu().numpy()  # NumPy has no bfloat16
