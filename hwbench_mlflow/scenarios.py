"""The server and multistream scenarios as arithmetic: schedules, searches, statistics, and what contradicts them.

Pure. After MLPerf inference (mlcommons/inference_policies, inference_rules.adoc at 848b9ab, section 3;
mlcommons/inference, loadgen/results.cc at 7ad9af1); docs/reference/measuring.md says where we differ. The load
generator and the verdict both compute from here: whatever a window was planned to be, a verifier plans again.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256

from hwbench_mlflow.model import (
    Aggregates,
    BenchmarkResult,
    Conditions,
    Finding,
    Profile,
    RateTrial,
    SampleSet,
    Scenario,
    ServerStats,
    VerdictState,
    WorkerRecord,
    WorkerSamples,
    Workload,
)
from hwbench_mlflow.stats import NS_PER_MS, PERCENTILE_MIN_SAMPLES, aggregate, allowed_late, median

DEFAULT_PERCENTILE = 99
DEFAULT_QUERY_SIZE = 8
"""MLPerf's: Server's bound is on the 99th percentile, a MultiStream query has 8 samples
(loadgen/mlperf.conf at 001712e: ``*.Server.target_latency_percentile``, ``*.MultiStream.samples_per_query``)."""

SERVER_PERCENTILES = (90, 95, 99)

RESOLUTION = 0.05
"""The search ends when the highest rate that held and the lowest that did not are this near, as a share of the rate at
which the device would never be idle."""

TRIAL_SHARE = 0.25
"""Length of a trial, as a share of the window's."""

BACK_OFF = 0.9
MAX_ATTEMPTS = 3
"""A window that does not hold the bound is followed by one at a lower rate, so often. Each of them passes a system that
only just fails once in a hundred times, so all of them together at most three times."""

MAX_STRETCH = 3.0
"""How many times its seconds a window may last to have enough queries for the percentile."""

ROUNDING_NS = 1
"""What a gap may differ between two machines: the logarithm's last bit, rounded."""

CONTRADICTED, UNVERIFIED = VerdictState.CONTRADICTED, VerdictState.UNVERIFIED


def schedule(nonce: str, attempt: int, rate_per_s: float, count: int) -> tuple[int, ...]:
    """Arrivals of a Poisson process in ns since the window's begin, drawn by the nonce: exponential gaps."""
    seed = int.from_bytes(sha256(f"{nonce} arrivals {attempt}".encode()).digest(), "big")
    draw = random.Random(seed).random  # noqa: S311 -- has to be repeated by whoever checks, not to be secret
    mean_ns = 1e9 / rate_per_s
    return tuple(itertools.accumulate(round(-math.log(1.0 - draw()) * mean_ns) for _ in range(count)))


