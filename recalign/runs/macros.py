"""What the macros of the recipes may be set to: a mistake is one message before any work."""

import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from recalign.errors import UserError, quote
from recalign.runs.gin_text import Reference

Needs = Callable[[Any], str | None]
"""Tells what is wrong with a value, as in "BATCH_SIZE is 0, but …"; None if it is right."""

ON_NONFINITE = ("stop", "skip")
NORMALIZERS = ("NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE")
LENGTHS = ("inputs", "targets")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _whole(least: int, needs: str = "", below: float = math.inf) -> Needs:
    needs = needs or f"must be a whole number of at least {least}"
    return lambda value: None if _is_whole(value) and least <= value < below else needs


def _number(low: float, high: float = math.inf, text: str = "") -> Needs:
    needs = text or f"must be a number of at least {low:g}"
    return lambda value: None if _is_number(value) and low <= value < high else needs


def _one_of(*choices: str) -> Needs:
    needs = f"must be one of {', '.join(map(repr, choices))}"
    return lambda value: None if isinstance(value, str) and value in choices else needs


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be True or False"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "must be a text that is not empty"


def _or_none(needs: Needs) -> Needs:
    def check(value: Any) -> str | None:
        return None if value is None or not (text := needs(value)) else f"{text}, or None"

    return check


def _normalizer(value: Any) -> str | None:
    if (isinstance(value, str) and value.upper() in NORMALIZERS) or (
        _is_number(value) and value > 0
    ):
        return None
    return f"must be a number above 0 or one of {', '.join(NORMALIZERS)}"


def _lengths(value: Any) -> str | None:
    if (
        isinstance(value, dict)
        and set(value) == set(LENGTHS)
        and all(_is_whole(length) and length > 0 for length in value.values())
    ):
        return None
    return "must have both lengths, in tokens: {'inputs': 512, 'targets': 128}"


def _texts(value: Any) -> str | None:
    right = isinstance(value, (list, tuple)) and not any(map(_text, value))
    return None if right else "must be a list of folders"


def _periods(value: Any) -> str | None:
    right = isinstance(value, dict) and all(
        isinstance(kind, str) and _is_whole(period) and period >= 0
        for kind, period in value.items()
    )
    return None if right else "must give steps by kind of task: {'ranking': 5000}"


