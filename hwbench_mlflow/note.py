"""The note of a run in words: what was measured, on what, with what verdict. Pure; Markdown.

Every string that comes from outside (model names, device names, reasons) is escaped: MLflow renders
the note as Markdown.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from hwbench_mlflow.estimate import Estimate
from hwbench_mlflow.index import real_time_factor
from hwbench_mlflow.model import (
    Availability,
    BenchmarkResult,
    Failure,
    Phase,
    Scenario,
    Verdict,
    VerdictState,
    Workload,
)
from hwbench_mlflow.roofline import Roofline

VERDICT_WORDS = {
    VerdictState.VERIFIED: "Every check of the evidence passed.",
    VerdictState.UNVERIFIED: "Some evidence is missing: do not treat these numbers as real.",
    VerdictState.SIMULATED: "**Simulated:** these numbers do not come from the hardware that is named.",
    VerdictState.CONTRADICTED: "**The evidence disagrees with itself: these numbers are not to be used.**",
}


def escape(text: str) -> str:
    """``text`` as Markdown that shows exactly it, on one line."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>~&])", r"\\\1", " ".join(text.split()))


def dashboard_link(address: str, run_id: str) -> str | None:
    """A line of Markdown that leads to a run on the dashboard at ``address``; None if that is no address of a page.

    Only http and https, without a user or a password (everybody who sees the run reads its note), and without any
    character that could end the link.
    """
    try:
        parts = urlsplit(address)
        usable = parts.scheme in {"http", "https"} and parts.hostname and not (parts.query or parts.fragment)
    except ValueError:
        return None
    if not usable or not re.fullmatch(r"[A-Za-z0-9:/.\-_~%\[\]]+", address):
        return None
    return f"[This result on the dashboard](<{address.rstrip('/')}/results/{quote(run_id, safe='')}>)"


def result_note(result: BenchmarkResult, verdict: Verdict, link: str | None = None) -> str:
    """What was measured, on what, how, with what verdict. ``link`` is of :func:`dashboard_link`."""
    work, stats, host = result.workload, result.aggregates, result.host
    size = size_words(work)
    lines = [
        f"## {escape(work.model)} on {escape(result.device.name)} ({result.request.platform})",
        "",
        f"**Verdict: {verdict.state}.** {VERDICT_WORDS[verdict.state]}",
        *[f"- {escape(reason)}" for reason in verdict.reasons],
        "",
    ]
    if result.is_simulated:
        lines += [f"**Simulated because:** {escape(result.simulation_reason or 'no reason was given')}", ""]
    lines += [
        f"Batch {work.batch_size}, {size}, {result.effective_precision}, scenario {work.scenario}, "
        f"{result.model.weights_source} weights, profile {result.request.profile.name}"
        + ("." if result.request.ranked else " (a test profile: never ranked)."),
        "",
        "| what | value |",
        "| --- | --- |",
    ]
    if stats.server is not None:
        lines += [f"| {name} | {escape(text)} |" for name, text in server_lines(result)]
    if work.scenario is Scenario.MULTISTREAM:
        lines += [f"| query | {query_words(work)} |"]
    if work.scenario is not Scenario.OFFLINE:
        interval = (
            f" (95% interval {stats.median_ci95_low_ms:.4g} to {stats.median_ci95_high_ms:.4g})"
            if stats.median_ci95_low_ms is not None and stats.median_ci95_high_ms is not None
            else ""
        )
        lines += [f"| median latency | {_ms(stats.p50_ms)}{interval} |"]
        lines += [f"| p90 / p95 / p99 | {_ms(stats.p90_ms)} / {_ms(stats.p95_ms)} / {_ms(stats.p99_ms)} |"]
    lines += [
        f"| throughput | {stats.throughput_items_per_s:.4g} items/s |",
        *[f"| {name} | {escape(value)} |" for name, value in written_words(result)],
        f"| samples | {stats.sample_count} in {len(result.workers)} worker process(es) |",
        f"| stability | {'stable' if stats.stable else 'noisy: ' + escape('; '.join(stats.noise_reasons))} |",
        f"| work | {result.model.flops / 1e9:.4g} GFLOP a batch, {result.model.parameters / 1e6:.4g} M parameters |",
    ]
    if result.energy is not None:
        lines += [f"| energy | {result.energy.joules:.4g} J ({result.energy.method}: {escape(result.energy.scope)}) |"]
    lines += [
        f"| host | {escape(host.hostname)}: {escape(host.cpu_name)}, {escape(host.os)} |",
        "",
        *[f"> {escape(warning)}" for warning in result.warnings],
        "",
        "The truth is `hwbench/result.json`, signed; check it with `hwbench verify <run id>`.",
        *([] if link is None else ["", link]),
    ]
    return "\n".join(lines)


