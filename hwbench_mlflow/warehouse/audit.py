"""Rules that look across rows and tables, as SQL; and the warehouse's side of a gate: frames out, findings in.

What one row can say of itself is in the suites of ``expectations/``; what the evidence says is :mod:`.rederive`'s.
"""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench_mlflow import __version__
from hwbench_mlflow.rules import Outcome, RuleKind
from hwbench_mlflow.warehouse import database
from hwbench_mlflow.warehouse.digest import quoted
from hwbench_mlflow.warehouse.stage import CHILDREN, FINGERPRINTS, row_hash

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection

SUITE = "audit"
RECORDED_ROWS = 50_000
FRAME_ROWS = 250_000
"""Rows a frame: bounds what the suites hold in memory of a long table."""

ROW, TABLE = RuleKind.ROW, RuleKind.TABLE
_SYNC = "Run `hwbench sync --full`, then `hwbench gate`."
_EDITED = "The warehouse was edited: run `hwbench sync --full`, or move it away and sync again."
_AGAIN = "Measure again with `hwbench run`."


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRule:
    """``sql`` gives ``(key, reason)`` for each row that fails; ``table`` is what is counted as evaluated."""

    rule: str
    table: str
    kind: RuleKind
    why: str
    what_to_do: str
    sql: str

    def outcome(self, rows: Sequence[tuple[str, str]], evaluated: int) -> Outcome:
        """What came of it."""
        return Outcome(
            rule=self.rule, suite=SUITE, table=self.table, kind=self.kind, passed=not rows, why=self.why,
            what_to_do=self.what_to_do, evaluated=evaluated, unexpected=len(rows),
            reason=f"{len(rows)} of {evaluated}: {rows[0][1]}" if rows else None,
            refused=tuple(rows) if self.kind is ROW else (),
        )  # fmt: skip


# A row that could be published: others are kept out by their verdict, and cannot harm an honest one by being there.
_SHOWN = "verdict IN ('verified', 'simulated')"

_FILES = {
    "result_sha256": "result.json", "samples_sha256": "samples.json",
    "attestation_sha256": "attestation.dsse.json", "binding_sha256": "binding.dsse.json",
}  # fmt: skip

_FINGERPRINT_JOINS = " ".join(
    f"LEFT JOIN (SELECT run_uuid, sum({row_hash(t)}::HUGEINT) AS fp FROM mlflow.{t} GROUP BY 1) {t} USING (run_uuid)"
    for t in CHILDREN
)
_FINGERPRINT_DIFFERS = " OR ".join(f"coalesce({t}.fp, 0) <> s.{FINGERPRINTS[t]}" for t in CHILDREN)

