"""Opening the warehouse file: locks, migrations, and every DuckDB failure as one clear sentence.

Owns the file. Two locks guard it: ours (``FILE.lock``, held by a sync for as long as it runs, so that two syncs
never meet) and DuckDB's own on the file (a reader blocks a writer). Knows nothing of MLflow.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from importlib import resources
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench_mlflow.errors import StoreError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_LIMIT = "768MB"
"""DuckDB's share; what does not fit spills beside the file. Keeps a sync's peak flat in the number of runs."""

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}


def connect(path: Path, *, read_only: bool) -> DuckDBPyConnection:
    """Open the file, or raise :class:`StoreError` that says who holds it or what is wrong with it."""
    import duckdb

    if read_only and not path.exists():
        raise StoreError(f"no warehouse at {path}", remedy="run `hwbench sync` first, or name another file with --db")
    try:
        return duckdb.connect(str(path), read_only=read_only, config=_CONFIG)
    except duckdb.Error as error:
        raise StoreError(*explain(path, error)) from error


def explain(path: Path, error: Exception) -> tuple[str]:
    """One sentence for a DuckDB failure on ``path``."""
    text = str(error)
    if "lock" in text.lower():
        holder = re.search(r"PID (\d+)", text)
        who = f"process {holder[1]}" if holder else "another process"
        return (f"{path} is in use by {who}; close it or try again when it is done",)
    if "No space left" in text or "disk full" in text.lower():
        return (f"the disk of {path} is full; free some space and sync again, what was committed is kept",)
    if "File too large" in text:
        return (f"{path} may not grow further: a limit on the size of files is reached; what was committed is kept",)
    if "not a valid DuckDB database" in text or "Corrupt" in text or "checksum" in text.lower():
        return (f"{path} is not a readable DuckDB file; move it away and sync again, everything in it can be rebuilt",)
    if re.search(r'Ambiguous reference to catalog or schema|database with name "\w+" already exists', text):
        return (
            f"{path}: hwbench asks for its tables by a name (mlflow, pub) that this file, or a schema somebody made in "
            "it, has too; rename the file, drop such a schema",
        )
    return (f"{path}: {text.splitlines()[0]}",)


@contextlib.contextmanager
def reader(path: Path) -> Iterator[DuckDBPyConnection]:
    """A read-only connection to a warehouse of this version."""
    connection = connect(path, read_only=True)
    try:
        found, known = version(connection), latest_version()
        if found < known:
            raise StoreError(f"{path} has the older layout {found}", remedy="run `hwbench sync` to bring it up to date")
        _refuse_newer(path, found, known)
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def writer(
    path: Path, *, wait_s: float = 5.0, say: Callable[[str], None] = lambda _: None
) -> Iterator[DuckDBPyConnection]:
    """The one writer of ``path``, migrated to this version.

    Other *syncs* are refused at once with the holder's process id. Open *readers* are waited for ``wait_s``
    seconds and told about by ``say``; if they stay, the sync works on a copy that replaces the file when it is
    done: the readers keep what they have open.
    """
    with exclusive(path, "sync"):
        target, connection = _target(path, wait_s, say)
        try:
            connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
            connection.execute("SET preserve_insertion_order = false")
            migrate(connection, path)
            yield connection
        finally:
            connection.close()
        if target != path:
            # Only reached when nothing was raised: a failed sync leaves the file that the readers have.
            os.replace(target, path)
            Path(f"{path}.wal").unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """The one process that makes ``path`` now. Raises StoreError with the other's process id; it is named ``what``."""
    with _lock_file(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            holder = handle.read().decode(errors="replace").strip() or "unknown"
            raise StoreError(
                f"another {what} (process {holder}) is writing {path}",
                remedy=f"wait until it is done, then {what} again",
            ) from error
        with contextlib.suppress(OSError):  # a full disk has no room for our name; the lock holds without it
            handle.truncate(0)
            handle.write(str(os.getpid()).encode())
        yield


def _lock_file(path: Path) -> FileIO:
    """Opened for append: truncating would wipe the holder's process id before we know that we may. Unbuffered: what
    could not be written is not tried again when it is closed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(f"{path}.lock").open("ab+", buffering=0)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def _target(path: Path, wait_s: float, say: Callable[[str], None]) -> tuple[Path, DuckDBPyConnection]:
    """``path``, opened, if DuckDB lets us write it, else a copy of it made while only readers hold it."""
    deadline, told = time.monotonic() + wait_s, False
    while True:
        try:
            return path, connect(path, read_only=False)
        except StoreError as error:
            if "is in use by" not in str(error):
                raise
            if not told:
                say(f"{error} (waiting {wait_s:g} s)")
                told = True
            if time.monotonic() < deadline:
                time.sleep(min(0.2, wait_s))
                continue
            copy = _copy_beside_readers(path)
            if copy is None:
                raise
            say(f"readers keep {path} open: working on a copy that takes its place when it is done")
            return copy, connect(copy, read_only=False)


def _copy_beside_readers(path: Path) -> Path | None:
    """A copy of a file that only readers hold; None if a foreign writer has it."""
    copy = Path(f"{path}.next")
    # DuckDB takes a POSIX write lock to write and a read lock to read: a read lock of ours is granted beside
    # readers only, and keeps writers away while we copy.
    with path.open("rb") as handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return None
        shutil.copyfile(path, copy)
        wal, wal_copy = Path(f"{path}.wal"), Path(f"{copy}.wal")
        wal_copy.unlink(missing_ok=True)
        if wal.exists():
            shutil.copyfile(wal, wal_copy)
    return copy


@functools.cache
def migrations() -> tuple[tuple[int, str, str], ...]:
    """``(number, name, SQL)`` of every migration, in order."""
    folder = resources.files("hwbench_mlflow.warehouse") / "migrations"
    found = [
        (int(entry.name[:4]), entry.name, entry.read_text("utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    ]
    return tuple(sorted(found))


def latest_version() -> int:
    """The number of the newest migration of this hwbench."""
    return migrations()[-1][0]


def version(connection: DuckDBPyConnection) -> int:
    """The layout a file has; 0 for an empty one. A DuckDB file that is not a warehouse is refused."""
    import duckdb

    try:
        applied = _applied(connection)
    except duckdb.CatalogException:
        # Not asked first: a list of all tables takes longer than all else that opening one of ours does.
        found = connection.execute(
            "SELECT schema_name || '.' || table_name FROM duckdb_tables() WHERE NOT temporary AND NOT internal"
        ).fetchall()
        if found:
            raise StoreError(
                "this DuckDB file holds tables that are not hwbench's "
                f"({', '.join(sorted(name for (name,) in found)[:3])})",
                remedy="name another file with --db",
            ) from None
        return 0
    known = [number for number, _, _ in migrations()]
    if applied and max(applied) > known[-1]:
        return max(applied)
    # Two migrations made at one time may reach a file in either order: up to the first that it lacks.
    whole = list(itertools.takewhile(lambda number: number in applied, known))
    return whole[-1] if whole else 0


def _applied(connection: DuckDBPyConnection) -> set[int]:
    return {int(r[0]) for r in connection.execute("SELECT number FROM main.hwbench_migrations").fetchall()}


def migrate(connection: DuckDBPyConnection, path: Path, *, upto: int | None = None) -> None:
    """Apply the migrations that the file lacks, each in its own transaction; all in one where there is nothing yet."""
    known = latest_version()
    found = version(connection)
    _refuse_newer(path, found, known)
    if found == 0:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS main.hwbench_migrations "
            "(number INTEGER PRIMARY KEY, name VARCHAR NOT NULL, applied_at TIMESTAMP NOT NULL)"
        )
    applied = _applied(connection)
    lacking = [m for m in migrations() if m[0] not in applied and (upto is None or m[0] <= upto)]
    for together in [lacking] if not applied else [[m] for m in lacking]:
        with transaction(connection):
            for number, name, sql in together:
                _rebuild(connection, sql)
                connection.execute(sql)
                connection.execute(
                    "INSERT INTO main.hwbench_migrations VALUES (?, ?, (now() AT TIME ZONE 'UTC')::TIMESTAMP)",
                    [number, name],
                )


_REBUILD = re.compile(r"^-- rebuild (\w+): (.+?) => (.+)$", re.MULTILINE)


def _rebuild(connection: DuckDBPyConnection, sql: str) -> None:
    """Do what a migration's ``-- rebuild TABLE: OLD => NEW`` lines say: DuckDB cannot alter a CHECK.

    The table is made anew from its own definition, whatever earlier migrations made it, with each OLD (which has to be
    there exactly once) replaced; its rows are kept, its views come back as they were.
    """
    changes: dict[str, list[tuple[str, str]]] = {}
    for table, old, new in _REBUILD.findall(sql):
        changes.setdefault(table, []).append((old, new))
    if not changes:
        return
    views = connection.execute(
        "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal AND schema_name = 'main'"
    ).fetchall()
    for name, _ in views:
        connection.execute(f'DROP VIEW "{name}"')
    for table, replacements in changes.items():
        definition = connection.execute(
            "SELECT sql FROM duckdb_tables() WHERE NOT temporary AND schema_name = 'main' AND table_name = ?", [table]
        ).fetchall()[0][0]
        for old, new in replacements:
            if definition.count(old) != 1:
                raise StoreError(f"{table} does not hold {old!r} exactly once: it is not as hwbench made it")
            definition = definition.replace(old, new)
        connection.execute(f"CREATE TEMP TABLE rebuilt AS FROM main.{table}; DROP TABLE main.{table}")
        connection.execute(definition)
        connection.execute(f"INSERT INTO main.{table} BY NAME FROM rebuilt; DROP TABLE rebuilt")
    # A view may rest on another, and a file that was opened again has forgotten the order they were made in.
    names = {name for name, _ in views}
    made: set[str] = set()
    while left := [(name, text) for name, text in views if name not in made]:
        ready = [one for one in left if not _words(one[1]) & (names - made - {one[0]})]
        if not ready:
            raise StoreError(f"the views {', '.join(sorted(names - made))} rest on each other: they are not hwbench's")
        for name, text in ready:
            connection.execute(text)
            made.add(name)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def _refuse_newer(path: Path, found: int, known: int) -> None:
    if found > known:
        raise StoreError(
            f"{path} has layout {found}, this hwbench knows up to {known}",
            remedy="upgrade hwbench, or use another --db",
        )


@contextlib.contextmanager
def transaction(connection: DuckDBPyConnection) -> Iterator[None]:
    """BEGIN, then COMMIT; ROLLBACK if the body raises anything at all."""
    import duckdb

    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # a failed COMMIT has already rolled back
            connection.execute("ROLLBACK")
        raise


# Nothing in it can itself be replaced: a macro in a file stands before a function of DuckDB's that has its name, unless
# the function is asked for where DuckDB keeps it.
_MADE = """
    SELECT schema_name, 'function', function_name FROM system.main.duckdb_functions() WHERE NOT internal
    UNION ALL SELECT schema_name, 'type', type_name FROM system.main.duckdb_types() WHERE NOT internal
    UNION ALL SELECT schema_name, 'trigger', trigger_name FROM system.main.duckdb_triggers()"""


def made_by_hand(connection: DuckDBPyConnection) -> list[str]:
    """Functions, types and triggers in a file; hwbench makes none.

    A function called ``sum`` or ``to_json`` stands in for DuckDB's own in every query of ours, and a trigger writes
    when we do: with either, no look at the rows says what is in them.
    """
    return sorted(f"{kind} {schema}.{name}" for schema, kind, name in connection.execute(_MADE).fetchall())


def engine() -> str:
    """What computes fingerprints: DuckDB's hash is its own and may change with its version."""
    import duckdb

    return f"duckdb {duckdb.__version__}"
