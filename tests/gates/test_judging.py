"""Judging in several processes: the same as in one, in order, and a process that dies is never a gap."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import duckdb
import pytest

from hwbench_mlflow.attest import Keyring, Revocation
from hwbench_mlflow.keystore import load_keyring
from hwbench_mlflow.rules import decide
from hwbench_mlflow.warehouse import database, judging, rederive, star
from hwbench_mlflow.warehouse.cases import listed, load_work
from hwbench_mlflow.warehouse.judging import Judges, Terms
from hwbench_mlflow.warehouse.rederive import Rederived
from hwbench_mlflow.warehouse.star import Star
from tests.gates.conftest import edit
from tests.warehouse.results import Lab


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes for however few runs, two runs at a time."""
    monkeypatch.setattr(judging, "POOL_RUNS", 1)
    monkeypatch.setattr(judging, "processes", lambda: 2)
    monkeypatch.setattr(rederive, "CHUNK_RUNS", 2)
    monkeypatch.setattr(star, "CHUNK_RUNS", 2)


def again(lab: Lab, db: Path) -> Rederived:
    with database.writer(db) as connection:
        return rederive.rederive(connection, load_keyring(lab.home))


def test_several_processes_come_to_what_one_does(lab: Lab, db: Path, request: pytest.FixtureRequest) -> None:
    edit(db, "UPDATE performance_results SET ranked = NOT ranked WHERE run_id = ?", lab.runs[2])
    edit(db, "UPDATE evidence_files SET content = 'x'::BLOB WHERE run_id = ? AND name = 'result.json'", lab.runs[1])
    edit(db, "INSERT INTO mlflow.metric_history SELECT * REPLACE (7 AS value) FROM mlflow.metric_history "
             "WHERE run_uuid = ? AND key = 'sample_count'", lab.runs[0])  # fmt: skip
    one = again(lab, db)
    request.getfixturevalue("several")
    assert again(lab, db) == one
    assert set(one.edited) == {lab.runs[0], lab.runs[1], lab.runs[2]}
    assert lab.runs[0] in one.unproven


@pytest.mark.usefixtures("several")
def test_a_sync_with_several_processes_makes_the_same_rows(lab: Lab, db: Path) -> None:
    with database.writer(db) as connection:
        filled = Star(load_keyring(lab.home)).fill(connection, full=True)
        assert (filled.judged, filled.written) == (7, 0)
        assert filled.verdicts == {"verified": 4, "simulated": 1, "unverified": 1}


@pytest.mark.usefixtures("several")
def test_a_row_that_the_tables_refuse_is_refused_alone(lab: Lab, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Judges, "judge", lambda self, works: ((work, {}) for work in works))
    monkeypatch.setattr(rederive, "unchanged", lambda *_: False)
    monkeypatch.setattr(star.StagedRows, "_insert", _refusing_once(star.StagedRows._insert))
    assert again(lab, db).edited == {}


def _refusing_once(insert):  # type: ignore[no-untyped-def]
    said = iter(["a CHECK"])
    return lambda self, made: next(said, None) or insert(self, made)


def _terms(connection: duckdb.DuckDBPyConnection, keyring: Keyring) -> Terms:
    return Terms(keyring=keyring, schemas=star.schemas(connection), keep_content=False, kept_only=True)


@pytest.mark.parametrize("forks", [judging.FORKS, False])
def test_answers_come_in_order_and_keys_reach_the_processes(
    lab: Lab, db: Path, monkeypatch: pytest.MonkeyPatch, forks: bool
) -> None:
    monkeypatch.setattr(judging, "FORKS", forks)
    ring = load_keyring(lab.home)
    gone = {k: Revocation(keyid=k, revoked_at="2026-01-01", reason="lost") for k in ring.keys}
    for keyring, state in ((ring, "trusted"), (Keyring(ring.keys, gone), "revoked")):
        with duckdb.connect(str(db)) as connection, listed(connection):
            works = [load_work(connection, [run], files=True) for run in lab.runs * 2]
            with Judges(_terms(connection, keyring), 2) as several:
                made = [tables for _, tables in several.judge(works)]
        found = [(t or {})["performance_results"].select(["run_id", "signature_state"]).to_pylist() for t in made]
        assert found == [[{"run_id": run, "signature_state": state}] for run in lab.runs * 2]


