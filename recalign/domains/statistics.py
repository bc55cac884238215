"""What `statistics.json` says of a domain."""

import numpy as np

from recalign.domains.domain import MIN_EVENTS, SPLITS, Domain
from recalign.domains.rating import PARTS


def describe(domain: Domain) -> dict:
    """Counts of a domain, JSON-ready.

    Returns:
      `users`, `items`, `interactions`; `sparsity`, the share of the pairs of a user and an item
      that are in no interaction;
      `history_length` (mean, median, p95 and max of the number of events a user has);
      `users_without_test` (fewer than three events); `cold_test_items` (distinct test targets that
      are in no train event) and `cold_test_records` (test records with such a target);
      `records_train`, `records_validation`, `records_test`; and where the domain has a rating task,
      `ratings`: how many of them `train`, `validation` and `test` have, and the `values` and the
      `mean` of those of train.
    """
    lengths = domain.lengths
    seen = np.zeros(domain.num_items, bool)
    for piece in domain.pieces():
        seen[piece.train().events] = True
    targets = np.zeros(domain.num_items, np.int64)
    pairs = 0
    for piece in domain.pieces():
        users = np.repeat(np.arange(piece.num_users), piece.lengths)
        pairs += len(np.unique(users * domain.num_items + piece.events))
        np.add.at(targets, piece.split("test").targets, 1)
    cold = targets[~seen]
    return {
        "users": domain.num_users,
        "items": domain.num_items,
        "interactions": domain.num_events,
        "sparsity": round(1 - pairs / (domain.num_users * domain.num_items), 6),
        "history_length": {
            "mean": round(float(lengths.mean()), 3),
            "median": float(np.median(lengths)),
            "p95": float(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
        "users_without_test": int((lengths < MIN_EVENTS).sum()),
        "cold_test_items": int((cold > 0).sum()),
        "cold_test_records": int(cold.sum()),
        **{f"records_{name}": domain.num_examples(name) for name in SPLITS},
        **({"ratings": _ratings(domain)} if domain.has_rating_task else {}),
    }


def _ratings(domain: Domain) -> dict:
    counts, values, total = dict.fromkeys(PARTS, 0), np.zeros(0, np.float32), 0.0
    for piece in domain.pieces():
        for name, part in PARTS.items():
            counts[name] += int((piece.rating_parts == part).sum())
        train = piece.ratings[piece.rating_parts == PARTS["train"]]
        values = np.union1d(values, train)
        total += float(train.sum(dtype=np.float64))
    return {**counts, "values": values.tolist(), "mean": total / counts["train"]}
