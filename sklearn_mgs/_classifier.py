"""The classifier."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels
from sklearn.utils.validation import validate_data

from sklearn_mgs._base import BaseMLP, check_weight, pack_validation
from sklearn_mgs._constraints import check_classless
from sklearn_mgs._sklearn_callbacks import with_callbacks

__all__ = ["MLPClassifier"]


class MLPClassifier(ClassifierMixin, BaseMLP):
    """Multilayer perceptron classifier with a Model Gradient Similarity penalty.

    Drop-in for `sklearn.neural_network.MLPClassifier`: the same parameters, methods and fitted
    attributes, trained by skorch on torch, with the penalty, further regularisers, class weights
    and a GPU where there is one.

    Parameters
    ----------
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
        ``m(K_init)`` is the metric at initialisation on up to 256 training samples. 0 turns it
        off at no cost. That is the default because on *clean* labels no strength gains more than
        chance explains (mean ranks over 14 data sets, ``benchmarks/default_strength.py``), and
        0.03 already costs 0.07 of accuracy where classes wind finely around each other in few
        dimensions. Noisy labels want it: search 0.03 to 3.
    mgs_metric : {"trace", "det"}, default="trace"
        The metric `m` of the mini-batch's kernel: the mean squared gradient norm ``tr(K)/n``, or
        the geometric mean of K's eigenvalues. The second grows as the mini-batch shrinks: let
        `batch_size` divide the number of training samples, or a small last one is pulled hard.
    mgs_outputs : {"auto", "target", "all", "random", "sum"}, default="auto"
        Which outputs are differentiated. "auto" is "target" for one label per
        sample; else "all" for one output, "random" for several (with "lbfgs", "all").
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
        Whether the kernel is centred: on the mean gradient of the mini-batch,
        or of each sample's class.
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
    label_smoothing : float, default=0.0
        Share of each label's weight that is spread evenly over the classes.
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
    class_weight : dict, list of dict or "balanced", default=None
        Weights of the classes, as in scikit-learn; multiplied into `sample_weight`. "balanced"
        counts the samples, whatever their weights.
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
    classes_ : ndarray or list of ndarray of shape (n_classes,)
        Class labels.
    net_ : skorch.NeuralNet
        The net that did the training.
    module_ : torch.nn.Sequential
        The network; its outputs are linear (logits).
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
    MLPRegressor : The same for regression.

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
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn_mgs import MLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    >>> clf = MLPClassifier(mgs_strength=0.1, max_iter=20, random_state=0)
    >>> clf.fit(X_train, y_train).score(X_test, y_test) > 0.9
    True
    """

    def __init__(
        self,
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
        label_smoothing=0.0,
        jacobian_strength=0.0,
        gradient_strength=0.0,
        coherence_threshold=None,
        coherence="trend",
        class_weight=None,
        device="auto",
        dtype="auto",
        compile=False,
        callbacks=None,
    ):
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
        self.label_smoothing = label_smoothing
        self.jacobian_strength = jacobian_strength
        self.gradient_strength = gradient_strength
        self.coherence_threshold = coherence_threshold
        self.coherence = coherence
        self.class_weight = class_weight
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
            Class labels, or an indicator matrix of several labels per sample.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights; the loss is their weighted mean.
        X_val, y_val : array-like, default=None
            Held-out samples for early stopping, instead of a part of the training set.
        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Their weights in the validation score.

        Returns
        -------
        self : MLPClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or the data are not valid (before any training), or if the loss
            becomes non-finite (the last finite weights are kept).
        """
        return self._fit(X, y, sample_weight, pack_validation(X_val, y_val, sample_weight_val))

    @available_if(lambda est: est._check_stochastic())
    def partial_fit(self, X, y, sample_weight=None, classes=None):
        """Train for one epoch on the given samples; `early_stopping` plays no part.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training samples.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights.
        classes : array-like of shape (n_classes,), default=None
            All classes that will ever occur; needed by the first call only.

        Returns
        -------
        self : MLPClassifier
            The estimator.
        """
        if not hasattr(self, "classes_") and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight='balanced' is not supported by partial_fit, which does not see all "
                "samples; pass a dict, or sample_weight."
            )
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def _set_classes(self, y, classes):
        classes = unique_labels(classes)
        if hasattr(self, "classes_"):
            if not np.array_equal(self.classes_, classes):
                raise ValueError(
                    f"`classes={classes}` is not the same as on last call to partial_fit, was: "
                    f"{self.classes_}"
                )
            return
        binarizer = LabelBinarizer()
        multilabel = type_of_target(y).startswith("multilabel")
        self._label_binarizer = binarizer.fit(y if multilabel else classes)
        self.classes_ = classes

    def _validate_input(self, X, y, incremental, reset):
        """Checked samples, labels, and the targets of the loss."""
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            dtype=(np.float64, np.float32),
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_known_classes(y)
        targets = self._label_binarizer.transform(y)
        if self._loss_name() == "log_loss":
            targets = targets.argmax(axis=1)
        if y.ndim == 2:
            check_classless(self, "one class per sample; y has several labels")
        return X, y, targets

    def _check_known_classes(self, y):
        classes = unique_labels(y)
        if self.warm_start and set(classes) != set(self.classes_):
            raise ValueError(
                f"warm_start can only be used where `y` has the same classes as in the previous "
                f"call to fit. Previously got {self.classes_}, `y` has {classes}"
            )
        if len(np.setdiff1d(classes, self.classes_)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. "
                f"'y' has {classes}."
            )

    def _total_weight(self, sample_weight, X, y):
        sample_weight = super()._total_weight(sample_weight, X, y)
        if self.class_weight is None:
            return sample_weight
        if isinstance(self.class_weight, Mapping) and y.ndim == 1:
            # Over all classes: a part of the data need not have each.
            of_classes = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
            class_weight = of_classes[np.searchsorted(self.classes_, y)]
        else:
            class_weight = compute_sample_weight(self.class_weight, y)
        if (class_weight < 0).any():
            raise ValueError(
                f"class_weight must not be negative, got {self.class_weight}; give a class weight "
                f"0 to leave it out."
            )
        return check_weight(class_weight * (1 if sample_weight is None else sample_weight), X)

    def _loss_name(self) -> str:
        return "log_loss" if self._label_binarizer.y_type_ == "multiclass" else "binary_log_loss"

    def _out_activation(self) -> str:
        return "softmax" if self._loss_name() == "log_loss" else "logistic"

    def _n_outputs(self, targets) -> int:
        return len(self.classes_) if targets.ndim == 1 else targets.shape[1]

    def _reported_loss(self, epoch) -> float:
        return epoch["train_loss"] + epoch.get("l2", 0.0)

    # --------------------------------------------------------------- predicting

    _score_function = staticmethod(accuracy_score)

    def _from_outputs(self, outputs):
        return self._label_binarizer.inverse_transform(
            outputs.ravel() if self.n_outputs_ == 1 else outputs
        )

    def predict(self, X):
        """Predict class labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Labels.
        """
        self._check_fitted()
        return self._from_outputs(self._outputs(X))

    def predict_proba(self, X):
        """Predict class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``; for several labels per sample, of each being present.
        """
        self._check_fitted()
        outputs = self._outputs(X)
        return np.hstack([1 - outputs, outputs]) if self.n_outputs_ == 1 else outputs

    def predict_log_proba(self, X):
        """Predict the logarithms of the class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
            ``log(predict_proba(X))``.
        """
        return np.log(self.predict_proba(X))

    def __sklearn_tags__(self):
        """Several labels per sample are accepted."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
