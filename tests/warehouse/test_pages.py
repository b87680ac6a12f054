"""The look at SQLite's pages: whatever was done to a table, no run that differs is called the same."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.warehouse.readers import Mode, pages
from hwbench_mlflow.warehouse.readers.sqlite import SqliteReader
from hwbench_mlflow.warehouse.stage import Stage
from hwbench_mlflow.warehouse.sync import SyncOptions, sync, verify_store
from tests.warehouse.conftest import dump
from tests.warehouse.scenarios import fill

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

SCHEMA = "CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT, PRIMARY KEY (key, run_uuid))"


def seen(path: Path, memory: bytes | None, *, threads: int = 1) -> pages.Look | None:
    with closing(sqlite3.connect(path)) as connection:
        root, sql = connection.execute("SELECT rootpage, sql FROM sqlite_master WHERE name = 'tags'").fetchone()
    fd = os.open(path, os.O_RDONLY)
    try:
        return pages.look(fd, root, sql, memory, threads=threads)
    finally:
        os.close(fd)


def certainly(path: Path, memory: bytes | None, *, threads: int = 1) -> pages.Look:
    found = seen(path, memory, threads=threads)
    assert found is not None
    return found


def rows(path: Path) -> dict[int, tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return {r[0]: r[1:] for r in connection.execute("SELECT rowid, key, value, run_uuid FROM tags")}


def is_fresh(look: pages.Look, rowid: int) -> bool:
    return any((a is None or rowid > a) and (b is None or rowid <= b) for a, b in look.fresh)


texts = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.integers(1, 9_000).map(lambda n: "x" * n),
    st.sampled_from(["", "\0", "\U0001f600"]),
)
edits = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.integers(-(2**63), 2**63 - 1), texts),
        st.tuples(st.just("update"), st.integers(0, 400), texts),
        st.tuples(st.just("delete"), st.integers(0, 400), st.none()),
        st.tuples(st.just("vacuum"), st.none(), st.none()),
    ),
    max_size=12,
)  # fmt: skip


def applied(connection: sqlite3.Connection, steps: list[tuple[str, Any, Any]], salt: int) -> None:
    for n, (what, number, value) in enumerate(steps):
        if what == "vacuum":
            connection.commit()
            connection.execute("VACUUM")
            continue
        if what == "insert":
            row = (number, f"k{salt}.{n}", value, f"r{n % 7}")
            connection.execute("INSERT OR REPLACE INTO tags (rowid, key, value, run_uuid) VALUES (?, ?, ?, ?)", row)
            continue
        found = connection.execute("SELECT rowid FROM tags ORDER BY rowid LIMIT 1 OFFSET ?", [number]).fetchall()
        if what == "update":
            connection.executemany("UPDATE tags SET value = ? WHERE rowid = ?", [(value, r[0]) for r in found])
        else:
            connection.executemany("DELETE FROM tags WHERE rowid = ?", found)
    connection.commit()


@settings(max_examples=40, deadline=None)
@given(
    page=st.sampled_from([512, 1024, 4096, 65_536]),
    vacuum=st.sampled_from(["NONE", "FULL", "INCREMENTAL"]),
    encoding=st.sampled_from(["UTF-8", "UTF-16le"]),
    count=st.sampled_from([0, 1, 30, 600]),
    rounds=st.lists(edits, min_size=1, max_size=3),
)
def test_a_row_on_no_fresh_page_was_there_as_it_is(  # noqa: PLR0917 -- hypothesis passes by name
    page: int, vacuum: str, encoding: str, count: int, rounds: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("pages") / "t.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {page}")
        connection.execute(f"PRAGMA auto_vacuum = {vacuum}")
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        connection.execute(SCHEMA)
        connection.executemany(
            "INSERT INTO tags VALUES (?, ?, ?)", [(f"k{n}", "v" * (n * 37 % 700), f"r{n % 7}") for n in range(count)]
        )
        connection.commit()
        memory = None
        before: dict[int, tuple[Any, ...]] = {}
        for salt, steps in enumerate([[], *rounds]):
            applied(connection, steps, salt)
            look, now = certainly(path, memory), rows(path)
            assert look.rows == len(now)
            assert look.known == (memory is not None)
            stale = [r for r in now if not is_fresh(look, r) and before.get(r) != now[r]]
            assert stale == []
            memory, before = look.memory, now


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(SCHEMA)
        connection.executemany("INSERT INTO tags VALUES (?, 'v', ?)", [(f"k{n}", f"r{n // 10}") for n in range(5_000)])
        connection.commit()
    return path


def run_sql(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(sql)
        connection.commit()


def test_one_edit_leaves_all_pages_but_one_known(table: Path) -> None:
    first = certainly(table, None)
    assert (first.known, first.fresh_share, first.fresh, first.rows) == (False, 1.0, ((None, None),), 5_000)
    again = certainly(table, first.memory)
    assert (again.known, again.fresh) == (True, ())
    run_sql(table, "UPDATE tags SET value = 'w' WHERE rowid = 2500")
    look = certainly(table, first.memory)
    assert len(look.fresh) == 1
    above, upto = look.fresh[0]
    assert above is not None
    assert upto is not None
    assert above < 2_500 <= upto < above + 300


def test_threads_share_a_look_and_find_the_same(table: Path) -> None:
    memory = certainly(table, None).memory
    run_sql(table, "UPDATE tags SET value = 'w' WHERE rowid IN (7, 2500, 4999)")
    look = certainly(table, memory)
    assert len(look.fresh) == 3
    for threads in (2, 3, 100):
        assert certainly(table, memory, threads=threads) == look


@given(numbers=st.lists(st.integers(2, 2**32 - 1), unique=True, min_size=2, max_size=300), data=st.data())
def test_a_leaf_that_comes_between_changes_its_own_group_alone(numbers: list[int], data: st.DataObject) -> None:
    def groups(leaves: list[int]) -> set[tuple[int, ...]]:
        edges = pages._edges(np.array(leaves, np.int64))
        assert (edges[0], edges[-1]) == (0, len(leaves))
        return {tuple(leaves[first:end]) for first, end in itertools.pairwise(edges)}

    where = data.draw(st.integers(0, len(numbers) - 1))
    assert len(groups(numbers[:where] + numbers[where + 1 :]) - groups(numbers)) <= 1


def test_most_groups_are_remembered_and_hold_some_leaves() -> None:
    for step in (1, 2, 3, 4, 16, 1_024):
        edges = pages._edges(np.arange(2, 2 + 10_000 * step, step))
        assert 300 < len(edges) < 1_300, "not every leaf is a group, nor is the table, however its pages are numbered"


def test_a_page_that_spills_is_never_known(table: Path) -> None:
    # SQLite rewrites an overflow page in place: the leaf, with its first bytes of the value, stays the same.
    run_sql(table, f"UPDATE tags SET value = '{'x' * 20_000}' WHERE rowid = 2500")
    first, before = certainly(table, None), table.read_bytes()
    run_sql(table, f"UPDATE tags SET value = '{'x' * 19_990 + 'y' * 10}' WHERE rowid = 2500")
    after = table.read_bytes()
    changed = [n for n in range(0, len(before), 4096) if before[n : n + 4096] != after[n : n + 4096]]
    assert all(before[n] not in (5, 13) for n in changed if n), "no leaf changed: the trap is set"
    assert is_fresh(certainly(table, first.memory), 2_500)


def test_a_memory_of_something_else_is_none(table: Path) -> None:
    memory = certainly(table, None).memory
    assert not certainly(table, memory[:-1]).known
    assert not certainly(table, b"\0" * 16 + memory[16:]).known
    run_sql(table, "ALTER TABLE tags RENAME COLUMN value TO v")
    assert not certainly(table, memory).known


@pytest.mark.parametrize(
    ("at", "raw", "surprise"),
    [(18, b"\2\2", False), (0, b"encrypted!", True), (16, b"\0\3", True), (20, b"\xff", True), (21, b"\1", True)],
)
def test_a_header_that_is_odd_gives_nothing(
    at: int, raw: bytes, surprise: bool, table: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(table.read_bytes())
    page = 512 if at == 20 else 4096
    data[at : at + len(raw)] = raw
    if page == 512:
        data[16:18] = (512).to_bytes(2, "big")
    table.write_bytes(data)
    fd = os.open(table, os.O_RDONLY)
    with caplog.at_level(logging.WARNING):
        assert pages.look(fd, 2, SCHEMA, None) is None
    os.close(fd)
    assert bool(caplog.records) == surprise


@pytest.mark.parametrize(
    "garbage", [b"\x0a", b"\x05" + b"\0" * 10 + b"\2", b"\x05\0\0\xff\xff", b"\x0d\0\0\xff\xff" + b"\xff" * 4000]
)
def test_a_tree_that_does_not_hold_together_gives_nothing(garbage: bytes, table: Path) -> None:
    fd = os.open(table, os.O_RDONLY)
    root = next(n for n in range(2, 50) if os.pread(fd, 1, (n - 1) * 4096) == b"\x05")
    os.close(fd)
    data = bytearray(table.read_bytes())
    data[(root - 1) * 4096 : (root - 1) * 4096 + len(garbage)] = garbage
    table.write_bytes(data)
    fd = os.open(table, os.O_RDONLY)
    assert pages.look(fd, root, SCHEMA, None) is None
    assert pages.look(fd, 1, SCHEMA, None) is None
    assert pages.look(fd, 10**6, SCHEMA, None) is None
    os.close(fd)


# -- in a sync ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(store: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A store of 200 runs with ten tags each, and its warehouse."""
    client = MlflowClient(f"sqlite:///{store}")
    experiment = int(client.create_experiment("e"))
    with closing(sqlite3.connect(store)) as connection:
        for n in range(200):
            connection.execute(
                "INSERT INTO runs (run_uuid, name, status, start_time, lifecycle_stage, experiment_id, artifact_uri) "
                "VALUES (?, 'n', 'FINISHED', ?, 'active', ?, ?)", [f"{n:032x}", n, experiment, "a" * 700],
            )  # fmt: skip
            connection.executemany(
                "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
                [(f"k{k}", f"value {n} {k}", f"{n:032x}") for k in range(10)],
            )
        connection.commit()
    db = tmp_path / "w.duckdb"
    sync(SqliteReader(store), db)
    return store, db


