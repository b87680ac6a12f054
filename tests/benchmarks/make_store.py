"""Write an MLflow SQLite store of any size: MLflow makes the schema, plain sqlite3 fills it.

    python -m tests.benchmarks.make_store /tmp/store.db --runs 10000

Deterministic for a given size, so two machines measure the same store.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

METRICS, PARAMS, TAGS = 20, 12, 15
CHUNK = 2_000


def make_store(path: Path, runs: int, *, history: int = 1) -> None:
    """Create ``path`` with ``runs`` finished runs; ``history`` points for each of their metrics."""
    from mlflow import MlflowClient

    path.unlink(missing_ok=True)
    client = MlflowClient(f"sqlite:///{path}")
    experiment = int(client.create_experiment("benchmarks", artifact_location=str(path.parent / "artifacts")))
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA synchronous=OFF")
        draw = random.Random(runs)
        for begin in range(0, runs, CHUNK):
            ids = [f"{draw.getrandbits(128):032x}" for _ in range(min(CHUNK, runs - begin))]
            _fill(connection, ids, begin, experiment, history, draw)
            connection.commit()
    finally:
        connection.close()


def _fill(  # noqa: PLR0917
    connection: sqlite3.Connection, ids: list[str], begin: int, experiment: int, history: int, draw: random.Random
) -> None:
    base = 1_760_000_000_000 + begin * 1_000
    connection.executemany(
        "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,"
        " end_time, source_version, lifecycle_stage, artifact_uri, experiment_id) "
        "VALUES (?, ?, 'UNKNOWN', '', '', 'bench', 'FINISHED', ?, ?, '', 'active', ?, ?)",
        [
            (i, f"run-{begin + n}", base + n * 1_000, base + n * 1_000 + 900, f"/nowhere/{i}/artifacts", experiment)
            for n, i in enumerate(ids)
        ],
    )
    connection.executemany(
        "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
        ((f"tag.{k}", f"value {draw.randrange(1000)} of {k}", i) for i in ids for k in range(TAGS)),
    )
    connection.executemany(
        "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
        ((f"param.{k}", str(draw.randrange(10_000)), i) for i in ids for k in range(PARAMS)),
    )
    points = list(_points(ids, base, history, draw))
    connection.executemany(
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)", points
    )
    connection.executemany(
        "INSERT INTO latest_metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)",
        [p for p in points if p[4] == history - 1],
    )


def _points(ids: list[str], base: int, history: int, draw: random.Random) -> Iterator[tuple[str, float, int, str, int]]:
    for i in ids:
        for k in range(METRICS):
            for step in range(history):
                yield f"metric_{k}_ms", draw.random() * 100, base + step, i, step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--history", type=int, default=1)
    options = parser.parse_args()
    make_store(options.path, options.runs, history=options.history)
