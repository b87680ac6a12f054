"""Ctrl-C and SIGTERM for a command that measures: they end it with a reason, and never in the middle of a write."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

WATCHED = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C into an error that ends the run with a reason, once."""
    from hwbench_mlflow.errors import Interrupted

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        for known in WATCHED:
            signal.signal(known, signal.SIG_IGN)
        raise Interrupted(f"interrupted by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in WATCHED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold one SIGTERM or Ctrl-C back until the block is done: a run that is half written stays RUNNING for
    ever. A second one breaks off, for a store that hangs. On another thread than the main one there is none to hold."""
    from hwbench_mlflow.errors import Interrupted

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        del frame
        if held:
            raise Interrupted(f"interrupted by {signal.Signals(number).name}")
        held.append(number)

    before = {number: signal.getsignal(number) for number in WATCHED}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # ignored once we are stopping already
            signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])
