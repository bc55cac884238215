"""Who is served: hit rates by what train knows of an example's target.

* `cold`: nobody bought the target in train.
* `head`: it is among the `HEAD` of all bought items that were bought most; `tail`: among the rest.
* `transition_seen`: somebody bought it in train right after the item that the history ends with;
  `transition_unseen`: nobody did.

The first three part the examples, and so do the last two.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from recalign.domains import Sequences
from recalign.evaluation.outcomes import Evaluated, Ranks, evaluate_lists
from recalign.evaluation.report import GROUP_METRIC, GROUP_SIZE, GROUPS

HEAD = 0.2
CUTOFF = 10  # of GROUP_METRIC


def group_examples(
    train: Sequences, num_items: int, offsets: np.ndarray, events: np.ndarray, targets: np.ndarray
) -> dict[str, np.ndarray]:
    """Which examples are in each of `GROUPS`, bool[m].

    Args:
      train: whole train sequences, one for each user.
      num_items: size of the catalogue.
      offsets: int64[m + 1], where each history starts in `events`.
      events: int[n], item indices of the histories, oldest first.
      targets: int[m], their next items.
    """
    bought = np.bincount(train.events, minlength=num_items)
    order = np.argsort(-bought, kind="stable")
    often = np.zeros(num_items, bool)
    often[order[: math.ceil(HEAD * np.count_nonzero(bought))]] = True
    pairs = train.events[:-1].astype(np.int64) * num_items + train.events[1:]
    crosses = np.zeros(len(train.events), bool)  # from one user to the next
    crosses[train.offsets[1:-1][train.offsets[1:-1] < len(train.events)]] = True
    known = np.unique(pairs[~crosses[1:]])
    has_history = np.diff(offsets) > 0
    last = np.zeros(len(targets), np.int64)
    last[has_history] = events[offsets[1:][has_history] - 1]
    seen = has_history & np.isin(last * num_items + targets, known)
    cold, head = bought[targets] == 0, often[targets]
    return dict(zip(GROUPS, (cold, ~cold & ~head, head, seen, ~seen), strict=True))


class Histories(Protocol):
    """Those that were ranked for; see `RetrievalExamples` for the attributes."""

    offsets: np.ndarray
    events: np.ndarray


def evaluate_rankings(
    ranked: Mapping[str, np.ndarray],
    train: Sequences,
    num_items: int,
    histories: Histories,
    targets: np.ndarray,
    users: np.ndarray,
) -> Evaluated:
    """Evaluates lists of the catalogue, int[m, K] by protocol, also by group.

    Args:
      ranked: the lists, see `outcomes.evaluate_lists`.
      train: as for `group_examples`.
      num_items: size of the catalogue.
      histories: m of them.
      targets: int[m], their next items.
      users: int[m], whose histories they are.
    """
    found = Evaluated({}, {})
    for protocol, lists in ranked.items():
        found |= evaluate_lists(lists, targets, num_items, protocol, users)
    return with_groups(found, train, num_items, histories.offsets, histories.events, targets)


def with_groups(
    evaluated: Evaluated,
    train: Sequences,
    num_items: int,
    offsets: np.ndarray,
    events: np.ndarray,
    targets: np.ndarray,
) -> Evaluated:
    """An evaluation of rankings with `<protocol>/hr@10/<group>`, where the group has examples.

    How many it has is `<protocol>/examples/<group>`. Arguments as for `group_examples`.
    """
    found = {}
    members = group_examples(train, num_items, offsets, events, targets)
    for protocol, part in evaluated.outcomes.items():
        if not isinstance(part, Ranks) or part.depth < CUTOFF:
            continue
        hits = (part.ranks > 0) & (part.ranks <= CUTOFF)
        for group, inside in members.items():
            found[f"{protocol}/{GROUP_SIZE}/{group}"] = float(inside.sum())
            if inside.any():
                found[f"{protocol}/{GROUP_METRIC}/{group}"] = float(hits[inside].mean())
    return dataclasses.replace(evaluated, metrics=evaluated.metrics | found)
