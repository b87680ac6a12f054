"""What long work shows on a terminal, and what elsewhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from hwbench_mlflow.cli.batch_view import BatchProgress
from hwbench_mlflow.cli.progress import TerminalProgress
from hwbench_mlflow.cli.sync_progress import SyncProgress

HOSTILE = "[bold]x[/bold] [/]"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_stage() -> None:
    with TerminalProgress() as shown:
        shown.stage(f"measuring {HOSTILE}", seconds=10)
        shown.warn(HOSTILE)


def sync_stage() -> None:
    with SyncProgress() as shown:
        shown.progress(f"measuring {HOSTILE}", 1, 2)
        shown.say(f"hwbench: warning: {HOSTILE}")


def batch_stage() -> None:
    with BatchProgress(2) as shown:
        lane = shown.lane("cpu")
        lane.cell = "bert"
        lane.stage(f"measuring {HOSTILE}")
        lane.warn(HOSTILE)
        lane.warn(HOSTILE)
        shown.advance()


STAGES = pytest.mark.parametrize("stage", [run_stage, sync_stage, batch_stage])


@STAGES
def test_stages_are_shown_on_a_terminal_and_a_warning_stays_above_them(
    stage: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stage()
    assert f"measuring {HOSTILE}" in terminal.getvalue()
    assert terminal.getvalue().count(f"hwbench: warning: {HOSTILE}\n") == 1


@STAGES
def test_elsewhere_only_the_warning_is_printed(stage: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    stage()
    assert capsys.readouterr() == ("", f"hwbench: warning: {HOSTILE}\n")
