"""The migration that brings estimates: from each earlier layout, with what was there kept."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from hwbench_mlflow.warehouse import database

EARLIER = [number for number, _, _ in database.migrations() if number < 6]
RUN = """INSERT INTO benchmark_runs BY NAME
         SELECT 'r' AS run_id, 'failure' AS role, 'read' AS evidence, ['x'] AS reasons, 'no_driver' AS failure_category,
                'f' AS fingerprint, 'j' AS judge"""


@pytest.mark.parametrize("start", EARLIER)
def test_an_older_warehouse_gets_the_tables_and_keeps_its_runs(start: int, tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    with duckdb.connect(str(path)) as connection:
        database.migrate(connection, path, upto=start)
        if start >= 2:
            connection.execute(RUN)
        database.migrate(connection, path)
        assert database.version(connection) == database.latest_version()
        tables = {r[0] for r in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        assert {"estimates", "rooflines", "benchmark_runs"} <= tables
        assert "benchmark_runs_0006" not in tables
        kept = connection.execute("SELECT run_id, failure_category FROM benchmark_runs").fetchall()
        assert kept == ([("r", "no_driver")] if start >= 2 else [])
        with duckdb.connect() as fresh:
            database.migrate(fresh, path)
            sql = "SELECT table_name, sql FROM duckdb_tables() WHERE table_name = 'benchmark_runs'"
            assert connection.execute(sql).fetchall() == fresh.execute(sql).fetchall()


def test_the_new_roles_are_taken_and_others_are_not(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        database.migrate(connection, tmp_path)
        for number, role in enumerate(("estimate", "roofline")):
            sql = RUN.replace("'r'", f"'{number}'").replace("'failure'", f"'{role}'").replace("'read'", "'deleted'")
            connection.execute(sql)
        with pytest.raises(duckdb.ConstraintException):
            connection.execute(RUN.replace("'failure'", "'guess'"))
        verified = RUN.replace("'failure'", "'estimate'").replace(
            "['x'] AS reasons", "[] AS reasons, 'verified' AS verdict"
        )
        with pytest.raises(duckdb.ConstraintException):
            connection.execute(verified)
