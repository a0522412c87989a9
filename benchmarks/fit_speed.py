"""Whole fits without a penalty, against scikit-learn's MLP and skorch's net.

python benchmarks/fit_speed.py [--repeats 5] [--threads 2] [--device cpu]
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier as ScikitLearn
from skorch import NeuralNetClassifier
from timing import arguments, interleaved, row
from torch import nn

from sklearn_mgs import MLPClassifier


def main():
    args = arguments(__doc__)
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    rng = np.random.default_rng(0)
    X_big, y_big = rng.random((10_000, 784), dtype=np.float32), rng.integers(0, 10, 10_000)
    small = dict(hidden_layer_sizes=(100,), batch_size=64, max_iter=30)
    big = dict(hidden_layer_sizes=(300, 100), batch_size=128, max_iter=3)
    common = dict(random_state=0, n_iter_no_change=1000)
    ours = dict(**common, mgs_strength=0, device=args.device)

    def skorch_net():
        module = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
        NeuralNetClassifier(
            module,
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=1e-3,
            max_epochs=30,
            batch_size=64,
            train_split=None,
            iterator_train__shuffle=True,
            verbose=0,
            device=args.device,
        ).fit(X, y.astype(np.int64))

    t = interleaved(
        {
            "sklearn": lambda: ScikitLearn(**small, **common).fit(X, y),
            "skorch": skorch_net,
            "ours": lambda: MLPClassifier(**small, **ours).fit(X, y),
            "sklearn big": lambda: ScikitLearn(**big, **common).fit(X_big, y_big),
            "ours big": lambda: MLPClassifier(**big, **ours).fit(X_big, y_big),
        },
        args.repeats,
    )
    print(f"{'what':62} {'ratio':>8}    target")
    for what, a, b, target in (
        ("digits, (100,), batch 64, 30 epochs : scikit-learn", "ours", "sklearn", 1.3),
        ("the same : skorch with its default loader", "ours", "skorch", 0.5),
        (
            "784-300-100-10, 10 000 samples, batch 128 : scikit-learn",
            "ours big",
            "sklearn big",
            0.6,
        ),
    ):
        row(what, t[a] / t[b], target, f"({t[a]:.3f} s : {t[b]:.3f} s)")


if __name__ == "__main__":
    main()
