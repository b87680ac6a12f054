"""Results in the warehouse: judged by whoever syncs, from evidence, and kept up with every change of their run."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pytest

from hwbench_mlflow.attest import SigningKey
from hwbench_mlflow.codec import decode_result, encode
from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.keystore import load_keyring, revoke, signing_key, trust
from hwbench_mlflow.metrics import METRICS
from hwbench_mlflow.model import (
    SCHEMA_VERSION,
    Availability,
    AvailabilityStatus,
    BenchmarkResult,
    Failure,
    FailureCategory,
    Platform,
    SampleSet,
)
from hwbench_mlflow.warehouse import database, star
from hwbench_mlflow.warehouse.readers import Mode
from hwbench_mlflow.warehouse.readers.sqlite import SqliteReader
from hwbench_mlflow.warehouse.star import Star
from hwbench_mlflow.warehouse.sync import SyncOptions, SyncSummary, sync, verify_store
from tests.honest import honest
from tests.warehouse.conftest import dump, gc
from tests.warehouse.results import Lab, distinct, make_lab, write
from tests.warehouse.scenarios import HOSTILE, fill

pytestmark = [
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),  # MLflow's use of SQLAlchemy 2.1
]

STAR = (
    "benchmark_runs", "evidence_files", "models", "hardware_platforms", "performance_results", "latency_samples",
    "verdict_findings",
)  # fmt: skip
LOG = ("hardware_availability_log",)
replace = dataclasses.replace


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, Path, list[str]]:
    """A store with three honest results and a run that is not hwbench's, and the key that signed them."""
    folder = tmp_path_factory.mktemp("star")
    store = folder / "mlflow.db"
    shutil.copyfile(empty_store, store)
    made = make_lab(store, folder / "home", folder / "artifacts")
    runs = [made.add(seed) for seed in range(3)]
    fill(made.client, "0", 1)
    return store, folder / "home", runs


@pytest.fixture
def lab(template: tuple[Path, Path, list[str]], store: Path, tmp_path: Path) -> Lab:
    """The template as the test's own; the artifacts of its three runs are shared and must not be touched."""
    original, home, runs = template
    shutil.copyfile(original, store)
    shutil.copytree(home, tmp_path / "home")
    return make_lab(store, tmp_path / "home", original.parent / "artifacts", runs)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "w.duckdb"


def synced(lab: Lab, db: Path, *, mode: Mode = Mode.DEFAULT) -> SyncSummary:
    return sync(SqliteReader(lab.path), db, SyncOptions(mode=mode), judge=Star(load_keyring(lab.home)))


def rows(db: Path, sql: str, *values: object) -> list[tuple[object, ...]]:
    with duckdb.connect(str(db), read_only=True) as connection:
        return connection.execute(sql, list(values)).fetchall()


def verdict(db: Path, run_id: str) -> tuple[str, str]:
    """The verdict of a run's row in performance_results, and its reasons in one string."""
    [(found, reasons)] = rows(
        db, "SELECT verdict, array_to_string(reasons, '; ') FROM performance_results WHERE run_id = ?", run_id
    )
    return str(found), str(reasons)


def equals_fresh(lab: Lab, db: Path) -> None:
    fresh = db.with_name("fresh.duckdb")
    fresh.unlink(missing_ok=True)
    synced(lab, fresh)
    assert dump(db, STAR) == dump(fresh, STAR)


def state(db: Path) -> dict[str, list[tuple[object, ...]]]:
    return dump(db, (*STAR, *LOG, "mlflow.run_events", "mlflow.sync_log", "mlflow.sync_state"))


# --- an honest run ------------------------------------------------------------------------------


def test_an_honest_run_is_a_verified_row_with_its_numbers(lab: Lab, db: Path) -> None:
    summary = synced(lab, db)
    assert (summary.verdicts, summary.results_written) == ({"verified": 3}, 3)
    result, samples = distinct(0)
    columns = "latency_ms_p50, latency_ms_p99, sample_count, energy_j, energy_method, is_simulated, created_at::VARCHAR"
    [row] = rows(db, f"SELECT {columns}, key_id, host_id FROM verified_results WHERE result_id = ?", result.result_id)
    assert row == (
        result.aggregates.p50_ms, None, 40, None, None, False, "2026-11-01 10:00:30", lab.key.keyid, "test",
    )  # fmt: skip
    timed = rows(
        db, "SELECT sample_ns, latency_ms FROM latency_samples WHERE run_id = ? AND phase = 'timed' ORDER BY sample",
        lab.runs[0],
    )  # fmt: skip
    assert timed == [(ns, ns / 1e6) for ns in samples.workers[0].samples_ns]
    files = rows(db, "SELECT content FROM evidence_files WHERE run_id = ? AND name = 'result.json'", lab.runs[0])
    assert files == [(encode(result),)]
    assert rows(db, "SELECT count(*), count(DISTINCT model_id) FROM performance_results") == [(3, 1)]