def planned_queries(profile: Profile, rate_per_s: float, percent: int) -> int:
    """Queries in one worker's window: as many as arrive in its seconds, and twice what the percentile needs where that
    takes no more than :data:`MAX_STRETCH` times as long (with just enough of them one late query is all that the
    binomial rule allows)."""
    in_time = rate_per_s * profile.seconds / profile.workers
    enough = -(-2 * PERCENTILE_MIN_SAMPLES[percent] // profile.workers)
    fewest = -(-profile.min_samples // profile.workers)
    return max(math.ceil(in_time), fewest, min(enough, math.ceil(in_time * MAX_STRETCH)))


def trial_queries(profile: Profile, rate_per_s: float) -> int:
    """Queries in one trial of the search."""
    return max(12, math.ceil(rate_per_s * profile.seconds / profile.workers * TRIAL_SHARE))


def quota(queries: int, percent: int) -> int:
    """How many of a trial's queries may be late: half of what the percentile leaves. The binomial rule asks as much
    of about 2000 queries, so a rate that is found has a chance to be confirmed."""
    return math.floor(queries * (1 - percent / 100) / 2)


def window_quota(queries: int, percent: int) -> int:
    """How many of one window's queries may be late before it is tried again at a lower rate."""
    allowed = allowed_late(queries, percent)
    return quota(queries, percent) if allowed is None else allowed


def bracket(capacity_per_s: float, held: Sequence[bool]) -> tuple[float, float]:
    """The highest rate that held (0 if none did) and the lowest that did not (the capacity, which nobody tries: the
    queue would grow for ever), after trials of a bisection that came out so."""
    low, high = 0.0, capacity_per_s
    for one in held:
        middle = (low + high) / 2
        low, high = (middle, high) if one else (low, middle)
    return low, high


def next_rate(capacity_per_s: float, held: Sequence[bool]) -> float | None:
    """The rate to try next; None when the bracket is narrow enough."""
    low, high = bracket(capacity_per_s, held)
    return None if high - low <= RESOLUTION * capacity_per_s else (low + high) / 2


def busy_ns(raw: WorkerSamples) -> tuple[int, ...]:
    """How long each sample kept the device: for a query, without its wait."""
    if not raw.starts_ns:
        return raw.samples_ns
    return tuple(end - start for start, end in zip(raw.starts_ns, raw.ends_ns, strict=False))


def derive(
    workload: Workload, workers: Sequence[WorkerRecord], samples: Sequence[WorkerSamples], conditions: Conditions
) -> Aggregates:
    """Statistics of a result, by its scenario. Raises ValueError where there is nothing to compute them from."""
    values = [raw.samples_ns for raw in samples]
    if workload.scenario is Scenario.MULTISTREAM:
        return aggregate(values, [1] * len(workers), workload.query_size or 0, conditions)
    if workload.scenario is Scenario.SERVER:
        return _server(workload, workers, samples, conditions)
    return aggregate(values, [w.runs_per_sample for w in workers], workload.batch_size, conditions)


def _server(
    workload: Workload, workers: Sequence[WorkerRecord], samples: Sequence[WorkerSamples], conditions: Conditions
) -> Aggregates:
    bound, percent = workload.latency_bound_ms, workload.latency_percentile
    windows = [w.server for w in workers if w.server is not None]
    if bound is None or percent not in SERVER_PERCENTILES or len(windows) != len(workers):
        raise ValueError("a server's result needs a bound, its percentile, and the rate of each window")
    once = [1] * len(workers)
    whole = aggregate([raw.samples_ns for raw in samples], once, workload.batch_size, conditions)
    # Latencies of Poisson arrivals scatter by nature: whether the machine was steady shows in the service times.
    service = aggregate([busy_ns(raw) for raw in samples], once, workload.batch_size, conditions)
    waits = [
        start - arrival
        for raw in samples
        for arrival, start in zip(raw.arrivals_ns, raw.starts_ns, strict=False)
    ]  # fmt: skip
    late = sum(ns > bound * NS_PER_MS for raw in samples for ns in raw.samples_ns)
    allowed = allowed_late(whole.sample_count, percent)
    rate = whole.sample_count / (sum(w.window_ns for w in workers) / 1e9)
    return replace(
        whole,
        throughput_items_per_s=rate * workload.batch_size,
        stable=service.stable,
        noise_reasons=service.noise_reasons,
        server=ServerStats(
            offered_rate_per_s=windows[0].rate_per_s,
            achieved_rate_per_s=rate,
            late_count=late,
            held=None if allowed is None else late <= allowed,
            queue_mean_ms=math.fsum(waits) / len(waits) / NS_PER_MS,
            service_p50_ms=median([ns for raw in samples for ns in busy_ns(raw)]) / NS_PER_MS,
        ),
    )


def findings(result: BenchmarkResult, samples: SampleSet) -> Iterator[Finding]:
    """What the scenario's own evidence contradicts. Rules of :mod:`.verdict` beside those of every result."""
    work = result.workload
    for reason in _asked(work):
        yield Finding(rule="scenario", effect=CONTRADICTED, reason=reason)
    for worker, raw in zip(result.workers, samples.workers, strict=False):
        if work.scenario is Scenario.SERVER:
            reasons = _window(result, worker, raw)
        elif worker.server is not None or raw.arrivals_ns or raw.starts_ns or raw.ends_ns:
            reasons = iter(("it holds arrivals, which only a server has",))
        elif work.scenario is Scenario.MULTISTREAM and worker.runs_per_sample * work.batch_size != work.query_size:
            reasons = iter((f"a query of {work.query_size} samples was not run as that many",))
        else:
            continue
        for reason in reasons:
            yield Finding(rule="scenario", effect=CONTRADICTED, reason=f"worker {worker.index}: {reason}")
    if len({w.server.rate_per_s for w in result.workers if w.server is not None}) > 1:
        yield Finding(rule="scenario", effect=CONTRADICTED, reason="the workers were offered different rates")


def _asked(work: Workload) -> Iterator[str]:
    bound = work.latency_bound_ms
    if work.scenario is Scenario.SERVER:
        if bound is None or not math.isfinite(bound) or bound <= 0:
            yield f"a server's latency bound of {bound} ms is none"
        if work.latency_percentile not in SERVER_PERCENTILES:
            yield f"a server's bound on percentile {work.latency_percentile} is none"
    elif bound is not None or work.latency_percentile is not None:
        yield f"scenario {work.scenario} has no latency bound"
    if work.scenario is Scenario.MULTISTREAM:
        if not work.query_size or work.query_size < 1 or work.query_size % work.batch_size:
            yield f"a query of {work.query_size} samples is not made of batches of {work.batch_size}"
    elif work.query_size is not None:
        yield f"scenario {work.scenario} has no query size"


def _window(result: BenchmarkResult, worker: WorkerRecord, raw: WorkerSamples) -> Iterator[str]:
    """One server window against what its nonce, its rate and its profile make of it."""
    window, percent = worker.server, result.workload.latency_percentile
    if window is None or not math.isfinite(window.rate_per_s) or window.rate_per_s <= 0:
        yield "the rate of its arrivals is missing"
        return
    if percent not in SERVER_PERCENTILES:  # said above
        return
    planned = planned_queries(result.request.profile, window.rate_per_s, percent)
    lengths = {len(raw.samples_ns), len(raw.arrivals_ns), len(raw.starts_ns), len(raw.ends_ns)}
    if lengths != {planned}:
        yield f"{min(lengths)} of {planned} queries are there: some are missing, or were made up"
        return
    if not 0 <= window.attempt < MAX_ATTEMPTS:
        yield f"attempt {window.attempt} was not allowed"
    expected = schedule(worker.nonce, window.attempt, window.rate_per_s, planned)
    if not _same_gaps(raw.arrivals_ns, expected):
        yield "the queries did not arrive when the nonce says"
    ends = (0, *raw.ends_ns[:-1])
    timeline = list(zip(raw.arrivals_ns, raw.starts_ns, raw.ends_ns, ends, strict=True))
    if any(start < arrival for arrival, start, _, _ in timeline):
        yield "a query ran before it arrived"
    if any(start < before or end <= start for _, start, end, before in timeline):
        yield "its queries ran at the same time, or in another order"
    if any(end - arrival != ns for (arrival, _, end, _), ns in zip(timeline, raw.samples_ns, strict=True)):
        yield "a latency is not from its query's arrival to its end"
    if raw.ends_ns[-1] > worker.window_ns:
        yield "its queries end after the window"
    yield from _trail(result, worker, percent)


def _same_gaps(arrivals: Sequence[int], expected: Sequence[int]) -> bool:
    pairs = zip(itertools.pairwise((0, *arrivals)), itertools.pairwise((0, *expected)), strict=True)
    return all(abs((b - a) - (d - c)) <= ROUNDING_NS for (a, b), (c, d) in pairs)


def _trail(result: BenchmarkResult, worker: WorkerRecord, percent: int) -> Iterator[str]:
    """The search again: whether these outcomes lead to these rates, and to the one that was claimed."""
    window = worker.server
    assert window is not None
    if window.capacity_per_s is None:
        if window.trials or window.attempt or worker.index == result.workers[0].index:
            yield "how it came to its rate is not said"
        return
    if not math.isfinite(window.capacity_per_s) or window.capacity_per_s <= 0:
        yield f"a capacity of {window.capacity_per_s} queries/s is none"
        return
    searched = len(window.trials) - window.attempt
    trials, windows = window.trials[: max(searched, 0)], window.trials[max(searched, 0) :]
    profile, held = result.request.profile, list[bool]()
    for trial in trials:
        if trial.rate_per_s != next_rate(window.capacity_per_s, held) or not _is_said(
            trial, trial_queries(profile, trial.rate_per_s), quota(trial.queries, percent)
        ):
            yield "the rates that it says it tried are not those of the search"
            return
        held.append(trial.held)
    rate = bracket(window.capacity_per_s, held)[0]
    for one in windows:
        planned = planned_queries(profile, rate, percent)
        if one.rate_per_s != rate or one.held or not _is_said(one, planned, window_quota(planned, percent)):
            yield "the windows that it says it tried are not those of the search"
            return
        rate *= BACK_OFF
    if next_rate(window.capacity_per_s, held) is not None or window.rate_per_s != rate:
        yield "its rate is not the one that the search found"


def _is_said(trial: RateTrial, planned: int, allowed: int) -> bool:
    """Whether a trial is of the planned size, and held exactly where its own numbers say so: it is given up at the
    first late query too many, and never before."""
    if trial.queries != planned or not 0 <= trial.late <= trial.finished <= planned:
        return False
    if trial.held:
        return trial.finished == planned and trial.late <= allowed
    return trial.late == allowed + 1
