"""Every result made again from its evidence, and held against the warehouse: what a hand can change, this sees.

The files in ``evidence_files`` are judged with the keys trusted *now*, and the rows that follow are compared, column by
column, with the rows that are there: a row that was edited, inserted or taken away differs. What this cannot see is a
run that was removed from every table and from the mirror: `hwbench verify --store` compares with the store.
"""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from hwbench_mlflow.attest import Keyring
from hwbench_mlflow.model import VerdictState
from hwbench_mlflow.rules import Outcome, RuleKind
from hwbench_mlflow.warehouse.cases import OURS, listed, load_work
from hwbench_mlflow.warehouse.dependents import LOG, PER_RUN
from hwbench_mlflow.warehouse.digest import quoted
from hwbench_mlflow.warehouse.judging import Here, JudgeDied, Judges, Terms, judges
from hwbench_mlflow.warehouse.memory import Memory
from hwbench_mlflow.warehouse.results import JUDGED
from hwbench_mlflow.warehouse.star import StagedRows, StagedRun, runs_of, schemas, staged
from hwbench_mlflow.warehouse.unchanged import unchanged

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

SUITE = "evidence"
CHUNK_RUNS = 2000
CHUNK_BYTES = 32_000_000

_KEYS = {"models": "model_id", "hardware_platforms": "hardware_id"}
_SYNC = "Run `hwbench sync --full`: it makes every row again. Then find out who edited the warehouse."
_VERIFY = "`hwbench verify RUN_ID` tells why; trust a key with `hwbench keys trust`, or measure again."


@dataclass(slots=True)
class Rederived:
    """What differs from the evidence, as run -> why.

    ``edited``: rows that are not what the evidence makes. ``unproven``: results whose evidence does not come to
    ``verified`` or ``simulated``. ``absent``: results that the evidence makes and the warehouse lacks. ``probes``: runs
    whose probes cannot be made again: they are kept out of what is shown, and refuse nothing. ``broken``: why not every
    run was judged. ``remembered``: how many of ``runs`` were not judged, because a digest proves them unchanged.
    """

    runs: int = 0
    edited: dict[str, str] = field(default_factory=dict)
    unproven: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    probes: set[str] = field(default_factory=set)
    broken: str | None = None
    remembered: int = 0

    def outcomes(self) -> list[Outcome]:
        """One outcome for each of the three. Where judging broke off none was made, which refuses everything."""
        made = self._outcomes()
        if self.broken is None:
            return made
        return [
            replace(
                o, kind=RuleKind.TABLE, passed=False, evaluated=None, unexpected=None, refused=(),
                reason=f"not evaluated: {self.broken}",
            )
            for o in made
        ]  # fmt: skip

    def _outcomes(self) -> list[Outcome]:
        return [
            _outcome(
                "evidence.verdict", RuleKind.ROW, self.runs, self.unproven,
                "Only what its evidence proves to be measured or says to be simulated may be shown.", _VERIFY,
            ),
            _outcome(
                "evidence.rederived", RuleKind.ROW, self.runs, self.edited,
                "Each row is exactly what its signed evidence makes it, judged again now.", _SYNC,
            ),
            _outcome(
                "evidence.complete", RuleKind.TABLE, self.runs, self.absent,
                "No result may be taken away by hand: the slow one that is missing makes the rest look fast.", _SYNC,
            ),
        ]  # fmt: skip


def _outcome(  # noqa: PLR0917 -- one caller, a few lines above
    rule: str, kind: RuleKind, runs: int, found: dict[str, str], why: str, what_to_do: str
) -> Outcome:
    rows = tuple(found.items())
    return Outcome(
        rule=rule, suite=SUITE, table="performance_results", kind=kind, passed=not rows, why=why, what_to_do=what_to_do,
        evaluated=runs, unexpected=len(rows),
        reason=f"{len(rows)} of {runs} runs: {rows[0][0]}: {rows[0][1]}" if rows else None,
        refused=rows if kind is RuleKind.ROW else (),
    )  # fmt: skip


