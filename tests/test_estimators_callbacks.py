"""Callbacks of skorch (the parameter) and of scikit-learn 1.9 (set_callbacks)."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    GradientNormClipping,
    LRScheduler,
)

from sklearn_mgs import MGSMonitor, MLPClassifier, MLPRegressor

SMALL = {"hidden_layer_sizes": (5,), "max_iter": 6, "batch_size": 16, "random_state": 0}


def classifier(*callbacks, **parameters):
    return MLPClassifier(**{**SMALL, **parameters}, callbacks=list(callbacks))


def rate(estimator):
    return estimator.net_.optimizer_.param_groups[0]["lr"]


class Recorder(Callback):
    """Writes down what it is told."""

    def initialize(self):
        self.told_ = []
        return self

    def on_train_begin(self, net, **kwargs):
        self.told_.append("train begin")

    def on_train_end(self, net, **kwargs):
        self.told_.append("train end")

    def on_epoch_end(self, net, dataset_train=None, **kwargs):
        self.told_.append(("epoch", len(dataset_train), net.history[-1, "train_loss"]))

    def on_batch_end(self, net, batch=None, training=None, loss=None, y_pred=None, **kwargs):
        X, y = batch
        assert len(X) == len(y) == len(y_pred)
        assert training
        self.told_.append(("batch", len(X), float(loss)))

    def on_grad_computed(self, net, named_parameters, **kwargs):
        assert all(p.grad is not None and p.grad.shape == p.shape for _, p in named_parameters)
        self.told_.append(("gradients", [name for name, _ in named_parameters]))


@pytest.mark.parametrize("parameters", [{}, {"mgs_strength": 0.1}, {"dropout": 0.1}], ids=str)
def test_a_callback_is_told_of_everything(blobs, parameters):
    clf = classifier(Recorder(), max_iter=2, alpha=0.0, **parameters).fit(*blobs)
    told = dict(clf.net_.callbacks_)["Recorder"].told_
    assert told[0], told[-1] == ("train begin", "train end")
    kinds = [entry[0] for entry in told[1:-1]]
    assert kinds == 2 * (3 * ["gradients", "batch"] + ["epoch"])
    names = ["linear0.weight", "linear0.bias", "linear1.weight", "linear1.bias"]
    assert told[1][1] == names
    sizes, losses = zip(*(entry[1:] for entry in told[1:7] if entry[0] == "batch"))
    assert sizes == (16, 16, 8)
    np.testing.assert_allclose(np.average(losses, weights=sizes), clf.loss_curve_[0])
    assert told[7][1:] == (40, clf.history_[0, "train_loss"])


def test_watching_changes_nothing(blobs):
    watched = classifier(Recorder(), mgs_strength=0.1).fit(*blobs)
    alone = classifier(mgs_strength=0.1).fit(*blobs)
    np.testing.assert_array_equal(watched.coefs_[0], alone.coefs_[0])
    assert watched.loss_curve_ == alone.loss_curve_


def test_the_users_own_callbacks_are_left_alone(blobs):
    recorder = Recorder()
    clf = classifier(recorder, ("named", Recorder()), Recorder).fit(*blobs)
    assert not hasattr(recorder, "told_")
    assert {"named", "Recorder_1", "Recorder_2"} <= {name for name, _ in clf.net_.callbacks_}
    assert clone(clf).fit(*blobs).n_iter_ == clf.n_iter_


def test_callbacks_see_the_iterations_of_lbfgs(blobs):
    clf = classifier(Recorder(), solver="lbfgs").fit(*blobs)
    told = dict(clf.net_.callbacks_)["Recorder"].told_
    assert [entry[0] for entry in told[1:-1]] == clf.n_iter_ * ["epoch"]
    assert told[-2][2] < told[1][2]


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_early_stopping_by_any_column(blobs, solver):
    stop = EarlyStopping(monitor="train_loss", patience=2, threshold=10, threshold_mode="abs")
    clf = classifier(stop, solver=solver, max_iter=100, warm_start=True)
    for _ in range(2):
        assert clf.fit(*blobs).n_iter_ == 3


def test_early_stopping_by_the_validation_score(blobs):
    stop = EarlyStopping(monitor="valid_score", lower_is_better=False, patience=2, threshold=2.0)
    stop.threshold_mode = "abs"
    clf = classifier(stop, early_stopping=True, max_iter=100).fit(*blobs)
    assert clf.n_iter_ == 3
    assert clf.best_validation_score_ == max(clf.validation_scores_)


@pytest.mark.parametrize("use_caching", [True, False])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "strings"])
def test_epoch_scoring_of_classes(blobs, labels, kind, use_caching):
    X, y = blobs[0], labels[kind]
    scoring = EpochScoring("accuracy", on_train=True, name="accuracy", use_caching=use_caching)
    frozen = {"learning_rate_init": 1e-300, "shuffle": False}
    clf = classifier(scoring, **frozen).fit(X, y)
    assert clf.history_[:, "accuracy"] == 6 * [clf.score(X, y)]
    np.testing.assert_allclose(
        np.reshape(clf.net_.predict_proba(X), (len(X), -1)),
        clf.predict_proba(X)[:, 1:] if kind == "binary" else clf.predict_proba(X),
    )


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_epoch_scoring_of_numbers(blobs, loss):
    X = blobs[0]
    y = X[:, 0] ** 2
    scoring = EpochScoring("r2", on_train=True, name="r2")
    reg = MLPRegressor(loss, **SMALL, learning_rate_init=1e-300, shuffle=False)
    reg.set_params(callbacks=[scoring]).fit(X, y)
    np.testing.assert_allclose(reg.history_[:, "r2"], reg.score(X, y))


def test_batch_scoring(blobs):
    clf = classifier(BatchScoring("accuracy", on_train=True, name="per_batch"))
    clf.set_params(learning_rate_init=1e-300).fit(*blobs)
    np.testing.assert_allclose(clf.history_[:, "per_batch"], clf.score(*blobs))


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_learning_rate_schedules(blobs, solver):
    schedule = LRScheduler("StepLR", step_size=2, gamma=0.5)
    clf = classifier(schedule, solver=solver, warm_start=True).fit(*blobs)
    np.testing.assert_allclose(rate(clf), 0.001 / 2**3)
    again = pickle.loads(pickle.dumps(clf))
    rates = [rate(est.partial_fit(*blobs).partial_fit(*blobs)) for est in (clf, again)]
    assert rates[0] == rates[1] < 0.001 / 2**3
    assert 0 < rate(clf.fit(*blobs)) < 0.001


def test_a_plateau_lowers_the_rate(blobs):
    schedule = LRScheduler(
        "ReduceLROnPlateau", monitor="train_loss", patience=0, threshold=10, threshold_mode="abs"
    )
    np.testing.assert_allclose(rate(classifier(schedule).fit(*blobs)), 0.001 * 0.1**5)


def test_clipped_gradients(blobs):
    clip = GradientNormClipping(1e-9)
    options = {"solver": "sgd", "momentum": 0.0, "max_iter": 2, "alpha": 0.0}
    clf = classifier(clip, learning_rate_init=1.0, **options).fit(*blobs)
    start = classifier(learning_rate_init=1e-300, **options).fit(*blobs)
    steps = [a - b for a, b in zip(clf.coefs_, start.coefs_)]
    assert 0 < max(np.abs(step).max() for step in steps) < 1e-8


def test_checkpoints(blobs, tmp_path):
    kept = Checkpoint(monitor=None, dirname=tmp_path, f_criterion=None)
    classifier(kept, max_iter=2).fit(*blobs)
    assert {file.name for file in tmp_path.iterdir()} >= {"params.pt", "optimizer.pt"}


def test_an_interrupt_ends_the_training_quietly(blobs):
    class Interrupt(Callback):
        def on_batch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted"):
        clf = classifier(Interrupt()).fit(*blobs)
    assert clf.predict(blobs[0]).shape == (40,)


def test_an_error_in_a_callback_reaches_the_user(blobs):
    class Broken(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise RuntimeError("broken callback")

    clf = classifier(Broken())
    with pytest.raises(RuntimeError, match="broken callback"):
        clf.fit(*blobs)
    assert not clf.module_.training


def test_a_warm_start_has_callbacks_of_its_own(blobs, capsys):
    clf = classifier(warm_start=True).fit(*blobs)
    clf.set_params(callbacks=[MGSMonitor(["trace"])], verbose=True).fit(*blobs)
    assert "mgs_trace" in clf.history_[-1]
    assert "mgs_trace" not in clf.history_[0]
    assert capsys.readouterr().out.count("mgs_trace") == 1
    clf.set_params(callbacks=None, verbose=False).fit(*blobs)
    assert "mgs_trace" not in clf.history_[-1]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("callbacks", [[3], ["EarlyStopping"], [("name", 3)], [(Recorder(),)]])
def test_only_callbacks(blobs, callbacks):
    with pytest.raises(TypeError, match=r"list of skorch callbacks.*got"):
        classifier(*callbacks).fit(*blobs)


def test_verbose_prints_a_row_per_epoch(blobs, capsys):
    classifier(verbose=True, max_iter=3, mgs_strength=0.1, early_stopping=True).fit(*blobs)
    head, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert head.split() == ["epoch", "l2", "mgs_penalty", "train_loss", "valid_score", "dur"]
    assert len(rows) == 3
    classifier(max_iter=3).fit(*blobs)
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------- scikit-learn's own

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has them since 1.9")


def watched(estimator, *callbacks):
    estimator.set_callbacks(*callbacks)
    return estimator


@pytest.mark.parametrize(
    "parameters",
    [{}, {"mgs_strength": 0.1}, {"solver": "lbfgs"}, {"max_iter": 60, "tol": 0.5}],
    ids=str,
)
def test_monitor_has_a_row_per_epoch_and_one_for_the_fit(blobs, parameters):
    monitor = callback.ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    clf = watched(classifier(**parameters), monitor).fit(*blobs)
    fit, *epochs = monitor.get_logs().data
    assert fit["task_name"] == "fit"
    assert [row["task_name"] for row in epochs] == clf.n_iter_ * ["epoch"]
    assert fit["accuracy"] == epochs[-1]["accuracy"] == clf.score(*blobs)
    assert fit["neg_log_loss"] == epochs[-1]["neg_log_loss"] > epochs[0]["neg_log_loss"]
    plain = classifier(**parameters).fit(*blobs)
    np.testing.assert_array_equal(plain.coefs_[0], clf.coefs_[0])


def test_monitor_of_each_epoch_is_that_of_a_shorter_fit(blobs):
    monitor = callback.ScoringMonitor(scoring="neg_log_loss")
    watched(classifier(), monitor).fit(*blobs)
    _, *epochs = monitor.get_logs().data
    for n, row in enumerate(epochs, 1):
        shorter = callback.ScoringMonitor(scoring="neg_log_loss")
        watched(classifier(max_iter=n), shorter).fit(*blobs)
        assert shorter.get_logs().data[0]["neg_log_loss"] == row["neg_log_loss"]


def test_monitor_gets_the_weights_and_the_regressor_is_watched_too(line):
    weight = np.linspace(0.1, 3, 40)
    monitor = callback.ScoringMonitor(scoring="r2")
    reg = watched(MLPRegressor(**SMALL), monitor).fit(*line, sample_weight=weight)
    assert monitor.get_logs().data[0]["r2"] == reg.score(*line, weight)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_monitor_in_a_search_has_rows_per_epoch_and_fold(blobs, n_jobs):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    pipeline = make_pipeline(StandardScaler(), watched(classifier(max_iter=3), monitor))
    grid = {"mlpclassifier__mgs_strength": [0.0, 0.1]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=n_jobs).fit(*blobs)
    fits = 2 * 2 + 1
    rows = monitor.get_logs().data
    assert sum(row["task_name"] == "epoch" for row in rows) == fits * 3
    assert search.best_estimator_[-1].n_iter_ == 3


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_progress_bar_of_a_search(blobs, n_jobs, capfd):
    pytest.importorskip("rich")
    search = GridSearchCV(classifier(max_iter=2), {"alpha": [0, 1]}, cv=2, n_jobs=n_jobs)
    watched(search, callback.ProgressBar()).fit(*blobs)
    assert "MLPClassifier" in capfd.readouterr().out


def test_callbacks_leave_no_traces(blobs):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    clf = watched(classifier(), monitor)
    clf.fit(*blobs).partial_fit(*blobs)
    assert not [name for name in vars(clf) if "callback" in name and "skl" not in name][1:]
    assert not hasattr(clf, "_callback_fit_ctx")
    assert {name for name, _ in clf.net_.callbacks_} == {"epoch_timer"}
    n_rows = len(monitor.get_logs().data)
    with pytest.raises(ValueError, match="NaN"):
        clf.fit(np.full((4, 5), np.nan), [0, 1, 2, 0])
    assert len(monitor.get_logs().data) == n_rows
    assert not hasattr(clf, "_callback_fit_ctx")
    assert pickle.loads(pickle.dumps(clf)).score(*blobs) == clf.score(*blobs)


def test_a_callback_may_stop_the_training(blobs):
    class StopAfterTwo:
        def setup(self, estimator, context):
            self.ended = 0

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context):
            self.ended += 1
            return self.ended == 2

    assert watched(classifier(), StopAfterTwo()).fit(*blobs).n_iter_ == 2
