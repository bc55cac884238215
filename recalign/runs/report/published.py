"""What others have reached on the standard sets, each in its own protocol."""

from collections.abc import Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """A published row.

    Attributes:
      name: of the model.
      source: where it was published.
      metrics: "hr@10" and the like, of one protocol.
    """

    name: str
    source: str
    metrics: Mapping[str, float]


# Users, items and interactions of the sets that the rows are of.
STANDARD = {
    "beauty": (22_363, 12_101, 198_502),
    "toys": (19_412, 11_924, 167_597),
    "sports": (35_598, 18_357, 296_337),
}
_AT_10 = ("hr@10", "ndcg@10")
_AT_5_AND_10 = ("hr@5", "ndcg@5", "hr@10", "ndcg@10")
# By protocol: model, source, and for Beauty, Toys and Sports the metrics, None where not published.
_ROWS = {
    "full_unseen": (
        ("BSARec, full cross-entropy", "RecBoard, mean of 5 seeds", _AT_10,
         (0.1002, 0.0610), (0.1078, 0.0663), (0.0603, 0.0348)),
        ("HSTU, 512 negatives", "RecBoard", _AT_10,
         (0.0945, 0.0543), (0.0997, 0.0598), (0.0587, 0.0332)),
        ("SASRec, sampled softmax", "transformer_benchmark", _AT_10,
         (0.0921, 0.0531), (0.0970, 0.0580), (0.0569, 0.0314)),
        ("T5-TIGER, best ids", "RecBoard", _AT_10,
         (0.0717, 0.0395), (0.0703, 0.0387), (0.0436, 0.0234)),
    ),
    "full": (
        ("RPG", "its paper", _AT_5_AND_10,
         (0.0550, 0.0381, 0.0809, 0.0464), (0.0592, 0.0401, 0.0869, 0.0490),
         (0.0314, 0.0216, 0.0463, 0.0263)),
        ("RPG, run again", "cornac", _AT_5_AND_10,
         (0.0533, 0.0372, 0.0789, 0.0454), (0.0613, 0.0415, 0.0898, 0.0506),
         (0.0288, 0.0198, 0.0420, 0.0241)),
        ("TIGER", "its paper", _AT_5_AND_10,
         (0.0454, 0.0321, 0.0648, 0.0384), (0.0521, 0.0371, 0.0712, 0.0432),
         (0.0264, 0.0181, 0.0400, 0.0225)),
        ("S3-Rec", "the P5 paper", _AT_5_AND_10,
         (0.0387, 0.0244, 0.0647, 0.0327), (0.0443, 0.0294, 0.0700, 0.0376),
         (0.0251, 0.0161, 0.0385, 0.0204)),
        ("SASRec", "the P5 paper", _AT_5_AND_10,
         (0.0387, 0.0249, 0.0605, 0.0318), (0.0463, 0.0306, 0.0675, 0.0374),
         (0.0233, 0.0154, 0.0350, 0.0192)),
        ("P5, leak removed", "the TIGER paper", _AT_5_AND_10,
         (0.0163, 0.0107, 0.0254, 0.0136), (0.0070, 0.0050, 0.0121, 0.0066),
         (0.0061, 0.0041, 0.0095, 0.0052)),
    ),
}  # fmt: skip


def find_published(statistics: Mapping | None, protocol: str, split: str) -> list[Row]:
    """The rows that may stand in a table: of test, of this protocol, of the very same set.

    Args:
      statistics: of the domain, by which it is known whatever its name; None where it is not there.
      protocol: "full" or "full_unseen"; others have no row.
      split: "validation" or "test".
    """
    if statistics is None or split != "test":
        return []
    counts = tuple(statistics.get(name) for name in ("users", "items", "interactions"))
    place = next((i for i, known in enumerate(STANDARD.values()) if known == counts), None)
    if place is None:
        return []
    return [
        Row(name, source, dict(zip(names, values[place], strict=True)))
        for name, source, names, *values in _ROWS.get(protocol, ())
    ]
