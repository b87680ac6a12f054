"""Where a run's evidence files come from: one contract, and the files of this machine.

A source is asked for files of ``hwbench/`` by name and gives those that are there. It judges nothing. Sources for
artifacts that are elsewhere are made outside (they need the tracking library) and passed in. Imports no mlflow.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.evidence import FOLDER

MAX_FILE_BYTES = 256 * 1024 * 1024
"""hwbench writes no file so large: a reader need not hold what a stranger made huge."""


class EvidenceSource(Protocol):
    """Must bear being called from several threads at once."""

    def fetch(self, run_id: str, artifact_uri: str, names: Sequence[str]) -> dict[str, bytes]:
        """The files of those names that the run has under ``hwbench/``; one that is not there is left out.

        Raises :class:`StoreError` where that cannot be found out *now*: the sync says so and tries again next time.
        """
        ...


def local_path(artifact_uri: str) -> Path | None:
    """The folder that an artifact URI means on this machine, as MLflow reads it; None if it is elsewhere."""
    parts = urlsplit(artifact_uri)
    if parts.scheme == "":
        return Path(artifact_uri).absolute()
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return Path(url2pathname(parts.path)).absolute()
    return None


class LocalFiles:
    """Evidence in folders of this machine."""

    def fetch(self, run_id: str, artifact_uri: str, names: Sequence[str]) -> dict[str, bytes]:
        """See :class:`EvidenceSource`."""
        root = local_path(artifact_uri)
        if root is None:
            raise StoreError(f"the artifacts of run {run_id} are at {artifact_uri}, not on this machine")
        try:
            if not (root / FOLDER).is_dir():
                # EXPERIMENT/RUN/artifacts: without the experiment's folder this is another machine, or not mounted.
                if not root.parents[min(1, len(root.parents) - 1)].is_dir():
                    raise StoreError(f"the artifacts of run {run_id} are not on this machine ({root} is not here)")
                return {}
            return {name: data for name in names if (data := _read(root / FOLDER / name)) is not None}
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise StoreError(f"the artifacts of run {run_id} cannot be read: {error}") from error


def _read(path: Path) -> bytes | None:
    try:
        # O_NONBLOCK: a FIFO in the file's place must not hang a sync.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb") as handle:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise OSError(f"{path} has {status.st_size} bytes: hwbench writes none so large")
        return handle.read()


@dataclass(frozen=True, slots=True)
class Sources:
    """Local artifacts by :class:`LocalFiles`, all others by ``elsewhere``."""

    elsewhere: EvidenceSource | None = None

    def fetch(self, run_id: str, artifact_uri: str, names: Sequence[str]) -> dict[str, bytes]:
        """See :class:`EvidenceSource`."""
        if self.elsewhere is None or local_path(artifact_uri) is not None:
            return LocalFiles().fetch(run_id, artifact_uri, names)
        return self.elsewhere.fetch(run_id, artifact_uri, names)
