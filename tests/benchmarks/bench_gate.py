"""How long a gate takes: verdicts beside bare signature checks, a million rows beside bare Great Expectations.

Run from the repository's top: ``python -m tests.benchmarks.bench_gate [--runs N] [--rows N] [--folder DIR]``. Each part
is run in a process of its own, so that its peak memory is its own. The million rows are one invented row many times,
without evidence: a real gate refuses every one of them, so the suites, the audit and the publication are called here.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median

import duckdb

from hwbench_mlflow.attest import CheckedAhead, Keyring
from hwbench_mlflow.attest import check as check_signature
from hwbench_mlflow.evidence import ATTESTATION_FILE, BINDING_FILE, RunIndex, judge
from hwbench_mlflow.gates import loader, run
from hwbench_mlflow.keystore import derived_key, load_keyring
from hwbench_mlflow.model import VerdictState
from hwbench_mlflow.warehouse import audit, database
from hwbench_mlflow.warehouse.cases import listed, load_work
from hwbench_mlflow.warehouse.gated import Gated
from hwbench_mlflow.warehouse.judging import PIECE_RUNS, cases_of, processes
from hwbench_mlflow.warehouse.memory import KEY_PURPOSE
from hwbench_mlflow.warehouse.publish import Publication, publish
from hwbench_mlflow.warehouse.published import open_published
from tests.benchmarks.made_runs import make

TABLE = "performance_results"
VERIFIED = VerdictState.VERIFIED
TURNS = 7
EMPTIED = (
    "mlflow.params", "mlflow.tags", "mlflow.latest_metrics", "mlflow.metric_history", "latency_samples",
    "evidence_files",
)  # fmt: skip
# What the audit would rightly refuse in rows that have neither samples nor files nor a run's params.
WITHOUT_EVIDENCE = {
    "mirror.fingerprints", "results.orphans", "samples.counted", "evidence.kept", "evidence.replayed",
}  # fmt: skip


def verdicts(folder: Path, runs: int, rows: int) -> dict[str, float]:
    """Verdicts beside bare signature checks, in one process and in as many as judge; then what a gate makes of them:
    every run read, judged and compared by a first gate; the second one; one after an edit."""
    del rows
    db, home = folder / "runs.duckdb", folder / "home"
    keyring = make(db, home, runs)
    assert load_keyring(home).keys.keys() == keyring.keys.keys()
    key = derived_key(KEY_PURPOSE, home)
    assert key is not None
    seconds, cpu = {}, {}
    with database.writer(db) as connection:

        def look(name: str, remembered: int, edited: int, key: bytes | None = key) -> None:
            begin, used = time.perf_counter(), _cpu_s()
            found = Gated(db, connection).rederive(keyring, lambda _done, _all: None, key)
            seconds[f"{name}_s"] = time.perf_counter() - begin
            cpu[f"{name}_cpu_us_a_run"] = (_cpu_s() - used) / runs * 1e6
            assert (found.runs, found.unproven, found.broken) == (runs, {}, None)
            assert (found.remembered, len(found.edited)) == (remembered, edited)

        beside = _judge_beside_checks(connection, keyring)
        look("verdicts_alone", 0, 0, None)
        look("first", 0, 0)
        look("second", runs, 0)
        edit = (
            "UPDATE performance_results SET ranked = NOT ranked WHERE run_id = (SELECT max(run_id) FROM benchmark_runs)"
        )
        connection.execute(edit)
        look("one_edited", runs - 1, 1)
    judged = seconds["verdicts_alone_s"]
    return {
        **beside, **seconds, **cpu, "gate_runs_per_s": runs / judged,
        "gate_over_signatures": judged / runs * beside["signatures_runs_per_s"],
    }  # fmt: skip


def _cpu_s() -> float:
    """CPU time of this process and of those that it waited for: waiting for a core does not count."""
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


Evidence = Sequence[tuple[RunIndex, Mapping[str, bytes]]]


def _judge_beside_checks(connection: duckdb.DuckDBPyConnection, keyring: Keyring) -> dict[str, float]:
    """Verdicts (:func:`judge`, from files and indexes in memory) and the same envelopes' signatures alone, in turns:
    CPU time a run in one process, and runs a second in as many processes as judge. The least of ``TURNS`` turns."""
    with listed(connection):
        ids = [r[0] for r in connection.execute("SELECT run_id FROM benchmark_runs LIMIT 2000").fetchall()]
        work = load_work(connection, ids, files=True)
    cases = [(case.index, {f["name"]: f["content"] for f in found})
             for case, found in zip(cases_of(work), work.column("files").to_pylist(), strict=True)]  # fmt: skip
    gc.collect()
    gc.disable()  # as in the processes that judge
    gc.freeze()
    parts: dict[str, Callable[[Evidence, Keyring], None]] = {"judge": _judgements, "checks": _signatures}
    cpu_us = dict.fromkeys(parts, math.inf)
    wall_s = dict.fromkeys(parts, math.inf)
    ratios = []
    for _ in range(TURNS):
        taken = {}
        for name, part in parts.items():
            begin = time.process_time()
            part(cases, keyring)
            cpu_us[name] = min(cpu_us[name], (time.process_time() - begin) / len(cases) * 1e6)
            taken[name] = _together(part, cases, keyring)
            wall_s[name] = min(wall_s[name], taken[name])
        ratios.append(taken["judge"] / taken["checks"])
    gc.unfreeze()
    gc.enable()
    return {
        "judge_cpu_us": cpu_us["judge"], "checks_cpu_us": cpu_us["checks"],
        "judge_over_checks": cpu_us["judge"] / cpu_us["checks"],
        "verdicts_runs_per_s": len(cases) / wall_s["judge"], "signatures_runs_per_s": len(cases) / wall_s["checks"],
        "verdicts_over_signatures": median(ratios),
    }  # fmt: skip


def _together(part: Callable[[Evidence, Keyring], None], cases: Evidence, keyring: Keyring) -> float:
    """Seconds of ``part`` of all cases in as many processes as judge, from the first one's start to the last one's end.
    They are forked, so that both parts start at the same cost: of importing nothing."""
    count, forking = processes(), multiprocessing.get_context("fork")
    workers = [forking.Process(target=part, args=(cases[n::count], keyring)) for n in range(count)]
    begin = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return time.perf_counter() - begin


def _judgements(cases: Evidence, keyring: Keyring) -> None:
    """A piece at a time, its signatures first, as :func:`hwbench_mlflow.warehouse.judging.judged` does."""
    for begin in range(0, len(cases), PIECE_RUNS):
        piece = cases[begin : begin + PIECE_RUNS]
        checking = CheckedAhead(_envelopes(piece), keyring).check
        assert all(judge(files, index, keyring, checking).verdict.state == VERIFIED for index, files in piece)


def _signatures(cases: Evidence, keyring: Keyring) -> None:
    assert all(check_signature(envelope, keyring).trusted for envelope in _envelopes(cases))


def _envelopes(cases: Evidence) -> Iterator[bytes]:
    return (files[name] for _, files in cases for name in (ATTESTATION_FILE, BINDING_FILE))


def many(folder: Path, runs: int, rows: int) -> dict[str, float]:
    """Make the rows."""
    del runs
    db = folder / "rows.duckdb"
    make(db, folder / "home", 3)
    begin = time.perf_counter()
    with duckdb.connect(str(db)) as connection:
        connection.execute("SET memory_limit = '1GB'")
        for table in EMPTIED:
            connection.execute(f"DELETE FROM {table}")
        for table in (TABLE, "benchmark_runs", "hardware_availability_log", "mlflow.runs", "mlflow.run_state"):
            key = "run_uuid" if table.startswith("mlflow.") else "run_id"
            own = ", md5('result ' || i) AS result_id" if table == TABLE else ""
            connection.execute(f"CREATE TEMP TABLE one AS FROM {table} LIMIT 1; DELETE FROM {table}")
            connection.execute(
                f"INSERT INTO {table} SELECT one.* REPLACE (md5(i::VARCHAR) AS {key}{own}) FROM one, range({rows}) r(i)"
            )
            connection.execute("DROP TABLE one")
    return {"s": time.perf_counter() - begin}


def bare(folder: Path, runs: int, rows: int) -> dict[str, float]:
    """Great Expectations alone: the same columns as DuckDB gives them, the same rules, one validation."""
    import great_expectations as gx

    del runs, rows
    suite = next(s for s in loader.load().suites if s.table == TABLE)
    expectations, _ = run._expectations(suite)
    with duckdb.connect(str(folder / "rows.duckdb"), read_only=True) as connection:
        begin = time.perf_counter()
        frame = connection.execute(f"SELECT {', '.join(suite.columns)} FROM {TABLE}").df()
    batch = run._asset(TABLE).add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    assert batch.validate(gx.ExpectationSuite(name="bare", expectations=expectations)).success
    return {"s": time.perf_counter() - begin}


def ours(folder: Path, runs: int, rows: int) -> dict[str, float]:
    """The suite, the audit's rules that such rows can pass, the publication, and opening it."""
    del runs
    suite = next(s for s in loader.load().suites if s.table == TABLE)
    run._import_quietly()
    seconds: dict[str, float] = {}
    rules = [rule for rule in audit.RULES if rule.rule not in WITHOUT_EVIDENCE]
    with database.writer(folder / "rows.duckdb") as connection:
        begin = time.perf_counter()
        outcomes = run.check(suite, audit.frames(connection, TABLE, suite.columns)).outcomes
        seconds["suite_s"] = time.perf_counter() - begin
        begin = time.perf_counter()
        outcomes += audit.audit(connection, datetime(2030, 1, 1), rules=rules)
        seconds["audit_s"] = time.perf_counter() - begin
        failed = [o.reason for o in outcomes if not o.passed]
        assert not failed, failed
        what = Publication(gate_id="bench", gated_at=datetime(2030, 1, 1), outcomes=outcomes, quarantine=[], suites={})
        begin = time.perf_counter()
        assert publish(connection, folder / "published.duckdb", what).rows_real == rows
        seconds["publish_s"] = time.perf_counter() - begin
    begin = time.perf_counter()
    open_published(folder / "published.duckdb").close()
    return {**seconds, "s": sum(seconds.values()), "open_s": time.perf_counter() - begin}


PARTS: dict[str, Callable[[Path, int, int], dict[str, float]]] = {
    "verdicts": verdicts, "many": many, "bare": bare, "ours": ours,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--part", choices=PARTS)
    options = parser.parse_args()
    if options.part:
        found = PARTS[options.part](options.folder, options.runs, options.rows)
        found["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        results = {}
        for part in PARTS:
            command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.bench_gate", "--part", part]
            command += ["--folder", str(folder), "--runs", str(options.runs), "--rows", str(options.rows)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[part] = json.loads(done.stdout.splitlines()[-1])
            print(part, {name: round(value, 2) for name, value in results[part].items()}, flush=True)
    print(f"gate and publication over bare Great Expectations: {results['ours']['s'] / results['bare']['s']:.2f}")


if __name__ == "__main__":
    main()
