"""Which rows of a SQLite table are not on a page that was seen before, told from the file's own pages.

MLflow edits tags without a trace, and comparing millions of them to find one takes seconds. The leaf pages of the
table's b-tree hold its rows, in the order of their rowids (https://www.sqlite.org/fileformat2.html, 1.5 and 1.6). A
sync remembers a digest of each leaf. At the next one, a leaf whose bytes have a remembered digest holds only rows
that were there then: same rowid, same content. The rows of all other leaves are *fresh*: looked at, and their runs
read again. A leaf with a cell that spills onto overflow pages is never remembered, because those pages are rewritten
in place without a change of the leaf. A row that moved to another page is looked at once more, and no harm done.

A deleted row is not there to be seen. But let a run have no fresh row: then each of its rows was there last time, so
it has at most as many rows as then, and it is the same exactly if it has as many. The reader holds the *number* of rows
against the mirror; a run that lost one tag and gained another has a fresh row. See ``_changed_tags`` of
:mod:`.sqlite`.

Rests on what the caller grants: a read transaction that is open from before :func:`look` until after it, in
rollback-journal mode, so that no page changes; and a memory that was written in the very transaction that ended the
last sync, when the mirror was what the pages were. Whatever is not as the format says it gives None, and the caller
compares every row. Knows nothing of MLflow or DuckDB. Closing any descriptor of the file drops this process's POSIX
locks on it, the transaction's too: the caller opens ``fd`` before the transaction and closes it after.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

DIGEST_BYTES = 16
_HEADER = b"SQLite format 3\0"
_LEAF, _INTERIOR = 0x0D, 0x05
_MAX_DEPTH = 20
"""SQLite's own limit (BTCURSOR_MAX_DEPTH): a deeper tree is a loop."""
_READ_PAGES = 256
"""Neighbouring pages a read."""


class _Odd(Exception):
    """The file is not what the format says: nothing is concluded from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A table's leaves as they are now.

    ``memory`` is what to remember of them; ``known`` whether any earlier memory could be used; ``rows`` the number of
    rows; ``fresh`` ranges of rowids ``(above, up to and with)``, None for no bound, that hold every row which is not
    known to have been there; ``fresh_share`` of the leaves are theirs.
    """

    memory: bytes
    known: bool
    rows: int
    fresh_share: float
    fresh: tuple[tuple[int | None, int | None], ...]


@dataclass(frozen=True, slots=True)
class _Leaf:
    page: int
    above: int | None
    upto: int | None


def look(fd: int, root: int, schema: str, memory: bytes | None) -> Look | None:
    """Look at the table whose b-tree begins at page ``root`` and whose CREATE statement is ``schema``.

    ``memory`` is an earlier :attr:`Look.memory`; of another table, encoding or page size it counts as none. Returns
    None where the pages cannot be relied on: write-ahead log, a format unknown here, a tree that does not hold
    together. Raises OSError if the file cannot be read.
    """
    if os.pread(fd, 2, 18) != b"\x01\x01":
        return None  # a write-ahead log: what counts is not, or not only, in this file
    try:
        file = _File(fd)
        kind = hashlib.sha256(
            repr((1, file.page_bytes, file.usable_bytes, file.encoding, schema)).encode("utf-8", "surrogatepass")
        ).digest()[:DIGEST_BYTES]
        known: set[bytes] | None = None
        if memory is not None and memory[:DIGEST_BYTES] == kind and len(memory) % DIGEST_BYTES == 0:
            known = {memory[n : n + DIGEST_BYTES] for n in range(DIGEST_BYTES, len(memory), DIGEST_BYTES)}
        return _compared(file, list(_leaves(file, root)), kind, known)
    except (_Odd, struct.error, IndexError):
        logging.getLogger(__name__).warning(
            "the pages of the store's file are not as SQLite's format says: every tag is compared"
        )
        return None


def _compared(file: _File, leaves: list[_Leaf], kind: bytes, known: set[bytes] | None) -> Look:
    rows, remembered, fresh = 0, [kind], list[_Leaf]()
    seen = known or set()
    sha256, count_of = hashlib.sha256, struct.Struct(">H").unpack_from
    for leaf, page in file.pages(leaves):
        if page[0] != _LEAF:
            raise _Odd
        rows += count_of(page, 3)[0]
        digest = sha256(page).digest()[:DIGEST_BYTES]
        if digest in seen:
            remembered.append(digest)
            continue
        fresh.append(leaf)
        if not _spills(page, file.usable_bytes):
            remembered.append(digest)
    return Look(
        memory=b"".join(remembered), known=known is not None, rows=rows, fresh=tuple(_ranges(fresh)),
        fresh_share=len(fresh) / len(leaves),
    )  # fmt: skip


