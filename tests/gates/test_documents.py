"""Estimates and calibrations behind the gate: published apart, counted, and never among results."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import duckdb
import pytest

import hwbench_mlflow
from hwbench_mlflow.cli.gate import GateReport, run_gate
from hwbench_mlflow.errors import Refused
from hwbench_mlflow.keystore import load_keyring
from hwbench_mlflow.model import Platform
from hwbench_mlflow.warehouse.frames import SimulatedResultsWarning
from hwbench_mlflow.warehouse.published import open_published
from hwbench_mlflow.warehouse.query import run_query
from hwbench_mlflow.warehouse.readers.sqlite import SqliteReader
from hwbench_mlflow.warehouse.star import Star
from hwbench_mlflow.warehouse.sync import SyncOptions, sync, verify_store
from tests.documents import claimed_estimate, estimate, log_estimate, put, replace
from tests.gates.conftest import edit
from tests.gates.corpus import plant
from tests.test_documents import EDITS
from tests.warehouse.results import Lab, make_lab

Here = tuple[Lab, Path]


@pytest.fixture
def here(documented: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    lab, db = documented
    monkeypatch.setenv("HWBENCH_HOME", str(lab.home))
    return lab, Path(shutil.copyfile(db, tmp_path / "hwbench.duckdb"))


def gated(db: Path) -> tuple[GateReport, Path]:
    path = db.with_name("published.duckdb")
    return run_gate(db, path)[0], path


def test_each_is_published_in_a_table_of_its_own_and_counted(here: Here) -> None:
    lab, db = here
    report, path = gated(db)
    assert report.refusals == []
    assert report.counts is not None
    counts = report.counts
    assert (counts.rows_in, counts.rows_real, counts.rows_estimates, counts.rows_rooflines) == (3, 1, 1, 1)
    with open_published(path) as found:
        real, estimates, rooflines = (found.frame(t) for t in ("real_results", "estimates", "rooflines"))
        assert list(real.run_id) == [lab.runs[0]]
        assert list(estimates.run_id) == [lab.runs[1]]
        assert estimates.is_simulated.all()
        assert list(estimates.verdict) == ["simulated"]
        assert list(estimates.simulation_reason) == ["roofline estimate from datasheet h100-sxm; nothing was measured"]
        assert list(rooflines.run_id) == [lab.runs[2]]
        assert rooflines.peak_tflops_fp32[0] == pytest.approx(0.1)
    assert not set(estimates.columns) & {"latency_ms_p50", "throughput_items_per_s", "sample_count"}


def test_they_are_reached_by_name_only(here: Here) -> None:
    lab, db = here
    _, path = gated(db)
    for sql, found in (
        ("SELECT run_id FROM performance_results", [(lab.runs[0],)]),
        ("SELECT run_id, is_simulated FROM estimates", [(lab.runs[1], True)]),
    ):
        with run_query(path, sql) as (_, rows):
            assert list(rows) == found
    frame = hwbench_mlflow.load_results(path, include=("verified", "simulated"))
    assert list(frame.run_id) == [lab.runs[0]]
    for source in (path, db):
        with pytest.warns(SimulatedResultsWarning, match="1 roofline estimates: nothing was measured"):
            assert list(hwbench_mlflow.load_estimates(source).run_id) == [lab.runs[1]]


def test_without_an_estimate_nobody_is_warned(synced: Here, tmp_path: Path) -> None:
    db = Path(shutil.copyfile(synced[1], tmp_path / "w.duckdb"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(hwbench_mlflow.load_estimates(db)) == 0


def test_a_full_sync_finds_them_exact(here: Here) -> None:
    lab, db = here
    assert verify_store(SqliteReader(lab.path), db, Star(load_keyring(lab.home))) == []


BY_HAND = {
    "the number": "UPDATE estimates SET estimate_latency_ms_low = 0.001",
    "the device": "UPDATE estimates SET device_product = 'Test CPU'",
    "the reason": "UPDATE estimates SET simulation_reason = 'measured'",
    "its bandwidth": "UPDATE rooflines SET memory_bandwidth_gb_per_s = 9000",
    "a row taken away": "DELETE FROM estimates",
    "the role": "UPDATE benchmark_runs SET role = 'roofline', reasons = ['x'] WHERE role = 'estimate'",
}


@pytest.mark.parametrize("what", BY_HAND)
def test_an_edit_by_hand_is_quarantined(what: str, here: Here) -> None:
    _, db = here
    edit(db, BY_HAND[what])
    report, path = gated(db)
    assert report.refusals == []
    assert [rule for _, rule, _ in report.quarantine] == ["evidence.rederived"]
    with open_published(path) as found:
        assert len(found.frame("real_results")) == 1
        assert len(found.frame("estimates")) + len(found.frame("rooflines")) == 1
        assert found.frame("quarantine").run_id.nunique() == 1


def test_no_table_takes_an_estimate_that_is_not_simulated(here: Here) -> None:
    _, db = here
    for change in ("is_simulated = false", "verdict = 'verified'", "simulation_reason = ''"):
        with pytest.raises(duckdb.ConstraintException):
            edit(db, f"UPDATE estimates SET {change}")
    with pytest.raises(duckdb.ConstraintException):
        edit(db, "UPDATE benchmark_runs SET verdict = 'verified' WHERE role = 'estimate'")


def test_a_published_file_with_a_changed_estimate_is_refused(here: Here) -> None:
    _, path = gated(here[1])
    edit(path, "UPDATE estimates SET estimate_latency_ms_low = 0.001")
    with pytest.raises(Refused, match="was edited after it was published"):
        open_published(path)


# --- the red team -------------------------------------------------------------------------------


def as_measurement(lab: Lab, victim: str) -> list[str]:
    """SQL that gives the victim's estimate a row among the results, made of the honest one's."""
    forged = {
        "run_id": victim, "result_id": "ef" * 16, "result_sha256": "ef" * 32, "device_name": "NVIDIA H100",
    }  # fmt: skip
    replaced = ", ".join(f"'{value}' AS {name}" for name, value in forged.items())
    return [
        f"INSERT INTO performance_results SELECT * REPLACE ({replaced}, 1.5 AS latency_ms_p50) "
        f"FROM performance_results WHERE run_id = '{lab.runs[0]}'"
    ]


@pytest.mark.slow
def test_no_forged_estimate_reaches_the_real_results(empty_store: Path, tmp_path: Path) -> None:
    store = Path(shutil.copyfile(empty_store, tmp_path / "mlflow.db"))
    lab = make_lab(store, tmp_path / "home", tmp_path / "artifacts")
    lab.runs = [lab.add(0)]
    honest_estimate = log_estimate(lab, estimate(1))
    forged: dict[str, str] = {}
    for number, (name, (change, _, _)) in enumerate(EDITS.items(), start=10):
        if name == "another run's":  # the store gives each run its own id: copied below
            continue
        forged[name] = plant(
            lab,
            lambda run, n=number, c=change: c(claimed_estimate(estimate(n), run, lab.key)),  # type: ignore[misc]
        )
    # Renamed to a result, with a result's params and tags, and its times logged as a measurement's.
    renamed = log_estimate(lab, estimate(2))
    document = (lab.folder(renamed) / "estimate.json").read_bytes()
    put(lab, renamed, "result.json", document)
    for name, value in (("hwbench.result_id", "ab" * 16), ("hwbench.result_sha256", "0" * 64)):
        lab.client.log_param(renamed, name, value)
    for name, value in (("is_simulated", "false"), ("verdict", "verified"), ("hwbench.role", "result")):
        lab.client.set_tag(renamed, name, value)
    lab.client.log_metric(renamed, "latency_ms_p50", 1.5)
    # Another's row among the results, written into the warehouse.
    inserted = log_estimate(lab, estimate(3))
    wrong = replace(estimate(4), is_simulated=False, simulation_reason="measured")
    said_real = plant(lab, lambda run: claimed_estimate(wrong, run, lab.key))
    on_cpu = replace(estimate(5), platform=Platform.CPU)
    copied = plant(lab, lambda _: claimed_estimate(on_cpu, honest_estimate, lab.key))
    db = tmp_path / "hwbench.duckdb"
    sync(SqliteReader(store), db, SyncOptions(), judge=Star(load_keyring(lab.home)))
    for sql in as_measurement(lab, inserted):
        edit(db, sql)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWBENCH_HOME", str(lab.home))
        report, path = gated(db)
    assert report.refusals == []
    with open_published(path) as found:
        tables = {t: set(found.frame(t).run_id) for t in ("real_results", "simulated_results", "estimates")}
        quarantined = set(found.frame("quarantine").run_id)
    assert tables == {"real_results": set(lab.runs), "simulated_results": set(), "estimates": {honest_estimate}}
    assert quarantined == {*forged.values(), renamed, inserted, said_real, copied}
    assert report.counts is not None
    assert report.counts.rows_in == 2 + len(quarantined)
