"""A display on a terminal that is rewritten, and nothing elsewhere. Everything goes to standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


class Live:
    """What long work shows: ``_live`` is None where nobody looks. Lines are for everywhere."""

    def __init__(self, columns: Callable[[], Sequence[ProgressColumn]], *, refresh_per_second: float) -> None:
        """``columns`` is called, and rich imported, only if standard error is a terminal."""
        self._live: Progress | None = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._live = Progress(
                *columns(), console=Console(stderr=True), refresh_per_second=refresh_per_second, transient=True
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """One line on standard error, above the display if there is one."""
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            click.echo(line, err=True)