def size_words(work: Workload) -> str:
    """What one item of the workload is."""
    parts = []
    if work.sequence_length is not None:
        parts.append(f"{work.sequence_length} tokens")
    if work.image_size is not None:
        parts.append(f"{work.image_size}×{work.image_size} pixels")
    if work.audio_seconds is not None:
        parts.append(f"{work.audio_seconds:g} s of audio")
    if work.phase is not Phase.FORWARD:
        written = "" if work.output_tokens is None else f" of {work.output_tokens} tokens"
        parts.append(f"{work.phase}{written} {'with' if work.kv_cache else 'without'} KV cache")
    elif work.output_tokens is not None:
        parts.append(f"{work.output_tokens} decoder tokens")
    return ", ".join(parts)


def written_words(result: BenchmarkResult) -> list[tuple[str, str]]:
    """Name and value of what only models that write, or hear, have."""
    stats, rows = result.generation, []
    if stats is not None and result.workload.phase is not Phase.DECODE:
        rows.append(("first token", _ms(stats.ttft_ms_p50)))
    if stats is not None and stats.tokens_per_s is not None:
        rows.append(("each token", _ms(stats.tpot_ms_p50)))
        rows.append(("tokens", f"{stats.tokens_per_s:.4g} tokens/s"))
    factor = real_time_factor(result.workload, result.aggregates.throughput_items_per_s)
    if factor is not None:
        rows.append(("audio", f"{factor:.4g} times as fast as it is played"))
    return rows


def server_lines(result: BenchmarkResult) -> list[tuple[str, str]]:
    """What the server scenario found, as (what, words): the rate, the bound, the wait, and the search's trail."""
    stats, work = result.aggregates.server, result.workload
    window = result.workers[0].server if result.workers else None
    if stats is None or window is None:
        return []
    bound = f"{work.latency_bound_ms:g} ms at percentile {work.latency_percentile}"
    late = f"{stats.late_count} of {result.aggregates.sample_count} queries were late"
    if stats.held:
        rate = f"{stats.offered_rate_per_s:.4g} queries/s hold {bound} ({late})"
    elif stats.held is None:
        rate = f"none is claimed: too few queries at {stats.offered_rate_per_s:.4g}/s to say that they hold {bound}"
    else:
        rate = f"none is claimed: {stats.offered_rate_per_s:.4g} queries/s did not hold {bound} ({late})"
    tried = [
        f"{trial.rate_per_s:.4g}/s held"
        + (f" (p{work.latency_percentile} of {trial.queries}: {trial.tail_ms:.3g} ms)" if trial.tail_ms else "")
        if trial.held
        else f"{trial.rate_per_s:.4g}/s not held (given up when {trial.late} of {trial.finished} were late)"
        for trial in window.trials
    ]
    return [
        ("rate", rate),
        ("achieved", f"{stats.achieved_rate_per_s:.4g} queries/s"),
        ("service", f"{stats.service_p50_ms:.4g} ms median, after {stats.queue_mean_ms:.4g} ms mean wait"),
        *([("tried", ", ".join(tried))] if tried else []),
    ]


def query_words(work: Workload) -> str:
    """How a multistream query was run."""
    size = work.query_size or 0
    return f"{size} samples, as {size // work.batch_size} x batch {work.batch_size}"


