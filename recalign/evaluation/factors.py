"""Matrix factorisation for next-item prediction."""

from typing import Self

import numpy as np
import scipy.sparse as sp

from recalign.evaluation.rankers import Histories, VectorRanker, checked


class BPR(VectorRanker):
    """Matrix factorisation with the BPR loss (Rendle et al., UAI 2009), by the `implicit` library.

        score(x) = user vector · item vector + item bias,

    trained so that an item a user has scores above one drawn at random that he has not. It knows
    train interactions alone: what a history has beyond those does not change a user's vector, and
    a user without train interactions gets zeros.

    Args:
      factors: length of the vectors.
      learning_rate: of stochastic gradient descent.
      regularization: weight of the squared norms.
      epochs: passes over the interactions.
      seed: of initial values and of what is drawn. One thread makes the result depend on it alone.
    """

    def __init__(
        self,
        factors: int = 64,
        learning_rate: float = 0.05,
        regularization: float = 0.01,
        epochs: int = 200,
        seed: int = 0,
    ):
        self._options = {
            "factors": factors,
            "learning_rate": learning_rate,
            "regularization": regularization,
            "iterations": epochs,
            "random_state": seed,
        }

    def fit(self, offsets: np.ndarray, events: np.ndarray, num_items: int) -> Self:
        """See `recalign.evaluation.rankers.Ranker`."""
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        events = checked(offsets, events, num_items)
        taken = sp.csr_matrix(
            (np.ones(len(events), np.float32), events, offsets),
            shape=(len(offsets) - 1, num_items),
        )
        taken.sum_duplicates()
        model = BayesianPersonalizedRanking(num_threads=1, **self._options)
        model.fit(taken, show_progress=False)
        # The last column is an item's bias and 1 for every user.
        self._users, self.items = model.user_factors, model.item_factors
        return self

    def vectors(self, histories: Histories) -> np.ndarray:
        """The vector float32[m, D] of each history's user.

        Raises:
          ValueError: it is not told whose the histories are.
        """
        if histories.users is None:
            raise ValueError("BPR knows a history by its user, and there are no users")
        return self._users[histories.users]
