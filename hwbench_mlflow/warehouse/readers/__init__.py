"""How a store's rows reach the stage: one contract, one module for each kind of store.

A reader loads whole tables, or all rows of chosen runs, into the :class:`~hwbench_mlflow.warehouse.stage.Stage`;
it decides nothing about what changed. It reads in one consistent snapshot where the store has such a thing, closes
the store before anything is written to the warehouse, and never writes to the store.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from hwbench_mlflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hwbench_mlflow.warehouse.stage import Stage


class Mode(StrEnum):
    """How much of the store is compared.

    ``DEFAULT`` relies on what MLflow never does (change a param or a recorded point) and catches everything it
    does. ``FULL`` relies on nothing. ``FAST`` also trusts that no tag was edited in place since the last sync, and over
    REST, where tags come anyway, that no point was logged late at a lower step.
    """

    DEFAULT = "default"
    FULL = "full"
    FAST = "fast"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreState:
    """What a finished sync remembers of the store, so that the next can read less.

    ``marks`` is ``[highest rowid, rows]`` for each append-only table; ``file`` identifies the content:
    of a SQLite file ``[device, inode, size, mtime_ns, change counter]``, of a PostgreSQL cluster ``[system identifier,
    database, timeline, position of the write-ahead log]``. ``fast``: it was a sync that trusts more than the default
    one does, so the same content may hold a change that it did not look for. ``memory`` is the reader's own, too big
    for text; it may be relied on only if the mirror is still what this very sync made it, and is None otherwise.
    """

    kind: str
    revision: str | None = None
    file: tuple[int, ...] = ()
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)
    fast: bool = False
    memory: bytes | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> str:
        """Stable text for ``mlflow.sync_state``, without the memory."""
        data = asdict(self)
        del data["memory"]
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, memory: bytes | None = None) -> StoreState | None:
        """None for anything this version did not write: the next sync then reads everything."""
        try:
            data = json.loads(text)
            return cls(
                kind=data["kind"],
                revision=data["revision"],
                file=tuple(data["file"]),
                marks={k: (v[0], v[1]) for k, v in data["marks"].items()},
                fast=data["fast"] is not False,
                memory=memory,
            )
        except (ValueError, KeyError, TypeError, IndexError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to read. ``previous`` is None when nothing can be relied on; ``experiments`` empty means all.

    ``remember`` asks for :attr:`StoreState.memory`: not worth its time where nothing is going to be kept.
    """

    mode: Mode = Mode.DEFAULT
    experiments: tuple[str, ...] = ()
    previous: StoreState | None = None
    remember: bool = True


class Reader(Protocol):
    """One store, opened for reading."""

    kind: str
    store: str
    """The store's identity, without passwords; a warehouse mirrors exactly one."""
    snapshot: bool
    """:meth:`read` sees one moment of the store: a row that it loaded is never taken back."""

    def written_since(self, moment_ns: int) -> bool:
        """True if the store seems to have been written to after a moment (in ns since 1970); False if in doubt.

        Only says which way to ask is the shorter one: a clock may be wrong.
        """
        ...

    def unchanged(self, previous: StoreState) -> bool:
        """True only if the store is known to hold what it held then; False when it cannot be told."""
        ...

    def read(self, stage: Stage, request: Request) -> StoreState:
        """Fill the stage in one snapshot and return what to remember. Raises :class:`StoreError`."""
        ...

    def confirm_gone(self, run_ids: Sequence[str]) -> set[str]:
        """Which of the runs that were not seen the store says do not exist (any more)."""
        ...


KNOWN_REVISIONS = frozenset(
    # Every alembic revision from MLflow 2.0's (97727af70f4d, experiment times) to 3.17's: the seven tables that we
    # read kept their columns through all of them, except that experiments.workspace came with 1b5f0d9ad7c1.
    """
    97727af70f4d 3500859a5d39 7f2a7d5fae7d 2d6e25af4d3e acf3f17fdcc7 867495a8f9d4 5b0e9adcef9c 4465047574b1
    f5a4f2784254 0584bdc529eb 400f98739977 6953534de441 bda7b8c39065 cbc13b556ace 770bee3ae1dd a1b2c3d4e5f6
    de4033877273 1a0cddfcaa16 534353b11cbc 71994744cf8e 3da73c924c2f bf29a5ff90ea 1bd49d398cd23 b7c8d9e0f1a2
    5d2d30f0abce c9d4e5f6a7b8 2c33131f4dae d3e4f5a6b7c8 d0e1f2a3b4c5 c8d9e0f1a2b3 1b5f0d9ad7c1 e1f2a3b4c5d6
    76601a5f987d c3d6457b6d8a a5b4c3d2e1f0 ae8bbe7743c9 7d34483879f0 da6fb0208061 89d3d66ed43f b7e4c1a90f23
    a8b9c0d1e2f3 c1d2e3f4a5b6 c3d9e7f1a2b4 6f8d9c3b2a1e 1971f2d9a75b 17e22815139b b7e2c1a4d9f3 75868b020152
    dc11669786a5
    """.split()  # noqa: SIM905 -- fifty lines of quotes would be no clearer
)


def check_revision(store: str, revision: str | None) -> str:
    """The revision if we know its tables; otherwise a :class:`StoreError` that says what to do."""
    if revision is None:
        raise StoreError(f"{store} is not an MLflow tracking store (no alembic_version)")
    if revision not in KNOWN_REVISIONS:
        raise StoreError(
            f"{store} has schema revision {revision}, which this hwbench does not know",
            remedy="upgrade hwbench, or start `mlflow server` on this store and sync from its URL (--via rest)",
        )
    return revision
