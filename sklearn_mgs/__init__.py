"""Neural networks for scikit-learn, regularised and measured by Model Gradient Similarity."""

__version__ = "0.1.0"

__all__ = ["__version__"]
