"""The one table of MLflow metric names: what each means, in what unit, and which way is better.

Stdlib only; imports nothing of the package. Who logs a metric, checks it against the raw samples,
draws it or compares it looks it up here: a name that is not in :data:`METRICS` is not ours.

A metric that is unknown is *absent* from the run. It is never logged as 0 or NaN: MLflow stores
NaN as 0, so a NaN that is logged reads as a measured zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One MLflow metric.

    ``unit`` is one of :data:`UNITS`. ``better`` is None where more and less are neither good nor bad
    (counts, context), so that no report ranks by it. ``of_run`` is False for metrics that describe
    the conditions around the run and not the run itself.
    """

    name: str
    unit: str
    better: Better | None
    meaning: str
    of_run: bool = True


UNIT_IN_NAME: Mapping[str, str] = MappingProxyType(
    {
        "ms": "_ms",
        "items/s": "_items_per_s",
        "tokens/s": "tokens_per_s",
        "factor": "_factor",
        "queries/s": "_rate_per_s",
        "MB": "_mb",
        "J": "_j",
        "J/item": "_j_per_item",
        "W": "_w",
        "GFLOP": "_flops",
        "GB": "_gb",
        "TFLOP/s": "_tflops",
        "GB/s": "_gb_per_s",
        "count": "_count",
        "fraction": "_fraction",
        "growth": "growth",
        "load": "load",
    }
)
"""How a unit shows in a name. A ``MB`` is 10^6 bytes, a ``GFLOP`` 10^9 operations (a multiply-add is
two), a ``fraction`` lies in 0..1 unless its meaning says otherwise, a ``growth`` is a quotient of two times, a
``factor`` one of two lengths of time, and
``load`` is the kernel's load average (runnable tasks)."""

UNITS = frozenset(UNIT_IN_NAME)


def _table(specs: Iterable[MetricSpec]) -> Mapping[str, MetricSpec]:
    """Index by name; a name given twice is a mistake in this file, and stops the import."""
    table: dict[str, MetricSpec] = {}
    for spec in specs:
        if spec.name in table:
            raise ValueError(f"the metric {spec.name} is defined twice")
        table[spec.name] = spec
    return MappingProxyType(table)


def _m(name: str, unit: str, better: Better | None, meaning: str, *, of_run: bool = True) -> MetricSpec:
    return MetricSpec(name=name, unit=unit, better=better, meaning=meaning, of_run=of_run)


