"""Options that several commands share."""

import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recalign.errors import UserError, check_module_name, quote
from recalign.files import in_bucket, is_special, locate

if TYPE_CHECKING:
    from recalign.runs.run import Run

DATA_DIR = "RECALIGN_DATA_DIR"

NOTHING = "it names nothing (is a variable of the shell empty?)"


class _TextType(click.ParamType):
    """A name, or several, but not none."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.strip():
            self.fail(NOTHING, param, ctx)
        return value


TEXT = _TextType()
model_dir_option = click.option(
    "--model_dir",
    "--model-dir",
    required=True,
    type=TEXT,
    metavar="DIR",
    help="The folder of a run.",
)
step_option = click.option(
    "--step",
    default="newest",
    type=TEXT,
    show_default=True,
    metavar="N|best|newest",
    help="Which checkpoint; `best` is the one that is best on validation by BEST_METRIC.",
)


class _PathType(click.ParamType):
    """A path, local or, where `elsewhere` is None, also in a bucket; else that says what to do."""

    name = "path"

    def __init__(self, elsewhere: str | None = None):
        self._elsewhere = elsewhere

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not os.fspath(value).strip():
            self.fail(NOTHING, param, ctx)
        if self._elsewhere and in_bucket(value):
            raise UserError(f"{param.opts[0]} {value}: only local disk is {self._elsewhere}")
        return locate(value)


SOURCE = _PathType()
LOCAL_SOURCE = _PathType("read; copy it there first")
_OUTPUT = _PathType("written to; copy it to a bucket afterwards")
# Names that no file has which is written so: it is JSON or a page, and not packed.
_OTHER_FILES = {".csv", ".tsv", ".parquet", ".gz", ".bz2", ".xz", ".zst", ".zip"}


def _check_modules(
    context: click.Context, option: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    del context
    for name in names:
        where = f"{option.opts[0]} {name}"
        check_module_name(option.opts[0], name)
        try:
            found = importlib.util.find_spec(name)  # imports the packages that it is in
        except Exception as error:
            raise UserError(f"{where}: it cannot be imported: {error}") from error
        if not found:
            raise UserError(f"{where}: there is no such module; is its folder on PYTHONPATH?")
    return names


modules_option = click.option(
    "--module",
    "modules",
    multiple=True,
    type=TEXT,
    callback=_check_modules,
    metavar="NAME",
    help="A module of yours that the run's config.gin may import, such as the one that registers "
    "its tasks. May be given several times.",
)


def combine(*options: Callable[[Callable], Callable]) -> Callable[[Callable], Callable]:
    """A decorator that adds several options; help lists them in this order."""
    return lambda command: functools.reduce(lambda c, option: option(c), options[::-1], command)


def split_option(default: str = "test", help: str | None = None) -> Callable[[Callable], Callable]:
    """`--split`, of what is held out."""
    splits = click.Choice(["validation", "test"])
    return click.option("--split", default=default, show_default=True, type=splits, help=help)


def output_option(
    help: str, folder: bool = False, required: bool = True, buckets: bool = False
) -> Callable[[Callable], Callable]:
    """`--output`, a file or a folder; what is wrong with it is told before any work.

    With `buckets` it may be a folder in a bucket.
    """
    check = output_folder if folder else output_file
    return click.option(
        "--output",
        required=required,
        type=SOURCE if buckets else _OUTPUT,
        callback=check,
        help=help,
    )


def run_options(command: Callable) -> Callable:
    """Adds what names a run and its checkpoint; the command is given `load_run()`.

    With the folder of another run it loads that one, by the same `--module`.
    """

    @combine(model_dir_option, step_option, modules_option)
    @functools.wraps(command)
    def wrapper(*args, model_dir: str, step: str, modules: tuple[str, ...], **kwargs):
        def load_run(other: str | None = None) -> "Run":
            from recalign.runs.run import load

            return load(other, modules=modules) if other else load(model_dir, step, modules)

        return command(*args, load_run=load_run, **kwargs)

    return wrapper


def parse_names(names: str) -> list[str]:
    """The names in `a,b,c`, each once; what is empty is none.

    Raises:
      UserError: there is no name.
    """
    found = list(dict.fromkeys(name for word in names.split(",") if (name := word.strip())))
    if not found:
        raise UserError(f"there is no name in {names!r}: expected NAME,NAME")
    return found


def parse_seeds(seeds: str) -> list[int]:
    """The numbers in `0,1,2`, each once.

    Raises:
      UserError: they are no whole numbers that a seed may be.
    """
    words = [word.strip() for word in seeds.split(",")]
    if not all(word.isdecimal() and len(word) <= 10 and int(word) < 2**32 for word in words):
        raise UserError(
            f"--seeds is {quote(seeds)}, but must be whole numbers from 0 to 2**32 - 1: 0,1,2"
        )
    return list(dict.fromkeys(map(int, words)))


def output_file(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """The callback of an option that names a file to write: what is wrong is told before any work.

    Raises:
      UserError: its folder is not there or cannot be written to, or the file is a folder, or
        standard output, or named as a table or packed, which nothing that is written so is.
    """
    del context
    if path is None:
        return None
    _check_named(option, path)
    if path.suffix.lower() in _OTHER_FILES:
        raise UserError(
            f"{option.opts[0]} {path}: what is written is no {path.suffix}. "
            f"{getattr(option, 'help', '')}"
        )
    if path.is_dir():
        raise UserError(f"{option.opts[0]} {path}: there is a folder of that name")
    if not is_special(path):
        _check_writable(option, path, path.parent)
    elif not os.access(path, os.W_OK):
        raise UserError(f"{option.opts[0]} {path}: {path} cannot be written to")
    return path


def output_folder(context: click.Context, option: click.Parameter, path: Path) -> Path:
    """The same of an option that names a folder, which need not exist, nor the ones it lies in.

    Raises:
      UserError: there is a file in its way, or no folder can be made there, or it is standard
        output.
    """
    del context
    _check_named(option, path)
    if in_bucket(path):
        return path
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    _check_writable(option, path, there)
    return path


def _check_named(option: click.Parameter, path: Path) -> None:
    if path == Path("-"):
        raise UserError(
            f"{option.opts[0]} -: nothing is written to standard output, where the command tells "
            "how it went; give it a name"
        )


def _check_writable(option: click.Parameter, path: Path, folder: Path) -> None:
    if not folder.is_dir():
        wrong = "is a file" if folder.exists() else "is not there: make it first"
        raise UserError(f"{option.opts[0]} {path}: {folder} {wrong}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{option.opts[0]} {path}: {folder} cannot be written to")


def data_dir_option(command: Callable) -> Callable:
    """Adds `--data_dir`, which is where the command looks for prepared domains."""

    @click.option(
        "--data_dir",
        "--data-dir",
        help="Where prepared domains live.  [default: $RECALIGN_DATA_DIR or ~/.cache/recalign]",
    )
    @functools.wraps(command)
    def wrapper(*args, data_dir: str | None, **kwargs):
        before = os.environ.get(DATA_DIR)
        if data_dir is not None and not data_dir.strip():
            raise UserError(f"--data_dir: {NOTHING}")
        if data_dir:
            os.environ[DATA_DIR] = data_dir
        try:
            return command(*args, **kwargs)
        finally:
            if data_dir:
                os.environ.pop(DATA_DIR)
            if before is not None:
                os.environ[DATA_DIR] = before

    return wrapper


def gin_options(required: bool) -> Callable[[Callable], Callable]:
    """Adds T5X's gin flags; the command is given `configure()`, which parses them.

    Its arguments are bindings that the flags may override, files to include `first`, before theirs,
    and after them, `overrides`, bindings that no flag overrides, and macros that are `unneeded`.

    The command needs `context_settings={"ignore_unknown_options": True}`.
    """

    def decorate(command: Callable) -> Callable:
        @click.option(
            "--gin_file",
            multiple=True,
            required=required,
            type=TEXT,
            metavar="FILE",
            help="A recipe; of several, later ones override earlier ones. Looked for here, in "
            "--gin_search_paths, then among recalign's own (toyshop.gin, models/tiny.gin, …).",
        )
        @click.option(
            "--gin_search_paths", default="", metavar="DIR,DIR", help="Further folders of recipes."
        )
        @click.argument(
            "overrides", nargs=-1, type=click.UNPROCESSED, metavar="[--gin.NAME=VALUE]..."
        )
        @functools.wraps(command)
        def wrapper(*args, gin_file, gin_search_paths, overrides, **kwargs):
            bindings = [_binding(override) for override in overrides]
            paths = [path for path in gin_search_paths.split(",") if path]

            def configure(
                *defaults: str,
                first: Sequence[str] = (),
                files: Sequence[str] = (),
                overrides: Sequence[str] = (),
                unneeded: Sequence[str] = (),
            ) -> None:
                from recalign.runs import configuration

                configuration.parse(
                    [*first, *gin_file, *files], [*defaults, *bindings, *overrides], paths, unneeded
                )

            return command(*args, configure=configure, **kwargs)

        return wrapper

    return decorate


task_option = click.option(
    "--task", type=TEXT, metavar="TASK", help="One of the run's; needed if it has several."
)


def multiprocess_options(command: Callable) -> Callable:
    """Adds the flags that make this process one of several; only the first one prints."""

    @click.option(
        "--multiprocess",
        is_flag=True,
        help="This is one of several processes that run as one (jax.distributed); each is started "
        "with the same command. On TPU slices and under Slurm that is all it takes.",
    )
    @click.option(
        "--coordinator_address", metavar="HOST:PORT", help="Elsewhere: where process 0 listens."
    )
    @click.option("--process_count", type=click.IntRange(min=1), help="Elsewhere: how many.")
    @click.option("--process_index", type=click.IntRange(min=0), help="Elsewhere: which, from 0.")
    @functools.wraps(command)
    def wrapper(
        *args, multiprocess, coordinator_address, process_count, process_index, **kwargs
    ) -> None:
        if not multiprocess:
            if (coordinator_address, process_count, process_index) != (None, None, None):
                raise UserError("--coordinator_address and the like are for --multiprocess")
            return click.echo(command(*args, **kwargs))

        from recalign.engine import processes

        processes.join(coordinator_address, process_count, process_index)
        with processes.telling_of_losses():
            text = command(*args, **kwargs)
        if processes.is_first():
            click.echo(text)

    return wrapper


def _binding(override: str) -> str:
    if not override.startswith("--gin."):
        raise UserError(f"what is {override!r}? Overrides are written --gin.NAME=VALUE")
    return override.removeprefix("--gin.")
