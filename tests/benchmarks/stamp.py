"""The cpu platform, which leaves a note of when its first inference was over. For :mod:`.startup` only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwbench_mlflow.backends.cpu import CpuBackend

STAMP = "STAMP_FILE"
"""The environment variable that names the note."""


def leave_stamp() -> None:
    """Write the wall clock, ns since the epoch, once: a note that is there stays."""
    note = Path(os.environ[STAMP])
    if not note.exists():
        draft = note.with_suffix(".draft")
        draft.write_text(str(time.time_ns()))
        draft.replace(note)


class StampedSession:
    """A session that passes everything on."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, slot: int) -> object:
        """One inference, then the note."""
        output = self._inner.run(slot)
        leave_stamp()
        return output


class StampedCpu(CpuBackend):
    """torch on the CPU."""

    @contextmanager
    def open(self, device: Any, workload: Any, model: Any, threads: int | None) -> Iterator[Any]:
        """The cpu platform's session, watched."""
        with super().open(device, workload, model, threads) as session:
            yield StampedSession(session)
