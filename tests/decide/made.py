"""Published files of invented rows, for what is concluded from them. No gate has seen them; they lie in tests' folders.

Each row is one honest result of ``tests/honest.py`` with some columns replaced.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from hwbench_mlflow.codec import sha256
from hwbench_mlflow.rules import Outcome, RuleKind
from hwbench_mlflow.warehouse import database
from hwbench_mlflow.warehouse.publish import Publication, publish
from tests.benchmarks.made_runs import make

START = datetime(2026, 10, 1)
PASSED = Outcome(
    rule="r", suite="s", table="t", kind=RuleKind.ROW, passed=True, why="w", what_to_do="d", evaluated=1, unexpected=0
)
Row = Mapping[str, Any]


@functools.cache
def _one() -> bytes:
    """A warehouse with one honest run."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder, "w.duckdb"), Path(folder, "home"), 1)
        return Path(folder, "w.duckdb").read_bytes()


def run_id(n: int) -> str:
    """The id of the n-th run."""
    return sha256(f"made {n}".encode())[:32]


def rows_of(medians: Sequence[float], first: int = 0, **same: Any) -> list[dict[str, Any]]:
    """A row for each median, an hour apart, numbered from ``first`` on."""
    return [
        {
            "run_id": run_id(first + n),
            "latency_ms_p50": median,
            "created_at": START + timedelta(hours=first + n),
            **same,
        }
        for n, median in enumerate(medians)
    ]


def warehouse(folder: Path, rows: Sequence[Row], *, samples: Mapping[str, Sequence[float]] | None = None) -> Path:
    """A warehouse of those rows. ``tags`` and ``experiment`` of a row become the mirror's."""
    db = folder / "hwbench.duckdb"
    db.write_bytes(_one())
    with duckdb.connect(str(db)) as connection:
        connection.execute("CREATE TEMP TABLE one AS FROM performance_results; DELETE FROM performance_results")
        connection.execute("CREATE TEMP TABLE one_model AS FROM models; DELETE FROM models")
        connection.execute("CREATE TEMP TABLE one_run AS FROM benchmark_runs; DELETE FROM benchmark_runs")
        connection.execute("DELETE FROM latency_samples; DELETE FROM mlflow.tags; DELETE FROM mlflow.experiments")
        for number, row in enumerate(rows):
            _insert(connection, number, row)
        for run, values in (samples or {}).items():
            connection.executemany(
                "INSERT INTO latency_samples (run_id, worker, phase, sample, sample_ns, runs_per_sample, latency_ms) "
                "VALUES (?, 0, 'timed', ?, ?, 1, ?)",
                [[run, n, round(v * 1e6), v] for n, v in enumerate(values)],
            )
        for name in {str(row.get("experiment", "made")) for row in rows}:
            connection.execute("INSERT INTO mlflow.experiments (experiment_id, name) VALUES (?, ?)", [_id(name), name])
    return db


def _id(name: str) -> int:
    return int(sha256(name.encode())[:8], 16)


def _insert(connection: duckdb.DuckDBPyConnection, number: int, row: Row) -> None:
    values = {
        "run_id": run_id(number), "result_id": run_id(number), "result_sha256": sha256(str(number).encode()),
        "created_at": START + timedelta(hours=number), **row,
    }  # fmt: skip
    tags, model = values.pop("tags", {}), values.pop("model_name", "bert")
    task = values.pop("task", "feature-extraction")
    values["experiment_id"] = _id(str(values.pop("experiment", "made")))
    values["model_id"] = sha256(f"{model} {task}".encode())[:32]
    values.setdefault("started_at", values["created_at"] - timedelta(minutes=1))
    if "verdict" in values:
        values.setdefault("reasons", ["invented"])
    replaced = ", ".join(f"${name} AS {name}" for name in values)
    connection.execute(f"INSERT INTO performance_results SELECT * REPLACE ({replaced}) FROM one", values)
    connection.execute("INSERT INTO benchmark_runs SELECT * REPLACE (? AS run_id) FROM one_run", [values["run_id"]])
    connection.execute(
        "INSERT OR REPLACE INTO models SELECT * REPLACE (? AS model_id, ? AS model_name, ? AS task) FROM one_model",
        [values["model_id"], model, task],
    )
    for key, value in tags.items():
        connection.execute("INSERT INTO mlflow.tags VALUES (?, ?, ?)", [values["run_id"], key, value])


def published(
    folder: Path,
    rows: Sequence[Row],
    *,
    samples: Mapping[str, Sequence[float]] | None = None,
    quarantine: Sequence[tuple[str, str, str]] = (),
) -> Path:
    """A published file of those rows, in ``folder``."""
    db = warehouse(folder, rows, samples=samples)
    path = folder / "published.duckdb"
    what = Publication(
        gate_id="made", gated_at=datetime(2026, 11, 20), outcomes=[PASSED], quarantine=quarantine, suites={}
    )
    with database.writer(db) as connection:
        publish(connection, path, what)
    return path


def copied(path: Path, folder: Path) -> Path:
    """The test's own copy."""
    return Path(shutil.copyfile(path, folder / path.name))


__all__ = ["START", "copied", "published", "rows_of", "run_id", "warehouse"]
