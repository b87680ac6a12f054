"""The mirror of a SQLite store: every trap of MLflow, crashes, locks, bad input."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from mlflow import MlflowClient

from hwbench_mlflow.errors import StoreError, UsageError
from hwbench_mlflow.warehouse.database import explain
from hwbench_mlflow.warehouse.readers import Mode
from hwbench_mlflow.warehouse.readers.sqlite import SqliteReader
from hwbench_mlflow.warehouse.sync import SyncOptions, sync, verify_store
from tests.warehouse import scenarios
from tests.warehouse.conftest import dump, events, gc
from tests.warehouse.scenarios import Bench, RandomOperations, crash, fill

# MLflow's own use of SQLAlchemy 2.1, not ours.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, str, list[str]]:
    path = tmp_path_factory.mktemp("filled") / "mlflow.db"
    shutil.copyfile(empty_store, path)
    client = MlflowClient(f"sqlite:///{path}")
    experiment = client.create_experiment("e")
    return path, experiment, fill(client, experiment)


@pytest.fixture
def bench(store: Path, filled: tuple[Path, str, list[str]]) -> Bench:
    path, experiment, runs = filled
    shutil.copyfile(path, store)
    return Bench(MlflowClient(f"sqlite:///{store}"), experiment, list(runs), lambda: gc(store))


def equals_fresh(store: Path, db: Path) -> None:
    """The mirror equals a first full sync of the store as it is now."""
    fresh = db.with_name("fresh.duckdb")
    fresh.unlink(missing_ok=True)
    sync(SqliteReader(store), fresh)
    assert dump(db) == dump(fresh)


@pytest.mark.parametrize("scenario", scenarios.SCENARIOS, ids=lambda s: s.__name__)
def test_the_next_sync_catches(
    scenario: Callable[[Bench], set[str]], bench: Bench, store: Path, tmp_path: Path
) -> None:
    db = tmp_path / "w.duckdb"
    sync(SqliteReader(store), db)
    before = len(events(db))
    expected = scenario(bench)
    summary = sync(SqliteReader(store), db)
    assert not summary.up_to_date
    assert {e[0] for e in events(db)[before:]} == expected
    equals_fresh(store, db)
    assert sync(SqliteReader(store), db, SyncOptions(mode=Mode.FULL)).up_to_date


def test_a_restored_run_loses_its_deleted_time(bench: Bench, store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    bench.client.delete_run(bench.run)
    sync(SqliteReader(store), db)
    bench.client.restore_run(bench.run)
    sync(SqliteReader(store), db)
    assert {e[1] for e in events(db) if e[0] == "run_changed"} == {"lifecycle_stage", "deleted_time"}
    equals_fresh(store, db)


def test_an_experiment_id_used_again_after_gc_is_another_experiment(store: Path, tmp_path: Path) -> None:
    client, db = MlflowClient(f"sqlite:///{store}"), tmp_path / "w.duckdb"
    first = client.create_experiment("first")
    fill(client, first)
    sync(SqliteReader(store), db)
    client.delete_experiment(first)
    gc(store)
    second = client.create_experiment("second")
    assert second == first, "MLflow no longer re-uses experiment ids: this trap is gone"
    fill(client, second)
    summary = sync(SqliteReader(store), db)
    assert (summary.runs_added, summary.runs_removed) == (4, 4)
    equals_fresh(store, db)


def test_rows_that_take_the_place_of_collected_ones_are_seen(bench: Bench, store: Path, tmp_path: Path) -> None:
    # SQLite gives the highest rowids out again: a run like the one collected lands on exactly its rowids.
    db = tmp_path / "w.duckdb"
    sync(SqliteReader(store), db)
    bench.client.delete_run(bench.runs[-1])
    gc(store)
    fill(bench.client, bench.experiment, 1)
    bench.client.log_param(bench.runs[0], "late", "1")
    summary = sync(SqliteReader(store), db)
    assert (summary.runs_added, summary.runs_changed, summary.runs_removed) == (1, 1, 1)
    equals_fresh(store, db)


def test_vacuum_after_gc_is_no_change(bench: Bench, store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    bench.client.delete_run(bench.run)
    gc(store)
    sync(SqliteReader(store), db)
    with sqlite3.connect(store) as connection:
        connection.execute("VACUUM")
    connection.close()
    assert sync(SqliteReader(store), db).up_to_date
    bench.client.log_metric(bench.runs[1], "late_ms", 1.0)
    assert sync(SqliteReader(store), db).runs_changed == 1
    equals_fresh(store, db)


def test_nul_in_a_tag_is_mirrored_exactly(bench: Bench, store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    bench.client.set_tag(bench.run, "nul", "a\0b")
    sync(SqliteReader(store), db)
    with duckdb.connect(str(db), read_only=True) as connection:
        assert connection.execute("SELECT value FROM mlflow.tags WHERE key = 'nul'").fetchall() == [("a\0b",)]


def test_nan_is_nan_and_infinity_is_what_the_store_keeps(bench: Bench, store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    scenarios.not_a_number_and_infinities(bench)
    sync(SqliteReader(store), db)
    with duckdb.connect(str(db), read_only=True) as connection:
        rows = connection.execute(
            "SELECT key, isnan(value), value, is_nan FROM mlflow.metric_history WHERE key IN ('n', 'i', 'j') ORDER BY key"  # noqa: E501
        ).fetchall()
    assert [(r[0], r[1], r[3]) for r in rows] == [("i", False, False), ("j", False, False), ("n", True, True)]
    assert rows[0][2] == pytest.approx(1.7976931348623157e308)


def test_a_second_sync_writes_no_byte(bench: Bench, store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    sync(SqliteReader(store), db)
    before = db.read_bytes()
    assert sync(SqliteReader(store), db).up_to_date
    assert db.read_bytes() == before


def test_a_clock_that_is_ahead_does_not_make_an_unchanged_store_be_read(
    bench: Bench, store: Path, tmp_path: Path
) -> None:
    db, ahead_s = tmp_path / "w.duckdb", time.time() + 3_600
    os.utime(store, (ahead_s, ahead_s))
    sync(SqliteReader(store), db)
    before = db.read_bytes()
    assert SqliteReader(store).written_since(db.stat().st_mtime_ns)
    summary = sync(SqliteReader(store), db)
    assert (summary.up_to_date, summary.runs_seen) == (True, None)
    assert db.read_bytes() == before


def test_a_full_sync_of_an_unchanged_store_adds_no_row(bench: Bench, store: Path, tmp_path: Path) -> None:
    db, tables = tmp_path / "w.duckdb", ("mlflow.run_events", "mlflow.sync_log", "mlflow.sync_state")
    sync(SqliteReader(store), db)
    before = dump(db), dump(db, tables)
    assert sync(SqliteReader(store), db, SyncOptions(mode=Mode.FULL)).up_to_date
    assert (dump(db), dump(db, tables)) == before


def test_fast_misses_an_edited_tag_and_full_catches_a_param_edited_by_sql(
    bench: Bench, store: Path, tmp_path: Path
) -> None:
    db = tmp_path / "w.duckdb"
    sync(SqliteReader(store), db)
    bench.client.set_tag(bench.run, "u", "edited")
    assert sync(SqliteReader(store), db, SyncOptions(mode=Mode.FAST)).up_to_date
    assert sync(SqliteReader(store), db, SyncOptions(mode=Mode.FULL)).runs_changed == 1
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE params SET value = 'forged' WHERE key = 'q' AND run_uuid = ?", [bench.run])
    connection.close()
    assert sync(SqliteReader(store), db).up_to_date
    assert sync(SqliteReader(store), db, SyncOptions(mode=Mode.FULL)).runs_changed == 1
    equals_fresh(store, db)


EDITS_BY_HAND = (
    "UPDATE mlflow.tags SET value = 'forged' WHERE key = 'u'",
    "DELETE FROM mlflow.params",
    "UPDATE mlflow.runs SET status = 'KILLED'",
    "UPDATE mlflow.metric_history SET value = value / 2",
    "INSERT INTO mlflow.latest_metrics SELECT run_uuid, 'invented', 1, 0, 0, false FROM mlflow.runs",
    "INSERT INTO mlflow.tags VALUES ('no such run', 'k', 'v')",
)


@pytest.mark.parametrize("edit", EDITS_BY_HAND)
def test_a_full_sync_repairs_what_a_hand_changed_in_the_mirror(
    edit: str, bench: Bench, store: Path, tmp_path: Path
) -> None:
    db = tmp_path / "w.duckdb"
    sync(SqliteReader(store), db)
    with duckdb.connect(str(db)) as connection:
        connection.execute(edit)
    assert verify_store(SqliteReader(store), db), "the edit is there to be seen"
    sync(SqliteReader(store), db, SyncOptions(mode=Mode.FULL))
    assert not verify_store(SqliteReader(store), db)
    equals_fresh(store, db)
    assert sync(SqliteReader(store), db, SyncOptions(mode=Mode.FULL)).up_to_date


def test_a_fast_sync_does_not_hide_from_the_next_what_it_did_not_look_for(
    bench: Bench, store: Path, tmp_path: Path
) -> None:
    db = tmp_path / "w.duckdb"
    sync(SqliteReader(store), db)
    bench.client.set_tag(bench.run, "u", "edited")
    assert sync(SqliteReader(store), db, SyncOptions(mode=Mode.FAST)).up_to_date
    assert sync(SqliteReader(store), db, SyncOptions(mode=Mode.FAST)).runs_seen is None, "the file is the same"
    assert sync(SqliteReader(store), db).runs_changed == 1
    equals_fresh(store, db)


def test_a_dry_run_says_what_would_change_and_writes_nothing(bench: Bench, store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    sync(SqliteReader(store), db)
    before = dump(db)
    bench.client.set_tag(bench.run, "new", "v")
    summary = sync(SqliteReader(store), db, SyncOptions(dry_run=True))
    assert (summary.runs_changed, summary.dry_run) == (1, True)
    assert dump(db) == before


def test_one_experiment_leaves_the_others_alone(bench: Bench, store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    other = bench.client.create_experiment("other")
    fill(bench.client, other, 2)
    assert sync(SqliteReader(store), db, SyncOptions(experiments=("other",))).runs_added == 2
    assert sync(SqliteReader(store), db).runs_added == 4
    assert sync(SqliteReader(store), db, SyncOptions(experiments=("other",))).up_to_date
    equals_fresh(store, db)
    with pytest.raises(UsageError, match="no experiment named 'typo'"):
        sync(SqliteReader(store), db, SyncOptions(experiments=("typo",), mode=Mode.FULL))


@pytest.mark.slow
def test_killed_at_every_step_the_next_sync_makes_it_whole(bench: Bench, store: Path, tmp_path: Path) -> None:
    base, db = tmp_path / "base.duckdb", tmp_path / "w.duckdb"
    sync(SqliteReader(store), base)
    bench.client.delete_run(bench.runs[3])
    gc(store)
    for run in bench.runs[:3]:
        bench.client.set_tag(run, "u", "edited")
    fill(bench.client, bench.experiment, 2)
    whole = tmp_path / "whole.duckdb"
    shutil.copyfile(base, whole)
    sync(SqliteReader(store), whole)
    equals_fresh(store, whole)
    expected, kills = dump(whole), 0
    for at in range(1, 30):
        shutil.copyfile(base, db)
        Path(f"{db}.wal").unlink(missing_ok=True)
        if crash(f"sqlite:///{store}", db, at) == 0:
            break
        kills += 1
        sync(SqliteReader(store), db, SyncOptions(batch_runs=2))
        assert dump(db) == expected, f"after a kill at step {at}"
        wanted = sorted(e[:2] + e[3:] for e in events(whole))
        assert sorted(e[:2] + e[3:] for e in events(db)) == wanted, f"events after a kill at step {at}"
    assert kills >= 7, "read, three batches from inside and after, the end: each was a place to die"


def test_a_second_sync_at_the_same_time_is_refused_with_the_holder(bench: Bench, store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"

    def meanwhile(step: str) -> None:
        if step == "read":
            with pytest.raises(StoreError, match=rf"another sync \(process {os.getpid()}\)"):
                sync(SqliteReader(store), db)

    assert sync(SqliteReader(store), db, at_step=meanwhile).runs_added == 4


HOLDER = """
import sys, duckdb
c = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "ro")
print(c.execute("SELECT count(*) FROM mlflow.runs").fetchall()[0][0], flush=True)
sys.stdin.readline()
print(c.execute("SELECT count(*) FROM mlflow.runs").fetchall()[0][0], flush=True)
"""


def test_an_open_reader_is_told_of_and_does_not_stop_the_sync(bench: Bench, store: Path, tmp_path: Path) -> None:
    db, said = tmp_path / "w.duckdb", list[str]()
    sync(SqliteReader(store), db)
    fill(bench.client, bench.experiment, 1)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(db), "ro"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "4\n"
        summary = sync(SqliteReader(store), db, SyncOptions(lock_wait_s=0.1), say=said.append)
        assert holder.communicate("\n")[0] == "4\n"
    assert summary.runs_added == 1
    assert any(f"process {holder.pid}" in line for line in said)
    equals_fresh(store, db)


def test_a_foreign_writer_stops_the_sync_with_its_process_id(bench: Bench, store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    sync(SqliteReader(store), db)
    fill(bench.client, bench.experiment, 1)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(db), "rw"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StoreError, match=f"in use by process {holder.pid}"):
            sync(SqliteReader(store), db, SyncOptions(lock_wait_s=0.1))
        holder.communicate("\n")


def test_bad_files_are_named_in_one_sentence(store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    with pytest.raises(StoreError, match="no MLflow store"):
        SqliteReader(tmp_path / "absent.db")
    text = tmp_path / "text.db"
    text.write_text("not a database, but long enough to have a header" * 10)
    with pytest.raises(StoreError, match="not an SQLite database"):
        sync(SqliteReader(text), db)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE runs (x)")
    connection.close()
    with pytest.raises(StoreError, match="not an MLflow tracking store"):
        sync(SqliteReader(other), db)
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    connection.close()
    with pytest.raises(StoreError, match=r"revision ffffffffffff.*upgrade hwbench"):
        sync(SqliteReader(store), db)


def test_a_corrupt_or_foreign_warehouse_is_refused(store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    db.write_bytes(b"garbage" * 1000)
    with pytest.raises(StoreError, match="not a readable DuckDB file"):
        sync(SqliteReader(store), db)
    db.unlink()
    with duckdb.connect(str(db)) as connection:
        connection.execute("CREATE TABLE mine (x INT)")
    with pytest.raises(StoreError, match="tables that are not hwbench's"):
        sync(SqliteReader(store), db)


def test_verify_store_counts_the_rows_that_differ(bench: Bench, store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    sync(SqliteReader(store), db)
    assert verify_store(SqliteReader(store), db) == []
    with duckdb.connect(str(db)) as connection:
        connection.execute("UPDATE mlflow.tags SET value = 'forged' WHERE key = 't'")
        connection.execute("DELETE FROM mlflow.params WHERE run_uuid = ?", [bench.run])
    assert verify_store(SqliteReader(store), db) == [("tags", 4, 4), ("params", 2, 0)]


FILLER = """
import resource, sys
from pathlib import Path
from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.warehouse.readers.sqlite import SqliteReader
from hwbench_mlflow.warehouse.sync import sync
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    sync(SqliteReader(Path(sys.argv[1])), Path(sys.argv[2]))
except StoreError as error:
    print(error)
