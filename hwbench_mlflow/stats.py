"""Statistics of raw samples.

Pure, standard library only. Samples are integers in nanoseconds; results are in milliseconds.
Every function is deterministic to the last bit (``math.fsum``, IEEE division), because a verdict
demands that stored aggregates recompute exactly.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

from hwbench_mlflow.model import Aggregates, Conditions

PERCENTILE_MIN_SAMPLES = {50: 11, 90: 64, 95: 130, 99: 662}
"""Fewest samples for a percentile: the least n of which one above it is allowed at 99% confidence (binomial, no
tolerance), as MLPerf's early stopping has it (mlcommons/inference, loadgen/results.cc at 7ad9af1, ``EarlyStopping``:
``find_min_passing(1, ...) + 1``; loadgen/early_stopping.cc at 51a4a7e). Fewer: the percentile is None. What is given is
the samples' own quantile, not loadgen's estimate, which with few samples is higher."""

NS_PER_MS = 1e6

MAX_RELATIVE_IQR = 0.10
MAX_DRIFT = 0.05
MAX_WORKER_SPREAD = 0.05
MAX_STEAL = 0.02
MAX_FOREIGN_CPU = 0.10


def quantile(ordered: Sequence[float], q: float) -> float:
    """The ``q`` quantile of sorted values, linear between closest ranks (Hyndman-Fan type 7,
    numpy's default), so that p50 is the usual median."""
    position = (len(ordered) - 1) * q
    low = math.floor(position)
    fraction = position - low
    if fraction == 0.0:
        return float(ordered[low])
    return ordered[low] + (ordered[low + 1] - ordered[low]) * fraction


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """A percentile of sorted values, or None where there are too few to say."""
    return quantile(ordered, percent / 100) if len(ordered) >= PERCENTILE_MIN_SAMPLES[percent] else None


def allowed_late(queries: int, percent: int) -> int | None:
    """How many of ``queries`` may exceed a bound that percentile ``percent`` is said to hold, at 99% confidence.

    MLPerf's early-stopping rule: the largest t with P(Bin(n, 1 - p) <= t) <= 1%, so that a system that only just
    fails passes once in a hundred. None where the queries are too few to say. Above 600 expected ones the normal
    approximation with continuity correction.
    """
    if queries < PERCENTILE_MIN_SAMPLES[percent]:
        return None
    late = 1 - percent / 100
    expected = queries * late
    if expected > 600:
        return math.floor(expected - 2.3264 * math.sqrt(expected * (1 - late)) - 0.5)
    count, tail, term = 0, 0.0, (1 - late) ** queries
    while tail + term <= 0.01:
        tail += term
        term *= (queries - count) / (count + 1) * late / (1 - late)
        count += 1
    return count - 1


def median_interval(ordered: Sequence[float]) -> tuple[float, float] | None:
    """Nonparametric 95% confidence interval of the median of sorted values, or None below 6 samples.

    Order statistics ``l`` and ``n+1-l`` with the largest ``l`` such that P(Bin(n, 1/2) < l) <= 2.5%
    (Conover, Practical Nonparametric Statistics, 3.2); the normal approximation above 1000 samples.
    """
    n = len(ordered)
    if n < 6:
        return None
    rank = _rank_of_interval(n)
    return float(ordered[rank - 1]), float(ordered[n - rank])


@lru_cache(maxsize=4096)
def _rank_of_interval(n: int) -> int:
    if n > 1000:
        return math.floor(n / 2 - 0.98 * math.sqrt(n))
    rank, tail, term = 0, 0.0, 0.5**n
    while tail + term <= 0.025:
        tail += term
        term = term * (n - rank) / (rank + 1)
        rank += 1
    return rank


def block_throughput_interval(stats: Aggregates, batch_size: int) -> tuple[float, float] | None:
    """95% confidence interval of the throughput of the median block of an offline window, items/s; None below 6 blocks.

    A block is several overlapping inferences, timed as one sample. Throughput falls as its time an inference grows, and
    order statistics keep their order under that, so :func:`median_interval` of the one, turned around, is the interval
    of the other, with the same coverage. It is of the median block, which the mean rate that is logged need not be, and
    says how steady one window was, not what another run or machine would give: MLPerf's offline, one number a run, has
    no interval.
    """
    low, high = stats.median_ci95_low_ms, stats.median_ci95_high_ms
    return None if low is None or high is None else (batch_size * 1e3 / high, batch_size * 1e3 / low)


def median(values: Sequence[float]) -> float:
    """The median of at least one value."""
    return quantile(sorted(values), 0.5)


def aggregate(
    samples: Sequence[Sequence[int]], runs_per_sample: Sequence[int], batch_size: int, conditions: Conditions
) -> Aggregates:
    """Statistics of one result.

    ``samples``: per worker, ns per sample; ``runs_per_sample``: per worker, inferences in a sample.
    Raises ValueError if there is no sample, or one that is not positive.
    """
    per_worker = [[ns / runs for ns in worker] for worker, runs in zip(samples, runs_per_sample, strict=True)]
    ordered = sorted(chain.from_iterable(per_worker))
    if not ordered or ordered[0] <= 0:
        raise ValueError("a result needs samples, each longer than zero")
    n = len(ordered)
    mean = math.fsum(ordered) / n
    busy_ns = sum(map(sum, samples))
    inferences = sum(map(operator.mul, map(len, samples), runs_per_sample))
    interval = median_interval(ordered)
    iqr = quantile(ordered, 0.75) - quantile(ordered, 0.25)
    reasons = _noise(per_worker, iqr, quantile(ordered, 0.5), conditions)
    return Aggregates(
        sample_count=n,
        mean_ms=mean / NS_PER_MS,
        min_ms=ordered[0] / NS_PER_MS,
        max_ms=ordered[-1] / NS_PER_MS,
        iqr_ms=iqr / NS_PER_MS,
        stdev_ms=math.sqrt(_squares(ordered, mean) / (n - 1)) / NS_PER_MS if n > 1 else None,
        p50_ms=_ms(percentile(ordered, 50)),
        p90_ms=_ms(percentile(ordered, 90)),
        p95_ms=_ms(percentile(ordered, 95)),
        p99_ms=_ms(percentile(ordered, 99)),
        median_ci95_low_ms=_ms(interval[0] if interval else None),
        median_ci95_high_ms=_ms(interval[1] if interval else None),
        throughput_items_per_s=inferences * batch_size / (busy_ns / 1e9),
        stable=not reasons,
        noise_reasons=reasons,
    )


def is_flat(blocks: Sequence[float], window: int = 3, tolerance: float = 0.02) -> bool:
    """True when the last ``window`` block medians lie within ``tolerance`` of their middle one:
    the end of a warm-up."""
    if len(blocks) < window:
        return False
    last = blocks[-window:]
    return max(last) - min(last) <= tolerance * median(last)


def _squares(values: Sequence[float], mean: float) -> float:
    """The sum of the squared deviations. By ``*``, which IEEE rounds one way; ``**`` is the C library's pow."""
    off = [value - mean for value in values]
    return math.fsum(map(operator.mul, off, off))


def _ms(value: float | None) -> float | None:
    return None if value is None else value / NS_PER_MS


def _noise(per_worker: Sequence[Sequence[float]], iqr: float, middle: float, conditions: Conditions) -> tuple[str, ...]:
    found: list[str] = []

    def note(value: float | None, limit: float, text: str) -> None:
        if value is not None and value > limit:
            found.append(f"{text} {value:.1%} (limit {limit:.0%})")

    note(iqr / middle, MAX_RELATIVE_IQR, "interquartile range over median")
    note(_drift(per_worker), MAX_DRIFT, "drift between the halves of a window")
    if len(per_worker) > 1:
        medians = [median(worker) for worker in per_worker]
        note((max(medians) - min(medians)) / middle, MAX_WORKER_SPREAD, "spread of the workers' medians")
    note(conditions.steal_fraction, MAX_STEAL, "CPU time stolen by the hypervisor")
    note(conditions.foreign_cpu_fraction, MAX_FOREIGN_CPU, "CPU time used by other processes")
    if conditions.throttle_events:
        found.append(f"{conditions.throttle_events} thermal throttle events")
    if conditions.throttle_reasons:
        found.append("throttled: " + ", ".join(conditions.throttle_reasons))
    if conditions.foreign_device_pids:
        found.append(f"{len(conditions.foreign_device_pids)} other processes on the device")
    return tuple(found)


def _drift(per_worker: Sequence[Sequence[float]]) -> float | None:
    drifts = [
        abs(median(worker[len(worker) // 2 :]) / median(worker[: len(worker) // 2]) - 1)
        for worker in per_worker
        if len(worker) >= 20
    ]
    return max(drifts) if drifts else None
