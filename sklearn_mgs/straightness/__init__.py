"""How straight a network is between the samples: gradient deflection and gap deviation."""

from sklearn_mgs.straightness._display import SegmentDisplay
from sklearn_mgs.straightness._metrics import (
    gradient_deflection,
    gradient_gap_deviation,
    make_deflection_scorer,
    path_kinks,
)

__all__ = [
    "SegmentDisplay",
    "gradient_deflection",
    "gradient_gap_deviation",
    "make_deflection_scorer",
    "path_kinks",
]
