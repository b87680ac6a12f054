"""The warehouse under a gate: one writer from the first look to the publication, so that nothing changes in between.

What the command line composes with the suites; DuckDB's errors become hwbench's here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench_mlflow.attest import Keyring
from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.rules import Outcome
from hwbench_mlflow.warehouse import audit, database
from hwbench_mlflow.warehouse.memory import Memory, code_digest
from hwbench_mlflow.warehouse.publish import Counts, Publication, publish
from hwbench_mlflow.warehouse.rederive import Rederived, rederive

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection


@dataclass(slots=True)
class Gated:
    """A warehouse that nobody else writes while it is looked at. Made by :func:`open_gated`."""

    path: Path
    connection: DuckDBPyConnection = field(repr=False)

    def schema(self) -> Outcome:
        """Whether its tables are hwbench's; if not, nothing else can be asked."""
        return audit.schema(self.connection, self.path)

    def rederive(
        self, keyring: Keyring, progress: Callable[[int, int], None], memory_key: bytes | None = None
    ) -> Rederived:
        """Every result judged again from the evidence that is kept; with a key, those that changed since a gate that
        had it."""
        code = code_digest() if memory_key is not None else None
        memory = None
        if memory_key is not None and code is not None:
            memory = Memory(memory_key, keyring, code)
        return rederive(self.connection, keyring, progress, memory)

    def audit(self, now: datetime, max_age: timedelta | None) -> list[Outcome]:
        """The rules across rows and tables."""
        return audit.audit(self.connection, now, max_age=max_age)

    def frames(self, table: str, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """What a suite looks at."""
        return audit.frames(self.connection, table, columns)

    def quarantine(self, outcomes: Sequence[Outcome]) -> list[tuple[str, str, str]]:
        """``(run, rule, reason)`` for every run that a row of a failed rule belongs to."""
        found = []
        for outcome in outcomes:
            runs = audit.runs_of(self.connection, outcome.table, [key for key, _ in outcome.refused])
            found += [(run, outcome.rule, reason) for key, reason in outcome.refused for run in runs[key]]
        return found

    def record(self, gate_id: str, gated_at: datetime, outcomes: Sequence[Outcome]) -> None:
        """Keep what was found, in ``gate_results``."""
        audit.record(self.connection, gate_id, gated_at, outcomes)

    def publish(self, path: Path, what: Publication) -> Counts:
        """Write the published file. Raises Refused."""
        return publish(self.connection, path, what)


@contextmanager
def open_gated(db: Path, say: Callable[[str], None] = lambda _: None) -> Iterator[Gated]:
    """Open a warehouse for a gate. Raises StoreError for none, one of another version, or one that is in use."""
    import duckdb

    try:
        with database.reader(db):  # says what is wrong with it before anything is migrated or made
            pass
        with database.writer(db, say=say) as connection:
            yield Gated(db, connection)
    except duckdb.Error as error:
        raise StoreError(*database.explain(db, error)) from error
