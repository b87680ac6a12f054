"""One calibration, from a platform to a :class:`~hwbench_mlflow.roofline.Roofline`.

Owns the order of things: probe in a fresh worker, lock the device, let the worker time products and streams, and keep
time around it. Knows no tracking store.
"""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime

from hwbench_mlflow import __version__, protocol
from hwbench_mlflow.host import describe_host, load_average
from hwbench_mlflow.model import SCHEMA_VERSION, Platform, Precision
from hwbench_mlflow.roofline import Roofline
from hwbench_mlflow.runner import PROBE_TIMEOUT_S, STEP_TIMEOUT_S, Progress, choose_device, lock_name
from hwbench_mlflow.supervise import WorkerProcess, device_lock

SECONDS = 3.0
"""For each precision and each streaming kernel."""


def calibrate(
    platform: Platform,
    backend: str,
    *,
    device: str | None = None,
    precisions: tuple[Precision, ...] = (Precision.FP32, Precision.BF16),
    threads: int | None = None,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> Roofline:
    """Measure a device's roofline.

    Raises HardwareUnavailable with the probe's answer, BenchmarkFailed with a category.
    """
    say = progress or Progress()
    started_at, load_before = _now(), load_average()
    worker = WorkerProcess()
    try:
        say.stage(f"probing {platform}")
        worker.say(protocol.Calibrate(backend=backend, precisions=precisions, seconds=seconds, threads=threads))
        probed, _ = worker.expect(protocol.Probed, PROBE_TIMEOUT_S, f"probing {platform}")
        chosen = choose_device(probed.availability, device)
        with device_lock(lock_name(chosen), say.warn):
            expected = seconds * (len(precisions) + 2)
            say.stage(f"matrix products and streams on {chosen.id}", expected)
            begin = time.perf_counter_ns()
            worker.say(protocol.CalibrateOn(device_id=chosen.id))
            found, _ = worker.expect(protocol.Calibrated, STEP_TIMEOUT_S + 3 * expected, "calibrating")
            parent_ns = time.perf_counter_ns() - begin
            worker.wait()
    finally:
        worker.close()
    return Roofline(
        schema_version=SCHEMA_VERSION,
        roofline_id=uuid.uuid4().hex,
        hwbench_version=__version__,
        started_at=started_at,
        finished_at=_now(),
        availability=probed.availability,
        device=found.device,
        method=found.method,
        products=found.products,
        streams=found.streams,
        skipped=found.skipped,
        cache_bytes=found.cache_bytes,
        threads=found.threads,
        worker_ns=found.worker_ns,
        parent_ns=parent_ns,
        load_before=load_before,
        load_after=load_average(),
        host=describe_host(),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()
