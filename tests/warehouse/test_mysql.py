"""MySQL's own troubles, on MariaDB: logins, rights, other schemas, locked tables, a server that dies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pymysql
import pytest
from mlflow import MlflowClient

from hwbench_mlflow.errors import StoreError, UsageError
from hwbench_mlflow.warehouse.readers import mysql
from hwbench_mlflow.warehouse.readers.mysql import MysqlReader
from hwbench_mlflow.warehouse.stage import Stage
from hwbench_mlflow.warehouse.sync import sync, verify_store
from tests.warehouse.conftest import dump
from tests.warehouse.scenarios import fill
from tests.warehouse.servers import PASSWORD, QUOTED, Maria, free_port

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")]


@pytest.fixture(scope="module")
def uri(maria: Maria) -> str:
    maria.execute("CREATE DATABASE troubles CHARACTER SET utf8mb4")
    uri = maria.uri("troubles")
    client = MlflowClient(uri)
    fill(client, client.create_experiment("e"))
    return uri


def refusal(uri: str, db: Path) -> str:
    with pytest.raises(StoreError) as raised:
        sync(MysqlReader(uri), db)
    said = str(raised.value)
    assert "\n" not in said
    assert all(secret not in said for secret in (PASSWORD, QUOTED, "s3cr"))
    return said


def test_logins_and_servers_that_are_not_there_are_one_line(maria: Maria, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    said = refusal(maria.uri("mysql", password="s3cret"), db)
    assert "Access denied for user 'hw'" in said
    assert said.endswith("check the user and the password in --tracking-uri")
    assert "Unknown database 'absent'" in refusal(maria.uri("absent"), db)
    said = refusal(f"mysql://hw:{QUOTED}@127.0.0.1:{free_port()}/x", db)
    assert said.endswith("check that the server runs and that --tracking-uri names it")
    with pytest.raises(UsageError, match="names no database") as raised:
        MysqlReader(maria.uri(""))
    assert PASSWORD not in str(raised.value)


def test_a_database_that_is_not_mlflows_is_refused(maria: Maria, tmp_path: Path) -> None:
    maria.execute("CREATE DATABASE other", "CREATE DATABASE newer")
    assert "is not an MLflow tracking store" in refusal(maria.uri("other"), tmp_path / "w.duckdb")
    maria.execute(
        "CREATE TABLE newer.runs (x INT)", "CREATE TABLE newer.alembic_version (version_num VARCHAR(32))",
        "INSERT INTO newer.alembic_version VALUES ('ffffffffffff')",
    )  # fmt: skip
    said = refusal(maria.uri("newer"), tmp_path / "w.duckdb")
    assert "revision ffffffffffff" in said
    assert "--via rest" in said


def test_a_user_who_may_only_read_is_enough_and_one_who_may_not_is_told(maria: Maria, uri: str, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    maria.execute("CREATE USER 'looker'@'%' IDENTIFIED BY 'x'")
    looker = maria.uri("troubles", user="looker", password="x")
    assert "Access denied for user 'looker'" in refusal(looker, db)
    # One table short: the whole store is refused, not read as if it had no tags.
    for table in ("alembic_version", "experiments", "experiment_tags", "runs", "params", "latest_metrics", "metrics"):
        maria.execute(f"GRANT SELECT ON troubles.{table} TO 'looker'@'%'")
    said = refusal(looker, db)
    assert "SELECT command denied to user 'looker'" in said
    assert "tags" in said
    assert dump(db)["mlflow.runs"] == []
    maria.execute("GRANT SELECT ON troubles.* TO 'looker'@'%'")
    assert sync(MysqlReader(looker), db).runs_added == 4
    assert sync(MysqlReader(uri), db).up_to_date, "another user does not make another store"


def test_a_migration_that_holds_a_table_is_told_after_a_while(
    maria: Maria, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql, "LOCK_TIMEOUT_S", 1)
    with pymysql.connect(host="127.0.0.1", port=maria.port, user="hw", password=PASSWORD, database="troubles") as held:
        held.cursor().execute("LOCK TABLES metrics WRITE")
        assert "a migration of MLflow's may be under way" in refusal(uri, tmp_path / "w.duckdb")


@pytest.mark.parametrize("when", ["between two tables", "in the middle of a table"])
def test_a_server_that_dies_while_it_is_read_leaves_the_mirror_as_it_was(  # noqa: PLR0917 -- pytest passes by name
    when: str, maria: Maria, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    db, load, client = tmp_path / "w.duckdb", Stage.load, MlflowClient(uri)
    sync(MysqlReader(uri), db)
    before = dump(db)
    run = client.search_runs([client.get_experiment_by_name("e").experiment_id])[0].info.run_id
    client.set_tag(run, "u", f"changed {when}")
    # More than the server sends before anybody drinks.
    big = [{"k": f"{when} {n}", "v": "x" * 8_000, "r": run} for n in range(1_500)]
    with pymysql.connect(
        host="127.0.0.1", port=maria.port, user="hw", password=PASSWORD, database="troubles"
    ) as filler:
        filler.cursor().executemany("INSERT INTO tags (`key`, value, run_uuid) VALUES (%(k)s, %(v)s, %(r)s)", big)
        filler.commit()
    monkeypatch.setattr(mysql, "BATCH_ROWS", 100)

    def kill() -> None:
        with pymysql.connect(host="127.0.0.1", port=maria.port, user="hw", password=PASSWORD) as killer:
            cursor = killer.cursor()
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE db = 'troubles' AND id <> connection_id()"
            )
            for (connection,) in cursor.fetchall():
                cursor.execute(f"KILL {int(connection)}")

    def dies(self: Stage, table: str, rows: Any) -> None:
        if when == "in the middle of a table" and table == "tags":

            def broken() -> Iterator[pa.RecordBatch]:
                yield rows.read_next_batch()
                kill()
                yield from rows

            load(self, table, pa.RecordBatchReader.from_batches(rows.schema, broken()))
            return
        load(self, table, rows)
        if when == "between two tables" and table == "runs":
            kill()

    with monkeypatch.context() as patched:
        patched.setattr(Stage, "load", dies)
        said = refusal(uri, db)
    assert caplog.records == [], "one line is enough"
    assert "Lost connection" in said or "gone away" in said or "killed" in said
    assert dump(db) == before
    assert sync(MysqlReader(uri), db).runs_changed == 1
    assert verify_store(MysqlReader(uri), db) == []
