"""Matrix factorisation for next-item prediction."""

from typing import Self

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from recalign.evaluation.baselines.rankers import Histories, VectorRanker, check_events
from recalign.progress import track


class BPR(VectorRanker):
    """Matrix factorisation with the BPR loss (Rendle et al., UAI 2009), by the `implicit` library.

        score(x) = user vector · item vector + item bias,

    trained so that an item a user has scores above one drawn at random that he has not. It knows
    train interactions alone: what a history has beyond those does not change a user's vector, and
    a user without train interactions gets zeros.

    Args:
      validation: histories to stop early by, or None to train all epochs.
      targets: int[m], their next items; with `validation` alone.
      factors: length of the vectors.
      learning_rate: of stochastic gradient descent.
      regularization: weight of the squared norms.
      epochs: passes over the interactions at most.
      period: epochs between two looks at the validation NDCG@10, seen items removed.
      patience: stops when so many looks in a row saw nothing better; the best vectors are kept.
      seed: of initial values and of what is drawn. One thread makes the result depend on it alone.
    """

    FITTED = ("_users", "items")

    def __init__(
        self,
        validation: Histories | None = None,
        targets: np.ndarray | None = None,
        factors: int = 64,
        learning_rate: float = 0.05,
        regularization: float = 0.01,
        epochs: int = 400,
        period: int = 20,
        patience: int = 3,
        seed: int = 0,
    ):
        self._validation, self._targets = validation, targets
        self._looks, self._patience, self._seed = -(-epochs // period), patience, seed
        self._options = {
            "factors": factors,
            "learning_rate": learning_rate,
            "regularization": regularization,
            "iterations": period,
        }

    def fit(self, offsets: np.ndarray, events: np.ndarray, num_items: int) -> Self:
        """See `recalign.evaluation.baselines.rankers.Ranker`."""
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        events = check_events(offsets, events, num_items)
        taken = sp.csr_matrix(
            (np.ones(len(events), np.float32), events, offsets),
            shape=(len(offsets) - 1, num_items),
        )
        taken.sum_duplicates()
        # The library warns of the threads of BLAS where they are left on.
        with threadpool_limits(1, "blas"):
            model = BayesianPersonalizedRanking(num_threads=1, **self._options)
            best, best_value, best_look = None, -np.inf, 0
            for look in track(range(self._looks), "BPR-MF", "look"):
                # A second call goes on from the vectors of the first; the same seed would draw the
                # same triples again.
                model.random_state = np.random.default_rng([self._seed, look])
                model.fit(taken, show_progress=False)
                # The last column is an item's bias and 1 for every user.
                self._users, self.items = model.user_factors.copy(), model.item_factors.copy()
                value = self._judge() if self._validation is not None else float(look)
                if value > best_value:
                    best, best_value, best_look = (self._users, self.items), value, look
                elif look - best_look >= self._patience:
                    break
        self._users, self.items = best
        return self

    def _judge(self) -> float:
        return self.unseen_ndcg(self._validation, self._targets)

    def vectors(self, histories: Histories) -> np.ndarray:
        """The vector float32[m, D] of each history's user.

        Raises:
          ValueError: it is not told whose the histories are.
        """
        if histories.users is None:
            raise ValueError("BPR knows a history by its user, and there are no users")
        return self._users[histories.users]