def test_every_metric_has_its_column(lab: Lab, db: Path) -> None:
    synced(lab, db)
    columns = rows(db, "SELECT column_name FROM duckdb_columns() WHERE table_name = 'performance_results'")
    assert set(METRICS) <= {c[0] for c in columns}
    stored = rows(db, "SELECT key, value FROM mlflow.latest_metrics WHERE run_uuid = ?", lab.runs[0])
    for name, value in stored:
        assert rows(db, f'SELECT "{name}" FROM performance_results WHERE run_id = ?', lab.runs[0]) == [(value,)]


def test_the_query_of_the_design_runs_as_written(lab: Lab, db: Path) -> None:
    synced(lab, db)
    found = rows(
        db,
        """SELECT model_name, hardware_type, is_simulated, simulation_reason
           FROM performance_results pr
           JOIN models m ON pr.model_id = m.model_id
           JOIN hardware_platforms hp ON pr.hardware_id = hp.hardware_id
           ORDER BY pr.created_at DESC LIMIT 10;""",
    )
    assert found == [("bert-tiny", "cpu", False, None)] * 3


def test_a_run_that_is_not_ours_is_no_result(lab: Lab, db: Path) -> None:
    synced(lab, db)
    assert rows(db, "SELECT count(*) FROM mlflow.runs") == [(4,)]
    assert {r[0] for r in rows(db, "SELECT run_id FROM benchmark_runs")} == set(lab.runs)


def test_latest_is_one_row_a_configuration(lab: Lab, db: Path) -> None:
    newer = lab.add(9, lambda r, s: (replace(r, finished_at="2026-11-02T10:00:30+00:00",
                                             started_at="2026-11-02T10:00:00+00:00"), s))  # fmt: skip
    synced(lab, db)
    everything = rows(db, "SELECT run_id, verdict FROM performance_results")
    assert len(everything) == 4
    assert rows(db, "SELECT run_id FROM latest_results") in ([(newer,)], [(min(lab.runs),)])


def test_a_simulated_run_is_in_no_other_view(lab: Lab, db: Path) -> None:
    run = lab.add(10, emulated)
    synced(lab, db)
    assert verdict(db, run)[0] == "simulated"
    assert rows(db, "SELECT run_id, simulation_reason FROM simulated_results") == [(run, "SwiftShader")]
    assert run not in {r[0] for r in rows(db, "SELECT run_id FROM verified_results UNION FROM (SELECT run_id FROM "
                                              "unverified_results)")}  # fmt: skip


def emulated(result: BenchmarkResult, samples: SampleSet) -> tuple[BenchmarkResult, SampleSet]:
    worker = result.workers[0]
    device = replace(result.device, emulation_reason="SwiftShader")
    worker = replace(worker, facts=replace(worker.facts, device=device))
    availability = replace(result.availability, devices=(device,))
    return (
        replace(
            result, device=device, workers=(worker,), availability=availability, is_simulated=True,
            simulation_reason="SwiftShader",
        ),
        samples,
    )  # fmt: skip


# --- runs that change ---------------------------------------------------------------------------


def test_an_edited_tag_contradicts_at_the_next_sync_and_its_repair_verifies(lab: Lab, db: Path) -> None:
    run = lab.runs[0]
    synced(lab, db)
    lab.client.set_tag(run, "hwbench.device_name", "A Faster CPU")
    assert synced(lab, db).verdicts == {"contradicted": 1}
    assert verdict(db, run)[0] == "contradicted"
    assert rows(db, "SELECT rule, effect FROM verdict_findings WHERE run_id = ?", run) == [("index", "contradicted")]
    assert rows(db, "SELECT run_id FROM unverified_results") == [(run,)]
    lab.client.set_tag(run, "hwbench.device_name", "Test CPU")
    synced(lab, db)
    assert verdict(db, run) == ("verified", "")
    equals_fresh(lab, db)


