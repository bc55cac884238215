"""TensorBoard's events, on local disk or in a bucket.

An object in a bucket cannot be added to: the file is kept in memory, a few MB, and put there whole
from time to time. tensorboardX could, but an upload that fails ends its thread, and a training
would wait for that one forever; here it is told, and made up for by the next.
"""

import io
import logging
import time

from tensorboardX import SummaryWriter, record_writer

from recalign.engine import processes
from recalign.files import locate, write_bytes

log = logging.getLogger(__name__)

PERIOD = 30.0  # seconds between two uploads


def open_writer(folder: str, first: int) -> SummaryWriter:
    """Writes events into a folder; the first process alone does.

    Args:
      folder: local or in a bucket.
      first: the step that is gone on from, after which earlier events are void.
    """
    return SummaryWriter(folder, purge_step=first + 1, write_to_disk=processes.is_first())


class _Upload:
    """A file in a bucket that is written on and on."""

    def __init__(self, path: str):
        self._path = locate(path)
        self._content = io.BytesIO()
        self._put = 0  # bytes
        self._next = 0.0

    def write(self, content: bytes) -> None:
        """Adds to it."""
        self._content.write(content)

    def flush(self) -> None:
        """Puts what there is into the bucket, unless that was done a moment ago."""
        if time.monotonic() >= self._next:
            self.close()

    def close(self) -> None:
        """Puts what there is into the bucket."""
        if self._put == self._content.tell():
            return
        self._next = time.monotonic() + PERIOD
        try:
            write_bytes(self._path, self._content.getvalue())
            self._put = self._content.tell()
        except OSError as error:
            log.warning("TensorBoard's events could not be written this time: %s", error)


class _Bucket:
    """How tensorboardX opens files in a bucket."""

    def open(self, path: str) -> _Upload:
        return _Upload(path)

    def directory_check(self, path: str) -> None:
        """There are no folders."""


record_writer.register_writer_factory("gs", _Bucket())
