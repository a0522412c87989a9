"""Estimators that choose their own regularisation strength by cross-validation."""

from sklearn_mgs.search._classifier_cv import MLPClassifierCV
from sklearn_mgs.search._regressor_cv import MLPRegressorCV

__all__ = ["MLPClassifierCV", "MLPRegressorCV"]
