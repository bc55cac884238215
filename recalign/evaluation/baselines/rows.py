"""The rows that stand beside a model: baselines by name, all judged by `metrics`.

Every baseline learns from train interactions (or train ratings) alone; those that have something to
choose, such as when to stop, choose it on the validation split.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping

import numpy as np

from recalign.domains import Domain, Sequences, Split
from recalign.errors import UserError
from recalign.evaluation.baselines.counting import ItemCooccurrence, Popularity
from recalign.evaluation.baselines.rankers import Histories, Ranker
from recalign.evaluation.baselines.raters import BiasedMF, GlobalMean, GroupMean, Rater, Ratings
from recalign.evaluation.metrics import CUTOFFS, candidate_ranking, full_ranking, rating

log = logging.getLogger(__name__)

Rows = dict[str, dict[str, float]]


def _bpr(held: Split, seed: int) -> Ranker:
    from recalign.evaluation.baselines.factors import BPR

    return BPR(held, held.targets, seed=seed)


def _ease(held: Split, seed: int) -> Ranker:
    from recalign.evaluation.baselines.closed_form import EASE

    return EASE(held, held.targets)


def _slit(held: Split, seed: int) -> Ranker:
    from recalign.evaluation.baselines.closed_form import SLIT

    return SLIT(held, held.targets)


def _sasrec(held: Split, seed: int) -> Ranker:
    from recalign.evaluation.baselines.sasrec.ranker import SASRecRanker
    from recalign.evaluation.baselines.sasrec.training import Recipe

    return SASRecRanker(held, held.targets, Recipe(seed=seed))


# Name on the command line: name in tables, and what makes one of what it may choose by and a seed.
RANKERS: Mapping[str, tuple[str, Callable[[Split, int], Ranker]]] = {
    "popularity": ("popularity", lambda held, seed: Popularity()),
    "cooccurrence": ("item co-occurrence", lambda held, seed: ItemCooccurrence()),
    "bpr": ("BPR-MF", _bpr),
    "ease": ("EASE", _ease),
    "slit": ("SLIT", _slit),
    "sasrec": ("SASRec", _sasrec),
}
RATERS: Mapping[str, tuple[str, Callable[[Ratings, int], Rater]]] = {
    "global_mean": ("global mean", lambda held, seed: GlobalMean()),
    "user_mean": ("user mean", lambda held, seed: GroupMean("users")),
    "item_mean": ("item mean", lambda held, seed: GroupMean("items")),
    "biased_mf": ("biased MF", lambda held, seed: BiasedMF(held, seed=seed)),
}
FREE = ("popularity", "cooccurrence")
"""The rankers that need no training, beside every evaluation."""


def baseline_metrics(
    train: Sequences,
    histories: Histories,
    targets: np.ndarray,
    num_items: int,
) -> Rows:
    """Rows of the report, of the rankers that need no training.

    Args:
      train: whole train sequences, one for each user.
      histories: of the m examples judged; a pair of offsets and events will do.
      targets: int[m], their next items.
      num_items: size of the catalogue.

    Returns:
      `full/…` and `full_unseen/…` of each baseline by its name in tables.
    """
    return {
        name: ranking_metrics(ranker, Histories(*histories), targets, num_items)
        for name, ranker in _free(train, num_items).items()
    }


def candidate_rows(
    train: Sequences,
    histories: Histories,
    targets: np.ndarray,
    candidates: np.ndarray,
    num_items: int,
) -> Rows:
    """As `baseline_metrics`, but `cand<C>/…`: candidates int[m, C], each row with its target."""
    return {
        name: candidate_metrics(ranker, Histories(*histories), targets, candidates)
        for name, ranker in _free(train, num_items).items()
    }


def rating_rows(
    train: Ratings,
    validation: Ratings,
    test: Ratings,
    num_users: int,
    num_items: int,
    seed: int = 0,
) -> Rows:
    """Rows of the report, of every baseline of rating prediction.

    Args:
      train: what they learn from.
      validation: what decides on the regularisation of matrix factorisation.
      test: what is judged.
      num_users: users are 0 … num_users−1.
      num_items: items are 0 … num_items−1.
      seed: of matrix factorisation.

    Returns:
      `rating/…` of each baseline by its name in tables.
    """
    raters = {label: make(validation, seed) for label, make in RATERS.values()}
    return {
        name: rating_metrics(rater.fit(train, num_users, num_items), train, test)
        for name, rater in raters.items()
    }


def domain_rows(domain: Domain, split: str, names: Collection[str] = (), seed: int = 0) -> Rows:
    """Fits baselines to a domain and judges them on a split.

    Args:
      domain: with candidate lists.
      split: "validation" or "test".
      names: of `RANKERS` and `RATERS`; none for all that the domain allows.
      seed: of what is random in them.

    Returns:
      `full/…`, `full_unseen/…` and `cand<C>/…` of rankers, `rating/…` of raters, by their names
      in tables.

    Raises:
      UserError: there is no such baseline, or it needs ratings that the domain does not have.
    """
    rated = domain.has_rating_task
    names = names or [*RANKERS, *(RATERS if rated else ())]
    for name in names:
        if name not in RANKERS and name not in RATERS:
            known = ", ".join([*RANKERS, *RATERS])
            raise UserError(f"there is no baseline {name!r}; there are {known}")
        if name in RATERS and not rated:
            raise UserError(
                f"{name} predicts ratings, and {domain.name} has none (or too few to split): "
                f"choose from {', '.join(RANKERS)}"
            )
    rows = {}
    for name in names:
        begin = time.perf_counter()
        label = (RANKERS | RATERS)[name][0]
        judge = _rank_domain if name in RANKERS else _rate_domain
        rows[label] = judge(domain, split, name, seed)
        log.info("%s: fitted and judged in %.1f s", label, time.perf_counter() - begin)
    return rows


def ranking_metrics(
    ranker: Ranker, histories: Histories, targets: np.ndarray, num_items: int
) -> dict[str, float]:
    """`full/…` and `full_unseen/…` of a fitted ranker."""
    found = {}
    for protocol, remove_seen in (("full", False), ("full_unseen", True)):
        ranked = ranker.rank(histories, k=max(CUTOFFS), remove_seen=remove_seen)
        found |= full_ranking(ranked, targets, num_items, protocol)
    return found


def candidate_metrics(
    ranker: Ranker, histories: Histories, targets: np.ndarray, candidates: np.ndarray
) -> dict[str, float]:
    """`cand<C>/…` of a fitted ranker; each row of candidates holds its target once."""
    positives = (candidates == targets[:, None]).argmax(axis=1)
    return candidate_ranking(ranker.score(histories, candidates), positives)


def rating_metrics(rater: Rater, train: Ratings, test: Ratings) -> dict[str, float]:
    """`rating/…` of a fitted rater; the mean train rating stands in for what is not a number."""
    predicted = rater.predict(test.users, test.items)
    return rating(predicted, test.ratings, fallback=float(np.mean(train.ratings, dtype=float)))


def _free(train: Sequences, num_items: int) -> dict[str, Ranker]:
    made = (RANKERS[name] for name in FREE)
    return {label: make(None, 0).fit(*train, num_items) for label, make in made}


def _rank_domain(domain: Domain, split: str, name: str, seed: int) -> dict[str, float]:
    examples = domain.split(split)
    ranker = RANKERS[name][1](domain.split("validation"), seed).fit(
        *domain.train(), domain.num_items
    )
    return ranking_metrics(
        ranker, examples, examples.targets, domain.num_items
    ) | candidate_metrics(ranker, examples, examples.targets, domain.candidates(split))


def _rate_domain(domain: Domain, split: str, name: str, seed: int) -> dict[str, float]:
    train = domain.rating_split("train")
    rater = RATERS[name][1](domain.rating_split("validation"), seed).fit(
        train, domain.num_users, domain.num_items
    )
    return rating_metrics(rater, train, domain.rating_split(split))
