"""What the displays share; matplotlib is imported only when something is drawn."""

from __future__ import annotations

__all__ = [
    "METRIC_LABELS",
    "axes_or_new",
    "check_matplotlib",
    "greys",
    "legend_above",
    "log_scale",
]

METRIC_LABELS = {
    "trace": "trace of the kernel / n",
    "logdet": "log det of the kernel / n (nats)",
    "det": "geometric mean eigenvalue of the kernel",
    "effective_rank": "effective rank of the kernel",
    "cosine": "mean cosine between gradients",
}
"""Axis labels of the metrics of `sklearn_mgs.gram.mgs_metric`."""


def check_matplotlib(caller: str) -> None:
    """Raise an ImportError that says how to install matplotlib, unless it is there."""
    try:
        import matplotlib.pyplot  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{caller} draws with matplotlib, which is not installed; run "
            "`pip install sklearn_mgs[plot]`."
        ) from error


def axes_or_new(ax, caller: str):
    """`ax`, or the axes of a new figure whose layout makes room for what stands outside them."""
    check_matplotlib(caller)
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def greys(n: int) -> list[str]:
    """Colours from black to light grey, for what is drawn against the left axis."""
    return [f"{0.7 * i / max(1, n - 1):.2f}" for i in range(n)]


def legend_above(ax, handles) -> None:
    """Legend on top of the axes, where it can't cover data."""
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.01),
        borderaxespad=0,
        ncols=2 if len(handles) < 5 else 3,
        frameon=False,
    )


def log_scale(ax, which: str) -> None:
    """Logarithmic scale of the "x" or "y" axis of what is drawn, with plain, sparse numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set(**{f"{which}scale": "log"})
    axis = getattr(ax, f"{which}axis")
    low, high = sorted(axis.get_view_interval())
    if high / low > 3:
        axis.set_minor_locator(LogLocator(subs=(2, 5) if high / low > 10 else (2, 3, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    wide = high / low > 1e4
    axis.set_minor_formatter(NullFormatter() if wide else StrMethodFormatter("{x:g}"))
