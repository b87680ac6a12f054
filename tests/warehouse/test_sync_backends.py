"""Every trap of MLflow on PostgreSQL, on MariaDB and over a real `mlflow server`, as on SQLite."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
from mlflow import MlflowClient

from hwbench_mlflow.warehouse.readers import Mode, Reader
from hwbench_mlflow.warehouse.readers.choose import open_reader
from hwbench_mlflow.warehouse.sync import SyncOptions, sync, verify_store
from tests.warehouse import scenarios
from tests.warehouse.conftest import collect_garbage, dump, events
from tests.warehouse.scenarios import Bench, RandomOperations, crash, fill
from tests.warehouse.servers import Cluster, Maria, Tracking

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")]

OPERATIONS = int(os.environ.get("HWBENCH_TEST_OPERATIONS", "50"))
"""Random operations a store; HWBENCH_TEST_OPERATIONS=1000 is the full number."""
EVERY_KILL = "HWBENCH_TEST_OPERATIONS" in os.environ
"""Then kill at every step too; otherwise at the read, inside and after the first batch, and inside the end."""


@dataclass
class Place:
    """One kind of store: ``uri`` is read; ``database`` is what `mlflow gc` is pointed at."""

    kind: str
    uri: str
    database: str

    def reader(self) -> Reader:
        return open_reader(self.uri)

    def bench(self) -> Bench:
        client = MlflowClient(self.uri)
        experiment = client.create_experiment(f"e {time.time_ns()}")
        return Bench(client, experiment, fill(client, experiment), lambda: collect_garbage(self.database, self.uri))


@pytest.fixture(scope="session")
def on_postgres(cluster: Cluster) -> Place:
    cluster.execute("postgres", "CREATE DATABASE mlflow")
    return Place("postgresql", cluster.uri("mlflow"), cluster.uri("mlflow"))


@pytest.fixture(scope="session")
def on_maria(maria: Maria) -> Place:
    maria.execute("CREATE DATABASE mlflow CHARACTER SET utf8mb4")
    return Place("mysql", maria.uri("mlflow"), maria.uri("mlflow"))


@pytest.fixture(params=["postgresql", "mysql", "rest"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param != "rest":
        found: Place = request.getfixturevalue({"postgresql": "on_postgres", "mysql": "on_maria"}[request.param])
        return found
    server: Tracking = request.getfixturevalue("tracking")
    return Place("rest", server.url, f"sqlite:///{server.store}")


def equals_fresh(place: Place, db: Path) -> None:
    fresh = db.with_name("fresh.duckdb")
    fresh.unlink(missing_ok=True)
    sync(place.reader(), fresh)
    assert dump(db) == dump(fresh)


@pytest.mark.parametrize("scenario", scenarios.SCENARIOS, ids=lambda s: s.__name__)
def test_the_next_sync_catches(scenario: Callable[[Bench], set[str]], place: Place, tmp_path: Path) -> None:
    bench, db = place.bench(), tmp_path / "w.duckdb"
    assert sync(place.reader(), db).reader == place.kind
    before = len(events(db))
    expected = scenario(bench)
    summary = sync(place.reader(), db)
    assert not summary.up_to_date
    assert {e[0] for e in events(db)[before:]} == expected
    assert verify_store(place.reader(), db) == []
    assert sync(place.reader(), db).up_to_date


def test_a_second_sync_writes_no_row(place: Place, tmp_path: Path) -> None:
    place.bench()
    db, kept = tmp_path / "w.duckdb", ("mlflow.run_events", "mlflow.sync_log")
    sync(place.reader(), db)
    before = dump(db), dump(db, kept)
    assert sync(place.reader(), db).up_to_date
    assert (dump(db), dump(db, kept)) == before


def test_one_experiment_leaves_the_others_alone(place: Place, tmp_path: Path) -> None:
    bench, other, db = place.bench(), place.bench(), tmp_path / "w.duckdb"
    sync(place.reader(), db)
    for b in (bench, other):
        b.client.set_tag(b.run, "u", "edited")
    name = bench.client.get_experiment(bench.experiment).name
    summary = sync(place.reader(), db, SyncOptions(experiments=(name,)))
    assert (summary.runs_changed, summary.runs_removed) == (1, 0)
    assert sync(place.reader(), db).runs_changed == 1
    equals_fresh(place, db)


def test_fast_misses_what_it_says_and_default_catches_it(place: Place, tmp_path: Path) -> None:
    bench, db = place.bench(), tmp_path / "w.duckdb"
    sync(place.reader(), db)
    trap = scenarios.late_point_at_a_lower_step if place.kind == "rest" else scenarios.tag_edited_after_the_end
    trap(bench)
    assert sync(place.reader(), db, SyncOptions(mode=Mode.FAST)).up_to_date
    assert sync(place.reader(), db).runs_changed == 1
    equals_fresh(place, db)


def test_a_server_gives_exactly_what_its_database_holds(tracking: Tracking, tmp_path: Path) -> None:
    place = Place("rest", tracking.url, f"sqlite:///{tracking.store}")
    bench = place.bench()
    for trap in (scenarios.not_a_number_and_infinities, scenarios.hostile_text, scenarios.late_point_at_a_lower_step):
        trap(bench)
    bench.client.log_batch(
        bench.run, metrics=[scenarios.Metric("tie", v, 7, 0) for v in (0.0, float("nan"), 0.1 + 0.2)]
    )
    bench.client.set_tag(bench.run, "nul", "a\0b")
    bench.client.delete_run(bench.runs[1])
    over, direct = tmp_path / "rest.duckdb", tmp_path / "sql.duckdb"
    sync(place.reader(), over)
    sync(open_reader(place.database), direct)
    with duckdb.connect(str(direct)) as connection:  # what the API does not tell
        connection.execute(
            "UPDATE mlflow.runs SET source_type = NULL, source_name = NULL, entry_point_name = NULL, "
            "source_version = NULL, deleted_time = NULL"
        )
    tables = tuple(
        f"mlflow.{t}"
        for t in ("experiments", "experiment_tags", "runs", "tags", "params", "latest_metrics", "metric_history")
    )
    assert dump(over, tables) == dump(direct, tables)


def test_random_operations_end_equal_to_a_fresh_sync(place: Place, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    operations = RandomOperations(
        MlflowClient(place.uri), lambda: collect_garbage(place.database, place.uri), seed=OPERATIONS
    )
    for _ in range(max(OPERATIONS // 25, 1)):
        operations.make(25)
        sync(place.reader(), db, SyncOptions(batch_runs=operations.draw.choice([1, 7, 10_000])))
        equals_fresh(place, db)


def test_killed_at_any_step_the_next_sync_makes_it_whole(place: Place, tmp_path: Path) -> None:
    bench, base, db = place.bench(), tmp_path / "base.duckdb", tmp_path / "w.duckdb"
    sync(place.reader(), base)
    assert bench.gc is not None
    bench.client.delete_run(bench.runs[3])
    bench.gc()
    for run in bench.runs[:3]:
        bench.client.set_tag(run, "u", "edited")
    fill(bench.client, bench.experiment, 2)
    kills = []
    for at in range(1, 30) if EVERY_KILL else (1, 2, 3, 8):
        shutil.copyfile(base, db)
        Path(f"{db}.wal").unlink(missing_ok=True)
        if crash(place.uri, db, at) == 0:
            break
        kills.append(at)
        sync(place.reader(), db, SyncOptions(batch_runs=2))
        equals_fresh(place, db)
    assert len(kills) >= (8 if EVERY_KILL else 4), "each was a place to die"
