"""Files are written whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from recalign.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a file beside `path` to write, which takes its place when the block ends well."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_bytes(path: Path) -> bytes:
    """Reads a file, local or in a bucket.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def read_parquet(path: Path) -> "pa.Table":
    """Reads a Parquet file, local or in a bucket.

    In this thread alone: one of Arrow's may still hold Python's bytes when the interpreter ends,
    and then aborts the process.
    """
    # Whoever writes a JSON file needs none of it, and it takes 0.3 s to import.
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(use_threads=False)
