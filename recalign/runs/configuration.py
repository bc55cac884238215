"""Gin files and flags, in T5X's dialect, with every mistake in them an error."""

import ast
import difflib
import importlib.util  # noqa: F401 (gin asks for it without importing it)
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import gin

import recalign.gin as gin_files
from recalign.errors import UserError
from recalign.runs import old_paths

# "runs.Run.model_dir = …", "train/inputs.train_batches.seed = …", "TRAIN_STEPS = …"
_BINDING = re.compile(r"^([A-Za-z_][\w./]*) = ?(.*)$", re.MULTILINE)
_REFERENCE = re.compile(r"@([A-Za-z_][\w./]*)")
_MACRO = re.compile(r"%([A-Za-z_][\w./]*)")


def parse(
    files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = ()
) -> None:
    """Makes gin files and overrides the current configuration.

    Args:
      files: gin files, looked for where they say, then in the search paths, then among those that
        come with recalign ("toyshop.gin", "models/tiny.gin").
      bindings: "NAME=VALUE" overrides. A value that is neither a Python literal nor a gin reference
        is a string, so that paths and names need no quotes.
      search_paths: further folders.

    Raises:
      UserError: a file is missing, a name is unknown, a macro is set but nothing uses it, or one
        that must be set is not.
    """
    gin.clear_config()
    for path in (*search_paths, *gin_files.__path__):
        gin.add_config_file_search_path(path)
    # Gin logs an error for every folder that a file is not in.
    logging.disable(logging.ERROR)
    try:
        # Not finalised, which would lock it: a module of tasks may bring configurables of its own.
        for file in files:
            _parse_file(file)
        gin.parse_config([_quoted(binding) for binding in bindings])
    except UserError:
        raise
    except Exception as error:  # gin lets those of Python's tokenizer and of imports through
        raise UserError(f"configuration: {error}") from error
    finally:
        logging.disable(logging.NOTSET)
    _check_macros(gin.config_str(max_line_length=10**6))


def _parse_file(file: str) -> None:
    """Parses a gin file; one that an older recalign wrote, in today's module paths."""
    text = Path(file).read_text() if Path(file).is_file() else ""
    translated = old_paths.translate(text)
    if translated == text:
        gin.parse_config_file(file)
    else:
        gin.parse_config(translated)


def check_all_used() -> None:
    """Raises UserError if something is bound that nothing has asked for so far.

    Called when everything that the configuration can make has been made.
    """
    # What is made on behalf of a macro carries its name as a scope: "MODEL/network.T5Config".
    used = {
        "/".join(name.split("/")[first:])
        for name in _names(gin.operative_config_str(max_line_length=10**6))
        for first in range(name.count("/") + 1)
    }
    config = gin.config_str(max_line_length=10**6)
    used |= _on_offer(config)
    unused = [name for name in _names(config) if name not in used]
    if unused:
        raise UserError(
            f"configuration: nothing in this run uses {_listed(unused)}; remove the binding, or "
            "bind what makes use of it"
        )


def _on_offer(config: str) -> set[str]:
    """The bindings of what is in use as a reference, with the macros that they use.

    A run is given all that can judge a task, and calls what its tasks need.
    """
    offered = set(_REFERENCE.findall(gin.operative_config_str(max_line_length=10**6)))
    values = {n: v for n, v in _BINDING.findall(config) if n.rpartition(".")[0] in offered}
    return values.keys() | {macro for value in values.values() for macro in _MACRO.findall(value)}


def operative() -> str:
    """Every value that is in use, as a gin file that gives the same run again."""
    # One line a binding, however long; gin would rule its headings as wide.
    text = gin.operative_config_str(max_line_length=10**6)
    return re.sub("^# ={40,}$", f"# {'=' * 78}", text, flags=re.MULTILINE)


def current() -> str:
    """Every binding there is, used or not, as a gin file."""
    return gin.config_str(max_line_length=10**6)


def unused_macros(values: Mapping[str, str]) -> set[str]:
    """The macros among some bindings that no other of them refers to."""
    referenced = set(_MACRO.findall("\n".join(values.values())))
    return {name for name in values if "." not in name and "/" not in name} - referenced


def bindings(config: str) -> dict[str, str]:
    """The value of every binding in a text that `operative` or `current` gave."""
    return dict(_BINDING.findall(config))


def _quoted(binding: str) -> str:
    name, separator, value = binding.partition("=")
    if not separator:
        raise UserError(f"--gin.{binding}: expected --gin.NAME=VALUE")
    try:
        ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        if not re.search(r"[@%\"']", value):
            value = repr(value)
    return f"{name} = {value}"


def _names(config: str) -> list[str]:
    return [name for name, _ in _BINDING.findall(config)]


def _check_macros(config: str) -> None:
    values = {n: v for n, v in _BINDING.findall(config) if "." not in n and "/" not in n}
    referenced = set(_MACRO.findall(config))
    unused = sorted(values.keys() - referenced)
    if unused:
        near = difflib.get_close_matches(unused[0], sorted(referenced), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"configuration: nothing uses {_listed(unused)}{hint}")
    undefined = sorted(n for n in referenced - values.keys() if "." not in n)
    if undefined:
        raise UserError(f"configuration: nothing sets {_listed(undefined)}, which is referred to")
    missing = [name for name, value in values.items() if value == "%gin.REQUIRED"]
    if missing:
        raise UserError(
            f"configuration: {_listed(missing)} must be set, with --gin.{missing[0]}=… or in a file"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
