"""Any history as the question that a retrieval task asks."""

import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from recalign.evaluation.examples import Asked
from recalign.samples.items import item_texts
from recalign.samples.registry import domain_of


class Questions:
    """Writes histories with the very preprocessors of a retrieval task, as its test split does.

    Calls from several threads take turns.

    Args:
      task: the retrieval task.
      lengths: `TASK_FEATURE_LENGTHS`; older items of a longer history are dropped.
    """

    def __init__(self, task: seqio.Task, lengths: Mapping[str, int]):
        self._task = task
        self._lengths = dict(lengths)
        self._texts = item_texts(*domain_of(task))
        self._lock = threading.Lock()
        self._asked: Sequence[Sequence[int]] = ()
        self._dataset = self._pipeline()
        self._most_given = self._measure_given()

    @property
    def longest(self) -> int:
        """The most tokens that a question has."""
        return self._lengths["inputs"]

    def __call__(self, histories: Sequence[Sequence[int]]) -> Asked:
        """The question about each history (item indices, oldest first, none of them empty).

        What answers begin with is padded with 0 to one length, so that there is one shape of it.
        """
        if not all(len(history) for history in histories):
            raise ValueError("a question needs at least one item")
        with self._lock:
            samples = self._samples(histories)
        padding = [(0, self._most_given - len(sample["given"])) for sample in samples]
        return Asked(
            inputs=[sample["inputs"] for sample in samples],
            given=[np.pad(s["given"], pad) for s, pad in zip(samples, padding, strict=True)],
        )

    def places(self, history: Sequence[int], inputs: np.ndarray) -> list[slice]:
        """See `Data`'s: of a title that was shortened, what is left of it counts."""
        texts = self._texts
        encode = self._task.output_features["inputs"].vocabulary.encode
        found, stop = [], len(inputs)
        for item in reversed(history):  # older ones may be left out
            text = np.array(encode(texts.history[item]))
            common = [_common(inputs[start:stop], text) for start in range(stop)]
            start = stop - 1 - int(np.argmax(common[::-1])) if common else 0
            if not common or common[start] < min(len(text), len(encode(texts.ids[item]))):
                break
            found.append(slice(start, start + common[start]))
            stop = start
        return [slice(0, 0)] * (len(history) - len(found)) + found[::-1]

    def _measure_given(self) -> int:
        """As many tokens as any answer begins with, or more."""
        counts = self._texts.target_lengths
        [sample] = self._samples([[counts.argmin()] * self._lengths["targets"]])
        items = len(sample["given"]) // counts.min()
        return min(items * counts.max(), self._lengths["targets"])

    def _samples(self, histories: Sequence[Sequence[int]]) -> list[dict[str, np.ndarray]]:
        self._asked = histories
        return list(self._dataset.as_numpy_iterator())

    def _pipeline(self) -> tf.data.Dataset:
        """What is being asked, read anew by each iterator: the graph is built once."""

        def source(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
            del split, shuffle_files, seed  # there is one order of what is asked
            event = tf.TensorSpec((), tf.int32)
            record = {
                "history": tf.TensorSpec((None,), tf.int32),
                # What these are shows in the targets alone.
                "target": event,
                "candidates": tf.TensorSpec((None,), tf.int32),
                "train": tf.TensorSpec((), tf.bool),
            }
            return tf.data.Dataset.from_generator(self._records, output_signature=record)

        task = seqio.Task(
            self._task.name,
            source=seqio.FunctionDataSource(source, splits=["asked"]),
            output_features=self._task.output_features,
            preprocessors=self._task.preprocessors,
        )
        return task.get_dataset(
            self._lengths, "asked", shuffle=False, seed=0, try_in_mem_cache=False
        )

    def _records(self) -> Iterator[dict]:
        for history in self._asked:
            yield {
                "history": np.asarray(history, np.int32),
                "target": 0,
                "candidates": np.zeros(0, np.int32),
                "train": False,
            }


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens both begin with."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length
