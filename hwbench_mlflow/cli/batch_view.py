"""What a batch looks like while it runs and when it is over: progress on a terminal, a table, a JSON object."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench_mlflow.cli.live import Live
from hwbench_mlflow.evidence import Judgement
from hwbench_mlflow.index import index_of
from hwbench_mlflow.model import CompileMode, RunRequest, Scenario
from hwbench_mlflow.plan import cell_id
from hwbench_mlflow.runner import Progress

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one cell. ``state``: ``done``, ``queued`` (in the spool), ``failed``, or ``kept`` from before.
    ``node`` of a fleet measured it."""

    request: RunRequest
    state: str
    run_id: str | None = None
    judgement: Judgement | None = None
    reason: str | None = None
    unavailable: bool = False
    node: str | None = None


def request_row(request: RunRequest) -> str:
    """One configuration in a line."""
    work = request.workload
    parts = [f"{Path(work.model).name or work.model:<16}", f"{request.platform:<9}", f"{work.precision:<5}"]
    parts += [f"batch {work.batch_size:<4}"]
    extra = {
        "tokens": work.sequence_length,
        "pixels": work.image_size,
        "scenario": None if work.scenario is Scenario.LATENCY else work.scenario,
        "mode": None if work.compile_mode is CompileMode.EAGER else work.compile_mode,
        "device": request.device,
        "threads": request.threads,
        "cores": ",".join(map(str, request.cores)) if request.cores is not None else None,
    }
    return " ".join([*parts, *(f"{name} {value}" for name, value in extra.items() if value is not None)])


def table(outcomes: Sequence[Outcome]) -> str:
    """The summary: a line a cell, sorted by what it is and not by when it ran."""
    rows = sorted((request_row(outcome.request), _result(outcome)) for outcome in outcomes)
    width = max((len(row) for row, _ in rows), default=0)
    return "\n".join(f"{row:<{width}}  {result}" for row, result in rows)


def _result(outcome: Outcome) -> str:
    if outcome.judgement is None or outcome.judgement.result is None:
        return f"{outcome.state}: {outcome.reason}" if outcome.reason else outcome.state
    stats, verdict = outcome.judgement.result.aggregates, outcome.judgement.verdict
    middle = "no median" if stats.p50_ms is None else f"{stats.p50_ms:.4g} ms"
    said = f"{middle:>11}  {stats.throughput_items_per_s:>9.4g} items/s  {verdict.state}"
    if outcome.state != "done":
        said += f" ({outcome.state})"
    return f"{said}: {outcome.reason}" if outcome.reason else said


def entry(outcome: Outcome) -> dict[str, object]:
    """One cell of the JSON object; what is unknown is absent from its metrics."""
    judged = outcome.judgement
    found: dict[str, object] = {
        "cell": cell_id(outcome.request),
        "request": outcome.request,
        "state": outcome.state,
        "run_id": outcome.run_id,
        "reason": outcome.reason,
        "verdict": str(judged.verdict.state) if judged is not None else None,
    }
    if outcome.node is not None:
        found["node"] = outcome.node
    if judged is not None and judged.result is not None:
        found["result_id"] = judged.result.result_id
        found["metrics"] = index_of(judged.result, "", judged.verdict).metrics
    return found


class BatchProgress(Live):
    """A bar over the matrix and a line a lane, on a terminal; elsewhere nothing but warnings, each once."""

    def __init__(self, total: int) -> None:
        super().__init__(_columns, refresh_per_second=1)
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        if self._live is not None:
            self._all = self._live.add_task("cells", total=total)

    def lane(self, name: str) -> LaneProgress:
        """The progress of one lane, for the runner."""
        task = None if self._live is None else self._live.add_task(name, total=None)
        return LaneProgress(lambda text: self._describe(task, text), self.warn)

    def _describe(self, task: object, text: str) -> None:
        if self._live is not None:
            self._live.update(task, description=text)  # type: ignore[arg-type]  # a TaskID of this very object

    def advance(self) -> None:
        """One cell is over."""
        if self._live is not None:
            self._live.advance(self._all)

    def warn(self, text: str) -> None:
        """One line on standard error; the same line is said once, whatever the number of cells."""
        with self._lock:
            if text in self._warned:
                return
            self._warned.add(text)
        self.say(f"hwbench: warning: {text}")


def _columns() -> Sequence[ProgressColumn]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return (
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip


class LaneProgress(Progress):
    """What the runner tells about the cell that a lane is at."""

    def __init__(self, describe: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self._describe = describe
        self._warn = warn
        self.cell = ""

    def stage(self, text: str, seconds: float | None = None) -> None:
        """Show it beside the cell's name."""
        del seconds
        self._describe(f"{self.cell}: {text}")

    def warn(self, text: str) -> None:
        """Pass it on."""
        self._warn(text)
