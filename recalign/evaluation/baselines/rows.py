"""The rows that stand beside a model: baselines by name, all judged by `metrics`.

Every baseline learns from train interactions (or train ratings) alone; those that have something to
choose, such as when to stop, choose it on the validation split.
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recalign.domains import Domain, Sequences, Split
from recalign.domains.raw import ticks_per_second
from recalign.errors import UserError
from recalign.evaluation import outcomes
from recalign.evaluation.baselines import kept
from recalign.evaluation.baselines.counting import ItemCooccurrence, Popularity
from recalign.evaluation.baselines.rankers import Histories, Ranker
from recalign.evaluation.baselines.raters import BiasedMF, GlobalMean, GroupMean, Rater, Ratings
from recalign.evaluation.examples import (
    Examples,
    RankingExamples,
    RatingExamples,
    RetrievalExamples,
)
from recalign.evaluation.groups import evaluate_rankings
from recalign.evaluation.metrics import CUTOFFS
from recalign.evaluation.outcomes import Evaluated, summarise
from recalign.progress import track

log = logging.getLogger(__name__)

Rows = dict[str, dict[str, float]]

DAY = 86_400  # seconds


def _validation_of(domain: Domain) -> tuple[Split, np.ndarray]:
    """What a baseline chooses by: histories of validation, and their next items."""
    held = domain.split("validation")
    return held, held.targets


def _bpr(domain: Domain, seed: int) -> Ranker:
    from recalign.evaluation.baselines.factors import BPR

    return BPR(*_validation_of(domain), seed=seed)


def _ease(domain: Domain, seed: int) -> Ranker:
    from recalign.evaluation.baselines.closed_form import EASE

    return EASE(*_validation_of(domain))


def _slit(domain: Domain, seed: int) -> Ranker:
    from recalign.evaluation.baselines.closed_form import SLIT

    return SLIT(*_validation_of(domain))


def _tale(domain: Domain, seed: int) -> Ranker:
    from recalign.evaluation.baselines.closed_form import TALE, fill_times

    times = domain.train_times()
    days = fill_times(domain.train().offsets, times) / (DAY * ticks_per_second(times))
    return TALE(*_validation_of(domain), days)


def _sasrec(domain: Domain, seed: int) -> Ranker:
    from recalign.evaluation.baselines.sasrec.ranker import SASRecRanker
    from recalign.evaluation.baselines.sasrec.training import Recipe

    return SASRecRanker(*_validation_of(domain), Recipe(seed=seed))


def _sasrec_prefixes(domain: Domain, seed: int, **sizes: Any) -> Ranker:
    from recalign.evaluation.baselines.sasrec.ranker import SASRecRanker
    from recalign.evaluation.baselines.sasrec.training import Recipe

    recipe = Recipe(seed=seed, prefixes=True, learning_rate=5e-4, weight_decay=1e-4)
    return SASRecRanker(
        *_validation_of(domain), recipe, dim=64, num_heads=1, newest_first=True, **sizes
    )


def _bsarec(domain: Domain, seed: int) -> Ranker:
    return _sasrec_prefixes(domain, seed, low_pass=5, filter_share=0.7)


def _check_closed_form(domain: Domain, label: str) -> None:
    from recalign.evaluation.baselines.closed_form import check_memory

    check_memory(domain.num_items, label)


def _check_tale(domain: Domain, label: str) -> None:
    times = domain.train_times()
    if times is None or np.isnan(times).all():
        raise UserError(
            f"{label} weighs neighbours by the time between them, and {domain.name} has no "
            "timestamps: choose slit, which counts events instead"
        )
    _check_closed_form(domain, label)


class Ranking(NamedTuple):
    """A baseline that ranks the catalogue.

    Attributes:
      label: its name in tables.
      make: makes one for a domain and a seed, not fitted yet.
      seeded: whether the seed changes it.
      check: given the domain and the label, raises a UserError where it cannot be fitted.
    """

    label: str
    make: Callable[[Domain, int], Ranker]
    seeded: bool = False
    check: Callable[[Domain, str], None] = lambda domain, label: None


class Rating(NamedTuple):
    """A baseline that predicts ratings; its attributes are those of `Ranking`."""

    label: str
    make: Callable[[Ratings, int], Rater]
    seeded: bool = False


# By the name on the command line.
RANKERS: Mapping[str, Ranking] = {
    "popularity": Ranking("popularity", lambda domain, seed: Popularity()),
    "cooccurrence": Ranking("item co-occurrence", lambda domain, seed: ItemCooccurrence()),
    "bpr": Ranking("BPR-MF", _bpr, seeded=True),
    "ease": Ranking("EASE", _ease, check=_check_closed_form),
    "slit": Ranking("SLIT", _slit, check=_check_closed_form),
    "tale": Ranking("TALE", _tale, check=_check_tale),
    "sasrec": Ranking("SASRec", _sasrec, seeded=True),
    "sasrec_prefixes": Ranking("SASRec, prefixes", _sasrec_prefixes, seeded=True),
    "bsarec": Ranking("BSARec", _bsarec, seeded=True),
}
RATERS: Mapping[str, Rating] = {
    "global_mean": Rating("global mean", lambda held, seed: GlobalMean()),
    "user_mean": Rating("user mean", lambda held, seed: GroupMean("users")),
    "item_mean": Rating("item mean", lambda held, seed: GroupMean("items")),
    "biased_mf": Rating("biased MF", lambda held, seed: BiasedMF(held, seed=seed), seeded=True),
}
FREE = ("popularity", "cooccurrence")
"""The rankers that need no training, beside every evaluation."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A baseline on a split.

    Attributes:
      seeds: what it came to with each seed; one where it has none.
      seconds: how long a fit took, on average.
    """

    seeds: Sequence[Evaluated]
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Means over seeds with the ends of their intervals, see `summarise`."""
        return summarise(self.seeds)