def rederive(
    connection: DuckDBPyConnection,
    keyring: Keyring,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    memory: Memory | None = None,
) -> Rederived:
    """Judge every run of hwbench's again and compare; with ``memory``, those that it does not prove unchanged.

    Writes nothing of the warehouse but what ``memory`` keeps: the runs that were found right.
    """
    found = Rederived()
    judged: set[str] = set()
    proven: set[str] = set()

    @cache
    def terms() -> Terms:
        return Terms(keyring=keyring, schemas=schemas(connection), keep_content=False, kept_only=True)

    with ExitStack() as held:
        try:
            with ExitStack() as entered:
                # Processes start while what follows is looked up, where they are needed whatever that says.
                several = entered.enter_context(judges(terms, _likely(connection, memory)))
                held.enter_context(listed(connection))
                found.runs = connection.execute(f"SELECT count(*) FROM {OURS}").fetchall()[0][0]
                _strays(connection, found)
                proven = memory.proven(connection) if memory is not None else set()
                _remembered(connection, proven, found)
                if isinstance(several, Here):
                    several = entered.enter_context(judges(terms, found.runs - len(proven)))
                _judge(connection, several, terms, progress, proven, judged, found)
        except JudgeDied as error:
            found.broken = str(error)
        if memory is not None and found.broken is None and (judged or proven != _known(connection)):
            wrong = found.edited.keys() | found.absent.keys() | found.probes
            memory.remember(connection, judged - wrong, proven - wrong)
    return found


def _likely(connection: DuckDBPyConnection, memory: Memory | None) -> int:
    """About how many runs there are to judge at least: those with a row, less those that a digest may vouch for."""
    rows = connection.execute("SELECT count(*) FROM benchmark_runs").fetchall()[0][0]
    return int(rows) if memory is None else int(rows) - len(_known(connection))


def _known(connection: DuckDBPyConnection) -> set[str]:
    return {r[0] for r in connection.execute("SELECT run_id FROM judged_runs").fetchall()}


def _remembered(connection: DuckDBPyConnection, proven: set[str], found: Rederived) -> None:
    """What the verdicts of runs that are not judged again came to: their rows are proven to say it."""
    found.remembered = len(proven)
    rows = connection.execute(
        "SELECT run_id, role, evidence, verdict, reasons FROM benchmark_runs "
        "WHERE run_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY run_id",
        [sorted(proven)],
    ).fetchall()
    for row in rows:
        _unproven(StagedRun(*row), found)


def _judge(  # noqa: PLR0917 -- one caller, a few lines above
    connection: DuckDBPyConnection,
    several: Judges | Here,
    terms: Callable[[], Terms],
    progress: Callable[[int, int], None],
    proven: set[str],
    done: set[str],
    found: Rederived,
) -> None:
    """Judge what is not ``proven``, and say in ``done`` which runs that were."""
    works = (load_work(connection, chunk, files=True) for chunk in _chunks(connection, proven))
    for work, made in several.judge(works):
        if made is not None and unchanged(connection, made):
            for run in runs_of(made["benchmark_runs"]):
                _unproven(run, found)
        else:
            with staged(connection) as stage:
                stage.fill(work, made, terms())
                _compare(connection, stage, work, found)
        done |= set(work.column("run_id").to_pylist())
        progress(len(proven) + len(done), found.runs)


def _strays(connection: DuckDBPyConnection, found: Rederived) -> None:
    """Rows of runs that the mirror does not know as hwbench's: nothing can vouch for them."""
    for table in PER_RUN:
        rows = connection.execute(
            f"SELECT DISTINCT run_id FROM {table} WHERE run_id NOT IN (SELECT run_id FROM {OURS})"
        ).fetchall()
        for (run_id,) in rows:
            found.edited.setdefault(run_id, f"it has rows in {table}, but is no run of hwbench's in the mirror")
    rows = connection.execute(
        f"SELECT DISTINCT run_id FROM {LOG} WHERE run_id NOT IN (SELECT run_id FROM {OURS})"
    ).fetchall()
    found.probes |= {r[0] for r in rows}


