"""From one run's evidence to its rows of the star schema. Pure: bytes and the run's index in, rows out.

Every number and name comes from a file that was judged, none from a tag. Knows no SQL; a row is a dict by column.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from hwbench_mlflow.attest import Checking, Keyring, canonical_json, check
from hwbench_mlflow.codec import decode, encode, sha256
from hwbench_mlflow.decide.replicating import APART, SAME, SOUND
from hwbench_mlflow.documents import FILES as DOCUMENT_FILES
from hwbench_mlflow.errors import CorruptEvidence
from hwbench_mlflow.evidence import (
    ATTESTATION_FILE,
    BINDING_FILE,
    DEVICES_FILE,
    EVIDENCE_FILES,
    FAILURE_FILE,
    RESULT_FILE,
    SAMPLES_FILE,
    Judgement,
    RunIndex,
    judge,
)
from hwbench_mlflow.index import index_of
from hwbench_mlflow.metrics import METRICS
from hwbench_mlflow.model import (
    SCHEMA_VERSION,
    Availability,
    BenchmarkResult,
    Device,
    Failure,
    Finding,
    HostInfo,
    SampleSet,
    Scenario,
    Verdict,
    VerdictState,
)
from hwbench_mlflow.verdict import combine
from hwbench_mlflow.warehouse.documents import judge_row

Row = dict[str, Any]

FILES: dict[str, tuple[str, ...]] = {
    "result": EVIDENCE_FILES,
    "devices": (DEVICES_FILE,),
    "failure": (FAILURE_FILE,),
    **DOCUMENT_FILES,
}
"""What is fetched for each role; for others nothing."""

JUDGED = frozenset({"result", *DOCUMENT_FILES})
"""Roles whose runs have a verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run of hwbench's, as the mirror has it."""

    run_id: str
    role: str
    fingerprint: str
    experiment_id: int
    deleted: bool
    artifact_uri: str
    index: RunIndex


@dataclass(slots=True, kw_only=True)
class Rows:
    """What one run adds to each table. ``latency_samples`` rows hold a whole worker's samples as a list."""

    run: Row
    results: list[Row] = field(default_factory=list)
    models: list[Row] = field(default_factory=list)
    hardware: list[Row] = field(default_factory=list)
    probes: list[Row] = field(default_factory=list)
    samples: list[Row] = field(default_factory=list)
    findings: list[Row] = field(default_factory=list)
    files: list[Row] = field(default_factory=list)
    estimates: list[Row] = field(default_factory=list)
    rooflines: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Devices:
    """``hwbench/devices.json``. Written from a mapping, so its canonical form has the keys in the alphabet's order."""

    host: HostInfo
    platforms: tuple[Availability, ...]
    schema_version: int


class _Version(msgspec.Struct):
    schema_version: int


def judge_name(keyring: Keyring, version: str) -> str:
    """Names what a verdict rests on beside the evidence: hwbench's version and every key's standing."""
    keys = [[k.keyid, k.name, k.host] for k in keyring.keys.values()]
    gone = [[r.keyid, r.revoked_at, r.reason] for r in keyring.revoked.values()]
    return f"{version} {sha256(canonical_json([sorted(keys), sorted(gone)]))}"


def rows_of(
    case: Case, files: Mapping[str, bytes] | str, keyring: Keyring, judged_by: str, checking: Checking = check
) -> Rows:
    """The rows of a run. ``files`` is what was fetched, or why nothing could be. Never raises for bad evidence."""
    if isinstance(files, str):
        return _without(case, judged_by, "unreachable", files)
    if case.role not in FILES:
        return Rows(run=_run(case, judged_by, "none"))
    if case.deleted:
        return Rows(run=_run(case, judged_by, "deleted"))
    rows, digests = _read(case, files, keyring, judged_by, checking)
    rows.files = [
        {"run_id": case.run_id, "name": name, "sha256": digests[name], "size_bytes": len(data), "content": data}
        for name, data in sorted(files.items())
    ]
    return rows


