"""Gin text as statements, read by gin's own grammar, and statements as gin text."""

import dataclasses
import io
import tokenize
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gin import config_parser
from gin.config_parser import (
    BindingStatement,
    BlockDeclaration,
    ImportStatement,
    IncludeStatement,
)

Statement = BindingStatement | BlockDeclaration | ImportStatement | IncludeStatement

DYNAMIC = "__gin__.dynamic_registration"
"""What a file imports whose names are those of Python."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """A part of a value that is not literal: `@name`, `@name()` or `%NAME`."""

    sign: str
    name: str
    called: bool = False

    def __repr__(self):
        return f"{self.sign}{self.name}{'()' if self.called else ''}"


class _Delegate(config_parser.ParserDelegate):
    """Keeps references as they are written."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference("@", scoped_configurable_name, evaluate)

    def macro(self, macro_name: str) -> Reference:
        return Reference("%", macro_name)


class Source(io.StringIO):
    """A text under the name that gin is to give it in errors."""

    def __init__(self, text: str, name: str | None = None):
        super().__init__(text)
        self.name = name


def parse(text: str, name: str | None = None) -> list[Statement]:
    """What a text says; the parts of values that are not literal become `Reference`s.

    Raises:
      SyntaxError: it is no gin; its line is told.
    """
    try:
        return list(config_parser.ConfigParser(Source(text, name), _Delegate()))
    except tokenize.TokenError as error:
        message, (line, _) = error.args
        raise SyntaxError(message, (name, line, None, None)) from error


def write(found: Iterable[Statement]) -> str:
    """Statements as text, a line each; what a block declares is said by its bindings."""
    lines = []
    for statement in found:
        if isinstance(statement, ImportStatement):
            lines.append(statement.format())
        elif isinstance(statement, IncludeStatement):
            lines.append(f"include {statement.filename!r}")
        elif isinstance(statement, BindingStatement):
            lines.append(f"{name_of(statement)} = {statement.value!r}")
    return "".join(f"{line}\n" for line in lines)


def is_macro(statement: Statement) -> bool:
    """Whether a statement sets a macro."""
    return isinstance(statement, BindingStatement) and not statement.arg_name


def name_of(binding: BindingStatement) -> str:
    """What a binding sets: `scope/module.Class.argument`, or a macro."""
    argument = f".{binding.arg_name}" if binding.arg_name else ""
    return f"{_add_scope(binding.scope, binding.selector)}{argument}"


def references(value: Any) -> Iterator[Reference]:
    """Every reference in a value, however deep."""
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, dict):
        yield from references([*value.items()])
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from references(part)


def replace(value: Any, new: Callable[[Reference], Any]) -> Any:
    """A value with something else in the place of each reference."""
    if isinstance(value, Reference):
        return new(value)
    if isinstance(value, dict):
        return {replace(key, new): replace(part, new) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(replace(part, new) for part in value)
    return value


def modules(found: Iterable[Statement]) -> dict[str, str]:
    """What each name that the imports among some statements bind stands for."""
    return {
        statement.bound_name(): (
            statement.module
            if statement.is_from or statement.alias
            else statement.module.partition(".")[0]
        )
        for statement in found
        if isinstance(statement, ImportStatement) and statement.module != DYNAMIC
    }


def rename(found: Iterable[Statement], new: Callable[[str], str]) -> list[Statement]:
    """Statements with other names for what they configure and refer to, scopes kept.

    Args:
      found: the statements.
      new: what a dotted name becomes. Macros, which have no dot, keep theirs.
    """

    def reference(part: Reference) -> Reference:
        if part.sign == "%":
            return part
        scope, _, selector = part.name.rpartition("/")
        return dataclasses.replace(part, name=_add_scope(scope, new(selector)))

    renamed = []
    for statement in found:
        if isinstance(statement, BindingStatement):
            statement = statement._replace(value=replace(statement.value, reference))
        if isinstance(statement, BlockDeclaration | BindingStatement) and not is_macro(statement):
            statement = statement._replace(selector=new(statement.selector))
        renamed.append(statement)
    return renamed


def in_full(found: Iterable[Statement]) -> list[Statement]:
    """Statements whose names begin with the whole path of a module, and not with what binds it."""
    found = list(found)
    known = modules(found)

    def full(name: str) -> str:
        first, dot, rest = name.partition(".")
        return f"{known.get(first, first)}{dot}{rest}"

    return rename(found, full)


def in_short(found: Iterable[Statement]) -> list[Statement]:
    """Takes back what `in_full` did, by the imports among the statements."""
    found = list(found)
    bound = {module: name for name, module in modules(found).items()}

    def short(path: str) -> str:
        module, dot, rest = path.rpartition(".")
        return f"{bound.get(module, module)}{dot}{rest}"

    return rename(found, short)


def _add_scope(scope: str, selector: str) -> str:
    return f"{scope}/{selector}" if scope else selector
