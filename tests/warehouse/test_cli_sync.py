"""The commands ``sync`` and ``query`` as their users type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hwbench_mlflow.cli.query import query
from hwbench_mlflow.cli.sync import sync
from hwbench_mlflow.errors import StoreError, UsageError


def test_sync_then_query(store: Path, tmp_path: Path) -> None:
    db = str(tmp_path / "w.duckdb")
    flags = ["--tracking-uri", f"sqlite:///{store}", "--db", db, "--json"]
    first = json.loads(CliRunner().invoke(sync, flags).stdout)
    assert (first["schema_version"], first["up_to_date"]) == (1, False)
    assert json.loads(CliRunner().invoke(sync, flags).stdout)["up_to_date"] is True
    said = CliRunner().invoke(query, ["SELECT name FROM mlflow.experiments", "--db", db, "--format", "json"])
    assert json.loads(said.stdout) == [{"name": "Default"}]
    refused = CliRunner().invoke(query, ["SELECT * FROM read_csv('/etc/passwd')", "--db", db])
    assert isinstance(refused.exception, UsageError)
    assert isinstance(CliRunner().invoke(query, ["DROP TABLE mlflow.runs", "--db", db]).exception, UsageError)


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--tracking-uri", "mlflow.db"], UsageError),
        (["--tracking-uri", "mssql://h/d"], UsageError),
        (["--tracking-uri", "http://127.0.0.1:1", "--via", "sql"], UsageError),
        (["--tracking-uri", "http://127.0.0.1:1", "--via", "rest"], StoreError),
    ],
)
def test_a_store_that_cannot_be_synced_is_one_line(flags: list[str], error: type[Exception], tmp_path: Path) -> None:
    said = CliRunner().invoke(sync, [*flags, "--db", str(tmp_path / "w.duckdb")])
    assert type(said.exception) is error
    assert "\n" not in str(said.exception)


def test_watch_syncs_again_and_outlives_a_store_that_cannot_be_read(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, slept = tmp_path / "away.db", list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            store.rename(away)
        elif len(slept) == 2:
            away.rename(store)
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr("hwbench_mlflow.cli.sync.time.sleep", sleep)
    flags = ["--tracking-uri", f"sqlite:///{store}", "--db", str(tmp_path / "w.duckdb"), "--watch", "7", "--json"]
    said = CliRunner().invoke(sync, flags)
    assert slept == [7.0, 7.0, 7.0]
    assert [json.loads(line)["up_to_date"] for line in said.stdout.splitlines()] == [False, True]
    assert "no MLflow store at" in said.stderr


def test_watch_says_once_that_nothing_is_new(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept = list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("hwbench_mlflow.cli.sync.time.sleep", sleep)
    flags = ["--tracking-uri", f"sqlite:///{store}", "--db", str(tmp_path / "w.duckdb"), "--watch", "7"]
    said = CliRunner().invoke(sync, flags)
    assert len(slept) == 5
    assert said.stdout.count("runs added") == 1
    assert said.stdout.count("is up to date") == 1
