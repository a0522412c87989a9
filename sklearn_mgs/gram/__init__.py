"""The MGS kernel and its metrics; needs torch alone.

Letters: n, m samples; k directions in the space of outputs; A inputs of a layer, one row for
each sample; D gradients of the outputs with respect to the layer's outputs; q groups of samples.
"""

from sklearn_mgs.gram._factorizer import IMPLEMENTATIONS, explain, resolve_implementation
from sklearn_mgs.gram._gram import gram_matrix, gram_trace
from sklearn_mgs.gram._jacobian import jacobian
from sklearn_mgs.gram._layers import LAYERS
from sklearn_mgs.gram._layerwise import LayerwiseKernel, Tape
from sklearn_mgs.gram._metrics import METRICS, SIMILARITY_SIGN, mgs_metric
from sklearn_mgs.gram._operator import GramOperator
from sklearn_mgs.gram._outputs import OUTPUTS
from sklearn_mgs.gram._plan import Plan, make_plan
from sklearn_mgs.gram._shares import linear_gram, linear_trace

__all__ = [
    "IMPLEMENTATIONS",
    "LAYERS",
    "METRICS",
    "OUTPUTS",
    "SIMILARITY_SIGN",
    "GramOperator",
    "LayerwiseKernel",
    "Plan",
    "Tape",
    "explain",
    "gram_matrix",
    "gram_trace",
    "jacobian",
    "linear_gram",
    "linear_trace",
    "make_plan",
    "mgs_metric",
    "resolve_implementation",
]
