"""From the document of an estimate or of a calibration to its row. Pure: bytes and the run's index in, rows out.

As :mod:`.results` does for results; the tables are apart, and so are the columns' names. Knows no SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hwbench_mlflow.attest import Keyring, SignatureCheck
from hwbench_mlflow.codec import sha256
from hwbench_mlflow.documents import ESTIMATE_FILE, ROOFLINE_FILE, judge_estimate_run, judge_roofline_run
from hwbench_mlflow.estimate import ESTIMATE_ROLE, Estimate, index_of_estimate
from hwbench_mlflow.evidence import RunIndex
from hwbench_mlflow.metrics import ESTIMATE_METRICS, ROOFLINE_METRICS
from hwbench_mlflow.model import Finding, VerdictState
from hwbench_mlflow.roofline import ROOFLINE_ROLE, Roofline, index_of_roofline

Row = dict[str, Any]

TABLES = {ESTIMATE_ROLE: "estimates", ROOFLINE_ROLE: "rooflines"}
"""Role of a run -> its table."""

Judged = tuple[str, tuple[Finding, ...], Row | None]
"""The verdict in words, why, and the row; None where the document cannot be read."""


def judge_row(
    role: str, index: RunIndex, files: Mapping[str, bytes], keyring: Keyring, *, experiment_id: int
) -> Judged:
    """Judge a run's document and make its row. Raises ValueError for one whose times are none."""
    if role == ESTIMATE_ROLE:
        judged = judge_estimate_run(files, index, keyring)
        findings = tuple(
            Finding(rule=f.rule, effect=VerdictState(f.effect.value), reason=f.reason) for f in judged.verdict.findings
        )
        state, found, signature = str(judged.verdict.state), judged.estimate, judged.signature
        row = None if found is None else _estimate(found, sha256(files[ESTIMATE_FILE]))
    else:
        calibrated = judge_roofline_run(files, index, keyring)
        findings, signature = calibrated.verdict.findings, calibrated.signature
        state, roofline = str(calibrated.verdict.state), calibrated.roofline
        row = None if roofline is None else _roofline(roofline, sha256(files[ROOFLINE_FILE]), calibrated.verdict.state)
    if row is None:
        return state, findings, None
    said = {
        "run_id": index.run_id,
        "experiment_id": experiment_id,
        "run_status": index.status,
        "verdict": state,
        "reasons": [f"{f.rule}: {f.reason}" for f in findings],
        **_signed(signature),
    }
    return state, findings, {**said, **row}


def _signed(signature: SignatureCheck | None) -> Row:
    return {
        "signature_state": signature and str(signature.state),
        "key_id": signature and signature.keyid,
        "key_name": signature and signature.key_name,
    }


def _estimate(found: Estimate, digest: str) -> Row:
    work, sheet, model = found.work, found.sheet, found.model
    metrics = index_of_estimate(found, digest).metrics
    return {
        "estimate_id": found.estimate_id,
        "estimated_at": _instant(found.created_at),
        "is_simulated": found.is_simulated,
        "simulation_reason": found.simulation_reason,
        "platform": str(found.platform),
        "device_product": sheet.product,
        "device_vendor": sheet.vendor,
        "sheet_kind": str(sheet.kind),
        "sheet_name": sheet.name,
        "sheet_sha256": sheet.sha256,
        "model_name": model.name,
        "architecture": model.architecture,
        "task": model.task,
        "source": model.source,
        "config_sha256": model.config_sha256,
        "parameter_count": work.parameters,
        "batch_size": found.workload.batch_size,
        "sequence_length": found.workload.sequence_length,
        "image_size": found.workload.image_size,
        "precision": str(found.workload.precision),
        "work_flops": float(work.flops),
        "work_bytes": float(work.min_bytes),
        "work_operators": work.operators,
        "needed_bytes": float(work.needed_bytes),
        "peak_flops_per_s": sheet.peak_flops_per_s.value,
        "peak_source": sheet.peak_flops_per_s.source,
        "bandwidth_bytes_per_s": sheet.bandwidth_bytes_per_s.value,
        "bandwidth_source": sheet.bandwidth_bytes_per_s.source,
        "device_memory_bytes": sheet.memory_bytes and sheet.memory_bytes.value,
        "efficiency_basis": found.efficiencies.basis,
        "bound": str(found.bound),
        **{name: metrics[name] for name in ESTIMATE_METRICS},
        "hostname": found.host.hostname,
        "hwbench_version": found.hwbench_version,
        "document_sha256": digest,
    }


def _roofline(found: Roofline, digest: str, state: VerdictState) -> Row:
    # Of absurd timings nothing can be computed; their row says so by its verdict and has no number.
    metrics = index_of_roofline(found, digest, state).metrics if state is not VerdictState.CONTRADICTED else {}
    device = found.device
    return {
        "roofline_id": found.roofline_id,
        "calibrated_at": _instant(found.finished_at),
        "is_simulated": device.emulation_reason is not None,
        "platform": str(device.platform),
        "device_id": device.id,
        "device_name": device.name,
        "device_uuid": device.uuid,
        "device_vendor": device.vendor,
        "device_memory_bytes": device.memory_bytes,
        "threads": found.threads,
        "method": found.method,
        **{name: metrics.get(name) for name in ROOFLINE_METRICS},
        "load_before": found.load_before,
        "load_after": found.load_after,
        "host_id": found.host.host_id,
        "hostname": found.host.hostname,
        "boot_id": found.host.boot_id,
        "hwbench_version": found.hwbench_version,
        "document_sha256": digest,
    }


def _instant(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(f"{text!r} is no time in UTC")
    return value.astimezone(UTC).replace(tzinfo=None)
