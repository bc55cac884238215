"""The web application: a page, and the JSON that it asks for.

Nobody is trusted: bodies, queries, histories and what waits are bounded, and nothing that a request
holds is ever markup. Titles reach the page as JSON, which writes them as text.
"""

import asyncio
import contextlib
import dataclasses
import logging
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from recalign.errors import UserError, quote, telling_where
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

BUSY = "too many requests at once: try again soon"
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
      requests: that are under way at once.
    """

    body: int = 1 << 16
    history: int = 100
    histories: int = 32
    words: int = 100
    found: int = 30
    batch: int = 8
    waiting: int = 128
    seconds: float = 30.0
    requests: int = 512


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
        """Compiles all that requests may need: rankings of one or a batch, and reasons of one."""
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
        asked = request.query_params
        if unknown := sorted(asked.keys() - {"q", "id"}):
            raise UserError(f"unknown parameter {quote(unknown[0])}; expected q or id")
        words, keys = asked.getlist("q"), asked.getlist("id")
        if len(words) + bool(keys) > 1:
            raise UserError("expected one q, or one id or several")
        if keys:
            found = await self._find(keys)
        else:
            found = await self._search("".join(words))
        return JSONResponse({"items": self._describe(found)})

    async def recommend(self, request: Request) -> Response:
        """The ranking for a history: `{"history": [ids], "k": 10, "include_seen": false}`."""
        keys, k, include_seen = self._parse(await self._body(request), "history")
        history = await self._find(histories.check_history(keys))
        return JSONResponse({"items": await self._rank(Asked(history, k, include_seen))})

    async def recommend_batch(self, request: Request) -> Response:
        """The rankings for several: `{"histories": [[ids], …], …}`, the rest as in `recommend`."""
        found, k, include_seen = self._parse(await self._body(request), "histories")
        most = self._limits.histories
        if not isinstance(found, list) or not 1 <= len(found) <= most:
            raise UserError(f"expected `histories`, a list of 1 to {most} histories")
        asked = []
        for place, keys in enumerate(found, start=1):
            with telling_where(f"history {place}"):
                history = await self._find(histories.check_history(keys))
            asked.append(Asked(history, k, include_seen))
        # All of them wait at once, and batches take them.
        rankings = await asyncio.gather(*map(self._rank, asked))
        return JSONResponse({"rankings": rankings})

    async def why(self, request: Request) -> Response:
        """What the model looked at: `{"history": [ids], "item": id}`."""
        found = _fields(await self._body(request), {"history", "item"})
        history = await self._find(histories.check_history(found.get("history")))
        if not isinstance(key := found.get("item"), str):
            raise UserError("expected `item`, the id of an item")
        [item] = await self._find([key])
        shares = await self._reasons.ask((history, item), self._limits.seconds)
        return JSONResponse({"looked_at": shares})

    async def _find(self, keys: Sequence[str]) -> list[int]:
        """The items with these ids."""
        most = self._limits.history
        if len(keys) > most:
            raise UserError(f"at most {most} items can be asked about, not {len(keys)}")
        return await self._look_up(self._recommender.history, keys)

    async def _search(self, words: str) -> list[int]:
        """Items that hold all the words."""
        if len(words) > self._limits.words:
            raise UserError(f"q has more than {self._limits.words} characters")
        return await self._look_up(self._recommender.matches, words, self._limits.found)

    async def _look_up(self, function, *arguments) -> list[int]:
        return await self._catalogue.ask((function, arguments), self._limits.seconds)

    async def _rank(self, asked: Asked) -> list[dict[str, Any]]:
        return await self._model.ask(asked, self._limits.seconds)

    def _describe(self, items: Sequence[int]) -> list[dict[str, str]]:
        return [self._recommender.describe(item) for item in items]

    async def _body(self, request: Request) -> bytes:
        # A form of another site can't send this type, so that none can make a browser ask us.
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind.lower() != "application/json":
            raise HTTPException(415, "expected a body of type application/json")
        too_large = HTTPException(413, f"a body has at most {self._limits.body} bytes")
        if int(request.headers.get("content-length", 0)) > self._limits.body:
            raise too_large
        body = b""
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > self._limits.body:
                        raise too_large
        except TimeoutError as error:
            message = f"the body did not come within {self._limits.seconds:g} seconds"
            raise HTTPException(408, message) from error
        return body

    def _parse(self, body: bytes, asked: str) -> tuple[Any, int, bool]:
        """The field that a body asks with, of any kind, and its `k` and `include_seen`."""
        found = _fields(body, {asked, "k", "include_seen"})
        k, include_seen = (
            found.get("k", min(10, self._recommender.depth)),
            found.get("include_seen", False),
        )
        if type(k) is not int or not 1 <= k <= self._recommender.depth:
            raise UserError(f"k must be a whole number from 1 to {self._recommender.depth}")
        if not isinstance(include_seen, bool):
            raise UserError("include_seen must be true or false")
        return found.get(asked), k, include_seen


def app(service: Service, limits: Limits, hosts: Sequence[str] | None = None) -> Starlette:
    """The web application of a service.

    Args:
      service: answers.
      limits: for every client.
      hosts: the names that a browser may know the server by, its own first; None for any. A page of
        another site, whose name was made to lead here, gets nothing.
    """
    return Starlette(
        routes=service.routes,
        middleware=[
            Middleware(service.measures.around),
            Middleware(_guard, hosts, limits.requests),
        ],
        exception_handlers={
            HTTPException: lambda request, error: _refuse(request, error),
            UserError: lambda _, error: tell(400, str(error)),
            Busy: lambda _, error: _tell_busy(),
            Stopped: lambda _, error: tell(503, STOPPED),
            TimeoutError: lambda _, error: tell(504, "this took too long"),
            ClientDisconnect: lambda _, error: tell(400, "the body broke off"),
            Exception: _broken,
        },
        lifespan=service.running,
    )


def tell(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as all of them are told."""
    return JSONResponse({"error": message}, status, headers)


