"""Figures of one result. Pure matplotlib, drawn without a display; imported only where one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench_mlflow.model import BenchmarkResult, SampleSet, Scenario

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 20_000


def latency_figure(result: BenchmarkResult, samples: SampleSet) -> Figure:
    """Samples in order (warm-up apart) beside their distribution, with the median and its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    order, spread = figure.subplots(1, 2, width_ratios=(2, 1), sharey=True)
    offset, work = 0, result.workload
    for raw, worker in zip(samples.workers, result.workers, strict=True):
        runs = worker.runs_per_sample if work.query_size is None else 1
        warm = [ns / runs / 1e6 for ns in raw.samples_ns]
        step = max(1, len(warm) // MAX_POINTS)
        order.plot(
            range(offset, offset + len(warm), step), warm[::step], ".", markersize=3, label=f"worker {raw.index + 1}"
        )
        offset += len(warm)
        spread.hist(warm, bins=min(60, max(10, len(warm) // 5)), orientation="horizontal", alpha=0.7)
    stats = result.aggregates
    if stats.p50_ms is not None:
        for axes in (order, spread):
            axes.axhline(stats.p50_ms, color="black", linewidth=1, label=f"median {stats.p50_ms:.4g} ms")
            if stats.median_ci95_low_ms is not None and stats.median_ci95_high_ms is not None:
                axes.axhspan(
                    stats.median_ci95_low_ms, stats.median_ci95_high_ms, color="black", alpha=0.15, label="95% interval"
                )
    title = f"{work.model} on {result.device.name}, batch {work.batch_size}, {result.effective_precision}"
    if result.is_simulated:
        title = f"SIMULATED ({result.simulation_reason}): {title}"
    # parse_math off: a model's name may hold dollar signs.
    figure.suptitle(title, parse_math=False, wrap=True)
    order.set_xlabel("sample")
    queries = work.scenario in {Scenario.SERVER, Scenario.MULTISTREAM}
    order.set_ylabel("ms per query" if queries else "ms per inference (batch)")
    spread.set_xlabel("samples")
    order.legend(loc="upper right", fontsize="small")
    return figure
