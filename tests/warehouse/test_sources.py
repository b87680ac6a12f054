"""Where evidence is read from, and what a hostile folder can do to whoever reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.tracking import ArtifactFiles
from hwbench_mlflow.warehouse import sources
from hwbench_mlflow.warehouse.sources import EvidenceSource, LocalFiles, Sources, local_path

NAMES = ("result.json", "samples.json")
SOURCES: list[EvidenceSource] = [LocalFiles(), ArtifactFiles("sqlite:///unused.db")]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The artifact folder of a run that has one of the two files."""
    root = tmp_path / "1" / "run" / "artifacts"
    (root / "hwbench").mkdir(parents=True)
    (root / "hwbench" / "result.json").write_bytes(b"{}")
    (root / "hwbench" / "unasked.json").write_bytes(b"{}")
    return root


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_files_that_are_there_are_given_and_no_others(source: EvidenceSource, form: str, run: Path) -> None:
    assert source.fetch("r", form.format(run), NAMES) == {"result.json": b"{}"}


def test_a_relative_uri_is_relative_to_here_as_in_mlflow(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parents[1])
    assert LocalFiles().fetch("r", "./run/artifacts", NAMES) == {"result.json": b"{}"}


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/a/b%20c", "/a/b%20c"),
        ("file:///a/b%20c", "/a/b c"),
        ("file://localhost/a", "/a"),
        ("file://elsewhere/a", None),
        ("s3://bucket/a", None),
        ("mlflow-artifacts:/1/a", None),
    ],
)
def test_which_uris_are_of_this_machine(uri: str, path: str | None) -> None:
    assert local_path(uri) == (None if path is None else Path(path))


def test_a_run_without_files_has_none_but_a_missing_disk_is_no_answer(run: Path, tmp_path: Path) -> None:
    assert LocalFiles().fetch("r", str(run.parents[1] / "other" / "artifacts"), NAMES) == {}
    with pytest.raises(StoreError, match="not on this machine"):
        LocalFiles().fetch("r", str(tmp_path / "9" / "run" / "artifacts"), NAMES)


def test_what_is_no_file_is_not_waited_for(run: Path) -> None:
    os.mkfifo(run / "hwbench" / "samples.json")
    with pytest.raises(StoreError, match="is not a file"):
        LocalFiles().fetch("r", str(run), NAMES)


def test_a_huge_file_is_not_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 1)
    with pytest.raises(StoreError, match="2 bytes: hwbench writes none so large"):
        LocalFiles().fetch("r", str(run), NAMES)


@pytest.mark.parametrize("uri", ["/nul\0byte/1/2/3", "s3://bucket/run"])
def test_what_cannot_be_read_is_one_line(uri: str) -> None:
    with pytest.raises(StoreError, match="the artifacts of run r"):
        LocalFiles().fetch("r", uri, NAMES)


def test_elsewhere_is_only_asked_for_what_is_elsewhere(run: Path) -> None:
    class Elsewhere:
        def fetch(self, run_id: str, artifact_uri: str, names: object) -> dict[str, bytes]:
            return {"result.json": artifact_uri.encode()}

    both = Sources(elsewhere=Elsewhere())
    assert both.fetch("r", str(run), NAMES) == {"result.json": b"{}"}
    assert both.fetch("r", "s3://bucket/run", NAMES) == {"result.json": b"s3://bucket/run"}


def test_a_server_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreError):
        ArtifactFiles("http://127.0.0.1:1").fetch("r", "mlflow-artifacts:/1/run/artifacts", NAMES)