def _ranges(leaves: list[_Leaf]) -> Iterator[tuple[int | None, int | None]]:
    """Ranges of neighbouring leaves, which come in the order of their rowids, in one."""
    merged: tuple[int | None, int | None] | None = None
    for leaf in leaves:
        if merged is not None and merged[1] == leaf.above and leaf.above is not None:
            merged = (merged[0], leaf.upto)
            continue
        if merged is not None:
            yield merged
        merged = (leaf.above, leaf.upto)
    if merged is not None:
        yield merged


class _File:
    """The header's word on the file, and its pages."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        header = os.pread(fd, 100, 0)
        if len(header) < 100 or header[:16] != _HEADER:
            raise _Odd
        size = int.from_bytes(header[16:18], "big")
        self.page_bytes = 65_536 if size == 1 else size
        self.usable_bytes = self.page_bytes - header[20]
        self.encoding = int.from_bytes(header[56:60], "big")
        if (
            header[21:24] != b"\x40\x20\x20"
            or self.page_bytes < 512
            or self.page_bytes & (self.page_bytes - 1)
            or self.usable_bytes < 480
        ):
            raise _Odd

    def page(self, number: int) -> bytes:
        """One page. Page 1 begins with the file's header and is no table's but the schema's."""
        if number < 2:
            raise _Odd
        data = os.pread(self.fd, self.page_bytes, (number - 1) * self.page_bytes)
        if len(data) != self.page_bytes:
            raise _Odd
        return data

    def pages(self, leaves: list[_Leaf]) -> Iterator[tuple[_Leaf, memoryview]]:
        """Every leaf with its page, neighbours in the file in one read."""
        size, begin = self.page_bytes, 0
        while begin < len(leaves):
            first, end = leaves[begin].page, begin + 1
            while end < len(leaves) and end - begin < _READ_PAGES and leaves[end].page == first + end - begin:
                end += 1
            if first < 2:
                raise _Odd
            data = memoryview(os.pread(self.fd, (end - begin) * size, (first - 1) * size))
            if len(data) != (end - begin) * size:
                raise _Odd
            for n in range(end - begin):
                yield leaves[begin + n], data[n * size : (n + 1) * size]
            begin = end


def _leaves(file: _File, root: int) -> Iterator[_Leaf]:
    """The leaves of a table's b-tree from the lowest rowid to the highest."""
    page = file.page(root)
    if page[0] == _LEAF:
        yield _Leaf(root, None, None)
        return
    seen: set[int] = {root}
    yield from _below(file, page, None, None, seen, 1)


def _below(  # noqa: PLR0917 -- itself is its caller
    file: _File, page: bytes, above: int | None, upto: int | None, seen: set[int], depth: int
) -> Iterator[_Leaf]:
    if page[0] != _INTERIOR or depth > _MAX_DEPTH:
        raise _Odd
    children = _children(page, above, upto)
    # All leaves are equally deep, and each is looked at when it is read.
    lowest = file.page(children[0].page)[0] == _LEAF
    for child in children:
        if child.page in seen:
            raise _Odd
        seen.add(child.page)
        if lowest:
            yield child
        else:
            yield from _below(file, file.page(child.page), child.above, child.upto, seen, depth + 1)


def _children(page: bytes, above: int | None, upto: int | None) -> list[_Leaf]:
    """The children of an interior page: a cell is a page number and the highest rowid of that child."""
    cells = struct.unpack_from(">H", page, 3)[0]
    found = []
    for at in struct.unpack_from(f">{cells}H", page, 12):
        key = _signed(_varint(page, at + 4)[0])
        if (above is not None and key <= above) or (upto is not None and key > upto):
            raise _Odd
        found.append(_Leaf(struct.unpack_from(">I", page, at)[0], above, key))
        above = key
    found.append(_Leaf(struct.unpack_from(">I", page, 8)[0], above, upto))
    return found


def _spills(page: memoryview, usable_bytes: int) -> bool:
    """True if the payload of any cell does not fit the page; it then goes on elsewhere."""
    cells = struct.unpack_from(">H", page, 3)[0]
    offsets = struct.unpack_from(f">{cells}H", page, 8)
    # A length below 128 is one byte: most pages are done in C.
    if not cells or max(map(page.__getitem__, offsets)) < 0x80:
        return False
    return any(_varint(page, at)[0] > usable_bytes - 35 for at in offsets if page[at] >= 0x80)


def _varint(page: bytes | memoryview, at: int) -> tuple[int, int]:
    """A big-endian integer of up to nine bytes, and where it ends; the ninth byte counts whole."""
    value = 0
    for n in range(8):
        byte = page[at + n]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + n + 1
    return value << 8 | page[at + 8], at + 9


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