def test_a_metric_logged_again_contradicts(lab: Lab, db: Path) -> None:
    synced(lab, db)
    lab.client.log_metric(lab.runs[0], "latency_ms_p50", 0.1, timestamp=1, step=-9)
    synced(lab, db)
    assert verdict(db, lab.runs[0])[0] == "contradicted"


def test_a_result_that_calls_itself_something_else_is_still_one(lab: Lab, db: Path) -> None:
    lab.client.set_tag(lab.runs[0], "hwbench.role", "devices")
    lab.client.delete_tag(lab.runs[1], "hwbench.role")
    synced(lab, db)
    assert verdict(db, lab.runs[0])[0] == "contradicted"
    assert verdict(db, lab.runs[1])[0] == "unverified"


def test_without_a_judge_a_changed_run_loses_its_result(lab: Lab, db: Path) -> None:
    synced(lab, db)
    lab.client.set_tag(lab.runs[0], "is_simulated", "true")
    sync(SqliteReader(lab.path), db)
    assert lab.runs[0] not in {r[0] for r in rows(db, "SELECT run_id FROM performance_results")}
    assert synced(lab, db).verdicts == {"contradicted": 1}


def test_deleted_runs_have_no_result_until_they_are_restored(lab: Lab, db: Path) -> None:
    run = lab.runs[0]
    synced(lab, db)
    lab.client.delete_run(run)
    synced(lab, db)
    assert rows(db, "SELECT evidence, verdict FROM benchmark_runs WHERE run_id = ?", run) == [("deleted", None)]
    assert rows(db, "SELECT count(*) FROM performance_results WHERE run_id = ?", run) == [(0,)]
    equals_fresh(lab, db)
    lab.client.restore_run(run)
    synced(lab, db)
    assert verdict(db, run)[0] == "verified"
    equals_fresh(lab, db)


def test_collected_runs_leave_only_their_probes(lab: Lab, db: Path) -> None:
    mine = lab.add(20, lambda r, s: (replace(r, host=replace(r.host, host_id="another")), s))
    synced(lab, db)
    before = dump(db, LOG)
    assert rows(db, "SELECT count(*) FROM hardware_platforms") == [(2,)]
    lab.client.delete_run(mine)
    gc(lab.path)
    synced(lab, db)
    assert rows(db, "SELECT count(*) FROM hardware_platforms") == [(1,)], "an orphan is tidied away"
    assert dump(db, LOG) == before, "what a probe found stays true"
    assert not any(mine in row for table in dump(db, STAR).values() for row in table)
    equals_fresh(lab, db)


def test_one_experiment_is_judged_alone(lab: Lab, db: Path) -> None:
    options = SyncOptions(experiments=("Default",))
    assert sync(SqliteReader(lab.path), db, options, judge=Star(load_keyring(lab.home))).results_judged == 0
    assert synced(lab, db).results_judged == 3


# --- keys and versions --------------------------------------------------------------------------


class Absent:
    """A source that must not be asked."""

    def fetch(self, run_id: str, artifact_uri: str, names: Sequence[str]) -> dict[str, bytes]:
        raise AssertionError(f"the files of {run_id} were fetched")


@pytest.fixture
def stranger(tmp_path: Path) -> SigningKey:
    return signing_key(tmp_path / "strangers-home")


def test_a_foreign_key_is_unverified_until_it_is_trusted(
    lab: Lab, db: Path, stranger: SigningKey, tmp_path: Path
) -> None:
    run = lab.add(30, key=stranger)
    synced(lab, db)
    state_of, reasons = verdict(db, run)
    assert (state_of, "not among the keys trusted here" in reasons) == ("unverified", True)
    trust(stranger.public, lab.home)
    summary = sync(SqliteReader(lab.path), db, judge=Star(load_keyring(lab.home), Absent()))
    assert (summary.results_judged, summary.up_to_date) == (4, False), "judged again from the kept files"
    assert verdict(db, run) == ("verified", "")
    equals_fresh(lab, db)
    revoke(stranger.keyid, lab.home)
    synced(lab, db)
    assert verdict(db, run)[0] == "unverified"
    assert rows(db, "SELECT signature_state FROM performance_results WHERE run_id = ?", run) == [("revoked",)]
    equals_fresh(lab, db)


