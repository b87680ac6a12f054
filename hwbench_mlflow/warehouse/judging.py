"""Judging many runs: their evidence as Arrow tables in, the rows of the star schema as Arrow tables out.

Judging is Python's own work, so more than one core needs more than one process. Bytes go over sockets to a Python that
runs :func:`main`: no pickle, nothing of the parent's is imported again, and no torch. It imports once and forks the
others, while it has no thread. Few runs are judged here, where no process has to start.
Knows no DuckDB. What a process judged and what was judged here is the same function of the same bytes; a process that
dies is an error, never a gap.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import os
import signal
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from hwbench_mlflow.attest import CheckedAhead, Checking, Keyring, Revocation, TrustedKey
from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.evidence import ATTESTATION_FILE, BINDING_FILE, RunIndex
from hwbench_mlflow.warehouse.results import Case, Row, Rows, rows_of

if TYPE_CHECKING:
    import pyarrow as pa

POOL_RUNS = 1500
"""A process is up after about half a second of a core: fewer runs than this are sooner judged here."""
MAX_PROCESSES = 4
PIECE_RUNS = 250
"""Runs that one process is asked about at a time: few, so that none of them waits long for the last to end."""
AHEAD_PIECES = 3
"""Pieces a process that are unanswered while the next work is read, so that none waits for it."""
FORKS = sys.platform == "linux"
"""Elsewhere a system's own libraries may not outlive a fork: each process imports for itself."""

FIELDS = {
    "performance_results": "results", "verdict_findings": "findings", "evidence_files": "files",
    "models": "models", "hardware_platforms": "hardware", "hardware_availability_log": "probes",
    "estimates": "estimates", "rooflines": "rooflines",
    "nested": "samples",
}  # fmt: skip
"""Table -> the field of :class:`.results.Rows` that holds its rows; ``benchmark_runs`` has one of each run."""

_LENGTH = struct.Struct(">Q")

_START = "import gc; gc.disable(); from hwbench_mlflow.warehouse.judging import main; main()"
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
"""numpy's BLAS starts a thread a core, which spins for the first tenth of a second; nothing here needs it."""


class JudgeDied(StoreError):
    """A process that judged is gone: nothing is known of the runs it had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What every run is judged by. ``keep_content``: rows of ``evidence_files`` carry the files themselves.

    ``kept_only``: the files are those that the warehouse kept, of which one that is not what was kept spoils all.
    """

    keyring: Keyring
    schemas: Mapping[str, pa.Schema]
    keep_content: bool
    kept_only: bool


def cases_of(work: pa.Table) -> list[Case]:
    """The runs of a table made by :func:`.cases.load_work`, as they are judged."""
    plain = {name: work.column(name).to_pylist() for name in work.column_names if name not in _NESTED}
    params, tags = _texts(work, "params"), _texts(work, "tags")
    points = _entries(work, "points")
    cases = []
    for n, run_id in enumerate(plain["run_id"]):
        metrics = {key: [value] for key, value in points[n]}
        if len(metrics) < len(points[n]):
            metrics = _grouped(points[n])
        cases.append(
            Case(
                run_id=run_id, role=plain["role"][n], fingerprint=plain["fingerprint"][n],
                experiment_id=plain["experiment_id"][n], deleted=plain["deleted"][n],
                artifact_uri=plain["artifact_uri"][n],
                index=RunIndex(
                    run_id=run_id, status=plain["status"][n], params=params[n], tags=tags[n], metrics=metrics
                ),
            )
        )  # fmt: skip
    return cases


def _grouped(points: Sequence[tuple[str, float]]) -> dict[str, list[float]]:
    metrics: dict[str, list[float]] = {}
    for key, value in points:
        metrics.setdefault(key, []).append(value)
    for values in metrics.values():
        values.sort(key=lambda value: (math.isnan(value), value))
    return metrics


_NESTED = ("params", "tags", "points", "files")
ENVELOPE_FILES = frozenset({ATTESTATION_FILE, BINDING_FILE})


def _entries(work: pa.Table, name: str) -> list[list[tuple[Any, ...]]]:
    """A column of lists of structs, as a list of tuples a run."""
    column = work.column(name).combine_chunks()
    offsets = column.offsets.to_numpy().tolist()
    fields = [_objects(column.values.field(n)) for n in range(column.type.value_type.num_fields)]
    rows = list(zip(*fields, strict=True))
    return [rows[begin:end] for begin, end in itertools.pairwise(offsets)]