def _read(
    case: Case, files: Mapping[str, bytes], keyring: Keyring, judged_by: str, checking: Checking
) -> tuple[Rows, Mapping[str, str]]:
    """The rows but for the files, and the SHA-256 of each file."""
    main = FILES[case.role][0]
    if case.role == "result":
        try:
            judged = judge(files, case.index, keyring, checking)
            # What was decoded is of this version; only what was not may be of another.
            other = None if judged.result is not None else _other_version(case, files.get(main), judged_by)
            return other or _result(case, files, judged, judged_by), judged.digests
        except (ArithmeticError, LookupError, ValueError) as error:
            # Well-formed, but with numbers (zero threads, no worker) that nothing can be computed from.
            reason = f"{main} cannot be computed with: {type(error).__name__}: {error}"
            return refused(case, judged_by, reason), {name: sha256(data) for name, data in files.items()}
    digests = {name: sha256(data) for name, data in files.items()}
    data = files.get(main)
    rows = _other_version(case, data, judged_by)
    if rows is None and case.role in JUDGED:
        try:
            return _document(case, files, keyring, judged_by), digests
        except (ArithmeticError, LookupError, ValueError) as error:
            reason = f"{main} cannot be computed with: {type(error).__name__}: {error}"
            return refused(case, judged_by, reason), digests
    if rows is None and data is None:
        rows = _without(case, judged_by, "missing", f"hwbench/{main} is missing")
    elif rows is None:
        assert data is not None
        try:
            rows = (_devices if case.role == "devices" else _failure)(case, data, judged_by)
        except CorruptEvidence as error:
            rows = _without(case, judged_by, "corrupt", f"{main}: {error}")
    return rows, digests


def _other_version(case: Case, data: bytes | None, judged_by: str) -> Rows | None:
    version = _version(data)
    if version is None or version == SCHEMA_VERSION:
        return None
    reason = f"{FILES[case.role][0]} has schema version {version}; this hwbench reads version {SCHEMA_VERSION}"
    return Rows(run=_run(case, judged_by, "other_version", None, (reason,)))


def refused(case: Case, judged_by: str, reason: str, files: list[Row] | None = None) -> Rows:
    """A run whose evidence can be read but breaks a rule of the tables."""
    found = Finding(rule="table", effect=VerdictState.CONTRADICTED, reason=reason)
    verdict = combine([found]) if case.role in JUDGED else None
    run = _run(case, judged_by, "refused", verdict, (reason,))
    return Rows(run=run, findings=_findings(case, verdict), files=files or [])


def _without(case: Case, judged_by: str, evidence: str, reason: str) -> Rows:
    reason = reason.encode("utf-8", "backslashreplace").decode()
    found = Finding(rule="files", effect=VerdictState.UNVERIFIED, reason=reason)
    verdict = combine([found]) if case.role in JUDGED else None
    return Rows(run=_run(case, judged_by, evidence, verdict, (reason,)), findings=_findings(case, verdict))


def _run(
    case: Case, judged_by: str, evidence: str, verdict: Verdict | None = None, reasons: tuple[str, ...] = ()
) -> Row:
    return {
        "run_id": case.run_id,
        "role": case.role,
        "evidence": evidence,
        "verdict": verdict and str(verdict.state),
        "reasons": list(verdict.reasons if verdict else reasons),
        "hardware_type": None,
        "model_name": None,
        "failure_precision": None,
        "failure_category": None,
        "failure_reason": None,
        "failure_remedy": None,
        "fingerprint": case.fingerprint,
        "judge": judged_by,
    }


def _findings(case: Case, verdict: Verdict | None) -> list[Row]:
    return [
        {"run_id": case.run_id, "position": n, "rule": f.rule, "effect": str(f.effect), "reason": f.reason}
        for n, f in enumerate(verdict.findings if verdict else ())
    ]


