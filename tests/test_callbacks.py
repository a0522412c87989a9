"""The monitor's columns against scores of the same networks, and where early stopping ends."""

import pickle

import numpy as np
import pytest
import sklearn
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification, make_regression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.fixes import parse_version
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback
from skorch.dataset import Dataset
from torch import nn

from sklearn_mgs import MLPClassifier, MLPRegressor
from sklearn_mgs.callbacks import MGSEarlyStopping, MGSMonitor
from sklearn_mgs.metrics import make_mgs_scorer, mgs_score

METRICS = ("trace", "logdet", "det", "effective_rank", "cosine")
X, y = make_classification(90, 5, n_informative=4, n_redundant=1, n_classes=3, random_state=0)
X32 = X.astype(np.float32)


def ours(callback=None, **kwargs):
    settings = {"hidden_layer_sizes": (6,), "max_iter": 4, "batch_size": 32, "random_state": 0}
    callbacks = None if callback is None else [("watch", callback)]
    return MLPClassifier(**settings | kwargs, callbacks=callbacks)


def skorch_net(callback=None, kind=NeuralNetClassifier, n_outputs=3, **kwargs):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, n_outputs))
    settings = {"max_epochs": 4, "verbose": 0, "train_split": None, "lr": 0.1}
    if kind is NeuralNetClassifier:
        settings["criterion"] = nn.CrossEntropyLoss
    callbacks = [] if callback is None else [("watch", callback)]
    return kind(module, callbacks=callbacks, **settings | kwargs)


def watcher(estimator):
    """The fitted callback."""
    net = getattr(estimator, "net_", estimator)
    return dict(net.callbacks_)["watch"]


def history(estimator):
    return getattr(estimator, "history_", None) or estimator.history


def parameters(estimator):
    return [p.detach().clone() for p in estimator.module_.parameters()]


FITS = {
    "ours": lambda callback: ours(callback).fit(X, y),
    "ours, sparse": lambda callback: ours(callback).fit(csr_matrix(X), y),
    "ours, lbfgs": lambda callback: ours(callback, solver="lbfgs").fit(X, y),
    "ours, regression": lambda callback: MLPRegressor(
        hidden_layer_sizes=(6,),
        max_iter=4,
        random_state=0,
        callbacks=callback and [("watch", callback)],
    ).fit(X, X[:, :2]),
    "skorch": lambda callback: skorch_net(callback).fit(X32, y),
    "skorch, shuffled": lambda callback: skorch_net(callback, iterator_train__shuffle=True).fit(
        X32, y
    ),
    "skorch, regression": lambda callback: skorch_net(callback, NeuralNetRegressor, 1).fit(
        X32, X32[:, :1]
    ),
}
fits = pytest.mark.parametrize("name", FITS)


@fits
def test_last_row_is_the_score_of_the_fitted_network(name):
    estimator = FITS[name](MGSMonitor(METRICS, X=X, max_samples=200))
    for metric in METRICS:
        column = history(estimator)[:, f"mgs_{metric}"]
        assert np.isfinite(column).all()
        assert column[-1] == pytest.approx(mgs_score(estimator, X, metric=metric), rel=1e-3)


@pytest.mark.parametrize("every", [1, 2])
def test_each_row_is_the_score_of_a_shorter_fit(every):
    column = history(ours(MGSMonitor(["trace"], X=X, every=every)).fit(X, y))[:, "mgs_trace"]
    scores = [mgs_score(ours(max_iter=epochs).fit(X, y), X) for epochs in (1, 2, 3, 4)]
    if every == 2:
        scores[1::2] = [np.nan, np.nan]
    np.testing.assert_allclose(column, scores, rtol=1e-4)


@fits
@pytest.mark.parametrize("callback", [MGSMonitor, MGSEarlyStopping])
def test_watching_changes_neither_the_network_nor_global_random_states(name, callback):
    losses, states = [], []
    for watch in (None, callback()):
        torch.manual_seed(1)
        losses.append(history(FITS[name](watch))[:, "train_loss"])
        states.append((torch.get_rng_state(), check_random_state(None).get_state()[1].copy()))
    assert losses[0] == losses[1]
    assert torch.equal(states[0][0], states[1][0])
    assert np.array_equal(states[0][1], states[1][1])


