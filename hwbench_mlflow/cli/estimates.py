"""``hwbench run --simulate``: estimates as MLflow runs of their own kind. Wiring only.

The only command that makes an estimate, and only for a datasheet that the user named.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from hwbench_mlflow.model import (
    DEFAULT_PRECISION,
    PROFILES,
    Phase,
    Platform,
    Precision,
    RunRequest,
    Scenario,
    WeightsPolicy,
    Workload,
)

if TYPE_CHECKING:
    from hwbench_mlflow.documents import EstimateJudgement
    from hwbench_mlflow.errors import BenchmarkFailed
    from hwbench_mlflow.estimate import Estimate, Interval
    from hwbench_mlflow.tracking import Store

NOT_FOR_ESTIMATES = ("device", "browser", "threads", "backend", "out")


def estimate_runs(options: Mapping[str, Any]) -> None:
    """Estimate each batch size, say so, log each as a run. Exits by the worst that happened."""
    from hwbench_mlflow.datasheet import load
    from hwbench_mlflow.errors import BenchmarkFailed
    from hwbench_mlflow.estimator import estimate

    _refuse_what_measures(options)
    platform = Platform(options["hardware"])
    asked = options["precision"]
    precision = Precision(asked) if asked is not None else DEFAULT_PRECISION.get(platform, Precision.FP32)
    sheet = load(options["simulate"]).use(platform, precision)
    workloads = [_workload(options, size, precision) for size in options["batch_size"]]
    logged = _Logged(options["tracking_uri"], options["experiment"])
    parent = logged.begin(f"SIMULATED-{_name(workloads[0], platform, batch=False)}") if len(workloads) > 1 else None
    failed: list[BenchmarkFailed] = []
    try:
        for workload in workloads:
            name = f"SIMULATED-{_name(workload, platform)}"
            try:
                found = estimate(platform, workload, sheet)
            except BenchmarkFailed as error:
                failed.append(error)
                logged.fail(name, parent, error, _request(platform, workload, sheet.name))
                continue
            click.echo(f"hwbench: warning: SIMULATED: {found.simulation_reason}", err=True)
            logged.keep(name, parent, found)
    finally:
        logged.end_parent(parent, len(workloads))
    _print(logged.done, as_json=options["as_json"])
    for one in failed:
        click.echo(f"hwbench: {' '.join(str(one).split())}", err=True)
    if failed:
        sys.exit(int(failed[0].exit_code))


def _refuse_what_measures(options: Mapping[str, Any]) -> None:
    for name in NOT_FOR_ESTIMATES:
        if options[name] is not None:
            raise click.UsageError(f"--{name} is for measurements; with --simulate nothing is measured")
    if options["scenario"] != Scenario.LATENCY or options["compile_mode"] != "eager":
        raise click.UsageError("an estimate is of the latency scenario, run eagerly: leave --scenario, --compile-mode")
    if options["phase"] != Phase.FORWARD or options["kv_cache"] is not None:
        raise click.UsageError("an estimate is of one forward pass: leave --phase and --kv-cache out")
    if options["weights"] == WeightsPolicy.PRETRAINED:
        raise click.UsageError("an estimate loads no weights: leave --weights out")


def _workload(options: Mapping[str, Any], batch_size: int, precision: Precision) -> Workload:
    from hwbench_mlflow.workloads.resolve import resolve

    workload = Workload(
        model=options["model"],
        batch_size=batch_size,
        sequence_length=options["sequence_length"],
        image_size=options["image_size"],
        precision=precision,
        audio_seconds=options["audio_seconds"],
        output_tokens=options["output_tokens"],
        weights=WeightsPolicy.RANDOM,
    )
    resolve(workload)
    return workload


def _request(platform: Platform, workload: Workload, sheet: str) -> RunRequest:
    """What a failed run says was asked for."""
    return RunRequest(
        platform=platform, device=None, workload=workload, profile=PROFILES["quick"], threads=None,
        backend=f"simulate:{sheet}",
    )  # fmt: skip


def _name(workload: Workload, platform: Platform, *, batch: bool = True) -> str:
    from pathlib import Path

    parts = [Path(workload.model).name or workload.model, platform.value, workload.precision.value]
    return "-".join([*parts, f"b{workload.batch_size}"] if batch else parts)


class _Logged:
    """The runs of one command."""

    def __init__(self, tracking_uri: str | None, experiment: str | None) -> None:
        from hwbench_mlflow.keystore import load_keyring, signing_key

        self.key, self.keyring = signing_key(), load_keyring()
        self.where = (tracking_uri, experiment)
        self.done: list[tuple[str, EstimateJudgement]] = []
        self._store: Store | None = None

    def store(self) -> Store:
        """The tracking store, opened when it is first needed."""
        if self._store is None:
            from hwbench_mlflow.tracking import Store

            self._store = Store(*self.where)
        return self._store

    def begin(self, name: str, parent: str | None = None) -> str:
        """A run; its id."""
        return self.store().start(name, parent=parent)

    def keep(self, name: str, parent: str | None, found: Estimate) -> None:
        """Sign and log."""
        from hwbench_mlflow.cli.signals import undisturbed
        from hwbench_mlflow.documents import judge_estimate_run, seal_estimate

        files = seal_estimate(found, self.key)
        with undisturbed():
            run_id = self.begin(name, parent)
            self.store().log_estimate(run_id, files, self.key, self.keyring)
        self.done.append((run_id, judge_estimate_run(files, None, self.keyring)))

    def fail(self, name: str, parent: str | None, error: BenchmarkFailed, request: RunRequest) -> None:
        """A run without a number, with the reason."""
        from hwbench_mlflow.cli.session import request_tags
        from hwbench_mlflow.cli.signals import undisturbed
        from hwbench_mlflow.host import describe_host
        from hwbench_mlflow.tracking import failure_of

        with undisturbed():
            run_id = self.store().start(name, parent=parent, tags=request_tags(request))
            self.store().fail(run_id, failure_of(error, error.category, request, describe_host()))

    def end_parent(self, parent: str | None, wanted: int) -> None:
        """End the run that holds a run for each batch size."""
        if parent is not None:
            self.store().end_parent(parent, wanted, wanted - len(self.done))


def _print(done: list[tuple[str, EstimateJudgement]], *, as_json: bool) -> None:
    if as_json:
        from hwbench_mlflow.codec import encode

        click.echo(encode({"schema_version": 1, "estimates": [estimate_document(*one) for one in done]}).decode())
        return
    for run_id, judged in done:
        for line in estimate_lines(run_id, judged):
            click.echo(line)


def estimate_document(run_id: str | None, judged: EstimateJudgement) -> dict[str, object]:
    """One estimate for programs. Nothing in it has a measurement's name."""
    found = judged.estimate
    document: dict[str, object] = {
        "run_id": run_id, "verdict": str(judged.verdict.state), "reasons": list(judged.verdict.reasons),
        "is_simulated": True,
    }  # fmt: skip
    if found is not None:
        document |= {
            "estimate_id": found.estimate_id,
            "simulation_reason": found.simulation_reason,
            "model": found.workload.model,
            "platform": found.platform,
            "device": found.sheet.product,
            "workload": found.workload,
            "estimate_latency_ms": found.latency_ms,
            "estimate_throughput_items_per_s": found.throughput_items_per_s,
            "bound": found.bound,
            "work": found.work,
            "sheet": found.sheet,
            "efficiencies": found.efficiencies,
        }
    return document


