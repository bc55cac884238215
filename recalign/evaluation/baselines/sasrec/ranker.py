"""SASRec as a baseline of next-item prediction."""

from typing import Any, Self

import numpy as np

from recalign.evaluation.baselines.rankers import Histories, VectorRanker, check_events
from recalign.evaluation.baselines.sasrec.network import SASRec, SASRecConfig
from recalign.evaluation.baselines.sasrec.training import Recipe, fit, last_states


class SASRecRanker(VectorRanker):
    """SASRec of the epoch with the best validation NDCG@10, seen items removed.

    Args:
      validation: histories to stop early by, or None to train `Recipe.epochs` whole epochs.
      targets: int[m], their next items; with `validation` alone.
      recipe: how to train.
      **sizes: fields of `SASRecConfig` other than `num_items`.
    """

    FITTED = ("params",)

    params: Any

    def __init__(
        self,
        validation: Histories | None = None,
        targets: np.ndarray | None = None,
        recipe: Recipe | None = None,
        **sizes: Any,
    ):
        self._validation, self._targets = validation, targets
        self._recipe, self._sizes = recipe or Recipe(), sizes

    def fit(self, offsets: np.ndarray, events: np.ndarray, num_items: int) -> Self:
        """See `recalign.evaluation.baselines.rankers.Ranker`."""
        check_events(offsets, events, num_items)
        judge = self._validation_ndcg if self._validation is not None else None
        self.params = fit(self._config(num_items), self._recipe, offsets, events, judge)
        return self

    @property
    def items(self) -> np.ndarray:
        """See `VectorRanker`."""
        return np.asarray(self.params["items"]["embedding"])

    def vectors(self, histories: Histories) -> np.ndarray:
        """The state float32[m, D] after each history."""
        module = SASRec(self._config(len(self.items)))
        return last_states(module, self.params, histories.offsets, histories.events)

    def _config(self, num_items: int) -> SASRecConfig:
        return SASRecConfig(num_items, **self._sizes)

    def _validation_ndcg(self, params: Any) -> float:
        self.params = params
        return self.unseen_ndcg(self._validation, self._targets)
