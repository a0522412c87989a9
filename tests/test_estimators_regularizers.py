"""Each regulariser against its formula: SGD steps taken by hand, by autograd."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch.nn import functional as F

from sklearn_mgs import MLPClassifier, MLPRegressor
from sklearn_mgs.gram import gram_matrix, gram_trace, mgs_metric

RATE = 0.3
STEPS = 2
BY_HAND = {
    "solver": "sgd",
    "momentum": 0.0,
    "learning_rate_init": RATE,
    "max_iter": STEPS,
    "batch_size": 40,
    "shuffle": False,
    "hidden_layer_sizes": (6, 4),
    "activation": "tanh",
    "random_state": 1,
    "alpha": 0.0,
}


def classifier(**parameters):
    return MLPClassifier(**{**BY_HAND, **parameters})


def regressor(**parameters):
    return MLPRegressor(**{**BY_HAND, **parameters})


def start(estimator, X, y, **fit):
    """The network before the first step."""
    frozen = clone(estimator).set_params(learning_rate_init=1e-300, max_iter=1)
    return frozen.fit(X, y, **fit).module_


def tensors(X, y):
    return torch.tensor(X), torch.tensor(y)


def descend(module, objective, steps=STEPS):
    """Plain gradient descent on a function of the module."""
    for _ in range(steps):
        parameters = list(module.parameters())
        gradients = torch.autograd.grad(objective(module), parameters, materialize_grads=True)
        with torch.no_grad():
            for p, g in zip(parameters, gradients):
                p -= RATE * g
    return module


def assert_same_parameters(estimator, module, atol=1e-10):
    for a, b in zip(estimator.module_.parameters(), module.parameters()):
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=0, atol=atol)


def weights(module):
    return [p for p in module.parameters() if p.ndim > 1]


def fixed_layers(module, X, layers, **options):
    """Balanced layers as constants: each over its trace per sample, averaged."""
    if layers != "balanced":
        return layers
    names = [name for name, _ in module.named_children() if name.startswith("linear")]
    trace = {
        name: float(gram_trace(module, X, layers={name: 1.0}, **options).detach()) / len(X)
        for name in names
    }
    return {name: 1 / (len(names) * trace[name]) for name in names}


# --------------------------------------------------------------------- the MGS penalty


@pytest.mark.parametrize("centered", [False, True, "class"])
@pytest.mark.parametrize("layers", ["all", "hidden", "first", "balanced"])
@pytest.mark.parametrize("outputs", ["target", "all", "sum"])
@pytest.mark.parametrize("metric", ["trace", "det"])
def test_mgs_penalty_of_a_classifier(blobs, metric, outputs, layers, centered):
    clf = classifier(
        mgs_strength=0.7,
        mgs_metric=metric,
        mgs_outputs=outputs,
        mgs_layers=layers,
        mgs_centered=centered,
        alpha=0.5,
    )
    X, y = tensors(*blobs)
    module = start(clf, *blobs)
    layers = fixed_layers(module, X, layers, outputs=outputs, targets=y)

    def m(module):
        K = gram_matrix(
            module,
            X,
            outputs=outputs,
            targets=y,
            layers=layers,
            centered=centered,
            implementation="jacobian",
        )
        return mgs_metric(K, metric)

    unit = m(module).detach()

    def objective(module):
        l2 = 0.5 / (2 * len(X)) * sum(w.square().sum() for w in weights(module))
        return F.cross_entropy(module(X), y) + l2 + 0.7 * m(module) / unit

    assert_same_parameters(clf.fit(*blobs), descend(module, objective))
    np.testing.assert_allclose(clf.history_[0, "mgs_penalty"], 0.7, rtol=1e-12)


@pytest.mark.parametrize("kind", ["binary", "multilabel", "regression"])
@pytest.mark.parametrize("outputs", ["all", "sum"])
@pytest.mark.parametrize("metric", ["trace", "det"])
def test_mgs_penalty_of_other_targets(blobs, labels, metric, outputs, kind):
    X = blobs[0]
    y = X[:, :2] ** 2 if kind == "regression" else labels[kind]
    make = regressor if kind == "regression" else classifier
    est = make(mgs_strength=0.4, mgs_metric=metric, mgs_outputs=outputs, mgs_layers="all")
    module = start(est, X, y)
    X_, y_ = tensors(X, y.reshape(len(y), -1).astype(float))

    def m(module):
        return mgs_metric(gram_matrix(module, X_, outputs=outputs), metric)

    unit = m(module).detach()

    def objective(module):
        f = module(X_)
        if kind == "regression":
            loss = (f - y_).square().sum(1).mean() / 2
        else:
            loss = F.binary_cross_entropy_with_logits(f, y_, reduction="none").sum(1).mean()
        return loss + 0.4 * m(module) / unit

    assert_same_parameters(est.fit(X, y), descend(module, objective))


def test_target_of_a_binary_classifier_is_the_signed_logit(blobs, labels):
    X, y = blobs[0], labels["binary"]
    clf = classifier(mgs_strength=0.4, mgs_outputs="target", mgs_layers="all", mgs_centered=True)
    module = start(clf, X, y)
    X_, y_ = tensors(X, y)
    sign = (2.0 * y_ - 1)[:, None].double()

    def m(module):
        K = gram_matrix(module, X_) * sign * sign.T
        H = torch.eye(len(X_)).double() - 1 / len(X_)
        return mgs_metric(H @ K @ H)

    unit = m(module).detach()

    def objective(module):
        loss = F.binary_cross_entropy_with_logits(module(X_)[:, 0], y_.double())
        return loss + 0.4 * m(module) / unit

    assert_same_parameters(clf.fit(X, y), descend(module, objective))


@pytest.mark.parametrize("metric", ["trace", "det"])
def test_mgs_batch_size_takes_the_first_samples(blobs, metric):
    clf = classifier(mgs_strength=0.5, mgs_metric=metric, mgs_layers="all", mgs_batch_size=6)
    module = start(clf, *blobs)
    X, y = tensors(*blobs)

    def m(module, n):
        return mgs_metric(gram_matrix(module, X[:n], outputs="target", targets=y[:n]), metric)

    unit = m(module, len(X)).detach()

    def objective(module):
        return F.cross_entropy(module(X), y) + 0.5 * m(module, 6) / unit

    assert_same_parameters(clf.fit(*blobs), descend(module, objective))


@pytest.mark.parametrize(
    ("kind", "solver", "meant"),
    [
        ("multiclass", "adam", "target"),
        ("binary", "adam", "target"),
        ("multilabel", "adam", "random"),
        ("multilabel", "lbfgs", "all"),
        ("one output", "adam", "all"),
        ("two outputs", "adam", "random"),
        ("two outputs", "lbfgs", "all"),
    ],
)
def test_what_auto_outputs_mean(blobs, labels, kind, solver, meant):
    X = blobs[0]
    y = {"one output": X[:, 0], "two outputs": X[:, :2], **labels}[kind]
    make = regressor if "output" in kind else classifier
    fitted = [
        make(mgs_strength=0.3, mgs_centered=True, mgs_outputs=outputs, solver=solver).fit(X, y)
        for outputs in ("auto", meant)
    ]
    assert_same_parameters(fitted[0], fitted[1].module_, atol=0)


def test_no_strength_no_penalty(blobs):
    plain = classifier().fit(*blobs)
    assert plain.net_.criterion_.penalty is None
    assert "mgs_penalty" not in plain.history_[0]
    off = classifier(mgs_strength=0.0, mgs_metric="det", mgs_centered="class").fit(*blobs)
    assert off.net_.criterion_.penalty is None
    assert_same_parameters(off, plain.module_, atol=0)


def test_lbfgs_ends_where_the_whole_objective_is_stationary(blobs):
    clf = classifier(
        solver="lbfgs",
        hidden_layer_sizes=(3,),
        mgs_strength=0.3,
        mgs_layers="all",
        jacobian_strength=0.02,
        gradient_strength=0.1,
        alpha=2.0,
        max_iter=2000,
        tol=1e-9,
    )
    X, y = tensors(*blobs)
    unit = mgs_metric(
        gram_matrix(start(clf.set_params(solver="sgd"), *blobs), X, outputs="target", targets=y)
    ).detach()
    module = clf.set_params(solver="lbfgs").fit(*blobs).module_
    loss = F.cross_entropy(module(X), y)
    parameters = list(module.parameters())
    J = torch.func.vmap(torch.func.jacrev(lambda x: module(x[None])[0]))(X)
    steps = torch.autograd.grad(loss, parameters, create_graph=True)
    total = (
        loss
        + 2.0 / (2 * len(X)) * sum(w.square().sum() for w in weights(module))
        + 0.3 * mgs_metric(gram_matrix(module, X, outputs="target", targets=y)) / unit
        + 0.02 * J.square().sum((1, 2)).mean()
        + 0.1 * sum(g.square().sum() for g in steps)
    )
    at_the_end = torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])
    assert at_the_end.abs().max() < 1e-5


# ----------------------------------------------------------------- weights: L2 and L1


def soft(w, threshold):
    return w.sign() * (w.abs() - threshold).clamp(min=0)


@pytest.mark.parametrize("l1", [0.0, 2.0])
@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_l2_is_a_gradient_and_l1_a_proximal_step(blobs, alpha, l1):
    clf = classifier(alpha=alpha, l1=l1, max_iter=1)
    module = start(clf, *blobs)
    X, y = tensors(*blobs)
    n = len(X)

    def objective(module):
        l2 = alpha / (2 * n) * sum(w.square().sum() for w in weights(module))
        return F.cross_entropy(module(X), y) + l2

    descend(module, objective, steps=1)
    with torch.no_grad():
        for w in weights(module):
            w.copy_(soft(w, RATE * l1 / n))
    assert_same_parameters(clf.fit(*blobs), module, atol=1e-14)


def test_l1_makes_weights_exactly_zero_and_compresses(blobs):
    clf = classifier(l1=4.0, max_iter=60).fit(*blobs)
    zeros = sum(int((c == 0).sum()) for c in clf.coefs_)
    parameters = sum(c.size for c in clf.coefs_ + clf.intercepts_)
    assert zeros > 10
    assert clf.compression_ratio_ == parameters / (parameters - zeros)
    assert all((b != 0).all() for b in clf.intercepts_)
    assert classifier().fit(*blobs).compression_ratio_ == 1


# --------------------------------------------------------------------- noise, by average


def average_loss(estimator, X, y, epochs=100):
    """Mean training loss at frozen weights: the expectation over the noise."""
    frozen = clone(estimator).set_params(
        learning_rate_init=1e-300, max_iter=epochs, n_iter_no_change=epochs, batch_size=4000
    )
    return np.mean(frozen.fit(np.tile(X, (100, 1)), np.tile(y, 100)).loss_curve_)


def test_dropout_has_its_mean_and_variance(line):
    X, y = line
    p = 0.3
    reg = regressor(activation="identity", hidden_layer_sizes=(8,), dropout=p)
    module = start(reg, X, y)
    X_, y_ = tensors(X, y)
    with torch.no_grad():
        hidden = module[0](X_)
        output = module[-1]
        bias = (output(hidden)[:, 0] - y_).square().mean() / 2
        terms = (hidden * output.weight[0]).square().sum(1)
        variance = p / (1 - p) * terms.mean() / 2
    np.testing.assert_allclose(average_loss(reg, X, y), bias + variance, rtol=5e-3)
    assert variance > 0.1 * bias  # else there is nothing to see


def test_input_noise_has_its_variance(line):
    X, y = line
    reg = regressor(hidden_layer_sizes=(), input_noise=0.8)
    module = start(reg, X, y)
    X_, y_ = tensors(X, y)
    with torch.no_grad():
        bias = (module(X_)[:, 0] - y_).square().mean() / 2
        variance = 0.8**2 * module[0].weight.square().sum() / 2
    np.testing.assert_allclose(average_loss(reg, X, y), bias + variance, rtol=5e-3)
    assert variance > 0.1 * bias


@pytest.mark.parametrize("parameter", [{"dropout": 0.5}, {"input_noise": 2.0}])
def test_noise_is_off_when_predicting(blobs, parameter):
    X = blobs[0]
    clf = classifier(**parameter).fit(*blobs)
    hidden = X
    for coef, intercept in zip(clf.coefs_[:-1], clf.intercepts_[:-1]):
        hidden = np.tanh(hidden @ coef + intercept)
    logits = hidden @ clf.coefs_[-1] + clf.intercepts_[-1]
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-12)
    np.testing.assert_array_equal(clf.predict_proba(X), clf.predict_proba(X))


def test_noise_differs_between_epochs_and_between_calls_of_partial_fit(line):
    X, y = line
    reg = regressor(input_noise=1.0, learning_rate_init=1e-300)
    assert len(set(reg.set_params(max_iter=4).fit(X, y).loss_curve_)) == 4
    reg = clone(reg)
    losses = {reg.partial_fit(X, y).loss_ for _ in range(4)}
    assert len(losses) == 4


# -------------------------------------------------------------- labels and gradients


def test_label_smoothing(blobs, labels):
    X, y = tensors(*blobs)
    clf = classifier(label_smoothing=0.2)
    module = start(clf, *blobs)
    first = F.cross_entropy(module(X), y, label_smoothing=0.2)

    def objective(module):
        return F.cross_entropy(module(X), y, label_smoothing=0.2)

    clf.fit(*blobs)
    np.testing.assert_allclose(clf.loss_curve_[0], first.item(), rtol=1e-12)
    assert_same_parameters(clf, descend(module, objective))


def test_label_smoothing_of_two_classes_is_that_of_their_softmax(blobs, labels):
    y = labels["binary"]
    clf = classifier(label_smoothing=0.2)
    logit = start(clf, blobs[0], y)(torch.tensor(blobs[0]))
    two = torch.cat([torch.zeros_like(logit), logit], dim=1)
    expected = F.cross_entropy(two, torch.tensor(y), label_smoothing=0.2)
    np.testing.assert_allclose(clf.fit(blobs[0], y).loss_curve_[0], expected.item(), rtol=1e-12)


def test_gradient_strength(blobs):
    clf = classifier(gradient_strength=0.8)
    module = start(clf, *blobs)
    X, y = tensors(*blobs)

    def objective(module):
        loss = F.cross_entropy(module(X), y)
        gradients = torch.autograd.grad(loss, list(module.parameters()), create_graph=True)
        return loss + 0.8 * sum(g.square().sum() for g in gradients)

    assert_same_parameters(clf.fit(*blobs), descend(module, objective))


def test_jacobian_strength_flattens_the_network(blobs):
    X = torch.tensor(blobs[0])

    def flatness(**parameters):
        clf = classifier(max_iter=40, learning_rate_init=0.05, **parameters)
        module = clf.fit(*blobs).module_
        J = torch.func.vmap(torch.func.jacrev(lambda x: module(x[None])[0]))(X)
        return J.square().sum((1, 2)).mean().item()

    assert flatness(jacobian_strength=0.5) < 0.5 * flatness()
