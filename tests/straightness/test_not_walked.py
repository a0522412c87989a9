"""What the exact walk refuses, and why; and what is smooth after the last kink."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklearn_mgs.straightness._operations import NotWalkable
from sklearn_mgs.straightness._segments import kink_counts, segment_statistics
from tests.straightness.written import PAIRS, Written, X, chain, dense


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo):
        raise RuntimeError("there is one only")


def view_changed_in_place(m, X):
    z = m.a(X)
    z.view(-1, 2, 4).relu_()
    return m.c(z)


def view_made_smooth(m, X):
    z = m.a(X)
    z.view(-1, 2, 4).tanh_()
    return z.relu()


def written_into(m, X):
    z = torch.zeros(len(X), 8, dtype=X.dtype)
    z[:, :] = m.a(X).tanh()
    return m.c(z.relu())


def changed_in_numpy(m, X):
    z = m.a(X)
    np.tanh(z.numpy(), out=z.numpy())
    return m.c(z)


def only_single_precision(m, X):
    assert X.dtype == torch.float32, "pass float32"
    return m.c(m.a(X).relu())


def unpooled(m, X):
    z, indices = F.max_pool1d(m.a(X)[:, None], 2, return_indices=True)
    return F.max_unpool1d(z, indices, 2)


def over_samples(m, X):
    return m.c((m.a(X) - m.a(X).mean(0, keepdim=True)).relu())


REFUSED = {
    "smooth before": (lambda m, X: m.c(m.a(X).tanh().relu()), "applies relu to what is not"),
    "softmax before": (lambda m, X: F.relu(m.a(X).softmax(1)), "applies relu to what is not"),
    "product": (lambda m, X: (m.a(X) * m.b(m.a(X))).relu(), "applies relu to what is not"),
    "reciprocal": (lambda m, X: (1 / (3 + m.a(X))).abs(), "applies abs to what is not"),
    "quotient": (lambda m, X: (m.a.bias / m.a(X)).abs(), "applies abs to what is not"),
    "pool": (lambda m, X: F.max_pool1d(m.a(X).exp()[:, None], 2), "applies max_pool1d to what"),
    "mask": (lambda m, X: m.c(m.a(X) * (m.a(X) > 0)), "aten.gt.Scalar, whose kinks are not"),
    "sorted": (lambda m, X: m.c(m.a(X).sort(1)[0]), "aten.sort.default, whose kinks are not"),
    "elu": (lambda m, X: m.c(F.elu(m.a(X), 2.0)), "aten.elu.default, whose kinks are not"),
    "rounded": (lambda m, X: m.c(m.a(X).long() + m.a(X)), "integers or truth values"),
    "indices": (unpooled, "uses aten.|integers or truth values"),
    "numpy": (lambda m, X: torch.from_numpy(m.a(X).numpy()), "can't be followed"),
    "samples second": (lambda m, X: m.a(X).T.relu().T.contiguous(), "from the first dimension"),
    "over samples": (over_samples, "from the first dimension"),
    "sum along samples": (lambda m, X: m.c(m.a(X).cumsum(0).relu()), "not those that the walk"),
    "view in place": (view_changed_in_place, "outputs are not (piecewise linear|those that)"),
    "memory in numpy": (changed_in_numpy, "not those that the walk finds"),
    "relu of a view in place": (view_made_smooth, "applies relu to what is not"),
    "written into": (written_into, "writes into a tensor that does not depend on the samples"),
    "dropout": (lambda m, X: m.c(F.dropout(m.a(X))), "uses aten.*, whose kinks are not known"),
    "batch statistics": (
        lambda m, X: F.batch_norm(m.a(X), None, None, training=True),
        "uses aten.*, whose kinks are not known|from the first dimension",
    ),
    "float32 only": (only_single_precision, "fails with AssertionError: pass float32"),
    "several outputs": (lambda m, X: {"logits": m.a(X)}, "must return a tensor, or several"),
}


@pytest.mark.parametrize(("forward", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_walked_says_why(forward, message):
    for function in (segment_statistics, kink_counts):
        with pytest.raises(NotWalkable, match=message):
            function(dense(forward), X, PAIRS)


def test_module_that_can_not_be_copied():
    with pytest.raises(NotWalkable, match="copy in float64 fails: there is one only"):
        kink_counts(Uncopyable(4, 2), X, PAIRS)


SMOOTH_ENDS = {
    "softmax": lambda x: x.softmax(1),
    "layer norm": lambda x: F.layer_norm(x, (2,), eps=0.1),
    "gate": lambda x: x * x.sigmoid(),
}


@pytest.mark.parametrize("end", SMOOTH_ENDS.values(), ids=SMOOTH_ENDS)
def test_smooth_after_the_last_kink(end):
    relu = chain(F.relu)
    net = Written(lambda m, X: end(m.relu(X)), relu=relu)
    assert torch.equal(kink_counts(net, X, PAIRS), kink_counts(relu, X, PAIRS))
    with pytest.raises(NotWalkable, match="outputs are not piecewise linear"):
        segment_statistics(net, X, PAIRS)


@pytest.mark.parametrize("activation", [torch.tanh, F.gelu, F.softplus, torch.sin])
def test_smooth_nets_have_no_kinks(activation):
    assert (kink_counts(chain(activation), X, PAIRS) == 0).all()
