"""Work side by side, one piece a lane at a time.

Owns the threads, who starts when, and how all of them end together. A lane is what must not be shared: a device. Knows
neither models nor stores.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from hwbench_mlflow.supervise import stoppable

ItemT = TypeVar("ItemT")

LOOK_SECONDS = 0.1
STOP_SECONDS = 30.0
"""How long threads may take to write down that they were stopped."""


class Stopping:
    """Whether everything is to end, for the threads to look at; and a pause that ends with it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        """From now on."""
        self._event.set()

    def pause(self, seconds: float) -> None:
        """Wait, or until it is set."""
        if seconds > 0:
            self._event.wait(seconds)


def run_lanes(
    lanes: Mapping[str, Sequence[ItemT]],
    work: Callable[[str, ItemT, Stopping], None],
    at_end: Callable[[str], None],
    max_workers: int,
) -> None:
    """Call ``work`` for each item, in order within a lane, ``max_workers`` lanes at a time; then ``at_end``.

    The longest lanes start first. An error in ``work``, and one that reaches this thread (a signal's), ends all: worker
    processes are killed, ``at_end`` is called, and the error is raised here when every thread is done, or after
    :data:`STOP_SECONDS`.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in sorted(lanes, key=lambda name: -len(lanes[name])):
        waiting.put(name)
    stopping = Stopping()
    errors: list[BaseException] = []

    def lane_thread() -> None:
        while not stopping:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                try:
                    for item in lanes[name]:
                        if stopping:
                            break
                        work(name, item, stopping)
                finally:
                    at_end(name)
            except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
                errors.append(error)
                stopping.set()

    threads = [
        threading.Thread(target=lane_thread, daemon=True, name=f"hwbench-lane-{number}")
        for number in range(min(max_workers, len(lanes)))
    ]
    with stoppable() as stop:
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) and not errors:
                time.sleep(LOOK_SECONDS)
        finally:
            deadline = time.monotonic() + STOP_SECONDS
            while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
                stopping.set()
                stop()
                time.sleep(LOOK_SECONDS)
    if errors:
        raise errors[0]