def estimate_note(estimate: Estimate) -> str:
    """What was estimated, from which figures, with which assumptions; and that nothing was measured."""
    work, sheet, assumed = estimate.workload, estimate.sheet, estimate.efficiencies
    sized = f"{work.sequence_length} tokens" if work.sequence_length is not None else f"{work.image_size} pixels"
    spans = (
        ("latency of a batch, ms", estimate.latency_ms), ("throughput, items/s", estimate.throughput_items_per_s),
        ("compute efficiency", assumed.compute), ("memory efficiency", assumed.memory),
        ("launch of one operator, s", assumed.overhead_s),
    )  # fmt: skip
    figures = [("peak, FLOP/s", sheet.peak_flops_per_s), ("bandwidth, bytes/s", sheet.bandwidth_bytes_per_s)]
    if sheet.memory_bytes is not None:
        figures.append(("memory, bytes", sheet.memory_bytes))
    lines = [
        f"## SIMULATED: {escape(work.model)} on {escape(sheet.product)} ({estimate.platform})",
        "",
        f"**SIMULATED: {escape(estimate.simulation_reason)}.** The hardware was not there, and no number here is a "
        "measurement.",
        "",
        f"Batch {work.batch_size}, {sized}, {work.precision}; the expected time is mostly {estimate.bound}.",
        "",
        "| what | low | expected | high |",
        "| --- | --- | --- | --- |",
        *[f"| {what} | {span.low:.4g} | {span.expected:.4g} | {span.high:.4g} |" for what, span in spans],
        "",
        f"Efficiencies: {escape(assumed.basis)}.",
        "",
        "| figure | value | source |",
        "| --- | --- | --- |",
        *[f"| {what} | {figure.value:.5g} | {escape(figure.source)} |" for what, figure in figures],
        f"| work | {estimate.work.flops / 1e9:.5g} GFLOP, {estimate.work.min_bytes / 1e9:.4g} GB, "
        f"{estimate.work.operators} operators | counted on meta tensors |",
        "",
        "The document is `hwbench/estimate.json`, signed; `hwbench verify` recomputes it.",
    ]
    return "\n".join(lines)


def roofline_note(found: Roofline) -> str:
    """A device's measured limits, best and median."""
    lines = [
        f"## Roofline of {escape(found.device.name)} ({found.device.platform})",
        "",
        "| what | best | median |",
        "| --- | --- | --- |",
        *[
            f"| {p.precision} products | {p.peak_flops_per_s / 1e12:.4g} TFLOP/s | {p.median_flops_per_s / 1e12:.4g} |"
            for p in found.products
        ],
        *[
            f"| {s.kernel} of {s.array_bytes / 1e6:.0f} MB arrays | {s.best_bytes_per_s / 1e9:.4g} GB/s | "
            f"{s.median_bytes_per_s / 1e9:.4g} |"
            for s in found.streams
        ],
        *[f"| {name} | not measured: {escape(why)} | |" for name, why in found.skipped.items()],
        "",
        *[f"> {escape(reason)}" for reason in found.noise_reasons],
        "",
        f"{escape(found.method)}, {found.threads} threads, on {escape(found.host.hostname)}.",
        "",
        "The raw timings are in `hwbench/roofline.json`, signed; `hwbench verify` recomputes them.",
    ]
    return "\n".join(lines)


def failure_note(failure: Failure) -> str:
    """Why there is no result."""
    lines = ["## No result", "", f"**{failure.category}:** {escape(failure.reason)}"]
    if failure.remedy:
        lines += ["", f"What to do: {escape(failure.remedy)}"]
    return "\n".join(lines)


def devices_note(found: list[Availability]) -> str:
    """What the probes said, a line a platform."""
    rows = [f"| {a.platform} | {a.status} | {'yes' if a.verified else 'no'} | {escape(a.reason)} |" for a in found]
    return "\n".join(
        ["## Devices", "", "| platform | status | verified | reason |", "| --- | --- | --- | --- |", *rows]
    )


def _ms(value: float | None) -> str:
    return "not enough samples" if value is None else f"{value:.4g} ms"