def estimate_lines(run_id: str | None, judged: EstimateJudgement) -> list[str]:
    """One estimate for people: the first line says what it is."""
    found = judged.estimate
    if found is None:
        return [f"no readable estimate: {'; '.join(judged.verdict.reasons)}"]
    work, sheet = found.workload, found.sheet
    size = f"{work.sequence_length} tokens" if work.sequence_length is not None else f"{work.image_size} pixels"
    peak, bandwidth = sheet.peak_flops_per_s.value / 1e12, sheet.bandwidth_bytes_per_s.value / 1e9
    fits = (
        "not known: the datasheet has no memory size"
        if sheet.memory_bytes is None
        else f"fits: at least {found.work.needed_bytes / 1e9:.3g} of {sheet.memory_bytes.value / 1e9:.4g} GB"
    )
    assumed = found.efficiencies
    rows = [
        ("latency", f"{_span(found.latency_ms)} ms a batch"),
        ("throughput", f"{_span(found.throughput_items_per_s)} items/s"),
        ("bound", f"mostly {found.bound}; peak {peak:.4g} TFLOP/s, {bandwidth:.5g} GB/s"),
        ("memory", fits),
        (
            "assumed",
            f"efficiency {_span(assumed.compute)} of peak, {_span(assumed.memory)} of bandwidth; "
            f"{_span(assumed.overhead_s, 1e6)} us an operator, {found.work.operators} operators",
        ),
        ("", assumed.basis),
        ("sources", sheet.peak_flops_per_s.source),
        ("verdict", str(judged.verdict.state)),
        *[("", reason) for reason in judged.verdict.reasons],
    ]
    if run_id is not None:
        rows.append(("run", run_id))
    head = f"SIMULATED: {found.simulation_reason}"
    what = f"{work.model} on {sheet.product} ({found.platform}): batch {work.batch_size}, {size}, {work.precision}"
    return [head, what, *[f"  {name:<11} {value}" for name, value in rows]]


def _span(span: Interval, unit: float = 1.0) -> str:
    return f"{span.low * unit:.4g} to {span.high * unit:.4g} (expected {span.expected * unit:.4g})"
