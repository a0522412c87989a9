"""Bridge from scikit-learn's callback protocol (1.9 and later) to skorch's."""

from __future__ import annotations

import copy

from skorch.callbacks import Callback

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn < 1.9 has no callbacks to support

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing: this scikit-learn has no callbacks."""

    def with_callbacks(method):
        """Return the method as it is: this scikit-learn has no callbacks."""
        return method


__all__ = ["CallbackSupportMixin", "EpochTasks", "with_callbacks"]


class EpochTasks(Callback):
    """Tell scikit-learn's callbacks of a fit, and of each epoch as one of its tasks.

    Around the training, as a context manager, it is among the net's callbacks.

    Parameters
    ----------
    estimator : BaseMLP
        The one being fitted.
    X, y, sample_weight : array-like
        What `fit` was given.
    """

    def __init__(self, estimator, X, y, sample_weight):
        self.estimator = estimator
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self.data = {"X": X, "y": y, "metadata": metadata}

    def __enter__(self):
        """Begin the fit's task; watch the epochs if there is a callback to tell."""
        est = self.estimator
        if hasattr(est, "_init_callback_context"):
            self.root = est._init_callback_context(max_subtasks=est.max_iter)
            self.root.call_on_fit_task_begin(estimator=est, **self.data)
        if hasattr(est, "_skl_callbacks"):
            est.net_.callbacks_.append(("sklearn_callbacks", self))

    def __exit__(self, error, *args):
        """End the fit's task."""
        est = self.estimator
        est.net_.callbacks_ = [(k, cb) for k, cb in est.net_.callbacks_ if cb is not self]
        if hasattr(self, "root") and error is None:
            self.root.call_on_fit_task_end(
                estimator=est, reconstruction_attributes={}, **self.data
            )

    def on_epoch_begin(self, net, **kwargs):
        """Begin the epoch's task."""
        self.task = self.root.subcontext(task_name="epoch")
        self.task.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def on_epoch_end(self, net, **kwargs):
        """End it; a callback that returns True stops the training, the skorch way."""
        if self.task.call_on_fit_task_end(
            estimator=self.estimator, reconstruction_attributes=lambda: _frozen(net), **self.data
        ):
            raise KeyboardInterrupt


def _frozen(net) -> dict:
    """The net's present state, which further training leaves alone."""
    frozen = type(net).__new__(type(net))
    frozen.__dict__.update({**net.__dict__, "after_epoch_": None, "callbacks_": []})
    frozen.__dict__["module_"] = copy.deepcopy(net.module_)
    return {"net_": frozen}
