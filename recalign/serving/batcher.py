"""Turns many small requests into few batches for something that takes one batch at a time."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any


class Busy(Exception):  # noqa: N818 (not an error of the program)
    """So many are waiting that one more would only make all of them wait longer."""


class Stopped(Exception):  # noqa: N818
    """Nobody answers any more, for a reason that the log tells."""


class Batcher:
    """Answers requests in batches, in a thread, one batch after another.

    Whatever arrives while a batch is being answered makes up the next one. What waits is bounded,
    and a request that nobody waits for any more is not answered.

    Args:
      answer: takes a list of requests and gives as many answers.
      batch: at most so many requests at once.
      waiting: at most so many wait.
    """

    def __init__(self, answer: Callable[[Sequence[Any]], Sequence[Any]], batch: int, waiting: int):
        self._answer = answer
        self._batch = batch
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future]] = asyncio.Queue(waiting)
        self.stopped = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._queue.qsize()

    async def ask(self, request: Any, seconds: float) -> Any:
        """The answer to one request.

        Raises:
          Busy: too many wait already.
          Stopped: nobody answers any more.
          TimeoutError: there is no answer after so many seconds.
        """
        if self.stopped:
            raise Stopped
        future = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((request, future))
        except asyncio.QueueFull:
            raise Busy from None
        return await asyncio.wait_for(future, seconds)

    async def run(self) -> None:
        """Answers until it is cancelled; whatever ends it, nobody is left waiting."""
        waiting: list[tuple[Any, asyncio.Future]] = []
        try:
            while True:
                waiting = [await self._queue.get()]
                while len(waiting) < self._batch and not self._queue.empty():
                    waiting.append(self._queue.get_nowait())
                await self._answer_all([one for one in waiting if not one[1].done()])
        finally:
            self.stopped = True
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            for _, future in waiting:
                if not future.done():
                    future.set_exception(Stopped())

    async def _answer_all(self, waiting: list[tuple[Any, asyncio.Future]]) -> None:
        if not waiting:
            return
        answers = await asyncio.to_thread(self._answers, [request for request, _ in waiting])
        for (_, future), answer in zip(waiting, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _answers(self, requests: Sequence[Any]) -> Sequence[Any]:
        """An answer or an error for each; whoever asked is told, and the next batch may succeed."""
        try:
            answers = self._answer(requests)
            if len(answers) != len(requests):
                raise ValueError(f"{len(answers)} answers to {len(requests)} requests")
        except StopIteration as error:  # which no future takes
            return [RuntimeError(f"the answer ended in {error!r}")] * len(requests)
        except Exception as error:
            return [error] * len(requests)
        return answers
