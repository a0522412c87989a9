"""Pictures of gradient similarity, as scikit-learn Display objects on matplotlib."""

from sklearn_mgs.inspection._comparison import RegularizerComparisonDisplay
from sklearn_mgs.inspection._gram_matrix import GramMatrixDisplay
from sklearn_mgs.inspection._history import MGSHistoryDisplay
from sklearn_mgs.inspection._path import MGSPathDisplay

__all__ = [
    "GramMatrixDisplay",
    "MGSHistoryDisplay",
    "MGSPathDisplay",
    "RegularizerComparisonDisplay",
]
