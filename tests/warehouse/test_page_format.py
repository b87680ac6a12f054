"""SQLite's file format, byte by byte: each check of the look at pages has a file that only it refuses."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from hwbench_mlflow.warehouse.readers import pages

SCHEMA = "CREATE TABLE t (v)"
MINUS_ONE = b"\xff" * 9


def varint(value: int) -> bytes:
    """Up to eight groups of seven bits: enough for what is not negative here."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def leaf(*cells: tuple[int, bytes], count: int | None = None) -> bytes:
    """A leaf whose cells begin with ``bytes`` at an offset."""
    page = bytearray(65_536)
    page[0], page[3:5] = 0x0D, struct.pack(">H", len(cells) if count is None else count)
    for n, (at, begin) in enumerate(cells):
        page[8 + 2 * n : 10 + 2 * n] = struct.pack(">H", at)
        page[at : at + len(begin)] = begin
    return bytes(page)


def interior(children: list[tuple[int, bytes]], last: int, *, at: int = 2_000, count: int | None = None) -> bytes:
    """An interior page: each child with its highest rowid as it is written, the last without."""
    page = bytearray(65_536)
    page[0], page[3:5] = 0x05, struct.pack(">H", len(children) if count is None else count)
    page[8:12] = struct.pack(">I", last)
    for n, (child, key) in enumerate(children):
        page[12 + 2 * n : 14 + 2 * n] = struct.pack(">H", at)
        cell = struct.pack(">I", child) + key
        page[at : at + len(cell)] = cell
        at += 20
    return bytes(page)


class Store:
    """A file of pages from the second on; the table begins there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def look(
        self,
        *parts: bytes,
        size: int = 4096,
        reserved: int = 0,
        memory: bytes | None = None,
        root: int = 2,
        encoding: int = 1,
    ) -> pages.Look | None:
        header = bytearray(size)
        header[:16] = b"SQLite format 3\0"
        header[16:18] = struct.pack(">H", 1 if size == 65_536 else size)
        header[18:24] = bytes([1, 1, reserved, 0x40, 0x20, 0x20])
        header[59] = encoding
        self.path.write_bytes(bytes(header) + b"".join(p[:size] for p in parts))
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return pages.look(fd, root, SCHEMA, memory)
        finally:
            os.close(fd)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "crafted.db")


@pytest.mark.parametrize(
    ("size", "reserved", "known"),
    [(512, 0, True), (512, 32, True), (512, 33, False), (256, 0, False), (768, 0, False), (65_536, 0, True)],
)
def test_a_page_has_a_size_that_sqlite_makes(size: int, reserved: int, known: bool, store: Store) -> None:
    assert (store.look(leaf(), size=size, reserved=reserved) is not None) == known


@pytest.mark.parametrize("root", [0, 1, 3])
def test_a_root_that_is_no_page_of_a_table_gives_nothing(root: int, store: Store) -> None:
    assert store.look(leaf(), root=root) is None


def test_two_leaves_are_a_tree(store: Store) -> None:
    tree = (interior([(3, varint(7))], 4), leaf((100, b"\1")), leaf((100, b"\2"), (200, b"\3")))
    first = store.look(*tree)
    assert first is not None
    assert (first.rows, first.known, first.fresh) == (3, False, ((None, None),))
    again = store.look(*tree[:2], leaf((100, b"\7")), memory=first.memory)
    assert again is not None
    assert (again.rows, again.known, again.fresh, again.fresh_share) == (2, True, ((7, None),), 0.5)


def test_a_memory_of_another_encoding_is_none(store: Store) -> None:
    first = store.look(leaf((100, b"\1")))
    assert first is not None
    again = store.look(leaf((100, b"\1")), encoding=2, memory=first.memory)
    assert again is not None
    assert (again.known, again.fresh) == (False, ((None, None),))


def test_a_rowid_below_zero_is_told_by_the_ninth_byte(store: Store) -> None:
    tree = (interior([(3, MINUS_ONE), (4, varint(300))], 5), *(leaf((100, bytes([n]))) for n in range(3)))
    first = store.look(*tree)
    assert first is not None
    again = store.look(*tree[:2], leaf((100, b"\x70")), *tree[3:], memory=first.memory)
    assert again is not None
    assert again.fresh == ((-1, 300),)


BROKEN_TREES = {
    "a child is the header": (interior([(0, varint(7))], 3), leaf()),
    "the last child is the header": (interior([(3, varint(7))], 0), leaf()),
    "a child is beyond the file": (interior([(3, varint(7))], 9), leaf()),
    "the file ends within a leaf": (interior([(3, varint(7))], 4), leaf(), leaf()[:100]),
    "a child is of another kind": (interior([(3, varint(7))], 4), leaf(), b"\x0a" + leaf()[1:]),
    "a leaf among interior pages": (interior([(3, varint(7))], 4), interior([], 5), leaf(), leaf()),
    "a child comes twice": (interior([(3, varint(7))], 3), leaf()),
    "a page is its own child": (interior([(2, varint(7))], 3), leaf()),
    "rowids fall": (interior([(3, varint(7)), (4, varint(5))], 5), leaf(), leaf(), leaf()),
    "a rowid comes twice": (interior([(3, varint(7)), (4, varint(7))], 5), leaf(), leaf(), leaf()),
    "more children than fit": (interior([], 3, count=3_000), leaf()),
    "a child's cell is beyond its page": (interior([(3, varint(7))], 3, at=5_000), leaf()),
    "a rowid is beyond its page": (interior([(3, b"\x80" * 9)], 4, at=4_090), leaf(), leaf()),
    "more rows than fit": (leaf(count=3_000),),
    "a row is beyond its page": (leaf((5_000, b"\1")),),
    "a row's length is beyond its page": (leaf((4_095, b"\x81\x81")), leaf()),
}


@pytest.mark.parametrize("tree", BROKEN_TREES.values(), ids=BROKEN_TREES)
def test_a_tree_that_does_not_hold_together_gives_nothing(tree: tuple[bytes, ...], store: Store) -> None:
    assert store.look(*tree) is None


@pytest.mark.parametrize(("levels", "known"), [(19, True), (20, False)])
def test_a_tree_is_no_deeper_than_sqlite_makes_one(levels: int, known: bool, store: Store) -> None:
    chain = [interior([], n + 3) for n in range(levels)]
    assert (store.look(*chain, leaf()) is not None) == known


@pytest.mark.parametrize(
    ("length", "spills"),
    [(b"\x7f", False), (varint(4096 - 35), False), (varint(4096 - 34), True), (varint(2**40), True), (MINUS_ONE, True)],
)
def test_a_leaf_is_remembered_only_if_all_its_rows_are_whole_on_it(length: bytes, spills: bool, store: Store) -> None:
    page = leaf((1_000, b"\1"), (2_000, length))
    first = store.look(page)
    assert first is not None
    again = store.look(page, memory=first.memory)
    assert again is not None
    assert (again.known, bool(again.fresh)) == (True, spills)


def test_what_is_reserved_of_a_page_holds_no_row(store: Store) -> None:
    page = leaf((1_000, varint(4096 - 35)))
    first = store.look(page, reserved=1)
    assert first is not None
    again = store.look(page, reserved=1, memory=first.memory)
    assert again is not None
    assert again.fresh == ((None, None),)