def _objects(array: pa.Array) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_string(array.type):  # a thousand runs say the same few names: each becomes one object
        words = array.dictionary_encode(null_encoding="encode")
        array = words.dictionary.to_numpy(zero_copy_only=False)[words.indices.to_numpy()]
    else:
        array = array.to_numpy(zero_copy_only=False)
    values: list[Any] = array.tolist()
    return values


def _texts(work: pa.Table, name: str) -> list[dict[str, str]]:
    return [dict(pairs) for pairs in _entries(work, name)]


def judged(work: pa.Table, terms: Terms) -> list[tuple[Case, Rows]]:
    """The rows of every run of ``work``, in its order. Never raises for bad evidence."""
    cases, files = cases_of(work), _entries(work, "files")
    judges = work.column("judged_by").to_pylist()
    unreachable = work.column("unreachable").to_pylist()
    envelopes = (content for found in files for name, _, content in found if name in ENVELOPE_FILES)
    checking = CheckedAhead(envelopes, terms.keyring).check
    return [
        (case, _rows(case, found, why, terms, judge, checking))
        for case, found, why, judge in zip(cases, files, unreachable, judges, strict=True)
    ]


def _rows(  # noqa: PLR0917 -- one caller, a few lines above
    case: Case,
    found: Sequence[tuple[str, str, bytes]],
    why: str | None,
    terms: Terms,
    judge: str,
    checking: Checking,
) -> Rows:
    files = {name: content for name, _, content in found}
    rows = rows_of(case, files if why is None else why, terms.keyring, judge, checking)
    if terms.kept_only and _spoilt(found, rows.files):
        rows = rows_of(case, {}, terms.keyring, judge)
    if not terms.keep_content:
        for row in rows.files:
            row["content"] = b""
    return rows


def _spoilt(found: Sequence[tuple[str, str, bytes]], made: Sequence[Row]) -> bool:
    """Whether a file is not the one that its digest was kept with, or is there twice."""
    digests = {row["name"]: row["sha256"] for row in made}
    return any(digests.get(name, digest) != digest for name, digest, _ in found) or (
        bool(digests) and len(digests) != len(found)
    )


def tables_of(rows: Sequence[Rows], schemas: Mapping[str, pa.Schema]) -> dict[str, pa.Table]:
    """The rows of many runs, a table each. Raises what pyarrow does for a value that a column cannot hold."""
    made = {
        table: _table([row for one in rows for row in getattr(one, attribute)], schemas[table])
        for table, attribute in FIELDS.items()
    }
    made["benchmark_runs"] = _table([one.run for one in rows], schemas["benchmark_runs"])
    return made


def _table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """What ``pa.Table.from_pylist`` makes, in half the time: rows of one table have the same columns in one order."""
    import pyarrow as pa

    names = tuple(rows[0]) if rows else ()
    if not all(tuple(row) == names for row in rows):
        return pa.Table.from_pylist(rows, schema)
    columns = dict(zip(names, zip(*(row.values() for row in rows), strict=True), strict=True))
    nothing = (None,) * len(rows)
    return pa.Table.from_arrays([pa.array(columns.get(f.name, nothing), f.type) for f in schema], schema=schema)


# --- Processes ----------------------------------------------------------------------------------


