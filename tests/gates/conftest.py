"""One synced warehouse for all tests of the gate: honest ones, a simulated one, a failure, one with a tag lost."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import duckdb
import pytest

from hwbench_mlflow.keystore import load_keyring
from hwbench_mlflow.model import SCHEMA_VERSION, BenchmarkResult, Failure, FailureCategory, Platform, SampleSet
from hwbench_mlflow.warehouse.readers.sqlite import SqliteReader
from hwbench_mlflow.warehouse.star import Star
from hwbench_mlflow.warehouse.sync import sync
from tests.documents import estimate, log_estimate, log_roofline, roofline
from tests.honest import honest
from tests.warehouse.conftest import empty_store  # noqa: F401 -- a fixture
from tests.warehouse.results import Lab, distinct, make_lab

replace = dataclasses.replace


def emulated(result: BenchmarkResult, samples: SampleSet) -> tuple[BenchmarkResult, SampleSet]:
    """The same on a device that says that it is software."""
    device = replace(result.device, emulation_reason="SwiftShader")
    worker = result.workers[0]
    return replace(
        result, device=device, is_simulated=True, simulation_reason="SwiftShader",
        availability=replace(result.availability, devices=(device,)),
        workers=(replace(worker, facts=replace(worker.facts, device=device)),),
    ), samples  # fmt: skip


def edit(path: Path, sql: str, *values: object) -> None:
    """What anyone can do to a DuckDB file."""
    with duckdb.connect(str(path)) as connection:
        connection.execute(sql, list(values))


@pytest.fixture(scope="session")
def synced(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Lab, Path]:  # noqa: F811
    """A lab and its warehouse. ``lab.runs`` are four verified runs; tests copy the warehouse, and never touch this."""
    folder = tmp_path_factory.mktemp("gates")
    store = Path(shutil.copyfile(empty_store, folder / "mlflow.db"))
    lab = make_lab(store, folder / "home", folder / "artifacts")
    lab.runs = [lab.add(seed) for seed in range(4)]
    lab.add(10, emulated)
    lab.client.delete_tag(lab.add(11), "is_simulated")
    absent = replace(distinct(0, Platform.CUDA)[0].request)
    found = replace(honest(Platform.CUDA)[0].availability, probe_id="ee" * 16, devices=(), checks=())
    run = lab.log.start("failed")
    lab.log.fail(
        run,
        Failure(
            schema_version=SCHEMA_VERSION, category=FailureCategory.NO_DRIVER,
            reason="no driver <script>alert(1)</script>",
            remedy=None, request=absent, availability=found, host=honest()[0].host,
        ),
    )  # fmt: skip
    db = folder / "w.duckdb"
    sync(SqliteReader(store), db, judge=Star(load_keyring(lab.home)))
    return lab, db


@pytest.fixture(scope="session")
def documented(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Lab, Path]:  # noqa: F811
    """A lab with one honest result, one estimate and one calibration, and its warehouse. Tests copy, and never touch
    this."""
    folder = tmp_path_factory.mktemp("documented")
    store = Path(shutil.copyfile(empty_store, folder / "mlflow.db"))
    lab = make_lab(store, folder / "home", folder / "artifacts")
    lab.runs = [lab.add(0), log_estimate(lab, estimate()), log_roofline(lab, roofline())]
    db = folder / "w.duckdb"
    sync(SqliteReader(store), db, judge=Star(load_keyring(lab.home)))
    return lab, db


@pytest.fixture
def lab(synced: tuple[Lab, Path]) -> Lab:
    """The lab of the warehouse; its store must not be written to."""
    return synced[0]


@pytest.fixture
def db(synced: tuple[Lab, Path], tmp_path: Path) -> Path:
    """The test's own copy of the warehouse."""
    return Path(shutil.copyfile(synced[1], tmp_path / "hwbench.duckdb"))