METRICS: Mapping[str, MetricSpec] = _table(
    (
        # Time of one inference (of one batch), from the raw samples of every worker together. In the server scenario of
        # one query from its scheduled arrival to its end, in multistream of one query of several samples.
        _m("latency_ms_p50", "ms", "lower", "Median time of one inference (one batch)."),
        _m("latency_ms_p90", "ms", "lower", "The 90th percentile of one inference; absent under 64 samples."),
        _m("latency_ms_p95", "ms", "lower", "The 95th percentile of one inference; absent under 130 samples."),
        _m("latency_ms_p99", "ms", "lower", "The 99th percentile of one inference; absent under 662 samples."),
        _m("latency_ms_mean", "ms", "lower", "Mean time of one inference."),
        _m("latency_ms_min", "ms", "lower", "Shortest time of one inference."),
        _m("latency_ms_max", "ms", "lower", "Longest time of one inference."),
        _m("latency_ms_stdev", "ms", "lower", "Sample standard deviation of the time of one inference."),
        _m("latency_ms_iqr", "ms", "lower", "Interquartile range of the time of one inference."),
        _m("latency_ms_p50_ci95_low", "ms", "lower", "Lower end of the nonparametric 95% interval of the median."),
        _m("latency_ms_p50_ci95_high", "ms", "lower", "Upper end of the nonparametric 95% interval of the median."),
        _m("throughput_items_per_s", "items/s", "higher", "Items (batch size x inferences) completed per second."),
        # Models that write, by MLPerf inference's definitions.
        _m(
            "ttft_ms_p50",
            "ms",
            "lower",
            "Median time to the first token (TTFT): from the prompt to its id on the host.",
        ),
        _m("ttft_ms_p90", "ms", "lower", "The 90th percentile of TTFT; absent under 64 samples."),
        _m("ttft_ms_p99", "ms", "lower", "The 99th percentile of TTFT; absent under 662 samples."),
        _m("tpot_ms_p50", "ms", "lower", "Median time per output token (TPOT): (latency - TTFT) / (tokens - 1)."),
        _m("tpot_ms_p90", "ms", "lower", "The 90th percentile of TPOT; absent under 64 samples."),
        _m("tpot_ms_p99", "ms", "lower", "The 99th percentile of TPOT; absent under 662 samples."),
        _m("tokens_per_s", "tokens/s", "higher", "Tokens written per second, those of the whole batch."),
        # Audio. The Open ASR Leaderboard's RTFx (arXiv:2510.06961); others call its inverse the real-time factor.
        _m("real_time_factor", "factor", "higher", "Seconds of audio processed per second: above 1, faster than live."),
        # The server scenario: queries that arrive at random, and a bound on their latency.
        _m(
            "server_rate_per_s",
            "queries/s",
            "higher",
            "Highest rate of Poisson arrivals found that holds the latency bound; absent where none was shown to.",
        ),
        _m("offered_rate_per_s", "queries/s", None, "Rate of the Poisson arrivals in the windows, bound held or not."),
        _m("achieved_rate_per_s", "queries/s", None, "Queries completed per second of the windows."),
        _m("late_count", "count", None, "Queries that took longer than the latency bound, from scheduled arrival on."),
        _m("queue_ms_mean", "ms", "lower", "Mean wait of a query from its scheduled arrival to its start."),
        _m("service_ms_p50", "ms", "lower", "Median time that a query kept the device, without its wait."),
        # Before the first sample.
        _m("import_ms", "ms", "lower", "Importing the platform's library in a fresh worker."),
        _m("load_ms", "ms", "lower", "Putting the built model on the device."),
        _m("compile_ms", "ms", "lower", "Compiling the model for the device; absent where nothing is compiled."),
        _m("first_inference_ms", "ms", "lower", "The first inference of a fresh worker, before any warm-up."),
        # Memory and energy.
        _m("memory_peak_mb", "MB", "lower", "Peak resident memory of the worker process, by the operating system."),
        _m("device_memory_peak_mb", "MB", "lower", "Peak memory of this process on the device."),
        _m("energy_j", "J", None, "Energy over the timed windows; the run's energy method says how it was had."),
        _m("energy_j_per_item", "J/item", "lower", "Energy over the timed windows divided by the items completed."),
        _m("power_w_mean", "W", "lower", "Energy over the timed windows divided by their length."),
        # How much was measured.
        _m("sample_count", "count", None, "Timed samples, all workers together."),
        _m("warmup_count", "count", None, "Warm-up inferences before the first timed sample, all workers together."),
        _m("worker_count", "count", None, "Fresh worker processes that measured."),
        _m("parameter_count", "count", None, "Parameters of the model, counted on meta tensors."),
        # The work and the device's peak: what makes a latency believable.
        _m("flops_per_item_g", "GFLOP", None, "Operations for one item, counted on meta tensors; a multiply-add is 2."),
        _m("bytes_per_item_gb", "GB", None, "Least memory traffic for one item: weights once, inputs and outputs."),
        _m("achieved_tflops", "TFLOP/s", "higher", "Counted operations over the timed windows' length."),
        _m("calibrated_tflops", "TFLOP/s", None, "Device's peak at this precision, by matrix products or datasheet."),
        _m("roofline_fraction", "fraction", "higher", "Achieved over calibrated peak; over 1 contradicts the result."),
        # Witnesses.
        _m("cpu_time_fraction", "fraction", None, "Process CPU time over the windows, divided by wall time x threads."),
        _m("scaling_growth", "growth", None, "Median time at the scaling probe's largest batch over its smallest."),
        _m("kernel_count", "count", None, "Kernels the profiler saw on the device in its separate pass."),
        # What may have disturbed it.
        _m("steal_fraction", "fraction", "lower", "CPU time the hypervisor took away over the windows.", of_run=False),
        _m(
            "foreign_cpu_fraction",
            "fraction",
            "lower",
            "Share of the machine's CPU time that other processes used over the windows.",
            of_run=False,
        ),
        _m("involuntary_switch_count", "count", "lower", "Involuntary context switches of the workers.", of_run=False),
        _m("throttle_event_count", "count", "lower", "Throttling events the hardware reported.", of_run=False),
        _m("load_before", "load", None, "Load average (1 minute) before the first worker started.", of_run=False),
        _m("load_after", "load", None, "Load average (1 minute) after the last worker ended.", of_run=False),
    )
)
"""Every MLflow metric name of a result, by name."""

ESTIMATE_METRICS: Mapping[str, MetricSpec] = _table(
    (
        _m("estimate_latency_ms_low", "ms", "lower", "SIMULATED: fastest time of a roofline estimate."),
        _m("estimate_latency_ms_expected", "ms", "lower", "SIMULATED: expected time of a roofline estimate."),
        _m("estimate_latency_ms_high", "ms", "lower", "SIMULATED: slowest time of a roofline estimate."),
        _m("estimate_throughput_items_per_s_low", "items/s", "higher", "SIMULATED: batch over the slowest time."),
        _m("estimate_throughput_items_per_s_expected", "items/s", "higher", "SIMULATED: batch over the expected time."),
        _m("estimate_throughput_items_per_s_high", "items/s", "higher", "SIMULATED: batch over the fastest time."),
    )
)
"""Of estimates, which nothing was measured for: no name of theirs is a measurement's, in any view."""

ROOFLINE_METRICS: Mapping[str, MetricSpec] = _table(
    (
        _m("peak_tflops_fp32", "TFLOP/s", None, "Best rate of fp32 matrix products on the device."),
        _m("peak_tflops_bf16", "TFLOP/s", None, "Best rate of bf16 matrix products on the device."),
        _m("peak_tflops_fp16", "TFLOP/s", None, "Best rate of fp16 matrix products on the device."),
        _m("memory_bandwidth_gb_per_s", "GB/s", None, "Best rate of any streaming kernel, by STREAM's count of bytes."),
        _m("memory_bandwidth_gb_per_s_copy", "GB/s", None, "Median rate of a copy, by STREAM's count of bytes."),
        _m("memory_bandwidth_gb_per_s_triad", "GB/s", None, "Median rate of a triad, by STREAM's count of bytes."),
    )
)
"""Of calibrations: what a device can do at most, independent of any model."""

ALL_METRICS: Mapping[str, MetricSpec] = _table(
    (*METRICS.values(), *ESTIMATE_METRICS.values(), *ROOFLINE_METRICS.values())
)
"""Every MLflow metric name that hwbench writes: what is logged beyond a run's own kind is a contradiction."""


def spec(name: str) -> MetricSpec:
    """The metric of that name; KeyError if hwbench does not write it."""
    return METRICS[name]