class Judges:
    """Processes that judge, as many as there are cores. A context: they end with it.

    ``terms`` may be how to come by them: they are asked for while the processes start.
    """

    def __init__(self, terms: Terms | Callable[[], Terms], count: int | None = None) -> None:
        self._terms = terms
        self._count = count or processes()
        self._idle: deque[_Judge] = deque()
        self._all: list[_Judge] = []
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="hwbench-judge")

    def __enter__(self) -> Judges:
        for share in (self._count,) if FORKS else (1,) * self._count:
            pairs = [socket.socketpair() for _ in range(share)]
            theirs = [other.fileno() for _, other in pairs]
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, *map(str, theirs)], env=os.environ | _ENVIRONMENT,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=theirs, process_group=0,
            )  # fmt: skip
            for ours, other in pairs:
                other.close()
                self._all.append(_Judge(process, ours))
        self._idle.extend(self._all)
        try:
            setup = _write_terms(_said(self._terms))
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        for judge in self._all:
            with contextlib.suppress(OSError):  # it is dead already: whoever asks it first says so
                _send(judge.channel, setup)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for judge in self._all:
                judge.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for judge in self._all:
            judge.channel.close()
        for judge in self._all:
            judge.process.wait()

    def judge(self, works: Iterable[pa.Table]) -> Iterator[tuple[pa.Table, dict[str, pa.Table] | None]]:
        """Each work with its tables, in order; None where a value fits no column. Raises :class:`JudgeDied`.

        ``works`` is drawn from in the caller's thread, somewhat ahead of the processes.
        """
        waiting: deque[tuple[pa.Table, list[Future[bytearray]]]] = deque()
        for work in works:
            waiting.append((work, [self._threads.submit(self._ask, piece) for piece in _pieces(work)]))
            while len(open_ := [f for _, answers in waiting for f in answers if not f.done()]) > (
                AHEAD_PIECES * self._count
            ):
                wait(open_[:1])
            while waiting and all(f.done() for f in waiting[0][1]):
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)

    @staticmethod
    def _next(
        waiting: deque[tuple[pa.Table, list[Future[bytearray]]]],
    ) -> tuple[pa.Table, dict[str, pa.Table] | None]:
        work, answers = waiting.popleft()
        return work, _joined([_read_tables(answer.result()) for answer in answers])

    def _ask(self, work: pa.Table) -> bytearray:
        judge = self._idle.popleft()
        try:
            _send(judge.channel, _to_ipc(work))
            answer = _receive(judge.channel)
        except OSError:
            answer = None
        if answer is None:
            code = judge.process.wait()
            raise JudgeDied(f"a process that judged results died (exit status {code}): nothing is known of its runs")
        self._idle.append(judge)
        return answer


@dataclass(frozen=True, slots=True)
class _Judge:
    """One process that judges, by its socket. ``process`` is its own, or the one that forked it and ends with it."""

    process: subprocess.Popen[bytes]
    channel: socket.socket

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # the whole group is gone
            os.killpg(self.process.pid, signal.SIGKILL)


def _pieces(work: pa.Table) -> list[pa.Table]:
    return [work.slice(begin, PIECE_RUNS) for begin in range(0, max(work.num_rows, 1), PIECE_RUNS)]


def _joined(pieces: Sequence[dict[str, pa.Table] | None]) -> dict[str, pa.Table] | None:
    import pyarrow as pa

    made = [piece for piece in pieces if piece is not None]
    if len(made) < len(pieces):
        return None
    return {table: pa.concat_tables([piece[table] for piece in made]) for table in made[0]}


class Here:
    """Nobody else: this process judges."""

    def __init__(self, terms: Terms | Callable[[], Terms]) -> None:
        self._terms = _said(terms)

    def judge(self, works: Iterable[pa.Table]) -> Iterator[tuple[pa.Table, dict[str, pa.Table] | None]]:
        """Each work with its tables, in order; None where a value fits no column."""
        for work in works:
            yield work, _tables(judged(work, self._terms), self._terms)


def _said(terms: Terms | Callable[[], Terms]) -> Terms:
    return terms if isinstance(terms, Terms) else terms()


@contextlib.contextmanager
def judges(terms: Terms | Callable[[], Terms], runs: int) -> Iterator[Judges | Here]:
    """Who judges that many runs: other processes where they pay."""
    if runs < POOL_RUNS or processes() < 2:
        yield Here(terms)
        return
    with Judges(terms) as several:
        yield several


