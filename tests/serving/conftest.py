"""A server in this process, in front of a ranking that is computed in a moment."""

import contextlib
import runpy
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from recalign.domains import Domain
from recalign.engine.search.beam_search import Ranked
from recalign.evaluation.examples import Asked
from recalign.serving import server
from recalign.serving.app import Limits
from recalign.serving.recommender import Recommender

TITLES = [
    "Plain Puzzle",
    "<script>document.title = 'broken'</script> Kite",
    '<img src=x onerror="document.title=1"> Drum & "Sticks"',
    "",
    "{history} %s Ball",
    "Ünïcödé 玩具",
]


class Ranking:
    """Ranks like a retriever: item i of the catalogue has the score -i - the history's length."""

    num_beams = 5

    def warm_up(self, *bounds) -> None:
        """There is nothing to compile."""

    def recommend(self, params, inputs, excluded, depth, exact=None, given=()):
        """The first item of the catalogue has the probability of a half, the next one a quarter."""
        time.sleep(params["seconds"])
        params["calls"].append(len(inputs))
        items = np.full((len(inputs), depth), -1, np.int32)
        scores = np.full((len(inputs), depth), -np.inf, np.float32)
        for row, (history, gone) in enumerate(zip(inputs, excluded, strict=True)):
            found = [item for item in range(len(TITLES)) if item not in set(gone)][:depth]
            items[row, : len(found)] = found
            scores[row, : len(found)] = [-item - len(history) for item in found]
        return Ranked(items, scores), np.where(items >= 0, 0.5 ** (items + 1.0), 0)

    def attention(self, params, inputs, given, items, room) -> np.ndarray:
        """All on the first token of the question."""
        del params, given, items, room
        return np.eye(1, max(map(len, inputs))).repeat(len(inputs), axis=0)


@pytest.fixture
def params() -> dict:
    """How long a batch takes, and how many histories each had."""
    return {"seconds": 0.0, "calls": []}


@pytest.fixture
def recommender(params) -> Recommender:
    count = len(TITLES)
    items = pd.DataFrame(
        {
            "key": [f"toy-{i}" for i in range(count)],
            "title": TITLES,
            "brand": "Brand",
            "categories": "",
        }
    )
    events = np.array([0, 1, 2, 3, 4, 0, 5], np.int32)
    domain = Domain("shop", items, np.array([0, 4, 7]), events)
    tokens = np.arange(1, count + 1)[:, None]
    return Recommender(domain, Ask(), Ranking(), params, tokens)


class Ask:
    """Questions of as many tokens as there are items."""

    longest = 100

    def __call__(self, histories) -> Asked:
        nothing = np.zeros(0, np.int32)
        return Asked(
            inputs=[np.zeros(len(history), np.int32) for history in histories],
            given=[nothing] * len(histories),
        )

    def places(self, history, inputs) -> list[slice]:
        return [slice(place, place + 1) for place in range(len(history))]


@pytest.fixture(scope="session")
def serving():
    """Serves a recommender within limits while a block runs; gives the port."""
    return _serving


@contextlib.contextmanager
def _serving(recommender: Recommender, limits: Limits) -> Iterator[int]:
    with server.listen("127.0.0.1", 0) as bound:
        web = server.make_server(recommender, "127.0.0.1", limits)
        thread = threading.Thread(target=web.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not web.started and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield bound.getsockname()[1]
        finally:
            web.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def clients() -> SimpleNamespace:
    """The functions of `clients.py`."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("clients.py"))))


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def port(serving, recommender, limits) -> Iterator[int]:
    with serving(recommender, limits) as found:
        yield found
