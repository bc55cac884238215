"""Gin files and flags, in T5X's dialect, with every mistake in them an error."""

import ast
import contextlib
import difflib
import importlib.util  # noqa: F401 (gin asks for it without importing it)
import inspect
import logging
import math
import re
import sys
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
from gin.config_parser import (
    BindingStatement,
    ImportStatement,
    IncludeStatement,
)

import recalign.gin as gin_files
from recalign.bindings import Bindings
from recalign.errors import UserError
from recalign.files import locate
from recalign.runs import gin_text, macros, old_paths, safety
from recalign.runs.gin_text import Reference, Statement

RECIPE_DIR = "RECIPE_DIR"
"""In a gin file the folder that it lies in, so that what a recipe reads may travel with it."""

_WIDTH = 10**6  # one line a binding, however long


def parse(
    files: Sequence[str],
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    unneeded: Collection[str] = (),
) -> None:
    """Makes gin files and overrides the current configuration.

    Args:
      files: gin files. They, and what they include, are looked for where they say, then in the
        search paths, then beside the file that includes them, then among those that come with
        recalign ("toyshop.gin", "models/tiny.gin").
      bindings: "NAME=VALUE" overrides. A value that is neither a Python literal nor a gin reference
        is a string, so that paths and names need no quotes.
      search_paths: further folders.
      unneeded: macros that need not be set, whatever files say.

    Raises:
      UserError: a file is missing, a name is unknown, a macro is set but nothing uses it, one that
        must be set is not, or one has a value that it cannot have.
    """
    folders = [*map(locate, search_paths)]
    with _begun(unneeded):
        for file in files:
            _parse_file(file, folders)
        # Not finalised, which would lock it: a module of tasks may bring configurables of its own.
        quoted = [_quote(old_paths.translate_binding(each)) for each in bindings]
        for given, text in zip(bindings, quoted, strict=True):
            _check_readable(given, text)
        gin.parse_config(quoted)


def parse_saved(path: Path, modules: Sequence[str] = ()) -> None:
    """Makes the config.gin of a run the current configuration, which may come from anywhere.

    Args:
      path: the file.
      modules: what it may name beside recalign's own.

    Raises:
      UserError: it is no configuration of a run, or names anything else; the line is told.
    """
    with _begun():
        text = old_paths.translate(read(path), str(path))
        safety.check(gin_text.parse(text, str(path)), modules)
        gin.parse_config(gin_text.Source(text, str(path)))


@contextlib.contextmanager
def _begun(unneeded: Collection[str] = ()) -> Iterator[None]:
    """Begins a configuration, which the block parses; all that can be wrong is one UserError."""
    Bindings.begin()
    # Gin logs what it raises as well.
    logging.disable(logging.ERROR)
    try:
        with _one_error():
            yield
            _check_macros(statements(), unneeded)
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # gin lets those of Python's tokenizer and of imports through
        raise UserError(f"configuration: {_tell(error)}") from error


def _tell(error: Exception) -> str:
    """What an error says, without where an object lies in memory."""
    return re.sub(r": <[^<>]* object at 0x[0-9a-f]+>", "", str(error))