def beside(examples: Examples) -> Rows:
    """The rows beside a model on the examples of a task, by their names in tables.

    Those of ranking are the ones that need no training, those of ratings are all; their metrics
    have the protocols of the task and intervals.
    """
    rated = isinstance(examples, RatingExamples)
    # A domain's seed, so that two evaluations of it have the same rows.
    seed = examples.domain.seed if rated else 0
    return {
        (RANKERS | RATERS)[name].label: summarise([evaluate_examples(name, examples, seed)])
        for name in (RATERS if rated else FREE)
    }


def domain_rows(
    domain: Domain, split: str, names: Collection[str] = (), seeds: Sequence[int] = (0,)
) -> dict[str, Row]:
    """Fits baselines to a domain, or reads what was fitted before, and evaluates them on a split.

    Args:
      domain: with candidate lists.
      split: "validation" or "test".
      names: of `RANKERS` and `RATERS`; none for all that the domain and the machine allow.
      seeds: of what is random in them.

    Returns:
      `full/…`, `full_unseen/…` and `cand<C>/…` of rankers, `rating/…` of raters, by their names
      in tables.

    Raises:
      UserError: there is no such baseline, or it cannot be fitted to the domain.
    """
    for name in names:
        check(domain, name)
    return {
        (RANKERS | RATERS)[name].label: _row(domain, split, name, seeds)
        for name in track(names or possible(domain), f"baselines of {domain.name}", "baseline")
    }


def _row(domain: Domain, split: str, name: str, seeds: Sequence[int]) -> Row:
    found, seconds = [], []
    for seed in seeds if (RANKERS | RATERS)[name].seeded else seeds[:1]:
        if name in RANKERS:
            model, taken = fitted_ranker(domain, name, seed)
            examples = domain.split(split)
            asked = examples, examples.targets
            found.append(
                evaluate_ranker(model, domain.train(), *asked, domain.num_items)
                | evaluate_choices(model, *asked, domain.candidates(split))
            )
        else:
            model, taken = fitted_rater(domain, name, seed)
            train = domain.rating_split("train")
            found.append(evaluate_rater(model, train, domain.rating_split(split)))
        seconds.append(taken)
    return Row(found, float(np.mean(seconds)))


def check(domain: Domain, name: str) -> None:
    """Finds out whether a baseline can be fitted to a domain.

    Raises:
      UserError: it cannot, or there is none of that name; what there is is said.
    """
    if name not in RANKERS and name not in RATERS:
        known = ", ".join([*RANKERS, *RATERS])
        raise UserError(f"there is no baseline {name!r}; there are {known}")
    if name in RATERS and not domain.has_rating_task:
        raise UserError(
            f"{name} predicts ratings, and {domain.name} has none (or too few to split): "
            f"choose from {', '.join(RANKERS)}"
        )
    if name in RANKERS:
        RANKERS[name].check(domain, RANKERS[name].label)


