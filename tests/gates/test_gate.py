"""``hwbench gate`` as its users run it: what it prints, writes and exits with; and who reads what it published."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import duckdb
import pytest
from click.testing import CliRunner, Result

import hwbench_mlflow
from hwbench_mlflow.cli.gate import SHOWN_RUNS, _refused, gate, printable
from hwbench_mlflow.cli.query import query
from hwbench_mlflow.errors import ExitCode, Refused, StoreError, UsageError
from hwbench_mlflow.warehouse.database import latest_version
from hwbench_mlflow.warehouse.frames import SimulatedResultsWarning, UngatedResultsWarning
from hwbench_mlflow.warehouse.published import open_published
from hwbench_mlflow.warehouse.query import run_query
from tests.commands import ROOT
from tests.gates.conftest import edit
from tests.warehouse.results import Lab


@pytest.fixture(autouse=True)
def here(db: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds a warehouse, and this machine's keys."""
    monkeypatch.chdir(db.parent)
    monkeypatch.setenv("HWBENCH_HOME", str(lab.home))
    return db.parent


def gated(*arguments: str) -> Result:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return CliRunner().invoke(gate, list(arguments))


def refused(result: Result, rule: str) -> None:
    assert result.exit_code == ExitCode.REFUSED, result.output + repr(result.exception)
    assert f"refused by {rule}" in result.stderr


def test_what_passes_is_published_and_what_does_not_is_listed_with_its_reason(lab: Lab, here: Path) -> None:
    done = gated()
    assert (done.exit_code, done.stderr) == (0, "")
    assert "published.duckdb: 4 real, 1 simulated, 1 quarantined of 6 results" in done.stdout
    assert "unverified: index: tag is_simulated is missing" in done.stdout
    assert "`hwbench verify RUN_ID` tells why" in done.stdout
    with open_published(here / "published.duckdb") as found:
        assert set(found.frame("real_results").run_id) == set(lab.runs)
        assert set(json.loads(found.manifest["suites"])) >= {"models", "performance_results"}
        assert found.stale_against(here / "hwbench.duckdb") is None
        assert len(found.frame("gate_rules")) > 150


def test_each_run_has_its_own_reason_and_runs_with_the_same_one_are_under_it(lab: Lab, here: Path) -> None:
    results = "UPDATE performance_results SET"
    edit(here / "hwbench.duckdb", f"{results} ranked = NOT ranked WHERE run_id IN (?, ?)", *lab.runs[:2])
    edit(here / "hwbench.duckdb", f"{results} profile = 'x' WHERE run_id = ?", lab.runs[2])
    shown = gated().stdout.splitlines()
    begin = shown.index("ROW    evidence.rederived  3 of 7 failed")
    assert shown[begin + 1 : begin + 5] == [
        "         2 alike: ranked in performance_results differ from the evidence, judged again",
        *(f"           {run}" for run in sorted(lab.runs[:2])),
        f"         {lab.runs[2]}  profile in performance_results differ from the evidence, judged again",
    ]
    assert sum("ranked in performance_results" in line for line in shown) == 1


def test_what_is_shown_of_a_rule_is_bounded() -> None:
    rows = [(f"run {n}", f"reason {n % 3}" if n < 30 else f"alone {n}") for n in range(50)]
    shown = list(_refused(rows))
    assert shown[0] == "         10 alike: reason 0"
    assert sum(line.startswith("           run") for line in shown) == SHOWN_RUNS
    assert shown[-1] == f"         and {50 - SHOWN_RUNS} more: see --json"


