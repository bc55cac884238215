"""details-SPLIT.json: what an evaluation found that is no metric, for people to look at.

step, split
tables    TASK: {ROW: {"<protocol>/<metric>": number}}, the run's own row and the baselines'
answers   TASK: what a few examples came to, see `answer`; of retrieval tasks
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recalign.errors import UserError
from recalign.evaluation.examples import RetrievalExamples, select
from recalign.evaluation.metrics import target_ranks
from recalign.files import write_text

if TYPE_CHECKING:
    from recalign.engine.search.catalogue_model import CatalogueModel  # which imports JAX

FILE = "details-{}.json"
ASKED = 256
"""Examples that are drawn, to count probabilities by, and to choose those that are shown from."""
DEPTH = 10
SHOWN = 6
"""Hits that are shown, and as many misses."""
BINS = (0, 0.003, 0.01, 0.03, 0.1, 0.3, 1)
"""Of probabilities; a catalogue is large, so that most are small."""


def answer(
    model: "CatalogueModel",
    params: Any,
    examples: RetrievalExamples,
    item_tokens: np.ndarray,
    decode: Callable[[Sequence[int]], str],
    seed: int,
) -> dict[str, Any]:
    """What a model answers to a few examples, drawn by the seed.

    Items of the history are removed, as in `full_unseen`, and a hit is a target among `DEPTH`.

    Args:
      model: over the catalogue of the examples.
      params: the network's.
      examples: of a retrieval task.
      item_tokens: int32[n, L], how the model writes each item, 0 padded.
      decode: gives the text of tokens.
      seed: of what is drawn.

    Returns:
      `asked`, how many; `hits` of them; `tokens`, how long the questions of all examples are
      (mean, p95, longest); `calibration`, of answers by their probability: `count`, and the mean
      of it, `predicted`, beside how many were right, `observed`; `shown`: hits and misses in equal
      number, as far as there are both, each with `question` and `answer` (the texts of the
      sample), `history`, `target`, `rank` (from 1, or None) and `items` with `probability`.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(examples))[:ASKED]
    asked = select(examples, rows)
    _, unseen = model.rank(params, asked.inputs, asked.offsets, asked.events, given=asked.given)
    items = np.asarray(unseen.items)[:, :DEPTH]
    probabilities = np.exp(np.asarray(unseen.scores, float)[:, :DEPTH])
    ranks = target_ranks(items, asked.targets)
    hits, misses = np.flatnonzero(np.isfinite(ranks)), np.flatnonzero(~np.isfinite(ranks))
    each = min(SHOWN, len(hits) or SHOWN, len(misses) or SHOWN)
    table = asked.domain.items
    keys, titles = table["key"].tolist(), table["title"].tolist()

    def describe(item: int) -> dict[str, str]:
        return {"id": keys[item], "title": titles[item]}

    def show(row: int) -> dict[str, Any]:
        found = zip(items[row], probabilities[row], strict=True)
        return {
            "question": decode(asked.inputs[row].tolist()),
            "answer": decode(item_tokens[asked.targets[row]].tolist()),
            "history": [describe(i) for i in asked.events[slice(*asked.offsets[row : row + 2])]],
            "target": describe(asked.targets[row]),
            "rank": int(ranks[row]) if math.isfinite(ranks[row]) else None,
            "items": [describe(i) | {"probability": float(p)} for i, p in found if i >= 0],
        }

    lengths = np.array([len(tokens) for tokens in examples.inputs])
    return {
        "asked": len(rows),
        "hits": len(hits),
        "tokens": {
            "mean": float(lengths.mean()),
            "p95": float(np.quantile(lengths, 0.95)),
            "longest": int(lengths.max()),
        },
        "calibration": _calibration(
            probabilities[items >= 0], (items == asked.targets[:, None])[items >= 0]
        ),
        "shown": [show(row) for row in (*hits[:each], *misses[:each])],
    }


def _calibration(probabilities: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """What `answer` gives under this name, of float64[n] and bool[n]; empty bins are left out."""
    bins = np.digitize(probabilities, BINS[1:-1])
    return [
        {
            "count": int((bins == b).sum()),
            "predicted": float(probabilities[bins == b].mean()),
            "observed": float(right[bins == b].mean()),
        }
        for b in np.unique(bins)
    ]


def read(folder: Path, split: str) -> dict[str, Any] | None:
    """The file of a split in the folder of a run; None where there is none.

    Raises:
      UserError: it is not as `write` writes it.
    """
    path = folder / FILE.format(split)
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _check_form(found, _FORM, "")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no details of an evaluation ({error}); evaluate again") from error
    return found


_EACH = None  # as a key: of every key
_NUMBER = (int, float, type(None))
_ITEM = {"id": str, "title": str}
_LATER = ("answer",)  # what files of version 0.1.0 may lack
_FORM = {
    "step": int,
    "split": str,
    "tables": {_EACH: {_EACH: {_EACH: _NUMBER}}},
    "answers": {
        _EACH: {
            "asked": int,
            "hits": int,
            "tokens": {"mean": float, "p95": float, "longest": int},
            "calibration": [{"count": int, "predicted": float, "observed": float}],
            "shown": [
                {
                    "question": str,
                    "answer": str,
                    "history": [_ITEM],
                    "target": _ITEM,
                    "rank": (int, type(None)),
                    "items": [_ITEM | {"probability": float}],
                }
            ],
        }
    },
}


def _check_form(found: Any, form: Any, place: str) -> None:
    """Raises a ValueError that tells the place where JSON is not of a form."""
    kind = type(form) if isinstance(form, dict | list) else form
    if not isinstance(found, kind):
        raise ValueError(f"{place.lstrip('.') or 'all of it'} is {type(found).__name__}")
    if isinstance(form, list):
        for part in found:
            _check_form(part, form[0], f"{place}[]")
    elif isinstance(form, dict):
        for key in found if _EACH in form else form:
            if key not in found and key in _LATER:
                continue
            if key not in found:
                raise ValueError(f"there is no {place.lstrip('.')}.{key}")
            _check_form(found[key], form.get(key, form.get(_EACH)), f"{place}.{key}")


def write(
    folder: Path,
    step: int,
    split: str,
    tables: Mapping[str, Mapping[str, Mapping[str, float]]],
    answers: Mapping[str, Mapping[str, Any]],
) -> None:
    """Writes the file that the module describes; a number that is none becomes null."""
    numbers = {
        task: {
            row: {name: value if math.isfinite(value) else None for name, value in found.items()}
            for row, found in rows.items()
        }
        for task, rows in tables.items()
    }
    content = {"step": step, "split": split, "tables": numbers, "answers": answers}
    write_text(folder / FILE.format(split), json.dumps(content, ensure_ascii=False) + "\n")
