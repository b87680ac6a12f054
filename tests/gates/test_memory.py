"""The keyed digest of a run: what has not changed is not judged again, and whatever a hand changes breaks it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench_mlflow.attest import Keyring, Revocation
from hwbench_mlflow.keystore import derived_key, load_keyring, make_key, revoke, signing_key
from hwbench_mlflow.warehouse import database, memory, rederive
from hwbench_mlflow.warehouse.cases import listed
from hwbench_mlflow.warehouse.gated import Gated
from hwbench_mlflow.warehouse.memory import KEY_PURPOSE, LONG, SHARED, WIDE, Memory, code_digest
from hwbench_mlflow.warehouse.rederive import Rederived
from tests.gates.conftest import edit
from tests.warehouse.results import Lab

ALL = 7
Loose = tuple[duckdb.DuckDBPyConnection, Memory, str, str]


def gated(db: Path, lab: Lab, key: bytes | None = None, keyring: Keyring | None = None) -> Rederived:
    """One gate's look, with this machine's key unless another is given."""
    with database.writer(db) as connection:
        return Gated(db, connection).rederive(
            keyring or load_keyring(lab.home), lambda _done, _all: None, key or derived_key(KEY_PURPOSE, lab.home)
        )


@pytest.fixture(scope="module")
def remembered(synced: tuple[Lab, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warehouse after one gate."""
    db = Path(shutil.copyfile(synced[1], tmp_path_factory.mktemp("memory") / "hwbench.duckdb"))
    first = gated(db, synced[0])
    assert (first.runs, first.remembered, first.edited) == (ALL, 0, {})
    return db


@pytest.fixture
def db(remembered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(remembered, tmp_path / "hwbench.duckdb"))


