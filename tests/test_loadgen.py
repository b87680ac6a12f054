"""The open loop and the search, with a session whose time is known and no device behind it."""

from __future__ import annotations

import dataclasses
import time

import pytest

from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.loadgen import Server, serve
from hwbench_mlflow.model import FailureCategory, Profile, Scenario, Workload
from hwbench_mlflow.scenarios import BACK_OFF, MAX_ATTEMPTS, next_rate, planned_queries, schedule

MS = 1_000_000
PROFILE = Profile(name="test", workers=1, min_samples=12, seconds=0.2, max_warmup_seconds=0.1, ranked=False)
WORK = Workload(model="none", scenario=Scenario.SERVER, latency_bound_ms=1e6, latency_percentile=99)


class Waiting:
    """An inference that takes a while, without computing; it remembers which slots it was given."""

    def __init__(self, seconds: float = 0.001) -> None:
        self.seconds = seconds
        self.slots: list[int] = []

    def run(self, slot: int) -> object:
        self.slots.append(slot)
        time.sleep(self.seconds)
        return slot

    def synchronize(self) -> None:
        """Nothing is under way."""


def server(session: object, service_ns: float = 2 * MS, bound_ms: float = 1e6, rate: float | None = None) -> Server:
    return Server(
        session=session,  # type: ignore[arg-type]
        workload=dataclasses.replace(WORK, latency_bound_ms=bound_ms), profile=PROFILE, nonce="aa" * 16, slots=4,
        service_ns=service_ns, rate_per_s=rate,
    )  # fmt: skip


def test_queries_run_one_at_a_time_in_the_order_of_arrival_and_never_before_it() -> None:
    session, outputs = Waiting(), [None] * 4
    arrivals = (0, 1, 2, 3, 20 * MS, 30 * MS)
    served = serve(session, arrivals, outputs, bound_ns=1e12)  # type: ignore[arg-type]
    assert session.slots == [0, 1, 2, 3, 0, 1]
    assert outputs == [0, 1, 2, 3]
    assert all(start >= arrival for arrival, start in zip(arrivals, served.starts_ns, strict=True))
    assert all(start >= end for start, end in zip(served.starts_ns[1:], served.ends_ns[:-1], strict=True))
    assert served.wall_ns >= served.ends_ns[-1]
    assert served.late == 0


def test_a_query_s_wait_behind_a_slow_one_is_part_of_its_latency() -> None:
    arrivals = (0,) * 5
    served = serve(Waiting(0.004), arrivals, [None], bound_ns=10 * MS)  # type: ignore[arg-type]
    assert served.ends_ns[-1] >= 20 * MS
    assert served.late >= 3  # the third ends 12 ms after it was scheduled, at the earliest


def test_a_window_that_can_no_longer_hold_is_given_up_at_the_first_late_query_too_many() -> None:
    served = serve(Waiting(), (0,) * 50, [None], bound_ns=0.0, give_up_after=2)  # type: ignore[arg-type]
    assert (served.late, len(served.ends_ns)) == (3, 3)


def test_cpu_time_is_counted_while_queries_run_and_not_in_the_waits() -> None:
    served = serve(Waiting(0.002), (5 * MS, 30 * MS, 60 * MS), [None], bound_ns=1e12)  # type: ignore[arg-type]
    busy = sum(served.ends_ns) - sum(served.starts_ns)
    assert served.busy_cpu_ns < 0.5 * busy  # what sleeps in a query is seen to sleep


def test_the_search_tries_what_the_verdict_would_and_ends_with_the_highest_rate_that_held() -> None:
    found = server(Waiting())
    found.search(lambda: None)
    assert [t.held for t in found.trials] == [True] * len(found.trials)
    rates = [t.rate_per_s for t in found.trials]
    held: list[bool] = []
    for rate in rates:
        assert rate == next_rate(500.0, held)
        held.append(True)
    assert next_rate(500.0, held) is None
    assert found.rate_per_s == rates[-1]
    assert found.record().trials == tuple(found.trials)


def test_a_bound_that_nothing_holds_is_a_failure_and_no_number() -> None:
    with pytest.raises(BenchmarkFailed, match=r"no rate holds 0\.001 ms at percentile 99") as caught:
        server(Waiting(), bound_ms=0.001).search(lambda: None)
    assert caught.value.category is FailureCategory.BOUND_NOT_MET
    assert str(caught.value.remedy).startswith("Allow more with --latency-bound-ms")


def test_a_bound_that_a_disturbed_machine_does_not_hold_is_told_apart() -> None:
    with pytest.raises(BenchmarkFailed, match=r"1 of 1 were late \(p99: ") as caught:
        server(Waiting(0.03), service_ns=1 * MS, bound_ms=20).search(lambda: None)  # 1 ms, the warm-up had said
    assert str(caught.value.remedy).startswith("Something else used the machine")


def test_a_rate_that_was_given_is_neither_searched_nor_lowered() -> None:
    given = server(Waiting(), bound_ms=0.001, rate=100.0)
    given.search(lambda: None)
    samples, wall = given.window([None] * 4)
    assert not given.step_down()
    assert given.record().rate_per_s == 100.0
    assert given.record().trials == ()
    assert len(samples) == planned_queries(PROFILE, 100.0, 99)  # whole, though every query was late
    assert wall >= schedule("aa" * 16, 0, 100.0, len(samples))[-1]


def test_a_window_that_does_not_hold_is_followed_by_lower_rates_and_the_last_one_is_whole() -> None:
    found = server(Waiting(), bound_ms=0.001, rate=100.0)
    found.capacity_per_s = 500.0  # as if its own search had found that rate
    windows = [found.window([None] * 4)]
    while found.step_down():
        windows.append(found.window([None] * 4))
    assert len(windows) == MAX_ATTEMPTS
    assert found.rate_per_s == 100.0 * BACK_OFF * BACK_OFF
    assert [t.held for t in found.trials] == [False, False]
    assert len(windows[-1][0]) == planned_queries(PROFILE, found.rate_per_s, 99)
    assert len(windows[0][0]) < len(windows[-1][0])
    assert found.arrivals_ns == schedule("aa" * 16, 2, found.rate_per_s, len(windows[-1][0]))


def test_latencies_count_from_the_schedule() -> None:
    found = server(Waiting(), rate=200.0)
    samples, _ = found.window([None] * 4)
    assert found.last is not None
    assert list(samples) == [e - a for a, e in zip(found.arrivals_ns, found.last.ends_ns, strict=True)]
