"""Whether torch warns, without a word to the rest of the process."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

__all__ = ["without_slow_vmap"]

_LOCK = (
    threading.RLock()
)  # filters and the list of what was caught are the process's, not a thread's


def without_slow_vmap(compute: Callable):
    """Result of `compute`; a RuntimeError if vmap warns that it loops where it should batch.

    Never by a filter that makes errors of warnings: fits in other threads would end with them.
    """
    with _LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = compute()
    slow = [w for w in caught if "batching rule" in str(w.message)]
    for w in caught:
        if w not in slow:  # of another thread, perhaps
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    if slow:
        raise RuntimeError(str(slow[0].message))
    return result
