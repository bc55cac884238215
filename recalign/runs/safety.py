"""A configuration that somebody else may have written must not run what it likes.

Gin imports what a file names and calls what it refers to, any attribute of any module. A run
directory is copied about like data. So its config.gin may import from recalign alone, and refer to
what recalign's recipes configure, and to what is in modules that the user has named.
"""

import functools
import importlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gin
from gin.config_parser import (
    BindingStatement,
    BlockDeclaration,
    ImportStatement,
    IncludeStatement,
    Location,
)

import recalign.gin as gin_files
from recalign.errors import UserError
from recalign.runs import gin_text
from recalign.runs.gin_text import Statement

TASKS = "recalign.tasks"
# Gin's own, which only keep values and what other names make.
_OF_GIN = ("gin.macro", "gin.constant", "gin.singleton")


def check(found: Sequence[Statement], modules: Sequence[str] = ()) -> None:
    """Refuses statements that reach beyond what a configuration of a run needs.

    Args:
      found: the statements.
      modules: modules, or packages, that may be imported as well.

    Raises:
      UserError: one of them does; its line is told.
    """
    known = gin_text.modules(found)
    if not any(isinstance(s, ImportStatement) and s.module == gin_text.DYNAMIC for s in found):
        raise UserError(
            "configuration: a run's config.gin begins with `from __gin__ import "
            "dynamic_registration`, and this one does not"
        )
    for statement in found:
        if isinstance(statement, IncludeStatement):
            raise _refusal(statement.location, "includes another file")
        imported = statement.module if isinstance(statement, ImportStatement) else gin_text.DYNAMIC
        if imported != gin_text.DYNAMIC and not _may_import(imported, modules):
            raise _refusal(statement.location, f"imports {imported}")
        for name in _names(statement):
            first, _, rest = name.partition(".")
            if name not in _OF_GIN and not _may_configure(known.get(first), rest, modules):
                raise _refusal(statement.location, f"refers to {name}")


def check_module(name: str | None, modules: Sequence[str]) -> None:
    """Raises a UserError unless a module that registers tasks may be imported, see `check`."""
    if name not in (None, TASKS) and not _is_under(name, modules):
        raise UserError(
            f"this run reads tasks that the module {name} registers (MIXTURE_OR_TASK_MODULE), and "
            f"importing it runs its code: allow it with --module {name}"
        )


def _refusal(location: Location, what: str) -> UserError:
    line = location.line_content.strip()
    return UserError(
        f"{location.filename}, line {location.line_num}: {what}, which the configuration of a run "
        f"may not, since it would be run:\n  {line}\nIf it is yours, allow its module with "
        "--module NAME"
    )


def _may_import(module: str, modules: Sequence[str]) -> bool:
    parts = module.split(".")
    ours = parts[0] == "recalign" and not any(part.startswith("_") for part in parts)
    return ours or _is_under(module, modules)


def _is_under(module: str, packages: Iterable[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _may_configure(module: str | None, name: str, modules: Sequence[str]) -> bool:
    """Whether `module.name` is a function or class of that very module, and meant for recipes."""
    if module is None or not _may_import(module, modules):
        return False
    found: Any = importlib.import_module(module)
    found = vars(found).get(name)  # a name with a dot would reach through what is imported there
    if not (inspect.isfunction(found) or inspect.isclass(found)):
        return False
    home = inspect.unwrap(found).__module__ if inspect.isfunction(found) else found.__module__
    if _is_under(module, modules):
        return _is_under(home, modules)
    return _is_under(home, ["recalign"]) and (
        f"{module}.{name}" in _of_recipes() or _is_registered(found)
    )


def _is_registered(found: Any) -> bool:
    """Whether gin knows a function or class, so that its author meant it to be configured."""
    try:
        gin.get_configurable(found)
    except ValueError:
        return False
    return True


@functools.cache
def _of_recipes() -> frozenset[str]:
    """The whole paths of all that recalign's own recipes name."""
    paths = set()
    for folder in gin_files.__path__:
        for path in Path(folder).rglob("*.gin"):
            for statement in gin_text.in_full(gin_text.parse(path.read_text(encoding="utf-8"))):
                paths.update(_names(statement))
    return frozenset(paths)


def _names(statement: Statement) -> Iterator[str]:
    """The dotted names of what a statement configures and refers to; macros are none."""
    configures = isinstance(statement, BlockDeclaration | BindingStatement)
    if configures and not gin_text.is_macro(statement):
        yield statement.selector
    if isinstance(statement, BindingStatement):
        for part in gin_text.references(statement.value):
            if part.sign == "@":
                yield part.name.rpartition("/")[2]
