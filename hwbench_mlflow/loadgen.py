"""The load generator of the server scenario: queries that arrive by a schedule, whatever the device makes of them.

Owns the open loop and the search for the rate. Queries wait in line and are run one at a time, in the order of their
arrival; each one's latency counts from when it was *scheduled*, so a late generator or a slow predecessor is never
hidden (no coordinated omission). Plans and statistics are :mod:`.scenarios`'; knows no vendor and no channel.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns, process_time_ns, sleep
from typing import TYPE_CHECKING

from hwbench_mlflow import scenarios
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import FailureCategory, Profile, RateTrial, ServerWindow, Workload
from hwbench_mlflow.stats import NS_PER_MS, quantile

if TYPE_CHECKING:
    from hwbench_mlflow.backends.base import Session

SPIN_NS = 150_000
"""The last stretch before an arrival, which is waited for by looking at the clock: a sleep ends about 60 µs late. What
this uses of the CPU is not counted as work: only what is used while a query runs is."""


DISTURBED = 3.0
"""A bound this many times as long as one inference is held at low rates, unless something else used the device."""


@dataclass(slots=True)
class Served:
    """One open-loop window: when each query started and ended (ns since its begin), in the order of arrival.

    ``busy_cpu_ns`` is the process's CPU time, all threads, while queries ran.
    """

    starts_ns: array[int]
    ends_ns: array[int]
    late: int
    busy_cpu_ns: int
    wall_ns: int


def serve(
    session: Session,
    arrivals_ns: Sequence[int],
    outputs: list[object | None],
    *,
    bound_ns: float,
    give_up_after: int | None = None,
) -> Served:
    """Run every query when it has arrived and the one before it is done. Inputs alternate between the slots.

    ``give_up_after``: stop when more queries than this are later than the bound: it can no longer be held.
    """
    run, synchronize, clock, cpu_clock = session.run, session.synchronize, perf_counter_ns, process_time_ns
    starts, ends, slots = array("q"), array("q"), len(outputs)
    busy_cpu = late = slot = 0
    begin = clock()
    for arrival in arrivals_ns:
        due = begin + arrival
        while (left := due - clock()) > SPIN_NS:
            sleep((left - SPIN_NS) / 1e9)
        while clock() < due:
            pass
        used = cpu_clock()
        start = clock()
        output = run(slot)
        synchronize()
        end = clock()
        busy_cpu += cpu_clock() - used
        starts.append(start - begin)
        ends.append(end - begin)
        outputs[slot] = output
        slot = slot + 1 if slot + 1 < slots else 0
        if end - due > bound_ns:
            late += 1
            if give_up_after is not None and late > give_up_after:
                break
    return Served(starts_ns=starts, ends_ns=ends, late=late, busy_cpu_ns=busy_cpu, wall_ns=clock() - begin)


@dataclass(slots=True, kw_only=True)
class Server:
    """One worker's server: finds the rate, or is given it, and serves the window that counts.

    ``nonce`` seeds the arrivals; ``service_ns`` is the median inference of the warm-up, where nothing waits.
    """

    session: Session
    workload: Workload
    profile: Profile
    nonce: str
    slots: int
    service_ns: float
    rate_per_s: float | None = None
    attempt: int = 0
    capacity_per_s: float | None = None
    trials: list[RateTrial] = field(default_factory=list)
    arrivals_ns: tuple[int, ...] = ()
    last: Served | None = None

    @property
    def _bound_ns(self) -> float:
        assert self.workload.latency_bound_ms is not None
        return self.workload.latency_bound_ms * NS_PER_MS

    @property
    def _percent(self) -> int:
        assert self.workload.latency_percentile is not None
        return self.workload.latency_percentile

    def search(self, quiet: Callable[[], object]) -> None:
        """Find the highest rate that holds the bound, to :data:`.scenarios.RESOLUTION`, if none was given.

        ``quiet`` is called before each trial, outside its clock. Raises :class:`BenchmarkFailed` (``bound_not_met``)
        where no rate does.
        """
        if self.rate_per_s is not None:
            return
        self.capacity_per_s = 1e9 / self.service_ns
        held: list[bool] = []
        while (rate := scenarios.next_rate(self.capacity_per_s, held)) is not None:
            queries = scenarios.trial_queries(self.profile, rate)
            allowed = scenarios.quota(queries, self._percent)
            # Other arrivals than the window's: attempts count from 0, trials from -1 downwards.
            arrivals = scenarios.schedule(self.nonce, -1 - len(held), rate, queries)
            quiet()
            served = self._serve(arrivals, [None] * self.slots, allowed)
            self._note(rate, queries, served, arrivals, allowed)
            held.append(self.trials[-1].held)
        self.rate_per_s = scenarios.bracket(self.capacity_per_s, held)[0]
        if not self.rate_per_s:
            last = min(self.trials, key=lambda trial: trial.rate_per_s)
            # A device that is idle nearly all the time, and late all the same, was disturbed.
            disturbed = self._bound_ns > DISTURBED * self.service_ns
            raise BenchmarkFailed(
                f"no rate holds {self.workload.latency_bound_ms:g} ms at percentile {self._percent}: one inference "
                f"alone takes {self.service_ns / NS_PER_MS:.3g} ms, and at {last.rate_per_s:.3g} queries/s "
                f"{last.late} of {last.finished} were late (p{self._percent}: {last.tail_ms:.3g} ms)",
                FailureCategory.BOUND_NOT_MET,
                remedy="Something else used the machine: end it, or allow more with --latency-bound-ms"
                if disturbed
                else "Allow more with --latency-bound-ms, or take a smaller model, batch or input",
            )

    def window(self, outputs: list[object | None]) -> tuple[array[int], int]:
        """Serve one window at the rate: latencies and wall time in ns. Given up early only where another follows."""
        assert self.rate_per_s is not None
        queries = scenarios.planned_queries(self.profile, self.rate_per_s, self._percent)
        self.arrivals_ns = scenarios.schedule(self.nonce, self.attempt, self.rate_per_s, queries)
        self.last = self._serve(self.arrivals_ns, outputs, self._allowed(queries) if self._may_step_down() else None)
        latencies = (end - arrival for arrival, end in zip(self.arrivals_ns, self.last.ends_ns, strict=False))
        return array("q", latencies), self.last.wall_ns

    def step_down(self) -> bool:
        """After a window: True if it did not hold the bound and another one, at a lower rate, has to follow."""
        assert self.last is not None
        assert self.rate_per_s is not None
        allowed = self._allowed(len(self.arrivals_ns))
        if self.last.late <= allowed or not self._may_step_down():
            return False
        self._note(self.rate_per_s, len(self.arrivals_ns), self.last, self.arrivals_ns, allowed)
        self.attempt += 1
        self.rate_per_s *= scenarios.BACK_OFF
        return True

    def record(self) -> ServerWindow:
        """How the last window came to its rate."""
        assert self.rate_per_s is not None
        return ServerWindow(
            rate_per_s=self.rate_per_s,
            attempt=self.attempt,
            capacity_per_s=self.capacity_per_s,
            trials=tuple(self.trials),
        )

    def _may_step_down(self) -> bool:
        # A worker that was given its rate has to keep it: the windows of one result are at one rate.
        return self.capacity_per_s is not None and self.attempt + 1 < scenarios.MAX_ATTEMPTS

    def _allowed(self, queries: int) -> int:
        return scenarios.window_quota(queries, self._percent)

    def _serve(self, arrivals: Sequence[int], outputs: list[object | None], give_up_after: int | None) -> Served:
        return serve(self.session, arrivals, outputs, bound_ns=self._bound_ns, give_up_after=give_up_after)

    def _note(self, rate: float, queries: int, served: Served, arrivals: Sequence[int], allowed: int) -> None:
        latencies = sorted(end - arrival for arrival, end in zip(arrivals, served.ends_ns, strict=False))
        self.trials.append(
            RateTrial(
                rate_per_s=rate,
                queries=queries,
                finished=len(latencies),
                late=served.late,
                tail_ms=quantile(latencies, self._percent / 100) / NS_PER_MS,
                held=len(latencies) == queries and served.late <= allowed,
            )
        )
