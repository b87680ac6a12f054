"""Reading ahead: a thread reads the store while DuckDB writes what was read before. Each takes about half of the time.

Holds a few batches of Arrow, bounded by their bytes. Knows no store: what opens a table is the caller's, and is used by
the thread alone until :func:`load_ahead` returns.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from hwbench_mlflow.warehouse.stage import Stage

HELD_BYTES = 32 << 20
"""Above this much, the thread waits for DuckDB; one batch more may be in its hands."""


def load_ahead(stage: Stage, tables: Sequence[str], rows_of: Callable[[str], pa.RecordBatchReader]) -> None:
    """Load the tables into the stage, in order. Raises what ``rows_of`` or its rows raise as it was, or DuckDB's."""
    import duckdb

    ahead = _Ahead(tables, rows_of)
    try:
        for table in tables:
            stage.load(table, ahead.rows())
    except duckdb.Error:
        # A stream that breaks while DuckDB drinks from it arrives as DuckDB's error.
        if ahead.failure is not None:
            raise ahead.failure from None
        raise
    finally:
        ahead.stop()


class _Stopped(Exception):
    """Nobody waits for more."""


class _Ahead:
    """The thread, and what it has read: for each table its schema, its batches, and None."""

    def __init__(self, tables: Sequence[str], rows_of: Callable[[str], pa.RecordBatchReader]) -> None:
        self.failure: BaseException | None = None
        self._read: deque[Any] = deque()
        self._held_bytes = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._produce, args=(tables, rows_of), name="reads ahead")
        self._thread.start()

    def rows(self) -> pa.RecordBatchReader:
        """The next table."""
        import pyarrow as pa

        schema = self._next()
        return pa.RecordBatchReader.from_batches(schema, iter(self._next, None))

    def stop(self) -> None:
        """End the thread; what it was in the middle of is over when this returns."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _produce(self, tables: Sequence[str], rows_of: Callable[[str], pa.RecordBatchReader]) -> None:
        try:
            for table in tables:
                rows = rows_of(table)
                self._put(rows.schema, 0)
                for batch in rows:
                    self._put(batch, batch.nbytes)
                self._put(None, 0)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 -- raised again where the rows are waited for
            with self._changed:
                self.failure = error
                self._changed.notify_all()

    def _put(self, item: Any, size: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._held_bytes < HELD_BYTES)
            if self._stopped:
                raise _Stopped
            self._held_bytes += size
            self._read.append(item)
            self._changed.notify_all()

    def _next(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._read or self.failure is not None)
            if not self._read:
                assert self.failure is not None
                raise self.failure
            item = self._read.popleft()
            self._held_bytes -= getattr(item, "nbytes", 0)
            self._changed.notify_all()
            return item
