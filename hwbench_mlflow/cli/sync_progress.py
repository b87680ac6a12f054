"""A sync's progress: one line that is rewritten on a terminal, silence elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwbench_mlflow.cli.live import Live

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


class SyncProgress(Live):
    """Shows stages on a terminal; what :meth:`say` is given is shown everywhere."""

    def __init__(self) -> None:
        super().__init__(_columns, refresh_per_second=4)
        if self._live is not None:
            self._task = self._live.add_task("opening", total=None)

    def progress(self, stage: str, done: int, everything: int) -> None:
        """How far a stage is; ``everything`` 0 means that nobody knows."""
        if self._live is not None:
            self._live.update(self._task, description=stage, completed=done, total=everything or None)


def _columns() -> Sequence[ProgressColumn]:
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn

    return (
        SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
    )  # fmt: skip
