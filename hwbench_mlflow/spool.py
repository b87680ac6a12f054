"""Results that wait for their tracking store: a folder of this user's, written before anything is sent.

Owns the folder ``spool/`` under hwbench's home and what its files mean. Knows no store. Of each entry there are

    ``ID.place.json``   where it belongs: store, experiment, run, parent (mode 0600: an address may hold a password)
    ``ID.json``         the result, as ``hwbench run --out`` writes it; or ``ID.failure.json``, why there is none;
                        or ``ID.end.json``, the end of the run that holds others

The place is written first and the result last, and an entry is there once its result is: a process that is killed
between the two has queued nothing. Delivery removes the result first. One process at a time delivers: there is a lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import filelock

from hwbench_mlflow.bundle import read_bundle, write_bundle
from hwbench_mlflow.codec import decode, encode
from hwbench_mlflow.errors import CorruptEvidence, StoreError
from hwbench_mlflow.home import default_home
from hwbench_mlflow.model import Failure

SPOOL_VERSION = 1
RESERVE_BYTES = 16 * 1024 * 1024
"""Kept free for results while a batch runs: a disk that is full in the middle must not cost one."""

PLACE, RESULT, FAILURE, END, PLAN = ".place.json", ".json", ".failure.json", ".end.json", ".plan"
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentPlace:
    """The run that holds others. ``run_id`` is None while no store has it: then ``attempt`` finds or makes it, and
    its plan may be in the spool (``ATTEMPT.plan``, once, however many entries it has)."""

    attempt: str
    name: str
    started_ms: int
    run_id: str | None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an entry belongs. ``attempt`` is drawn before anything is sent, and is a tag of the run: whoever
    delivers finds by it what an earlier, broken delivery has made. Times are ms since the epoch.

    ``lease`` names the process that runs the batch, where that is another machine's: an attempt that it has given up,
    or that is of a batch which another process has gone on with since, was measured again, and is not delivered late.
    """

    spool_version: int
    attempt: str
    tracking_uri: str
    experiment: str | None
    name: str
    started_ms: int
    run_id: str | None = None
    killed: bool = False
    lease: str | None = None
    parent: ParentPlace | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentEnd:
    """The end of the run that holds others: of so many configurations, so many have no result."""

    configurations: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that waits: evidence files, a failure, or the end of a parent. Two of them are None."""

    place: Place
    files: Mapping[str, bytes] | None = None
    failure: Failure | None = None
    end: ParentEnd | None = None


def folder(home: Path | None = None) -> Path:
    """Where entries are; it need not exist."""
    return (home or default_home()) / "spool"


class Spool:
    """The queue of one home folder."""

    def __init__(self, home: Path | None = None) -> None:
        self.folder = folder(home)

    def put(self, place: Place, files: Mapping[str, bytes]) -> Path:
        """Queue a result; the file that holds it. On a full disk the reserve is given up for it.

        Raises StoreError where it cannot be kept.
        """
        result = self._path(place.attempt, RESULT)

        def write() -> None:
            self._write_place(place)
            write_bundle(result, files)

        self._with_reserve(write)
        return result

    def put_failure(self, place: Place, failure: Failure) -> None:
        """Queue the reason why a run has no result."""
        self._put(place, FAILURE, failure)

    def put_end(self, place: Place, end: ParentEnd) -> None:
        """Queue the end of the place's parent."""
        self._put(place, END, end)

    def _put(self, place: Place, suffix: str, what: Failure | ParentEnd) -> None:
        def write() -> None:
            self._write_place(place)
            _replace(self._path(place.attempt, suffix), encode(what))

        self._with_reserve(write)

    def put_plan(self, parent: str, plan: bytes) -> None:
        """Keep the plan of a parent until the store has it."""
        self._with_reserve(lambda: _replace(self._path(parent, PLAN), plan))

    def plan(self, parent: str) -> bytes | None:
        """The plan of a parent, while it is here."""
        try:
            return self._path(parent, PLAN).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CorruptEvidence(f"the plan of {parent} cannot be read: {error.strerror or error}") from error

    def remove_plan(self, parent: str) -> None:
        """The store has it, or nobody will ask for it."""
        self._path(parent, PLAN).unlink(missing_ok=True)

    def has(self, attempt: str) -> bool:
        """Whether an entry is queued."""
        return any(self._path(attempt, suffix).exists() for suffix in (RESULT, FAILURE, END))

    def remove(self, attempt: str) -> None:
        """The entry was delivered. Its result goes first: what is left of a broken removal is no entry."""
        try:
            for suffix in (RESULT, FAILURE, END, PLACE):
                self._path(attempt, suffix).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove {attempt} from {self.folder}: {error.strerror or error}") from error

    def waiting(self) -> list[str]:
        """The attempts that are queued, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.glob("*.json") if not path.name.endswith(PLACE)]
        whole = [(path.stat().st_mtime_ns, path.name.partition(".")[0]) for path in found]
        return [attempt for _, attempt in sorted(whole) if _ID.fullmatch(attempt)]

    def read(self, attempt: str) -> Entry:
        """An entry. Raises CorruptEvidence where its files are not what :meth:`put` wrote."""
        place = self.place(attempt)
        failure, end = self._path(attempt, FAILURE), self._path(attempt, END)
        try:
            if failure.exists():
                return Entry(place=place, failure=decode(failure.read_bytes(), Failure))
            if end.exists():
                return Entry(place=place, end=decode(end.read_bytes(), ParentEnd))
        except OSError as error:
            raise CorruptEvidence(f"{attempt} cannot be read: {error.strerror or error}") from error
        return Entry(place=place, files=read_bundle(self._path(attempt, RESULT)))

    def place(self, attempt: str) -> Place:
        """Where an entry belongs. Raises CorruptEvidence."""
        try:
            return decode(self._path(attempt, PLACE).read_bytes(), Place)
        except OSError as error:
            raise CorruptEvidence(f"{self._path(attempt, PLACE)} cannot be read: {error.strerror or error}") from error

    @contextlib.contextmanager
    def delivering(self) -> Iterator[None]:
        """Hold the right to deliver what waits: two processes must not make two runs of one entry."""
        self._make_folder()
        with filelock.FileLock(self.folder / "deliver.lock"):
            yield

    @contextlib.contextmanager
    def reserving(self) -> Iterator[None]:
        """Keep room for results while the block runs. Raises StoreError where there is none to begin with."""
        reserve = self.folder / f"reserve-{os.getpid()}"
        self._make_folder()
        try:
            with reserve.open("wb") as stream:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(stream.fileno(), 0, RESERVE_BYTES)
                else:
                    stream.write(bytes(RESERVE_BYTES))
        except OSError as error:
            reserve.unlink(missing_ok=True)
            raise StoreError(
                f"no room for results in {self.folder}: {error.strerror or error}",
                remedy="Free some, or set HWBENCH_HOME",
            ) from error
        try:
            yield
        finally:
            reserve.unlink(missing_ok=True)

    def _with_reserve(self, write: Callable[[], object]) -> None:
        self._make_folder()
        try:
            write()
        except StoreError as error:
            reserve = self.folder / f"reserve-{os.getpid()}"
            full = isinstance(error.__cause__, OSError) and error.__cause__.errno in {errno.ENOSPC, errno.EDQUOT}
            if not full or not reserve.exists():
                raise
            reserve.unlink()
            write()

    def _write_place(self, place: Place) -> None:
        _replace(self._path(place.attempt, PLACE), encode(place))

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreError(f"cannot make {self.folder}: {error.strerror or error}") from error

    def _path(self, attempt: str, suffix: str) -> Path:
        assert _ID.fullmatch(attempt), attempt
        return self.folder / f"{attempt}{suffix}"


def _replace(path: Path, data: bytes) -> None:
    """Whole or absent, readable by its owner alone. Raises StoreError."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as stream:
            try:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            except OSError:
                os.unlink(stream.name)
                raise
        os.replace(stream.name, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
