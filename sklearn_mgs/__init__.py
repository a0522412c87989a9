"""Neural networks for scikit-learn, regularised and measured by Model Gradient Similarity."""

from sklearn_mgs._classifier import MLPClassifier
from sklearn_mgs._regressor import MLPRegressor

__version__ = "0.1.0"

__all__ = ["MLPClassifier", "MLPRegressor", "__version__"]