@pytest.mark.parametrize(
    ("n_samples", "max_samples", "expected"),
    [
        (90, 256, 90),
        (256, 256, 256),
        (257, 256, 26),
        (90, 16, 2),
        (90, 20, 2),
        (6000, 256, 93),
        (17000, 256, 256),
    ],
)
def test_number_of_training_samples_measured_on(n_samples, max_samples, expected):
    data = np.resize(X, (n_samples, 5)) + np.arange(n_samples)[:, None]
    target = np.resize(y, n_samples)
    samples = [
        watcher(ours(MGSMonitor(max_samples=max_samples), max_iter=1).fit(data, target)).samples_
        for _ in range(2)
    ]
    assert torch.equal(*samples)
    assert len(samples[0]) == expected
    assert len(np.unique(samples[0][:, 0])) == expected
    assert np.isin(samples[0], data.astype(samples[0].numpy().dtype)).all()


def test_samples_of_a_skorch_net_leave_out_its_validation_split():
    def halves(dataset, y):
        return [torch.utils.data.Subset(dataset, rows) for rows in (range(50), range(50, 90))]

    net = skorch_net(MGSMonitor(), train_split=halves).fit(X32, y)
    assert np.array_equal(watcher(net).samples_, X32[:50])


def test_augmentation_of_the_data_set_does_not_shift_the_random_state():
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 90

        def __getitem__(self, i):
            return torch.from_numpy(X32[i]) + torch.randn(5), int(y[i])

    losses = []
    for callback in (None, MGSMonitor(), MGSEarlyStopping()):
        torch.manual_seed(3)
        losses.append(skorch_net(callback).fit(Noisy(), None).history[:, "train_loss"])
    assert losses[0] == losses[1] == losses[2]


def test_kernel_follows_what_is_trained():
    class Freeze(Callback):
        def on_epoch_end(self, net, **kwargs):
            net.module_[0].weight.requires_grad_(len(net.history) < 2)

    net = skorch_net(MGSMonitor(["trace"], X=X32))
    net.callbacks.append(("freeze", Freeze()))
    column = net.fit(X32, y).history[:, "mgs_trace"]
    assert column[-1] == pytest.approx(mgs_score(net, X32), rel=1e-5)
    assert column[-1] < 0.6 * column[0]


def test_given_samples_are_drawn_from_when_there_are_more():
    monitor = MGSMonitor(X=X, max_samples=30).initialize()
    assert monitor.samples_.shape == (30, 5)
    assert np.isin(monitor.samples_, X).all()


def test_given_samples_may_be_a_dataset():
    columns = [
        skorch_net(MGSMonitor(["trace"], X=given, max_samples=30)).fit(X32, y).history[-1]
        for given in (X32, Dataset(X32, y))
    ]
    assert columns[0]["mgs_trace"] == columns[1]["mgs_trace"]


@pytest.mark.parametrize("make", [ours, skorch_net])
def test_verbose_table_shows_the_columns(make, capsys):
    make(MGSMonitor(), verbose=1).fit(X32, y)
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:1] == ["epoch"]
    assert {"mgs_trace", "mgs_logdet", "mgs_effective_rank"} < set(header.split())
    assert len(rows) == 5  # a rule and four epochs


def test_monitor_keeps_its_samples_through_partial_fits():
    estimator = ours(MGSMonitor(["trace"]))
    estimator.partial_fit(X[:40], y[:40], classes=[0, 1, 2])
    first = watcher(estimator).samples_
    estimator.partial_fit(X[40:], y[40:])
    assert watcher(estimator).samples_ is first
    assert history(estimator)[-1, "mgs_trace"] == pytest.approx(mgs_score(estimator, X[:40]))


@pytest.mark.parametrize("callback", [MGSMonitor(["cosine"], every=3), MGSEarlyStopping(3)])
def test_clone_and_pickle(callback):
    same = clone(callback)
    assert same.get_params() == callback.get_params()
    for estimator in (clone(ours(callback)), clone(skorch_net(callback))):
        estimator.fit(X32, y)
        again = pickle.loads(pickle.dumps(estimator))
        assert again.predict(X32).tolist() == estimator.predict(X32).tolist()


def test_grid_search_over_an_estimator_with_a_monitor():
    search = GridSearchCV(ours(MGSMonitor()), {"alpha": [0, 1]}, cv=2).fit(X, y)
    assert len(history(search.best_estimator_)[:, "mgs_trace"]) == 4


# ------------------------------------------------------------ scikit-learn's own callbacks


@pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.9"),
    reason="scikit-learn has callbacks from 1.9 on",
)
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_scoring_monitor_row_for_row(n_jobs):
    from sklearn.callback import ScoringMonitor

    scorer = make_mgs_scorer("logdet")
    monitor = ScoringMonitor(scoring={"mgs": scorer})
    pipe = make_pipeline(StandardScaler(), ours(max_iter=3).set_callbacks(monitor))
    grid = {"mlpclassifier__mgs_strength": [0.0, 1.0]}
    search = GridSearchCV(pipe, grid, cv=2, n_jobs=n_jobs).fit(X, y)
    log = monitor.get_logs(select="most_recent").data_as_pandas
    epochs = log[log["task_name"] == "epoch"]
    assert len(epochs) == 2 * 2 * 3 + 3  # candidates, folds, epochs; and the refit

    strength = search.best_params_["mlpclassifier__mgs_strength"]
    Z = StandardScaler().fit_transform(X)
    expected = [scorer(ours(max_iter=k, mgs_strength=strength).fit(Z, y), Z) for k in (1, 2, 3)]
    refit = max(epochs["parent_task_id_path"], key=lambda path: (-len(path), path))
    got = epochs[epochs["parent_task_id_path"] == refit].sort_values("task_id")["mgs"]
    np.testing.assert_allclose(got, expected, rtol=1e-4)


# ------------------------------------------------------------------------- early stopping


@fits
def test_network_ends_with_the_parameters_of_the_best_epoch(name):
    estimator = FITS[name](MGSEarlyStopping(patience=100))
    rows = history(estimator)
    column = np.array(rows[:, "mgs_agreement"])
    callback = watcher(estimator)
    assert callback.best_epoch_ == 1 + np.flatnonzero(column == column.max())[-1]
    so_far = np.maximum.accumulate(column)
    assert rows[:, "mgs_agreement_best"] == (column == so_far).tolist()
    assert not callback.stopped_


def test_parameters_are_those_of_a_fit_to_that_epoch():
    early = ours(MGSEarlyStopping(patience=2), max_iter=200, hidden_layer_sizes=(30,)).fit(X, y)
    callback = watcher(early)
    assert callback.stopped_
    assert len(history(early)) == callback.best_epoch_ + 2 < 200
    shorter = ours(max_iter=callback.best_epoch_, hidden_layer_sizes=(30,)).fit(X, y)
    for got, expected in zip(parameters(early), parameters(shorter)):
        assert torch.equal(got, expected)


def test_buffers_are_restored_too():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 3)
            self.register_buffer("batches", torch.tensor(0))

        def forward(self, x):
            self.batches += self.training
            return self.linear(x)

    net = NeuralNetClassifier(
        Counter,
        criterion=nn.CrossEntropyLoss,
        callbacks=[("watch", MGSEarlyStopping(patience=2))],
        train_split=None,
        batch_size=90,
        max_epochs=200,
        verbose=0,
    ).fit(X32, y)
    assert watcher(net).stopped_
    assert net.module_.batches == watcher(net).best_epoch_ < len(net.history)


def test_patience_counts_epochs_not_measures():
    early = ours(MGSEarlyStopping(patience=4, every=3), max_iter=200, hidden_layer_sizes=(30,))
    rows = history(early.fit(X, y))
    measured = np.isfinite(rows[:, "mgs_agreement"])
    assert measured.tolist() == [i % 3 == 0 for i in range(len(rows))]
    assert len(rows) == watcher(early).best_epoch_ + 4


def test_partial_fits_are_not_undone():
    watched, plain = ours(MGSEarlyStopping(patience=1)), ours()
    for _ in range(5):
        for estimator in (watched, plain):
            estimator.partial_fit(X, y, classes=[0, 1, 2])
    for got, expected in zip(parameters(watched), parameters(plain)):
        assert torch.equal(got, expected)


def test_binary_skorch_net_and_ours_measure_the_same():
    target = (y > 0).astype(np.float32)
    net = skorch_net(MGSEarlyStopping(), NeuralNetBinaryClassifier, 1).fit(X32, target)
    same = ours(max_iter=1, dtype="float32").fit(X32, target)
    same.coefs_ = [m.weight.detach().numpy().T for m in (net.module_[0], net.module_[3])]
    same.intercepts_ = [m.bias.detach().numpy() for m in (net.module_[0], net.module_[3])]
    values = []
    for estimator, labels in ((net, target), (same, target[:, None])):
        callback = MGSEarlyStopping()
        callback.on_train_begin(None)
        callback.samples_ = torch.from_numpy(X32), torch.from_numpy(labels)
        values.append(callback._measure(getattr(estimator, "net_", estimator)))
    assert values[0] == values[1]


def test_message_when_verbose(capsys):
    ours(MGSEarlyStopping(patience=2), max_iter=200, hidden_layer_sizes=(30,), verbose=1).fit(X, y)
    assert "Stopping: mgs_agreement was greatest in epoch" in capsys.readouterr().out