def test_what_has_not_changed_is_not_judged_again_and_comes_to_the_same(
    synced: tuple[Lab, Path], db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, _ = synced
    with database.writer(db) as connection:
        whole = rederive.rederive(connection, load_keyring(lab.home))
    monkeypatch.setattr(rederive, "load_work", lambda *_a, **_k: pytest.fail("a run was judged again"))
    again = gated(db, lab)
    assert again.remembered == ALL
    assert again.unproven == whole.unproven
    assert len(again.unproven) == 1
    assert (again.edited, again.absent, again.probes) == (whole.edited, whole.absent, whole.probes)


def columns() -> list[tuple[str, str, str]]:
    """Every column of every table that a verdict rests on or comes to, from the migrations themselves."""
    with duckdb.connect() as fresh:
        database.migrate(fresh, Path("fresh"))
        return [
            (table, name, kind)
            for table in (*LONG, *WIDE, *SHARED)
            for name, kind in fresh.execute(f"SELECT name, type FROM pragma_table_info('{table}')").fetchall()
        ]


CHANGED = {
    "VARCHAR": "coalesce({c}, '') || 'x'", "VARCHAR[]": "list_append({c}, 'x')", "BOOLEAN": "NOT coalesce({c}, false)",
    "BIGINT": "coalesce({c}, 1) + 1", "INTEGER": "coalesce({c}, 1) + 1", "HUGEINT": "{c} + 1",
    "DOUBLE": "coalesce({c}, 1) * 1.0000000000000002 + 5e-324",
    "TIMESTAMP": "coalesce({c}, '2026-01-01'::TIMESTAMP) + INTERVAL 1 microsecond",
    "BLOB": "{c} || 'x'::BLOB", "MAP(VARCHAR, VARCHAR)": "MAP {{'x': 'y'}}",
}  # fmt: skip


def plain(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """The table without its keys and CHECKs: the digest must see what a hand that removed them did."""
    connection.execute(f"CREATE TABLE plain AS FROM {table}")
    for (view,) in connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall():
        connection.execute(f"DROP VIEW IF EXISTS {view} CASCADE")
    connection.execute(f"DROP TABLE {table}")
    connection.execute(f"CREATE TABLE {table} AS FROM plain")
    connection.execute("DROP TABLE plain")


@pytest.fixture(scope="module")
def loose(remembered: Path, synced: tuple[Lab, Path]) -> Iterator[Loose]:
    """A warehouse whose tables take anything, a memory of it, and one of its runs."""
    lab, _ = synced
    key, code = derived_key(KEY_PURPOSE, lab.home), code_digest()
    assert key is not None
    assert code is not None
    copy = Path(shutil.copyfile(remembered, remembered.with_name("loose.duckdb")))
    with duckdb.connect(str(copy)) as connection:
        for table in (*LONG, *WIDE, *SHARED):
            plain(connection, table)
        known = Memory(key, load_keyring(lab.home), code)
        yield connection, known, lab.runs[0], digest(connection, known, lab.runs[0])


LACKED = {
    "verdict_findings": "INSERT INTO verdict_findings VALUES (?, 0, 'r', 'unverified', 'x')",
    "estimates": "INSERT INTO estimates (run_id) VALUES (?)",
    "rooflines": "INSERT INTO rooflines (run_id) VALUES (?)",
}
"""A verified result has no row in these."""


def digest(connection: duckdb.DuckDBPyConnection, known: Memory, run_id: str) -> str:
    [(_, mac)] = known.macs(connection, [run_id])
    return mac


@pytest.mark.parametrize(("table", "column", "kind"), columns())
def test_an_edit_of_any_column_breaks_the_digest(table: str, column: str, kind: str, loose: Loose) -> None:
    connection, known, run_id, before = loose
    key = SHARED.get(table) or ("run_uuid" if table.startswith("mlflow.") else "run_id")
    value = f"(SELECT {key} FROM performance_results WHERE run_id = ?)" if table in SHARED else "?"
    connection.execute("BEGIN")
    try:
        if table in LACKED:
            connection.execute(LACKED[table], [run_id])
            before = digest(connection, known, run_id)
        to = CHANGED[kind].format(c=column)
        edited = f"UPDATE {table} SET {column} = {to} WHERE {key} = {value} RETURNING 1"
        assert connection.execute(edited, [run_id]).fetchall()
        assert digest(connection, known, run_id) != before
    finally:
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("table", [*LONG, *WIDE, *SHARED])
def test_a_row_more_and_a_row_less_break_the_digest(table: str, loose: Loose) -> None:
    connection, known, run_id, before = loose
    key = "run_uuid" if table.startswith("mlflow.") else SHARED.get(table, "run_id")
    mine = f"{key} = (SELECT {key} FROM performance_results WHERE run_id = ?)" if table in SHARED else f"{key} = ?"
    for sql in (f"INSERT INTO {table} FROM {table} WHERE {mine} LIMIT 1", f"DELETE FROM {table} WHERE {mine}"):
        connection.execute("BEGIN")
        try:
            if table in LACKED:
                connection.execute(LACKED[table], [run_id])
                before = digest(connection, known, run_id)
            connection.execute(sql, [run_id])
            assert digest(connection, known, run_id) != before
        finally:
            connection.execute("ROLLBACK")


@settings(deadline=None)
@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_two_numbers_are_never_written_alike(one: float, other: float) -> None:
    """The wide tables are digested as JSON: it must tell any two doubles apart."""
    with duckdb.connect() as connection:
        [(a, b, c)] = connection.execute(
            "SELECT to_json({'v': ?::DOUBLE})::VARCHAR, to_json({'v': ?::DOUBLE})::VARCHAR, "
            "to_json({'v': 'nan'::DOUBLE})::VARCHAR", [one, other]
        ).fetchall()  # fmt: skip
    assert (a == b) is (one == other and math.copysign(1, one) == math.copysign(1, other))
    assert c not in {a, b}


def test_neighbouring_texts_do_not_run_together(db: Path, synced: tuple[Lab, Path]) -> None:
    lab, _ = synced
    key = "CASE WHEN key = 'hardware' THEN 'hardwar' ELSE key END"
    edit(db, f"UPDATE mlflow.tags SET key = {key}, value = CASE WHEN key = 'hardware' THEN 'e' || value ELSE value END")
    assert gated(db, lab).remembered == 1  # a run that failed has no such tag


def test_one_edited_run_is_judged_again_and_no_other(db: Path, synced: tuple[Lab, Path]) -> None:
    lab, _ = synced
    edit(db, "UPDATE performance_results SET ranked = NOT ranked WHERE run_id = ?", lab.runs[1])
    for _ in range(2):  # what is wrong is never remembered
        found = gated(db, lab)
        assert found.remembered == ALL - 1
        assert found.edited == {lab.runs[1]: "ranked in performance_results differ from the evidence, judged again"}
    edit(db, "UPDATE performance_results SET ranked = NOT ranked WHERE run_id = ?", lab.runs[1])
    assert (gated(db, lab).edited, gated(db, lab).remembered) == ({}, ALL)


def test_a_revoked_key_recomputes_everything(db: Path, synced: tuple[Lab, Path]) -> None:
    lab, _ = synced
    ring = load_keyring(lab.home)
    gone = {k: Revocation(keyid=k, revoked_at="2026-01-01T00:00:00+00:00", reason=None) for k in ring.keys}
    found = gated(db, lab, keyring=Keyring(ring.keys, gone))
    assert found.remembered == 0
    assert set(lab.runs) <= set(found.unproven)


def test_other_code_recomputes_everything(db: Path, synced: tuple[Lab, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    lab, _ = synced
    assert gated(db, lab).remembered == ALL
    sources = memory._sources
    monkeypatch.setattr(memory, "_sources", lambda *at: [*sources(*at), ("verdict_next.py", b"")])
    assert gated(db, lab).remembered == 0
    assert gated(db, lab).remembered == ALL


def test_every_module_that_judges_is_in_the_code_digest_and_each_change_changes_it(tmp_path: Path) -> None:
    package = Path(memory.__file__).parents[1]
    names = {name for name, _ in memory._sources(package)}
    assert {"verdict.py", "evidence.py", "attest.py", "stats.py", "codec.py", "index.py", "model.py", "metrics.py",
            "warehouse/results.py", "warehouse/rederive.py", "warehouse/memory.py", "warehouse/judging.py",
            "warehouse/migrations/0002_star.sql"} <= names  # fmt: skip
    (tmp_path / "a.py").write_bytes(b"x = 1\n")
    before = list(memory._sources(tmp_path))
    (tmp_path / "a.py").write_bytes(b"x = 2\n")
    assert list(memory._sources(tmp_path)) != before


def test_code_that_cannot_be_read_remembers_nothing(
    db: Path, synced: tuple[Lab, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> Iterator[tuple[str, bytes]]:
        raise OSError("a zip without sources")

    lab, _ = synced
    monkeypatch.setattr(memory, "_sources", unreadable)
    assert code_digest() is None
    assert gated(db, lab).remembered == 0


def test_the_digest_of_another_run_is_refused(db: Path, synced: tuple[Lab, Path]) -> None:
    lab, _ = synced
    one, other = lab.runs[:2]
    edit(db, "UPDATE judged_runs SET mac = (SELECT mac FROM judged_runs WHERE run_id = ?) WHERE run_id = ?", one, other)
    assert gated(db, lab).remembered == ALL - 1


def test_the_digest_of_another_machine_is_ignored(db: Path, synced: tuple[Lab, Path], tmp_path: Path) -> None:
    lab, _ = synced
    signing_key(tmp_path / "other")
    assert gated(db, lab, key=derived_key(KEY_PURPOSE, tmp_path / "other")).remembered == 0


def test_without_a_digest_without_a_key_and_with_one_made_up_all_is_judged(db: Path, synced: tuple[Lab, Path]) -> None:
    lab, _ = synced
    with database.writer(db) as connection:
        found = Gated(db, connection).rederive(load_keyring(lab.home), lambda _done, _all: None, None)
    assert found.remembered == 0
    for mac in ("sha256(run_id)", "repeat('é', 64)"):
        edit(db, f"UPDATE judged_runs SET mac = {mac}")
        assert gated(db, lab).remembered == 0
    edit(db, "DELETE FROM judged_runs")
    assert gated(db, lab).remembered == 0


def test_a_run_that_is_none_of_ours_is_never_proven(db: Path, synced: tuple[Lab, Path]) -> None:
    lab, _ = synced
    edit(db, "INSERT INTO judged_runs VALUES ('ghost', repeat('0', 64))")
    key, code = derived_key(KEY_PURPOSE, lab.home), code_digest()
    assert key is not None
    with database.writer(db) as connection, listed(connection):
        assert "ghost" not in Memory(key, load_keyring(lab.home), str(code)).proven(connection)
    gated(db, lab)
    with duckdb.connect(str(db)) as connection:
        assert connection.execute("SELECT count(*) FROM judged_runs").fetchall() == [(ALL,)]


def test_the_key_is_in_no_row_and_its_purpose_is_its_own(remembered: Path, synced: tuple[Lab, Path]) -> None:
    lab, _ = synced
    key = derived_key(KEY_PURPOSE, lab.home)
    assert key is not None
    assert len(key) == 32
    assert key == derived_key(KEY_PURPOSE, lab.home) != derived_key(b"another purpose", lab.home)
    assert key not in remembered.read_bytes()
    assert key.hex().encode() not in remembered.read_bytes()
    private = (lab.home / "signing_key.pem").read_bytes()
    assert key not in private


def test_there_is_no_key_to_derive_where_none_was_made_or_it_was_revoked(tmp_path: Path) -> None:
    assert derived_key(KEY_PURPOSE, tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    first = make_key(tmp_path)
    before = derived_key(KEY_PURPOSE, tmp_path)
    revoke(first.keyid, tmp_path)
    assert derived_key(KEY_PURPOSE, tmp_path) is None
    make_key(tmp_path)
    assert derived_key(KEY_PURPOSE, tmp_path) not in {None, before}
