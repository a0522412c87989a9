"""Neural networks for scikit-learn, regularised and measured by Model Gradient Similarity."""

from sklearn_mgs._classifier import MLPClassifier
from sklearn_mgs._regressor import MLPRegressor
from sklearn_mgs._skorch_nets import MGSNeuralNetClassifier, MGSNeuralNetRegressor
from sklearn_mgs.callbacks import MGSEarlyStopping, MGSMonitor
from sklearn_mgs.inspection import (
    GramMatrixDisplay,
    MGSHistoryDisplay,
    MGSPathDisplay,
    RegularizerComparisonDisplay,
)
from sklearn_mgs.metrics import make_mgs_scorer, mgs_score
from sklearn_mgs.model_selection import one_standard_error
from sklearn_mgs.search import MLPClassifierCV, MLPRegressorCV
from sklearn_mgs.straightness import (
    SegmentDisplay,
    gradient_deflection,
    gradient_gap_deviation,
    make_deflection_scorer,
    path_kinks,
)

__version__ = "0.1.0"

__all__ = [
    "GramMatrixDisplay",
    "MGSEarlyStopping",
    "MGSHistoryDisplay",
    "MGSMonitor",
    "MGSNeuralNetClassifier",
    "MGSNeuralNetRegressor",
    "MGSPathDisplay",
    "MLPClassifier",
    "MLPClassifierCV",
    "MLPRegressor",
    "MLPRegressorCV",
    "RegularizerComparisonDisplay",
    "SegmentDisplay",
    "__version__",
    "gradient_deflection",
    "gradient_gap_deviation",
    "make_deflection_scorer",
    "make_mgs_scorer",
    "mgs_score",
    "one_standard_error",
    "path_kinks",
]
