"""PostgreSQL's own troubles: logins, rights, other schemas, commits under way, a server that dies."""

from __future__ import annotations

from pathlib import Path

import psycopg2
import pytest
from mlflow import MlflowClient

from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.warehouse.readers.postgresql import PostgresqlReader
from hwbench_mlflow.warehouse.stage import Stage
from hwbench_mlflow.warehouse.sync import sync
from tests.warehouse.conftest import dump
from tests.warehouse.scenarios import fill
from tests.warehouse.servers import PASSWORD, QUOTED, Cluster, free_port

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")]


@pytest.fixture(scope="module")
def uri(cluster: Cluster) -> str:
    cluster.execute("postgres", "CREATE DATABASE troubles")
    uri = cluster.uri("troubles")
    client = MlflowClient(uri)
    fill(client, client.create_experiment("e"))
    return uri


def refusal(uri: str, tmp_path: Path) -> str:
    with pytest.raises(StoreError) as raised:
        sync(PostgresqlReader(uri), tmp_path / "w.duckdb")
    said = str(raised.value)
    assert "\n" not in said
    assert PASSWORD not in said
    assert QUOTED not in said
    assert "s3cr" not in said
    return said


def test_logins_and_servers_that_are_not_there_are_one_line(cluster: Cluster, tmp_path: Path) -> None:
    assert "password authentication failed" in refusal(cluster.uri("postgres", password="s3cret"), tmp_path)
    assert 'database "absent" does not exist' in refusal(cluster.uri("absent"), tmp_path)
    nobody = f"postgresql://hw:{QUOTED}@127.0.0.1:{free_port()}/x"
    assert "Connection refused. check that the server runs" in refusal(nobody, tmp_path)
    assert "invalid percent-encoded token" in refusal(cluster.uri("postgres", password="s3cr%zzet"), tmp_path)


def test_a_database_that_is_not_mlflows_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    assert "is not an MLflow tracking store" in refusal(cluster.uri("postgres"), tmp_path)
    cluster.execute("postgres", "CREATE DATABASE newer")
    cluster.execute(
        "newer", "CREATE TABLE runs (x int)", "CREATE TABLE alembic_version (version_num text)",
        "INSERT INTO alembic_version VALUES ('ffffffffffff')",
    )  # fmt: skip
    said = refusal(cluster.uri("newer"), tmp_path)
    assert "revision ffffffffffff" in said
    assert "--via rest" in said
    assert "mlflow server" in said


def test_a_role_that_may_only_read_is_enough_and_one_that_may_not_is_told(
    cluster: Cluster, uri: str, tmp_path: Path
) -> None:
    cluster.execute("troubles", "CREATE ROLE looker LOGIN PASSWORD 'x'")
    looker = cluster.uri("troubles", user="looker", password="x")
    assert "permission denied for table" in refusal(looker, tmp_path)
    cluster.execute("troubles", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker")
    db = tmp_path / "w.duckdb"
    assert sync(PostgresqlReader(looker), db).runs_added == 4
    assert sync(PostgresqlReader(uri), db).up_to_date, "another role does not make another store"


def test_nothing_written_is_answered_without_reading(uri: str, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    sync(PostgresqlReader(uri), db)
    sync(PostgresqlReader(uri), db)  # the first read may have tidied pages, which is written to the log
    before = db.read_bytes()
    summary = sync(PostgresqlReader(uri), db)
    assert (summary.up_to_date, summary.runs_seen) == (True, None)
    assert db.read_bytes() == before


def test_a_commit_under_way_during_the_read_is_seen_by_the_next_sync(uri: str, tmp_path: Path) -> None:
    db = tmp_path / "w.duckdb"
    reader = PostgresqlReader(uri)
    with psycopg2.connect(uri.replace("+psycopg2", "")) as writer, writer.cursor() as cursor:
        cursor.execute("UPDATE tags SET value = 'under way' WHERE key = 'u'")
        sync(reader, db)
        assert not _remembered(db), "the log's end is no proof while a transaction is under way"
        assert sync(reader, db).runs_seen == 4
        writer.commit()
    assert sync(reader, db).runs_changed == 4
    writer.close()
    sync(reader, db)
    assert _remembered(db)


def _remembered(db: Path) -> bool:
    rows = dump(db, ("mlflow.sync_state",))["mlflow.sync_state"]
    return '"file": []' not in str(rows[0][2])


def test_a_migration_that_holds_a_table_is_told_after_a_while(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwbench_mlflow.warehouse.readers.postgresql.LOCK_TIMEOUT_S", 0.2)
    with psycopg2.connect(uri.replace("+psycopg2", "")) as writer, writer.cursor() as cursor:
        cursor.execute("LOCK TABLE metrics IN ACCESS EXCLUSIVE MODE")
        assert "a migration of MLflow's may be under way" in refusal(uri, tmp_path)
    writer.close()


def test_a_server_that_dies_while_it_is_read_leaves_the_mirror_as_it_was(
    cluster: Cluster, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, load = tmp_path / "w.duckdb", Stage.load
    sync(PostgresqlReader(uri), db)
    before = dump(db)
    MlflowClient(uri).set_tag(MlflowClient(uri).search_runs(["1"])[0].info.run_id, "u", "changed")

    def dies(self: Stage, table: str, rows: object) -> None:
        load(self, table, rows)  # type: ignore[arg-type]
        if table == "runs":
            cluster.execute(
                "postgres",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'troubles'",
            )

    with monkeypatch.context() as patched:
        patched.setattr(Stage, "load", dies)
        assert "terminating connection" in refusal(uri, tmp_path)
    assert dump(db) == before
    assert sync(PostgresqlReader(uri), db).runs_changed == 1
