"""One estimate, from a workload and a sheet of figures to an :class:`~hwbench_mlflow.estimate.Estimate`.

The only place that makes one, and it is reached only where a user names a datasheet: no probe, no failure and no absent
device leads here. Nothing is measured and no weights are loaded.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hwbench_mlflow import __version__
from hwbench_mlflow.errors import BenchmarkFailed, UsageError
from hwbench_mlflow.estimate import (
    Estimate,
    EstimatedModel,
    Figure,
    SheetKind,
    SheetUse,
    Work,
    bound,
    efficiencies,
    latency_ms,
    reason_of,
    throughput_items_per_s,
)
from hwbench_mlflow.host import describe_host
from hwbench_mlflow.model import SCHEMA_VERSION, FailureCategory, Platform, Precision, Workload
from hwbench_mlflow.workloads.estimating import count_work


def estimate(platform: Platform, workload: Workload, sheet: SheetUse) -> Estimate:
    """Count the model and put it under the roofline.

    Raises UsageError for a workload that cannot be right, BenchmarkFailed (``model_too_large``) for a model that
    certainly does not fit into the device's memory.
    """
    resolved, model, work = count_work(workload)
    refuse_too_large(workload.model, work, sheet)
    return made(platform, resolved, model, work, sheet)


def refuse_too_large(name: str, work: Work, sheet: SheetUse) -> None:
    """Raise BenchmarkFailed where even a lower bound of the memory needed is more than there is."""
    if sheet.memory_bytes is not None and work.needed_bytes > sheet.memory_bytes.value:
        raise BenchmarkFailed(
            f"{name} does not fit: it needs at least {work.needed_bytes / 1e9:.3g} GB in {sheet.precision}, "
            f"{sheet.product} has {sheet.memory_bytes.value / 1e9:.3g} GB",
            FailureCategory.MODEL_TOO_LARGE,
            remedy="Take a smaller model, batch or precision, or a device with more memory",
        )


def made(platform: Platform, workload: Workload, model: EstimatedModel, work: Work, sheet: SheetUse) -> Estimate:
    """The document, with every number that follows from the figures."""
    assumed = efficiencies(sheet.kind, platform)
    latency = latency_ms(work, sheet, assumed)
    return Estimate(
        schema_version=SCHEMA_VERSION,
        estimate_id=uuid.uuid4().hex,
        hwbench_version=__version__,
        created_at=datetime.now(UTC).isoformat(),
        platform=platform,
        model=model,
        workload=workload,
        work=work,
        sheet=sheet,
        efficiencies=assumed,
        latency_ms=latency,
        throughput_items_per_s=throughput_items_per_s(workload.batch_size, latency),
        bound=bound(work, sheet, assumed),
        is_simulated=True,
        simulation_reason=reason_of(sheet),
        host=describe_host(),
    )


def calibrated_sheet(row: Mapping[str, Any], precision: Precision) -> SheetUse:
    """A published calibration (a row of ``rooflines``) as the datasheet of its device.

    Raises UsageError for a precision that it did not measure.
    """
    peak, bandwidth = row[f"peak_tflops_{precision}"], row["memory_bandwidth_gb_per_s"]
    if peak is None or bandwidth is None:
        raise UsageError(f"the calibration of {row['device_name']} has no peak in {precision}")
    source = f"hwbench roofline {row['roofline_id']} of {row['calibrated_at']} UTC: {row['method']}"
    memory = row["device_memory_bytes"]
    return SheetUse(
        kind=SheetKind.MEASURED,
        name=f"roofline-{row['roofline_id'][:8]}",
        product=row["device_name"],
        vendor=row["device_vendor"] or "unknown",
        sha256=row["document_sha256"],
        precision=precision,
        peak_flops_per_s=Figure(value=peak * 1e12, source=source),
        bandwidth_bytes_per_s=Figure(value=bandwidth * 1e9, source=source),
        memory_bytes=Figure(value=float(memory), source=source) if memory is not None else None,
    )
