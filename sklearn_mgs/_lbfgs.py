"""Full-batch minimisation of a net's objective by SciPy's L-BFGS-B."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.optimize
import torch
from sklearn.exceptions import ConvergenceWarning

from sklearn_mgs._data import Batch
from sklearn_mgs._optimizer import regularized_weights

__all__ = ["minimize_lbfgs"]


class _FlatObjective:
    """The objective with L2, as a function of one float64 vector."""

    def __init__(self, net, batch: Batch, alpha: float):
        self.net, self.batch, self.alpha = net, batch, alpha
        self.parameters = [p for p in net.module_.parameters() if p.requires_grad]
        self.weights = regularized_weights(net.module_)

    def read(self) -> np.ndarray:
        return _flat(p.detach() for p in self.parameters)

    @torch.no_grad()
    def write(self, vector: np.ndarray) -> None:
        parts = torch.from_numpy(vector).split([p.numel() for p in self.parameters])
        for p, part in zip(self.parameters, parts):
            p.copy_(part.view_as(p))

    def __call__(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        self.write(vector)
        terms = self.net.criterion_(self.net.module_, self.batch)
        l2 = sum(w.square().sum() for w in self.weights) * (self.alpha / 2 / self.batch.weight_sum)
        gradient = torch.autograd.grad(terms.total + l2, self.parameters, materialize_grads=True)
        self.terms = {"train_loss": terms.data_loss, "l2": l2, "mgs_penalty": terms.mgs_penalty}
        return (terms.total + l2).item(), _flat(gradient)

    def record(self) -> None:
        """Write the terms of the last evaluation into the history."""
        for name, value in self.terms.items():
            if value is not None and (name != "l2" or self.alpha):
                self.net.history.record(name, value.item())


def minimize_lbfgs(net, batch: Batch, samples, alpha: float, options: dict) -> int:
    """Minimise the net's objective on one full batch; each iteration is a row of its history.

    Parameters
    ----------
    net : MLPNet
        Its module is left at the solution; its callbacks see each iteration as an epoch.
    batch : Batch
        All samples.
    samples : Samples
        The same, as callbacks get them.
    alpha : float
        L2 strength, divided by the batch's weight.
    options : dict
        ``maxiter``, ``maxfun``, ``gtol`` of SciPy.

    Returns
    -------
    n_iter : int
        Iterations taken.

    Raises
    ------
    ValueError
        If the objective is not finite where the solver ends; the module is left at the last
        iterate.
    """
    objective = _FlatObjective(net, batch, alpha)
    datasets = {"dataset_train": samples, "dataset_valid": None}
    n_iter, iterate, stopped = 0, objective.read(), False

    def after_iteration(vector: np.ndarray) -> None:
        nonlocal n_iter, iterate, stopped
        n_iter, iterate = n_iter + 1, vector.copy()
        net.notify("on_epoch_begin", **datasets)
        objective(iterate)
        objective.record()
        stopped = True  # a callback may say so, by an interrupt
        net.notify("on_epoch_end", **datasets)
        stopped = False

    net._set_training(True)
    try:
        result = scipy.optimize.minimize(
            objective,
            iterate,
            method="L-BFGS-B",
            jac=True,
            callback=after_iteration,
            options=options,
        )
    except KeyboardInterrupt:
        objective.write(iterate)
        if not stopped:
            warnings.warn("Training interrupted by user.")
        return n_iter
    if not np.isfinite(result.fun):
        objective.write(iterate)
        raise ValueError(
            f"Solver produced non-finite parameter weights or losses: training loss "
            f"{result.fun} (penalties included) after {n_iter} iteration(s). The last finite "
            f"parameters are kept. Scale the input data, or lower the regularisation strengths."
        )
    objective.write(result.x)
    if result.status != 0:
        warnings.warn(
            f"lbfgs failed to converge after {result.nit} iteration(s) (status={result.status}): "
            f"{result.message}. Increase max_iter or max_fun, or scale the data.",
            ConvergenceWarning,
        )
    return result.nit


def _flat(tensors) -> np.ndarray:
    """One float64 vector on the host."""
    return torch.cat([t.reshape(-1).double() for t in tensors]).cpu().numpy()
