"""The methods that are compared and their candidates; part of the protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

N_CANDIDATES = 6


@dataclass(frozen=True)
class Competitor:
    """A method and its candidates, from weak to strong.

    `lone` names an outside reference, which is not trained by this package; "published" is read
    from the data. The predictions of `n_nets` nets, trained from seeds of their own, are averaged;
    their candidate is the one that the method `of` has chosen.
    """

    name: str
    candidates: tuple[dict[str, Any], ...]
    lone: str = ""
    n_nets: int = 1
    of: str = ""


def _grid(name: str, values, **fixed) -> tuple[dict[str, Any], ...]:
    return tuple({name: value, **fixed} for value in values)


MGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
MGS_FIRST = (0.01, 0.04, 0.2, 0.8, 3.0, 12.0)
PLAIN = {"mgs_layers": "all"}
RELATIVE = {"mgs_layers": "all", "mgs_relative": True, "mgs_batch_size": None}
JACOBIAN = (0.0005, 0.003, 0.015, 0.06, 0.25, 1.0)
DECAY = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
"""L2 in units of the loss, ``λ/2 ‖w‖²``; ``alpha`` is λ times the mini-batch's samples."""
DECAY_L1 = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""L1, ``λ ‖w‖₁``, for Adam, which does not scale the proximal step; less in task A."""
EPOCH_SHARES = (1.0, 0.5, 0.25, 0.12, 0.06, 0.03)
"""Early stopping: shares of the epochs after which one training is looked at."""

COMPETITORS = {
    c.name: c
    for c in (
        Competitor("none", ({},)),
        Competitor("L2", _grid("decay", DECAY)),
        Competitor("L1", _grid("decay_l1", DECAY_L1)),
        Competitor("dropout", _grid("dropout", (0.05, 0.1, 0.2, 0.35, 0.5, 0.7))),
        Competitor("input noise", _grid("input_noise", (0.05, 0.15, 0.3, 0.6, 1.0, 1.5))),
        Competitor("early stopping", _grid("epoch_share", EPOCH_SHARES)),
        Competitor("label smoothing", _grid("label_smoothing", (0.1, 0.2, 0.4, 0.6, 0.8, 0.9))),
        Competitor("input Jacobian", _grid("jacobian_strength", JACOBIAN)),
        Competitor("loss gradient", _grid("gradient_strength", (0.03, 0.1, 0.3, 0.6, 1.0, 2.0))),
        Competitor(
            "coherent L2",
            _grid("decay", DECAY, coherence_threshold=0.5, coherence="total"),
        ),
        Competitor(
            "coherent L1",
            _grid("decay_l1", DECAY_L1, coherence_threshold=0.2, coherence="total"),
        ),
        Competitor("MGS trace", _grid("mgs_strength", MGS, **PLAIN)),
        Competitor("MGS det", _grid("mgs_strength", MGS, **PLAIN, mgs_metric="det")),
        Competitor(
            "MGS + L2",
            tuple(
                {"mgs_strength": s, "decay": d, **PLAIN}
                for d in (0.001, 0.01)
                for s in (0.03, 0.2, 1.0)
            ),
        ),
        Competitor(
            "MGS all, relative + L2",
            tuple(
                {"mgs_strength": s, "decay": d} for d in (0.001, 0.01) for s in (0.03, 0.2, 1.0)
            ),
        ),
        Competitor("MGS hidden", _grid("mgs_strength", MGS, mgs_layers="hidden")),
        Competitor("MGS first", _grid("mgs_strength", MGS_FIRST, mgs_layers="first")),
        Competitor(
            "MGS all or first",
            (
                *_grid("mgs_strength", (0.03, 0.2, 1.0), **PLAIN),
                *_grid("mgs_strength", (0.03, 0.5, 5.0), mgs_layers="first"),
            ),
        ),
        Competitor("MGS all, relative", _grid("mgs_strength", MGS)),  # the default
        Competitor(
            "MGS all, relative, random outputs",
            _grid("mgs_strength", MGS, **RELATIVE, mgs_outputs="random"),
        ),
        Competitor(
            "MGS first, relative",
            _grid("mgs_strength", MGS, **RELATIVE | {"mgs_layers": "first"}),
        ),
        Competitor("MGS balanced", _grid("mgs_strength", MGS, mgs_layers="balanced")),
        Competitor("MGS centred", _grid("mgs_strength", MGS, **PLAIN, mgs_centered=True)),
        Competitor("MGS class-centred", _grid("mgs_strength", MGS, **PLAIN, mgs_centered="class")),
        Competitor(
            "MGS first, random outputs",
            _grid("mgs_strength", MGS_FIRST, mgs_layers="first", mgs_outputs="random"),
        ),
        Competitor(
            "MGS first + L2",
            tuple(
                {"mgs_strength": s, "decay": d, "mgs_layers": "first"}
                for d in (0.001, 0.01)
                for s in (0.03, 0.5, 5.0)
            ),
        ),
        Competitor("scikit-learn MLP", _grid("alpha", (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)), "mlp"),
        Competitor("linear", _grid("C", (10.0, 1.0, 0.1, 0.03, 0.01, 0.003)), "linear"),
        Competitor(
            "gradient boosting",
            tuple({"max_iter": m, "max_leaf_nodes": k} for m in (180, 60, 20) for k in (16, 4)),
            "boosting",
        ),
        Competitor("MC dropout, published", ({},), "published"),
    )
}
MEANS = {f"{name}, mean of 5": name for name in ("none", "MGS all, relative")}
COMPETITORS |= {
    name: replace(COMPETITORS[of], name=name, n_nets=5, of=of) for name, of in MEANS.items()
}
