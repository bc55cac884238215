"""Files on local disk and in a bucket (gs://…), written whole or not at all.

An object in a bucket appears at the end of its upload, whole, so that nothing has to be renamed
there; a folder is there as long as something lies in it. fsspec moves the bytes; its library for
Google's buckets, gcsfs, tries again what a bucket refuses for a moment (408, 429, 5xx), and what a
connection cut off.
"""

import base64
import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import tempfile
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from recalign.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    from etils import epath

_BLOCK = 2**22  # bytes read at a time
_BUCKETS = "gs://"


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether a path is one in a bucket."""
    return "://" in os.fspath(path)


def locate(path: str | os.PathLike) -> Path:
    """A path, local or in a bucket, of which `Path` would take a slash away; ~ is the home folder.

    No shell writes that out after the sign of equality, as in --model_dir=~/runs/one.

    Raises:
      UserError: it is somewhere else.
    """
    return cast(Path, _remote(path)) if in_bucket(path) else Path(os.path.expanduser(path))


def resolve(path: str | os.PathLike) -> "epath.Path":
    """The same as Orbax and TensorStore take it, absolute; raises as `locate`."""
    from etils import epath

    located = epath.Path(locate(path))
    return located if in_bucket(path) else located.resolve()


@contextlib.contextmanager
def raising_os_errors(path: Path) -> Iterator[None]:
    """What is raised of a bucket in the end, by whichever library, becomes an OSError."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if not in_bucket(path):
            raise
        raise OSError(f"{path}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def telling_of_buckets() -> Iterator[None]:
    """Within the block what a bucket refuses, whoever asked it, is told and no traceback.

    Raises:
      UserError: it refuses for good, or could not be reached for a minute.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (refusal := _find_refusal(error)) is None:
            raise
        what = f"{type(refusal).__name__}: {refusal}".strip().partition("\n")[0]
        raise UserError(
            f"a bucket refuses or does not answer ({what}): is it there, and may you read and "
            "write it (gcloud auth application-default login)? Then call the same command again"
        ) from error


def _find_refusal(error: BaseException | None) -> BaseException | None:
    """What gcsfs raised, among an error and what it came of; None where it raised nothing."""
    while error is not None:
        frames = traceback.walk_tb(error.__traceback__)
        if any(frame.f_globals.get("__name__", "").startswith("gcsfs.") for frame, _ in frames):
            return error
        error = error.__cause__ or error.__context__
    return None


def make_folder(path: Path) -> None:
    """Makes a local folder and those that it lies in; in a bucket there are none to be made."""
    if not in_bucket(path):  # gcsfs would make a bucket that is not there
        path.mkdir(parents=True, exist_ok=True)


def is_special(path: Path) -> bool:
    """Whether a local path is a device, a pipe or the like, whose place no file may take."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a local file to write, which takes the place of `path` when the block ends well.

    What a link leads to is replaced, and not the link; a device or a pipe is written into. Of
    several that replace it at once the last one wins.

    Raises:
      OSError: it cannot be written.
    """
    if in_bucket(path) or is_special(path):
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / path.name
            yield draft
            if in_bucket(path):
                with raising_os_errors(path):
                    _system(path).put_file(str(draft), str(path))
            else:
                path.write_bytes(draft.read_bytes())
        return
    path = path.resolve()
    draft = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Within the block no other process, or thread, is in one for a file of the same local folder.

    For what reads a file and writes it anew, with something added. Where there are no such locks,
    in a bucket or on some mounts, nothing is kept from anybody.
    """
    if in_bucket(path):
        yield
        return
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Gives a local folder; what the block writes there is in `folder` when it ends well."""
    if not in_bucket(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as local:
        yield Path(local)
        for name in list_files(Path(local)):
            with raising_os_errors(folder / name):
                _system(folder).put_file(str(Path(local) / name), str(folder / name))


@contextlib.contextmanager
def local_copy(folder: Path) -> Iterator[Path]:
    """Gives a local folder that holds what `folder` does, while the block runs."""
    if not in_bucket(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as local:
        fetch(folder, Path(local))
        yield Path(local)


def fetch(folder: Path, local: Path) -> None:
    """Copies what lies in a folder, local or in a bucket, into an existing local one."""
    for name in list_files(folder):
        copy = local / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with raising_os_errors(folder / name):
            copy.write_bytes((folder / name).read_bytes())


def create(path: Path, text: str) -> bool:
    """Writes an object of a bucket unless there is one; tells whether it did.

    Of any number of processes that try at once, one does. One whose upload came through and whose
    answer did not is told that it did not, and finds its own text there.
    """
    try:
        with raising_os_errors(path):
            _system(path).pipe_file(str(path), text.encode(), mode="create")
    except FileExistsError:
        return False
    return True


def list_files(folder: Path) -> dict[str, int]:
    """The bytes of every file in a folder and in those below, by its path from there, sorted."""
    if in_bucket(folder):
        with raising_os_errors(folder):
            found = _system(folder).find(str(folder), detail=True)
        start = len(str(folder).partition("://")[2]) + 1
        return {name[start:]: found[name]["size"] for name in sorted(found)}
    root = Path(folder)  # an `epath.Path` looks no deeper than one folder
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in files}


def hash_file(path: Path, kind: str) -> str:
    """A hash of a file's content in hexadecimal digits; `kind` as `hashlib` calls it.

    A bucket tells MD5 without being read, save of what was uploaded in parts.
    """
    with raising_os_errors(path):
        known = _system(path).info(str(path)) if in_bucket(path) and kind == "md5" else {}
        if told := known.get("md5Hash"):
            return base64.b64decode(told).hex()
        digest = hashlib.new(kind)
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def read_bytes(path: Path) -> bytes:
    """Reads a file, local or in a bucket.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with raising_os_errors(path):
            return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, local or in a bucket.

    Raises:
      OSError: it cannot be written.
    """
    if in_bucket(path):
        with raising_os_errors(path):
            _system(path).pipe_file(str(path), content)
        return
    with replacing(path) as draft:
        draft.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8; raises as `write_bytes`."""
    write_bytes(path, text.encode())


def read_parquet(path: Path) -> "pa.Table":
    """Reads a Parquet file, local or in a bucket.

    In this thread alone: one of Arrow's may still hold Python's bytes when the interpreter ends,
    and then aborts the process.
    """
    # Whoever writes a JSON file needs none of it, and it takes 0.3 s to import.
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(use_threads=False)


def _remote(path: str | os.PathLike) -> "epath.Path":
    from etils import epath

    if not os.fspath(path).startswith(_BUCKETS):
        raise UserError(f"{path}: only local paths and {_BUCKETS}… are known; copy it there")
    _set_up()
    return epath.Path(path)


@functools.cache
def _set_up() -> None:
    """Has no list of a folder kept, and nothing logged that is raised too, traceback and all."""
    import fsspec

    # TensorStore and other processes write there too.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


def _system(path: Path) -> Any:
    """The file system of fsspec that a path in a bucket is one of."""
    import fsspec

    _set_up()
    return fsspec.filesystem(str(path).partition("://")[0])
