"""The published file, as everybody reads it: checked when it is opened, read-only, and cut off from everything else.

Owns the layout of ``published.duckdb`` (:data:`LAYOUT`) and how it is opened. :mod:`.publish` writes it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.errors import HwbenchError, Refused, StoreError, UsageError
from hwbench_mlflow.warehouse import database
from hwbench_mlflow.warehouse.digest import column_digests, quoted
from hwbench_mlflow.warehouse.replication import TRUST_LEVEL

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection

PUBLISHED_VERSION = 3
DEFAULT_PUBLISHED = Path("published.duckdb")

JOINED = {
    "model_name": "VARCHAR NOT NULL",
    "architecture": "VARCHAR NOT NULL",
    "task": "VARCHAR NOT NULL",
    "hardware_type": "VARCHAR NOT NULL",
    "vendor": "VARCHAR",
    "device_memory_bytes": "BIGINT",
    "gate_id": "VARCHAR NOT NULL",
    "packages_id": "VARCHAR NOT NULL",
    "trust_level": TRUST_LEVEL,
}
"""What results have in the published file beside the columns of ``performance_results``."""

RESULT_CHECKS = {
    "real_results": ("verdict = 'verified'", "NOT is_simulated", "simulation_reason IS NULL"),
    "simulated_results": ("verdict = 'simulated'", "is_simulated", "simulation_reason IS NOT NULL"),
}

DOCUMENT_CHECKS = {
    "estimates": ("verdict = 'simulated'", "is_simulated", "simulation_reason IS NOT NULL"),
    "rooflines": ("verdict = 'verified'", "NOT is_simulated"),
}
"""Tables that are no results, with the columns of the warehouse's own and ``gate_id``."""

ROW_CHECKS = RESULT_CHECKS | DOCUMENT_CHECKS
_COUNTED = {
    "real_results": "rows_real", "simulated_results": "rows_simulated", "estimates": "rows_estimates",
    "rooflines": "rows_rooflines",
}  # fmt: skip
"""Where the manifest counts their rows."""

LAYOUT = {
    # A row a reason. Runs with a verdict but without a result (corrupt evidence, none at all) are here too.
    "quarantine": """run_id VARCHAR NOT NULL, result_id VARCHAR, model_name VARCHAR, hardware_type VARCHAR,
        created_at TIMESTAMP, verdict VARCHAR, rule VARCHAR NOT NULL, reason VARCHAR NOT NULL""",
    # Of a replicated result the other machine's that agrees best: decide/replicating.py says when, from the evidence.
    "replications": """run_id VARCHAR PRIMARY KEY, replicated_by VARCHAR NOT NULL, host_id VARCHAR NOT NULL,
        key_id VARCHAR NOT NULL, ratio DOUBLE NOT NULL CHECK (ratio > 0), CHECK (run_id <> replicated_by)""",
    # Timed samples of published runs, thinned evenly to SAMPLES_A_RUN a run.
    "samples": "run_id VARCHAR NOT NULL, worker INTEGER NOT NULL, sample INTEGER NOT NULL, latency_ms DOUBLE NOT NULL",
    "failures": """run_id VARCHAR NOT NULL, model_name VARCHAR, hardware_type VARCHAR, failure_precision VARCHAR,
        failure_category VARCHAR NOT NULL, failure_reason VARCHAR NOT NULL, failure_remedy VARCHAR,
        created_at TIMESTAMP""",
    # How a machine's platforms answered over time: a row for each stretch of probes that found the same.
    "availability_changes": """host_id VARCHAR NOT NULL, hostname VARCHAR, hardware_type VARCHAR NOT NULL,
        status VARCHAR NOT NULL, is_verified BOOLEAN NOT NULL, devices VARCHAR NOT NULL, reason VARCHAR NOT NULL,
        since TIMESTAMP NOT NULL, until TIMESTAMP NOT NULL, probe_count BIGINT NOT NULL, CHECK (until >= since)""",
    # What people call runs, to choose some by. Anybody can edit a tag in MLflow: nothing is concluded from one.
    "labels": "run_id VARCHAR NOT NULL, key VARCHAR NOT NULL, value VARCHAR NOT NULL",
    "experiments": "experiment_id BIGINT PRIMARY KEY, name VARCHAR NOT NULL",
    # The packages of the results, each set once: to see what changed between two runs takes no look at every row's.
    "package_sets": "packages_id VARCHAR NOT NULL, package VARCHAR NOT NULL, version VARCHAR NOT NULL",
    "gate_rules": """rule VARCHAR NOT NULL, suite VARCHAR NOT NULL,
        kind VARCHAR NOT NULL CHECK (kind IN ('row', 'table')),
        passed BOOLEAN NOT NULL, evaluated BIGINT, unexpected BIGINT, why VARCHAR NOT NULL, what_to_do VARCHAR NOT NULL,
        CHECK (passed OR kind = 'row')""",
    "manifest": "key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL",
}
"""Tables beside the results and ``availability``, whose columns are the warehouse's own."""

