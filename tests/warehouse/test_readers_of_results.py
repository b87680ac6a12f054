"""Whoever asks the warehouse: load_results, query, verify --store, and the sync entry point."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import hwbench_mlflow
from hwbench_mlflow.cli.query import query
from hwbench_mlflow.cli.sync import sync
from hwbench_mlflow.cli.verify import verify
from hwbench_mlflow.errors import StoreError, UsageError
from hwbench_mlflow.warehouse.frames import SimulatedResultsWarning
from tests.warehouse.results import Lab, make_lab
from tests.warehouse.test_star import emulated

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, isolated: Path) -> tuple[Lab, Path]:
    """A store with a verified, a contradicted and a simulated result, and its warehouse; keys of this machine."""
    folder = tmp_path_factory.mktemp("asked")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    lab = make_lab(folder / "mlflow.db", isolated, folder / "artifacts")
    lab.runs += [lab.add(0), lab.add(1), lab.add(2, emulated)]
    lab.client.set_tag(lab.runs[1], "model", "gpt-7")
    done = CliRunner().invoke(sync, ["--tracking-uri", f"sqlite:///{lab.path}", "--db", str(folder / "w.duckdb")])
    assert "1 contradicted, 1 simulated, 1 verified" in done.stdout
    return lab, folder / "w.duckdb"


def test_load_results_gives_the_verified_ones(made: tuple[Lab, Path]) -> None:
    lab, db = made
    frame = hwbench_mlflow.load_results(db)
    assert list(frame["run_id"]) == [lab.runs[0]]
    assert frame.loc[0, ["model_name", "hardware_type", "verdict", "sample_count"]].tolist() == [
        "bert-tiny", "cpu", "verified", 40,
    ]  # fmt: skip
    assert frame["latency_ms_p99"].isna().all(), "unknown is not a number, and never zero"
    assert str(frame["created_at"].dtype).startswith("datetime64")
    assert not frame.columns.duplicated().any()


def test_simulated_results_come_only_when_asked_for_and_with_a_warning(made: tuple[Lab, Path]) -> None:
    lab, db = made
    with pytest.warns(SimulatedResultsWarning, match="1 of 2 results are simulated"):
        frame = hwbench_mlflow.load_results(db, include=["verified", "simulated"])
    assert set(frame["run_id"]) == {lab.runs[0], lab.runs[2]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(hwbench_mlflow.load_results(db, include="contradicted")["run_id"]) == [lab.runs[1]]
    with pytest.raises(UsageError, match="'all' is no verdict"):
        hwbench_mlflow.load_results(db, include=["all"])
    with pytest.raises(StoreError, match="no warehouse"):
        hwbench_mlflow.load_results(db.with_name("absent.duckdb"))
    with pytest.raises(AttributeError, match="load_resluts"):
        _ = hwbench_mlflow.load_resluts


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, hwbench_mlflow; assert not {'pandas', 'duckdb', 'numpy', 'click'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_parquet_needs_a_file_and_is_the_same_rows(made: tuple[Lab, Path], tmp_path: Path) -> None:
    _, db = made
    out, sql = tmp_path / "r.parquet", "FROM performance_results ORDER BY run_id"
    assert CliRunner().invoke(query, [sql, "--db", str(db), "--format", "parquet"]).exit_code == 2
    assert CliRunner().invoke(query, [sql, "--db", str(db), "--format", "parquet", "-o", str(out)]).exit_code == 0
    with duckdb.connect(str(db), read_only=True) as connection:
        assert pq.read_table(out).equals(connection.sql(sql).to_arrow_table())
    gone = CliRunner().invoke(query, [sql, "--db", str(db), "--format", "parquet", "-o", str(tmp_path / "no" / "dir")])
    assert isinstance(gone.exception, StoreError)
    assert [p.name for p in tmp_path.iterdir()] == ["r.parquet"]


def test_any_form_can_go_to_a_file(made: tuple[Lab, Path], tmp_path: Path) -> None:
    _, db = made
    out = tmp_path / "r.json"
    sql = "SELECT verdict FROM performance_results ORDER BY 1"
    CliRunner().invoke(query, [sql, "--db", str(db), "--format", "json", "-o", str(out)], catch_exceptions=False)
    assert [r["verdict"] for r in json.loads(out.read_text())] == ["contradicted", "simulated", "verified"]


def verified(lab: Lab, db: Path, *flags: str) -> Result:
    return CliRunner().invoke(verify, ["--store", "--tracking-uri", f"sqlite:///{lab.path}", "--db", str(db), *flags])


def test_verify_store_refuses_drift_with_3(made: tuple[Lab, Path], tmp_path: Path) -> None:
    lab, original = made
    db = tmp_path / "w.duckdb"
    shutil.copyfile(original, db)
    exact = verified(lab, db)
    assert (exact.exit_code, exact.stdout) == (0, f"{db} is exactly what the store holds\n")
    with duckdb.connect(str(db)) as connection:
        connection.execute("UPDATE performance_results SET latency_ms_min = 1 WHERE verdict = 'verified'")
        connection.execute("DELETE FROM mlflow.params WHERE run_uuid = ?", [lab.runs[0]])
    drift = verified(lab, db, "--json")
    assert drift.exit_code == 3
    tables = {t["table"]: t for t in json.loads(drift.stdout)["tables"]}
    assert tables["performance_results"]["only_in_warehouse"] >= 1
    assert tables["params"]["only_in_store"] > 0
    assert "performance_results: " in verified(lab, db).stdout
    for flags in ([], ["--store", "a-run"]):
        assert CliRunner().invoke(verify, flags).exit_code == 2


def test_the_mlproject_entry_point_is_a_command_that_works(made: tuple[Lab, Path], tmp_path: Path) -> None:
    lab, _ = made
    text = (ROOT / "MLproject").read_text()
    entry = re.search(r"^  sync:\n(?:    .*\n?)+", text, re.MULTILINE)
    assert entry is not None
    command = re.search(r"command: python -m hwbench_mlflow (.*)", entry[0])
    assert command is not None
    assert re.search(r"db: \{type: string, default: hwbench.duckdb\}", entry[0])
    db = tmp_path / "w.duckdb"
    arguments = shlex.split(command[1].replace("{db}", str(db)))
    done = subprocess.run(
        [sys.executable, "-m", "hwbench_mlflow", *arguments, "--tracking-uri", f"sqlite:///{lab.path}"],
        check=True, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert "results judged: 1 contradicted, 1 simulated, 1 verified" in done.stdout
    assert db.exists()
