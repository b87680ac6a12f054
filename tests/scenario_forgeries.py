"""What a forger does to a server's or a multistream's result, and the rule that has to see it.

Each forger recomputes the statistics and the digests: only what the evidence says of itself can give them away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hwbench_mlflow.model import BenchmarkResult, RateTrial, SampleSet, ServerWindow, VerdictState, WorkerSamples
from hwbench_mlflow.scenarios import BACK_OFF, planned_queries, schedule, window_quota
from tests.honest import MS, asked, honest, honest_multistream, honest_server, resealed, served

replace = dataclasses.replace
Made = tuple[BenchmarkResult, SampleSet]
Forgery = Callable[[BenchmarkResult, SampleSet], Made]
C, U = VerdictState.CONTRADICTED, VerdictState.UNVERIFIED


def with_worker(result: BenchmarkResult, **changes: Any) -> BenchmarkResult:
    return replace(result, workers=(replace(result.workers[0], **changes),))


def with_witness(result: BenchmarkResult, **changes: Any) -> BenchmarkResult:
    return with_worker(result, witness=replace(result.workers[0].witness, **changes))


def with_raw(result: BenchmarkResult, samples: SampleSet, change: Callable[[WorkerSamples], WorkerSamples]) -> Made:
    samples = replace(samples, workers=(change(samples.workers[0]),))
    result = with_worker(result, sample_count=len(samples.workers[0].samples_ns))
    return resealed(result, samples), samples


def window_of(result: BenchmarkResult) -> ServerWindow:
    server = result.workers[0].server
    assert server is not None
    return server


def with_window(result: BenchmarkResult, samples: SampleSet, **changes: Any) -> Made:
    return resealed(with_worker(result, server=replace(window_of(result), **changes)), samples), samples


def kept(raw: WorkerSamples, keep: Callable[[int], bool]) -> WorkerSamples:
    """Only those queries."""
    names = ("samples_ns", "arrivals_ns", "starts_ns", "ends_ns")
    whole = {name: getattr(raw, name) for name in names}
    return replace(raw, **{n: tuple(v for i, v in enumerate(vs) if keep(i)) for n, vs in whole.items()})


def slow_dropped(raw: WorkerSamples) -> WorkerSamples:
    slow = sorted(raw.samples_ns)[-20]
    return kept(raw, lambda i: raw.samples_ns[i] < slow)


def slowest_replaced(raw: WorkerSamples) -> WorkerSamples:
    """The slowest query gone, a fast one made up in its place at the end: the count is right."""
    worst = raw.samples_ns.index(max(raw.samples_ns))
    less = kept(raw, lambda i: i != worst)
    at = less.ends_ns[-1] + MS
    return replace(
        less, samples_ns=(*less.samples_ns, 10 * MS), arrivals_ns=(*less.arrivals_ns, at),
        starts_ns=(*less.starts_ns, at), ends_ns=(*less.ends_ns, at + 10 * MS),
    )  # fmt: skip


def reordered(raw: WorkerSamples) -> WorkerSamples:
    """Two queries that waited change places in the line."""
    at = next(i for i in range(1, len(raw.starts_ns)) if raw.starts_ns[i] - raw.arrivals_ns[i] > MS)
    starts, ends = list(raw.starts_ns), list(raw.ends_ns)
    starts[at - 1 : at + 1], ends[at - 1 : at + 1] = starts[at - 1 : at + 1][::-1], ends[at - 1 : at + 1][::-1]
    return _latencies(replace(raw, starts_ns=tuple(starts), ends_ns=tuple(ends)))


def _latencies(raw: WorkerSamples) -> WorkerSamples:
    return replace(raw, samples_ns=tuple(e - a for a, e in zip(raw.arrivals_ns, raw.ends_ns, strict=True)))


def from_start(raw: WorkerSamples) -> WorkerSamples:
    """Latency from when a query ran, not from when it was scheduled: coordinated omission."""
    return replace(raw, samples_ns=tuple(e - s for s, e in zip(raw.starts_ns, raw.ends_ns, strict=True)))


def arrived_late(raw: WorkerSamples) -> WorkerSamples:
    """Each query is said to have arrived when it could be run: no wait."""
    return _latencies(replace(raw, arrivals_ns=raw.starts_ns))


def evenly(raw: WorkerSamples) -> WorkerSamples:
    """The same number in the same time, without the bursts that make queues."""
    gap = raw.arrivals_ns[-1] // len(raw.arrivals_ns)
    return _latencies(
        replace(raw, arrivals_ns=tuple(min(gap * (i + 1), start) for i, start in enumerate(raw.starts_ns)))
    )


def before_arrival(raw: WorkerSamples) -> WorkerSamples:
    starts = (raw.arrivals_ns[0] - 1, *raw.starts_ns[1:])
    return replace(raw, starts_ns=starts)


def overlapping(raw: WorkerSamples) -> WorkerSamples:
    """Queries that waited are said to have run at once, beside the one before them."""
    starts = tuple(a + 1000 for a in raw.arrivals_ns)
    return _latencies(replace(raw, starts_ns=starts, ends_ns=tuple(s + 10 * MS for s in starts)))


def another_nonce(result: BenchmarkResult, samples: SampleSet) -> Made:
    window = window_of(result)
    arrivals = schedule("a lucky one", 0, window.rate_per_s, result.workers[0].sample_count)
    return served(result, samples, window, arrivals, lambda n: 10 * MS + n * 7919 % 1000 * 100)


def slower(result: BenchmarkResult, samples: SampleSet) -> Made:
    """Queries that take three times as long: the queue grows, and the bound is broken."""
    window, arrivals = window_of(result), samples.workers[0].arrivals_ns
    return served(result, samples, window, arrivals, lambda n: 27 * MS + n * 7919 % 1000 * 100)


def claims_it_held(result: BenchmarkResult, samples: SampleSet) -> Made:
    result, samples = slower(result, samples)
    assert result.aggregates.server is not None
    assert result.aggregates.server.held is False
    claimed = replace(result.aggregates.server, held=True)
    return replace(result, aggregates=replace(result.aggregates, server=claimed)), samples


def claims_another_rate(result: BenchmarkResult, samples: SampleSet) -> Made:
    assert result.aggregates.server is not None
    claimed = replace(result.aggregates.server, offered_rate_per_s=80.0)
    return replace(result, aggregates=replace(result.aggregates, server=claimed)), samples


def offered_at(result: BenchmarkResult, samples: SampleSet, rate: float, **changes: Any) -> Made:
    """Honestly served at a rate that the search did not find."""
    window = replace(window_of(result), rate_per_s=rate, **changes)
    count = planned_queries(result.request.profile, rate, 99)
    arrivals = schedule(result.workers[0].nonce, window.attempt, rate, count)
    return served(result, samples, window, arrivals, lambda n: 10 * MS + n * 7919 % 1000 * 100)


def stepped_down(result: BenchmarkResult, samples: SampleSet, times: int, late: int | None = None) -> Made:
    """Windows that did not hold it, then one that did, as the load generator does it."""
    window, trials = window_of(result), list[RateTrial]()
    rate = window.rate_per_s
    for _ in range(times):
        queries = planned_queries(result.request.profile, rate, 99)
        trials.append(
            RateTrial(
                rate_per_s=rate,
                queries=queries,
                finished=queries // 2,
                late=window_quota(queries, 99) + 1 if late is None else late,
                tail_ms=90.0,
                held=False,
            )
        )
        rate *= BACK_OFF
    return offered_at(result, samples, rate, attempt=times, trials=(*window.trials, *trials))


def edited_trial(result: BenchmarkResult, samples: SampleSet, number: int, **changes: Any) -> Made:
    trials = list(window_of(result).trials)
    trials[number] = replace(trials[number], **changes)
    return with_window(result, samples, trials=tuple(trials))


SERVER: list[tuple[str, VerdictState, str, str, Forgery]] = [
    # name, verdict, rule, a part of its reason, what was done
    ("slow queries dropped", C, "scenario", "some are missing", lambda r, s: with_raw(r, s, slow_dropped)),
    ("the slowest query replaced", C, "scenario", "when the nonce says",
     lambda r, s: with_raw(r, s, slowest_replaced)),
    ("one latency less", C, "scenario", "some are missing",
     lambda r, s: with_raw(r, s, lambda raw: replace(raw, samples_ns=raw.samples_ns[:-1]))),
    ("the line reordered", C, "scenario", "in another order", lambda r, s: with_raw(r, s, reordered)),
    ("coordinated omission", C, "scenario", "from its query's arrival", lambda r, s: with_raw(r, s, from_start)),
    ("arrived when it could run", C, "scenario", "when the nonce says", lambda r, s: with_raw(r, s, arrived_late)),
    ("evenly spaced", C, "scenario", "when the nonce says", lambda r, s: with_raw(r, s, evenly)),
    ("another schedule", C, "scenario", "when the nonce says", another_nonce),
    ("run before it arrived", C, "scenario", "before it arrived", lambda r, s: with_raw(r, s, before_arrival)),
    ("all at once", C, "scenario", "at the same time", lambda r, s: with_raw(r, s, overlapping)),
    ("the bound broken, held is claimed", C, "aggregates", "not those of the raw samples", claims_it_held),
    ("a higher rate claimed", C, "aggregates", "not those of the raw samples", claims_another_rate),
    ("another rate than the search's", C, "scenario", "not the one that the search found",
     lambda r, s: offered_at(r, s, 12.0)),
    ("a third attempt too many", C, "scenario", "attempt 3 was not allowed", lambda r, s: stepped_down(r, s, 3)),
    ("a window that held thrown away", C, "scenario", "windows that it says it tried",
     lambda r, s: stepped_down(r, s, 1, late=0)),
    ("a trial's outcome turned", C, "scenario", "rates that it says it tried",
     lambda r, s: edited_trial(r, s, 0, held=True)),
    ("a trial at another rate", C, "scenario", "rates that it says it tried",
     lambda r, s: edited_trial(r, s, 1, rate_per_s=20.0)),
    ("trials taken away", C, "scenario", "not the one that the search found",
     lambda r, s: with_window(r, s, trials=window_of(r).trials[:2])),
    ("no search", C, "scenario", "how it came to its rate",
     lambda r, s: with_window(r, s, trials=(), capacity_per_s=None)),
    ("no rate", C, "scenario", "rate of its arrivals is missing", lambda r, s: (with_worker(r, server=None), s)),
    ("no bound", C, "scenario", "latency bound of None", lambda r, s: (asked(r, latency_bound_ms=None), s)),
    ("another bound asked", C, "workload", "latency_bound_ms 5.0 was asked",
     lambda r, s: (replace(r, request=replace(r.request, workload=replace(
         r.request.workload, latency_bound_ms=5.0))), s)),
    ("a percentile that is none", C, "scenario", "percentile 5", lambda r, s: (asked(r, latency_percentile=5), s)),
    ("a query size", C, "scenario", "has no query size", lambda r, s: (asked(r, query_size=8), s)),
    ("slept while queries ran", C, "execution", "waited instead of computing",
     lambda r, s: (with_witness(r, busy_cpu_ns=10 * MS), s)),
    ("busy in the waits only", C, "execution", "waited instead of computing",
     lambda r, s: (with_witness(r, busy_cpu_ns=10 * MS, process_cpu_ns=r.workers[0].witness.wall_ns), s)),
    ("more in queries than in all", C, "execution", "more CPU time than the worker",
     lambda r, s: (with_witness(r, busy_cpu_ns=r.workers[0].witness.process_cpu_ns + 1), s)),
    ("no CPU time of queries", U, "execution", "was not read", lambda r, s: (with_witness(r, busy_cpu_ns=None), s)),
    ("ends after the window", C, "scenario", "end after the window",
     lambda r, s: (with_worker(r, window_ns=s.workers[0].ends_ns[-1] - 1), s)),
]  # fmt: skip

MULTISTREAM: list[tuple[str, VerdictState, str, str, Forgery]] = [
    ("fewer inferences than streams", C, "scenario", "not run as that many",
     lambda r, s: (resealed(with_worker(r, runs_per_sample=1), s), s)),
    ("streams that no batch makes", C, "scenario", "not made of batches",
     lambda r, s: (resealed(asked(r, query_size=7), s), s)),
    ("no streams", C, "scenario", "a query of None samples", lambda r, s: (asked(r, query_size=None), s)),
    ("a bound", C, "scenario", "has no latency bound", lambda r, s: (asked(r, latency_bound_ms=5.0), s)),
    ("arrivals", C, "scenario", "which only a server has",
     lambda r, s: with_raw(r, s, lambda raw: replace(raw, arrivals_ns=raw.samples_ns))),
]  # fmt: skip

FORGERIES = [
    *((f"server: {name}", honest_server, *rest) for name, *rest in SERVER),
    *((f"multistream: {name}", honest_multistream, *rest) for name, *rest in MULTISTREAM),
    ("latency: a query size", honest, C, "scenario", "has no query size", lambda r, s: (asked(r, query_size=8), s)),
]
