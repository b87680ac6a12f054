"""Reading ahead: every row arrives, little is held, and a failure on either side ends both."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest

from hwbench_mlflow.warehouse.readers import ahead
from hwbench_mlflow.warehouse.readers.ahead import load_ahead
from hwbench_mlflow.warehouse.stage import Stage

SCHEMA = pa.schema([("run_uuid", pa.string()), ("key", pa.string()), ("value", pa.string())])


@pytest.fixture
def stage() -> Iterator[Stage]:
    with duckdb.connect() as connection:
        yield Stage(connection)


def rows(values: Iterator[str]) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(
        SCHEMA, (pa.record_batch([["r"] * 10, ["k"] * 10, [v] * 10], SCHEMA) for v in values)
    )


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "reads ahead"]


def test_every_row_of_every_table_arrives(stage: Stage) -> None:
    load_ahead(stage, ["tags", "params"], lambda table: rows(f"{table} {n}" for n in range(50)))
    for table in ("tags", "params"):
        found = stage.connection.execute(
            f"SELECT count(*), count(DISTINCT value), min(value) FROM s_{table}"
        ).fetchall()
        assert found == [(500, 50, f"{table} 0")]
    assert threads() == []


def test_the_thread_waits_where_duckdb_does_not_drink(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "HELD_BYTES", 10_000)
    made, load, waits = list[int](), Stage.load, threading.Event()

    def values() -> Iterator[str]:
        for n in range(100):
            made.append(n)
            yield "x" * 200

    def late(self: Stage, table: str, incoming: pa.RecordBatchReader) -> None:
        waits.wait(0.5)
        assert len(made) < 10, "2,000 bytes a batch, of which 10,000 are held and one is made"
        load(self, table, incoming)

    monkeypatch.setattr(Stage, "load", late)
    load_ahead(stage, ["tags"], lambda _: rows(values()))
    assert stage.connection.execute("SELECT count(*) FROM s_tags").fetchall() == [(1_000,)]


@pytest.mark.parametrize("when", ["opened", "read"])
def test_what_the_store_raises_is_raised_as_it_was(when: str, stage: Stage) -> None:
    class Broken(Exception):
        pass

    def values() -> Iterator[str]:
        yield "first"
        raise Broken("the store is gone")

    def opened(table: str) -> pa.RecordBatchReader:
        if when == "opened" and table == "params":
            raise Broken("the store is gone")
        return rows(values() if when == "read" else iter(["one"]))

    with pytest.raises(Broken, match="the store is gone"):
        load_ahead(stage, ["tags", "params"], opened)
    assert threads() == []


def test_what_duckdb_raises_ends_the_thread(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "HELD_BYTES", 1)
    stage.connection.execute("CREATE OR REPLACE TEMP TABLE s_tags (run_uuid VARCHAR, key VARCHAR, value INTEGER)")
    with pytest.raises(duckdb.ConversionException):
        load_ahead(stage, ["tags", "params"], lambda _: rows(iter("ab")))
    assert threads() == []
