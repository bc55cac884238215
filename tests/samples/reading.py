"""Reads the samples of registered tasks as text."""

import re

import seqio

LENGTHS = {"inputs": 160, "targets": 64}
ITEM = re.compile(r"#(\d+)")


def read(task, split, lengths=LENGTHS, seed=0, shuffle=False, epochs=1):
    """The samples of a task: inputs and targets as text, and what else they hold."""
    task = seqio.get_mixture_or_task(task)
    vocabulary = task.output_features["inputs"].vocabulary
    dataset = task.get_dataset(lengths, split, shuffle=shuffle, seed=seed, num_epochs=epochs)
    for example in dataset.as_numpy_iterator():
        for feature in ("inputs", "targets"):
            assert example[feature][-1] == vocabulary.eos_id
            example[f"{feature}_tokens"] = len(example[feature])
            example[feature] = vocabulary.decode(example[feature].tolist())
        yield example


def items_in(text):
    return [int(index) for index in ITEM.findall(text)]


# A history ends with the end mark of an item or with a sentinel, so that a cut one is noticed.
FIELDS = {"{history}": r"(.*(;|<extra_id_\d+>))?", "{candidates}": r"(#\d+\s*)+"}


def fits(template, text):
    """Whether a text is a template with something whole in its fields."""
    parts = re.split(r"(\{\w+\})", template)
    patterns = [
        FIELDS.get(part, r"\S.*?") if "{" in part else re.escape(part.strip()) for part in parts
    ]
    return re.fullmatch(r"\s*".join(patterns), text.strip(), re.DOTALL) is not None
