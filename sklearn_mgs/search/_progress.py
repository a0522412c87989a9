"""A progress bar over the epochs of all models."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

__all__ = ["Progress"]


class Progress:
    """Bar over epochs, with the best mean score so far.

    Parameters
    ----------
    total : int
        Epochs of all models together, at most.
    main_score : str
        Name of the score to show.
    n_splits : int
        Scores that a candidate has when it is complete.
    verbose : bool
        Whether there is a bar.
    """

    def __init__(self, total: int, main_score: str, n_splits: int, verbose: bool):
        self.main_score, self.n_splits = main_score, n_splits
        self.scores: dict[int, dict[int, float]] = {}
        self.bar = tqdm(total=total, unit="epoch", disable=not verbose)

    def epoch(self, n_models: int) -> None:
        """An epoch of so many models is done."""
        if self.bar is not None:
            self.bar.update(n_models)

    def scored(self, models) -> None:
        """Show the best mean among the candidates that have all their scores."""
        for model in models:
            scores = self.scores.setdefault(model.candidate, {})
            scores[model.split] = model.scores[self.main_score]
        means = [
            np.mean(list(s.values()))
            for s in list(self.scores.values())
            if len(s) == self.n_splits
        ]
        if self.bar is not None and np.isfinite(means).any():
            self.bar.set_postfix({f"best {self.main_score}": f"{np.nanmax(means):.4g}"})

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()

    def __getstate__(self) -> dict:
        """In another process there is no bar."""
        return {**self.__dict__, "bar": None}
