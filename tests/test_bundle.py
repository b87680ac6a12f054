"""A result as one file: whole or absent, byte for byte, and anything else refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwbench_mlflow import bundle
from hwbench_mlflow.bundle import read_bundle, write_bundle
from hwbench_mlflow.errors import CorruptEvidence, StoreError, UsageError

FILES = {"result.json": b'{"a":1}', "samples.json": b"[]", "attestation.dsse.json": '{"s":"\u00e9"}'.encode()}


def test_what_is_written_is_read_back_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_bundle(path, {**FILES, "binding.dsse.json": b"of another run"})
    assert read_bundle(path) == FILES
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_older_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("x" * 10_000)
    write_bundle(path, FILES)
    assert read_bundle(path) == FILES


def test_where_nothing_can_be_written_it_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="cannot write"):
        write_bundle(tmp_path / "no-such-folder" / "r.json", FILES)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle.os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_bundle(tmp_path / "r.json", FILES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "document",
    [
        {"bundle_version": 2, "files": {"result.json": "{}"}},
        {"bundle_version": 1, "files": {"samples.json": "{}"}},
        {"bundle_version": 1, "files": {"result.json": "{}", "../escape": "x"}},
        {"bundle_version": 1, "files": {"result.json": 1}},
        {"files": {}},
        [],
    ],
)
def test_anything_else_is_refused(document: object, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document, separators=(",", ":")))
    with pytest.raises(CorruptEvidence, match=r"r\.json is not a result"):
        read_bundle(path)


def test_a_file_that_is_not_there_or_too_large_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_bundle(tmp_path / "nothing.json")
    path = tmp_path / "r.json"
    write_bundle(path, FILES)
    monkeypatch.setattr(bundle, "MAX_BYTES", 10)
    with pytest.raises(CorruptEvidence, match="larger than any result"):
        read_bundle(path)