def _chunks(connection: DuckDBPyConnection, proven: set[str]) -> Iterator[list[str]]:
    # Sizes as they are written beside the files: to measure the files would be to read them all once more.
    rows = connection.execute(
        f"""SELECT c.run_id, coalesce(f.bytes, 0) FROM {OURS} c LEFT JOIN (
                SELECT run_id, sum(greatest(size_bytes, 0)) AS bytes FROM evidence_files GROUP BY 1) f USING (run_id)
            ORDER BY c.run_id"""
    ).fetchall()
    chunk: list[str] = []
    size = 0
    for run_id, more in rows:
        if run_id in proven:
            continue
        if chunk and (len(chunk) >= CHUNK_RUNS or size + more > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(run_id)
        size += more
    if chunk:
        yield chunk


def _unproven(run: StagedRun, found: Rederived) -> None:
    if run.role not in JUDGED or run.evidence == "deleted":
        return
    if run.verdict in {VerdictState.VERIFIED, VerdictState.SIMULATED}:
        return
    said = run.verdict or "evidence of another version"
    found.unproven[run.run_id] = f"{said}: {'; '.join(run.reasons)}"


def _compare(connection: DuckDBPyConnection, stage: StagedRows, work: pa.Table, found: Rederived) -> None:
    only = "WHERE run_id IN (SELECT run_id FROM e_benchmark_runs)"
    for run in stage.runs():
        _unproven(run, found)
    rows = connection.execute(
        "SELECT run_id FROM e_benchmark_runs WHERE run_id NOT IN (SELECT run_id FROM benchmark_runs)"
    ).fetchall()
    for (run_id,) in rows:
        found.absent[run_id] = "it has no row in benchmark_runs"
    deleted = dict(zip(work.column("run_id").to_pylist(), work.column("deleted").to_pylist(), strict=True))
    here = {r[0] for r in connection.execute(f"SELECT run_id FROM performance_results {only}").fetchall()}
    made = {r[0] for r in connection.execute("SELECT run_id FROM e_performance_results").fetchall()}
    for run_id in made - here:
        found.absent[run_id] = "its evidence makes a result, and performance_results has no row of it"
    for run_id, columns in _columns(connection):
        found.edited.setdefault(run_id, f"{columns} in performance_results differ from the evidence, judged again")
    for run_id in here - made:
        found.edited.setdefault(run_id, "no evidence that is kept makes this row")
    for table, key in _KEYS.items():
        rows = connection.execute(
            f"""SELECT run_id FROM e_performance_results WHERE {key} NOT IN (
                    SELECT {key} FROM (FROM {table} INTERSECT FROM e_{table}))"""
        ).fetchall()
        for (run_id,) in rows:
            found.edited.setdefault(run_id, f"its row in {table} differs from the evidence")
    for table in PER_RUN:
        if table == "performance_results":  # each of its columns was compared above
            continue
        for run_id in _differing(connection, table, only):
            found.edited.setdefault(run_id, f"its rows in {table} differ from what the evidence makes")
    for run_id in _differing(connection, LOG, only):
        found.probes.add(run_id)
        if run_id in here and not deleted[run_id]:
            found.edited.setdefault(run_id, f"its rows in {LOG} differ from what the evidence makes")


def _columns(connection: DuckDBPyConnection) -> list[tuple[str, str]]:
    """``(run, the columns of its result that differ)``."""
    names = [r[0] for r in connection.execute("SELECT name FROM pragma_table_info('performance_results')").fetchall()]
    said = ", ".join(
        f"CASE WHEN e.{quoted(n)} IS DISTINCT FROM p.{quoted(n)} THEN '{n}' END" for n in names if n != "run_id"
    )
    return connection.execute(
        f"""SELECT run_id, columns FROM (
                SELECT run_id, concat_ws(', ', {said}) AS columns
                FROM e_performance_results e JOIN performance_results p USING (run_id))
            WHERE columns <> ''"""
    ).fetchall()


def _differing(connection: DuckDBPyConnection, table: str, only: str) -> set[str]:
    # The content of a file is what the row was just made of, where it has the digest that is kept beside it.
    names = ", ".join(
        quoted(r[0])
        for r in connection.execute(f"SELECT name FROM pragma_table_info('{table}') WHERE name <> 'content'").fetchall()
    )
    mine, theirs = f"SELECT {names} FROM {table} {only}", f"SELECT {names} FROM e_{table}"
    rows = connection.execute(
        f"""SELECT DISTINCT run_id FROM (
                SELECT run_id FROM (SELECT *, 1 AS "#n" FROM ({mine}) UNION ALL SELECT *, -1 FROM ({theirs}))
                GROUP BY {names} HAVING sum("#n") <> 0)"""
    ).fetchall()
    return {r[0] for r in rows}
