"""The command line. Heavy imports happen inside commands: `recalign --help` answers at once."""

import errno
import gc
import io
import logging
import os
import sys
import time

import click

from recalign import __version__
from recalign.cli.ablate import ablate
from recalign.cli.add_items import add_items
from recalign.cli.baseline import baseline
from recalign.cli.cache import cache
from recalign.cli.convert import convert
from recalign.cli.evaluate import evaluate, infer
from recalign.cli.inspect import inspect
from recalign.cli.prepare import prepare
from recalign.cli.quiet import silence_tensorflow
from recalign.cli.recommend import recommend
from recalign.cli.report import report
from recalign.cli.serve import serve
from recalign.cli.tasks import tasks
from recalign.cli.train import train
from recalign.errors import Preempted, ProcessLostError, UserError
from recalign.files import telling_of_buckets

# What the system says of a path that the user gave, or of the rights to it.
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\n"
    "Examples:\n"
    "  recalign prepare toyshop\n"
    "  recalign tasks toyshop_mim --examples 2\n"
    "  recalign train --gin_file=toyshop.gin --gin.MODEL_DIR=runs/toyshop\n"
    "  recalign eval --model_dir runs/toyshop\n"
    "  recalign recommend --model_dir runs/toyshop --history toy-127,toy-095",
)
@click.version_option(__version__)
def recalign() -> None:
    """Aligns FLAN-T5 with recommendation knowledge."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("recalign").setLevel(logging.INFO)


for command in (
    prepare,
    tasks,
    train,
    evaluate,
    ablate,
    inspect,
    report,
    baseline,
    infer,
    recommend,
    serve,
    convert,
    cache,
    add_items,
):
    recalign.add_command(command)


def main() -> None:
    """Runs a command; a mistake of the user is one message and exit code 2."""
    silence_tensorflow()
    for stream in (sys.stdout, sys.stderr):
        # What a terminal's encoding lacks, of a title or of our own, is no reason to end.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # For every 700 objects more Python looks for cycles in the youngest: of what is imported an
    # eighth of the time in which a command starts.
    gc.set_threshold(20_000, 10, 10)
    try:
        with telling_of_buckets():
            recalign(prog_name="recalign")
    except Preempted as error:
        click.echo(f"recalign: {error}", err=True)
        sys.exit(error.exit_code)
    except ProcessLostError as error:
        click.echo(f"recalign: {error}", err=True)
        sys.stdout.flush()
        # Of the others some notice only as their neighbours go, and all are answered by the first
        # process, so that it goes last. At exit JAX would wait for the one that is lost.
        from recalign.engine import processes

        if processes.is_first():
            time.sleep(10)
        os._exit(1)
    except UserError as error:
        # Gin adds which configurable raised it, which tells a user nothing.
        message = str(error).partition("\n  In call to configurable")[0]
        click.echo(f"recalign: {message}", err=True)
        sys.exit(2)
    except OSError as error:
        path = error.filename2 or error.filename  # the second is where something was copied to
        where = f"{path}: " if path else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            click.echo(f"recalign: {where}the disk is full; make room and call again", err=True)
        elif error.errno == errno.EFBIG:
            click.echo(f"recalign: {where}a file is larger than it may be (ulimit -f)", err=True)
        elif not _is_somewhere():
            click.echo("recalign: the current folder is gone; cd to one that is there", err=True)
        elif error.filename and error.errno in _REFUSED:
            click.echo(f"recalign: {where}{error.strerror}", err=True)
        else:
            raise
        sys.exit(2)


def _is_somewhere() -> bool:
    """Whether the current folder is there still: what paths are relative to."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True