def noisy_digits():
    data, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data))
    data, labels = data[order].astype(np.float32) / 16, labels[order]
    redrawn = np.where(rng.random(700) < 0.6, rng.integers(10, size=700), labels[:700])
    return data[:700], redrawn, data[700:], labels[700:]


def test_it_stops_before_noisy_digits_are_memorised():
    data, redrawn, X_test, y_test = noisy_digits()
    settings = {"hidden_layer_sizes": (128,), "batch_size": 32, "max_iter": 60}
    memorised = ours(**settings).fit(data, redrawn)
    stopped = ours(MGSEarlyStopping(), **settings).fit(data, redrawn)
    assert watcher(stopped).stopped_
    assert stopped.score(X_test, y_test) > memorised.score(X_test, y_test) + 0.05


def test_it_stops_a_noisy_regression():
    data, target = make_regression(300, 5, noise=0.0, random_state=0)
    target = (target / target.std()).astype(np.float32)
    rng = np.random.default_rng(0)
    noisy = target[:150] + rng.normal(size=150).astype(np.float32)
    settings = {"hidden_layer_sizes": (100, 100), "max_iter": 150, "random_state": 0}
    errors = []
    for callbacks in ([], [("watch", MGSEarlyStopping())]):
        net = MLPRegressor(batch_size=16, callbacks=callbacks, **settings).fit(data[:150], noisy)
        errors.append(np.mean((net.predict(data[150:]) - target[150:]) ** 2))
    assert errors[1] < errors[0]


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("callback", "match"),
    [
        (MGSMonitor(["rank"]), r"Unknown metrics \['rank'\]; expected some of \['trace'"),
        (MGSMonitor("trace"), "metrics must be a sequence of names; got 'trace'"),
        (MGSMonitor(None), "metrics must be a sequence of names; got None"),
        (MGSMonitor(max_samples=0), "max_samples must be an integer of at least 1; got 0"),
        (MGSMonitor(every=1.5), "every must be an integer of at least 1; got 1.5"),
        (MGSEarlyStopping(patience=0), "patience must be an integer of at least 1; got 0"),
        (MGSEarlyStopping(max_samples="all"), "max_samples must be an integer"),
        (MGSEarlyStopping(ridge=0.0), "ridge must be a number above 0; got 0.0"),
        (MGSEarlyStopping(ridge=None), "ridge must be a number above 0; got None"),
    ],
)
@pytest.mark.parametrize("make", [ours, skorch_net])
def test_bad_parameters_are_refused_before_training(make, callback, match):
    with pytest.raises(ValueError, match=match):
        make(callback).fit(X32, y)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (np.where(X < 0, np.nan, X), "Input X contains NaN"),
        (
            X[:, :2],
            r"can't take MGSMonitor's X of shape \(\d+, 2\).*after a pipeline's other steps",
        ),
        (X.astype(str), "one array of numbers, got ndarray of dtype <U"),
    ],
    ids=["nan", "features", "strings"],
)
@pytest.mark.parametrize("make", [ours, skorch_net])
def test_samples_that_do_not_fit_are_refused_before_training(make, given, match):
    estimator = make(MGSMonitor(X=given))
    with pytest.raises((ValueError, TypeError), match=match):
        estimator.fit(X32, y)
    assert not (estimator if make is skorch_net else estimator.net_).history


def test_network_of_several_inputs():
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 3)

        def forward(self, a, b):
            return self.linear(a + b)

    net = NeuralNetClassifier(TwoInputs, callbacks=[MGSMonitor()], train_split=None, verbose=0)
    with pytest.raises(TypeError, match="takes a dict of inputs"):
        net.fit({"a": X32, "b": X32}, y)


def test_stopping_a_network_of_several_classes_for_each_sample():
    module = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 3, 1))
    settings = {"criterion": nn.CrossEntropyLoss, "train_split": None, "verbose": 0}
    net = NeuralNetClassifier(module, callbacks=[MGSEarlyStopping()], **settings)
    with pytest.raises(ValueError, match=r"targets of shape \(\d+, 5\) for outputs of shape"):
        net.fit(X32, np.tile(y[:, None], 5))


def test_a_monitor_takes_the_integers_that_fit_takes():
    counts = np.arange(len(X) * X.shape[1]).reshape(X.shape) % 7
    columns = [
        history(ours(MGSMonitor(["trace"], X=given)).fit(counts, y))[:, "mgs_trace"]
        for given in (counts, counts.astype(float))
    ]
    assert columns[0] == columns[1]
    with pytest.raises(ValueError, match="MGSMonitor's X has no samples"):
        ours(MGSMonitor(["trace"], X=counts[:0])).fit(counts, y)