def check_ranker(domain: Domain, name: str) -> None:
    """As `check`, of a baseline that is to rank the catalogue."""
    if name not in RANKERS:
        what = "predicts ratings" if name in RATERS else "is neither a run's folder nor a baseline"
        raise UserError(f"{name!r} {what}; those that rank are {', '.join(RANKERS)}")
    check(domain, name)


def possible(domain: Domain) -> list[str]:
    """The baselines that can be fitted to a domain; why others of its kind cannot is logged."""
    found = []
    for name in [*RANKERS, *(RATERS if domain.has_rating_task else ())]:
        try:
            check(domain, name)
        except UserError as error:
            log.warning("%s is left out: %s", name, error)
        else:
            found.append(name)
    return found


def fitted_ranker(domain: Domain, name: str, seed: int = 0) -> tuple[Ranker, float]:
    """A ranker of `RANKERS`, fitted to a domain now or before, and the seconds that it took.

    One that has no seed is one fit, whatever the seed.
    """
    seed = seed if RANKERS[name].seeded else 0

    def fit(ranker: Ranker) -> Ranker:
        return ranker.fit(*domain.train(), domain.num_items)

    return kept.fit_once(domain, name, seed, RANKERS[name].make(domain, seed), fit)


def fitted_rater(domain: Domain, name: str, seed: int = 0) -> tuple[Rater, float]:
    """A rater of `RATERS`, as of `fitted_ranker`."""
    seed = seed if RATERS[name].seeded else 0

    def fit(rater: Rater) -> Rater:
        return rater.fit(domain.rating_split("train"), domain.num_users, domain.num_items)

    made = RATERS[name].make(domain.rating_split("validation"), seed)
    return kept.fit_once(domain, name, seed, made, fit)


def evaluate_examples(name: str, examples: Examples, seed: int = 0) -> Evaluated | None:
    """What a baseline comes to on the examples of a task; None if it is none of their kind."""
    domain = examples.domain
    match examples:
        case RatingExamples() if name in RATERS:
            model, _ = fitted_rater(domain, name, seed)
            found = evaluate_rater(model, domain.rating_split("train"), examples)
            return found | outcomes.as_expected(found)
        case RankingExamples() if name in RANKERS:
            model, _ = fitted_ranker(domain, name, seed)
            return evaluate_choices(model, examples, examples.targets, examples.candidates)
        case RetrievalExamples() if name in RANKERS:
            model, _ = fitted_ranker(domain, name, seed)
            train, targets = domain.train(), examples.targets
            return evaluate_ranker(model, train, examples, targets, domain.num_items)
    return None


def evaluate_ranker(
    ranker: Ranker, train: Sequences, histories: Histories, targets: np.ndarray, num_items: int
) -> Evaluated:
    """`full/…` and `full_unseen/…` of a fitted ranker, also by group, of which `train` tells."""
    ranked = {
        protocol: ranker.rank(histories, k=max(CUTOFFS), remove_seen=remove_seen)
        for protocol, remove_seen in (("full", False), ("full_unseen", True))
    }
    users = _users(histories, len(targets))
    return evaluate_rankings(ranked, train, num_items, histories, targets, users)


def evaluate_choices(
    ranker: Ranker, histories: Histories, targets: np.ndarray, candidates: np.ndarray
) -> Evaluated:
    """`cand<C>/…` of a fitted ranker; each row of candidates holds its target once."""
    positives = (candidates == targets[:, None]).argmax(axis=1)
    scores = ranker.score(histories, candidates)
    return outcomes.evaluate_candidates(scores, positives, _users(histories, len(targets)))


def evaluate_rater(rater: Rater, train: Ratings, test: Ratings) -> Evaluated:
    """`rating/…` of a fitted rater; the mean train rating stands in for what is not a number."""
    predicted = rater.predict(test.users, test.items)
    fallback = float(np.mean(train.ratings, dtype=float))
    return outcomes.evaluate_ratings(predicted, test.ratings, fallback, test.users)


def _users(histories: Histories, number: int) -> np.ndarray:
    """Whose the histories are; where that is not known, as many users as there are histories."""
    return np.arange(number) if histories.users is None else histories.users
