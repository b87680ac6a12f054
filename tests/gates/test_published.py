"""The published file: what it holds, who may open it, and what an edit of it does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import duckdb
import pytest

from hwbench_mlflow.errors import Refused, StoreError
from hwbench_mlflow.rules import Outcome, RuleKind
from hwbench_mlflow.warehouse import database
from hwbench_mlflow.warehouse.publish import Publication, publish
from hwbench_mlflow.warehouse.published import PUBLISHED_VERSION, content_digest, open_published
from tests.gates.conftest import edit
from tests.warehouse.results import Lab

PASSED = Outcome(
    rule="r", suite="s", table="t", kind=RuleKind.ROW, passed=True, why="w", what_to_do="d", evaluated=3, unexpected=0
)


def published(db: Path, path: Path, *quarantine: tuple[str, str, str]) -> Path:
    what = Publication(
        gate_id="g1", gated_at=datetime(2026, 11, 2), outcomes=[PASSED], quarantine=quarantine, suites={"s": "0" * 64}
    )
    with database.writer(db) as connection:
        publish(connection, path, what)
    return path


@pytest.fixture(scope="module")
def sound(synced: tuple[Lab, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    shutil.copyfile(synced[1], folder / "w.duckdb")
    lab = synced[0]
    kept_out = (lab.runs[0], "test", "kept out by a test"), (lab.runs[0], "test", "for two reasons")
    others = [(run, "verdict", "unverified") for run in unverified(synced[1])]
    return published(folder / "w.duckdb", folder / "published.duckdb", *kept_out, *others)


def unverified(db: Path) -> list[str]:
    with duckdb.connect(str(db), read_only=True) as connection:
        return [r[0] for r in connection.execute("SELECT run_id FROM benchmark_runs WHERE verdict IN "
                                                 "('unverified', 'contradicted')").fetchall()]  # fmt: skip


def test_every_result_is_real_simulated_or_kept_out_and_counted(synced: tuple[Lab, Path], sound: Path) -> None:
    lab, _ = synced
    with open_published(sound) as found:
        real, kept_out = found.frame("real_results"), found.frame("quarantine")
        simulated = found.frame("simulated_results")
        assert lab.runs[0] not in set(real.run_id)
        assert lab.runs[1] in set(real.run_id)
        assert list(kept_out[kept_out.run_id == lab.runs[0]].reason) == ["for two reasons", "kept out by a test"]
        assert set(real.verdict) == {"verified"}
        assert not real.is_simulated.any()
        assert len(simulated) == 1
        assert simulated.simulation_reason.notna().all()
        assert int(found.manifest["rows_in"]) == len(real) + len(simulated) + kept_out.run_id.nunique()
        assert {"model_name", "hardware_type", "vendor", "gate_id", "latency_ms_p50"} <= set(real.columns)
        samples = found.frame("samples")
        assert set(samples.run_id) == set(real.run_id) | set(simulated.run_id)
        assert len(found.frame("failures")) == 1
        assert len(found.frame("availability")) >= 1


def test_samples_are_thinned_evenly(synced: tuple[Lab, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwbench_mlflow.warehouse.publish.SAMPLES_A_RUN", 10)
    db = Path(shutil.copyfile(synced[1], tmp_path / "w.duckdb"))
    others = [(run, "verdict", "unverified") for run in unverified(db)]
    with open_published(published(db, tmp_path / "p.duckdb", *others)) as found:
        samples = found.frame("samples")
        run = samples[samples.run_id == synced[0].runs[0]]
        assert list(run["sample"]) == list(range(0, 40, 4))


def test_it_is_read_only_and_cut_off_from_other_files(sound: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    with open_published(sound) as found:
        for sql in (
            "DELETE FROM real_results", f"FROM '{tmp_path / 'x.csv'}'", "ATTACH 'other.duckdb'",
            "SET enable_external_access = true",
        ):  # fmt: skip
            with pytest.raises(duckdb.Error):
                found.connection.execute(sql)
        with pytest.raises(ValueError, match="not a table"):
            found.frame("real_results; DROP TABLE quarantine")


def test_nothing_published_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nothing is published at .*run `hwbench sync`, then `hwbench gate`"):
        open_published(tmp_path / "published.duckdb")


EDITS = {
    "a value": "UPDATE real_results SET latency_ms_p50 = latency_ms_p50 / 2",
    "a text": "UPDATE real_results SET device_name = 'H100'",
    "a NULL": "UPDATE real_results SET hostname = '', virtualization = ''",
    "a list": "UPDATE real_results SET warnings = ['']",
    "a map": "UPDATE real_results SET packages = MAP {'torch': '9'}",
    "a flag": "UPDATE real_results SET stable = NOT stable",
    "a time": "UPDATE real_results SET created_at = created_at + INTERVAL 1 SECOND",
    "a row less": "DELETE FROM quarantine",
    "a sample": "UPDATE samples SET latency_ms = 1 WHERE sample = 3",
    "a rule": "UPDATE gate_rules SET unexpected = 0, evaluated = 99",
    "the manifest": "UPDATE manifest SET value = '2030-01-01T00:00:00+00:00' WHERE key = 'published_at'",
    "the digest": "UPDATE manifest SET value = repeat('0', 64) WHERE key = 'content_digest'",
    "a key more": "INSERT INTO manifest VALUES ('approved_by', 'me')",
    "a label": "INSERT INTO labels VALUES ('x', 'release', '1.0')",
    "an experiment": "INSERT INTO experiments VALUES (99, 'official')",
    "a column's digest": "UPDATE manifest SET value = replace(value, 'a', 'b') WHERE key = 'column_digests'",
    "a column more": "CREATE TABLE t AS FROM failures; DROP TABLE failures; ALTER TABLE t RENAME TO failures; "
    "ALTER TABLE failures ADD COLUMN x INTEGER",
    "a table more": "CREATE TABLE extra AS SELECT 1 AS x",
    "a view more": "CREATE VIEW best AS SELECT 1 AS x",
    "a table less": "DROP TABLE failures",
    "a function of DuckDB's": "CREATE MACRO median(x) AS 0.1",
    "a type": "CREATE TYPE json AS VARCHAR",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON samples FOR EACH STATEMENT DELETE FROM quarantine",
    # Says what the digest was made of while it is looked for, and something else to who reads.
    "a view for a table": "ALTER TABLE failures RENAME TO f; CREATE VIEW failures AS FROM f",
    "a view of values": "DROP TABLE labels; CREATE VIEW labels AS SELECT ''::VARCHAR AS run_id, ''::VARCHAR AS key, "
    "''::VARCHAR AS value WHERE false",
}


@pytest.mark.parametrize("sql", EDITS.values(), ids=EDITS.keys())
def test_a_file_that_was_edited_is_refused(sql: str, sound: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(sound, tmp_path / "p.duckdb"))
    edit(path, sql)
    with pytest.raises(Refused, match=r"edited"):
        open_published(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("column_digests", "{"), ("column_digests", "[]"), ("column_digests", "{}"), ("rows_in", "x"),
        ("warehouse_sync", ""), ("warehouse_sync", "[1]"), ("suites", "3"),
    ],
)  # fmt: skip
def test_a_manifest_without_sense_is_refused_in_words(key: str, value: str, sound: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(sound, tmp_path / "p.duckdb"))
    edit(path, "UPDATE manifest SET value = ? WHERE key = ?", value, key)
    with duckdb.connect(str(path)) as connection:
        said = dict(connection.execute("FROM manifest").fetchall())
    edit(path, "UPDATE manifest SET value = ? WHERE key = 'content_digest'", content_digest(said))
    with pytest.raises(Refused, match="edited"):
        open_published(path)


def test_a_gate_puts_a_file_right_that_somebody_wrote_into(synced: tuple[Lab, Path], tmp_path: Path) -> None:
    db = Path(shutil.copyfile(synced[1], tmp_path / "w.duckdb"))
    others = [(run, "verdict", "unverified") for run in unverified(db)]
    path = published(db, tmp_path / "p.duckdb", *others)
    killed = (
        "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]); c.execute(\"SET checkpoint_threshold = '1TB'\"); "
        "c.execute('UPDATE real_results SET latency_ms_p50 = 1'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", killed, str(path)], check=True)
    assert Path(f"{path}.wal").exists()
    with pytest.raises(Refused, match="edited"):
        open_published(path)
    published(db, path, *others)
    with open_published(path) as found:
        assert len(found.frame("real_results")) == 4


READS = {"real_results": ["run_id", "latency_ms_p50", "host_id"], "samples": ["run_id", "latency_ms"]}


@pytest.mark.parametrize("sql", [
    "UPDATE real_results SET latency_ms_p50 = latency_ms_p50 / 2",
    "DELETE FROM real_results WHERE rowid = 0",
    "UPDATE samples SET latency_ms = 1 WHERE sample = 3",
    EDITS["the manifest"], EDITS["the digest"], EDITS["a column's digest"], EDITS["a column more"],
    EDITS["a table more"],
])  # fmt: skip
def test_a_file_of_which_only_some_columns_are_read_is_refused_for_an_edit_of_those(
    sql: str, sound: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copyfile(sound, tmp_path / "p.duckdb"))
    edit(path, sql)
    with pytest.raises(Refused, match=r"edited"):
        open_published(path, READS)


def test_what_was_not_checked_cannot_be_read(sound: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(sound, tmp_path / "p.duckdb"))
    edit(path, "UPDATE real_results SET device_name = 'H100'")
    edit(path, "UPDATE failures SET failure_reason = 'another'")
    with open_published(path, READS) as found:
        columns = [row[0] for row in found.connection.execute("DESCRIBE real_results").fetchall()]
        assert columns == ["run_id", "latency_ms_p50", "host_id", "verdict", "is_simulated", "simulation_reason"]
        with pytest.raises(duckdb.BinderException):
            found.connection.execute("SELECT device_name FROM real_results")
        with pytest.raises(duckdb.InvalidInputException, match="failures was not checked"):
            found.connection.execute("FROM failures").fetchall()
        found.check("real_results", ["batch_size"])
        assert found.connection.execute("SELECT min(batch_size) FROM real_results").fetchall() == [(1,)]
        found.check("gate_rules", ["rule"])
        assert found.connection.execute("SELECT rule FROM gate_rules").fetchall() == [("r",)]
        with pytest.raises(Refused, match="edited"):
            found.check("real_results", ["device_name"])
        with pytest.raises(Refused, match="edited"):
            found.check("failures", ["failure_reason"])


def test_names_of_experiments_and_tags_of_people_are_published_and_hwbenchs_index_is_not(
    synced: tuple[Lab, Path], tmp_path: Path
) -> None:
    db = Path(shutil.copyfile(synced[1], tmp_path / "w.duckdb"))
    run = synced[0].runs[0]
    for key, value in (("team", "<b>a'</b>"), ("mlflow.user", "me"), ("dump", "x" * 501)):
        edit(db, "INSERT INTO mlflow.tags VALUES (?, ?, ?)", run, key, value)
    others = [(r, "verdict", "unverified") for r in unverified(db)]
    with open_published(published(db, tmp_path / "p.duckdb", *others)) as found:
        assert found.connection.execute("SELECT run_id, key, value FROM labels").fetchall() == [
            (run, "team", "<b>a'</b>")
        ]
        assert found.connection.execute("SELECT name FROM experiments").fetchall() == [("bench",)]


@pytest.mark.parametrize("sql", [
    "INSERT INTO real_results SELECT * REPLACE ('x' AS run_id, 'simulated' AS verdict) FROM real_results LIMIT 1",
    "INSERT INTO real_results FROM simulated_results",
    "UPDATE real_results SET is_simulated = true, simulation_reason = 'it was'",
    "UPDATE simulated_results SET is_simulated = false, simulation_reason = NULL, verdict = 'verified'",
])  # fmt: skip
def test_the_tables_themselves_hold_nothing_else(sql: str, sound: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(sound, tmp_path / "p.duckdb"))
    with pytest.raises(duckdb.ConstraintException):
        edit(path, sql)


def test_a_file_without_the_checks_and_with_a_new_digest_is_still_refused(sound: Path, tmp_path: Path) -> None:
    from hwbench_mlflow.warehouse.published import all_digests, content_digest

    path = Path(shutil.copyfile(sound, tmp_path / "p.duckdb"))
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE t AS FROM real_results; DROP TABLE real_results")
        connection.execute("INSERT INTO t FROM simulated_results; DELETE FROM simulated_results")
        connection.execute("ALTER TABLE t RENAME TO real_results")
        manifest = dict(connection.execute("FROM manifest").fetchall())
        manifest["rows_real"], manifest["rows_simulated"] = str(int(manifest["rows_real"]) + 1), "0"
        manifest["column_digests"] = all_digests(connection)
        manifest["content_digest"] = content_digest(manifest)
        connection.executemany("UPDATE manifest SET value = $2 WHERE key = $1", [list(i) for i in manifest.items()])
    with pytest.raises(Refused, match="1 rows in real_results that are not"):
        open_published(path)


def test_each_tag_that_hwbench_gives_a_result_is_known_as_its_own() -> None:
    from hwbench_mlflow.index import TAGS, index_of
    from hwbench_mlflow.verdict import judge_result
    from tests.gates.conftest import emulated
    from tests.gates.corpus import noisy
    from tests.honest import honest

    for result, samples in (honest(), emulated(*honest()), noisy(*honest())):
        assert index_of(result, "", judge_result(result, samples)).tags.keys() <= TAGS


def test_another_kind_of_file_is_not_a_publication(synced: tuple[Lab, Path], tmp_path: Path, sound: Path) -> None:
    with pytest.raises(StoreError, match="is a warehouse, not a published file"):
        open_published(synced[1])
    (tmp_path / "text").write_text("hello " * 4000)
    with pytest.raises(Refused, match="not a readable published file"):
        open_published(tmp_path / "text")
    duckdb.connect(str(tmp_path / "other.duckdb")).close()
    with pytest.raises(StoreError, match="not a file that hwbench published"):
        open_published(tmp_path / "other.duckdb")
    newer = Path(shutil.copyfile(sound, tmp_path / "newer.duckdb"))
    edit(newer, "UPDATE manifest SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(StoreError, match=f"has layout 99, this hwbench reads {PUBLISHED_VERSION}"):
        open_published(newer)


def test_it_says_when_the_warehouse_went_on(synced: tuple[Lab, Path], sound: Path, tmp_path: Path) -> None:
    same = sound.with_name("w.duckdb")
    later = Path(shutil.copyfile(same, tmp_path / "later.duckdb"))
    edit(later, "INSERT INTO mlflow.sync_log SELECT * REPLACE (sync_id + 1 AS sync_id) FROM mlflow.sync_log "
                "QUALIFY row_number() OVER (ORDER BY sync_id DESC) = 1")  # fmt: skip
    other = Path(shutil.copyfile(same, tmp_path / "other.duckdb"))
    edit(other, "UPDATE hwbench_migrations SET applied_at = applied_at + INTERVAL 1 SECOND")
    with open_published(sound) as found:
        assert found.stale_against(same) is None
        assert "was synced since" in str(found.stale_against(later))
        assert "another warehouse" in str(found.stale_against(other))
        assert "cannot be compared" in str(found.stale_against(tmp_path / "absent"))


def test_the_old_file_stays_until_the_new_one_is_whole(
    synced: tuple[Lab, Path], sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copyfile(sound, tmp_path / "p.duckdb"))
    before = path.read_bytes()
    db = Path(shutil.copyfile(synced[1], tmp_path / "w.duckdb"))
    with pytest.raises(Refused, match=r"went in; .*: nothing is published"):
        published(db, path)  # an unverified run is neither published nor kept out: the counts differ
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match="No space left"):
        published(db, path, *[(run, "verdict", "unverified") for run in unverified(db)])
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("p.")) == ["p.duckdb", "p.duckdb.lock"]


def test_a_reader_keeps_its_snapshot_while_another_is_swapped_in(
    synced: tuple[Lab, Path], sound: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copyfile(sound, tmp_path / "p.duckdb"))
    db = Path(shutil.copyfile(synced[1], tmp_path / "w.duckdb"))
    with open_published(path) as old:
        count = len(old.frame("real_results"))
        published(db, path, *[(run, "verdict", "unverified") for run in unverified(db)])
        assert len(old.frame("real_results")) == count
    # (DuckDB gives one process one instance a path, so the new file is read once the old one is let go.)
    with open_published(path) as new:
        assert len(new.frame("real_results")) == count + 1
