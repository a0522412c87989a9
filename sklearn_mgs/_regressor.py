"""The regressor."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy.sparse import issparse
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from sklearn_mgs._base import BaseMLP, pack_validation
from sklearn_mgs._constraints import CONSTRAINTS, check_classless
from sklearn_mgs._sklearn_callbacks import with_callbacks

__all__ = ["MLPRegressor"]


class MLPRegressor(RegressorMixin, BaseMLP):
    """Multilayer perceptron regressor with a Model Gradient Similarity penalty.

    Drop-in for `sklearn.neural_network.MLPRegressor`: the same parameters, methods and fitted
    attributes, trained by skorch on torch, with the penalty, further regularisers and a GPU where
    there is one.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}, default="squared_error"
        Half the squared error, or half the Poisson deviance with a log link (``y >= 0``).
    hidden_layer_sizes : array-like of shape (n_layers - 2,), default=(100,)
        Number of units of each hidden layer; ``()`` makes a linear model.
    activation : {"identity", "logistic", "tanh", "relu"}, default="relu"
        Activation of the hidden layers.
    solver : {"lbfgs", "sgd", "adam"}, default="adam"
        Optimizer: SciPy's L-BFGS-B on the full batch, or torch's SGD or Adam on mini-batches.
    alpha : float, default=0.0001
        Strength of the L2 term ``alpha / (2 n) ‖w‖²``, `n` being the samples (or the sum of
        their weights) of the mini-batch; biases are left out.
    batch_size : int or "auto", default="auto"
        Samples in a mini-batch; "auto" is ``min(200, n_samples)``.
    learning_rate : {"constant", "invscaling", "adaptive"}, default="constant"
        Schedule of the learning rate, for ``solver="sgd"``.
    learning_rate_init : float, default=0.001
        Initial learning rate, for "sgd" and "adam".
    power_t : float, default=0.5
        Exponent of "invscaling".
    max_iter : int, default=200
        Epochs at most; with "lbfgs", iterations.
    shuffle : bool, default=True
        Whether the samples are shuffled before each epoch.
    random_state : int, RandomState instance or None, default=None
        Source of the initial weights, the validation split, the order of the samples and every
        random regulariser. NumPy's and torch's global generators are left alone.
    tol : float, default=1e-4
        Training stops when the loss, or the validation score, has not improved by `tol` in more
        than `n_iter_no_change` epochs.
    verbose : bool, default=False
        Whether to print a table row per epoch.
    warm_start : bool, default=False
        Whether `fit` goes on from the present weights.
    momentum : float, default=0.9
        Momentum of "sgd".
    nesterovs_momentum : bool, default=True
        Whether that momentum is Nesterov's.
    early_stopping : bool, default=False
        Whether to stop by the score on held-out samples (`validation_fraction` of the training
        set, or the `X_val`, `y_val` given to `fit`), and to restore the best weights. Samples are
        held out by a hash of their content under `random_state`, from each class in turn:
        duplicates stay together, and the order of the samples plays no part.
    validation_fraction : float, default=0.1
        Share of the training set that is held out.
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay rates of Adam's moments.
    epsilon : float, default=1e-8
        Adam's constant for numerical stability.
    n_iter_no_change : int, default=10
        Epochs without improvement that are tolerated.
    max_fun : int, default=15000
        Evaluations at most of "lbfgs".
    mgs_strength : float, default=0.0
        Strength of the penalty ``mgs_strength · m(K) / m(K_init)``: dimensionless, because
        ``m(K_init)`` is the metric at initialisation on up to 256 training samples. 0, the
        default, turns it off at no cost: on *clean* targets every strength had a worse mean rank
        on 5 data sets (``benchmarks/default_strength.py``). Noisy targets want more: search 0.03
        to 1.
    mgs_metric : {"trace", "det"}, default="trace"
        The metric `m` of the mini-batch's kernel: the mean squared gradient norm ``tr(K)/n``, or
        the geometric mean of K's eigenvalues. The second grows as the mini-batch shrinks: let
        `batch_size` divide the number of training samples, or a small last one is pulled hard.
    mgs_outputs : {"auto", "target", "all", "random", "sum"}, default="auto"
        Which outputs are differentiated. "auto" is "all" for one output,
        "random" for several (with "lbfgs", "all"); "target" is for classes.
    mgs_layers : {"auto", "all", "hidden", "first", "balanced"}, default="auto"
        Whose parameters' gradients make the kernel: all layers', all but the output layer's, the
        first layer's, or all with each layer's share divided by its initial value. "auto" is
        what did best on most noisy data: all layers, with "trace" by relative gradients.
    mgs_relative : bool, default=False
        Whether, with other `mgs_layers` than "auto" too, gradients are those with respect to
        relative changes of the layers, ``W (I + √p E)`` and ``b + √p W e``, p being a layer's
        inputs. The first layer's share then depends on the network's function alone, and no
        longer on how the layers share its scale.
    mgs_centered : bool or "class", default=False
        Whether the kernel is centred: on the mean gradient of the mini-batch.
    mgs_batch_size : int, "auto" or None, default="auto"
        Samples of each mini-batch that make the kernel, the first ones; None: all. Fewer cost
        less. "auto" is half of a shuffled mini-batch, which is not all the samples there are, for
        the uncentred trace of relative gradients, which cost most, without dropout; else all.
        Where `coherence` compares halves, each has half.
    l1 : float, default=0.0
        Strength of ``l1 / n ‖w‖₁``, by a proximal step after the gradient step: weights become
        exactly zero. Not for "lbfgs".
    dropout : float, default=0.0
        Probability that a hidden unit is dropped while training.
    input_noise : float, default=0.0
        Standard deviation, in the units of `X`, of Gaussian noise added to the inputs while
        training.
    jacobian_strength : float, default=0.0
        Strength of the mean over samples of ``‖∂f/∂x‖²_F``, by one random projection per sample.
    gradient_strength : float, default=0.0
        Strength of ``‖∇_θ L‖²``, `L` being the mini-batch's data loss.
    coherence_threshold : float, default=None
        With a number in [-1, 1], L1 and L2 act only as far as `coherence` stays at or above it;
        None: in full, always. With momentum 0.9, 0.5 to 0.8 suits L2 and 0.1 to 0.3 L1.
    coherence : {"trend", "total", "batch"}, default="trend"
        How coherent the gradients are. "trend": cosine between the running mean of the loss's
        gradients and the same with the regulariser's added, whose strength is lowered until it
        suffices; zero weights stay zero unless the trend is stronger. "total": the same cosine
        of this step's gradient. "batch": cosine between the gradients of the mini-batch's
        halves. With these two the regulariser acts in full or not at all. The measures are this
        package's own.
    device : str, default="auto"
        "auto" (CUDA where there is one, else the CPU), "cpu", "cuda", "cuda:1", "mps", ….
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of the network; "auto" follows `X`: float32 stays, everything else is float64.
    compile : bool, default=False
        Whether `torch.compile` compiles the training step of "adam" and "sgd", penalties
        included, before its first use: half a minute or more, which a long fit may earn back.
        The results are those without it, but for rounding.
    callbacks : list of skorch callbacks, default=None
        Copies of them watch the training; see ``net_.callbacks_`` afterwards.

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The net that did the training.
    module_ : torch.nn.Sequential
        The network; its outputs are linear (before ``out_activation_``).
    history_ : skorch.history.History
        A row per epoch (per iteration of "lbfgs"): ``train_loss`` (the data loss), ``l2``,
        ``mgs_penalty`` (as added to the loss, where it is on), ``valid_score``, and what
        callbacks add.
    compression_ratio_ : float
        Number of parameters over the number of those that are not zero.
    coefs_, intercepts_ : list of ndarray
        Weights and biases in scikit-learn's layout; may be assigned.
    loss_ : float
        Loss of the last epoch: data loss and L2 term, never the penalties.
    loss_curve_ : list of float
        The same for each epoch.
    best_loss_ : float or None
        Its minimum; None with `early_stopping`.
    validation_scores_ : list of float or None
        Score on the held-out samples after each epoch, with `early_stopping`.
    best_validation_score_ : float or None
        Its maximum.
    n_iter_ : int
        Epochs, or iterations, of the last fit.
    t_ : int
        Training samples seen.
    n_layers_, n_outputs_ : int
        Numbers of layers (the inputs included) and of outputs.
    out_activation_ : str
        Activation that turns the linear outputs into predictions.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, where `X` has string column names.

    See Also
    --------
    MLPClassifier : The same for classification.

    Notes
    -----
    The training objective of a mini-batch is::

        data loss + alpha/(2n) ‖w‖² + l1/n ‖w‖₁ + mgs_strength · m(K)/m(K_init)
            + jacobian_strength · mean ‖∂f/∂x‖²_F + gradient_strength · ‖∇_θ L‖²

    where ``K_ij = ⟨∇_θ f(x_i), ∇_θ f(x_j)⟩`` [1]_. With ``mgs_strength=0`` and the other
    regularisers at 0, the same `random_state` gives scikit-learn's weights, up to rounding.
    With integer `sample_weight` and a full batch, the fit equals the fit to repeated samples,
    under either metric.

    References
    ----------
    .. [1] V. Szolnoky, V. Andersson, B. Kulcsár, R. Jörnsten, "On the Interpretability of
       Regularisation for Neural Networks Through Model Gradient Similarity", NeurIPS 2022,
       arXiv:2205.12642.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from sklearn_mgs import MLPRegressor
    >>> X, y = make_regression(n_samples=200, n_features=5, random_state=0)
    >>> y = (y - y.mean()) / y.std()
    >>> reg = MLPRegressor(hidden_layer_sizes=(50,), max_iter=300, random_state=0)
    >>> reg.fit(X, y).score(X, y) > 0.9
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **CONSTRAINTS,
        "loss": [StrOptions({"squared_error", "poisson"})],
    }

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        mgs_strength=0.0,
        mgs_metric="trace",
        mgs_outputs="auto",
        mgs_layers="auto",
        mgs_relative=False,
        mgs_centered=False,
        mgs_batch_size="auto",
        l1=0.0,
        dropout=0.0,
        input_noise=0.0,
        jacobian_strength=0.0,
        gradient_strength=0.0,
        coherence_threshold=None,
        coherence="trend",
        device="auto",
        dtype="auto",
        compile=False,
        callbacks=None,
    ):
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.mgs_strength = mgs_strength
        self.mgs_metric = mgs_metric
        self.mgs_outputs = mgs_outputs
        self.mgs_layers = mgs_layers
        self.mgs_relative = mgs_relative
        self.mgs_centered = mgs_centered
        self.mgs_batch_size = mgs_batch_size
        self.l1 = l1
        self.dropout = dropout
        self.input_noise = input_noise
        self.jacobian_strength = jacobian_strength
        self.gradient_strength = gradient_strength
        self.coherence_threshold = coherence_threshold
        self.coherence = coherence
        self.device = device
        self.dtype = dtype
        self.compile = compile
        self.callbacks = callbacks

    # ------------------------------------------------------------------ fitting

    @with_callbacks
    def fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None, sample_weight_val=None):
        """Fit the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training samples.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights; the loss is their weighted mean.
        X_val, y_val : array-like, default=None
            Held-out samples for early stopping, instead of a part of the training set.
        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Their weights in the validation score.

        Returns
        -------
        self : MLPRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or the data are not valid (before any training), or if the loss
            becomes non-finite (the last finite weights are kept).
        """
        return self._fit(X, y, sample_weight, pack_validation(X_val, y_val, sample_weight_val))

    @available_if(lambda est: est._check_stochastic())
    def partial_fit(self, X, y, sample_weight=None):
        """Train for one epoch on the given samples; `early_stopping` plays no part.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training samples.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights.

        Returns
        -------
        self : MLPRegressor
            The estimator.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def _validate_input(self, X, y, incremental, reset):
        """Checked samples and targets; the loss takes the targets as a matrix."""
        if issparse(y):
            raise TypeError("y must be a dense array, got a sparse one; pass y.toarray().")
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            y_numeric=True,
            dtype=(np.float64, np.float32),
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if self.loss == "poisson" and (y < 0).any():
            raise ValueError(
                f"loss='poisson' needs y >= 0, got a minimum of {y.min()}; use "
                f"loss='squared_error'."
            )
        check_classless(self, "class labels; a regressor has none")
        return X, y, y.reshape(len(y), -1).astype(np.float64)

    def _loss_name(self) -> str:
        return self.loss

    def _out_activation(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    def _n_outputs(self, targets) -> int:
        return targets.shape[1]

    def _reported_loss(self, epoch) -> float:
        # scikit-learn minimises the squared error's sum over outputs and reports its mean.
        outputs = self.n_outputs_ if self.loss == "squared_error" else 1
        return epoch["train_loss"] / outputs + epoch.get("l2", 0.0)

    # --------------------------------------------------------------- predicting

    _score_function = staticmethod(r2_score)

    def _from_outputs(self, outputs):
        return outputs.ravel() if outputs.shape[1] == 1 else outputs

    def predict(self, X):
        """Predict targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions.
        """
        self._check_fitted()
        return self._from_outputs(self._outputs(X))

    def __sklearn_tags__(self):
        """Several targets per sample are accepted."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
