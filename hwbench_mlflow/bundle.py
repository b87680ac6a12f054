"""A result as one file: what ``--out`` writes where no MLflow is, and ``hwbench push`` reads.

The evidence files as text inside one JSON object, byte for byte: a bundle adds nothing and proves nothing
by itself. Written beside its name and moved into place, so that it is whole or absent.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwbench_mlflow.codec import decode, encode
from hwbench_mlflow.errors import CorruptEvidence, StoreError, UsageError
from hwbench_mlflow.evidence import ATTESTATION_FILE, RESULT_FILE, SAMPLES_FILE

BUNDLE_VERSION = 1
MAX_BYTES = 512 * 1024 * 1024
BUNDLED = frozenset({RESULT_FILE, SAMPLES_FILE, ATTESTATION_FILE})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bundle:
    bundle_version: int
    files: dict[str, str]


def write_bundle(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the evidence files of one result to ``path``. Raises StoreError where that is impossible."""
    data = encode(
        _Bundle(bundle_version=BUNDLE_VERSION, files={n: d.decode() for n, d in files.items() if n in BUNDLED})
    )
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
            try:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            except OSError:
                os.unlink(stream.name)
                raise
        Path(stream.name).chmod(0o644)
        os.replace(stream.name, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def read_bundle(path: Path) -> dict[str, bytes]:
    """The evidence files in a bundle. Raises UsageError where there is none, CorruptEvidence for other bytes."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CorruptEvidence(f"{path} is larger than any result hwbench writes")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        bundle = decode(data, _Bundle)
    except CorruptEvidence as error:
        raise CorruptEvidence(f"{path} is not a result that `hwbench run --out` wrote: {error}") from error
    if bundle.bundle_version != BUNDLE_VERSION or not bundle.files.keys() <= BUNDLED or RESULT_FILE not in bundle.files:
        raise CorruptEvidence(f"{path} is not a result of a version this hwbench reads")
    return {name: text.encode() for name, text in bundle.files.items()}