def whole_looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a sync falls back on, as it does: every tag, or a count of every run."""
    calls: list[str] = []
    for name in ("changed_tags", "changed_counts"):
        real = getattr(Stage, name)

        def called(self: Stage, *arguments: Any, _real: Any = real, _name: str = name) -> list[str]:
            calls.append(_name)
            return _real(self, *arguments)

        monkeypatch.setattr(Stage, name, called)
    return calls


RUN = f"'{77:032x}'"


@pytest.mark.parametrize(
    ("sql", "looks"),
    [
        (f"UPDATE tags SET value = 'edited' WHERE key = 'k3' AND run_uuid = {RUN}", []),
        (f"DELETE FROM tags WHERE key = 'k3' AND run_uuid = {RUN}", []),
        (f"DELETE FROM tags WHERE run_uuid = {RUN}", ["changed_counts"]),
        (f"INSERT INTO tags VALUES ('new', NULL, {RUN})", []),
        (f"UPDATE tags SET key = 'k4b' WHERE key = 'k4' AND run_uuid = {RUN}", []),
        ("INSERT INTO tags VALUES ('stray', 'x', 'no such run')", []),
    ],
)
def test_a_few_pages_are_enough(
    sql: str, looks: list[str], many: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, db = many
    calls = whole_looks(monkeypatch)
    run_sql(store, sql)
    sync(SqliteReader(store), db)
    assert calls == looks
    assert verify_store(SqliteReader(store), db) == ([] if "stray" not in sql else [("tags", 1, 0)])
    run_sql(store, f"UPDATE tags SET value = 'again' WHERE key = 'k9' AND run_uuid = {RUN}")
    sync(SqliteReader(store), db)
    assert calls == looks


def test_a_whole_page_of_tags_deleted_is_found_by_count(
    many: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, db = many
    calls = whole_looks(monkeypatch)
    run_sql(store, "DELETE FROM tags WHERE rowid BETWEEN 400 AND 900")
    assert sync(SqliteReader(store), db).runs_changed >= 50
    assert calls == ["changed_counts"]
    assert verify_store(SqliteReader(store), db) == []


@pytest.mark.parametrize(
    ("sql", "kept"),
    [
        (f"UPDATE runs SET status = 'KILLED' WHERE run_uuid = {RUN}", True),
        (f"UPDATE runs SET name = '{'long ' * 900}' WHERE run_uuid = {RUN}", True),
        (
            "INSERT INTO runs (run_uuid, experiment_id, lifecycle_stage) "
            f"SELECT 'new', experiment_id, 'active' FROM runs WHERE run_uuid = {RUN}",
            True,
        ),
        (f"DELETE FROM runs WHERE run_uuid = {RUN}", False),
        ("DELETE FROM runs WHERE rowid BETWEEN 60 AND 130", False),
        # As many rows as before, and another run: gc, and a new run on its rowid.
        (f"UPDATE runs SET run_uuid = 'another' WHERE run_uuid = {RUN}", False),
    ],
)
def test_runs_on_pages_seen_before_are_read_only_if_one_may_be_gone(
    sql: str, kept: bool, many: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, db = many
    kept_others, real, staged = list[bool](), Stage.keep_others, list[int]()

    def called(self: Stage, rows: int) -> bool:
        staged.append(self.run_count())
        kept_others.append(real(self, rows))
        return kept_others[-1]

    monkeypatch.setattr(Stage, "keep_others", called)
    run_sql(store, sql)
    run_sql(store, "DELETE FROM tags WHERE run_uuid NOT IN (SELECT run_uuid FROM runs)")
    summary = sync(SqliteReader(store), db)
    assert (summary.runs_seen, kept_others) == (len(dump(db)["mlflow.runs"]), [kept])
    assert staged[0] < 150, "some pages were seen before"
    assert verify_store(SqliteReader(store), db) == []
    assert sync(SqliteReader(store), db, SyncOptions(mode=Mode.FULL)).up_to_date


@pytest.mark.parametrize(
    "edit",
    [
        f"DELETE FROM mlflow.run_state WHERE run_uuid = {RUN}",
        f"UPDATE mlflow.run_state SET engine = 'duckdb of another time' WHERE run_uuid = {RUN}",
    ],
)
def test_a_run_without_a_fingerprint_of_this_engine_is_read_again(edit: str, many: tuple[Path, Path]) -> None:
    store, db = many
    with duckdb.connect(str(db)) as connection:
        connection.execute(edit)
    run_sql(store, "UPDATE tags SET value = 'edited' WHERE key = 'k3' AND run_uuid LIKE '%03'")
    fresh = db.with_name("fresh.duckdb")
    assert sync(SqliteReader(store), db).runs_seen == 200
    sync(SqliteReader(store), fresh)
    assert dump(db) == dump(fresh)


def test_vacuum_makes_one_whole_look(many: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    store, db = many
    run_sql(store, f"DELETE FROM tags WHERE run_uuid = {RUN}")
    sync(SqliteReader(store), db)
    run_sql(store, "VACUUM")
    run_sql(store, "UPDATE tags SET value = 'edited' WHERE key = 'k3' AND run_uuid LIKE '%3'")
    calls = whole_looks(monkeypatch)
    sync(SqliteReader(store), db)
    assert calls == ["changed_tags"]
    assert verify_store(SqliteReader(store), db) == []


@pytest.mark.parametrize("options", [SyncOptions(experiments=("e",)), SyncOptions(mode=Mode.FAST)])
def test_a_sync_in_between_that_saw_less_makes_the_memory_void(
    options: SyncOptions, many: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # a -> b is mirrored by the one in between, b -> a leaves the page as the first one remembers it.
    store, db = many
    value = f"value {77} 3"
    original = store.read_bytes()
    run_sql(store, f"UPDATE tags SET value = '{value[::-1]}' WHERE key = 'k3' AND run_uuid = {RUN}")
    run_sql(store, f"INSERT INTO params VALUES ('p', 'v', {RUN})")
    assert sync(SqliteReader(store), db, options).runs_changed == 1
    store.write_bytes(original)
    calls = whole_looks(monkeypatch)
    sync(SqliteReader(store), db)
    assert verify_store(SqliteReader(store), db) == []
    assert "changed_tags" in calls or options.mode is Mode.FAST


def test_a_write_ahead_log_is_compared_whole(many: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    store, db = many
    calls = whole_looks(monkeypatch)
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"UPDATE tags SET value = 'in the log' WHERE key = 'k3' AND run_uuid = {RUN}")
        connection.commit()
        assert sync(SqliteReader(store), db).runs_changed == 1
        assert verify_store(SqliteReader(store), db) == []
    assert calls == ["changed_tags"]


WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0)
connection.execute("UPDATE tags SET value = 'x'")
connection.commit()
"""


