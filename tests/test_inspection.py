"""What the displays hold against the public functions, and what they draw."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn import neural_network
from sklearn.datasets import make_classification
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from torch import nn

from sklearn_mgs import MLPClassifier, MLPRegressor
from sklearn_mgs._resolve import resolved
from sklearn_mgs.callbacks import MGSEarlyStopping, MGSMonitor
from sklearn_mgs.gram import gram_matrix
from sklearn_mgs.inspection import (
    GramMatrixDisplay,
    MGSHistoryDisplay,
    MGSPathDisplay,
    RegularizerComparisonDisplay,
)
from sklearn_mgs.metrics import make_mgs_scorer, mgs_score
from sklearn_mgs.model_selection import one_standard_error
from sklearn_mgs.search import MLPClassifierCV

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

X, y = make_classification(90, 5, n_informative=4, n_redundant=1, n_classes=3, random_state=0)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def mlp(**kwargs):
    settings = {"hidden_layer_sizes": (6,), "max_iter": 5, "random_state": 0}
    return MLPClassifier(**settings | kwargs)


def watched(*callbacks, **kwargs):
    return mlp(callbacks=list(callbacks), **kwargs).fit(X, y)


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def assert_legend_beside_data(display):
    """The legend and the axes do not overlap, and the figure holds both."""
    display.figure_.canvas.draw()
    legend = display.ax_.get_legend().get_window_extent()
    assert not legend.padded(-1).overlaps(display.ax_.get_window_extent())
    assert display.figure_.bbox.contains(legend.x0, legend.y0)
    assert display.figure_.bbox.contains(legend.x1 - 1, legend.y1 - 1)


# ------------------------------------------------------------------------------- history


def test_history_holds_the_columns_relative_to_the_first():
    metrics = ("trace", "logdet", "det", "effective_rank", "cosine")
    estimator = watched(MGSMonitor(metrics), mgs_strength=0.1)
    display = MGSHistoryDisplay.from_estimator(estimator)
    history = estimator.history_
    np.testing.assert_array_equal(display.curves["training loss"], history[:, "train_loss"])
    for label, key in (("trace", "mgs_trace"), ("MGS penalty", "mgs_penalty")):
        column = np.array(history[:, key])
        np.testing.assert_allclose(display.metrics[label], column / column[0])
    # det is the exponential of logdet, so relative to the first value they are one.
    np.testing.assert_allclose(display.metrics["exp(logdet)"], display.metrics["det"], rtol=1e-5)
    assert len(display.metrics) == 6


def test_history_draws_a_line_for_each_column():
    display = MGSHistoryDisplay.from_estimator(watched(MGSMonitor()))
    assert display.ax_.figure is display.mgs_ax_.figure is display.figure_
    assert display.ax_.get_xlabel() == "epoch"
    assert all(tick == int(tick) for tick in display.ax_.get_xticks())
    assert display.ax_.get_ylabel() == "loss or score"
    assert display.mgs_ax_.get_ylabel() == "metric / its first value (dashed)"
    assert display.mgs_ax_.get_yscale() == "log"
    assert texts(display.ax_) == ["training loss", "trace", "exp(logdet)", "effective rank"]
    (loss,), lines = display.lines_, display.mgs_lines_
    np.testing.assert_array_equal(loss.get_ydata(), display.curves["training loss"])
    np.testing.assert_array_equal(loss.get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(lines[0].get_ydata(), display.metrics["trace"])
    assert display.restored_line_ is None
    assert_legend_beside_data(display)


def test_history_skips_epochs_that_were_not_measured():
    display = MGSHistoryDisplay.from_estimator(watched(MGSMonitor(every=2)))
    assert np.isnan(display.metrics["trace"][1])
    np.testing.assert_array_equal(display.mgs_lines_[0].get_xdata(), [1, 3, 5])


def test_history_marks_the_restored_epoch():
    estimator = watched(MGSMonitor(), ("stop", MGSEarlyStopping()), early_stopping=True)
    display = MGSHistoryDisplay.from_estimator(estimator)
    assert display.restored_epoch == dict(estimator.net_.callbacks_)["stop"].best_epoch_
    assert set(display.restored_line_.get_xdata()) == {display.restored_epoch}
    assert {"agreement", "validation score", "restored epoch"} < set(texts(display.ax_))
    assert_legend_beside_data(display)


def test_history_of_early_stopping_alone():
    display = MGSHistoryDisplay.from_estimator(watched(MGSEarlyStopping(), max_iter=20))
    assert display.mgs_ax_ is None
    assert display.mgs_lines_ == []
    assert texts(display.ax_) == ["training loss", "agreement", "restored epoch"]


def test_history_of_a_skorch_net_in_a_pipeline():
    net = NeuralNetClassifier(
        nn.Linear(5, 3),
        criterion=nn.CrossEntropyLoss,
        callbacks=[MGSMonitor(["trace"]), MGSEarlyStopping()],
        max_epochs=3,
        verbose=0,
    )
    pipe = make_pipeline(StandardScaler(), net).fit(X.astype(np.float32), y)
    display = MGSHistoryDisplay.from_estimator(pipe)
    curves = ["training loss", "validation loss", "validation accuracy", "agreement"]
    assert list(display.curves) == curves
    assert len({line.get_color() for line in display.lines_}) == 4
    assert set(display.metrics) == {"trace"}


def test_keywords_go_to_the_lines_and_plot_draws_again():
    display = MGSHistoryDisplay.from_estimator(watched(MGSMonitor()), linewidth=4)
    assert {line.get_linewidth() for line in display.lines_ + display.mgs_lines_} == {4}
    _, ax = plt.subplots()
    assert display.plot(ax) is display
    assert display.ax_ is ax


@pytest.mark.parametrize(
    ("estimator", "match"),
    [
        (
            lambda: neural_network.MLPClassifier((2,), max_iter=2).fit(X, y),
            r"MLPClassifier has no history.*callbacks=\[MGSMonitor\(\)\]",
        ),
        (lambda: watched(), r"no column of a metric, only \['dur'"),
    ],
)
def test_history_without_metrics(estimator, match):
    with pytest.raises(ValueError, match=match):
        MGSHistoryDisplay.from_estimator(estimator())


@pytest.mark.parametrize("estimator", [mlp, lambda: make_pipeline(StandardScaler(), mlp())])
def test_history_of_what_is_not_fitted(estimator):
    with pytest.raises(NotFittedError, match="MLPClassifier instance is not fitted"):
        MGSHistoryDisplay.from_estimator(estimator())


# ---------------------------------------------------------------------------------- path


@pytest.fixture(scope="module")
def search():
    return GridSearchCV(
        make_pipeline(StandardScaler(), mlp()),
        {
            "mlpclassifier__mgs_strength": [1.0, 0.0, 0.01, 0.1],
            "mlpclassifier__alpha": [1e-4, 1.0],
        },
        scoring={
            "accuracy": "accuracy",
            "mgs": make_mgs_scorer(),
            "rank": make_mgs_scorer("cosine"),
        },
        refit=one_standard_error(),
        cv=3,
    ).fit(X, y)


def test_path_holds_the_rows_of_the_chosen_model(search):
    display = MGSPathDisplay.from_search(search)
    table, alpha = search.cv_results_, search.best_params_["mlpclassifier__alpha"]
    assert list(display.strengths) == [0.0, 0.01, 0.1, 1.0]
    for i, strength in enumerate(display.strengths):
        params = {"mlpclassifier__alpha": alpha, "mlpclassifier__mgs_strength": strength}
        row = table["params"].index(params)
        for values, key, sign in (
            (display.scores["accuracy"], "accuracy", 1),
            (display.mgs["trace"], "mgs", -1),
            (display.mgs["cosine"], "rank", 1),
        ):
            splits = [sign * table[f"split{k}_test_{key}"][row] for k in range(3)]
            np.testing.assert_array_equal(values[i], splits)
    assert display.chosen == search.best_params_["mlpclassifier__mgs_strength"]
    assert display.param_name == "mgs_strength"


def test_path_draws_means_and_deviations(search):
    display = MGSPathDisplay.from_search(search)
    (line,) = display.lines_
    np.testing.assert_array_equal(line.get_xdata(), display.strengths)
    mean, std = display.scores["accuracy"].mean(1), display.scores["accuracy"].std(1)
    np.testing.assert_allclose(line.get_ydata(), mean)
    band = display.bands_[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx((mean + std).max())
    assert band.min() == pytest.approx((mean - std).min())
    assert texts(display.ax_)[:3] == ["accuracy", "trace", "cosine"]
    assert texts(display.ax_)[3].startswith("chosen: ")
    assert display.ax_.get_xlabel() == "mgs_strength"
    assert display.ax_.get_ylabel() == "accuracy (mean ± s.d. over splits)"
    assert display.ax_.get_xscale() == "symlog"  # zero is among the strengths
    assert [t.get_text() for t in display.ax_.get_xticklabels()] == ["0", "0.01", "0.1", "1"]
    assert set(display.chosen_line_.get_xdata()) == {display.chosen}
    assert_legend_beside_data(display)


def test_path_of_one_score_and_another_parameter():
    grid = {"alpha": [1e-3, 1e-2, 1e-1]}
    search = RandomizedSearchCV(mlp(), grid, n_iter=3, cv=2, random_state=0).fit(X, y)
    display = MGSPathDisplay.from_search(search)
    assert (display.param_name, list(display.strengths)) == ("alpha", grid["alpha"])
    assert set(display.scores) == {"score"}
    assert display.mgs_ax_ is None
    assert display.ax_.get_xscale() == "log"


def test_path_of_a_single_mgs_score():
    search = GridSearchCV(mlp(), {"alpha": [0.1, 0.2]}, scoring=make_mgs_scorer("logdet"), cv=2)
    display = MGSPathDisplay.from_search(search.fit(X, y))
    assert not display.scores
    assert display.mgs_ax_.get_ylabel() == "log det of the kernel / n (nats) (dashed)"
    assert display.ax_.get_xscale() == "linear"


def test_path_of_two_scores_of_one_metric():
    scoring = {"all": make_mgs_scorer(), "sum": make_mgs_scorer(outputs="sum")}
    search = GridSearchCV(mlp(), {"alpha": [0.1, 0.2]}, scoring=scoring, cv=2, refit="sum")
    display = MGSPathDisplay.from_search(search.fit(X, y))
    for label, name in (("trace", "all"), ("sum", "sum")):
        means = -search.cv_results_[f"mean_test_{name}"]
        np.testing.assert_allclose(display.mgs[label].mean(1), means)


@pytest.mark.parametrize("strengths", [[1.0, 0.1], [1e9, 1e8]])
def test_path_of_one_of_several_grids(strengths):
    others = {"mgs_strength": [3.0], "alpha": [0.5]}
    grids = [{"alpha": [5.0]}, {"mgs_strength": strengths}, others]
    search = GridSearchCV(mlp(), grids, cv=2).fit(X, y)
    display = MGSPathDisplay.from_search(search, param="mgs_strength")
    if search.best_params_.keys() == {"mgs_strength", "alpha"}:
        assert list(display.strengths) == [3.0]
    else:
        assert list(display.strengths) == sorted(strengths)
    assert display.chosen == search.best_params_.get("mgs_strength")


def test_path_of_a_search_by_halving():
    search = HalvingGridSearchCV(
        mlp(), {"mgs_strength": [0.0, 0.1, 1.0, 3.0]}, cv=2, min_resources=20, factor=2
    ).fit(X, y)
    display = MGSPathDisplay.from_search(search)
    assert list(display.strengths) == [0.0, 0.1, 1.0, 3.0]
    rounds = search.cv_results_["params"]
    last = [max(i for i, p in enumerate(rounds) if p["mgs_strength"] == s) for s in (0, 0.1, 1, 3)]
    means = search.cv_results_["mean_test_score"][last]
    np.testing.assert_allclose(display.scores["score"].mean(1), means)


def test_path_of_this_package_s_own_search():
    fitted = MLPClassifierCV(
        mgs_strengths=[0.0, 0.1, 1.0], hidden_layer_sizes=(6,), max_iter=5, cv=2, random_state=0
    ).fit(X, y)
    for search in (fitted, make_pipeline(StandardScaler(), fitted)):
        display = MGSPathDisplay.from_search(search)
        assert list(display.strengths) == [0.0, 0.1, 1.0]
        assert display.chosen == fitted.mgs_strength_


@pytest.mark.parametrize(
    ("grid", "param", "match"),
    [
        ({"alpha": [1, 2]}, "beta", r"'beta' was not searched; expected one of \['alpha'\]"),
        ({"alpha": [1], "tol": [1]}, None, r"Can't tell which of \['alpha', 'tol'\]"),
        (
            {"activation": ["relu"]},
            None,
            r"'activation' was searched over \['relu'\], which are n",
        ),
    ],
)
def test_path_of_what_was_not_searched(grid, param, match):
    search = GridSearchCV(mlp(), grid, cv=2).fit(X, y)
    with pytest.raises(ValueError, match=match):
        MGSPathDisplay.from_search(search, param=param)


def test_path_of_a_search_that_is_not_fitted():
    with pytest.raises(NotFittedError, match="GridSearchCV"):
        MGSPathDisplay.from_search(GridSearchCV(mlp(), {}))


# --------------------------------------------------------------------------------- kernel


def kernel(estimator, data):
    with resolved(estimator, data) as (module, inputs):
        return gram_matrix(module, inputs).detach().numpy()


def test_kernel_is_ordered_by_class():
    estimator = mlp().fit(X, y)
    display = GramMatrixDisplay.from_estimator(estimator, X, y, normalize=False)
    order = np.argsort(y, kind="stable")
    np.testing.assert_allclose(display.K, kernel(estimator, X)[np.ix_(order, order)], rtol=1e-9)
    np.testing.assert_array_equal(display.labels, y[order])


def test_kernel_of_cosines():
    estimator = mlp().fit(X, y)
    K = GramMatrixDisplay.from_estimator(estimator, X).K
    np.testing.assert_allclose(K.diagonal(), 1)
    assert (K.sum() - 90) / (90 * 89) == pytest.approx(mgs_score(estimator, X, metric="cosine"))


def test_kernel_without_labels_is_ordered_by_prediction():
    estimator = mlp().fit(X, y)
    display = GramMatrixDisplay.from_estimator(estimator, X)
    np.testing.assert_array_equal(display.labels, np.sort(estimator.predict(X)))


def test_kernel_of_a_regression():
    estimator = MLPRegressor(hidden_layer_sizes=(6,), max_iter=5, random_state=0).fit(X, X[:, 0])
    K = kernel(estimator, X)
    given = GramMatrixDisplay.from_estimator(estimator, X, normalize=False)
    np.testing.assert_allclose(given.K, K)
    by_target = GramMatrixDisplay.from_estimator(estimator, X, X[:, 0], normalize=False)
    order = np.argsort(X[:, 0])
    np.testing.assert_allclose(by_target.K, K[np.ix_(order, order)])
    assert given.labels is by_target.labels is None
    assert given.ax_.get_xlabel() == "sample"


@pytest.mark.parametrize("given", [True, False])
def test_kernel_of_several_labels_is_ordered_by_the_first(given):
    target = np.column_stack([y == 1, y == 2]).astype(int)
    estimator = mlp(max_iter=60).fit(X, target)
    shown = target if given else estimator.predict(X)
    display = GramMatrixDisplay.from_estimator(estimator, X, target if given else None)
    order = sorted(range(len(X)), key=lambda i: tuple(shown[i]))
    K = GramMatrixDisplay.from_estimator(estimator, X[order], np.zeros(len(X))).K
    np.testing.assert_allclose(display.K, K)
    assert display.labels is None


def test_kernel_ordered_by_a_column():
    estimator = mlp().fit(X, y)
    column = GramMatrixDisplay.from_estimator(estimator, X, y[:, None])
    flat = GramMatrixDisplay.from_estimator(estimator, X, y)
    np.testing.assert_array_equal(column.K, flat.K)
    np.testing.assert_array_equal(column.labels, flat.labels)


def test_kernel_with_labels_of_other_samples():
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[90, 5\]"):
        GramMatrixDisplay.from_estimator(mlp().fit(X, y), X, y[:5])


def test_kernel_of_a_draw():
    estimator = mlp().fit(X, y)
    draws = [
        GramMatrixDisplay.from_estimator(estimator, X, y, max_samples=20, random_state=seed).K
        for seed in (None, 0, 1)
    ]
    assert draws[0].shape == (20, 20)
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[1], draws[2])


def test_kernel_draws_an_image_with_boundaries():
    labels = np.array(["a", "a", "b", "b", "b", "c"])
    display = GramMatrixDisplay(K=np.eye(6), labels=labels, normalized=True).plot(cmap="gray")
    np.testing.assert_array_equal(display.im_.get_array(), np.eye(6))
    assert display.im_.get_cmap().name == "gray"
    assert [t.get_text() for t in display.ax_.get_xticklabels()] == ["a", "b", "c"]
    np.testing.assert_array_equal(display.ax_.get_xticks(), [0.5, 3, 5])
    assert sorted({line.get_xdata()[0] for line in display.boundaries_[1::2]}) == [1.5, 4.5]
    assert display.colorbar_.ax.get_ylabel() == "cosine between gradients"
    plain = GramMatrixDisplay(K=np.eye(6)).plot()
    assert plain.colorbar_.ax.get_ylabel() == "inner product of gradients"
    assert plain.boundaries_ == []


def test_kernel_of_unknown_outputs():
    with pytest.raises(ValueError, match="outputs must be 'all', 'random' or 'sum'; got 'full'"):
        GramMatrixDisplay.from_estimator(mlp().fit(X, y), X, outputs="full")


# ----------------------------------------------------------------------------- comparison


@pytest.fixture(scope="module")
def estimators():
    return {
        "none": mlp().fit(X, y),
        "L2": mlp(alpha=30.0).fit(X, y),
        "scikit-learn's": make_pipeline(
            StandardScaler(), neural_network.MLPClassifier((6,), max_iter=5, random_state=0)
        ).fit(X, y),
    }


@pytest.mark.parametrize(("scoring", "score_name"), [(None, "score"), ("accuracy", "accuracy")])
def test_comparison_holds_scores_and_metrics(estimators, scoring, score_name):
    display = RegularizerComparisonDisplay.from_estimators(estimators, X, y, scoring=scoring)
    assert display.names == list(estimators)
    assert display.score_name == score_name
    np.testing.assert_allclose(display.mgs, [mgs_score(e, X) for e in estimators.values()])
    expected = [accuracy_score(y, e.predict(X)) for e in estimators.values()]
    np.testing.assert_allclose(display.scores, expected)


def test_comparison_measures_on_a_draw_and_scores_on_all(estimators):
    options = {"metric": "effective_rank", "max_samples": 10, "random_state": 4}
    display = RegularizerComparisonDisplay.from_estimators(estimators, X, y, **options)
    expected = [mgs_score(e, X, **options) for e in estimators.values()]
    np.testing.assert_allclose(display.mgs, expected)
    np.testing.assert_allclose(display.scores, [e.score(X, y) for e in estimators.values()])


@pytest.mark.parametrize(
    ("metric", "scale", "side"),
    [
        ("trace", "log", "left"),
        ("effective_rank", "linear", "left"),
        ("cosine", "linear", "right"),
    ],
)
def test_comparison_draws_a_point_each(estimators, metric, scale, side):
    display = RegularizerComparisonDisplay.from_estimators(estimators, X, y, metric=metric)
    points = np.vstack([p.get_offsets() for p in display.points_])
    np.testing.assert_allclose(points, np.column_stack([display.mgs, display.scores]))
    assert texts(display.ax_) == list(estimators)
    assert display.ax_.get_xscale() == scale
    assert display.ax_.get_xlabel().endswith(f"(more similar gradients to the {side})")
    assert display.ax_.get_ylabel() == "score"
    assert_legend_beside_data(display)


def test_comparison_of_gaps(estimators):
    train, test = slice(0, 60), slice(60, 90)
    display = RegularizerComparisonDisplay.from_estimators(
        estimators, X[test], y[test], X_train=X[train], y_train=y[train], scoring="accuracy"
    )
    expected = [
        e.score(X[train], y[train]) - e.score(X[test], y[test]) for e in estimators.values()
    ]
    np.testing.assert_allclose(display.scores, expected)
    np.testing.assert_allclose(display.mgs, [mgs_score(e, X[test]) for e in estimators.values()])
    assert display.ax_.get_ylabel() == "generalisation gap in accuracy"


def test_comparison_of_several_estimators_of_a_name():
    groups = {"L2": [mlp(alpha=a).fit(X, y) for a in (0.1, 1, 10)], "none": mlp().fit(X, y)}
    display = RegularizerComparisonDisplay.from_estimators(groups, X, y)
    assert display.names == ["L2", "L2", "L2", "none"]
    expected = [mgs_score(e, X) for e in (*groups["L2"], groups["none"])]
    np.testing.assert_allclose(display.mgs, expected)
    assert [len(points.get_offsets()) for points in display.points_] == [3, 1]
    np.testing.assert_allclose(display.points_[0].get_offsets()[:, 0], expected[:3])
    assert texts(display.ax_) == ["L2", "none"]


def test_comparison_of_many_names_repeats_no_colour_and_no_pair():
    n = 30
    display = RegularizerComparisonDisplay(
        names=[str(i) for i in range(n)], mgs=np.arange(1, n + 1), scores=np.arange(n)
    ).plot()
    colours = [tuple(points.get_facecolor()[0]) for points in display.points_]
    shapes = [points.get_paths()[0].vertices.tobytes() for points in display.points_]
    assert len(set(colours[:20])) == 20
    assert len(set(zip(colours, shapes))) == n


@pytest.mark.parametrize("given", ["X_train", "y_train"])
def test_comparison_of_gaps_needs_both(estimators, given):
    missing = {"X_train": "y_train", "y_train": "X_train"}[given]
    with pytest.raises(ValueError, match=f"needs both X_train and y_train; got no {missing}"):
        RegularizerComparisonDisplay.from_estimators(estimators, X, y, **{given: X})


@pytest.mark.parametrize("estimators", [{}, [1], None])
def test_comparison_of_nothing(estimators):
    with pytest.raises(ValueError, match="estimators must be a dict of names"):
        RegularizerComparisonDisplay.from_estimators(estimators, X, y)


def test_comparison_with_one_that_is_not_fitted():
    with pytest.raises(NotFittedError, match="not fitted"):
        RegularizerComparisonDisplay.from_estimators({"none": mlp()}, X, y)


# ---------------------------------------------------------------------------- matplotlib


def test_importing_the_package_does_not_import_matplotlib():
    code = "import sys, sklearn_mgs, sklearn_mgs.inspection; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "draw",
    [
        lambda: MGSHistoryDisplay.from_estimator(None),
        lambda: MGSPathDisplay.from_search(None),
        lambda: GramMatrixDisplay.from_estimator(None, None),
        lambda: RegularizerComparisonDisplay.from_estimators(None, None, None),
        lambda: GramMatrixDisplay(K=np.eye(2)).plot(),
    ],
)
def test_missing_matplotlib(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"Display draws with matplotlib.*sklearn_mgs\[plot\]"):
        draw()