def test_a_second_gate_judges_only_what_changed_unless_it_is_told_to(lab: Lab, here: Path) -> None:
    assert "7 runs judged; " in gated().stdout
    first = json.loads(gated("--json").stdout)
    assert (first["runs_judged"], first["runs_unchanged"]) == (0, 7)
    assert "0 runs judged, 7 unchanged since they were judged here; " in gated().stdout
    assert [q["rule"] for q in first["quarantined"]] == ["evidence.verdict"]
    assert "4 real, 1 simulated, 1 quarantined of 6" in gated().stdout
    assert json.loads(gated("--json", "--rejudge").stdout)["runs_judged"] == 7
    edit(here / "hwbench.duckdb", "UPDATE performance_results SET ranked = NOT ranked WHERE run_id = ?", lab.runs[0])
    again = json.loads(gated("--json").stdout)
    assert (again["runs_judged"], again["runs_unchanged"]) == (1, 6)
    assert lab.runs[0] in {q["run_id"] for q in again["quarantined"]}


def test_json_is_one_stable_object(here: Path) -> None:
    document = json.loads(gated("--json").stdout)
    assert document["schema_version"] == 1
    assert (document["passed"], document["published"], document["refused_by"]) == (True, "published.duckdb", [])
    assert document["counts"] == {
        "rows_in": 6, "rows_real": 4, "rows_simulated": 1, "rows_estimates": 0, "rows_rooflines": 0,
        "rows_quarantined": 1,
    }  # fmt: skip
    assert [q["rule"] for q in document["quarantined"]] == ["evidence.verdict"]
    assert len(document["rules"]) > 150
    assert {"rule", "suite", "kind", "passed", "evaluated", "unexpected", "why", "what_to_do", "reason"} <= set(
        document["rules"][0]
    )


def test_junit_has_a_test_a_rule(here: Path) -> None:
    edit(here / "hwbench.duckdb", "UPDATE verdict_findings SET reason = 'bell \x07 & <b>'")
    assert gated("--junit", "gate.xml").exit_code == 0
    root = ET.parse(here / "gate.xml").getroot()
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert len(cases) > 150
    assert cases["models.columns"].find("failure") is None
    assert "tag is_simulated is missing" in str(cases["evidence.verdict"].find("failure").text)  # type: ignore[union-attr]
    assert cases["evidence.rederived"].find("failure") is not None


def test_strict_refuses_what_would_be_quarantined_and_keeps_what_was_published(here: Path) -> None:
    gated()
    before = (here / "published.duckdb").read_bytes()
    done = gated("--strict")
    refused(done, "evidence.verdict; published.duckdb is as it was")
    assert (here / "published.duckdb").read_bytes() == before
    document = json.loads(gated("--strict", "--json").stdout)
    assert (document["passed"], document["published"], document["counts"]) == (False, None, None)


EVIL = "<img src=x onerror=alert(1)> '; DROP TABLE models; \u202etxt.\x1b[2J"


