"""What the harness costs: time added to a sample, and CPU taken from the machine while the clock runs.

    python -m tests.benchmarks.overhead

The timed loop is the worker's own, with a session that does nothing, against a bare pair of clock readings. The
sampler and the progress line run in the parent as they do in ``hwbench run``; their CPU time is the kernel's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

from hwbench_mlflow import worker
from hwbench_mlflow.cli.progress import TerminalProgress
from hwbench_mlflow.sampling import Sampler
from hwbench_mlflow.stats import median
from tests.benchmarks.side_by_side import Row, Target, arguments, figure_row, in_turns, table

ADDED_US = Target(2.0)
SHARE_PERCENT = Target(1.0)


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    pairs: int
    samples: int
    windows: int
    window_s: float


FULL = Size(pairs=30, samples=20_000, windows=8, window_s=5.0)
SMALLEST = Size(pairs=2, samples=200, windows=1, window_s=0.5)


class Nothing:
    """A session whose inference is nothing at all: what is left is the harness."""

    def run(self, slot: int) -> object:
        """No work."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the worker's loop reads of its order."""

    slots: int
    min_samples: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement, in µs: the median sample, and the wall time of a turn of the loop."""

    sample_us: float
    wall_us: float


def bare(count: int) -> tuple[array[int], int]:
    """The least that takes ``count`` samples: two clock readings and a place for their difference."""
    clock, samples = perf_counter_ns, array("q")
    append = samples.append
    begin = clock()
    for _ in range(count):
        start = clock()
        append(clock() - start)
    return samples, clock() - begin


def _turn(taken: tuple[array[int], int]) -> Turn:
    samples, wall_ns = taken
    return Turn(sample_us=median(samples) / 1000, wall_us=wall_ns / len(samples) / 1000)


def added_to_samples(size: Size) -> list[Row]:
    """What a sample shows for nothing, and what a turn of the loop takes around it."""
    order = Order(slots=4, min_samples=size.samples, seconds=0.0)
    pairs = in_turns(
        lambda: _turn(worker._single_runs(Nothing(), order, 1, [None] * 4)),  # type: ignore[arg-type]
        lambda: _turn(bare(size.samples)),
        size.pairs,
    )
    return [
        _added("time added inside a sample, us", [(a.sample_us, b.sample_us) for a, b in pairs]),
        _added("time added to a turn of the loop, us", [(a.wall_us, b.wall_us) for a, b in pairs]),
    ]


def _added(what: str, pairs: Sequence[tuple[float, float]]) -> Row:
    return figure_row(
        what,
        [ours - peer for ours, peer in pairs],
        ADDED_US,
        "{:.3f}",
        hwbench=f"{median([ours for ours, _ in pairs]):.3f} us",
        peer=f"{median([peer for _, peer in pairs]):.3f} us",
    )


@contextmanager
def busy_child() -> Iterator[int]:
    """A process that computes, as a worker does; its id."""
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield child.pid
    finally:
        child.kill()
        child.wait()


@contextmanager
def terminal_as_stderr() -> Iterator[None]:
    """Standard error on a terminal that somebody reads: the progress line is drawn only there."""
    controller, terminal = os.openpty()
    reader = subprocess.Popen(["cat"], stdin=controller, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(controller)
    before = sys.stderr
    try:
        with open(terminal, "w", encoding="utf-8") as sys.stderr:
            yield
    finally:
        sys.stderr = before
        reader.wait()


def parent_share(size: Size) -> list[Row]:
    """CPU seconds of the parent's sampler thread, and of the whole parent, for each second of a window."""
    sampler_percent, parent_percent = [], []
    with busy_child() as pid, terminal_as_stderr(), TerminalProgress() as progress:
        for _ in range(size.windows):
            progress.stage("worker 1 of 1: measuring", size.window_s)
            sampler = Sampler(pid, 0, perf_counter_ns, None)
            begin_ns, process_ns = perf_counter_ns(), time.process_time_ns()
            sampler.start()
            assert sampler._thread.ident is not None
            clock = time.pthread_getcpuclockid(sampler._thread.ident)
            time.sleep(size.window_s)
            thread_ns = time.clock_gettime_ns(clock)
            process_ns, wall_ns = time.process_time_ns() - process_ns, perf_counter_ns() - begin_ns
            sampler.stop()
            expected = size.window_s / 0.1
            if len(sampler.samples) < expected / 2:
                raise SystemExit(f"the sampler looked {len(sampler.samples)} times, not about {expected:.0f}")
            sampler_percent.append(100 * thread_ns / wall_ns)
            parent_percent.append(100 * process_ns / wall_ns)
    return [
        figure_row("sampler thread, % of one core", sampler_percent, SHARE_PERCENT, "{:.2f}"),
        figure_row("whole parent in a window, % of one core", parent_percent, SHARE_PERCENT, "{:.2f}"),
    ]


def measure(size: Size) -> list[Row]:
    """Every row of the table."""
    return [*added_to_samples(size), *parent_share(size)]


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    print(table(measure(SMALLEST if options.smallest else FULL)))
