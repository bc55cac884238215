"""How metrics differ by how well known a target is, and from one run to another."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from recalign.domains import Domain
from recalign.errors import UserError
from recalign.evaluation.outcomes import Outcomes, Ranks, estimate
from recalign.runs.report.subject import Subject

HEAD = 0.2
"""The share of the catalogue that is called its head: the items with most train events."""

Row = dict[str, float]


def by_group(domain: Domain, split: str, outcomes: Outcomes) -> Iterator[tuple[str, int, Row]]:
    """The metrics of the examples whose targets are of one kind.

    Args:
      domain: of the examples.
      split: likewise.
      outcomes: what they came to; those that are ranks count.

    Yields:
      For the head of the catalogue, its tail, and cold items, which no train event has: what they
      are called, the number of examples, and their metrics, see `outcomes.estimate`.
    """
    of_split = domain.split(split)
    counts = np.bincount(domain.train().events, minlength=domain.num_items)
    popular = np.zeros(domain.num_items, bool)
    popular[np.argsort(-counts, kind="stable")[: round(HEAD * domain.num_items)]] = True
    groups = {
        f"head, the {HEAD:.0%} of items with most events": popular & (counts > 0),
        "tail": ~popular & (counts > 0),
        "cold, without a train event": counts == 0,
    }
    ranked = {name: part for name, part in outcomes.items() if isinstance(part, Ranks)}
    for group, members in groups.items():
        chosen = {
            name: dataclasses.replace(part, users=part.users[rows], ranks=part.ranks[rows])
            for name, part in ranked.items()
            if (rows := members[_targets(of_split, part.users)]).any()
        }
        if chosen:
            yield group, len(next(iter(chosen.values())).users), estimate(chosen)


def _targets(split, users: np.ndarray) -> np.ndarray:
    """int32[m], what was sought for each user."""
    return split.targets[np.searchsorted(split.users, users)]


def differences(subjects: Sequence[Subject]) -> Iterator[tuple[str, str, str, Row]]:
    """By what runs are ahead of the first one of them, user by user.

    Yields:
      A task, a split, the name of a run and its row, see `outcomes.estimate`; of tasks that both
      were evaluated on, on the same content of their domain.
    """
    first, *others = subjects
    for split, tasks in first.outcomes.items():
        for task, (domain, outcomes) in tasks.items():
            for other in others:
                theirs, found = other.outcomes.get(split, {}).get(task, (None, {}))
                if theirs != domain:
                    continue
                try:
                    row = estimate(found, [outcomes])
                except UserError:  # of other users: other EVAL_EXAMPLES
                    continue
                yield task, split, other.name, row