"""


def test_a_file_that_cannot_grow_is_one_line_and_loses_nothing(bench: Bench, store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    with sqlite3.connect(store) as connection:
        connection.executemany(
            "INSERT INTO tags (key, value, run_uuid) VALUES (?, hex(randomblob(4000)), ?)",
            [(f"big {n}", bench.run) for n in range(200)],
        )
    connection.close()
    command = [sys.executable, "-c", FILLER, str(store), str(db), "300000"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.stdout.startswith(f"{db} may not grow further: a limit on the size of files is reached;"), said
    assert said.stdout.count("\n") == 1
    assert sync(SqliteReader(store), db).runs_added == 4
    assert verify_store(SqliteReader(store), db) == []


def test_a_full_disk_is_told_as_one() -> None:
    said = explain(Path("w.duckdb"), duckdb.IOException("Could not write file: No space left on device"))
    assert said == ("the disk of w.duckdb is full; free some space and sync again, what was committed is kept",)


def test_a_newer_layout_is_refused(store: Path, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    sync(SqliteReader(store), db)
    with duckdb.connect(str(db)) as connection:
        connection.execute("INSERT INTO hwbench_migrations VALUES (9999, 'future', now()::TIMESTAMP)")
    with pytest.raises(StoreError, match="layout 9999"):
        sync(SqliteReader(store), db)


def test_another_store_is_refused_unless_told(bench: Bench, store: Path, tmp_path: Path) -> None:
    db, moved = tmp_path / "w.duckdb", tmp_path / "moved.db"
    sync(SqliteReader(store), db)
    shutil.copyfile(store, moved)
    with pytest.raises(StoreError, match="--rebind"):
        sync(SqliteReader(moved), db)
    assert sync(SqliteReader(moved), db, SyncOptions(rebind=True)).up_to_date
    assert sync(SqliteReader(moved), db).up_to_date


def test_the_reader_leaves_no_trace_and_no_lock(bench: Bench, store: Path, tmp_path: Path) -> None:
    before = store.read_bytes()

    def write(step: str) -> None:
        if step == "read":
            bench.client.set_tag(bench.run, "while", "the sync writes")

    sync(SqliteReader(store), tmp_path / "probe.duckdb")
    assert store.read_bytes() == before
    db = tmp_path / "w.duckdb"
    sync(SqliteReader(store), db, at_step=write)
    assert not sync(SqliteReader(store), db).up_to_date, "what was written during the sync is for the next one"
    equals_fresh(store, db)


@pytest.mark.slow
def test_random_operations_end_equal_to_a_fresh_sync(store: Path, tmp_path: Path) -> None:
    """1,000 operations of the real client, a sync after every 25, each compared with a fresh full one."""
    db = tmp_path / "w.duckdb"
    operations = RandomOperations(MlflowClient(f"sqlite:///{store}"), lambda: gc(store), seed=3)
    for _ in range(40):
        operations.make(25)
        sync(SqliteReader(store), db, SyncOptions(batch_runs=operations.draw.choice([1, 7, 10_000])))
        equals_fresh(store, db)
