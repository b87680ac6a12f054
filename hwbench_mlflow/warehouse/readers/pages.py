"""Which rows of a SQLite table are not on a page that was seen before, told from the file's own pages.

MLflow edits runs and tags without a trace, and comparing millions of rows to find one takes seconds. The leaf pages of
the b-tree of a table hold its rows, in the order of their rowids (https://www.sqlite.org/fileformat2.html, 1.5 and
1.6). A sync remembers a digest of each leaf. At the next one, a leaf whose bytes have a remembered digest holds only
rows that were there then: same rowid, same content. The rows of all other leaves are *fresh*: looked at, and their runs
read again. A leaf with a cell that spills onto overflow pages is never remembered, because those pages are rewritten
in place without a change of the leaf. A row that moved to another page is looked at once more, and no harm done.

Most leaves are as they were, so neighbours have one digest more, of all their bytes: where that one is remembered,
theirs need not be made. It is remembered only of leaves that are all remembered. Hashing a large piece also lets other
threads run, which hashing page by page hardly does.

A deleted row is not there to be seen. But let a run have no fresh row: then each of its rows was there last time, so
it has at most as many rows as then, and it is the same exactly if it has as many. The reader holds the *number* of rows
against the mirror; a run that lost one tag and gained another has a fresh row. See ``_changed_tags`` of
:mod:`.sqlite`, and ``_load_runs_table`` for runs, of which a row is all.

Rests on what the caller grants: a read transaction that is open from before :func:`look` until after it, in
rollback-journal mode, so that no page changes; and a memory that was written in the very transaction that ended the
last sync, when the mirror was what the pages were. Whatever is not as the format says it gives None, and the caller
compares every row. Knows nothing of MLflow or DuckDB. Closing any descriptor of the file drops this process's POSIX
locks on it, the transaction's too: the caller opens ``fd`` before the transaction and closes it after.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIGEST_BYTES = 16
_HEADER = b"SQLite format 3\0"
_LEAF, _INTERIOR = 0x0D, 0x05
_MAX_DEPTH = 20
"""SQLite's own limit (BTCURSOR_MAX_DEPTH): a deeper tree is a loop."""
_READ_BYTES = 4 << 20
"""Leaves that are held at a time, by each thread; a group may be longer."""
_GROUP_LEAVES = 16
"""In a group on average."""
_NO_DIGEST = bytes(DIGEST_BYTES)
_VARINT_BYTES = 9


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


def look(fd: int, root: int, schema: str, memory: bytes | None, *, threads: int = 1) -> Look | None:
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
            repr((2, file.page_bytes, file.usable_bytes, file.encoding, schema)).encode("utf-8", "surrogatepass")
        ).digest()[:DIGEST_BYTES]
        known = None
        if memory is not None and memory[:DIGEST_BYTES] == kind:
            known = _Known.of(memory[DIGEST_BYTES:])
        numbers, bounds = _leaves(file, root)
        parts = _in_parts(file, numbers, known, threads)
    except (_Odd, struct.error):
        logging.getLogger(__name__).warning(
            "the pages of the store's file are not as SQLite's format says: every row is compared"
        )
        return None
    fresh = [place for part in parts for place in part.fresh]
    return Look(
        memory=b"".join([kind, *(record for part in parts for record in part.remembered)]),
        known=known is not None, rows=sum(part.rows for part in parts), fresh=tuple(_ranges(fresh, bounds)),
        fresh_share=len(fresh) / len(numbers),
    )  # fmt: skip


class _Known:
    """A memory: of each group of leaves its digest, or none, and the digests of its leaves."""

    def __init__(self, groups: list[tuple[bytes, bytes]]) -> None:
        self._leaves = [leaves for _, leaves in groups]
        self.leaves_of = {group: leaves for group, leaves in groups if group != _NO_DIGEST}

    @classmethod
    def of(cls, memory: bytes) -> _Known | None:
        """None if it is not what :meth:`record` makes."""
        groups, at = list[tuple[bytes, bytes]](), 0
        while at + 4 <= len(memory):
            begin = at + 4 + DIGEST_BYTES
            end = begin + struct.unpack_from(">I", memory, at)[0] * DIGEST_BYTES
            groups.append((memory[at + 4 : begin], memory[begin:end]))
            at = end
        return cls(groups) if at == len(memory) else None

    @staticmethod
    def record(group: bytes, leaves: bytes) -> bytes:
        """How a group is remembered."""
        return struct.pack(">I", len(leaves) // DIGEST_BYTES) + group + leaves

    @functools.cached_property
    def leaves(self) -> frozenset[bytes]:
        """The digests of all leaves; of use only where some group is not what it was."""
        return frozenset(some[n : n + DIGEST_BYTES] for some in self._leaves for n in range(0, len(some), DIGEST_BYTES))


@dataclass(slots=True)
class _Part:
    """What was seen of some leaves; ``fresh`` are places in the order of rowids."""

    rows: int = 0
    remembered: list[bytes] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)


