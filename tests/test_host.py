"""The host as it says it is; unknown is None."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hwbench_mlflow import host
from hwbench_mlflow.model import HostInfo


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the files of a made-up machine hold; any other is absent."""
    held: dict[str, str] = {}
    monkeypatch.setattr(host, "_read", lambda path: held.get(str(path)))
    monkeypatch.setattr(host.sys, "platform", "linux")
    return held


def test_this_host_is_described_and_survives_json() -> None:
    described = host.describe_host()
    assert described.cpu_count_logical >= 1
    assert described.memory_bytes > 2**20
    assert described.packages["torch"]
    assert msgspec.json.decode(msgspec.json.encode(described), type=HostInfo) == described


def test_a_package_that_is_not_installed_has_no_key() -> None:
    assert "amdsmi" not in host.package_versions()


def test_the_same_machine_has_the_same_id_and_another_machine_another(files: dict[str, str]) -> None:
    files["/etc/machine-id"] = "aaaa"
    first, again = host.host_id(), host.host_id()
    files["/etc/machine-id"] = "bbbb"
    assert first == again != host.host_id()


def test_the_machine_id_itself_is_not_told(files: dict[str, str]) -> None:
    files["/etc/machine-id"] = "3d1219c7c4c5404aaa1f6d2a48adfda4"
    assert files["/etc/machine-id"] not in host.host_id()


@pytest.mark.parametrize(("node", "prefix"), [(0x00163E123456, "mac-"), (0x01163E123456, "hostname-")])
def test_without_a_machine_id_the_host_id_says_what_it_rests_on(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, node: int, prefix: str
) -> None:
    monkeypatch.setattr(host.uuid, "getnode", lambda: node)
    assert host.host_id().startswith(prefix)


@pytest.mark.parametrize(
    "reader",
    [host.boot_id, host.cpu_ticks, host.thread_run_delay_ns, host.cpu_vendor, host.cpu_emulation_reason],
)
def test_what_cannot_be_read_is_none(files: dict[str, str], monkeypatch: pytest.MonkeyPatch, reader: Any) -> None:
    monkeypatch.setattr(host.Path, "glob", lambda self, pattern: iter(()))
    assert reader() is None


def test_no_governor_and_no_throttle_files_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.Path, "glob", lambda self, pattern: iter(()))
    assert host.cpu_governor() is None
    assert host.cpu_throttle_events() is None


def test_throttle_events_count_each_core_and_each_package_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for cpu, core in (("cpu0", 2), ("cpu1", 3)):
        (tmp_path / cpu / "thermal_throttle").mkdir(parents=True)
        (tmp_path / cpu / "topology").mkdir()
        (tmp_path / cpu / "thermal_throttle" / "core_throttle_count").write_text(f"{core}\n")
        (tmp_path / cpu / "thermal_throttle" / "package_throttle_count").write_text("10\n")
        (tmp_path / cpu / "topology" / "physical_package_id").write_text("0\n")
    found = sorted(tmp_path.glob("cpu*/thermal_throttle"))
    monkeypatch.setattr(host.Path, "glob", lambda self, pattern: iter(found))
    assert host.cpu_throttle_events() == 15


def test_ticks_leave_out_guest_time_that_user_time_holds(files: dict[str, str]) -> None:
    files["/proc/stat"] = "cpu  100 10 50 800 20 5 5 10 40 4\ncpu0 1 2 3"
    assert host.cpu_ticks() == host.CpuTicks(steal=10, total=1000)


def test_an_unknown_format_of_stat_is_none(files: dict[str, str]) -> None:
    files["/proc/stat"] = "intr 12 34"
    assert host.cpu_ticks() is None


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "says"),
    [
        ("model name\t: QEMU TCG CPU version 2.5+", "x86_64", "QEMU"),
        ("CPU implementer\t: 0x61", "x86_64", "translation"),
        ("model name\t: AMD EPYC\nflags\t: fpu hypervisor", "x86_64", None),
        ("CPU implementer\t: 0x61", "aarch64", None),
    ],
)
def test_translated_instructions_are_told_from_virtualised_ones(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, cpuinfo: str, machine: str, says: str | None
) -> None:
    files["/proc/cpuinfo"] = cpuinfo
    monkeypatch.setattr(host.platform, "machine", lambda: machine)
    reason = host.cpu_emulation_reason()
    assert (reason is None) if says is None else (reason is not None and says in reason)


def test_git_tells_commit_and_dirt(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    commit, dirty = host.git_state(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    assert dirty is False
    (tmp_path / "file").write_text("2")
    assert host.git_state(tmp_path) == (commit, True)


def test_without_git_or_a_repository_the_state_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert host.git_state(tmp_path) == (None, None)
    monkeypatch.setattr(host.shutil, "which", lambda name: None)
    assert host.git_state(Path.cwd()) == (None, None)
