"""A warehouse of many runs with sound evidence, made without MLflow: for measuring the gate, never for showing.

Every number in it was invented by ``tests/honest.py``; its key is thrown away with its folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection

from hwbench_mlflow.attest import Keyring
from hwbench_mlflow.codec import sha256
from hwbench_mlflow.evidence import RunIndex
from hwbench_mlflow.keystore import signing_key
from hwbench_mlflow.model import BenchmarkResult, OutputCheck
from hwbench_mlflow.warehouse import database
from hwbench_mlflow.warehouse.stage import CHILDREN, FINGERPRINTS, row_hash
from hwbench_mlflow.warehouse.star import Star
from tests.gates.corpus import claimed
from tests.warehouse.results import distinct


class Kept:
    """Evidence from memory."""

    def __init__(self, files: Mapping[str, dict[str, bytes]]) -> None:
        self.files = files

    def fetch(self, run_id: str, artifact_uri: str, names: Sequence[str]) -> dict[str, bytes]:
        """The files of a run."""
        return self.files[run_id]


def make(db: Path, home: Path, count: int) -> Keyring:
    """Fill a new warehouse with ``count`` verified runs; the keyring that trusts them."""
    key = signing_key(home)
    keyring = Keyring({key.public.keyid: key.public})
    files: dict[str, dict[str, bytes]] = {}
    indexes: list[RunIndex] = []
    for seed in range(count):
        run_id = sha256(f"run {seed}".encode())[:32]
        result, samples = distinct(seed)
        found, index = claimed(_as_torch_writes(result, seed), samples, run_id, key)
        files[run_id] = found
        indexes.append(index)
    with database.writer(db) as connection:
        _mirror(connection, indexes)
        Star(keyring, Kept(files)).fill(connection)
    return keyring


def _as_torch_writes(result: BenchmarkResult, seed: int) -> BenchmarkResult:
    """With outputs of float32's digits and roundings, as a real run has them: of the honest result's few binary digits
    the file is half as long, and a writer of shortest forms takes twice as long for each."""
    draw = np.random.default_rng(seed)

    def drawn(check: OutputCheck) -> OutputCheck:
        reference = draw.standard_normal(len(check.reference), dtype=np.float32)
        observed = reference + draw.standard_normal(len(reference), dtype=np.float32) * np.float32(1e-6)
        return replace(check, reference=tuple(reference.tolist()), observed=tuple(observed.tolist()))

    return replace(
        result, workers=tuple(replace(w, outputs=tuple(map(drawn, w.outputs))) for w in result.workers)
    )  # fmt: skip


def _mirror(connection: DuckDBPyConnection, indexes: Sequence[RunIndex]) -> None:
    connection.execute("INSERT INTO mlflow.experiments (experiment_id, name) VALUES (0, 'made')")
    runs = pa.table({"run_uuid": [i.run_id for i in indexes]})
    connection.register("made", runs)
    connection.execute(
        "INSERT INTO mlflow.runs (run_uuid, status, lifecycle_stage, artifact_uri, experiment_id, start_time) "
        "SELECT run_uuid, 'FINISHED', 'active', 'made', 0, 0 FROM made"
    )
    for table, name in (("params", "params"), ("tags", "tags")):
        triples = [(i.run_id, k, v) for i in indexes for k, v in getattr(i, name).items()]
        columns = dict(zip(("run_uuid", "key", "value"), zip(*triples, strict=True), strict=True))
        connection.register("made", pa.table({k: list(v) for k, v in columns.items()}))
        connection.execute(f"INSERT INTO mlflow.{table} SELECT run_uuid, key, value FROM made")
    points = [(i.run_id, k, v[0]) for i in indexes for k, v in i.metrics.items()]
    columns = dict(zip(("run_uuid", "key", "value"), zip(*points, strict=True), strict=True))
    connection.register("made", pa.table({k: list(v) for k, v in columns.items()}))
    for table in ("metric_history", "latest_metrics"):
        connection.execute(
            f"INSERT INTO mlflow.{table} (run_uuid, key, value, timestamp, step, is_nan) "
            "SELECT run_uuid, key, value, 0, 0, false FROM made"
        )
    connection.unregister("made")
    joins = " ".join(
        f"LEFT JOIN (SELECT run_uuid, sum({row_hash(t)}::HUGEINT) AS fp FROM mlflow.{t} GROUP BY 1) {t} "
        "USING (run_uuid)"
        for t in CHILDREN
    )
    fps = ", ".join(f"coalesce({t}.fp, 0) AS {FINGERPRINTS[t]}" for t in CHILDREN)
    connection.execute(
        f"""INSERT INTO mlflow.run_state BY NAME SELECT run_uuid, {row_hash("runs", "r")}::HUGEINT AS fp_run, {fps},
                   '{database.engine()}' AS engine FROM mlflow.runs r {joins}"""
    )
    connection.execute(
        "INSERT INTO mlflow.sync_log (sync_id, started_at, finished_at, store, reader, mode, scope, hwbench_version) "
        "VALUES (1, now()::TIMESTAMP, now()::TIMESTAMP, 'made', 'made', 'full', '', '0')"
    )
