"""What a trained run recommends to whoever has bought some items of its catalogue."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from recalign.domains import Domain
from recalign.engine.search.catalogue_model import CatalogueModel
from recalign.engine.search.trie import EOS, PAD
from recalign.errors import UserError
from recalign.evaluation.data import Questions
from recalign.runs.run import Run
from recalign.serving.ids import Ids

EXAMPLES, EXAMPLE_ITEMS = 3, 5
"""Histories to begin with, and the items of each."""


class Ranking(NamedTuple):
    """The best items for each of m histories, best first.

    Attributes:
      items: int32[m, k], -1 in slots that no item is left for.
      scores: float32[m, k], log-probabilities of their texts.
      probabilities: float32[m, k], of each among the items of the catalogue, which have the sum 1.
    """

    items: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray


class Recommender:
    """Ranks the catalogue of a domain for histories; `of_run` makes one.

    Args:
      domain: the catalogue and the users.
      ask: writes histories (item indices, oldest first) as the model is asked about them, in
        `ask.longest` tokens at most.
      model: the network over the catalogue.
      params: the network's.
      item_tokens: int32[n, L], how the model writes each item, 0 padded.
      exact: scores every item of the catalogue, whatever the run's own options say.
    """

    def __init__(
        self,
        domain: Domain,
        ask: Questions,
        model: CatalogueModel,
        params: Any,
        item_tokens: np.ndarray,
        exact: bool = False,
    ):
        self.domain = domain
        self._ask = ask
        self._model = model
        self._params = params
        self._item_tokens = item_tokens
        self._exact = True if exact else None

    @property
    def depth(self) -> int:
        """How many items a beam of the run's own width can give."""
        return min(self._model.num_beams, self.domain.num_items)

    def warm_up(self, histories: Sequence[int], most: int) -> None:
        """Compiles all that rankings to `depth`, and `looked_at` of one history, may need.

        Args:
          histories: how many are asked at once: each such number.
          most: items of a history.
        """
        [given] = self._ask([[0]]).given  # of one length for every history
        self._model.warm_up(
            self._params,
            histories,
            self._ask.longest,
            most,
            self.depth,
            self._exact,
            len(given),
            self._item_tokens.shape[1],
        )

    def recommend(
        self, histories: Sequence[Sequence[int]], k: int, include_seen: bool = False
    ) -> Ranking:
        """The best k items for each history.

        Args:
          histories: item indices, oldest first; none is empty. The model reads the newest ones that
            fit its question, but none of them is recommended.
          k: how many, cut to the size of the catalogue.
          include_seen: also recommends items of the history.
        """
        excluded = [() if include_seen else history for history in histories]
        depth = min(k, self.domain.num_items)
        inputs, given = self._ask(histories)
        found, probabilities = self._model.recommend(
            self._params, inputs, excluded, depth, self._exact, given
        )
        return Ranking(*map(np.asarray, (*found, probabilities)))

    def looked_at(self, asked: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        """How much of the decoder's attention each item of a history has as it writes an item.

        See `retrieval.look_up_attention`. Words of the question beside the items have the rest, so
        that the sum is 1 at most; an item that the model does not read has 0.

        Args:
          asked: histories, as for `recommend`, each with the item that is written.
        """
        inputs, given = self._ask([history for history, _ in asked])
        rows = self._item_tokens[[item for _, item in asked]]
        written = [row[(row != PAD) & (row != EOS)] for row in rows]
        room = len(given[0]) + rows.shape[1]  # of one length for every history and item
        shares = self._model.attention(self._params, inputs, given, written, room)
        return [
            [float(share[place].sum()) for place in self._ask.places(history, question)]
            for (history, _), question, share in zip(asked, inputs, shares, strict=True)
        ]

    def rows(
        self, ranking: Ranking, place: int, history: Sequence[int], k: int | None = None
    ) -> list[dict[str, Any]]:
        """One history's ranking as rows.

        Args:
          ranking: of several.
          place: which.
          history: that was asked about.
          k: only the best so many; None for all.

        Returns:
          `rank` from 1, `score` and `probability`, `seen`, whether the history has it, and what
          `describe` tells.
        """
        seen = set(history)
        found = zip(*(values[place][:k].tolist() for values in ranking), strict=True)
        return [
            {
                "rank": rank,
                "score": score,
                "probability": probability,
                "seen": item in seen,
                **self.describe(item),
            }
            for rank, (item, score, probability) in enumerate(found, start=1)
            if item >= 0
        ]

    def describe(self, item: int) -> dict[str, str]:
        """`id` (the source's), `item` (as the model writes it), `title` and `brand`."""
        row = {name: str(self._table[name][item]) for name in ("key", "title", "brand")}
        return {
            "id": row["key"],
            "item": self.domain.item_ids[item],
            "title": row["title"],
            "brand": row["brand"],
        }

    def matches(self, words: str, most: int) -> list[int]:
        """At most so many items whose id, title or brand hold all the words, in index order."""
        wanted = words.casefold().split()
        holds = (i for i, text in enumerate(self._searched) if all(w in text for w in wanted))
        return list(itertools.islice(holds, most))

    def history(self, keys: Sequence[str]) -> list[int]:
        """The items with these ids, the source's or the model's.

        Raises:
          UserError: there is none, or one is unknown; see `Ids.find`.
        """
        if not keys:
            raise UserError("a history needs at least one item")
        return [self._item_ids.find(key) for key in keys]

    def history_of_user(self, key: str) -> list[int]:
        """All items of a user, oldest first, held-out ones included.

        Raises:
          UserError: the user is unknown; see `Ids.find`.
        """
        user = self._user_ids.find(key)
        return self.domain.events[slice(*self.domain.offsets[user : user + 2])].tolist()

    @functools.cached_property
    def example_histories(self) -> list[list[int]]:
        """What a few users bought before what came last, so that there is something to begin with.

        The same `EXAMPLES` each time, of at most `EXAMPLE_ITEMS`; fewer where users are few.
        """
        longer = np.flatnonzero(self.domain.lengths > 2)
        users = np.random.default_rng(self.domain.seed).permutation(longer)[:EXAMPLES]
        found = (self.domain.events[slice(*self.domain.offsets[u : u + 2])] for u in users)
        return [events[:-1][-EXAMPLE_ITEMS:].tolist() for events in found]

    @functools.cached_property
    def _table(self) -> dict[str, list]:
        return {name: self.domain.items[name].tolist() for name in ("key", "title", "brand")}

    @functools.cached_property
    def _searched(self) -> list[str]:
        return ["\n".join(texts).casefold() for texts in zip(*self._table.values(), strict=True)]

    @functools.cached_property
    def _item_ids(self) -> Ids:
        """The model's ids and the source's; where the two clash, the source's."""
        ours = {text: index for index, text in enumerate(self.domain.item_ids)}
        theirs = {key: index for index, key in enumerate(self._table["key"])}
        return Ids("item", self.domain.name, ours | theirs)

    @functools.cached_property
    def _user_ids(self) -> Ids:
        users = {key: index for index, key in enumerate(self.domain.user_keys)}
        return Ids("user", self.domain.name, users)


def of_run(run: Run, exact: bool = False, task: str | None = None) -> Recommender:
    """What a run would recommend; `exact` scores every item for each history.

    Raises:
      UserError: as for `Run.retrieval_examples`.
    """
    examples = run.retrieval_examples("test", 1, task)
    return Recommender(
        domain=examples.domain,
        ask=run.data.questions(examples.task),
        model=run.evaluation.catalogue_model(examples),
        params=run.restore()[1],
        item_tokens=run.data.item_tokens(examples.task),
        exact=exact,
    )