RULES: tuple[AuditRule, ...] = (
    AuditRule(
        rule="sync.finished", table="mlflow.sync_log", kind=TABLE,
        why="A sync that was cut off has left the warehouse between two states.", what_to_do="Run `hwbench sync`.",
        sql="""SELECT sync_id::VARCHAR, 'sync ' || sync_id || ' did not finish' FROM mlflow.sync_log
               WHERE finished_at IS NULL
               UNION ALL SELECT '', 'no sync was ever made' WHERE NOT EXISTS (FROM mlflow.sync_log)""",
    ),
    AuditRule(
        rule="sync.looked_at_tags", table="mlflow.sync_state", kind=TABLE,
        why="A fast sync trusts that no tag was edited: an edited one would show only after another sync.",
        what_to_do="Run `hwbench sync` without --fast.",
        sql="""SELECT scope, 'the last sync was a fast one' FROM mlflow.sync_state
               WHERE coalesce((state::JSON->>'fast')::BOOLEAN, false)
               UNION ALL SELECT '', 'the last sync was a fast one' FROM (
                   FROM mlflow.sync_log ORDER BY sync_id DESC LIMIT 1)
               WHERE mode = 'fast' AND NOT EXISTS (FROM mlflow.sync_state WHERE state::JSON->>'fast' IS NOT NULL)""",
    ),
    AuditRule(
        rule="mirror.fingerprints", table="mlflow.run_state", kind=ROW,
        why="A run's params, tags and metrics are what its verdict is held against: they are as the sync wrote them.",
        what_to_do=_EDITED,
        sql=f"""SELECT s.run_uuid,
                       CASE WHEN s.engine <> ? THEN 'its mirror was written by ' || s.engine || ': sync again'
                                        ELSE 'its mirrored params, tags or metrics are not those of the last sync' END
                FROM mlflow.run_state s JOIN mlflow.runs r USING (run_uuid) {_FINGERPRINT_JOINS}
                WHERE s.engine <> ? OR s.fp_run <> {row_hash("runs", "r")}::HUGEINT OR {_FINGERPRINT_DIFFERS}""",
    ),
    AuditRule(
        rule="results.orphans", table="performance_results", kind=ROW,
        why="A result belongs to a run of the store, to a model and to a device.", what_to_do=_EDITED,
        sql="""SELECT pr.run_id, 'it has no ' || concat_ws(', ',
                   CASE WHEN m.model_id IS NULL THEN 'row in models' END,
                   CASE WHEN hp.hardware_id IS NULL THEN 'row in hardware_platforms' END,
                   CASE WHEN r.run_uuid IS NULL THEN 'run in the mirror' END,
                   CASE WHEN b.run_id IS NULL THEN 'row in benchmark_runs' END,
                   CASE WHEN s.run_id IS NULL THEN 'samples' END)
               FROM performance_results pr LEFT JOIN models m USING (model_id)
               LEFT JOIN hardware_platforms hp USING (hardware_id) LEFT JOIN mlflow.runs r ON r.run_uuid = pr.run_id
               LEFT JOIN benchmark_runs b ON b.run_id = pr.run_id
               LEFT JOIN (SELECT DISTINCT run_id FROM latency_samples) s ON s.run_id = pr.run_id
               WHERE m.model_id IS NULL OR hp.hardware_id IS NULL OR r.run_uuid IS NULL OR b.run_id IS NULL
                     OR (s.run_id IS NULL AND pr.verdict IN ('verified', 'simulated'))""",
    ),
    AuditRule(
        rule="children.orphans", table="benchmark_runs", kind=ROW,
        why="Samples, findings and files belong to a run that hwbench made.", what_to_do=_EDITED,
        sql="""SELECT run_id, 'it has rows in ' || string_agg(DISTINCT name, ', ') || ' but none in benchmark_runs'
               FROM (
                   SELECT run_id, 'latency_samples' AS name FROM latency_samples
                   UNION ALL SELECT run_id, 'verdict_findings' FROM verdict_findings
                   UNION ALL SELECT run_id, 'evidence_files' FROM evidence_files)
               WHERE run_id NOT IN (SELECT run_id FROM benchmark_runs) GROUP BY run_id""",
    ),
    AuditRule(
        rule="evidence.replayed", table="performance_results", kind=ROW,
        why="One measurement is one result: evidence that two runs show is in one of them a copy.",
        what_to_do="Delete the run that is the copy in MLflow, then run `hwbench sync`.",
        # Windows and not joins: a thousand copies of one result would make a million pairs.
        sql=f"""SELECT run_id, 'its evidence is also that of run ' || CASE WHEN low <> run_id THEN low ELSE high END
                FROM (SELECT run_id, least(min(run_id) OVER ids, min(run_id) OVER files) AS low,
                             greatest(max(run_id) OVER ids, max(run_id) OVER files) AS high
                      FROM performance_results WHERE {_SHOWN}
                      WINDOW ids AS (PARTITION BY result_id), files AS (PARTITION BY result_sha256))
                WHERE low <> high""",
    ),
    AuditRule(
        rule="evidence.kept", table="performance_results", kind=ROW,
        why="A verdict can be computed again only from the very files that it was made of.", what_to_do=_SYNC,
        sql=" UNION ALL ".join(
            f"""SELECT pr.run_id, CASE WHEN f.run_id IS NULL THEN '{name} is not kept in evidence_files'
                    ELSE '{name} as it is kept has another digest than {column}' END
                FROM performance_results pr LEFT JOIN evidence_files f ON f.run_id = pr.run_id AND f.name = '{name}'
                WHERE pr.{column} IS NOT NULL AND (f.run_id IS NULL OR f.sha256 <> pr.{column}
                      OR sha256(f.content) <> f.sha256 OR octet_length(f.content) <> f.size_bytes)"""
            for column, name in _FILES.items()
        ),
    ),
    AuditRule(
        rule="availability.rests_on_probe", table="performance_results", kind=ROW,
        why="A result rests on a probe in which an operation ran on this very device of this very host.",
        what_to_do=_AGAIN,
        sql=f"""SELECT pr.run_id, 'no probe ' || pr.probe_id || ' verified ' || pr.device_id || ' (' ||
                       pr.device_name || ') with driver ' || coalesce(pr.device_driver, 'none') || ' on its host'
                FROM performance_results pr WHERE pr.{_SHOWN} AND NOT EXISTS (
                    FROM hardware_availability_log a
                    WHERE a.run_id = pr.run_id AND a.probe_id = pr.probe_id AND a.hardware_type = pr.platform
                      AND a.device_id = pr.device_id AND a.device_name = pr.device_name AND a.is_verified
                      AND a.device_uuid IS NOT DISTINCT FROM pr.device_uuid
                      AND a.driver IS NOT DISTINCT FROM pr.device_driver AND a.host_id = pr.host_id
                      AND a.boot_id IS NOT DISTINCT FROM pr.boot_id AND a.probed_at IS NOT DISTINCT FROM pr.probed_at
                      AND a.probed_at <= pr.created_at)""",
    ),
    AuditRule(
        rule="hardware.same", table="performance_results", kind=ROW,
        why="The device of a result and the device that it is listed under are one.", what_to_do=_EDITED,
        sql="""SELECT pr.run_id, pr.device_name || ' of host ' || pr.host_id || ' is listed under ' || hp.device_name ||
                      ' (' || hp.hardware_type || ') of host ' || hp.host_id
               FROM performance_results pr JOIN hardware_platforms hp USING (hardware_id)
               WHERE pr.platform <> hp.hardware_type OR pr.device_id <> hp.device_id OR pr.device_name <> hp.device_name
                  OR pr.device_uuid IS DISTINCT FROM hp.device_uuid OR pr.host_id <> hp.host_id""",
    ),
    AuditRule(
        rule="memory.within_device", table="performance_results", kind=ROW,
        why="Nobody uses more memory than the machine and the device have.", what_to_do=_AGAIN,
        sql="""SELECT pr.run_id, CASE WHEN pr.memory_peak_mb * 1e6 > pr.host_memory_bytes
                   THEN round(pr.memory_peak_mb) || ' MB used; the host has ' || pr.host_memory_bytes // 1000000
                   ELSE round(pr.device_memory_peak_mb) || ' MB used; the device has ' || hp.memory_bytes // 1000000 END
               FROM performance_results pr LEFT JOIN hardware_platforms hp USING (hardware_id)
               WHERE coalesce(pr.memory_peak_mb * 1e6 > pr.host_memory_bytes, false)
                  OR coalesce(pr.device_memory_peak_mb * 1e6 > hp.memory_bytes, false)""",
    ),
    AuditRule(
        rule="generation.whole", table="performance_results", kind=ROW,
        why="Times of tokens belong to models that write, and the rate of tokens is that of the results.",
        what_to_do=_EDITED,
        sql="""SELECT run_id, 'phase ' || coalesce(phase, 'unknown') || ': ' ||
                      coalesce(output_tokens::VARCHAR, 'no') || ' tokens at ' ||
                      coalesce(round(tokens_per_s, 3)::VARCHAR, 'no') || ' tokens/s, ' ||
                      round(throughput_items_per_s, 3) || ' items/s'
               FROM performance_results WHERE verdict IN ('verified', 'simulated') AND NOT coalesce(CASE phase
                   WHEN 'forward' THEN coalesce(ttft_ms_p50, tpot_ms_p50, tokens_per_s) IS NULL AND kv_cache IS NULL
                   WHEN 'prefill' THEN coalesce(tpot_ms_p50, tokens_per_s, output_tokens) IS NULL AND kv_cache
                   ELSE abs(tokens_per_s - throughput_items_per_s * output_tokens) <= 1e-9 * tokens_per_s
                        AND kv_cache IS NOT NULL AND (phase = 'generate' OR ttft_ms_p50 IS NULL) END, false)""",
    ),
    AuditRule(
        rule="hearing.whole", table="performance_results", kind=ROW,
        why="A real-time factor is the audio of the results over their time.", what_to_do=_EDITED,
        sql="""SELECT run_id, 'it says ' || coalesce(round(real_time_factor, 6)::VARCHAR, 'nothing') ||
                      ' times real time, ' || coalesce(audio_seconds::VARCHAR, 'no') || ' s of audio an item'
               FROM performance_results WHERE verdict IN ('verified', 'simulated') AND NOT CASE
                   WHEN audio_seconds IS NULL OR phase IN ('prefill', 'decode') THEN real_time_factor IS NULL
                   ELSE coalesce(abs(real_time_factor - throughput_items_per_s * audio_seconds)
                                 <= 1e-9 * real_time_factor, false) END""",
    ),
    AuditRule(
        rule="samples.counted", table="performance_results", kind=ROW,
        why="A result has all of its samples: dropping slow ones makes it fast.", what_to_do=_EDITED,
        sql="""SELECT pr.run_id, 'it counts ' || pr.sample_count || ' samples and ' || coalesce(pr.warmup_count, 0) ||
                      ' of warm-up; there are ' || coalesce(s.timed, 0) || ' and ' || coalesce(s.warmup, 0)
               FROM performance_results pr LEFT JOIN (
                   SELECT run_id, count(*) FILTER (phase = 'timed') AS timed,
                          count(*) FILTER (phase = 'warmup') AS warmup
                   FROM latency_samples GROUP BY run_id) s USING (run_id)
               WHERE pr.verdict IN ('verified', 'simulated') AND (coalesce(s.timed, 0) <> pr.sample_count
                     OR coalesce(s.warmup, 0) <> coalesce(pr.warmup_count, 0))""",
    ),
    AuditRule(
        rule="aggregates.recompute", table="performance_results", kind=ROW,
        why="Statistics are those of the raw samples.", what_to_do=_EDITED,
        sql="""SELECT pr.run_id, 'its samples have median ' || round(s.p50, 6) || ' ms and mean ' || round(s.mean, 6) ||
                      ' ms; it says ' || coalesce(round(pr.latency_ms_p50, 6)::VARCHAR, 'nothing') || ' and ' ||
                      coalesce(round(pr.latency_ms_mean, 6)::VARCHAR, 'nothing')
               FROM performance_results pr JOIN (
                   SELECT run_id, median(latency_ms) AS p50, avg(latency_ms) AS mean, min(latency_ms) AS low,
                          max(latency_ms) AS high, count(*) = count(latency_ms) AS whole, count(*) AS n
                   FROM latency_samples WHERE phase = 'timed' GROUP BY run_id) s USING (run_id)
               WHERE pr.verdict IN ('verified', 'simulated') AND s.whole AND NOT coalesce(
                     (n < 11 OR abs(pr.latency_ms_p50 - s.p50) <= 1e-9 * s.p50)
                     AND abs(pr.latency_ms_mean - s.mean) <= 1e-9 * s.mean
                     AND pr.latency_ms_min = s.low AND pr.latency_ms_max = s.high, false)""",
    ),
    AuditRule(
        rule="server.recompute", table="performance_results", kind=ROW,
        why="Every query of a server counts from its scheduled arrival, and the late ones are counted.",
        what_to_do=_EDITED,
        sql="""SELECT pr.run_id, CASE WHEN s.broken > 0 THEN s.broken || ' queries lack a time, or count not ' ||
                      'from their arrival' ELSE s.late || ' queries are later than ' || pr.latency_bound_ms ||
                      ' ms; it says ' || coalesce(pr.late_count::VARCHAR, 'nothing') END
               FROM performance_results pr JOIN (
                   SELECT l.run_id, count(*) FILTER (sample_ns > p.latency_bound_ms * 1e6) AS late,
                          count(*) FILTER (NOT coalesce(end_ns - arrival_ns = sample_ns AND start_ns >= arrival_ns
                                                        AND end_ns > start_ns, false)) AS broken
                   FROM latency_samples l JOIN performance_results p USING (run_id)
                   WHERE l.phase = 'timed' AND p.scenario = 'server' GROUP BY l.run_id) s USING (run_id)
               WHERE pr.verdict IN ('verified', 'simulated') AND (
                     s.broken > 0 OR s.late IS DISTINCT FROM pr.late_count)""",
    ),
    AuditRule(
        rule="findings.agree", table="performance_results", kind=ROW,
        why="A verdict and its findings tell the same story.", what_to_do=_EDITED,
        sql="""SELECT pr.run_id, 'verdict ' || pr.verdict || ' with ' || coalesce(f.n, 0) || ' findings and ' ||
                      len(pr.reasons) || ' reasons'
               FROM performance_results pr LEFT JOIN (
                   SELECT run_id, count(*) AS n FROM verdict_findings GROUP BY run_id) f USING (run_id)
               LEFT JOIN benchmark_runs b USING (run_id)
               WHERE coalesce(f.n, 0) <> len(pr.reasons) OR (pr.verdict = 'verified') <> (coalesce(f.n, 0) = 0)
                  OR b.verdict IS DISTINCT FROM pr.verdict OR b.reasons IS DISTINCT FROM pr.reasons""",
    ),
    AuditRule(
        rule="time.not_ahead", table="performance_results", kind=ROW,
        why="A result from the future was dated by hand, or by a clock that is wrong.", what_to_do=_AGAIN,
        sql="SELECT run_id, 'it ended at ' || created_at || ' UTC, after this gate' FROM performance_results "
            "WHERE created_at > ?::TIMESTAMP + INTERVAL 1 HOUR",
    ),
)  # fmt: skip

