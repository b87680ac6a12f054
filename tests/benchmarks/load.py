"""What the open loop costs: time added to a query, and how late a query that need not wait is started.

    python -m tests.benchmarks.load

The load generator's own loop, with a session that does nothing, against a bare loop of two clock readings a query; and
Poisson arrivals at 500 a second, each late by the time from its schedule to its start, against a bare
``sleep`` until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns, sleep

from hwbench_mlflow.loadgen import serve
from hwbench_mlflow.scenarios import schedule
from hwbench_mlflow.stats import median, quantile
from tests.benchmarks.overhead import Nothing, bare
from tests.benchmarks.side_by_side import Row, Target, arguments, figure_row, in_turns, table

INSIDE_US = Target(2.0)
TURN_US = Target(5.0)
LATE_US = Target(50.0)
TAIL_US = Target(1000.0)
RATE_PER_S = 500.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    pairs: int
    queries: int
    arrivals: int


FULL = Size(pairs=20, queries=20_000, arrivals=1000)
SMALLEST = Size(pairs=2, queries=200, arrivals=50)


def _busy(count: int) -> tuple[float, float]:
    """µs inside a query that does nothing, and µs of a turn of the loop: every query has arrived already."""
    served = serve(Nothing(), (0,) * count, [None] * 4, bound_ns=1e18)  # type: ignore[arg-type]
    inside = [end - start for start, end in zip(served.starts_ns, served.ends_ns, strict=True)]
    return median(inside) / 1000, served.wall_ns / count / 1000


def _bare(count: int) -> tuple[float, float]:
    samples, wall_ns = bare(count)
    return median(samples) / 1000, wall_ns / count / 1000


def _lateness(arrivals: Sequence[int]) -> tuple[float, float]:
    """µs from schedule to start: median and 99th percentile of queries that nothing was in the way of."""
    served = serve(Nothing(), arrivals, [None] * 4, bound_ns=1e18)  # type: ignore[arg-type]
    return _tails([start - due for due, start in zip(arrivals, served.starts_ns, strict=True)])


def _sleeping(arrivals: Sequence[int]) -> tuple[float, float]:
    begin, late = perf_counter_ns(), []
    for due in arrivals:
        left = begin + due - perf_counter_ns()
        if left > 0:
            sleep(left / 1e9)
        late.append(perf_counter_ns() - begin - due)
    return _tails(late)


def _tails(values: list[int]) -> tuple[float, float]:
    ordered = sorted(values)
    return quantile(ordered, 0.5) / 1000, quantile(ordered, 0.99) / 1000


def measure(size: Size) -> list[Row]:
    """Every row of the table."""
    loops = in_turns(lambda: _busy(size.queries), lambda: _bare(size.queries), size.pairs)
    arrivals = schedule("benchmark", 0, RATE_PER_S, size.arrivals)
    waits = in_turns(lambda: _lateness(arrivals), lambda: _sleeping(arrivals), size.pairs)
    return [
        _added("time added inside a query, us", loops, 0, INSIDE_US),
        _added("time added to a turn of the open loop, us", loops, 1, TURN_US),
        _row("a query's start after its schedule, median, us", waits, 0, LATE_US),
        _row("a query's start after its schedule, p99, us", waits, 1, TAIL_US),
    ]


Pairs = Sequence[tuple[tuple[float, float], tuple[float, float]]]


def _added(what: str, pairs: Pairs, which: int, target: Target) -> Row:
    ours, peer = median([a[which] for a, _ in pairs]), median([b[which] for _, b in pairs])
    differences = [a[which] - b[which] for a, b in pairs]
    return figure_row(what, differences, target, "{:.3f}", hwbench=f"{ours:.3f} us", peer=f"{peer:.3f} us")


def _row(what: str, pairs: Pairs, which: int, target: Target) -> Row:
    ours, peer = median([a[which] for a, _ in pairs]), median([b[which] for _, b in pairs])
    return figure_row(
        what, [a[which] for a, _ in pairs], target, "{:.1f}", hwbench=f"{ours:.1f} us", peer=f"{peer:.1f} us"
    )


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    print(table(measure(SMALLEST if options.smallest else FULL)))