def _version(data: bytes | None) -> int | None:
    try:
        return msgspec.json.decode(data, type=_Version).schema_version if data is not None else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


# --- devices and failures -----------------------------------------------------------------------


def _devices(case: Case, data: bytes, judged_by: str) -> Rows:
    found = decode(data, _Devices)
    probes = [row for a in found.platforms for row in _probes(case.run_id, "devices", a, found.host)]
    return Rows(run=_run(case, judged_by, "read"), probes=probes)


def _failure(case: Case, data: bytes, judged_by: str) -> Rows:
    found = decode(data, Failure)
    run = _run(case, judged_by, "read") | {
        "hardware_type": found.request and str(found.request.platform),
        "model_name": found.request and found.request.workload.model,
        "failure_precision": found.request and str(found.request.workload.precision),
        "failure_category": str(found.category),
        "failure_reason": found.reason,
        "failure_remedy": found.remedy,
    }
    probes = _probes(case.run_id, "failure", found.availability, found.host) if found.availability else []
    return Rows(run=run, probes=probes)


def _probes(run_id: str, source: str, found: Availability, host: HostInfo | None) -> list[Row]:
    checks = {check.device_id: check for check in found.checks}
    devices: tuple[Device | None, ...] = found.devices or (None,)
    rows = []
    for number, device in enumerate(devices):
        check = checks.get(device.id) if device else None
        rows.append(
            {
                "run_id": run_id,
                "probe_id": found.probe_id,
                "hardware_type": str(found.platform),
                "device_index": number,
                "source": source,
                "status": str(found.status),
                "reason": found.reason,
                "remedy": found.remedy,
                "is_verified": _is_verified(found, device),
                "device_id": device and device.id,
                "device_name": device and device.name,
                "vendor": device and device.vendor,
                "device_uuid": device and device.uuid,
                "driver": device and device.driver,
                "emulation_reason": device and device.emulation_reason,
                "check_operation": check and check.operation,
                "check_reason": check and check.reason,
                "max_abs_error": check and check.max_abs_error,
                "probed_at": _instant(found.started_at),
                "duration_ms": found.duration_ns / 1e6,
                "boot_id": found.boot_id,
                "host_id": host and host.host_id,
                "hostname": host and host.hostname,
            }
        )
    return rows


def _is_verified(found: Availability, device: Device | None) -> bool:
    return device is not None and found.status == "AVAILABLE" and found.verified_device(device.id) is not None


# --- estimates and calibrations -----------------------------------------------------------------


def _document(case: Case, files: Mapping[str, bytes], keyring: Keyring, judged_by: str) -> Rows:
    state, findings, row = judge_row(case.role, case.index, files, keyring, experiment_id=case.experiment_id)
    verdict = Verdict(state=VerdictState(state), findings=findings)
    main = DOCUMENT_FILES[case.role][0]
    evidence = "read" if row is not None else "corrupt" if main in files else "missing"
    rows = Rows(run=_run(case, judged_by, evidence, verdict), findings=_findings(case, verdict))
    if row is not None:
        (rows.estimates if case.role == "estimate" else rows.rooflines).append(row)
    return rows


# --- results ------------------------------------------------------------------------------------


def _result(case: Case, files: Mapping[str, bytes], judged: Judgement, judged_by: str) -> Rows:
    result, verdict = judged.result, judged.verdict
    if result is None:
        evidence = "corrupt" if RESULT_FILE in files else "missing"
        return Rows(run=_run(case, judged_by, evidence, verdict), findings=_findings(case, verdict))
    model, hardware = _model(result), _hardware(result)
    row = {
        **_identity(case, result, judged),
        **_what(result),
        **_measured(result, judged),
        **_where(result),
        **_signed(judged),
        "model_id": model["model_id"],
        "hardware_id": hardware["hardware_id"],
    }
    return Rows(
        run=_run(case, judged_by, "read", verdict),
        results=[row],
        models=[model],
        hardware=[hardware],
        probes=_probes(case.run_id, "result", result.availability, result.host),
        samples=_samples(case.run_id, result, judged.samples),
        findings=_findings(case, verdict),
    )