SAMPLES_A_RUN = 2000

MANIFEST_KEYS = frozenset(
    {
        "schema_version", "gate_id", "published_at", "hwbench_version", "warehouse", "warehouse_sync", "rows_in",
        "rows_real", "rows_simulated", "rows_estimates", "rows_rooflines", "rows_quarantined", "suites",
        "column_digests",
        "content_digest",
    }
)  # fmt: skip

TABLES = frozenset({*RESULT_CHECKS, *DOCUMENT_CHECKS, *LAYOUT, "availability"})

_AGAIN = "run `hwbench gate` to publish it anew"


def warehouse_id(connection: DuckDBPyConnection) -> str:
    """Names a warehouse wherever its file is moved: a digest of when it was made and of which store."""
    from hwbench_mlflow.codec import sha256

    made = connection.execute("SELECT applied_at FROM main.hwbench_migrations ORDER BY number LIMIT 1").fetchall()
    first = connection.execute("SELECT store, started_at FROM mlflow.sync_log ORDER BY sync_id LIMIT 1").fetchall()
    return sha256(repr([*made, *first]).encode())[:32]


def last_sync(connection: DuckDBPyConnection) -> dict[str, Any] | None:
    """The last sync that changed the warehouse: its id and when it finished (UTC, ISO 8601; None while it runs)."""
    rows = connection.execute(
        "SELECT sync_id, finished_at FROM mlflow.sync_log ORDER BY sync_id DESC LIMIT 1"
    ).fetchall()
    if not rows:
        return None
    return {"id": rows[0][0], "finished_at": rows[0][1] and f"{rows[0][1].isoformat()}+00:00"}