FINITE = AuditRule(
    rule="numbers.finite", table="performance_results", kind=ROW,
    why="NaN and infinity are no measurements, and pass every comparison's opposite.", what_to_do=_EDITED, sql="",
)  # fmt: skip

SCHEMA = AuditRule(
    rule="warehouse.schema", table="duckdb_tables", kind=TABLE,
    why="The tables' own constraints are the first guard: a table that was made anew by hand has lost them. A function "
    "or a trigger that was put in makes every other check say what it likes.",
    what_to_do="Move the warehouse away and run `hwbench sync`: everything in it can be rebuilt.", sql="",
)  # fmt: skip

AGE = AuditRule(
    rule="sync.recent", table="mlflow.sync_log", kind=TABLE,
    why="What was asked for is a warehouse that is not older than this.", what_to_do="Run `hwbench sync`.", sql="",
)  # fmt: skip


def audit(
    connection: DuckDBPyConnection,
    now: datetime,
    *,
    max_age: timedelta | None = None,
    rules: Sequence[AuditRule] = RULES,
) -> list[Outcome]:
    """The outcome of every rule. One that raises has not passed, and refuses everything."""
    outcomes = []
    for rule in rules:
        values: list[object] = [now] if rule.rule == "time.not_ahead" else []
        if rule.rule == "mirror.fingerprints":
            values = [database.engine(), database.engine()]
        outcomes.append(_made(connection, rule, rule.sql, values))
    outcomes.append(_made(connection, FINITE, _finite(connection), []))
    if max_age is not None:
        last = "SELECT max(finished_at) AS ended FROM mlflow.sync_log"
        said = "'the last sync that changed anything ended ' || coalesce(ended::VARCHAR || ' UTC', 'never')"
        # One that is still to come was dated by hand, or by a clock that is wrong: nothing is known of its age.
        sql = (
            f"SELECT '', {said} FROM ({last}) "
            "WHERE NOT coalesce(ended BETWEEN ?::TIMESTAMP AND ?::TIMESTAMP + INTERVAL 1 HOUR, false)"
        )
        outcomes.append(_made(connection, AGE, sql, [now - min(max_age, now - datetime.min), now]))
    return outcomes


