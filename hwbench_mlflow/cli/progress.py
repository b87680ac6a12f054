"""A run's progress on a terminal, silence elsewhere; warnings always."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwbench_mlflow.cli.live import Live
from hwbench_mlflow.runner import Progress

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


class TerminalProgress(Live, Progress):
    """One line that is rewritten: the stage, and a bar where its length is known.

    It redraws once a second and at a new stage: a redraw costs 2 ms of the machine that is being measured.
    """

    def __init__(self) -> None:
        super().__init__(_columns, refresh_per_second=1)
        if self._live is not None:
            self._task = self._live.add_task("starting", total=None)

    def stage(self, text: str, seconds: float | None = None) -> None:
        """Show a stage. Where its length is known, the bar follows the clock."""
        if self._live is not None:
            self._live.reset(self._task, description=text, total=None)
            if seconds is not None:
                text = f"{text} (at least {seconds:.0f} s, until {time.strftime('%H:%M:%S', _after(seconds))})"
                self._live.update(self._task, description=text)
            self._live.refresh()

    def warn(self, text: str) -> None:
        """One line on standard error."""
        self.say(f"hwbench: warning: {text}")


def _columns() -> Sequence[ProgressColumn]:
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

    return (
        SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TimeElapsedColumn(),
    )  # fmt: skip


def _after(seconds: float) -> time.struct_time:
    return time.localtime(time.time() + seconds)
