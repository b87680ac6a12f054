"""What one result looks like on a terminal and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench_mlflow.evidence import Judgement
from hwbench_mlflow.index import index_of
from hwbench_mlflow.model import BenchmarkResult, Scenario
from hwbench_mlflow.note import query_words, server_lines, size_words, written_words
from hwbench_mlflow.stats import block_throughput_interval

Judged = tuple[str | None, str | None, Judgement]
"""Run id, file, judgement."""


def summary_text(run_id: str | None, file: str | None, judgement: Judgement) -> str:
    """A few lines for people: the number, how sure it is, and whether it can be trusted."""
    result, verdict = judgement.result, judgement.verdict
    lines = [*_measured(result)] if result is not None else ["no readable result"]
    lines += [_row("verdict", str(verdict.state))]
    lines += [_row("", reason) for reason in verdict.reasons]
    if run_id is not None:
        lines += [_row("run", run_id)]
    if file is not None:
        lines += [_row("file", file)]
    if run_id is None and file is None:
        lines += [_row("run", "waits in the spool: hwbench push --spool delivers it")]
    return "\n".join(lines)


def summary_document(judged: Sequence[Judged]) -> dict[str, object]:
    """One stable object. ``metrics`` are named as in MLflow; what is unknown is absent."""
    return {"schema_version": 1, "results": [_entry(*one) for one in judged]}


def _entry(run_id: str | None, file: str | None, judgement: Judgement) -> dict[str, object]:
    entry: dict[str, object] = {
        "run_id": run_id,
        "file": file,
        "verdict": str(judgement.verdict.state),
        "reasons": list(judgement.verdict.reasons),
    }
    if judgement.result is not None:
        index = index_of(judgement.result, "", judgement.verdict)
        entry |= {
            "result_id": judgement.result.result_id,
            "metrics": index.metrics,
            "tags": index.tags,
            "warnings": list(judgement.result.warnings),
            "block_throughput_items_per_s_ci95": _blocks(judgement.result),
        }
    return entry


def _measured(result: BenchmarkResult) -> list[str]:
    work, stats = result.workload, result.aggregates
    size = size_words(work)
    head = (
        f"{work.model} on {result.device.name} ({result.request.platform}): batch {work.batch_size}, {size}, "
        f"{result.effective_precision}, {result.model.weights_source} weights"
    )
    lines = [head]
    if result.is_simulated:
        lines += [_row("SIMULATED", result.simulation_reason or "")]
    if stats.server is not None:
        lines += [_row(name, text) for name, text in server_lines(result)]
    if work.scenario is Scenario.MULTISTREAM:
        lines += [_row("query", query_words(work))]
    if work.scenario is not Scenario.OFFLINE:
        middle = "too few samples for a median" if stats.p50_ms is None else f"{stats.p50_ms:.4g} ms"
        if stats.median_ci95_low_ms is not None and stats.median_ci95_high_ms is not None:
            middle += f"  (95% interval {stats.median_ci95_low_ms:.4g} to {stats.median_ci95_high_ms:.4g})"
        lines += [_row("median", middle)]
        tails = {"p90": stats.p90_ms, "p95": stats.p95_ms, "p99": stats.p99_ms}
        known = [f"{name} {value:.4g} ms" for name, value in tails.items() if value is not None]
        missing = [name for name, value in tails.items() if value is None]
        if missing:
            known += [f"{', '.join(missing)}: too few samples"]
        lines += [_row("tails", ", ".join(known))]
    lines += [_row(name, value) for name, value in written_words(result)]
    throughput = f"{stats.throughput_items_per_s:.4g} items/s"
    blocks = _blocks(result)
    if blocks is not None:
        throughput += f"  (median block: 95% interval {blocks[0]:.4g} to {blocks[1]:.4g})"
    lines += [
        _row("throughput", throughput),
        _row("samples", f"{stats.sample_count} in {len(result.workers)} worker process(es)"),
        _row("stability", "stable" if stats.stable else "noisy: " + "; ".join(stats.noise_reasons)),
    ]
    return lines


def _blocks(result: BenchmarkResult) -> tuple[float, float] | None:
    """Of the offline scenario alone: elsewhere the interval of the median latency is what is meant."""
    if result.workload.scenario is not Scenario.OFFLINE:
        return None
    return block_throughput_interval(result.aggregates, result.workload.batch_size)


def _row(name: str, value: str) -> str:
    return f"  {name:<11} {value}"
