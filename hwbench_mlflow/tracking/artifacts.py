"""Evidence files out of an artifact store. The tracking store itself is not asked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.evidence import FOLDER
from hwbench_mlflow.tracking.boundary import one_line, store_errors

MAX_ARTIFACT_BYTES = 256 * 1024 * 1024


class ArtifactFiles:
    """Evidence in an artifact store, read by a run's artifact URI; the tracking store itself is not opened.

    Opening it through MLflow would migrate it. May be used from several threads at once.
    """

    def __init__(self, tracking_uri: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        self.uri = tracking_uri

    def fetch(self, run_id: str, artifact_uri: str, names: Iterable[str]) -> dict[str, bytes]:
        """The files of those names under ``hwbench/``; absent ones are left out. Raises StoreError."""
        with store_errors(), tempfile.TemporaryDirectory(prefix="hwbench-") as folder:
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            try:
                repository: Any = get_artifact_repository(artifact_uri, tracking_uri=self.uri)
                listed = {Path(f.path).name: f for f in repository.list_artifacts(FOLDER) if not f.is_dir}
                found = [name for name in names if name in listed]
                for name in found:
                    size = listed[name].file_size
                    if size is not None and size > MAX_ARTIFACT_BYTES:
                        raise StoreError(
                            f"{FOLDER}/{name} of run {run_id} has {size} bytes: hwbench writes none so large"
                        )
                return {name: _download(repository, name, Path(folder)).read_bytes() for name in found}
            except ImportError as error:
                raise StoreError(f"the artifacts at {artifact_uri} need a package: {one_line(error)}") from error


def _download(repository: Any, name: str, folder: Path) -> Path:
    """One file that was listed. From a tracking server by one request, by the method that each kind of repository
    implements: the public one asks for a list again before each file."""
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

    served = isinstance(repository, HttpArtifactRepository)
    if not served:
        return Path(repository.download_artifacts(f"{FOLDER}/{name}", str(folder)))
    path = folder / name
    repository._download_file(f"{FOLDER}/{name}", str(path))
    return path
