"""Running hwbench as people do, and reading what it left in a store. Shared by the tests of whole runs."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from hwbench_mlflow.model import RunRequest
    from hwbench_mlflow.runner import Measured

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ("--hardware", "cpu", "--profile", "smoke")
Call = Callable[..., tuple[int, str, str]]
"""The fixture ``call``: exit code, standard output, standard error."""

PERFORMANCE = ("latency_", "throughput_", "energy_", "memory_", "achieved_", "sample_count")
"""Beginnings of metric names that a run without a result must not have."""


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The ``hwbench`` command in this process."""
    from hwbench_mlflow.cli import main as cli

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hwbench", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, captured.out, captured.err

    return run


def answering(monkeypatch: pytest.MonkeyPatch, measured: Callable[[RunRequest], Measured]) -> list[RunRequest]:
    """A runner that gives at once what ``measured`` makes of a request; what it was asked."""
    asked: list[RunRequest] = []

    def run(request: RunRequest, progress: Any, before_timing: Callable[[], None]) -> Measured:
        asked.append(request)
        before_timing()
        return measured(request)

    monkeypatch.setattr("hwbench_mlflow.runner.run", run)
    return asked


def environment(**extra: str) -> dict[str, str]:
    """This interpreter's programs first on the path, then the system's; this checkout importable."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "PYTHONPATH": str(ROOT),
        **extra,
    }


def command(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; whatever it printed is in the result."""
    return subprocess.run(
        arguments, cwd=cwd, env=dict(env or environment()), capture_output=True, text=True, timeout=240, check=False
    )


def hwbench(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``hwbench`` as a process of its own."""
    return command(sys.executable, "-m", "hwbench_mlflow", *arguments, cwd=cwd, env=env)


def said(stderr: str) -> list[str]:
    """What hwbench itself said on standard error, without the warnings it gives on the way."""
    lines = [line for line in stderr.splitlines() if line.startswith("hwbench: ")]
    return [line for line in lines if not line.startswith("hwbench: warning: ")]


def copy_project(folder: Path) -> Path:
    """What a clone of this checkout would hold, uncommitted edits included."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def copy_store(source: Path, target: Path) -> str:
    """A store with its artifacts, moved to another folder; its tracking URI."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "mlflow.db", target / "mlflow.db")
    shutil.copytree(source / "mlruns", target / "mlruns")
    with sqlite3.connect(target / "mlflow.db") as database:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (f"{source}/mlruns", f"{target}/mlruns")
            )
    database.close()
    return f"sqlite:///{target / 'mlflow.db'}"


def performance(metrics: Mapping[str, object]) -> list[str]:
    """The metrics that only a measurement gives."""
    return [name for name in metrics if name.startswith(PERFORMANCE)]


def alive(pid: int) -> bool:
    """Whether a process runs, after the moment that the kernel takes to end one that was killed."""
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            return False
        time.sleep(0.05)
    return True


def only(items: Sequence[str]) -> str:
    """The one item of a list that must have one."""
    assert len(items) == 1, items
    return items[0]
