"""The regressor that chooses its strength by cross-validation."""

from __future__ import annotations

from typing import ClassVar

from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils._param_validation import StrOptions

from sklearn_mgs._regressor import MLPRegressor
from sklearn_mgs.search._base_cv import SEARCH_CONSTRAINTS, BaseMLPCV

__all__ = ["MLPRegressorCV"]


class MLPRegressorCV(BaseMLPCV, RegressorMixin, BaseEstimator):
    """Multilayer perceptron regressor that chooses its MGS strength by cross-validation.

    All candidates train on all folds together, in batches of networks: the same answer as
    `sklearn.model_selection.GridSearchCV` over `MLPRegressor`, sooner.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}, default="squared_error"
        Half the squared error, or half the Poisson deviance with a log link.
    hidden_layer_sizes, activation : object
        As in `MLPRegressor`.
    mgs_strengths : int or array-like of float, default=10
        Strengths to choose from; a number stands for 0 and so many values less one from 0.001 to
        10, evenly spaced on a logarithmic scale.
    alphas, l1s : array-like of float, default=None
        Further strengths, of L2 and L1, to choose from in all combinations; None: `alpha` and
        `l1` alone.
    cv : int, cross-validation generator or iterable, default=None
        How the samples are split, as in `sklearn.model_selection.GridSearchCV`; None is five
        folds.
    scoring : str, callable, list, tuple or dict, default=None
        Score or scores, those of `sklearn_mgs.metrics.make_mgs_scorer` included, as in
        `sklearn.model_selection.GridSearchCV`, but that a callable returns one number; None is
        R².
    refit : str or callable, default="best"
        What is chosen: "best", the highest mean score; with several scores, the name of the one
        that decides; or a callable that takes ``cv_results_`` and returns an index, such as
        `sklearn_mgs.model_selection.one_standard_error`.
    n_jobs : int, default=None
        Batches that train at once, in processes unless joblib's `parallel_config` names another
        backend: "threading", or "dask" for other machines. None: one, with all of torch's
        threads; with "dask", as many as its workers have threads.
    max_models : int, default=None
        Models, of one candidate and one fold each, that train in one batch. None: as many as
        train fast and fit into half of the free memory.
    halving : bool or int, default=False
        Whether candidates that fall behind are dropped: with an integer `k` (True is 2), after
        ``max_iter / k``, ``max_iter / k²``, … epochs (as often as it takes to come from all
        candidates to `k`). Each time the best of the remaining candidates, one in `k`,
        go on, and of the others those whose score is not clearly behind, or catches up if it goes
        on as since the time before: clearly is by more than two standard errors of the
        differences to the best on the same splits.
    verbose : bool, default=False
        Whether to show a progress bar over epochs and batches, with the best mean score so far.
    solver, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle : object
        As in `MLPRegressor`, but for ``solver="lbfgs"``, which is not batched.
    random_state : object
        As in `MLPRegressor`; with None, one seed is drawn for the whole search.
    tol, n_iter_no_change, early_stopping, validation_fraction : object
        As in `MLPRegressor`, for each candidate on each fold by itself.
    momentum, nesterovs_momentum, beta_1, beta_2, epsilon, max_fun : object
        As in `MLPRegressor`.
    alpha, l1 : object
        As in `MLPRegressor`; not used where `alphas` or `l1s` are given.
    mgs_metric, mgs_outputs, mgs_layers, mgs_relative, mgs_centered, mgs_batch_size : object
        As in `MLPRegressor`.
    dropout, input_noise, jacobian_strength, gradient_strength : object
        As in `MLPRegressor`.
    coherence_threshold, coherence, device, dtype : object
        As in `MLPRegressor`.
    warm_start, callbacks : object
        False and None: a search begins anew, and a callback watches one network.

    Attributes
    ----------
    mgs_strength_ : float
        The strength chosen.
    best_estimator_ : MLPRegressor
        Fitted to all samples with the chosen parameters. Its own fitted attributes, such as
        ``coefs_``, ``history_`` and ``n_features_in_``, are attributes here too.
    best_params_ : dict
        The chosen parameters.
    best_index_ : int
        Their row in ``cv_results_``.
    best_score_ : float
        Their mean score; with a callable `refit` and several scores, the first.
    scores_ : ndarray of shape (n_splits, n_candidates), or dict of such
        Scores on the left-out samples; with named scores, by name.
    cv_results_ : dict of str to ndarray
        In the format of `sklearn.model_selection.GridSearchCV`. Times of training are shares of a
        batch's. With `halving`, "n_resources" is the number of epochs that a candidate was given;
        candidates that were dropped rank behind those that were not.
    scorer_ : dict of str to callable
        The scorers; a single one is called "score".
    multimetric_ : bool
        Whether the scores have names.
    n_splits_ : int
        Number of splits.
    refit_time_ : float
        Seconds that the final fit took.

    See Also
    --------
    MLPRegressor : One such estimator.
    sklearn.model_selection.GridSearchCV : Searches over any other parameter, one fit at a time.

    Notes
    -----
    All candidates train on all folds together, as networks with a leading dimension for the
    model: large matrix products in place of many small ones. Each model has its own fold's
    samples, in the order that a fit of its own with the same `random_state` would take them, and
    stops when that fit would stop. So it ends with that fit's weights, up to rounding; only
    `dropout` on a GPU may draw other masks. Folds whose sizes differ train together if they
    have as many mini-batches, padded by samples without weight; but not where random numbers or
    the kernel's metric would show that.

    A fold keeps a copy of its training samples, so memory grows by the number of folds times the
    data. Scores are weighted by `sample_weight` where the scorer takes weights. A candidate
    whose loss becomes non-finite has scores of nan.
    A batch, and the final fit, run in one thread where the networks are so small that a second is
    no faster.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from sklearn_mgs.search import MLPRegressorCV
    >>> X, y = make_regression(n_samples=100, n_features=5, random_state=0)
    >>> reg = MLPRegressorCV(hidden_layer_sizes=(20,), mgs_strengths=4, max_iter=20, cv=3)
    >>> reg.fit(X, y / y.std()).cv_results_["param_mgs_strength"].tolist()
    [0.0, 0.001, 0.1, 10.0]
    """

    _estimator_class = MLPRegressor
    _default_scoring = "r2"
    _parameter_constraints: ClassVar[dict] = {
        **SEARCH_CONSTRAINTS,
        "loss": [StrOptions({"squared_error", "poisson"})],
    }

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        mgs_strengths=10,
        alphas=None,
        l1s=None,
        cv=None,
        scoring=None,
        refit="best",
        n_jobs=None,
        max_models=None,
        halving=False,
        verbose=False,
        solver="adam",
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        n_iter_no_change=10,
        early_stopping=False,
        validation_fraction=0.1,
        momentum=0.9,
        nesterovs_momentum=True,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        max_fun=15000,
        alpha=0.0001,
        l1=0.0,
        mgs_metric="trace",
        mgs_outputs="auto",
        mgs_layers="auto",
        mgs_relative=False,
        mgs_centered=False,
        mgs_batch_size="auto",
        dropout=0.0,
        input_noise=0.0,
        jacobian_strength=0.0,
        gradient_strength=0.0,
        coherence_threshold=None,
        coherence="trend",
        device="auto",
        dtype="auto",
        warm_start=False,
        callbacks=None,
    ):
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.mgs_strengths = mgs_strengths
        self.alphas = alphas
        self.l1s = l1s
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.n_jobs = n_jobs
        self.max_models = max_models
        self.halving = halving
        self.verbose = verbose
        self.solver = solver
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.max_fun = max_fun
        self.alpha = alpha
        self.l1 = l1
        self.mgs_metric = mgs_metric
        self.mgs_outputs = mgs_outputs
        self.mgs_layers = mgs_layers
        self.mgs_relative = mgs_relative
        self.mgs_centered = mgs_centered
        self.mgs_batch_size = mgs_batch_size
        self.dropout = dropout
        self.input_noise = input_noise
        self.jacobian_strength = jacobian_strength
        self.gradient_strength = gradient_strength
        self.coherence_threshold = coherence_threshold
        self.coherence = coherence
        self.device = device
        self.dtype = dtype
        self.warm_start = warm_start
        self.callbacks = callbacks

    def fit(self, X, y, sample_weight=None, *, groups=None):
        """Choose the strength by cross-validation, then fit to all samples.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training samples.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, in training and in scoring.
        groups : array-like of shape (n_samples,), default=None
            Groups, for a `cv` that keeps them together.

        Returns
        -------
        self : MLPRegressorCV
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or the data are not valid, if the parameters ask for what can't be
            trained in a batch, or if no candidate's training stayed finite.
        """
        return self._fit(X, y, sample_weight, groups)

    def __sklearn_tags__(self):
        """Several targets per sample are accepted."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
