"""What `statistics.json` says of a domain."""

import numpy as np

from recalign.domains.domain import MIN_EVENTS, SPLITS, Domain
from recalign.domains.rating import PARTS


def describe(domain: Domain) -> dict:
    """Counts of a domain, JSON-ready.

    Returns:
      `users`, `items`, `interactions`; `sparsity` = 1 - interactions / (users × items);
      `history_length` (mean, median, p95 and max of the number of events a user has);
      `users_without_test` (fewer than three events); `cold_test_items` (distinct test targets that
      are in no train event) and `cold_test_records` (test records with such a target);
      `records_train`, `records_validation`, `records_test`; and where the domain has a rating task,
      `ratings`: how many of them `train`, `validation` and `test` have, and the `values` and the
      `mean` of those of train.
    """
    lengths = domain.lengths
    seen = np.zeros(domain.num_items, bool)
    seen[domain.train().events] = True
    test_targets = domain.split("test").targets
    cold = test_targets[~seen[test_targets]]
    return {
        "users": domain.num_users,
        "items": domain.num_items,
        "interactions": len(domain.events),
        "sparsity": round(1 - len(domain.events) / (domain.num_users * domain.num_items), 6),
        "history_length": {
            "mean": round(float(lengths.mean()), 3),
            "median": float(np.median(lengths)),
            "p95": float(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
        "users_without_test": int((lengths < MIN_EVENTS).sum()),
        "cold_test_items": len(np.unique(cold)),
        "cold_test_records": len(cold),
        **{f"records_{name}": len(domain.split(name)) for name in SPLITS},
        **({"ratings": _ratings(domain)} if domain.has_rating_task else {}),
    }


def _ratings(domain: Domain) -> dict:
    counts = {name: int((domain.rating_parts == part).sum()) for name, part in PARTS.items()}
    train = domain.ratings[domain.rating_parts == PARTS["train"]]
    return {
        **counts,
        "values": np.unique(train).tolist(),
        "mean": float(train.mean(dtype=np.float64)),
    }
