"""What is run, fixed before the runs: data, noise, seeds, nets; `competitors` has the candidates.

Each regulariser has six candidates, a factor of about three apart from almost off to too strong.
Which one is best is decided on validation labels as noisy as the training labels; beside it stands
what clean validation labels would have chosen. Test labels are clean and decide nothing.

The ranges were set before any run, by pilots: the test accuracy of vehicle, optdigits, satimage
and twonorm on other splits of task C, whose samples overlap the reported ones, and the validation
scores of yacht and concrete on split 19 of task D, which is not run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAIN = (
    "none",
    "L2",
    "dropout",
    "early stopping",
    "MGS trace",
    "MGS first",
    "MGS + L2",
    "MGS all, relative",
)
USUAL = (
    *MAIN,
    "label smoothing",
    "input noise",
    "input Jacobian",
    "MGS all or first",
    "MGS hidden",
    "MGS first, relative",
    "MGS all, relative, random outputs",
)
USUAL_REGRESSION = tuple(name for name in USUAL if name != "label smoothing")
REST = (
    "MGS balanced",
    "L1",
    "MGS first + L2",
    "MGS first, random outputs",
    "MGS det",
    "loss gradient",
)
LATER = ("MGS all, relative + L2",)
"""Added when the confirmation had shown MGS + L2 ahead of the default on its tabular sets."""
REFERENCES = ("linear", "gradient boosting", "scikit-learn MLP")
COHERENT = ("coherent L2", "coherent L1")
DEAR = ("MGS centred", "MGS class-centred", *COHERENT)


@dataclass(frozen=True)
class Task:
    """How the nets of a task are trained and tuned.

    Attributes
    ----------
    title : str
        For the page.
    fit : dict
        The estimator's parameters.
    validation : float
        Share of the training samples that the candidates are chosen on.
    refit : bool
        Whether the chosen candidate is trained again on all of them; else its net from the
        tuning is the result.
    regression : bool
    units : dict of str to float
        What strengths of that name are multiplied by, all candidates alike.
    """

    title: str
    fit: dict[str, Any]
    validation: float = 0.25
    refit: bool = False
    regression: bool = False
    units: dict[str, float] = field(default_factory=dict)


ADAM = {"solver": "adam", "learning_rate_init": 0.001, "alpha": 0.0}
SGD = {
    "solver": "sgd",
    "learning_rate_init": 0.01,
    "momentum": 0.9,
    "nesterovs_momentum": False,
    "alpha": 0.0,
}
TASKS = {
    "A": Task(
        "MNIST-1D",
        SGD | {"batch_size": 100, "max_iter": 500},
        refit=True,
        units={"mgs_strength": 0.3, "decay_l1": 0.003},
    ),
    "B": Task("MNIST with few samples", ADAM | {"batch_size": 50, "max_iter": 100}),
    "C": Task("Tabular classification", ADAM | {"batch_size": 50, "max_iter": 100}),
    "D": Task(
        "UCI regression",
        ADAM | {"learning_rate_init": 0.01, "batch_size": 128, "max_iter": 400},
        validation=0.2,
        refit=True,
        regression=True,
        units={"mgs_strength": 0.1, "jacobian_strength": 0.1},
    ),
}

SETS = tuple(
    "sonar glass spectf ionosphere saheart clean1 wdbc diabetes vehicle german wine_quality_red "
    "car mfeat_fourier segmentation dna banana phoneme page_blocks texture optdigits satimage "
    "twonorm".split()
)
REGRESSIONS = tuple("yacht energy concrete wine-quality-red power-plant".split())


@dataclass(frozen=True)
class Block:
    """Cells that are run in this order: seeds outermost, then data sets, then competitors.

    Attributes
    ----------
    task : str
    sets : tuple of str
    competitors : tuple of str
    noises : tuple of float
        Share of labels drawn anew, uniformly; in regression, standard deviation of the Gaussian
        noise added to the targets, in units of the targets' own. All at once.
    seeds : range
        Of split, noise and initial weights; in task D, the published split of that number.
    n : int
        Training samples at most, validation included; 0: all.
    hidden : tuple of int
        Hidden layers.
    fit : dict
        Parameters that differ from the task's.
    settings : tuple of dict
        Parameters of the training; each candidate is tried with each.
    tune_once : bool
        Whether the candidate is chosen with the first seed, for all seeds.
    """

    task: str
    sets: tuple[str, ...]
    competitors: tuple[str, ...]
    noises: tuple[float, ...]
    seeds: range
    n: int = 0
    hidden: tuple[int, ...] = (64, 64)
    fit: dict[str, Any] = field(default_factory=dict)
    settings: tuple[dict[str, Any], ...] = ({},)
    tune_once: bool = False


def _tabular(competitors, seeds):
    return Block("C", SETS, competitors, (0.0, 0.2, 0.4), seeds, n=800)


def _mnist(n, competitors, seeds):
    fit = {"max_iter": 200} if n < 1000 else {}
    return Block("B", ("mnist",), competitors, (0.0, 0.2, 0.4, 0.6), seeds, n=n, fit=fit)


def _regressions(competitors, seeds, sets=REGRESSIONS):
    return Block("D", sets, competitors, (0.0, 1.0), seeds, hidden=(50,))


def _mnist1d(width, noises, competitors, seeds):
    hidden = (width, width)
    return Block("A", ("mnist1d",), competitors, noises, seeds, hidden=hidden, tune_once=True)


FEW = ("none", "L2", "MGS trace", "MGS all, relative")
RIVALS = (
    *FEW,
    "dropout",
    "input noise",
    "early stopping",
    "input Jacobian",
    "MGS first, relative",
)

PLAN = (
    _tabular(USUAL, range(2)),
    _mnist(100, USUAL, range(3)),
    _mnist(300, USUAL, range(5)),
    _mnist(1000, USUAL, range(1)),
    Block("D", REGRESSIONS, ("MC dropout, published",), (0.0,), range(20), hidden=(50,)),
    _regressions(FEW, range(3)),
    _mnist1d(61, (0.15,), (*MAIN, "input Jacobian"), range(10)),
    _mnist1d(300, (0.15,), FEW, range(7)),
    _mnist1d(104, (0.15,), MAIN, range(3)),
    _mnist1d(61, (0.0, 0.3, 0.45), MAIN, range(3)),
    _mnist1d(300, (0.15,), ("early stopping", "dropout", "MGS + L2"), range(1)),
    _mnist1d(300, (0.15,), MAIN, range(3)),
    _mnist1d(300, (0.15,), MAIN, range(10)),
    _mnist1d(61, (0.15,), (*USUAL, *REST), range(3)),
    _mnist1d(300, (0.0, 0.3, 0.45), FEW, range(1)),
    _mnist(3000, RIVALS, range(1)),
    _mnist(1000, RIVALS, range(3)),
    _mnist(100, RIVALS, range(5)),
    _mnist(100, (*REST, "linear"), range(1)),
    _mnist(300, (*REST, "linear"), range(1)),
    _mnist(1000, (*REST, "linear"), range(1)),
    _regressions(USUAL_REGRESSION, range(5)),
    _tabular((*REST, *REFERENCES), range(1)),
    _tabular(RIVALS, range(3)),
    _mnist(1000, USUAL, range(3)),
    _mnist(100, USUAL, range(5)),
    _mnist(3000, USUAL, range(1)),
    _tabular((*USUAL, *REFERENCES, *REST, *DEAR), range(3)),
    _regressions((*REFERENCES, "L1", "MGS det", "MGS first + L2"), range(5)),
    _regressions(("L1", "loss gradient", "MGS det", *COHERENT, *REFERENCES), range(1)),
    *(_mnist(n, (*COHERENT, *REFERENCES), range(3)) for n in (100, 300, 1000)),
    _mnist1d(61, (0.15,), (*COHERENT, *REFERENCES), range(3)),
    # Without scikit-learn's MLP, which takes longer than all others of this block together.
    _mnist1d(300, (0.15,), (*COHERENT, "linear", "gradient boosting"), range(3)),
    _regressions(
        (*USUAL_REGRESSION, "L1", "loss gradient", "MGS det", *COHERENT, *REFERENCES),
        range(3),
        REGRESSIONS[:4],
    ),
    _tabular(LATER, range(3)),
    *(_mnist(n, LATER, range(3)) for n in (100, 300, 1000)),
    _mnist1d(104, (0.0, 0.3, 0.45), MAIN, range(3)),
    _mnist1d(300, (0.0, 0.3, 0.45), MAIN, range(3)),
    _mnist1d(300, (0.15,), (*USUAL, *REST), range(3)),
    _tabular(USUAL, range(5)),
    _regressions(USUAL_REGRESSION, range(19)),
)

# Small enough for ten minutes on one core.
QUICK = (
    Block(
        "C",
        ("sonar", "glass", "vehicle"),
        ("none", "L2", "dropout", "early stopping", "MGS trace", "MGS first"),
        (0.0, 0.4),
        range(2),
        n=800,
    ),
    Block("B", ("mnist",), ("none", "L2", "MGS trace", "MGS first"), (0.0, 0.4), range(1), n=100),
)
