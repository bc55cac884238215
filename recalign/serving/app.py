"""The web application: a page, and the JSON that it asks for.

Nobody is trusted: bodies, queries, histories and what waits are bounded, and nothing that a request
holds is ever markup. Titles reach the page as JSON, which writes them as text.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from recalign.errors import UserError
from recalign.serving import histories
from recalign.serving.batcher import Batcher, Busy, Stopped
from recalign.serving.measuring import Measures
from recalign.serving.openapi import describe
from recalign.serving.recommender import Recommender

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}

# Of every response, an error's too: the server adds them, which no error gets around. The page
# needs nothing from elsewhere, and nobody else may show it or run anything in it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

STOPPED = "this server answers no more and must be started anew; its log tells why"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    Attributes:
      body: bytes of a request.
      history: items of a history.
      histories: of one request.
      words: characters of a search.
      found: items that a search gives.
      batch: histories that are answered at once.
      waiting: requests that wait for the model, and likewise for the catalogue.
      seconds: until a body has come, and until there is an answer.
    """

    body: int = 1 << 16
    history: int = 100
    histories: int = 32
    words: int = 100
    found: int = 30
    batch: int = 8
    waiting: int = 128
    seconds: float = 30.0


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request for recommendations; see `Recommender.recommend`."""

    history: Sequence[int]
    k: int
    include_seen: bool


class Service:
    """Answers about one run; `app` makes a web application of it.

    Args:
      recommender: of the run.
      limits: for every client.
    """

    def __init__(self, recommender: Recommender, limits: Limits):
        self._recommender = recommender
        self._limits = limits
        self._model = Batcher(self.answer, limits.batch, limits.waiting)
        # Searching a large catalogue takes a while: not in the loop that serves everybody.
        self._catalogue = Batcher(_call_all, 1, limits.waiting)
        self._reasons = Batcher(recommender.looked_at, 1, limits.waiting)
        self._batchers = (self._model, self._catalogue, self._reasons)
        self.routes = [
            Route("/healthz", self.health),
            Route("/metrics", self.metrics),
            Route("/api/openapi.json", self.openapi),
            Route("/api/about", self.about),
            Route("/api/items", self.items),
            Route("/api/recommend", self.recommend, methods=["POST"]),
            Route("/api/recommend_batch", self.recommend_batch, methods=["POST"]),
            Route("/api/why", self.why, methods=["POST"]),
            *(Route(url, _file(PAGE / name)) for url, name in FILES.items()),
        ]
        self.measures = Measures([route.path for route in self.routes])

    def warm_up(self) -> None:
        """Compiles all that requests may need, one at a time or in a batch."""
        self._recommender.warm_up((1, self._limits.batch), self._limits.history)

    @contextlib.asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        """Answers while the application lives."""
        del app
        workers = [asyncio.create_task(b.run()) for b in self._batchers]
        for worker in workers:
            worker.add_done_callback(_log_end)
        try:
            yield
        finally:
            for worker in workers:
                worker.remove_done_callback(_log_end)
                worker.cancel()

    def answer(self, asked: Sequence[Asked]) -> list[list[dict[str, Any]]]:
        """The rows of each ranking."""
        rows: list[list[dict[str, Any]]] = [[] for _ in asked]
        for include_seen in (False, True):
            chosen = [i for i, one in enumerate(asked) if one.include_seen == include_seen]
            if not chosen:
                continue
            histories = [asked[i].history for i in chosen]
            self.measures.count_batch(len(histories))
            if len(histories) > 1:  # a batch is of one size, so that little is compiled
                histories += histories[-1:] * (self._limits.batch - len(histories))
            ranked = self._recommender.recommend(
                histories, self._recommender.depth, include_seen=include_seen
            )
            for place, i in enumerate(chosen):
                rows[i] = self._recommender.rows(ranked, place, asked[i].history, asked[i].k)
        return rows

    async def health(self, request: Request) -> Response:
        """Whether it answers: for whoever starts servers anew that do not."""
        del request
        if any(batcher.stopped for batcher in self._batchers):
            raise Stopped
        return JSONResponse({"status": "ok"})

    async def about(self, request: Request) -> Response:
        """What is served, and its limits."""
        del request
        domain = self._recommender.domain
        return JSONResponse(
            {
                "domain": domain.name,
                "items": domain.num_items,
                "most_history": self._limits.history,
                "most_histories": self._limits.histories,
                "most_items": self._recommender.depth,
                "examples": [self._describe(h) for h in self._recommender.example_histories],
            }
        )

    async def metrics(self, request: Request) -> Response:
        """Counts for Prometheus."""
        del request
        return self.measures.response(self._model.waiting)

    async def openapi(self, request: Request) -> Response:
        """This interface, for programs."""
        del request
        return JSONResponse(describe(self._limits, self._recommender.depth))

    async def items(self, request: Request) -> Response:
        """The items of each `id`, or else those that hold all words of `q`."""
        words, keys = request.query_params.get("q", ""), request.query_params.getlist("id")
        if len(words) > self._limits.words:
            raise HTTPException(400, f"q has more than {self._limits.words} characters")
        self._check_length(keys)
        if keys:
            found = await self._look_up(self._recommender.history, keys)
        else:
            found = await self._look_up(self._recommender.matches, words, self._limits.found)
        return JSONResponse({"items": self._describe(found)})

    async def recommend(self, request: Request) -> Response:
        """The ranking for a history: `{"history": [ids], "k": 10, "include_seen": false}`."""
        history, k, include_seen = self._parse(await self._body(request), "history")
        [rows] = await self._rankings([histories.check_history(history)], k, include_seen)
        return JSONResponse({"items": rows})

    async def recommend_batch(self, request: Request) -> Response:
        """The rankings for several: `{"histories": [[ids], …], …}`, the rest as in `recommend`."""
        found, k, include_seen = self._parse(await self._body(request), "histories")
        most = self._limits.histories
        if not isinstance(found, list) or not 1 <= len(found) <= most:
            raise HTTPException(400, f"expected `histories`, a list of 1 to {most} histories")
        checked = [histories.check_history(history) for history in found]
        return JSONResponse({"rankings": await self._rankings(checked, k, include_seen)})

    async def why(self, request: Request) -> Response:
        """What the model looked at: `{"history": [ids], "item": id}`."""
        found = _fields(await self._body(request), {"history", "item"})
        keys = histories.check_history(found.get("history"))
        self._check_length(keys)
        history, [item] = [
            await self._look_up(self._recommender.history, each)
            for each in (keys, histories.check_history([found.get("item")]))
        ]
        shares = await self._reasons.ask((history, item), self._limits.seconds)
        return JSONResponse({"looked_at": shares})

    async def _rankings(
        self, asked: Sequence[Sequence[str]], k: int, include_seen: bool
    ) -> list[list[dict[str, Any]]]:
        """The rows for each history of ids; all of them wait at once, and batches take them."""
        for keys in asked:
            self._check_length(keys)
        found = [await self._look_up(self._recommender.history, keys) for keys in asked]
        answers = (
            self._model.ask(Asked(history, k, include_seen), self._limits.seconds)
            for history in found
        )
        return await asyncio.gather(*answers)

    def _check_length(self, keys: Sequence[str]) -> None:
        if len(keys) > self._limits.history:
            raise HTTPException(400, f"a history has at most {self._limits.history} items here")

    def _describe(self, items: Sequence[int]) -> list[dict[str, str]]:
        return [self._recommender.describe(item) for item in items]

    async def _look_up(self, function, *arguments) -> Any:
        return await self._catalogue.ask((function, arguments), self._limits.seconds)

    async def _body(self, request: Request) -> bytes:
        # A form of another site can't send this type, so that none can make a browser ask us.
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HTTPException(415, "expected a body of type application/json")
        body = b""
        async with asyncio.timeout(self._limits.seconds):
            async for part in request.stream():
                body += part
                if len(body) > self._limits.body:
                    raise HTTPException(413, f"a body has at most {self._limits.body} bytes")
        return body

    def _parse(self, body: bytes, asked: str) -> tuple[Any, int, bool]:
        """The field that a body asks with, of any kind, and its `k` and `include_seen`."""
        found = _fields(body, {asked, "k", "include_seen"})
        k, include_seen = (
            found.get("k", min(10, self._recommender.depth)),
            found.get("include_seen", False),
        )
        if type(k) is not int or not 1 <= k <= self._recommender.depth:
            raise HTTPException(400, f"k must be a number from 1 to {self._recommender.depth}")
        if not isinstance(include_seen, bool):
            raise HTTPException(400, "include_seen must be true or false")
        return found.get(asked), k, include_seen


def app(service: Service, hosts: Sequence[str] = ("*",)) -> Starlette:
    """The web application of a service.

    Args:
      service: answers.
      hosts: the names that a browser may know the server by. A page of another site, whose name was
        made to lead here, gets nothing.
    """
    return Starlette(
        routes=service.routes,
        middleware=[
            Middleware(service.measures.around),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={
            HTTPException: lambda _, error: _error(error.status_code, error.detail),
            UserError: lambda _, error: _error(400, str(error)),
            Busy: lambda _, error: _error(503, "too many requests at once: try again soon", "1"),
            Stopped: lambda _, error: _error(503, STOPPED),
            TimeoutError: lambda _, error: _error(504, "this took too long"),
            ClientDisconnect: lambda _, error: _error(400, "the body broke off"),
            Exception: _broken,
        },
        lifespan=service.running,
    )


def _fields(body: bytes, known: Collection[str]) -> dict[str, Any]:
    """What a JSON object holds."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body is not JSON") from error
    if not isinstance(found, dict):
        raise HTTPException(400, "the body is not a JSON object")
    if unknown := sorted(found.keys() - known):
        raise HTTPException(400, f"the body has an unknown field {unknown[0][:50]!r}")
    return found


def _file(path: Path):
    async def send(request: Request) -> Response:
        del request
        return FileResponse(path)

    return send


def _call_all(calls: Sequence[tuple]) -> list[Any]:
    """What functions give for their arguments, or what they raise."""

    def call(function, arguments):
        try:
            return function(*arguments)
        except UserError as error:
            return error

    return [call(*one) for one in calls]


def _error(status: int, message: str, retry_after: str | None = None) -> Response:
    headers = {"Retry-After": retry_after} if retry_after else None
    return JSONResponse({"error": message}, status, headers)


def _log_end(worker: asyncio.Task) -> None:
    error = None if worker.cancelled() else worker.exception()
    log.critical("nothing is answered any more: start the server anew", exc_info=error)


async def _broken(request: Request, error: Exception) -> Response:
    log.error("%s failed", request.url.path, exc_info=error)
    return _error(500, "something is broken here; the server's log tells what")
