"""Estimates and calibrations for tests, built by hand, and what a store says of runs that hold them.

Their counts and timings were never taken; each host is called ``made-by-a-test``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from hwbench_mlflow.attest import SigningKey
from hwbench_mlflow.codec import sha256
from hwbench_mlflow.datasheet import load
from hwbench_mlflow.documents import (
    ESTIMATE_FILE,
    ROOFLINE_FILE,
    bind_document,
    judge_roofline_run,
    seal_estimate,
    seal_roofline,
)
from hwbench_mlflow.estimate import ESTIMATE_ROLE, Estimate, EstimatedModel, Work, index_of_estimate
from hwbench_mlflow.estimator import made
from hwbench_mlflow.evidence import BINDING_FILE, RunIndex
from hwbench_mlflow.keystore import load_keyring
from hwbench_mlflow.model import SCHEMA_VERSION, Device, Platform, Precision, Workload
from hwbench_mlflow.roofline import ROOFLINE_ROLE, Products, Roofline, Stream, index_of_roofline, judge_roofline
from hwbench_mlflow.warehouse.results import JUDGED
from tests.honest import honest
from tests.warehouse.results import Lab, write

replace = dataclasses.replace
Logged = tuple[dict[str, bytes], RunIndex]
MB = 1_000_000
assert {ESTIMATE_ROLE, ROOFLINE_ROLE} <= JUDGED

WORK = Work(
    parameters=110_000_000, flops=22_000_000_000, min_bytes=220_000_000, weight_bytes=220_000_000, operators=180,
    activation_bytes=1_500_000,
)  # fmt: skip


def estimate(seed: int = 0, *, sheet: str = "h100-sxm", precision: Precision = Precision.BF16) -> Estimate:
    """A sound estimate of a model like BERT; its number is its own."""
    workload = Workload(model="bert", sequence_length=128, precision=precision)
    model = EstimatedModel(
        name="bert", architecture="BertModel", task="feature-extraction", source="test", config_sha256="0" * 64
    )
    found = made(Platform.CUDA, workload, model, WORK, load(sheet).use(Platform.CUDA, precision))
    return replace(found, estimate_id=sha256(f"estimate {seed}".encode())[:32], host=honest()[0].host)


def roofline(seed: int = 0, device: Device | None = None) -> Roofline:
    """A sound calibration of the honest result's device: 0.1 TFLOP/s in fp32, 10 GB/s."""
    result, _ = honest()
    device = device or result.device
    probe = replace(result.availability, devices=(device,), probe_id="ab" * 16)
    return Roofline(
        schema_version=SCHEMA_VERSION,
        roofline_id=sha256(f"roofline {seed}".encode())[:32],
        hwbench_version="0.1.0",
        started_at=result.started_at,
        finished_at=result.finished_at,
        availability=probe,
        device=device,
        method="made by a test",
        products=(
            Products(precision=Precision.FP32, dims=(1000, 1000, 1000), took_ns=(20 * MB, 25 * MB, 30 * MB)),
            Products(precision=Precision.BF16, dims=(1000, 1000), took_ns=(10 * MB, 11 * MB)),
        ),
        streams=(
            Stream(kernel="copy", array_bytes=100 * MB, took_ns=(20 * MB, *[25 * MB] * 9)),
            Stream(kernel="triad", array_bytes=100 * MB, took_ns=(40 * MB, *[50 * MB] * 9)),
        ),
        skipped={"fp16": "not there"},
        cache_bytes=32 * MB,
        threads=2,
        worker_ns=2_000 * MB,
        parent_ns=2_100 * MB,
        load_before=0.1,
        load_after=0.2,
        host=result.host,
    )


def claimed_estimate(found: Estimate, run_id: str, key: SigningKey) -> Logged:
    """What hwbench would log of that estimate: signed, bound, indexed to the letter."""
    files = seal_estimate(found, key)
    files[BINDING_FILE] = bind_document(files, ESTIMATE_ROLE, run_id, found.created_at, key)
    return files, _run(run_id, index_of_estimate(found, sha256(files[ESTIMATE_FILE])))


def claimed_roofline(found: Roofline, run_id: str, key: SigningKey) -> Logged:
    """What hwbench would log of that calibration."""
    files = seal_roofline(found, key)
    files[BINDING_FILE] = bind_document(files, ROOFLINE_ROLE, run_id, found.finished_at, key)
    state = judge_roofline(found).state
    return files, _run(run_id, index_of_roofline(found, sha256(files[ROOFLINE_FILE]), state))


def _run(run_id: str, index: Any) -> RunIndex:
    return RunIndex(
        run_id=run_id, status="FINISHED", params=index.params, tags=index.tags,
        metrics={name: [value] for name, value in index.metrics.items()},
    )  # fmt: skip


def log_estimate(lab: Lab, found: Estimate) -> str:
    """A finished run with that estimate, logged as ``hwbench run --simulate`` does; its id."""
    run_id = lab.log.start("SIMULATED")
    lab.log.log_estimate(run_id, seal_estimate(found, lab.key), lab.key, load_keyring(lab.home))
    return run_id


def log_roofline(lab: Lab, found: Roofline) -> str:
    """A finished run with that calibration, logged as ``hwbench roofline`` does; its id."""
    run_id = lab.log.start("roofline")
    files = seal_roofline(found, lab.key)
    assert judge_roofline_run(files, None, load_keyring(lab.home)).verdict.reasons == ()
    lab.log.log_roofline(run_id, files, lab.key, load_keyring(lab.home))
    return run_id


def put(lab: Lab, run_id: str, name: str, data: bytes) -> None:
    """Another file among a run's evidence."""
    write(lab.folder(run_id) / name, data)