def _made(connection: DuckDBPyConnection, rule: AuditRule, sql: str, values: list[object]) -> Outcome:
    import duckdb

    try:
        # Sorted: a writer's connection keeps no order, and the first row is the one that is shown.
        rows = sorted((str(key), str(reason)) for key, reason in connection.execute(sql, values).fetchall())
        evaluated = connection.execute(f"SELECT count(*) FROM {rule.table}").fetchall()[0][0]
    except duckdb.Error as error:
        return Outcome(
            rule=rule.rule, suite=SUITE, table=rule.table, kind=TABLE, passed=False, why=rule.why,
            what_to_do=rule.what_to_do, reason=f"not evaluated: {str(error).splitlines()[0]}",
        )  # fmt: skip
    return rule.outcome(rows, evaluated)


def _finite(connection: DuckDBPyConnection) -> str:
    columns = connection.execute(
        "SELECT column_name FROM duckdb_columns() WHERE database_name = current_database() AND schema_name = 'main' "
        "AND table_name = 'performance_results' AND data_type = 'DOUBLE'"
    ).fetchall()
    names = [quoted(c[0]) for c in columns]
    said = ", ".join(f"CASE WHEN NOT isfinite({n}) THEN '{n} is ' || {n} END" for n in names)
    wrong = " OR ".join(f"NOT isfinite({n})" for n in names) or "false"
    return f"SELECT run_id, concat_ws(', ', {said or 'NULL'}) FROM performance_results WHERE {wrong}"