def _digest(row: Row) -> str:
    return _digest_of(tuple(row), tuple(row.values()))


@lru_cache(maxsize=4096)
def _digest_of(names: tuple[str, ...], values: tuple[Any, ...]) -> str:
    """Many runs are of one model on one device. Columns have one type each, so values that are equal are the same."""
    return hashlib.sha256(encode(dict(zip(names, values, strict=True)))).hexdigest()[:32]


def _model(result: BenchmarkResult) -> Row:
    found = result.model
    row = {
        "model_name": found.name,
        "architecture": found.architecture,
        "task": found.task,
        "source": found.source,
        "config_sha256": found.config_sha256,
        "parameter_count": found.parameters,
    }
    return {"model_id": _digest(row), **row}


def _hardware(result: BenchmarkResult) -> Row:
    device = result.device
    row = {
        "hardware_type": str(device.platform),
        "device_id": device.id,
        "device_name": device.name,
        "vendor": device.vendor,
        "device_uuid": device.uuid,
        "pci_id": device.pci_id,
        "memory_bytes": device.memory_bytes,
        "emulation_reason": device.emulation_reason,
        "host_id": result.host.host_id,
    }
    return {"hardware_id": _digest(row), **row}


def _identity(case: Case, result: BenchmarkResult, judged: Judgement) -> Row:
    probe = result.availability
    ended, started = _instant(result.finished_at), _instant(result.started_at)
    if ended is None or started is None:
        raise ValueError(f"{result.started_at!r} to {result.finished_at!r} is no time in UTC")
    return {
        "run_id": case.run_id,
        "result_id": result.result_id,
        "experiment_id": case.experiment_id,
        "run_status": case.index.status,
        "created_at": ended,
        "started_at": started,
        "verdict": str(judged.verdict.state),
        "reasons": list(judged.verdict.reasons),
        "is_simulated": result.is_simulated,
        "simulation_reason": result.simulation_reason,
        "probe_id": probe.probe_id,
        "availability_status": str(probe.status),
        "availability_verified": _is_verified(probe, result.device),
        "probed_at": _instant(probe.started_at),
        "probe_boot_id": probe.boot_id,
    }


def _what(result: BenchmarkResult) -> Row:
    request, work, device = result.request, result.workload, result.device
    facts = [w.facts for w in result.workers]
    threads = {f.threads for f in facts}
    return {
        "platform": str(request.platform),
        "requested_device": request.device,
        "device_id": device.id,
        "device_name": device.name,
        "device_uuid": device.uuid,
        "device_driver": device.driver,
        "observed_device": _joined(f.device.id for f in facts),
        "observed_identity": _joined(w.witness.device_identity for w in result.workers),
        "execution_devices": _joined(name for w in result.workers for name in w.witness.execution_devices),
        "requested_precision": str(request.workload.precision),
        "effective_precision": str(result.effective_precision),
        "batch_size": work.batch_size,
        "sequence_length": work.sequence_length,
        "image_size": work.image_size,
        "audio_seconds": work.audio_seconds,
        "phase": str(work.phase),
        "output_tokens": work.output_tokens,
        "kv_cache": work.kv_cache,
        "scenario": str(work.scenario),
        "latency_bound_ms": work.latency_bound_ms,
        "latency_percentile": work.latency_percentile,
        "query_size": work.query_size,
        "profile": request.profile.name,
        "ranked": request.ranked,
        "compile_mode": str(work.compile_mode),
        "threads": threads.pop() if len(threads) == 1 else None,
        "backend": request.backend,
        "weights": str(result.model.weights_source),
        "weights_sha256": result.model.weights_sha256,
        "weights_seed": work.weights_seed,
    }


