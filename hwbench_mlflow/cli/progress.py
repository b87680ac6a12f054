"""Progress on a terminal, silence elsewhere; warnings always. Everything goes to standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import click

from hwbench_mlflow.runner import Progress


class TerminalProgress(Progress):
    """One line that is rewritten: the stage, and a bar where its length is known.

    It redraws once a second and at a new stage: a redraw costs 2 ms of the machine that is being measured.
    """

    def __init__(self) -> None:
        self._live = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bars

            self._live = Bars(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                refresh_per_second=1,
                transient=True,
            )
            self._task = self._live.add_task("starting", total=None)

    def __enter__(self) -> TerminalProgress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

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
        line = f"hwbench: warning: {text}"
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            click.echo(line, err=True)


def _after(seconds: float) -> time.struct_time:
    return time.localtime(time.time() + seconds)
