"""Bytes to types and back, in one canonical form.

Pure. JSON with sorted keys and no spaces; the same value always gives the same bytes, so digests can
be taken of them. Decoding is strict: bytes that would not be written back identically (an unknown
field, a duplicate key, a changed number format) are :class:`CorruptEvidence`.

The history of ``result.json`` and ``samples.json`` is beside :data:`.model.SCHEMA_VERSION`.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any, TypeVar

import msgspec

from hwbench_mlflow.errors import CorruptEvidence
from hwbench_mlflow.model import SCHEMA_VERSION, BenchmarkResult, SampleSet

T = TypeVar("T")
V = TypeVar("V", BenchmarkResult, SampleSet)

_decoders: dict[type, msgspec.json.Decoder[Any]] = {}
_making = threading.Lock()
_encoder = msgspec.json.Encoder(order="deterministic")


def encode(value: object) -> bytes:
    """Canonical JSON of a type of :mod:`.model` (or plain data)."""
    return _encoder.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """The value those bytes are the canonical form of. Raises CorruptEvidence for anything else."""
    decoder = _decoders.get(kind)
    if decoder is None:
        # msgspec puts what it learns of a type on the type before it is whole: two threads that make decoders of
        # one type at the same time crash the process (msgspec 0.22.0, SIGSEGV in decode).
        with _making:
            decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        value: T = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptEvidence(f"not a {kind.__name__}: {error}") from error
    if _encoder.encode(value) != data:
        raise CorruptEvidence(
            f"not the canonical form of a {kind.__name__}: it was edited or written by something else"
        )
    return value


def decode_result(data: bytes) -> BenchmarkResult:
    """A ``result.json`` of the version this code knows. Raises CorruptEvidence."""
    return _versioned(data, BenchmarkResult)


def decode_samples(data: bytes) -> SampleSet:
    """A ``samples.json`` of the version this code knows. Raises CorruptEvidence."""
    return _versioned(data, SampleSet)


def sha256(data: bytes) -> str:
    """Lower-case hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


class _Version(msgspec.Struct):
    schema_version: int


def _versioned(data: bytes, kind: type[V]) -> V:
    try:
        value = decode(data, kind)
    except CorruptEvidence as error:
        _require_version(data, kind)  # of another version: that says more than what this one makes of it
        raise error
    _require_version(data, kind, value.schema_version)
    return value


def _require_version(data: bytes, kind: type, version: int | None = None) -> None:
    if version is None:
        try:
            version = msgspec.json.decode(data, type=_Version).schema_version
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptEvidence(f"not a {kind.__name__}: {error}") from error
    if version != SCHEMA_VERSION:
        raise CorruptEvidence(f"schema version {version}; this hwbench reads version {SCHEMA_VERSION}")