def read(path: Path) -> str:
    """The text of a gin file, without the mark that some editors begin a file with.

    Raises:
      UserError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"configuration: {path}: no UTF-8 text ({error.reason} at byte {error.start}): save "
            "it as UTF-8"
        ) from error


def _parse_file(name: str, folders: Sequence[Path], including: Sequence[Path] = ()) -> None:
    """Parses a gin file and what it includes, each where it stands.

    Gin would take a folder in the way for a Python package, which may hold a file of this name.
    """
    wanted = locate(name)
    beside = [including[-1].parent] if including else []
    places = [Path(), *folders, *beside, *map(Path, gin_files.__path__)]
    path = next((found for folder in places if (found := folder / wanted).is_file()), None)
    if path is None:
        from_ = f", which {including[-1]} includes" if including else ""
        none = "".join(f" ({folder} is none)" for folder in folders if not folder.is_dir())
        raise UserError(
            f"configuration: there is no file {name or repr(name)}{from_}; name further folders "
            f"by --gin_search_paths=DIR,DIR{none}"
        )
    if path.resolve() in including:
        raise UserError(f"configuration: {path} includes itself")
    text = old_paths.translate(read(path), str(path))
    found = gin_text.parse(text, str(path))
    if any(part.name == RECIPE_DIR for part in gin_text.references(_values(found))):
        found = [_at(statement, path.resolve().parent) for statement in found]
        text = gin_text.write(found)
        found = gin_text.parse(text, str(path))
    # Gin knows the imports of one text: each part between two includes is given those before it.
    lines, imported, start = text.splitlines(keepends=True), set(), 0
    for statement in [*found, None]:
        if isinstance(statement, ImportStatement):
            imported.add(statement.location.line_num - 1)
        if isinstance(statement, IncludeStatement) or statement is None:
            end = statement.location.line_num - 1 if statement else len(lines)
            part = [
                line if start <= number < end or number in imported else "\n"
                for number, line in enumerate(lines[:end])
            ]
            gin.parse_config(gin_text.Source("".join(part), str(path)))
            start = end + 1
        if isinstance(statement, IncludeStatement):
            _parse_file(statement.filename, folders, [*including, path.resolve()])


def _at(statement: Statement, folder: Path) -> Statement:
    if not isinstance(statement, BindingStatement):
        return statement

    def replace(part: Reference) -> Any:
        return str(folder) if part.name == RECIPE_DIR else part

    return statement._replace(value=gin_text.replace(statement.value, replace))


def check_all_used(idle: Collection[str] = ()) -> None:
    """Raises UserError if something is bound that nothing has asked for so far.

    Called when everything that the configuration can make has been made, but for what is idle:
    whole names, "recalign.samples.bpr.bpr".
    """
    # What is made on behalf of a macro carries its name as a scope: "MODEL/transformer.T5Config".
    used = {
        "/".join(name.split("/")[first:])
        for name in map(gin_text.name_of, _bindings(gin_text.parse(operative())))
        for first in range(name.count("/") + 1)
    }
    found = statements()
    sides = (map(gin_text.name_of, _bindings(each)) for each in (found, gin_text.in_full(found)))
    unused = [
        name
        for name, full in zip(*sides, strict=True)
        if name not in used and full.rpartition(".")[0] not in idle
    ]
    if unused:
        raise UserError(
            f"configuration: nothing in this run uses {_join(unused)}; remove the binding, or "
            "bind what makes use of it"
        )


def operative() -> str:
    """Every value that is in use, as a gin file that gives the same run again."""
    # Gin would rule its headings as wide as its lines.
    text = gin.operative_config_str(max_line_length=_WIDTH)
    return re.sub("^# ={40,}$", f"# {'=' * 78}", text, flags=re.MULTILINE)


def bindings(config: str, name: str | None = None) -> dict[str, Any]:
    """What a gin file sets: values by whole paths, "recalign.runs.run.Run.model_dir", or macros.

    Args:
      config: its text.
      name: its name for errors.

    Raises:
      UserError: it is no gin.
    """
    with _one_error():
        found = gin_text.in_full(gin_text.parse(old_paths.translate(config, name), name))
    return {gin_text.name_of(binding): binding.value for binding in _bindings(found)}


def current() -> dict[str, str]:
    """Every binding there is, used or not: gin text by whole names, or by macros."""
    return {gin_text.name_of(b): repr(b.value) for b in _bindings(gin_text.in_full(statements()))}


def differences(
    before: str, now: str, free: Collection[str] = (), source: str | None = None
) -> list[str]:
    """What differs between two gin files that `operative` gave, perhaps of different versions.

    Args:
      before: the one.
      now: the other.
      free: macros that may differ.
      source: the name of the one, for errors.

    Returns:
      Lines "- NAME = VALUE" and "+ NAME = VALUE". A parameter that one version lacks is none of
      them if it is what it would be by itself.
    """
    sides = (("-", bindings(before, source)), ("+", bindings(now)))
    (_, old), (_, new) = sides
    both = old.keys() & new.keys()
    changed = {name for name in both if repr(old[name]) != repr(new[name])}
    for _, side in sides:
        changed |= {name for name in side.keys() - both if not _goes_without_saying(name, side)}
    return [
        f"{sign} {name} = {side[name]!r}"
        for name in sorted(changed - set(free))
        for sign, side in sides
        if name in side
    ]


def _goes_without_saying(name: str, config: Mapping[str, Any]) -> bool:
    """Whether what is set would be so anyway, or is a macro, whose uses tell."""
    if "." not in name:
        return True
    path, _, argument = name.rpartition("/")[2].rpartition(".")
    found = _find(path)
    if found is None:  # what is in use now has been imported
        return True
    value = macros.resolve(config[name], config)
    known = inspect.signature(found).parameters
    return argument not in known or repr(known[argument].default) == repr(value)


def recipe_without(room: str, changes: str) -> str:
    """The current configuration as a recipe that needs nothing of a room of recalign.

    Args:
      room: "recalign.samples".
      changes: gin text that takes the place of what was bound before, imports first.

    Returns:
      A gin file without what is then not referred to any more.
    """
    before, after = (gin_text.in_full(found) for found in (statements(), gin_text.parse(changes)))
    replaced = {gin_text.name_of(binding) for binding in _bindings(after)}
    kept = [
        binding
        for binding in _bindings(before)
        if not binding.selector.startswith(f"{room}.") and gin_text.name_of(binding) not in replaced
    ]
    found = _bindings(after) + kept
    while idle := _idle_macros(found):
        found = [each for each in found if not (gin_text.is_macro(each) and each.selector in idle)]
    imports = {
        statement.module: statement
        for statement in (*before, *after)
        if isinstance(statement, ImportStatement) and not statement.module.startswith(f"{room}.")
    }
    body = sorted(found, key=_macros_first)
    return gin_text.write(gin_text.in_short([*imports.values(), *body]))


def _macros_first(binding: BindingStatement) -> tuple[bool, str]:
    return not gin_text.is_macro(binding), gin_text.name_of(binding)


def statements() -> list[Statement]:
    """Every statement of the current configuration, used or not."""
    return gin_text.parse(gin.config_str(max_line_length=_WIDTH))


def _bindings(found: Iterable[Statement]) -> list[BindingStatement]:
    return [statement for statement in found if isinstance(statement, BindingStatement)]


def _values(found: Iterable[Statement]) -> list[Any]:
    return [binding.value for binding in _bindings(found)]


def _quote(binding: str) -> str:
    name, separator, value = binding.partition("=")
    if not separator:
        raise UserError(f"--gin.{binding}: expected --gin.NAME=VALUE")
    try:
        if abs(ast.literal_eval(value.strip())) == math.inf:
            raise UserError(f"--gin.{binding}: there is no such number")
    except TypeError:
        pass  # a literal of another kind
    except (ValueError, SyntaxError):
        # Gin's own values, and those that are meant to be Python's, begin so.
        if not re.match(r"\s*[@%\"'\[({]", value) or not re.search(r"[@%\"']", value):
            value = repr(value)
    return f"{name} = {value}"


def _check_readable(binding: str, text: str) -> None:
    """Raises a UserError for a binding that gin could tell only the place of, in all of them."""
    try:
        gin_text.parse(text)
    except Exception as error:  # gin lets those of Python's tokenizer through
        what = "; ".join(_tell(error).splitlines()[:1])
        raise UserError(f"--gin.{binding}: this is no value that can be read: {what}") from error


def _macros(found: Iterable[Statement]) -> dict[str, Any]:
    return {s.selector: s.value for s in found if gin_text.is_macro(s)}


def _referred_to(found: Iterable[Statement]) -> set[str]:
    """The macros that values refer to."""
    return {p.name for p in gin_text.references(_values(found)) if p.sign == "%"}


def _idle_macros(found: Iterable[Statement]) -> set[str]:
    return _macros(found).keys() - _referred_to(found)


def _check_macros(found: Sequence[Statement], unneeded: Collection[str]) -> None:
    values, referred_to = _macros(found), _referred_to(found)
    _check_circles(values)
    if unused := sorted(_idle_macros(found)):
        # One that recipes have is no misspelling: something else is bound in its place.
        known = unused[0] in macros.NEEDS
        near = difflib.get_close_matches(unused[0], sorted(referred_to), n=1)
        hint = f" (did you mean {near[0]}?)" if near and not known else ""
        raise UserError(f"configuration: nothing uses {_join(unused)}{hint}")
    if undefined := sorted(n for n in referred_to - values.keys() if "." not in n):
        raise UserError(f"configuration: nothing sets {_join(undefined)}, which is referred to")
    required = Reference("%", "gin.REQUIRED")
    missing = [n for n, value in values.items() if value == required and n not in unneeded]
    if missing:
        raise UserError(
            f"configuration: {_join(missing)} must be set, with --gin.{missing[0]}=… or in a file"
        )
    macros.check(values)
    whole = gin_text.in_full(found)
    values = _macros(whole)
    for binding in _bindings(whole):
        if not binding.arg_name:
            continue
        value = macros.resolve(binding.value, values)
        name = f"{binding.selector.rpartition('.')[2]}.{binding.arg_name}"
        if isinstance(value, Reference) and value.sign == "@":
            made = _find(value.name.rpartition("/")[2])
            macros.check_made(name, value, made, _find_hint(binding))
        elif not any(gin_text.references([value])):
            macros.check_type(name, value, _find_hint(binding))


def _check_circles(values: Mapping[str, Any]) -> None:
    """Raises a UserError for a macro whose value refers to itself, over however many others."""
    refers = {
        name: {part.name for part in gin_text.references([value]) if part.sign == "%"}
        for name, value in values.items()
    }
    for name in values:
        reached: set[str] = set()
        new = refers[name]
        while new:
            reached |= new
            new = set().union(*(refers.get(other, set()) for other in new)) - reached
        if name in reached:
            raise UserError(f"configuration: `{name}` refers to itself")


def _find(path: str) -> Any:
    """The function or class of a whole path; None where it is unknown."""
    module, _, made = path.rpartition(".")
    return getattr(sys.modules.get(module), made, None)


def _find_hint(binding: BindingStatement) -> Any:
    """What a parameter is annotated with; None where it is not, or what has it is unknown."""
    found = _find(binding.selector)
    try:
        hints = typing.get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except (TypeError, NameError, AttributeError):  # no annotations, or of names known to no module
        return None
    return hints.get(binding.arg_name)


def _join(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
