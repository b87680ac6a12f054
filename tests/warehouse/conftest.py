"""Stores and comparisons shared by the warehouse's tests."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import duckdb
import pytest

from tests.warehouse.servers import cluster, guarded, maria, tracking  # noqa: F401 -- fixtures, one of each a session

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

MIRRORED = (
    "mlflow.experiments", "mlflow.experiment_tags", "mlflow.runs", "mlflow.tags", "mlflow.params",
    "mlflow.latest_metrics", "mlflow.metric_history", "mlflow.run_state",
)  # fmt: skip


def dump(db: Path, tables: tuple[str, ...] = MIRRORED) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the tables, as text so that NaN equals NaN, sorted."""
    with duckdb.connect(str(db), read_only=True) as connection:
        return {
            t: sorted(tuple(str(v) for v in row) for row in connection.execute(f"FROM {t}").fetchall()) for t in tables
        }


def events(db: Path) -> list[tuple[object, ...]]:
    """``(kind, key, old, new)`` of every event, in order."""
    with duckdb.connect(str(db), read_only=True) as connection:
        return connection.execute(
            "SELECT kind, key, old_value, new_value FROM mlflow.run_events ORDER BY sync_id, rowid"
        ).fetchall()


def collect_garbage(uri: str, tracking_uri: str | None = None) -> None:
    """``mlflow gc`` as its users run it, but in this process."""
    from click.testing import CliRunner

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing MLflow's command line warns of its own affairs
        import mlflow
        from mlflow.cli import gc as command

        # The command sets the store of the whole process, and of its environment: later tests have their own.
        before = os.environ.get("MLFLOW_TRACKING_URI")
        try:
            outcome = CliRunner().invoke(command, ["--backend-store-uri", uri, "--tracking-uri", tracking_uri or uri])
        finally:
            mlflow.set_tracking_uri(None)
            os.environ.pop("MLFLOW_TRACKING_URI", None)
            if before is not None:
                os.environ["MLFLOW_TRACKING_URI"] = before
    assert outcome.exit_code == 0, outcome.output


def gc(store: Path) -> None:
    collect_garbage(f"sqlite:///{store}")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with MLflow's schema and nothing in it; making one takes MLflow seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own use of SQLAlchemy 2.1, not ours
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Path:
    """A fresh SQLite store of the test's own."""
    path = tmp_path / "mlflow.db"
    shutil.copyfile(empty_store, path)
    return path