def schema(connection: DuckDBPyConnection, path: Path) -> Outcome:
    """Whether the tables are those that the migrations make, every column, type and constraint, and nothing in the file
    changes what SQL means or does."""
    import duckdb

    made = database.made_by_hand(connection)
    if made:  # nothing that a query says can be relied on, so none is made
        return SCHEMA.outcome([(name, f"{name} is not hwbench's") for name in made], len(made))
    sql = (
        "SELECT schema_name || '.' || table_name, sql FROM duckdb_tables() WHERE NOT temporary AND NOT internal "
        "AND database_name = current_database() AND table_name <> 'hwbench_migrations'"
    )
    with duckdb.connect() as fresh:
        database.migrate(fresh, path)
        expected = dict(fresh.execute(sql).fetchall())
    found = dict(connection.execute(sql).fetchall())
    wrong = [
        (name, f"table {name} is {'missing' if name not in found else 'not as hwbench makes it'}")
        for name in sorted(expected)
        if found.get(name) != expected[name]
    ]
    return SCHEMA.outcome(wrong, len(expected))


def frames(connection: DuckDBPyConnection, table: str, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The columns of a table that are there, in pieces of whole rows; one empty frame for a table without rows."""
    there = {
        row[0]
        for row in connection.execute(
            "SELECT column_name FROM duckdb_columns() WHERE database_name = current_database() "
            "AND schema_name = 'main' AND table_name = ?",
            [table],
        ).fetchall()
    }
    picked = ", ".join(quoted(c) for c in columns if c in there)
    # Deleted rows leave gaps: the last rowid bounds the pages, not the count.
    last = connection.execute(f"SELECT coalesce(max(rowid), 0) FROM {quoted(table)}").fetchall()[0][0]
    for begin in range(0, last + 1, FRAME_ROWS):
        page = f"WHERE rowid >= {begin} AND rowid < {begin + FRAME_ROWS}" if last >= FRAME_ROWS else ""
        # Through Arrow: texts stay in its buffers, where DuckDB's own frames would make an object of each.
        frame: pd.DataFrame = (
            connection.sql(f"SELECT {picked} FROM {quoted(table)} {page}").to_arrow_table().to_pandas()
        )
        yield frame


def runs_of(connection: DuckDBPyConnection, table: str, keys: Sequence[str]) -> dict[str, list[str]]:
    """Key -> the runs of results that use it, for a table whose rows are no runs; else each key is its own run."""
    column = {"models": "model_id", "hardware_platforms": "hardware_id"}.get(table)
    if column is None:
        return {key: [key] for key in keys}
    found: dict[str, list[str]] = {key: [] for key in keys}
    rows = connection.execute(
        f"SELECT {column}, list(run_id) FROM performance_results "
        f"WHERE {column} IN (SELECT unnest(?::VARCHAR[])) GROUP BY 1",
        [list(keys)],
    ).fetchall()
    return found | dict(rows)


def record(connection: DuckDBPyConnection, gate_id: str, gated_at: datetime, outcomes: Sequence[Outcome]) -> None:
    """Append what a gate found to ``gate_results``: a row a rule, then one for each row that it refused."""
    with database.transaction(connection):
        for number, rows in enumerate(batched(_recorded(gate_id, gated_at, outcomes), RECORDED_ROWS)):
            _insert(connection, [row | {"position": number * RECORDED_ROWS + n} for n, row in enumerate(rows)])


def _recorded(gate_id: str, gated_at: datetime, outcomes: Sequence[Outcome]) -> Iterator[dict[str, object]]:
    for outcome in outcomes:
        said: dict[str, object] = {
            "gate_id": gate_id, "gated_at": gated_at, "suite": outcome.suite, "suite_sha256": outcome.suite_sha256,
            "table_name": outcome.table, "rule": outcome.rule, "kind": str(outcome.kind), "passed": outcome.passed,
            "evaluated": outcome.evaluated, "unexpected": outcome.unexpected, "run_id": None, "observed": None,
            "reason": outcome.reason, "hwbench_version": __version__,
        }  # fmt: skip
        yield said
        for key, reason in outcome.refused:
            yield said | {"run_id": key, "reason": reason}


def _insert(connection: DuckDBPyConnection, rows: list[dict[str, object]]) -> None:
    import pyarrow as pa

    columns = connection.table("gate_results").limit(0).to_arrow_table().schema
    connection.register("g_incoming", pa.Table.from_pylist(rows, columns))
    try:
        connection.execute("INSERT INTO gate_results FROM g_incoming").fetchall()
    finally:
        connection.unregister("g_incoming")


def batched(rows: Iterator[dict[str, object]], size: int) -> Iterator[list[dict[str, object]]]:
    """Lists of at most ``size`` (itertools.batched is Python 3.12's)."""
    while batch := list(islice(rows, size)):
        yield batch
