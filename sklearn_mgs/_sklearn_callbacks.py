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
    """Tell scikit-learn's callbacks of each epoch, as one task of the estimator's fit.

    Parameters
    ----------
    estimator : estimator
        The one being fitted.
    X, y : array-like
        What `fit` was given.
    metadata : dict, default=None
        Its sample weights, if any.
    max_iter : int
        Epochs at most.
    """

    def __init__(self, estimator, X, y, metadata, max_iter):
        self.estimator = estimator
        self.data = {"X": X, "y": y, "metadata": metadata}
        self.root = None
        if hasattr(estimator, "_init_callback_context"):
            self.root = estimator._init_callback_context(max_subtasks=max_iter)
            self.root.call_on_fit_task_begin(estimator=estimator, **self.data)

    @property
    def watched(self) -> bool:
        """Whether any callback is set."""
        return self.root is not None and hasattr(self.estimator, "_skl_callbacks")

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

    def finish(self) -> None:
        """End the fit's task."""
        if self.root is not None:
            self.root.call_on_fit_task_end(
                estimator=self.estimator, reconstruction_attributes={}, **self.data
            )


def _frozen(net) -> dict:
    """The net's present state, which further training leaves alone."""
    frozen = type(net).__new__(type(net))
    frozen.__dict__.update({**net.__dict__, "after_epoch_": None, "callbacks_": []})
    frozen.__dict__["module_"] = copy.deepcopy(net.module_)
    return {"net_": frozen}