_PROBABILITY = _number(0, 1, "must be a number of at least 0 and below 1")
NEEDS: dict[str, Needs] = {
    "ACTIVATIONS_DTYPE": _one_of("float32", "bfloat16"),
    "BATCH_SIZE": _whole(1),
    "BEST_METRIC": _or_none(_text),
    "CACHE_DIRS": _texts,
    "CHECKPOINT_PERIOD": _whole(0),
    "DROPOUT_RATE": _PROBABILITY,
    "EVAL_EXAMPLES": _or_none(_whole(1)),
    "EVAL_PERIOD": _whole(0),
    "EVAL_PERIODS": _periods,
    "INITIAL_CHECKPOINT_PATH": _or_none(_text),
    "INPUT_STREAMS": _whole(1),
    "ITEM_EMBEDDINGS": _text,
    "LABEL_SMOOTHING": _PROBABILITY,
    "LEARNING_RATE": _number(0),
    "LEARNING_RATE_FACTORS": _text,
    "LOSS_NORMALIZING_FACTOR": _or_none(_normalizer),
    "MIXTURE_OR_TASK_MODULE": _or_none(_text),
    "MIXTURE_OR_TASK_NAME": _text,
    "MODEL_DIR": _text,
    "NUM_BEAMS": _whole(1, "a ranking needs at least 1, a whole number"),
    "ON_NONFINITE": _one_of(*ON_NONFINITE),
    "PACK": _flag,
    "PATIENCE": _or_none(_whole(1)),
    "RANDOM_SEED": _whole(0, "must be a whole number from 0 to 2**32 - 1", 2**32),
    "REMAT_POLICY": _one_of("none", "minimal", "full"),
    "SCAN_LAYERS": _flag,
    "TASK_FEATURE_LENGTHS": _lengths,
    "TOKENS_DIR": _text,
    "TRAIN_STEPS": _whole(0),
    "USE_CACHED_TASKS": _flag,
    "VOCAB_SIZE": _whole(1),
    "WARMUP_STEPS": _whole(0),
    "Z_LOSS": _number(0),
}


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raises a UserError for a parameter's value that is not of the type that it is annotated with.

    Args:
      name: of the parameter.
      value: without references.
      hint: the annotation; judged are int, float, bool, str, lists of texts, numbers by name and
        what only a class can make, and what may be None beside.
    """
    if value is None and type(None) in _kinds(hint):
        return
    if (made := _made(hint)) is not None:
        raise UserError(f"{name} is {quote(value)}, but must be {_tell_maker(made)}")
    fits, needs = _TYPES.get(_only_kind(hint), (None, ""))
    if fits and not fits(value):
        raise UserError(f"{name} is {quote(value)}, but must be {needs}")


def check_made(name: str, part: Reference, made: Any, hint: Any) -> None:
    """Raises a UserError for a parameter whose value something makes that it is not to be made by.

    Args:
      name: of the parameter.
      part: its value.
      made: the function or class that this refers to; of a function all that it makes is right.
      hint: the annotation; judged are classes.
    """
    wanted = _made(hint)
    if wanted is None:
        return
    if not part.called or (inspect.isclass(made) and not _is_a(made, wanted)):
        short = f"@{part.name.rpartition('.')[2]}{'()' if part.called else ''}"
        raise UserError(f"{name} is {short}, but must be {_tell_maker(wanted)}")


def _kinds(hint: Any) -> set[Any]:
    """What a union is one of."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return set(typing.get_args(hint)) if union else {hint}


def _only_kind(hint: Any) -> Any:
    kinds = _kinds(hint) - {type(None)}
    return kinds.pop() if len(kinds) == 1 else None


def _made(hint: Any) -> type | None:
    """The class that a value must be of, where no literal is."""
    kind = _only_kind(hint)
    builtin = getattr(kind, "__module__", "builtins") in ("builtins", "collections.abc", "typing")
    return kind if inspect.isclass(kind) and not builtin else None


def _is_a(made: type, wanted: type) -> bool:
    if getattr(wanted, "_is_protocol", False):
        return all(hasattr(made, name) for name in vars(wanted) if not name.startswith("_"))
    return issubclass(made, wanted)


def _tell_maker(wanted: type) -> str:
    is_protocol = getattr(wanted, "_is_protocol", False)
    return f"made by a class of {wanted.__name__}" if is_protocol else f"@{wanted.__name__}()"


def _are_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value)


def _are_named_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and _is_number(number) for name, number in value.items()
    )


_TYPES = {
    int: (_is_whole, "a whole number"),
    float: (_is_number, "a number"),
    bool: (lambda value: isinstance(value, bool), "True or False"),
    str: (lambda value: isinstance(value, str), "a text"),
    Sequence[str]: (_are_texts, "a list of texts"),
    Collection[str]: (_are_texts, "a list of texts"),
    dict[str, float]: (_are_named_numbers, "numbers by name"),
}


def resolve(value: Any, macros: Mapping[str, Any]) -> Any:
    """What a value is once a macro that it refers to is looked up, and so on."""
    for _ in macros:
        if isinstance(value, Reference) and value.name in macros:
            value = macros[value.name]
    return value


def check(macros: Mapping[str, Any]) -> None:
    """Raises a UserError that names the first macro with a value that it cannot have.

    Args:
      macros: values; one that refers to another macro is judged by that one's, and what is made by
        a function is not judged.
    """
    for name, value in sorted(macros.items()):
        value = resolve(value, macros)
        if name not in NEEDS or isinstance(value, Reference):
            continue
        if needs := NEEDS[name](value):
            raise UserError(f"{name} is {quote(value)}, but {needs}")