def test_no_descriptor_of_ours_lets_the_lock_go(many: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    store, db = many
    load, tried = Stage.load, list[str]()

    def meanwhile(self: Stage, table: str, incoming: Any) -> None:
        load(self, table, incoming)
        if table == "tags":
            tried.append(
                subprocess.run(
                    [sys.executable, "-c", WRITER, str(store)], capture_output=True, text=True, check=False
                ).stderr
            )

    run_sql(store, f"UPDATE tags SET value = 'edited' WHERE key = 'k3' AND run_uuid = {RUN}")
    monkeypatch.setattr(Stage, "load", meanwhile)
    assert sync(SqliteReader(store), db).runs_changed == 1
    assert len(tried) == 1
    assert "database is locked" in tried[0]


def test_a_store_that_was_written_to_while_it_was_read_is_refused(
    many: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, db = many
    before, load = dump(db), Stage.load

    def meanwhile(self: Stage, table: str, incoming: Any) -> None:
        load(self, table, incoming)
        if table == "tags":
            store.open("rb").close()  # POSIX: and the lock is gone
            run_sql(store, "UPDATE tags SET value = 'x'")

    run_sql(store, f"UPDATE tags SET value = 'edited' WHERE key = 'k3' AND run_uuid = {RUN}")
    with monkeypatch.context() as patched:
        patched.setattr(Stage, "load", meanwhile)
        with pytest.raises(StoreError, match="was written to while it was read"):
            sync(SqliteReader(store), db)
    assert dump(db) == before
    sync(SqliteReader(store), db)
    assert verify_store(SqliteReader(store), db) == []


def test_another_store_in_between_leaves_nothing_to_rely_on(many: tuple[Path, Path], tmp_path: Path) -> None:
    store, db = many
    other = tmp_path / "other.db"
    shutil.copyfile(store, other)
    sync(SqliteReader(store), db, SyncOptions(experiments=("e",)))
    run_sql(other, f"UPDATE tags SET value = 'other' WHERE run_uuid = {RUN}")
    sync(SqliteReader(other), db, SyncOptions(rebind=True))
    sync(SqliteReader(store), db, SyncOptions(experiments=("e",), rebind=True))
    assert verify_store(SqliteReader(store), db) == []


def test_a_first_sync_takes_no_rows_of_no_run(store: Path, tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{store}")
    fill(client, client.create_experiment("e"))
    run_sql(store, "INSERT INTO tags VALUES ('stray', 'x', 'no such run')")
    sync(SqliteReader(store), tmp_path / "w.duckdb")
    assert all("no such run" not in row for row in dump(tmp_path / "w.duckdb")["mlflow.tags"])