def processes() -> int:
    """How many processes judge: one a core that this one may use, at most ``MAX_PROCESSES``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_PROCESSES)


def main() -> NoReturn:
    """Processes that judge, one for each socket that this one was given as a number in ``sys.argv``."""
    import pyarrow  # noqa: F401 -- once, before there is more than one process

    os.dup2(2, 1)
    channels = [socket.socket(fileno=int(number)) for number in sys.argv[1:]]
    # Rows are trees: looking for cycles among a thousand runs' of them, again and again, took a tenth of the time.
    gc.disable()
    gc.freeze()
    if len(channels) == 1:
        _serve(channels[0])
        _end(0)
    forked: set[int] = set()
    for channel in channels:
        child = os.fork()
        if child == 0:
            for other in channels:
                if other is not channel:
                    other.close()  # else the end of one would not be seen while another lives
            _serve(channel)
            _end(0)
        forked.add(child)
    for channel in channels:
        channel.close()
    failed = 0
    while forked:
        ended, status = os.wait()
        forked.discard(ended)
        code = os.waitstatus_to_exitcode(status)
        if code != 0 and failed == 0:
            failed = code if code > 0 else 128 - code
            for other_id in forked:  # who asks this process what happened waits for it to end
                os.kill(other_id, signal.SIGKILL)
    _end(failed)


def _end(status: int) -> NoReturn:
    """End at once: taking a whole Python apart, object by object, is as much work as fifty verdicts."""
    sys.stderr.flush()
    os._exit(status)


def _serve(channel: socket.socket) -> None:
    """Terms, then work after work until nobody asks."""
    setup = _receive(channel)
    if setup is None:
        return
    terms = _read_terms(setup)
    while (data := _receive(channel)) is not None:
        _send(channel, _write_tables(judged(_from_ipc(data), terms), terms))
        del data
        gc.collect()


def _tables(rows: Sequence[tuple[Case, Rows]], terms: Terms) -> dict[str, pa.Table] | None:
    """None where a value fits no column: who inserts the rows finds out whose it is."""
    import pyarrow as pa

    try:
        return tables_of([one for _, one in rows], terms.schemas)
    except (pa.ArrowException, OverflowError):
        return None


def _write_tables(rows: Sequence[tuple[Case, Rows]], terms: Terms) -> bytes:
    tables = _tables(rows, terms)
    return b"" if tables is None else msgspec.msgpack.encode({name: _to_ipc(table) for name, table in tables.items()})


def _read_tables(data: bytes | bytearray) -> dict[str, pa.Table] | None:
    if not data:
        return None
    return {name: _from_ipc(one) for name, one in msgspec.msgpack.decode(data, type=dict[str, memoryview]).items()}


class _Setup(msgspec.Struct):
    """:class:`Terms` as bytes. ``keys`` are public: id, name, host, when it was added, the 32 bytes."""

    keys: dict[str, tuple[str, str, str | None, str | None, bytes]]
    revoked: dict[str, tuple[str, str, str | None]]
    schemas: dict[str, bytes]
    keep_content: bool
    kept_only: bool


def _write_terms(terms: Terms) -> bytes:
    ring = terms.keyring
    return msgspec.msgpack.encode(
        _Setup(
            keys={name: (k.keyid, k.name, k.host, k.added_at, k.public) for name, k in ring.keys.items()},
            revoked={name: (r.keyid, r.revoked_at, r.reason) for name, r in ring.revoked.items()},
            schemas={name: schema.serialize().to_pybytes() for name, schema in terms.schemas.items()},
            keep_content=terms.keep_content, kept_only=terms.kept_only,
        )
    )  # fmt: skip


def _read_terms(data: bytes | bytearray) -> Terms:
    import pyarrow as pa

    found = msgspec.msgpack.decode(data, type=_Setup)
    keyring = Keyring(
        {
            name: TrustedKey(keyid=k, name=called, host=host, added_at=at, public=public)
            for name, (k, called, host, at, public) in found.keys.items()
        },
        {name: Revocation(keyid=k, revoked_at=at, reason=why) for name, (k, at, why) in found.revoked.items()},
    )
    schemas = {name: pa.ipc.read_schema(pa.py_buffer(data)) for name, data in found.schemas.items()}
    return Terms(keyring=keyring, schemas=schemas, keep_content=found.keep_content, kept_only=found.kept_only)


def _to_ipc(table: pa.Table) -> memoryview:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def _from_ipc(data: bytes | bytearray | memoryview) -> pa.Table:
    import pyarrow as pa

    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_all()


def _send(channel: socket.socket, data: bytes | memoryview) -> None:
    channel.sendall(_LENGTH.pack(len(data)))
    channel.sendall(data)


def _receive(channel: socket.socket) -> bytearray | None:
    """The next message; None where the channel ends before it is whole."""
    head = _exactly(channel, _LENGTH.size)
    return None if head is None else _exactly(channel, _LENGTH.unpack(head)[0])


def _exactly(channel: socket.socket, length: int) -> bytearray | None:
    data = bytearray(length)
    rest = memoryview(data)
    while rest:
        got = channel.recv_into(rest, flags=socket.MSG_WAITALL)
        if got == 0:
            return None
        rest = rest[got:]
    return data