def test_another_hwbench_judges_again(lab: Lab, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced(lab, db)
    monkeypatch.setattr(star, "__version__", "99")
    assert synced(lab, db).results_judged == 3
    assert synced(lab, db).up_to_date


def test_kept_files_that_were_edited_are_fetched_again(lab: Lab, db: Path, stranger: SigningKey) -> None:
    synced(lab, db)
    with duckdb.connect(str(db)) as connection:
        connection.execute("UPDATE evidence_files SET content = 'x' WHERE name = 'samples.json'")
    trust(stranger.public, lab.home)
    synced(lab, db)
    equals_fresh(lab, db)


def test_a_warehouse_from_before_the_gate_remembered_keeps_its_results(lab: Lab, db: Path) -> None:
    with duckdb.connect(str(db)) as connection:
        database.migrate(connection, db, upto=2)
        tables = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'judged_runs'").fetchall()
    assert tables == [(0,)]
    assert synced(lab, db).verdicts == {"verified": 3}
    assert rows(db, "SELECT count(*) FROM judged_runs") == [(0,)]
    equals_fresh(lab, db)


def test_a_mirror_from_before_the_star_schema_gets_its_results(lab: Lab, db: Path) -> None:
    with duckdb.connect(str(db)) as connection:
        database.migrate(connection, db, upto=1)
    sync_old = SqliteReader(lab.path)
    sync(sync_old, db)
    assert rows(db, "SELECT count(*) FROM performance_results") == [(0,)]
    assert synced(lab, db).verdicts == {"verified": 3}
    equals_fresh(lab, db)


def test_a_warehouse_from_before_the_scenarios_keeps_its_rows_and_takes_a_server_s(lab: Lab, db: Path) -> None:
    old_rows = "SELECT run_id, sample_ns FROM latency_samples ORDER BY ALL"
    synced(lab, db)
    kept = rows(db, old_rows)
    before = dump(db, STAR)
    old = db.with_name("old.duckdb")
    with duckdb.connect(str(old)) as connection:
        database.migrate(connection, old, upto=2)
        connection.execute(f"ATTACH '{db}' AS new (READ_ONLY)")
        for (table,) in connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'old' AND schema_name = 'main' "
            "AND table_name <> 'hwbench_migrations'"
        ).fetchall():
            columns = ", ".join(
                f'"{r[0]}"'
                for r in connection.execute(f"SELECT name FROM pragma_table_info('main.{table}')").fetchall()
            )
            connection.execute(f"INSERT INTO main.{table} SELECT {columns} FROM new.main.{table}")
        connection.execute("DETACH new")
    with database.writer(old):
        pass
    assert dump(old, STAR) == before
    assert rows(old, old_rows) == kept
    assert rows(old, "SELECT count(*) FROM latest_results") == [(1,)]
    with duckdb.connect(str(old)) as connection, duckdb.connect(str(db)) as fresh:
        sql = "SELECT table_name, sql FROM duckdb_tables() WHERE table_name <> 'hwbench_migrations' ORDER BY ALL"
        assert connection.execute(sql).fetchall() == fresh.execute(sql).fetchall()
        connection.execute(
            "UPDATE performance_results SET scenario = 'server', latency_bound_ms = 5, latency_percentile = 99, "
            "offered_rate_per_s = 9, server_rate_per_s = 9"
        )


def test_a_rebuild_of_a_table_that_is_not_ours_is_refused(db: Path) -> None:
    with duckdb.connect(str(db)) as connection:
        database.migrate(connection, db, upto=9)
        connection.execute("DROP VIEW latest_results; DROP VIEW verified_results; DROP VIEW simulated_results")
        connection.execute("DROP VIEW unverified_results; DROP TABLE performance_results")
        connection.execute("CREATE TABLE performance_results (run_id VARCHAR)")
        with pytest.raises(StoreError, match="not as hwbench made it"):
            database.migrate(connection, db)
        assert database.version(connection) < database.latest_version()


@pytest.mark.parametrize("upto", [1, 2])
def test_a_warehouse_of_each_earlier_layout_is_brought_up_to_date_and_keeps_its_state(
    upto: int, lab: Lab, db: Path
) -> None:
    with duckdb.connect(str(db)) as connection:
        database.migrate(connection, db, upto=upto)
        connection.execute("INSERT INTO mlflow.sync_state VALUES ('scope', 'store', 'state')")
    with database.writer(db) as connection:
        assert database.version(connection) == database.latest_version() >= 3
        assert connection.execute("FROM mlflow.sync_state").fetchall() == [("scope", "store", "state", None)]
    synced(lab, db)
    equals_fresh(lab, db)