def test_data_docs_and_the_terminal_show_hostile_names_as_text(here: Path, tmp_path: Path) -> None:
    edit(here / "hwbench.duckdb", "UPDATE models SET config_sha256 = ?, task = NULLIF(task, '')", EVIL)
    edit(here / "hwbench.duckdb", "UPDATE performance_results SET observed_device = ?", EVIL)
    done = gated("--docs", "docs")
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "<img src=x" in done.stdout
    pages = {page.name: page.read_text() for page in (here / "docs").iterdir()}
    assert len(pages) == 8
    assert 'href="00-performance_results.html">performance_results</a>: failed' in pages["index.html"]
    shown = [page for page in pages.values() if "onerror" in page]
    assert len(shown) == 2
    assert all("<img src=x" not in page for page in shown)
    with duckdb.connect("hwbench.duckdb", read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM models").fetchall() == [(1,)]


def test_what_a_terminal_gets_is_printable() -> None:
    assert printable("a\nb\x1b[2J\u202e\u0661") == "a\\nb\\x1b[2J\\u202e\u0661"


TABLE_EDITS = {
    "evidence.complete": "DELETE FROM performance_results WHERE run_id = (SELECT min(run_id) FROM performance_results)",
    "sync.finished": "UPDATE mlflow.sync_log SET finished_at = NULL",
    "warehouse.schema": "ALTER TABLE verdict_findings ADD COLUMN note VARCHAR",
}


@pytest.mark.parametrize("rule", TABLE_EDITS)
def test_a_table_rule_refuses_everything(rule: str, here: Path) -> None:
    edit(here / "hwbench.duckdb", TABLE_EDITS[rule])
    refused(gated(), f"{rule}; nothing is published")
    assert not (here / "published.duckdb").exists()


DB = Path("hwbench.duckdb")
HALVED = "UPDATE performance_results SET latency_ms_p50 = latency_ms_p50 * 0.999"


def test_a_trigger_that_edits_after_the_audit_publishes_nothing(here: Path) -> None:
    edit(DB, f"CREATE TRIGGER t AFTER INSERT ON gate_results FOR EACH STATEMENT {HALVED}")
    refused(gated(), "warehouse.schema")
    assert not Path("published.duckdb").exists()


def test_functions_in_the_place_of_duckdbs_own_blind_no_check(here: Path) -> None:
    edit(DB, "CREATE MACRO to_json(x) AS '{}'; CREATE MACRO abs(x) AS 0")
    refused(gated(), "warehouse.schema")
    edit(DB, f"{HALVED} WHERE verdict = 'verified'")
    refused(gated(), "warehouse.schema")
    edit(DB, "DROP MACRO to_json; DROP MACRO abs")  # nothing that a gate kept meanwhile vouches for the edit
    assert gated().exit_code == 0
    with open_published(Path("published.duckdb")) as found:
        assert found.frame("real_results").empty


@pytest.mark.parametrize("name", ["mlflow", "pub"])
def test_a_warehouse_with_the_name_of_a_schema_is_refused_in_words(name: str, here: Path) -> None:
    DB.rename(f"{name}.duckdb")
    result = gated("--db", f"{name}.duckdb")
    assert isinstance(result.exception, StoreError)
    assert "rename the file" in str(result.exception)


def test_an_emptied_warehouse_is_refused_and_a_new_one_only_with_leave(here: Path) -> None:
    for table in ("performance_results", "latency_samples"):
        edit(here / "hwbench.duckdb", f"DELETE FROM {table}")
    done = gated("--allow-empty")
    refused(done, "evidence.complete")
    for table in ("benchmark_runs", "evidence_files", "verdict_findings", "models", "hardware_platforms",
                  "hardware_availability_log", "mlflow.runs", "mlflow.run_state", "mlflow.tags", "mlflow.params",
                  "mlflow.latest_metrics", "mlflow.metric_history"):  # fmt: skip
        edit(here / "hwbench.duckdb", f"DELETE FROM {table}")
    refused(gated(), "performance_results.rows")
    done = gated("--allow-empty")
    assert "0 real, 0 simulated, 0 quarantined of 0" in done.stdout, done.stderr


def test_a_suite_that_is_bad_refuses_everything(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "mine.json").write_text("{}")
    refused(gated("--suite", "mine.json"), "suite.mine")
    monkeypatch.setattr("hwbench_mlflow.gates.loader.shipped", dict)
    refused(gated(), "suite.performance_results")


def test_a_suite_of_ones_own_keeps_rows_out(lab: Lab, here: Path) -> None:
    rule = {
        "type": "expect_column_values_to_not_be_in_set", "kwargs": {"column": "run_id", "value_set": [lab.runs[2]]},
        "meta": {"rule": "mine.run", "kind": "row", "why": "We know better.", "what_to_do": "Ask us."},
    }  # fmt: skip
    suite = {"name": "mine", "meta": {"table": "performance_results"}, "expectations": [rule]}
    (here / "mine.json").write_text(json.dumps(suite))
    done = gated("--suite", "mine.json")
    assert "3 real, 1 simulated, 2 quarantined of 6" in done.stdout
    with open_published(here / "published.duckdb") as found:
        assert list(found.frame("quarantine").query("rule == 'mine.run'").run_id) == [lab.runs[2]]
        assert "mine" in json.loads(found.manifest["suites"])
    rule["kwargs"] = {"column": "no_such_column", "value_set": [1]}
    (here / "mine.json").write_text(json.dumps(suite))
    refused(gated("--suite", "mine.json"), "mine.run")


def test_bad_input_is_one_line(here: Path) -> None:
    absent = gated("--db", "absent.duckdb").exception
    assert isinstance(absent, StoreError)
    assert "no warehouse at absent.duckdb. run `hwbench sync` first" in str(absent)
    assert not (here / "absent.duckdb").exists()
    (here / "text.duckdb").write_text("x" * 10_000)
    assert "not a readable DuckDB file" in str(gated("--db", "text.duckdb").exception)
    assert gated("--suite", "absent").exit_code == ExitCode.USAGE
    assert gated("--published", "hwbench.duckdb").exit_code == ExitCode.USAGE
    edit(here / "hwbench.duckdb", "UPDATE hwbench_migrations SET number = number + 90")
    assert f"has layout {latest_version() + 90}, this hwbench knows up to {latest_version()}" in str(gated().exception)
    edit(here / "hwbench.duckdb", "DELETE FROM hwbench_migrations WHERE number <> 91")
    edit(here / "hwbench.duckdb", "UPDATE hwbench_migrations SET number = 1")
    assert "older layout 1. run `hwbench sync`" in str(gated().exception)


@pytest.mark.parametrize("hours", ["nan", "inf", "1e300"])
def test_an_age_that_is_no_time_is_wrong_usage(hours: str, here: Path) -> None:
    done = gated("--max-age", hours)
    assert done.exit_code == ExitCode.USAGE
    assert "no number of hours" in done.stderr
    assert not (here / "published.duckdb").exists()


def test_a_lock_that_cannot_be_made_is_one_line_and_one_without_room_for_a_name_holds(here: Path) -> None:
    lock = here / "hwbench.duckdb.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    error = gated().exception
    assert isinstance(error, StoreError)
    assert str(error) == "cannot write hwbench.duckdb: Is a directory"
    lock.rmdir()
    lock.symlink_to("/dev/full")
    done = gated()
    assert done.exit_code == 0, done.output + repr(done.exception)


def test_what_a_command_writes_never_replaces_a_database(here: Path) -> None:
    assert gated().exit_code == 0
    (here / "mlflow.db").write_bytes(b"SQLite format 3\0" + bytes(100))
    before = {path.name: path.read_bytes() for path in here.iterdir() if path.suffix != ".lock"}
    outputs = ("hwbench.duckdb", "published.duckdb", "mlflow.db")
    done = [gated("--junit", name) for name in outputs]
    done += [CliRunner().invoke(query, ["SELECT 1", "-o", name]) for name in outputs]
    done += [CliRunner().invoke(query, ["SELECT 1", "--format", "parquet", "-o", name]) for name in outputs]
    assert all(isinstance(one.exception, UsageError) and "is a database" in str(one.exception) for one in done)
    assert {path.name: path.read_bytes() for path in here.iterdir() if path.suffix != ".lock"} == before


def test_what_is_published_takes_the_place_of_nothing_else(here: Path) -> None:
    (here / "mlflow.db").write_bytes(b"SQLite format 3\0" + bytes(100))
    (here / "notes.txt").write_text("kept")
    shutil.copyfile(here / "hwbench.duckdb", here / "other.duckdb")
    with duckdb.connect(str(here / "mine.duckdb")) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1 AS a")
    kept = ("mlflow.db", "notes.txt", "other.duckdb", "mine.duckdb")
    before = [(here / name).read_bytes() for name in kept]
    for name in (*kept, "hwbench.duckdb.wal", "hwbench.duckdb.lock"):
        done = gated("--published", name)
        assert done.exit_code != 0, name
        assert isinstance(done.exception, UsageError), (name, repr(done.exception))
    held = [sys.executable, "-c", "import duckdb; c = duckdb.connect('other.duckdb'); print(1, flush=True); input()"]
    with subprocess.Popen(held, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "1\n"
        busy = gated("--published", "other.duckdb").exception
        writer.communicate("\n", timeout=60)
    assert isinstance(busy, StoreError)
    assert f"other.duckdb is open for writing by process {writer.pid}" in str(busy)
    assert [(here / name).read_bytes() for name in kept] == before


def test_a_pipe_is_written_to_and_what_cannot_be_read_is_not_replaced(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(here / "pipe")
    asked = [sys.executable, "-m", "hwbench_mlflow", "query", "SELECT 1 AS a", "--db", "hwbench.duckdb"]
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        try:
            subprocess.run(
                [*asked, "--format", "csv", "-o", "pipe"], check=True, timeout=60,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            assert reader.communicate(timeout=60)[0] == "a\n1\n"
        finally:
            reader.kill()
    old = here / "old.csv"
    old.write_text("kept")
    opened = Path.open

    def denied(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if path.name == "old.csv" and mode == "rb":
            raise PermissionError(13, "Permission denied")
        return opened(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", denied)
    done = CliRunner().invoke(query, ["SELECT 1", "--db", "hwbench.duckdb", "-o", "old.csv"])
    assert "cannot write old.csv: what is there cannot be read: Permission denied" in str(done.exception)
    assert old.read_text() == "kept"


def test_a_query_writes_a_whole_file_or_leaves_the_old_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = here / "old.csv"
    old.write_text("kept")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hwbench_mlflow.warehouse.query.write_rows", full)
    done = CliRunner().invoke(query, ["SELECT 1", "--db", "hwbench.duckdb", "--format", "csv", "-o", "old.csv"])
    assert "cannot write old.csv: No space left on device" in str(done.exception)
    assert (old.read_text(), sorted(here.glob(".old*"))) == ("kept", [])


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_rows_are_read_as_they_are_written_and_one_that_fails_late_leaves_the_old_file(form: str, here: Path) -> None:
    late = "SELECT CASE WHEN i = 3000000 THEN error('late') ELSE i END AS i FROM range(4000000) rows(i)"
    with run_query(Path("hwbench.duckdb"), late) as (_, found):
        assert next(found) == (0,)  # a result that is read whole would have failed by now
    old = here / "old"
    old.write_text("kept")
    done = CliRunner().invoke(query, [late, "--db", "hwbench.duckdb", "--format", form, "-o", "old"])
    assert isinstance(done.exception, UsageError), repr(done.exception)
    assert "the query was refused: Invalid Input Error: late" in str(done.exception)
    assert (old.read_text(), sorted(here.glob(".old*"))) == ("kept", [])
    # A stream that is still open would make DuckDB wait for ever here.
    assert CliRunner().invoke(query, ["SELECT 1", "--db", "hwbench.duckdb"]).exit_code == 0
    assert gated().exit_code == 0


def test_json_without_a_row_is_an_empty_list() -> None:
    arguments = ["SELECT 1 AS a WHERE false", "--db", "hwbench.duckdb", "--format", "json"]
    assert json.loads(CliRunner().invoke(query, arguments).stdout) == []


def test_a_query_that_cannot_be_shown_is_wrong_usage_and_one_for_a_terminal_is_printable() -> None:
    def asked(*arguments: str) -> Result:
        return CliRunner().invoke(query, ["--db", "hwbench.duckdb", *arguments])

    for sql in ("", " ", "/* nothing */"):
        assert isinstance(asked(sql).exception, UsageError), sql
    twice = asked("SELECT 1 AS a, 2 AS a", "--format", "json").exception
    assert isinstance(twice, UsageError)
    assert "two columns are called a" in str(twice)
    shown = asked("SELECT chr(27) || '[2J' || chr(8238) || 'x' || chr(10) || 'y' AS a").stdout
    assert shown == "a\n\\x1b[2J\\u202ex\\ny\n"
    odd = "SELECT 'nan'::DOUBLE AS a, {'b': ['-inf'::FLOAT, 1.5]} AS c, NULL AS d, MAP {DATE '2026-11-01': 2} AS e"
    plain = json.loads(asked(odd, "--format", "json").stdout, parse_constant=pytest.fail)
    assert plain == [{"a": "NaN", "c": {"b": ["-Infinity", 1.5]}, "d": None, "e": {"2026-11-01": 2}}]


def test_two_gates_at_a_time_are_refused(here: Path) -> None:
    from hwbench_mlflow.warehouse.database import exclusive

    with exclusive(here / "published.duckdb", "gate"):
        error = gated().exception
    assert isinstance(error, StoreError)
    assert f"another gate (process {os.getpid()}) is writing published.duckdb" in str(error)


def test_query_and_load_results_read_what_is_published_and_say_when_they_do_not(lab: Lab, here: Path) -> None:
    sql = "SELECT count(*) AS n, bool_or(is_simulated) AS simulated FROM performance_results"
    before = CliRunner().invoke(query, [sql, "--format", "json"])
    assert json.loads(before.stdout) == [{"n": 6, "simulated": True}]
    assert "nothing is published: this is hwbench.duckdb, which no gate has passed" in before.stderr
    with pytest.warns(UngatedResultsWarning, match="no gate has passed"):
        assert len(hwbench_mlflow.load_results()) == 4
    edit(here / "hwbench.duckdb", "UPDATE performance_results SET latency_ms_p50 = 1 WHERE run_id = ?", lab.runs[0])
    gated()
    after = CliRunner().invoke(query, [sql, "--format", "json"])
    assert (json.loads(after.stdout), after.stderr) == ([{"n": 3, "simulated": False}], "")
    assert set(hwbench_mlflow.load_results().run_id) == set(lab.runs[1:])
    with pytest.warns(SimulatedResultsWarning, match="1 of 4"):
        assert len(hwbench_mlflow.load_results(include=["verified", "simulated"])) == 4
    with pytest.raises(UsageError, match="it holds no contradicted results"):
        hwbench_mlflow.load_results(include="contradicted")
    known = """SELECT model_name, hardware_type, is_simulated, simulation_reason
               FROM performance_results pr
               JOIN models m ON pr.model_id = m.model_id
               JOIN hardware_platforms hp ON pr.hardware_id = hp.hardware_id
               ORDER BY pr.created_at DESC LIMIT 10"""
    assert len(json.loads(CliRunner().invoke(query, [known, "--format", "json"]).stdout)) == 3
    lost = CliRunner().invoke(query, ["FROM mlflow.runs"]).exception
    assert isinstance(lost, UsageError)
    assert "The warehouse holds everything: name it with --db" in str(lost)
    assert CliRunner().invoke(query, ["FROM mlflow.runs", "--db", "hwbench.duckdb"]).exit_code == 0
    edit(here / "published.duckdb", "UPDATE real_results SET stable = NOT stable")
    assert isinstance(CliRunner().invoke(query, [sql]).exception, Refused)
    with pytest.raises(Refused, match="edited"):
        hwbench_mlflow.load_results()


def test_the_gate_writes_nothing_but_its_results_and_its_digests_into_the_warehouse(here: Path) -> None:
    def state() -> dict[str, object]:
        with duckdb.connect("hwbench.duckdb", read_only=True) as connection:
            names = connection.execute("SELECT schema_name || '.' || table_name FROM duckdb_tables()").fetchall()
            return {n: connection.execute(f"SELECT * FROM {n} ORDER BY ALL").fetchall() for (n,) in names
                    if n not in {"main.gate_results", "main.judged_runs"}}  # fmt: skip

    before = state()
    gated()
    assert state() == before
    with duckdb.connect("hwbench.duckdb", read_only=True) as connection:
        assert connection.execute("SELECT count(DISTINCT gate_id), count(*) > 150 FROM gate_results").fetchall() == [
            (1, True)
        ]
