"""The rules across rows and tables: each passes over an honest warehouse and bites on the one thing that it is for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from hwbench_mlflow.keystore import load_keyring
from hwbench_mlflow.rules import Outcome, RuleKind, decide
from hwbench_mlflow.warehouse import audit, database
from hwbench_mlflow.warehouse.rederive import Rederived, rederive
from tests.gates.conftest import edit
from tests.warehouse.results import Lab

NOW = datetime(2026, 12, 1)


def audited(db: Path, now: datetime = NOW, max_age: timedelta | None = None) -> dict[str, Outcome]:
    with database.writer(db) as connection:
        found = [audit.schema(connection, db), *audit.audit(connection, now, max_age=max_age)]
    return {outcome.rule: outcome for outcome in found}


def again(lab: Lab, db: Path) -> Rederived:
    with database.writer(db) as connection:
        return rederive(connection, load_keyring(lab.home))


def test_an_honest_warehouse_passes(lab: Lab, db: Path) -> None:
    found = audited(db)
    assert [o.reason for o in found.values() if not o.passed] == []
    assert set(found) == {
        "warehouse.schema", "sync.finished", "sync.looked_at_tags", "mirror.fingerprints", "results.orphans",
        "children.orphans", "evidence.replayed", "evidence.kept", "availability.rests_on_probe", "hardware.same",
        "memory.within_device", "samples.counted", "aggregates.recompute", "findings.agree", "time.not_ahead",
        "numbers.finite", "server.recompute", "generation.whole", "hearing.whole",
    }  # fmt: skip
    assert all(o.evaluated for o in found.values())
    derived = again(lab, db)
    assert (derived.edited, derived.absent, derived.probes) == ({}, {}, set())
    assert (derived.runs, len(derived.unproven)) == (7, 1)


ONE = "WHERE run_id = '{run}'"
BITES: dict[str, tuple[str, str]] = {
    "sync.finished": ("UPDATE mlflow.sync_log SET finished_at = NULL", "did not finish"),
    "sync.looked_at_tags": (
        "UPDATE mlflow.sync_log SET mode = 'fast'; UPDATE mlflow.sync_state SET "
        "state = json_merge_patch(state::JSON, '{\"fast\": true}')::VARCHAR", "was a fast one",
    ),
    "mirror.fingerprints": ("UPDATE mlflow.params SET value = 'x' WHERE run_uuid = '{run}'", "not those of the last"),
    "results.orphans": ("DELETE FROM models", "no row in models"),
    "children.orphans": ("DELETE FROM benchmark_runs " + ONE, "latency_samples"),
    "evidence.replayed": (
        "UPDATE performance_results SET result_sha256 = (SELECT max(result_sha256) FROM performance_results)",
        "also that",
    ),
    "evidence.kept": ("UPDATE evidence_files SET content = 'x'::BLOB " + ONE, "another digest"),
    "availability.rests_on_probe": (
        "UPDATE hardware_availability_log SET is_verified = false " + ONE, "no probe cdcd",
    ),
    "hardware.same": ("UPDATE hardware_platforms SET host_id = 'elsewhere'", "of host elsewhere"),
    "memory.within_device": ("UPDATE performance_results SET memory_peak_mb = 1e6 " + ONE, "the host has 16000"),
    "samples.counted": (
        "DELETE FROM latency_samples WHERE phase = 'warmup' AND run_id = '{run}'", "there are 40 and 0"
    ),
    "generation.whole": (
        "UPDATE performance_results SET phase = 'generate', kv_cache = true, output_tokens = 4, "
        "tokens_per_s = 5 * throughput_items_per_s " + ONE, "phase generate: 4 tokens at",
    ),
    "hearing.whole": ("UPDATE performance_results SET real_time_factor = 7 " + ONE, "no s of audio an item"),
    "aggregates.recompute": (
        "UPDATE latency_samples SET latency_ms = latency_ms * 0.999 " + ONE, "its samples have median",
    ),
    "server.recompute": (
        "UPDATE performance_results SET scenario = 'server', latency_bound_ms = 5, latency_percentile = 99, "
        "offered_rate_per_s = 9, late_count = 0 " + ONE, "queries lack a time",
    ),
    "findings.agree": ("INSERT INTO verdict_findings VALUES ('{run}', 0, 'r', 'unverified', 'x')", "1 findings and 0"),
    "time.not_ahead": ("UPDATE performance_results SET created_at = '2030-01-01' " + ONE, "after this gate"),
    "numbers.finite": ("UPDATE performance_results SET load_after = 'nan'::DOUBLE " + ONE, "load_after"),
}  # fmt: skip


@pytest.mark.parametrize("rule", BITES)
def test_every_rule_bites(rule: str, lab: Lab, db: Path) -> None:
    sql, reason = BITES[rule]
    edit(db, sql.replace("{run}", lab.runs[0]))
    outcome = audited(db)[rule]
    assert not outcome.passed
    assert reason in str(outcome.reason), outcome.reason
    if outcome.kind is RuleKind.ROW:
        assert lab.runs[0] in {key for key, _ in outcome.refused}
        assert decide([outcome], strict=False).publish
    assert not decide([outcome], strict=True).publish


def test_each_unfinished_sync_is_counted_once_and_no_sync_at_all_is_no_finished_one(db: Path) -> None:
    edit(db, "UPDATE mlflow.sync_log SET finished_at = NULL")
    assert audited(db)["sync.finished"].reason == "1 of 1: sync 1 did not finish"
    edit(db, "DELETE FROM mlflow.sync_log")
    outcome = audited(db)["sync.finished"]
    assert outcome.reason == "1 of 0: no sync was ever made"
    assert not decide([outcome], strict=False).publish


def test_no_rule_is_without_a_test() -> None:
    assert {rule.rule for rule in audit.RULES} | {"numbers.finite"} == set(BITES)


def test_device_memory_is_bounded_by_the_device(lab: Lab, db: Path) -> None:
    edit(db, "UPDATE hardware_platforms SET memory_bytes = 1000000000")
    edit(db, "UPDATE performance_results SET device_memory_peak_mb = 2000 WHERE run_id = ?", lab.runs[0])
    assert audited(db)["memory.within_device"].refused == ((lab.runs[0], "2000.0 MB used; the device has 1000"),)


def test_a_mirror_of_another_engine_is_unknown(lab: Lab, db: Path) -> None:
    edit(db, "UPDATE mlflow.run_state SET engine = 'duckdb 1.0'")
    outcome = audited(db)["mirror.fingerprints"]
    assert outcome.unexpected == 7
    assert "written by duckdb 1.0" in str(outcome.reason)


def test_a_sync_that_is_too_old_refuses_only_who_asks(db: Path) -> None:
    later = datetime.now() + timedelta(days=3)
    assert "sync.recent" not in audited(db, later)
    assert not audited(db, later, timedelta(hours=1))["sync.recent"].passed
    assert audited(db, later, timedelta(days=9))["sync.recent"].passed
    assert audited(db, later, timedelta.max)["sync.recent"].passed


@pytest.mark.parametrize("ended", ["'infinity'", "'-infinity'", "now()::TIMESTAMP + INTERVAL 2 DAYS", "NULL"])
def test_a_sync_that_is_dated_by_hand_is_not_recent(ended: str, db: Path) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    assert audited(db, now, timedelta(days=1))["sync.recent"].passed
    edit(db, f"UPDATE mlflow.sync_log SET finished_at = {ended}")
    assert not audited(db, now, timedelta(days=1))["sync.recent"].passed


REMADE = "CREATE TABLE t AS FROM performance_results; DROP VIEW latest_results; DROP VIEW verified_results; " \
    "DROP VIEW simulated_results; DROP VIEW unverified_results; DROP TABLE performance_results; {change}; " \
    "ALTER TABLE t RENAME TO performance_results"  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE t SET is_simulated = NULL",
        "UPDATE t SET is_simulated = false, simulation_reason = NULL, verdict = 'verified', reasons = []",
        "ALTER TABLE t DROP COLUMN is_simulated",
        "ALTER TABLE t ALTER is_simulated TYPE VARCHAR",
        "ALTER TABLE t ADD COLUMN approved BOOLEAN",
        "SELECT 1",
    ],
)
def test_a_table_without_its_constraints_is_refused(change: str, db: Path) -> None:
    edit(db, REMADE.format(change=change))
    with database.writer(db) as connection:
        outcome = audit.schema(connection, db)
    assert "table main.performance_results is not as hwbench makes it" in str(outcome.reason)
    assert not decide([outcome], strict=False).publish


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("CREATE MACRO to_json(x) AS '{}'", "function main.to_json"),
        ("CREATE MACRO mlflow.any_name(x) AS x", "function mlflow.any_name"),
        ("CREATE MACRO duckdb_functions() AS TABLE SELECT 1 AS x", "function main.duckdb_functions"),
        ("CREATE MACRO duckdb_tables() AS TABLE SELECT 1 AS x", "function main.duckdb_tables"),
        ("CREATE MACRO duckdb_triggers() AS TABLE SELECT 1 AS x", "function main.duckdb_triggers"),
        ("CREATE TYPE json AS VARCHAR", "type main.json"),
        ("CREATE TRIGGER t AFTER INSERT ON gate_results FOR EACH STATEMENT DELETE FROM models", "trigger main.t"),
    ],
)
def test_what_changes_the_meaning_of_sql_refuses_everything(sql: str, name: str, db: Path) -> None:
    edit(db, sql)
    with database.writer(db) as connection:
        outcome = audit.schema(connection, db)
    assert f"{name} is not hwbench's" in str(outcome.reason)
    assert not decide([outcome], strict=False).publish


def test_a_table_that_is_gone_is_refused_and_so_is_a_rule_that_cannot_be_asked(db: Path) -> None:
    edit(db, "DROP TABLE latency_samples")
    found = audited(db)
    assert "table main.latency_samples is missing" in str(found["warehouse.schema"].reason)
    assert str(found["samples.counted"].reason).startswith("not evaluated: ")
    assert not decide([found["samples.counted"]], strict=False).publish


@pytest.mark.parametrize("table", ["performance_results", "benchmark_runs"])
def test_a_result_that_was_taken_away_refuses_everything(table: str, lab: Lab, db: Path) -> None:
    edit(db, f"DELETE FROM {table} WHERE run_id = ?", lab.runs[1])
    found = again(lab, db)
    assert set(found.absent) == {lab.runs[1]}
    complete = next(o for o in found.outcomes() if o.rule == "evidence.complete")
    assert not decide([complete], strict=False).publish


@pytest.mark.parametrize("table", ["models", "hardware_platforms"])
def test_an_edited_model_or_device_keeps_all_of_its_results_out(table: str, lab: Lab, db: Path) -> None:
    name = {"models": "model_name", "hardware_platforms": "vendor"}[table]
    edit(db, f"UPDATE {table} SET {name} = 'Another'")
    assert set(lab.runs) <= set(again(lab, db).edited)


def test_a_key_that_is_trusted_since_needs_a_sync_and_nothing_else_does(lab: Lab, db: Path) -> None:
    from hwbench_mlflow.attest import Keyring

    ring = load_keyring(lab.home)
    with database.writer(db) as connection:
        nobody = rederive(connection, Keyring({}))
        assert set(lab.runs) <= set(nobody.unproven)
        assert set(lab.runs) <= set(nobody.edited)
        more = Keyring({**ring.keys, "x": next(iter(ring.keys.values()))})
        assert rederive(connection, more).edited == {}


def test_chunks_change_nothing(lab: Lab, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(db, "UPDATE performance_results SET ranked = NOT ranked WHERE run_id = ?", lab.runs[2])
    whole = again(lab, db)
    monkeypatch.setattr("hwbench_mlflow.warehouse.rederive.CHUNK_RUNS", 1)
    assert again(lab, db) == whole
    monkeypatch.setattr("hwbench_mlflow.warehouse.rederive.CHUNK_BYTES", 1)
    assert again(lab, db) == whole
    assert set(whole.edited) == {lab.runs[2]}


def test_frames_are_all_rows_in_pieces_though_some_were_deleted(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(db, "DELETE FROM latency_samples WHERE sample < 7")
    with duckdb.connect(str(db)) as connection:
        [(rows,)] = connection.execute("SELECT count(*) FROM latency_samples").fetchall()
        monkeypatch.setattr(audit, "FRAME_ROWS", 50)
        pieces = list(audit.frames(connection, "latency_samples", ["run_id", "sample", "no such column"]))
        assert sum(map(len, pieces)) == rows
        assert len(pieces) > 3
        assert list(pieces[0].columns) == ["run_id", "sample"]