def test_a_warehouse_that_lacks_a_migration_in_the_middle_gets_it(db: Path) -> None:
    with duckdb.connect(str(db)) as connection:
        database.migrate(connection, db)
        connection.execute("DELETE FROM hwbench_migrations WHERE number = 3")
        connection.execute("ALTER TABLE mlflow.sync_state DROP COLUMN memory")
        assert database.version(connection) == 2
        database.migrate(connection, db)
        assert database.version(connection) == database.latest_version()
        connection.execute("SELECT memory FROM mlflow.sync_state")


# --- evidence that is not as it should be -------------------------------------------------------


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def overwrite(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: write(folder / name, data)


def version(number: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        result = decode_result((folder / "result.json").read_bytes())
        write(folder / "result.json", replace(result, schema_version=number))

    return change


@pytest.mark.parametrize(
    ("damage", "evidence", "state_of", "reason"),
    [
        (cut("result.json"), "missing", "unverified", "hwbench/result.json is missing"),
        (cut("samples.json"), "read", "unverified", "samples.json is missing"),
        (cut("attestation.dsse.json"), "read", "unverified", "it is not signed"),
        (cut("binding.dsse.json"), "read", "unverified", "nothing signed says"),
        (overwrite("result.json", b"{}"), "corrupt", "contradicted", "not a BenchmarkResult"),
        (overwrite("samples.json", b"garbage"), "read", "contradicted", "samples.json"),
        (overwrite("attestation.dsse.json", b"garbage"), "read", "unverified", "corrupt"),
        (version(1), "other_version", None, f"schema version 1; this hwbench reads version {SCHEMA_VERSION}"),
        (version(9), "other_version", None, f"schema version 9; this hwbench reads version {SCHEMA_VERSION}"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_damaged_evidence_is_told(  # noqa: PLR0917 -- pytest passes by name
    damage: Callable[[Path], None], evidence: str, state_of: str | None, reason: str, lab: Lab, db: Path
) -> None:  # fmt: skip
    run = lab.add(40)
    damage(lab.folder(run))
    synced(lab, db)
    [found] = rows(
        db, "SELECT evidence, verdict, array_to_string(reasons, '; ') FROM benchmark_runs WHERE run_id = ?", run
    )
    assert found[:2] == (evidence, state_of)
    assert reason in str(found[2])
    results = rows(db, "SELECT verdict FROM performance_results WHERE run_id = ?", run)
    assert results == ([(state_of,)] if evidence == "read" else [])
    assert rows(db, "SELECT count(*) FROM verified_results") == [(3,)], "and the rest goes on"
    assert synced(lab, db).up_to_date


def test_evidence_out_of_reach_is_tried_again(lab: Lab, db: Path, tmp_path: Path) -> None:
    away = make_lab(lab.path, lab.home, tmp_path / "disk", name="away")
    run = away.add(50)
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    said: list[str] = []
    judge = Star(load_keyring(lab.home))
    first = sync(SqliteReader(lab.path), db, judge=judge, say=said.append)
    assert "not on this machine" in first.unreachable[run]
    assert any(run in line for line in said)
    assert rows(db, "SELECT evidence, verdict FROM benchmark_runs WHERE run_id = ?", run) == [
        ("unreachable", "unverified")
    ]
    before = state(db)
    again = synced(lab, db)
    assert (again.results_judged, again.results_written, again.up_to_date) == (1, 0, False)
    assert state(db) == before, "trying in vain writes nothing"
    (tmp_path / "unplugged").rename(tmp_path / "disk")
    assert synced(lab, db).verdicts == {"verified": 1}
    assert synced(lab, db).up_to_date
    equals_fresh(lab, db)


HOSTILE_RESULTS: dict[str, Callable[[BenchmarkResult], BenchmarkResult]] = {
    "simulated without a reason": lambda r: replace(r, is_simulated=True),
    "a reason without simulation": lambda r: replace(r, simulation_reason="none"),
    "ends before it starts": lambda r: replace(r, finished_at="2026-01-01T00:00:00+00:00"),
    "no time at all": lambda r: replace(r, finished_at="yesterday"),
    "no batch": lambda r: replace(r, workload=replace(r.workload, batch_size=0)),
    "no threads": lambda r: replace(r, workers=tuple(replace(w, facts=replace(w.facts, threads=0)) for w in r.workers)),
    "no workers": lambda r: replace(r, workers=()),
    "more than 64 bits": lambda r: replace(r, model=replace(r.model, parameters=2**63)),
    "less than no samples": lambda r: replace(r, aggregates=replace(r.aggregates, p50_ms=-1.0)),
    "a probe of negative length": lambda r: replace(r, availability=replace(r.availability, duration_ns=-1)),
}


def test_results_that_break_the_tables_are_refused_one_by_one(lab: Lab, db: Path) -> None:
    made = {name: lab.forge(60 + n, change) for n, (name, change) in enumerate(HOSTILE_RESULTS.items())}
    synced(lab, db)
    for name, run in made.items():
        [found] = rows(db, "SELECT evidence, verdict, len(reasons) FROM benchmark_runs WHERE run_id = ?", run)
        assert found == ("refused", "contradicted", 1), name
    assert {r[0] for r in rows(db, "SELECT run_id FROM performance_results")} == set(lab.runs)
    assert synced(lab, db).up_to_date


def test_hostile_names_are_kept_as_text(lab: Lab, db: Path) -> None:
    def named(result: BenchmarkResult, samples: SampleSet) -> tuple[BenchmarkResult, SampleSet]:
        host = replace(result.host, hostname="<script>", packages={"'; DROP TABLE models; --": HOSTILE})
        return replace(result, host=host, model=replace(result.model, name=HOSTILE)), samples

    run = lab.forge(80, lambda r: named(r, None)[0])  # type: ignore[arg-type]
    synced(lab, db)
    sql = "SELECT model_name, hostname, packages FROM performance_results JOIN models USING (model_id) WHERE run_id = ?"
    assert rows(db, sql, run) == [(HOSTILE, "<script>", {"'; DROP TABLE models; --": HOSTILE})]


# --- probes and failures ------------------------------------------------------------------------


def test_every_probe_is_logged(lab: Lab, db: Path) -> None:
    result, _ = honest()
    none = Availability(
        platform=Platform.CUDA, status=AvailabilityStatus.NO_DEVICE, reason="nothing there", remedy="buy one",
        probe_id="ee" * 16, started_at="2026-11-01T09:00:00+00:00",
    )  # fmt: skip
    devices = lab.log.log_devices([result.availability, none], result.host)
    failed = lab.log.start("failing")
    failure = Failure(
        schema_version=SCHEMA_VERSION, category=FailureCategory.NO_DEVICE, reason="nothing there", remedy="buy one",
        request=replace(result.request, platform=Platform.CUDA), availability=none, host=result.host,
    )  # fmt: skip
    lab.log.fail(failed, failure)
    assert synced(lab, db).verdicts == {"verified": 3}
    found = rows(
        db, "SELECT source, hardware_type, status, is_verified, device_id, remedy FROM hardware_availability_log "
        "WHERE run_id IN (?, ?) ORDER BY ALL", devices, failed,
    )  # fmt: skip
    assert found == [
        ("devices", "cpu", "AVAILABLE", True, "cpu", None),
        ("devices", "cuda", "NO_DEVICE", False, None, "buy one"),
        ("failure", "cuda", "NO_DEVICE", False, None, "buy one"),
    ]
    assert rows(db, "SELECT count(*) FROM hardware_availability_log WHERE source = 'result'") == [(3,)]
    columns = "evidence, verdict, hardware_type, model_name, failure_precision, failure_category, failure_reason"
    assert rows(db, f"SELECT {columns} FROM benchmark_runs WHERE run_id = ?", failed) == [
        ("read", None, "cuda", "bert-tiny", "fp32", "no_device", "nothing there")
    ]
    assert rows(db, "SELECT count(*) FROM performance_results") == [(3,)]
    equals_fresh(lab, db)


def test_each_result_rests_on_a_probe_in_the_log(lab: Lab, db: Path) -> None:
    synced(lab, db)
    assert rows(
        db, "SELECT count(*) FROM performance_results r JOIN hardware_availability_log l "
        "ON (l.run_id, l.probe_id, l.device_id) = (r.run_id, r.probe_id, r.device_id) AND l.is_verified",
    ) == [(3,)]  # fmt: skip


# --- constraints --------------------------------------------------------------------------------

FORBIDDEN = (
    "verdict = NULL", "verdict = 'excellent'", "is_simulated = NULL", "is_simulated = true",
    "simulation_reason = 'because'", "is_simulated = true, simulation_reason = 'because'",
    "is_simulated = true, simulation_reason = '', verdict = 'simulated', reasons = ['x']",
    "verdict = 'simulated', reasons = ['x']", "verdict = 'unverified'", "reasons = NULL",
    "signature_state = 'untrusted'", "signature_state = NULL", "key_id = NULL", "availability_verified = false",
    "run_status = 'RUNNING'", "samples_sha256 = NULL", "attestation_sha256 = NULL", "binding_sha256 = NULL",
    "result_sha256 = 'short'", "latency_ms_p50 = 0", "latency_ms_min = -1", "throughput_items_per_s = 0",
    "throughput_items_per_s = NULL", "batch_size = 0", "sample_count = 0", "energy_j = 5",
    "energy_method = 'counter'", "energy_j = 1, energy_method = 'guess'", "platform = 'tpu'", "scenario = 'burst'",
    "scenario = 'server'", "scenario = 'multistream'", "latency_bound_ms = 5", "query_size = 8",
    "server_rate_per_s = 9",
    "scenario = 'server', latency_bound_ms = 5, latency_percentile = 42, offered_rate_per_s = 9",
    "scenario = 'server', latency_bound_ms = 5, latency_percentile = 99, offered_rate_per_s = 9, "
    "server_rate_per_s = 10",
    "created_at = NULL", "created_at = started_at - INTERVAL 1 SECOND", "model_id = NULL", "hardware_id = NULL",
    "probe_id = NULL", "stable = NULL", "weights = 'imagined'",
)  # fmt: skip


def forbidden(connection: duckdb.DuckDBPyConnection, statement: str) -> bool:
    try:
        connection.execute(statement)
    except duckdb.ConstraintException:
        return True
    return False


def test_the_constraints_bite(lab: Lab, db: Path) -> None:
    synced(lab, db)
    with duckdb.connect(str(db)) as connection:
        connection.execute("UPDATE performance_results SET latency_ms_p50 = latency_ms_p50")  # the row itself is fine
        for change in FORBIDDEN:
            assert forbidden(connection, f"UPDATE performance_results SET {change}"), f"{change} was let in"
        for table in ("performance_results", "benchmark_runs", "models", "hardware_platforms", LOG[0]):
            with pytest.raises(duckdb.ConstraintException, match=r"(?i)primary key|duplicate key"):
                connection.execute(f"INSERT INTO {table} FROM {table}")
        for statement in (
            "UPDATE hardware_availability_log SET is_verified = true, status = 'NO_DEVICE'",
            "UPDATE hardware_availability_log SET status = 'MAYBE'",
            "UPDATE hardware_platforms SET hardware_type = 'tpu'",
            "UPDATE benchmark_runs SET verdict = NULL",
            "UPDATE benchmark_runs SET verdict = 'verified', evidence = 'missing'",
            "UPDATE benchmark_runs SET verdict = 'unverified'",
            "UPDATE latency_samples SET phase = 'guessed'",
            "INSERT INTO verdict_findings VALUES ('r', 0, 'rule', 'verified', 'reason')",
            "INSERT INTO gate_results VALUES ('g', 0, now()::TIMESTAMP, 's', NULL, 't', 'r', 'row', false, 1, 1, NULL, "
            "NULL, NULL, '0')",
        ):
            assert forbidden(connection, statement), f"{statement} was let in"


# --- crashes, repetition, edits by hand ---------------------------------------------------------


def test_a_second_sync_writes_no_byte(lab: Lab, db: Path) -> None:
    synced(lab, db)
    before = db.read_bytes()
    assert synced(lab, db).up_to_date
    assert db.read_bytes() == before


def test_a_full_sync_of_an_unchanged_store_writes_no_row(lab: Lab, db: Path) -> None:
    synced(lab, db)
    before = state(db)
    summary = synced(lab, db, mode=Mode.FULL)
    assert (summary.results_judged, summary.results_written, summary.up_to_date) == (3, 0, True)
    assert state(db) == before


EDITS = {
    "performance_results": "UPDATE performance_results SET latency_ms_p50 = 1.0",
    "latency_samples": "UPDATE latency_samples SET sample_ns = 5 WHERE sample = 0",
    "evidence_files": "UPDATE evidence_files SET content = 'forged' WHERE name = 'result.json'",
    "models": "UPDATE models SET model_name = 'gpt-7'",
    "benchmark_runs": "UPDATE benchmark_runs SET role = 'parent', verdict = NULL",
}


def test_rows_edited_by_hand_are_drift_and_a_full_sync_repairs_them(lab: Lab, db: Path) -> None:
    synced(lab, db)
    judge = Star(load_keyring(lab.home))
    assert verify_store(SqliteReader(lab.path), db, judge) == []
    whole = dump(db, STAR)
    for table, edit in EDITS.items():
        with duckdb.connect(str(db)) as connection:
            connection.execute(edit)
        assert [found[0] for found in verify_store(SqliteReader(lab.path), db, judge)] == [table]
        synced(lab, db, mode=Mode.FULL)
        assert dump(db, STAR) == whole, f"{table} was not repaired"


def test_what_could_blind_a_comparison_is_drift(lab: Lab, db: Path) -> None:
    synced(lab, db)
    with duckdb.connect(str(db)) as connection:
        connection.execute("CREATE MACRO hash(x) AS 0")
    found = verify_store(SqliteReader(lab.path), db, Star(load_keyring(lab.home)))
    assert found == [("function main.hash", 0, 1)]


def test_a_row_put_in_by_hand_is_drift(lab: Lab, db: Path) -> None:
    synced(lab, db)
    with duckdb.connect(str(db)) as connection:
        connection.execute("INSERT INTO performance_results SELECT * REPLACE ('made up' AS run_id) "
                           "FROM performance_results LIMIT 1")  # fmt: skip
    found = verify_store(SqliteReader(lab.path), db, Star(load_keyring(lab.home)))
    assert found == [("performance_results", 0, 1)]


CRASHER = """
import os, signal, sys
from pathlib import Path
from hwbench_mlflow.keystore import load_keyring
from hwbench_mlflow.warehouse import star
from hwbench_mlflow.warehouse.readers.sqlite import SqliteReader
from hwbench_mlflow.warehouse.star import Star
from hwbench_mlflow.warehouse.sync import SyncOptions, sync
star.CHUNK_RUNS = 2
at = int(sys.argv[4]); seen = []
def die(step):
    seen.append(step)
    if len(seen) == at:
        os.kill(os.getpid(), signal.SIGKILL)
sync(SqliteReader(Path(sys.argv[1])), Path(sys.argv[2]), SyncOptions(batch_runs=3),
     judge=Star(load_keyring(Path(sys.argv[3]))), at_step=die)
"""


@pytest.mark.slow
def test_killed_at_every_step_the_next_sync_makes_the_results_whole(
    lab: Lab, db: Path, tmp_path: Path, stranger: SigningKey
) -> None:
    base, whole = tmp_path / "base.duckdb", tmp_path / "whole.duckdb"
    mine = lab.add(70, lambda r, s: (replace(r, host=replace(r.host, host_id="gone")), s))
    lab.add(71, key=stranger)
    synced(lab, base)
    lab.client.delete_run(mine)
    gc(lab.path)
    lab.client.set_tag(lab.runs[0], "is_simulated", "true")
    lab.client.delete_run(lab.runs[1])
    lab.add(72)
    trust(stranger.public, lab.home)
    shutil.copyfile(base, whole)
    synced(lab, whole)
    expected, kills = dump(whole, (*STAR, *LOG)), 0
    equals_fresh(lab, whole)
    for at in range(1, 40):
        shutil.copyfile(base, db)
        Path(f"{db}.wal").unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", CRASHER, lab.path, db, lab.home, str(at)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        if done.returncode == 0:
            break
        kills += 1
        shown = rows(db, "SELECT run_id FROM verified_results WHERE run_id = ?", lab.runs[0])
        tagged = rows(db, "SELECT value FROM mlflow.tags WHERE key = 'is_simulated' AND run_uuid = ?", lab.runs[0])
        assert not shown or tagged == [("false",)], "a verdict outlived the run that it was about"
        synced(lab, db)
        assert dump(db, (*STAR, *LOG)) == expected, f"after a kill at step {at}"
    assert kills >= 10, "read, two batches, three chunks of results, the orphans, the end: each was a place to die"
