"""The short way to say that the warehouse has exactly the rows that its evidence makes: any difference says no."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from duckdb import DuckDBPyConnection

from hwbench_mlflow.keystore import load_keyring
from hwbench_mlflow.warehouse import database, rederive
from hwbench_mlflow.warehouse.cases import listed, load_work
from hwbench_mlflow.warehouse.dependents import DIMENSIONS, LOG, PER_RUN
from hwbench_mlflow.warehouse.judging import Terms, judged, tables_of
from hwbench_mlflow.warehouse.star import schemas
from hwbench_mlflow.warehouse.unchanged import unchanged
from tests.warehouse.results import Lab

TABLES = (*PER_RUN, *DIMENSIONS, LOG)
OTHER = {
    "VARCHAR": "'x'", "BOOLEAN": "true", "INTEGER": "7", "BIGINT": "7", "DOUBLE": "7.5",
    "TIMESTAMP": "TIMESTAMP '2000-01-01'", "VARCHAR[]": "['x']",
}  # fmt: skip
Copied = tuple[DuckDBPyConnection, dict[str, pa.Table]]


@pytest.fixture
def copied(synced: tuple[Lab, Path], tmp_path: Path) -> Iterator[Copied]:
    """The tables as they are, without their constraints; and the rows that the evidence makes."""
    lab, db = synced
    same = tmp_path / "same.duckdb"
    same.write_bytes(db.read_bytes())
    with database.writer(same) as connection, listed(connection):
        ids = [r[0] for r in connection.execute("SELECT run_id FROM benchmark_runs").fetchall()]
        terms = Terms(keyring=load_keyring(lab.home), schemas=schemas(connection), keep_content=False, kept_only=True)
        made = tables_of([rows for _, rows in judged(load_work(connection, ids, files=True), terms)], terms.schemas)
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{same}' AS kept (READ_ONLY)")
        for table in TABLES:
            connection.execute(f"CREATE TABLE {table} AS FROM kept.{table}")
        yield connection, made


def test_what_was_just_made_is_unchanged(copied: Copied) -> None:
    connection, made = copied
    assert made["performance_results"].num_rows == 6
    assert unchanged(connection, made)


@pytest.mark.parametrize("table", ["benchmark_runs", "performance_results", "evidence_files", "latency_samples",
                                   *DIMENSIONS, LOG])  # fmt: skip
def test_one_value_that_differs_is_seen_in_every_column(table: str, copied: Copied) -> None:
    connection, made = copied
    columns = [r for r in connection.execute(f"DESCRIBE {table}").fetchall() if r[0] != "content"]
    for name, kind, *_ in columns:
        connection.execute("BEGIN")
        [[row, value]] = connection.execute(f'SELECT rowid, "{name}" FROM {table} ORDER BY rowid LIMIT 1').fetchall()
        other = OTHER[kind] if value is None else "NULL"
        connection.execute(f'UPDATE {table} SET "{name}" = {other} WHERE rowid = ?', [row])
        assert not unchanged(connection, made), name
        connection.execute("ROLLBACK")
    assert unchanged(connection, made)


@pytest.mark.parametrize("table", TABLES)
def test_a_row_more_or_less_is_seen(table: str, copied: Copied) -> None:
    connection, made = copied
    [run_id] = made["performance_results"].column("run_id").to_pylist()[:1]
    if table not in DIMENSIONS:  # a model that no result has is not any run's
        connection.execute("BEGIN")
        connection.execute(f"INSERT INTO {table} (run_id) VALUES (?)", [run_id])
        assert not unchanged(connection, made)
        connection.execute("ROLLBACK")
    if connection.execute(f"SELECT count(*) FROM {table}").fetchall() != [(0,)]:
        connection.execute("BEGIN")
        connection.execute(f"DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})")
        assert not unchanged(connection, made)
        connection.execute("ROLLBACK")
        connection.execute(f"INSERT INTO {table} FROM (FROM {table} LIMIT 1)")  # the same row twice
        assert unchanged(connection, made) is (table in DIMENSIONS)


def test_samples_that_changed_places_are_seen(copied: Copied) -> None:
    connection, made = copied
    connection.execute("UPDATE latency_samples SET sample = 1 - sample WHERE sample < 2 AND phase = 'timed'")
    assert not unchanged(connection, made)


def test_a_phase_that_nobody_knows_is_seen(copied: Copied) -> None:
    connection, made = copied
    connection.execute("UPDATE latency_samples SET phase = 'Timed' WHERE sample = 0 AND phase = 'timed'")
    assert not unchanged(connection, made)


def test_a_servers_queries_are_compared_with_their_three_times(copied: Copied) -> None:
    connection, made = copied
    nested = made["nested"].to_pylist()
    [timed] = [n for n, row in enumerate(nested) if row["phase"] == "timed"][:1]
    length = len(nested[timed]["samples_ns"])
    for column, first in (("arrivals_ns", 10), ("starts_ns", 20), ("ends_ns", 30)):
        nested[timed][column] = list(range(first, first + length))
    served = made | {"nested": pa.Table.from_pylist(nested, made["nested"].schema)}
    assert not unchanged(connection, served)
    connection.execute(
        "UPDATE latency_samples SET arrival_ns = 10 + sample, start_ns = 20 + sample, end_ns = 30 + sample "
        "WHERE run_id = ? AND worker = ? AND phase = 'timed'", [nested[timed]["run_id"], nested[timed]["worker"]]
    )  # fmt: skip
    assert unchanged(connection, served)
    assert not unchanged(connection, made)
    nested[timed]["ends_ns"].pop()  # a list that is too short has no place beside the samples
    assert not unchanged(connection, made | {"nested": pa.Table.from_pylist(nested, made["nested"].schema)})


def test_nothing_is_staged_where_nothing_differs(lab: Lab, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again() -> rederive.Rederived:
        with database.writer(db) as connection:
            return rederive.rederive(connection, load_keyring(lab.home))

    with monkeypatch.context() as patch:
        patch.setattr(rederive, "unchanged", lambda *_: False)
        closely = again()
    monkeypatch.setattr(rederive, "staged", lambda *_: pytest.fail("rows were staged"))
    assert dataclasses.asdict(again()) == dataclasses.asdict(closely)
