"""A bucket of Google's on this machine, and what can go wrong with one.

PyPI's gcp-storage-emulator, with what it lacks and the clients here rely on: the precondition
`ifGenerationMatch` of an upload, the generation of what is read, and requests served side by side.
gcsfs takes its address from STORAGE_EMULATOR_HOST, as Google's own client does, and TensorStore
from TENSORSTORE_GCS_HTTP_URL; TensorFlow takes none.
"""

import asyncio
import contextlib
import functools
import io
import itertools
import os
import re
import socket
import struct
import sys
import threading
import time
import types
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from typing import Any
from unittest import mock

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

NAME = "bucket"
Fault = Callable[["_Handler"], bool]
"""Answers a request in its own way, or does not and says so."""


class Bucket:
    """The server, and the faults that it commits.

    Attributes:
      faults: asked in turn before a request is answered.
    """

    def __init__(self):
        self.storage = Storage(use_memory_fs=True)
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        buckets.create_bucket(NAME, self.storage)
        self._server = _Server(("127.0.0.1", 0), functools.partial(_Handler, self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def empty(self) -> None:
        """Forgets all objects and faults."""
        with self.lock:
            self.faults.clear()
            self.storage.wipe(keep_buckets=True)

    def close(self) -> None:
        """Serves no more."""
        self._server.shutdown()
        self._server.server_close()

    def names(self, prefix: str = "") -> list[str]:
        """The objects whose names begin so."""
        with self.lock:
            return sorted(n for n in self.storage.objects.get(NAME, {}) if n.startswith(prefix))

    def read(self, name: str) -> bytes:
        """What an object holds."""
        with self.lock:
            return self.storage.get_file(NAME, name)

    def write(self, name: str, content: bytes) -> None:
        """Changes what an object holds, and what the bucket tells of it."""
        with self.lock:
            told = objects._make_object_resource(self.url, NAME, name, None, str(len(content)))
            told = objects._checksums(content, told)
            self.storage.create_file(NAME, name, content, told)

    def remove(self, *names: str) -> None:
        """Takes objects away."""
        with self.lock:
            for name in names:
                self.storage.delete_file(NAME, name)

    @contextlib.contextmanager
    def failing(self, fault: Fault) -> Iterator[list[str]]:
        """Commits a fault while the block runs; gives what requests it was committed on."""
        struck = []

        def strike(handler: "_Handler") -> bool:
            if fault(handler):
                struck.append(f"{handler.command} {handler.path}")
                return True
            return False

        self.faults.append(strike)
        try:
            yield struck
        finally:
            self.faults.remove(strike)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that did not wait: of two answers gcsfs takes the first."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(RequestHandler):
    """A request."""

    def __init__(self, bucket: Bucket, *arguments: Any):
        self.bucket = bucket
        super().__init__(bucket.storage, *arguments)

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if not any(fault(self) for fault in [*self.bucket.faults]):
            self._serve()
        return False

    def _serve(self) -> None:
        self._read_by_offsets()
        self._body()
        with self.bucket.lock:  # the emulator's storage knows of no threads
            if self._is_refused():
                self.answer(412)
            else:
                getattr(self, f"do_{self.command}")()

    def _body(self) -> bytes:
        """What came with it, which the handler may read again."""
        if not isinstance(self.rfile, _Body):
            self.rfile = _Body(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        return self.rfile.content

    def answer(self, status: int) -> None:
        """Ends the request with a status and nothing else."""
        self._body()
        self.send_response(status)
        self.send_header("Content-Length", "0")
        super().end_headers()
        self.close_connection = True

    def hang_up(self) -> None:
        """Cuts the connection off in the middle of the request."""
        if not isinstance(self.rfile, _Body):
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
        self._reset()

    def commit_silently(self) -> None:
        """Does what is asked, and cuts the connection off before it says so."""
        sent, self.wfile = self.wfile, io.BytesIO()
        self._serve()
        self.wfile = sent
        self._reset()

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)  # a reset, as from a machine that is gone
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    @property
    def query(self) -> dict[str, str]:
        """Its parameters."""
        found = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        return {name: values[0] for name, values in found.items()}

    @property
    def is_upload(self) -> bool:
        """Whether it brings an object's content."""
        return self.command in ("POST", "PUT") and self.path.startswith("/upload/")

    def _read_by_offsets(self) -> None:
        """TensorStore lists from one name to another, of which the emulator knows the prefix."""
        if (start := self.query.get("startOffset")) is not None:
            end = self.query.get("endOffset", "")
            assert end == start[:-1] + chr(ord(start[-1]) + 1), (start, end)
            self.path += "&prefix=" + urllib.parse.quote(start)

    @property
    def object(self) -> str:
        """The name of what it is about; "" of a list."""
        if name := self.query.get("name"):
            return name
        if self.is_upload and (found := re.search(rb'"name": "([^"]+)"', self._body())):
            return found[1].decode()
        found = re.search(r"/o/([^/?]+)", self.path)
        return urllib.parse.unquote(found[1]) if found else ""

    def _generation(self) -> str:
        try:
            return self.bucket.storage.get_file_obj(NAME, self.object)["generation"]
        except (NotFound, KeyError):
            return "0"

    def _is_refused(self) -> bool:
        wanted = self.query.get("ifGenerationMatch")
        return self.is_upload and wanted is not None and wanted != self._generation()

    def end_headers(self) -> None:
        if self.command == "GET" and self.query.get("alt") == "media":
            self.send_header("x-goog-generation", self._generation())
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class _Body:
    """What came with a request; the handler reads of it what it likes."""

    def __init__(self, content: bytes):
        self.content = content
        self._place = 0

    def read(self, size: int = -1) -> bytes:
        end = len(self.content) if size < 0 else self._place + size
        found = self.content[self._place : end]
        self._place += len(found)
        return found

    def readline(self, size: int = -1) -> bytes:
        end = self.content.find(b"\n", self._place) + 1 or len(self.content)
        return self.read(end - self._place)

    def close(self) -> None:
        pass


def refusing(times: int, status: int = 503, of: Callable[[_Handler], bool] = lambda _: True):
    """A fault: so many requests are refused."""
    return _limited(times, lambda handler: handler.answer(status), of)


def stammering(every: int) -> Fault:
    """A fault: of so many requests one is refused."""
    count = itertools.count(1)
    return _limited(10**9, lambda handler: handler.answer(503), lambda _: not next(count) % every)


def cutting(times: int) -> Fault:
    """A fault: so many uploads break off in the middle."""
    return _limited(times, _Handler.hang_up, lambda handler: handler.is_upload)


def muting(times: int) -> Fault:
    """A fault: so many uploads come through, and nobody is told."""
    return _limited(times, _Handler.commit_silently, lambda handler: handler.is_upload)


def slow(seconds: float, of: Callable[[_Handler], bool] = lambda _: True) -> Fault:
    """A fault: answers come late."""
    return lambda handler: of(handler) and bool(time.sleep(seconds))


def _limited(times: int, act: Callable[[_Handler], None], of: Callable[[_Handler], bool]) -> Fault:
    left = [times]

    def fault(handler: _Handler) -> bool:
        if not of(handler) or left[0] <= 0:
            return False
        left[0] -= 1
        act(handler)
        return True

    return fault


@contextlib.contextmanager
def serving() -> Iterator[Bucket]:
    """A bucket gs://bucket that the clients of this process, and of what it starts, go to."""
    bucket = Bucket()
    told = {"STORAGE_EMULATOR_HOST": bucket.url, "TENSORSTORE_GCS_HTTP_URL": bucket.url}
    with mock.patch.dict(os.environ, told):
        import gcsfs.retry

        hasty = types.SimpleNamespace(sleep=lambda seconds: asyncio.sleep(seconds / 50))
        with mock.patch.object(gcsfs.retry, "asyncio", hasty):
            yield bucket
    bucket.close()