def _tell_busy() -> Response:
    return tell(503, BUSY, {"Retry-After": "1"})


def _guard(app: ASGIApp, hosts: Sequence[str] | None, most: int) -> ASGIApp:
    """An application that is asked by one of its names, so often at once at most.

    Starlette's and Uvicorn's own guards tell what they refuse in a form of theirs.
    """
    names = re.compile(rf"({'|'.join(map(re.escape, hosts or []))})(:\d*)?", re.IGNORECASE)
    under_way = 0

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal under_way
        if scope["type"] != "http":
            return await app(scope, receive, send)
        host = Headers(scope=scope).get("host", "")
        under_way += 1
        try:
            if under_way > most:
                answer = _tell_busy()
            elif hosts and not names.fullmatch(host):
                answer = tell(400, f"{quote(host)} is not this server's name; ask {hosts[0]}")
            else:
                return await app(scope, receive, send)
        except asyncio.CancelledError:  # the server stops, and has waited for as long as it does
            answer = tell(503, "this server is being stopped")
        finally:
            under_way -= 1
        await answer(scope, receive, send)

    return guarded


def _fields(body: bytes, known: Collection[str]) -> dict[str, Any]:
    """What a JSON object holds."""
    with telling_where("the body"):
        found = histories.parse_json(body)
    if not isinstance(found, dict):
        raise UserError("the body is not a JSON object")
    if unknown := sorted(found.keys() - known):
        raise UserError(f"the body has an unknown field {quote(unknown[0])}")
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


def _log_end(worker: asyncio.Task) -> None:
    error = None if worker.cancelled() else worker.exception()
    log.critical("nothing is answered any more: start the server anew", exc_info=error)


def _refuse(request: Request, error: HTTPException) -> Response:
    """The answer to what is refused; what Starlette refuses itself is put in words."""
    message, path = error.detail, request.scope["path"]
    if error.status_code == 404:
        message = f"there is nothing at {quote(path)}; /api/openapi.json tells what there is"
    elif error.status_code == 405:
        allowed = " or ".join(sorted((error.headers or {})["Allow"].split(", ")))
        message = f"{path} answers {allowed}, not {quote(request.method)}"
    return tell(error.status_code, message, error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    log.error("%s failed", request.url.path, exc_info=error)
    return tell(500, "something is broken here; the server's log tells what")
