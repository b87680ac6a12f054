"""What runs on a node, and the board where nodes say what they do and ask whether they still may.

Ray finds these functions by name, so a node must have this very hwbench. Knows neither models nor stores.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.offers import OFFER_VARIABLE, as_joined

if TYPE_CHECKING:
    from collections.abc import Awaitable

ANSWER_SECONDS = 60.0


class OnNode:
    """What a piece of work may ask of the one who placed it. ``attempt`` is what it is known by."""

    def __init__(self, attempt: str, board: Any) -> None:
        self.attempt = attempt
        self.stopped = threading.Event()
        self._board = board

    def say(self, kind: str, text: str) -> None:
        """A ``stage`` or a ``warning``; nobody waits for it to arrive."""
        self._board.say.remote(self.attempt, kind, text)

    def may_deliver(self) -> bool | None:
        """Whether what it found may be handed in: False if it was given up, and is done elsewhere; None if nobody is
        there to say."""
        import ray

        try:
            return bool(ray.get(self._board.grant.remote(self.attempt), timeout=ANSWER_SECONDS))
        except ray.exceptions.RayError:
            return None

    @contextlib.contextmanager
    def stoppable(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call ``stop`` when the batch is told to stop, or is gone, while the block runs."""
        import ray

        def wait() -> None:
            try:
                told = bool(ray.get(self._board.until.remote(self.attempt)))
            except ray.exceptions.RayError:
                told = True
            if told:
                self.stopped.set()
                stop()

        thread = threading.Thread(target=wait, daemon=True, name="hwbench-fleet-stop")
        thread.start()
        try:
            yield
        finally:
            self._board.over.remote(self.attempt)
            thread.join(ANSWER_SECONDS)


BEGUN = "begun"
"""The news, for the loop alone, that a node has begun with an attempt."""

Work = Callable[[bytes, OnNode], bytes]
Greet = Callable[[bytes], bytes]


def do(work: Work, payload: bytes, attempt: str, board: Any) -> bytes:
    """Nothing, and nobody waits for the answer, if the piece was taken back before it could begin."""
    import ray

    try:
        if not ray.get(board.begin.remote(attempt), timeout=ANSWER_SECONDS):
            return b""
    except ray.exceptions.RayActorError:  # who gave it away is gone
        return b""
    return _off_main(lambda: work(payload, OnNode(attempt, board)))


def greet_node(greet: Greet, payload: bytes) -> tuple[str, bytes]:
    """What the node said when it joined ("" for one that joined otherwise), and its answer."""
    said = os.environ.get(OFFER_VARIABLE, "")
    return said, _off_main(lambda: greet(payload)) if said else b""


def _off_main(what: Callable[[], bytes]) -> bytes:
    """Run it on a thread of its own, with the environment that the node joined with: signals are Ray's."""
    done: list[bytes] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            done.append(what())
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            errors.append(error)

    with as_joined():
        thread = threading.Thread(target=run, daemon=True, name="hwbench-fleet-work")
        thread.start()
        thread.join()
    if errors:
        raise errors[0]
    return done[0]


class Board:
    """Where nodes say what they do, and ask whether they still may. An actor, beside whoever runs the batch.

    Handing in is granted once for each attempt, and only to one that was not given up: whichever comes first holds. So
    it is with beginning: an attempt begins or is taken back, never both.
    """

    def __init__(self) -> None:
        self._news: list[tuple[str, str, str]] = []
        self._given_up: set[str] = set()
        self._granted: set[str] = set()
        self._begun: set[str] = set()
        self._ends: dict[str, asyncio.Event] = {}
        self._stopping = asyncio.Event()

    async def say(self, attempt: str, kind: str, text: str) -> None:
        """News for whoever runs the batch."""
        self._news.append((attempt, kind, text))

    async def news(self) -> list[tuple[str, str, str]]:
        """What was said since the last time."""
        taken, self._news = self._news, []
        return taken

    async def begin(self, attempt: str) -> bool:
        """Whether an attempt may begin; then it cannot be taken back any more."""
        if attempt in self._given_up:
            return False
        self._begun.add(attempt)
        self._news.append((attempt, BEGUN, ""))
        return True

    async def take_back(self, attempt: str) -> bool:
        """Whether an attempt had not begun; then it never will, and is granted nothing."""
        if attempt in self._begun:
            return False
        self._given_up.add(attempt)
        return True

    async def grant(self, attempt: str) -> bool:
        """Whether an attempt may hand in."""
        if attempt in self._given_up:
            return False
        self._granted.add(attempt)
        return True

    async def give_up(self, attempt: str) -> bool:
        """From now on it is granted nothing; whether it had been."""
        self._given_up.add(attempt)
        return attempt in self._granted

    async def until(self, attempt: str) -> bool:
        """Returns when that attempt is over (False), or everything is to stop (True)."""
        end = self._ends.setdefault(attempt, asyncio.Event())
        waits: list[Awaitable[bool]] = [asyncio.ensure_future(event.wait()) for event in (end, self._stopping)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
        for wait in waits:
            wait.cancel()  # type: ignore[attr-defined]
        self._ends.pop(attempt, None)
        return self._stopping.is_set()

    async def over(self, attempt: str) -> None:
        """Let :meth:`until` return."""
        self._ends.setdefault(attempt, asyncio.Event()).set()

    async def stop(self) -> None:
        """Everything is to stop."""
        self._stopping.set()