def compared(judged: Judgement) -> Row:
    """What a replication is decided by, of a result that is in no warehouse yet."""
    assert judged.result is not None
    every = _what(judged.result) | _measured(judged.result, judged) | _where(judged.result) | _signed(judged)
    every |= {
        "model_id": _model(judged.result)["model_id"],
        "verdict": str(judged.verdict.state),
        "is_simulated": judged.result.is_simulated,
    }
    return {name: every[name] for name in (*SAME, *APART, *SOUND)}


def _joined(values: Any) -> str | None:
    known = dict.fromkeys(v for v in values if v is not None)
    return ", ".join(known) or None


_NO_METRICS: Row = dict.fromkeys(METRICS)
_COUNTS = tuple(name for name, spec in METRICS.items() if spec.unit == "count")


def _measured(result: BenchmarkResult, judged: Judgement) -> Row:
    index = judged.index or index_of(result, judged.digests[RESULT_FILE], judged.verdict)
    metrics = index.metrics
    row: Row = _NO_METRICS | metrics
    for name in _COUNTS:
        if name in metrics:
            row[name] = int(metrics[name])
    energy, calibration, stats = result.energy, result.calibration, result.aggregates
    return row | {
        "energy_method": energy and str(energy.method),
        "energy_scope": energy and energy.scope,
        "calibration_source": calibration and calibration.source,
        "stable": stats.stable,
        "noise_reasons": list(stats.noise_reasons),
        "warnings": list(result.warnings),
    }


_OF_HOST = (
    "host_id", "hostname", "os", "kernel", "machine", "cpu_name", "cpu_count_logical", "boot_id",
    "virtualization", "python", "git_commit", "git_dirty",
)  # fmt: skip
_of_host = attrgetter(*_OF_HOST)


def _where(result: BenchmarkResult) -> Row:
    host = result.host
    return {
        **dict(zip(_OF_HOST, _of_host(host), strict=True)),
        "host_memory_bytes": host.memory_bytes,
        "packages": sorted(host.packages.items()),
        "hwbench_version": result.hwbench_version,
        "result_schema_version": result.schema_version,
    }


def _signed(judged: Judgement) -> Row:
    names = {
        "result_sha256": RESULT_FILE,
        "samples_sha256": SAMPLES_FILE,
        "attestation_sha256": ATTESTATION_FILE,
        "binding_sha256": BINDING_FILE,
    }
    signature = judged.signature
    return {
        "signature_state": signature and str(signature.state),
        "key_id": signature and signature.keyid,
        "key_name": signature and signature.key_name,
        **{column: judged.digests.get(name) for column, name in names.items()},
    }


def _samples(run_id: str, result: BenchmarkResult, samples: SampleSet | None) -> list[Row]:
    import numpy as np

    runs = {w.index: w.runs_per_sample for w in result.workers}
    rows = []
    for worker in samples.workers if samples else ():
        phases = (("warmup", worker.warmup_ns, 1), ("timed", worker.samples_ns, runs.get(worker.index)))
        for phase, values, per_sample in phases:
            rows.append(
                {
                    "run_id": run_id,
                    "worker": worker.index,
                    "phase": phase,
                    "samples_ns": np.array(values, dtype=np.int64),  # OverflowError past 64 bits
                    "runs_per_sample": per_sample,
                    # A query of several samples is one latency, however it was run.
                    "is_latency": per_sample == 1 or result.workload.scenario is Scenario.MULTISTREAM,
                    **{
                        name: (np.array(values[: len(worker.samples_ns)], dtype=np.int64) if values else ())
                        if phase == "timed"
                        else None
                        for name, values in (
                            ("arrivals_ns", worker.arrivals_ns),
                            ("starts_ns", worker.starts_ns),
                            ("ends_ns", worker.ends_ns),
                        )
                    },
                }
            )
    return rows


def _instant(text: str) -> datetime | None:
    """Naive UTC; None for what is not an instant."""
    try:
        value = datetime.fromisoformat(text)
        if value.tzinfo is UTC:
            return value.replace(tzinfo=None)
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
