"""The picture of one segment."""

import ast
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetRegressor
from torch import nn

from sklearn_mgs import straightness
from sklearn_mgs.straightness import SegmentDisplay, path_kinks


@pytest.fixture
def pyplot():
    mpl.use("Agg")
    plt = pytest.importorskip("matplotlib.pyplot")
    yield plt
    plt.close("all")


@pytest.fixture(scope="module")
def data():
    X = np.random.default_rng(0).normal(size=(60, 4))
    return X, X[:, :2] * X[:, 2:]


@pytest.fixture(params=["relu", "tanh"])
def mlp(request, data):
    kwargs = {"hidden_layer_sizes": (20,), "max_iter": 30, "random_state": 0}
    return MLPRegressor(activation=request.param, **kwargs).fit(*data)


def test_lines_are_the_predictions(pyplot, mlp, data):
    x_a, x_b = data[0][:2]
    display = SegmentDisplay.from_estimator(mlp, x_a, x_b)
    points = x_a + display.t[:, None] * (x_b - x_a)
    np.testing.assert_allclose(display.outputs, mlp.predict(points), rtol=1e-9, atol=1e-12)
    assert len(display.lines_) == len(display.chord_lines_) == 2
    for i in range(2):
        x, y = display.lines_[i].get_data()
        assert (x[0], x[-1]) == (0, 1)
        np.testing.assert_array_equal(y, display.outputs[:, i])
        np.testing.assert_array_equal(display.chord_lines_[i].get_ydata(), y[[0, -1]])


def test_kinks(pyplot, mlp, data):
    display = SegmentDisplay.from_estimator(mlp, *data[0][:2])
    assert len(display.kinks) == path_kinks(mlp, data[0][:2], n_pairs=1)
    if mlp.activation == "tanh":
        assert display.kink_marks_ is None
        assert len(display.t) == 200
    else:
        assert len(display.kinks) > 2
        np.testing.assert_array_equal(display.t[1:-1], display.kinks)
        np.testing.assert_array_equal(display.kink_marks_.get_xdata(), display.kinks)


def test_kinks_are_marked_on_smooth_outputs(pyplot, data):
    torch.manual_seed(0)
    layers = nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 3), nn.Softmax(1)
    net = NeuralNetRegressor(partial(nn.Sequential, *layers), verbose=0).initialize()
    X = data[0][:2].astype("float32")
    display = SegmentDisplay.from_estimator(net, *X, n_points=50)
    assert len(display.t) == len(display.outputs) == 50
    assert len(display.kinks) == path_kinks(net, X, n_pairs=1) > 2
    np.testing.assert_array_equal(display.kink_marks_.get_xdata(), display.kinks)


def test_axes_and_legend(pyplot, mlp, data):
    display = SegmentDisplay.from_estimator(mlp, *data[0][:2])
    assert display.figure_ is display.ax_.figure
    assert display.ax_.get_xlabel().startswith("t ")
    assert display.ax_.get_ylabel() == "network output"
    legend = display.ax_.get_legend()
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[:3] == ["output 0", "output 1", "chord"]
    assert labels[3:] == ([f"kinks ({len(display.kinks)})"] if len(display.kinks) else [])
    display.figure_.draw_without_rendering()
    axes, beside = display.ax_.get_window_extent(), legend.get_window_extent()
    assert beside.x0 >= axes.x1
    assert beside.x1 <= display.figure_.bbox.x1


def test_plot_again_on_given_axes(pyplot, mlp, data):
    display = SegmentDisplay.from_estimator(mlp, *data[0][:2])
    _, ax = pyplot.subplots()
    assert display.plot(ax=ax, linewidth=3) is display
    assert display.ax_ is ax
    assert all(line.get_linewidth() == 3 for line in display.lines_)
    given = SegmentDisplay.from_estimator(mlp, *data[0][:2], ax=ax, color="red", n_points=7)
    assert given.lines_[0].get_color() == "red"
    assert mlp.activation == "relu" or len(given.t) == 7


def test_series_keep_their_names(pyplot, data):
    X = pd.DataFrame(data[0], columns=list("abcd"))
    scaler = make_column_transformer((StandardScaler(), ["d", "a"]))
    pipe = make_pipeline(scaler, MLPClassifier((9,), max_iter=9, random_state=0))
    pipe.fit(X, data[1][:, 0] > 0)
    display = SegmentDisplay.from_estimator(pipe, X.iloc[0], X.iloc[1])
    assert display.outputs.shape == (len(display.kinks) + 2, 1)


def test_bad_samples(pyplot, mlp):
    with pytest.raises(ValueError, match="NaN"):
        SegmentDisplay.from_estimator(mlp, np.zeros(4), np.full(4, np.nan))
    with pytest.raises(ValueError, match="3 features"):
        SegmentDisplay.from_estimator(mlp, np.zeros(3), np.ones(3))


def test_matplotlib_is_imported_only_to_draw():
    for file in Path(straightness.__file__).parent.glob("*.py"):
        at_import = ast.parse(file.read_text()).body
        names = [ast.unparse(x) for x in at_import if isinstance(x, ast.Import | ast.ImportFrom)]
        assert not any("matplotlib" in name for name in names)
