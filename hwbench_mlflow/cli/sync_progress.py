"""A sync's progress: one line that is rewritten on a terminal, silence elsewhere. Everything goes to standard error."""

from __future__ import annotations

import sys
from types import TracebackType

import click


class SyncProgress:
    """Shows stages on a terminal; what :meth:`say` is given is shown everywhere."""

    def __init__(self) -> None:
        self._live = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

            self._live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                console=Console(stderr=True),
                refresh_per_second=4,
                transient=True,
            )
            self._task = self._live.add_task("opening", total=None)

    def __enter__(self) -> SyncProgress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def progress(self, stage: str, done: int, everything: int) -> None:
        """How far a stage is; ``everything`` 0 means that nobody knows."""
        if self._live is not None:
            self._live.update(self._task, description=stage, completed=done, total=everything or None)

    def say(self, line: str) -> None:
        """One line on standard error."""
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            click.echo(line, err=True)
