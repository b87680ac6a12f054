"""Writing what a command made: to standard output, or to a file that is whole or not there; never over a database."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO


def write_whole(output: Path | None, render: Callable[[TextIO], object]) -> None:
    """Render to ``output``, or to standard output if it is None. Raises StoreError where it cannot be written and
    UsageError where a database is."""
    from hwbench_mlflow.errors import StoreError

    if output is None:
        render(sys.stdout)
        return
    refuse_database(output)
    try:
        if output.exists() and not output.is_file():  # a device or a pipe is written to: nothing may take its place
            with output.open("w", encoding="utf-8", newline="") as stream:
                render(stream)
            return
        target = Path(os.path.realpath(output))  # a link stays one
        beside = target.with_name(f".{target.name}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("w", encoding="utf-8", newline="") as stream:
                render(stream)
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {output}: {error.strerror or error}") from error


def refuse_database(output: Path) -> None:
    """Raise UsageError where ``output`` is a DuckDB or SQLite file: a slip of the flags must not cost a store.

    StoreError for a file that cannot be read: it may be one.
    """
    from hwbench_mlflow.errors import StoreError, UsageError

    refuse_side_file(output)
    if not output.is_file():  # nothing there; or a pipe, which opening would wait for
        return
    try:
        with output.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise StoreError(f"cannot write {output}: what is there cannot be read: {error.strerror or error}") from error
    if head[8:12] == b"DUCK" or head == b"SQLite format 3\0":
        raise UsageError(f"{output} is a database: name another file to write to")


_BESIDE = (".wal", ".lock", "-wal", "-shm", "-journal")
"""What DuckDB, SQLite and we keep beside a database, by the end of its name."""


def refuse_side_file(output: Path) -> None:
    """Raise UsageError for a name that belongs to a database that is there: its log, or its lock."""
    from hwbench_mlflow.errors import UsageError

    for end in _BESIDE:
        name = output.name.removesuffix(end)
        if name not in {"", output.name} and (of := output.with_name(name)).is_file():
            raise UsageError(f"{output} belongs to {of}: name another file to write to")