def _in_parts(file: _File, numbers: NDArray[np.int64], known: _Known | None, threads: int) -> list[_Part]:
    """Look at every leaf, in as many parts as there are threads."""
    edges = _edges(numbers)
    cuts = sorted({len(edges) - 1, *((len(edges) - 1) * n // threads for n in range(threads))})
    some = [edges[first : end + 1] for first, end in itertools.pairwise(cuts)]
    if len(some) == 1:
        return [_look_at(file, numbers, known, some[0])]
    with ThreadPoolExecutor(threads, "looks at pages") as pool:
        return list(pool.map(lambda mine: _look_at(file, numbers, known, mine), some))


def _edges(numbers: NDArray[np.int64]) -> list[int]:
    """Where groups of neighbours begin, and where the last one ends.

    The number of its last page says where a group ends: a leaf that comes in between changes its own group alone.
    """
    import numpy as np

    # Scattered by a multiplication, or pages whose numbers are alike would all be ends, or none.
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E37_79B1) & np.uint64(0xFFFF_FFFF)
    ends = np.flatnonzero(mixed < (1 << 32) // _GROUP_LEAVES) + 1
    found: list[int] = np.unique(np.concatenate([ends, [0, len(numbers)]])).tolist()
    return found


def _look_at(file: _File, numbers: NDArray[np.int64], known: _Known | None, edges: list[int]) -> _Part:
    """The groups between these edges."""
    part, size, sha256 = _Part(), file.page_bytes, hashlib.sha256
    for groups, pages in file.read(numbers, edges):
        part.rows += int(pages.counts.sum())
        begin, opened = groups[0], list[tuple[int, int, bytes]]()
        for first, end in itertools.pairwise(n - begin for n in groups):
            digest = sha256(pages.view[first * size : end * size]).digest()[:DIGEST_BYTES]
            leaves = known.leaves_of.get(digest) if known is not None else None
            if leaves is None:
                opened.append((first, end, digest))
            else:
                part.remembered.append(_Known.record(digest, leaves))
        digests = {
            n: sha256(pages.view[n * size : (n + 1) * size]).digest()[:DIGEST_BYTES]
            for first, end, _ in opened
            for n in range(first, end)
        }
        new = [n for n, digest in digests.items() if known is None or digest not in known.leaves]
        part.fresh += [begin + n for n in new]
        spilling = set(pages.spilling(new, file.usable_bytes))
        for first, end, digest in opened:
            held = [n for n in range(first, end) if n not in spilling]
            group = digest if len(held) == end - first else _NO_DIGEST
            part.remembered.append(_Known.record(group, b"".join([digests[n] for n in held])))
    return part


def _ranges(leaves: list[int], bounds: NDArray[np.int64]) -> Iterator[tuple[int | None, int | None]]:
    """Ranges of rowids of the leaves with these places in the order of rowids; neighbours in one."""
    for _, group in itertools.groupby(enumerate(leaves), lambda both: both[1] - both[0]):
        places = [place for _, place in group]
        first, last = places[0], places[-1]
        yield int(bounds[first - 1]) if first else None, int(bounds[last]) if last < len(bounds) else None


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
        if header[21:24] != b"\x40\x20\x20" or self.page_bytes & (self.page_bytes - 1) or self.usable_bytes < 480:
            raise _Odd

    def page(self, number: int) -> bytes:
        """One page. Page 1 begins with the file's header and is no table's but the schema's."""
        if number < 2:
            raise _Odd
        data = os.pread(self.fd, self.page_bytes, (number - 1) * self.page_bytes)
        if len(data) != self.page_bytes:
            raise _Odd
        return data

    def read(self, numbers: NDArray[np.int64], edges: list[int]) -> Iterator[tuple[list[int], _Pages]]:
        """Every leaf between these edges, whole groups at a time: their edges, and pages that the next step overwrites.

        Neighbours in the file in one read.
        """
        import numpy as np

        if numbers.min() < 2:
            raise _Odd
        size, at_once = self.page_bytes, max(_READ_BYTES // self.page_bytes, 1)
        some: list[list[int]] = [[edges[0]]]
        for edge in edges[1:]:
            if len(some[-1]) > 1 and edge - some[-1][0] > at_once:
                some.append(some[-1][-1:])
            some[-1].append(edge)
        data = bytearray(max(groups[-1] - groups[0] for groups in some) * size + _VARINT_BYTES)
        view = memoryview(data)
        for groups in some:
            mine = numbers[groups[0] : groups[-1]]
            starts = [0, *(np.flatnonzero(np.diff(mine) != 1) + 1).tolist()]
            places = ((mine[starts] - 1) * size).tolist()
            for first, end, place in zip(starts, [*starts[1:], len(mine)], places, strict=True):
                part = view[first * size : end * size]
                if os.preadv(self.fd, [part], place) != len(part):
                    raise _Odd
            yield groups, _Pages(data, len(mine), size)


class _Pages:
    """Leaf pages, one behind the other; ``data`` is longer by a varint, so that none is read beyond its end."""

    def __init__(self, data: bytearray, count: int, size: int) -> None:
        import numpy as np

        self.size = size
        self.view = memoryview(data)[: count * size]
        self._raw = np.frombuffer(data, np.uint8)
        pages = self._raw[: len(self.view)].reshape(-1, size)
        if (pages[:, 0] != _LEAF).any():
            raise _Odd
        self.counts = pages[:, 3].astype(np.int64) << 8 | pages[:, 4]
        """Cells of each page, a row each."""
        if (8 + 2 * self.counts > size).any():
            raise _Odd

    def spilling(self, which: list[int], usable_bytes: int) -> list[int]:
        """Those of ``which`` with a cell whose payload does not fit the page; it then goes on elsewhere."""
        import numpy as np

        pages = np.array(which, np.int64)
        counts = self.counts[pages]
        owners = np.repeat(pages, counts)
        nth = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        pointers = owners * self.size + 8 + 2 * nth
        offsets = self._raw[pointers].astype(np.int64) << 8 | self._raw[pointers + 1]
        if (offsets >= self.size).any():
            raise _Odd
        cells = owners * self.size + offsets
        # A length below 128 is one byte, and never spills.
        long = self._raw[cells] >= 0x80
        owners, cells = owners[long], cells[long]
        lengths, ends = _varints(self._raw, cells)
        if (ends > (owners + 1) * self.size).any():
            raise _Odd
        # A negative length is one beyond 2^63.
        found: list[int] = np.unique(owners[(lengths > usable_bytes - 35) | (lengths < 0)]).tolist()
        return found


def _leaves(file: _File, root: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The leaves of a table's b-tree from the lowest rowid to the highest, and the highest rowid of each but the last.

    Level by level from the root: all leaves are equally deep, and each is looked at when it is read.
    """
    import numpy as np

    numbers, bounds = np.array([root], np.int64), np.array([], np.int64)
    seen = numbers
    for _ in range(_MAX_DEPTH):
        if file.page(int(numbers[0]))[0] == _LEAF:
            return numbers, bounds
        found: list[NDArray[np.int64]] = []
        keys: list[NDArray[np.int64]] = []
        for place, number in enumerate(numbers.tolist()):
            children, highest = _children(file.page(number))
            found.append(children)
            keys += [highest, bounds[place : place + 1]]
        numbers, bounds = np.concatenate(found), np.concatenate(keys)
        seen = np.concatenate([seen, numbers])
        if len(np.unique(seen)) != len(seen) or (bounds[1:] <= bounds[:-1]).any():
            raise _Odd
    raise _Odd


def _children(page: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The children of an interior page, and the highest rowid of each but the last: a cell is a page and its rowid."""
    import numpy as np

    if page[0] != _INTERIOR:
        raise _Odd
    cells, last = struct.unpack_from(">H", page, 3)[0], struct.unpack_from(">I", page, 8)[0]
    if 12 + 2 * cells > len(page):
        raise _Odd
    raw = np.frombuffer(page + bytes(4 + _VARINT_BYTES), np.uint8)
    at = np.frombuffer(page, ">u2", cells, 12).astype(np.int64)
    if (at >= len(page)).any():
        raise _Odd
    numbers = raw[at[:, None] + np.arange(4)].astype(np.int64) @ np.array([1 << 24, 1 << 16, 1 << 8, 1])
    keys, ends = _varints(raw, at + 4)
    if (ends > len(page)).any():
        raise _Odd
    return np.append(numbers, last), keys


def _varints(raw: NDArray[np.uint8], at: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The big-endian integers of up to nine bytes that begin there, and where they end; a ninth byte counts whole."""
    import numpy as np

    data = raw[at[:, None] + np.arange(_VARINT_BYTES)].astype(np.uint64)
    more = np.cumprod(data[:, :8] >= 0x80, axis=1).sum(axis=1)
    values = np.zeros(len(at), np.uint64)
    for n in range(8):
        values = np.where(more >= n, values << np.uint64(7) | data[:, n] & np.uint64(0x7F), values)
    values = np.where(more == 8, values << np.uint64(8) | data[:, 8], values)
    return values.view(np.int64), at + more + 1