def test_terms_are_asked_for_once_processes_start_and_without_them_they_end(lab: Lab, db: Path) -> None:
    started = []

    def terms() -> Terms:
        started.extend(several._all)
        if len(started) > 2:
            raise OSError("no terms")
        return _terms(connection, load_keyring(lab.home))

    with duckdb.connect(str(db)) as connection, listed(connection):
        work = load_work(connection, lab.runs, files=True)
        several = Judges(terms, 2)
        with several:
            [(_, made)] = several.judge([work])
        assert made == next(judging.Here(_terms(connection, load_keyring(lab.home))).judge([work]))[1]
        several = Judges(terms, 2)
        with pytest.raises(OSError, match="no terms"):
            several.__enter__()
    assert len(started) == 4
    assert all(judge.process.returncode is not None for judge in started)


def test_processes_that_die_are_an_error(lab: Lab, db: Path) -> None:
    with duckdb.connect(str(db)) as connection, listed(connection):
        works = [load_work(connection, [run], files=True) for run in lab.runs]
        with Judges(_terms(connection, load_keyring(lab.home)), 2) as several:
            for judge in several._all:
                judge.kill()
            with pytest.raises(judging.JudgeDied, match=r"died \(exit status -9\)"):
                list(several.judge(works))
    assert all(judge.process.returncode is not None for judge in several._all)


@pytest.mark.skipif(not judging.FORKS, reason="each process was started by this one")
def test_one_of_forked_processes_that_dies_ends_them_all(lab: Lab, db: Path) -> None:
    with duckdb.connect(str(db)) as connection, listed(connection):
        works = [load_work(connection, [run], files=True) for run in lab.runs]
        with Judges(_terms(connection, load_keyring(lab.home)), 2) as several:
            list(several.judge(works))  # so both are there
            [process] = {judge.process for judge in several._all}
            forked = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert len(forked) == 2
            os.kill(int(forked[0]), signal.SIGKILL)
            with pytest.raises(judging.JudgeDied, match=r"died \(exit status 137\)"):
                list(several.judge(works * 3))
    assert not any(Path(f"/proc/{pid}").exists() for pid in forked)


def test_answers_to_pieces_of_one_work_are_put_together_in_order(
    lab: Lab, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "PIECE_RUNS", 2)
    with duckdb.connect(str(db)) as connection, listed(connection):
        terms = _terms(connection, load_keyring(lab.home))
        work = load_work(connection, lab.runs, files=True)
        with Judges(terms, 2) as several:
            [(_, made)] = several.judge([work])
        [(_, here)] = judging.Here(terms).judge([work])
    assert made == here
    assert made is not None
    assert made["benchmark_runs"].column("run_id").to_pylist() == sorted(lab.runs)


@pytest.mark.usefixtures("several")
def test_a_gate_whose_judge_died_refuses_everything(lab: Lab, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(self: Judges, works: object) -> None:
        raise judging.JudgeDied("a process that judged results died")

    monkeypatch.setattr(Judges, "judge", dies)
    found = again(lab, db)
    outcomes = found.outcomes()
    assert {o.rule for o in outcomes} == {"evidence.verdict", "evidence.rederived", "evidence.complete"}
    assert all(not o.passed and "not evaluated: a process" in str(o.reason) for o in outcomes)
    assert not decide(outcomes, strict=False).publish


def test_the_judging_process_needs_no_torch_no_mlflow_and_no_duckdb() -> None:
    import subprocess
    import sys

    code = (
        "import sys, hwbench_mlflow.warehouse.judging as j, pyarrow; "
        "print(sorted({'torch', 'mlflow', 'duckdb', 'pandas', 'great_expectations'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_few_runs_start_no_process(lab: Lab, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *_a, **_k: pytest.fail("a process was started"))
    assert again(lab, db).edited == {}
