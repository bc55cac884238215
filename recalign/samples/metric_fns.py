"""Metrics that SeqIO tasks carry, so that any SeqIO evaluator (T5X's is one) reports ours.

An evaluator decodes what a model wrote, one sequence an example or K of them, hands it to the
task's `postprocess_fn` together with the example, and all of it to the task's `metric_fns`.

Ranking and rating ask for the probabilities of given answers, which an evaluator has only if it
hands them to the model (`recalign.t5x.evaluator.Evaluator` does). Without them a metric function
of theirs reports nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recalign import domains
from recalign.evaluation import metrics
from recalign.samples.items import domain_vocabulary, item_texts
from recalign.samples.rating import values_of_stars

NOT_AN_ITEM = -2


class NextItem(NamedTuple):
    """What a retrieval example asks for.

    Attributes:
      item: the item index to find.
      seen: int32[h], the whole history.
      given: int32[g], the tokens that the answer begins with.
    """

    item: int
    seen: np.ndarray
    given: np.ndarray


def next_item_or_texts(
    decoded: str | Sequence[str], example: Mapping[str, Any], is_target: bool
) -> NextItem | list[str]:
    """The `postprocess_fn` of retrieval tasks.

    Args:
      decoded: what was written; of several beams, the best comes last, as in T5X.
      example: with `item`, `seen` and `given`, see `recalign.samples.retrieval`.
      is_target: whether `decoded` is the example's target, or else a prediction.

    Returns:
      The target, or the predicted texts, best first.
    """
    if is_target:
        return NextItem(int(example["item"]), *(np.asarray(example[f]) for f in ("seen", "given")))
    return [decoded] if isinstance(decoded, str) else list(decoded)[::-1]


def full_ranking(
    targets: Sequence[NextItem],
    predictions: Sequence[Sequence[str]],
    domain: str,
    data_dir: str | None,
) -> dict[str, float]:
    """The metrics of lists of written items, `full/…` and `full_unseen/…`.

    A decoder that knows nothing of `seen` spends beams on items of the history. Their removal
    shortens the lists, so `full_unseen` has the cut-offs that the shortest list still reaches: ask
    for more beams to get more of them. An answer is an item, or the whole answer, what is given
    included, as a decoder writes it that is not told what is.

    Args:
      targets: of m examples.
      predictions: the texts written for each, best first, as many for each.
      domain: the prepared domain.
      data_dir: where it lives.

    Returns:
      The names and values of `recalign.evaluation.metrics.full_ranking`.
    """
    items = item_texts(domain, data_dir)
    # What the vocabulary reads from an item's tokens need not be the text they were made from.
    decode = domain_vocabulary(domain, data_dir).tokenizer.decode
    texts = decode(items.target_tokens.tolist())
    index_of = {"": metrics.EMPTY} | {text: item for item, text in enumerate(texts)}

    def read(text: str, begin: str) -> int:
        rest = text.removeprefix(f"{begin} ") if begin else text
        return index_of.get(text, index_of.get(rest, NOT_AN_ITEM))

    begins = decode([target.given.tolist() for target in targets])
    ranked = np.array(
        [
            [read(text, begin) for text in row]
            for row, begin in zip(predictions, begins, strict=True)
        ]
    )
    wanted = np.array([target.item for target in targets])
    offsets = np.cumsum([0, *(len(target.seen) for target in targets)])
    events = np.concatenate([np.zeros(0, np.int64), *(target.seen for target in targets)])
    unseen = metrics.remove_seen(ranked, offsets, events)
    removed = (unseen == metrics.EMPTY).sum(axis=1) - (ranked == metrics.EMPTY).sum(axis=1)
    depth = ranked.shape[1] - removed.max()
    found = metrics.full_ranking(ranked, wanted, len(texts))
    if depth:
        found |= metrics.full_ranking(unseen[:, :depth], wanted, len(texts), "full_unseen")
    return found


def column_of_target(decoded: Any, example: Mapping[str, Any], is_target: bool) -> int:
    """The `postprocess_fn` of ranking tasks: where the target stands among the candidates."""
    del decoded, is_target
    return int((example["candidates"] == example["item"]).argmax())


def candidate_ranking(targets: Sequence[int], scores: np.ndarray) -> dict[str, float]:
    """`cand<C>/…` of the scores of each example's candidates, float[m, C]."""
    if np.ndim(scores) != 2:  # one number an example is the score of its target
        return {}
    return metrics.candidate_ranking(np.asarray(scores), np.array(targets))


def rating_or_text(decoded: Any, example: Mapping[str, Any], is_target: bool) -> Any:
    """The `postprocess_fn` of rating tasks: the true rating, or what was written."""
    return float(example["rating"]) if is_target else decoded


def written_rating(
    targets: Sequence[float], predictions: Sequence[str], domain: str, data_dir: str | None
) -> dict[str, float]:
    """`rating/…` of one text an example; nothing of several, which no free answer comes with."""
    if not all(isinstance(text, str) for text in predictions):
        return {}
    scale = [*values_of_stars(domain, data_dir).values()]
    found = [metrics.rating_in(text, min(scale), max(scale)) for text in predictions]
    return metrics.rating(np.array(found), np.array(targets), _mean_rating(domain, data_dir))


def expected_rating(
    targets: Sequence[float], scores: np.ndarray, domain: str, data_dir: str | None
) -> dict[str, float]:
    """`rating_expected/…` of the scores of every rating there is in train, float[m, s]."""
    if np.ndim(scores) != 2:
        return {}
    values = np.array([*values_of_stars(domain, data_dir).values()])
    expected = metrics.expected_rating(scores, values)
    mean = _mean_rating(domain, data_dir)
    return metrics.as_expected(metrics.rating(expected, np.array(targets), mean))


def _mean_rating(domain: str, data_dir: str | None) -> float:
    return domains.statistics_of(domain, data_dir)["ratings"]["mean"]
