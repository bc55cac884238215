"""What a server tells Prometheus of itself, at `/metrics`."""

import time
from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
OTHER = "other"
"""The path of whatever is asked for and is not there: of those there is no end."""


class Measures:
    """Counts of one server; two in a process have nothing to do with each other.

    Args:
      paths: that are served.
    """

    def __init__(self, paths: Collection[str]):
        self._paths = frozenset(paths)
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "recalign_requests",
            "Requests, by path and status.",
            ["path", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "recalign_request_seconds",
            "From a request to the end of its answer.",
            ["path"],
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._batches = Histogram(
            "recalign_batch_histories",
            "Histories that the model ranked at once.",
            registry=self._registry,
            buckets=(1, 2, 4, 8, 16, 32),
        )
        self._waiting = Gauge(
            "recalign_waiting", "Requests that wait for the model.", registry=self._registry
        )

    def count_batch(self, histories: int) -> None:
        """Notes how many histories were ranked at once."""
        self._batches.observe(histories)

    def response(self, waiting: int) -> Response:
        """All of it as text; `waiting` requests wait for the model now."""
        self._waiting.set(waiting)
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def around(self, app: ASGIApp) -> ASGIApp:
        """An application whose every answer is counted."""

        async def measure(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            begin, status = time.perf_counter(), 500

            async def note(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            path = scope["path"] if scope["path"] in self._paths else OTHER
            try:
                await app(scope, receive, note)
            finally:
                self._requests.labels(path, status).inc()
                self._seconds.labels(path).observe(time.perf_counter() - begin)

        return measure