@dataclass(slots=True)
class Published:
    """An open published file whose content is what its manifest says. A context manager.

    Where only some columns were checked, only they can be read: a temporary view with just them, or none, stands before
    each table of the file.
    """

    path: Path
    manifest: Mapping[str, str]
    connection: DuckDBPyConnection = field(repr=False)

    def frame(self, table: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """A whole table, or some columns of it, in no order. Units are in the names, times are UTC."""
        if table not in TABLES:
            raise ValueError(f"{table!r} is not a table of the published file")
        picked = "*" if columns is None else ", ".join(map(quoted, columns))
        rows = self.connection.sql(f"SELECT {picked} FROM {quoted(table)}")  # noqa: S608 -- names are quoted
        frame: pd.DataFrame = rows.to_arrow_table().to_pandas(maps_as_pydicts="strict")
        return frame

    def check(self, table: str, columns: Sequence[str]) -> None:
        """Check columns that were left out when the file was opened; they can be read from now on. Raises Refused."""
        there = [row[0] for row in self.connection.execute(f"DESCRIBE {quoted(table)}").fetchall()]
        wanted = dict.fromkeys((*(name for name in there if name != _UNCHECKED), *columns))
        new = [name for name in wanted if name not in there]
        if new:
            with _explained(self.path):
                _same_digests(self.connection, self.path, self.manifest, {table: new})
                _show(self.connection, table, list(wanted))

    def stale_against(self, db: Path) -> str | None:
        """Why this is not what ``db`` would publish now; None if the warehouse has not changed since the gate.

        A warehouse that cannot be looked at is a reason too: nothing is known then.
        """
        import duckdb

        try:
            with database.reader(db) as connection:
                other, sync = warehouse_id(connection), last_sync(connection)
        except (StoreError, duckdb.Error) as error:
            return f"it cannot be compared with the warehouse: {error}"
        if other != self.manifest["warehouse"]:
            return f"{db} is another warehouse than the one it was published from"
        seen = json.loads(self.manifest["warehouse_sync"])
        if sync == seen:
            return None
        at = seen["finished_at"] if seen else "an unknown time"
        return f"{db} was synced since: it shows the sync of {at}; run `hwbench gate`"

    def close(self) -> None:
        """Let the file go."""
        self.connection.close()

    def __enter__(self) -> Published:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_published(path: Path, reads: Mapping[str, Sequence[str]] | None = None) -> Published:
    """Open a published file, read-only and locked down, and check that it is what the gate wrote.

    ``reads`` names the columns that will be read, by table: only they are checked, and nothing else can be read, which
    is several times faster for a file of a million results. Without it everything is checked.

    Raises StoreError where there is none (it says what to run), for another kind or version of file or one that is in
    use; :class:`~hwbench_mlflow.errors.Refused` for one that was edited.
    """
    import duckdb

    path = Path(path)
    if not path.exists():
        raise StoreError(f"nothing is published at {path}", remedy="run `hwbench sync`, then `hwbench gate`")
    try:
        connection = duckdb.connect(
            str(path),
            read_only=True,
            config={
                "enable_external_access": "false", "lock_configuration": "true",
                "autoinstall_known_extensions": "false", "autoload_known_extensions": "false",
            },
        )  # fmt: skip
    except duckdb.Error as error:
        raise _unreadable(path, error) from error
    try:
        with _explained(path):
            manifest = _manifest(connection, path)
            if reads is None:
                _verify(connection, path, manifest)
            else:
                _verify_columns(connection, path, manifest, reads)
    except BaseException:
        connection.close()
        raise
    return Published(path, MappingProxyType(manifest), connection)


def is_published(path: Path) -> bool:
    """Whether a file calls itself a publication; False for anything else, also for what cannot be opened."""
    import duckdb

    if not path.exists():
        return False
    try:
        return _holds_a_publication(path)
    except duckdb.Error:
        return False


def refuse_foreign(path: Path) -> None:
    """Raise UsageError where a publication would take the place of another file than one, StoreError where somebody
    writes to it: it may be anything.

    A damaged one, which DuckDB cannot open any more, is replaced: `hwbench gate` is what its reader is told to run.
    """
    import duckdb

    if not path.is_file():  # nothing; or a folder, which the system refuses
        return
    try:
        with path.open("rb") as stream:
            head = stream.read(12)
        ours = not head or (head[8:12] == b"DUCK" and _holds_a_publication(path))
    except duckdb.Error as error:
        if isinstance(why := _unreadable(path, error), Refused):
            return
        raise why from error
    except OSError as error:
        raise StoreError(f"cannot write {path}: what is there cannot be read: {error.strerror or error}") from error
    if not ours:
        raise UsageError(f"{path} is not a file that hwbench published, and is kept: name another with --published")


def _holds_a_publication(path: Path) -> bool:
    import duckdb

    with duckdb.connect(str(path), read_only=True) as connection:
        names = {r[0] for r in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    return "manifest" in names and "hwbench_migrations" not in names


FAMILIAR = {
    "performance_results": f"SELECT * EXCLUDE ({', '.join(JOINED)}) FROM real_results",  # noqa: S608 -- our own names
    "verified_results": f"SELECT * EXCLUDE ({', '.join(JOINED)}) FROM real_results",  # noqa: S608
    "models": "SELECT DISTINCT model_id, model_name, architecture, task FROM real_results",
    "hardware_platforms": "SELECT DISTINCT hardware_id, hardware_type, device_id, device_name, vendor, device_uuid, "
    "device_memory_bytes AS memory_bytes, host_id FROM real_results",
}
"""The warehouse's names over what was published as real: simulated results are asked for by name."""


def add_familiar_views(found: Published) -> None:
    """Let SQL that was written for the warehouse run, over real results only. Lasts as long as the connection."""
    for name, sql in FAMILIAR.items():
        found.connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {sql}")


def _unreadable(path: Path, error: Exception) -> HwbenchError:
    text = str(error)
    if "lock" in text.lower():
        holder = re.search(r"PID (\d+)", text)
        who = f"process {holder[1]}" if holder else "another process"
        return StoreError(f"{path} is open for writing by {who}", remedy="close it there: nobody needs to write it")
    return Refused(f"{path} is not a readable published file ({text.splitlines()[0][:200]})", remedy=_AGAIN)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise _unreadable(path, error) from error


def _manifest(connection: DuckDBPyConnection, path: Path) -> dict[str, str]:
    # Asked for where DuckDB keeps them: a macro in the file would stand before them.
    found = set(
        connection.execute(
            "SELECT schema_name, table_name FROM system.main.duckdb_tables() WHERE NOT internal"
        ).fetchall()
    )
    views = connection.execute("SELECT view_name FROM system.main.duckdb_views() WHERE NOT internal").fetchall()
    if ("main", "hwbench_migrations") in found:
        raise StoreError(
            f"{path} is a warehouse, not a published file", remedy="give what `hwbench gate` published from it"
        )
    if ("main", "manifest") not in found:
        raise StoreError(f"{path} is not a file that hwbench published", remedy="name another one with --published")
    manifest = dict(connection.execute("SELECT key, value FROM manifest").fetchall())
    version = manifest.get("schema_version")
    if version != str(PUBLISHED_VERSION):
        raise StoreError(f"{path} has layout {version}, this hwbench reads {PUBLISHED_VERSION}", remedy=_AGAIN)
    more = views or database.made_by_hand(connection)
    if more or found != {("main", name) for name in TABLES} or manifest.keys() != MANIFEST_KEYS:
        raise Refused(f"{path} does not hold the tables that hwbench publishes: it was edited", remedy=_AGAIN)
    if not _has_sense(manifest):
        raise Refused(f"{path} has a manifest that hwbench does not write: it was edited", remedy=_AGAIN)
    return {key: str(value) for key, value in manifest.items()}


def _has_sense(manifest: Mapping[str, str]) -> bool:
    """Whether numbers are numbers and JSON is JSON: who makes the digest of a manifest anew can write anything in."""
    try:
        digests, suites, sync = (json.loads(manifest[k]) for k in ("column_digests", "suites", "warehouse_sync"))
    except ValueError:
        return False
    return (
        all(value.isdecimal() for key, value in manifest.items() if key.startswith("rows_"))
        and isinstance(digests, dict)
        and digests.keys() == TABLES - {"manifest"}
        and all(isinstance(columns, dict) for columns in digests.values())
        and isinstance(suites, dict)
        and (sync is None or (isinstance(sync, dict) and sync.keys() == {"id", "finished_at"}))
    )


def _verify(connection: DuckDBPyConnection, path: Path, manifest: Mapping[str, str]) -> None:
    _same_digests(connection, path, manifest, dict.fromkeys(TABLES - {"manifest"}))
    _hold_only_their_own(connection, path, ROW_CHECKS)
    counts = connection.execute(
        "SELECT (SELECT count(*) FROM real_results)::VARCHAR, (SELECT count(*) FROM simulated_results)::VARCHAR, "
        "(SELECT count(*) FROM estimates)::VARCHAR, (SELECT count(*) FROM rooflines)::VARCHAR, "
        "(SELECT count(DISTINCT run_id) FROM quarantine)::VARCHAR"
    ).fetchall()[0]
    said = tuple(manifest[f"rows_{kind}"] for kind in ("real", "simulated", "estimates", "rooflines", "quarantined"))
    if counts != said or sum(map(int, counts)) != int(manifest["rows_in"]):
        raise Refused(f"{path} does not hold the rows that its manifest counts: it was edited", remedy=_AGAIN)


def _verify_columns(
    connection: DuckDBPyConnection, path: Path, manifest: Mapping[str, str], reads: Mapping[str, Sequence[str]]
) -> None:
    counted = [name for name in ROW_CHECKS if name in reads]
    wanted = {name: list(dict.fromkeys(columns)) for name, columns in reads.items()}
    for name in counted:
        wanted[name] += [column for column in _CHECKED[name] if column not in wanted[name]]
    _same_digests(connection, path, manifest, wanted)
    _hold_only_their_own(connection, path, counted)
    for name in counted:
        count = connection.execute(f"SELECT count(*)::VARCHAR FROM {name}").fetchall()[0][0]  # noqa: S608
        if count != manifest[_COUNTED[name]]:
            raise Refused(f"{path} does not hold the rows that its manifest counts: it was edited", remedy=_AGAIN)
    for name in TABLES - {"manifest"}:
        _show(connection, name, wanted.get(name, []))


_CHECKED = {
    name: [word for word in ("verdict", "is_simulated", "simulation_reason") if any(word in c for c in checks)]
    for name, checks in ROW_CHECKS.items()
}
"""The columns that the checks of a table look at."""

_UNCHECKED = "not_checked"


def _show(connection: DuckDBPyConnection, table: str, columns: Sequence[str]) -> None:
    """Let a table's name stand for those columns of it alone. Temporary names are looked up before the file's."""
    if columns:
        body = f"SELECT {', '.join(map(quoted, columns))} FROM {_home(connection)}.{quoted(table)}"  # noqa: S608 -- names are quoted
    else:
        body = f"SELECT error('{table} was not checked when the file was opened') AS {_UNCHECKED}"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(table)} AS {body}")


def _home(connection: DuckDBPyConnection) -> str:
    """The file's own schema: plain ``main`` is also where temporary views are."""
    return f"{quoted(connection.execute('SELECT current_database()').fetchall()[0][0])}.main"


def _hold_only_their_own(connection: DuckDBPyConnection, path: Path, tables: Iterable[str]) -> None:
    """The digests say unchanged, for whoever cannot make a digest; this says what must hold in any file."""
    for table in tables:
        sound = " AND ".join(f"coalesce({check}, false)" for check in ROW_CHECKS[table])
        strays = connection.execute(f"SELECT count(*) FROM {table} WHERE NOT ({sound})").fetchall()[0][0]  # noqa: S608
        if strays:
            raise Refused(f"{path} holds {strays} rows in {table} that are not: it was not made by hwbench")


def _same_digests(
    connection: DuckDBPyConnection,
    path: Path,
    manifest: Mapping[str, str],
    tables: Mapping[str, Sequence[str] | None],
) -> None:
    """The manifest is whole, every table has the columns it had, and those named (None: all) hold what they held."""
    edited = Refused(f"{path} was edited after it was published: its content has another digest", remedy=_AGAIN)
    if content_digest(manifest) != manifest["content_digest"]:
        raise edited
    said: dict[str, dict[str, str]] = json.loads(manifest["column_digests"])
    there: dict[str, set[str]] = {}
    for table, column in connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND schema_name = 'main' "
        "AND database_name = current_database()"
    ).fetchall():
        there.setdefault(table, set()).add(column)
    if {name: set(columns) for name, columns in said.items()} != {k: v for k, v in there.items() if k != "manifest"}:
        raise edited
    for table, columns in tables.items():
        expected = said[table] if columns is None else {name: said[table][name] for name in columns}
        if column_digests(connection, table, list(expected), within=_home(connection)) != expected:
            raise edited


def all_digests(connection: DuckDBPyConnection, *, within: str = "main") -> str:
    """The manifest's ``column_digests``: a JSON object, table -> column -> digest, of every table but the manifest."""
    found = {name: column_digests(connection, name, within=within) for name in sorted(TABLES - {"manifest"})}
    return json.dumps(found, sort_keys=True)


def content_digest(manifest: Mapping[str, str]) -> str:
    """The digest of everything in a published file but itself: the manifest, with the digests of all columns."""
    from hwbench_mlflow.codec import encode, sha256

    return sha256(encode({key: value for key, value in manifest.items() if key != "content_digest"}))
