"""What the estimators' "auto" stands for: outputs, gradients and samples of the penalty."""

from __future__ import annotations

from sklearn_mgs._data import mini_batch_size

__all__ = ["kernel_samples", "penalty_options"]


def penalty_options(estimator) -> dict:
    """Parameters of the `MGSPenalty` that a built estimator asks for."""
    p, auto = estimator, estimator.mgs_layers == "auto"
    return {
        "metric": p.mgs_metric,
        "outputs": _outputs(p),
        "layers": "all" if auto else p.mgs_layers,
        "relative": p.mgs_relative or (auto and p.mgs_metric == "trace"),
        "centered": p.mgs_centered,
    }


def _outputs(p) -> str:
    """The reduction of outputs."""
    if p.mgs_outputs != "auto":
        return p.mgs_outputs
    loss = p._loss_name()
    if loss == "log_loss" or (loss == "binary_log_loss" and p.n_outputs_ == 1):
        return "target"
    if p.n_outputs_ == 1 or p.solver == "lbfgs":
        return "all"
    return "random"


def kernel_samples(estimator, n_samples: int) -> int | None:
    """Samples of a mini-batch, or of its halves where they are compared, for the kernel.

    None stands for all. "auto" is half of a mini-batch where that is a random sample of all, the
    kernel's value is a mean over samples, and gradients are relative, which cost more than others;
    but not with dropout, for which the loss and a part of its samples need a forward pass each.
    """
    p, size = estimator, estimator.mgs_batch_size
    if size == "auto":
        options = penalty_options(p)
        is_mean = options["metric"] == "trace" and options["centered"] is False
        n_batch = mini_batch_size(p.batch_size, n_samples)
        drawn = p.solver != "lbfgs" and p.shuffle and n_batch < n_samples
        dear = options["relative"] and not p.dropout
        size = -(-n_batch // 2) if is_mean and drawn and dear else None
    compared = p.coherence_threshold is not None and p.coherence == "batch"
    return -(-size // 2) if compared and size is not None else size
