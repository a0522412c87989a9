"""A progress bar over the epochs of all models, and the groups that they train in."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

__all__ = ["Progress"]


class Progress:
    """Bar over epochs, with the groups that are done and the best mean score so far.

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
        self.epochs: dict[tuple[int, int], int] = {}
        self.groups = [0, 0]
        self.bar = tqdm(total=total, unit="epoch", disable=not verbose)

    def begin(self, n_groups: int) -> None:
        """So many groups are going to train."""
        self.groups = [0, n_groups]

    def epoch(self, n_models: int) -> None:
        """An epoch of so many models is done, in this process."""
        if self.bar is not None:
            self.bar.update(n_models)

    def scored(self, models) -> None:
        """A group is done: show the best mean among the candidates that have all their scores."""
        self.groups[0] += 1
        for model in models:
            self.epochs[model.candidate, model.split] = model.n_iter
            scores = self.scores.setdefault(model.candidate, {})
            scores[model.split] = model.scores[self.main_score]
        self.bar.update(max(0, sum(self.epochs.values()) - self.bar.n))  # of another process
        means = [
            np.mean(list(s.values())) for s in self.scores.values() if len(s) == self.n_splits
        ]
        shown = {"groups": "{}/{}".format(*self.groups)}
        if np.isfinite(means).any():
            shown[f"best {self.main_score}"] = f"{np.nanmax(means):.4g}"
        self.bar.set_postfix(shown)

    def end(self) -> None:
        """All epochs are done: those of models that stopped or were dropped are not missing."""
        self.bar.total = self.bar.n
        self.bar.refresh()

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()

    def __getstate__(self) -> dict:
        """In another process there is no bar."""
        return {**self.__dict__, "bar": None}
