"""The status dashboard's pages: rows in, HTML out. Pure; the same pages are served and written as files.

Every value is escaped by Jinja's autoescape. A page is whole without script; ``live.js`` only fetches it again when
what it shows has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from hwbench_mlflow import __version__
from hwbench_mlflow.board import Gates, Keys, Overview, Part, Row
from hwbench_mlflow.reports import coverage, regressions, words
from hwbench_mlflow.reports.figures import Drawn, NotDrawn, figure_markup
from hwbench_mlflow.reports.page import environment

if TYPE_CHECKING:
    from jinja2 import Environment

    from hwbench_mlflow.decide.changes import Story
    from hwbench_mlflow.decide.covering import Cell, Next

PAGES = {
    "index": "Overview",
    "results": "Results",
    "coverage": "Coverage",
    "trends": "Trends",
    "regressions": "Regressions",
    "quarantine": "Quarantine",
    "gate": "Gate",
    "machines": "Machines",
    "keys": "Keys",
}
"""Name of a page -> what it is called."""

MAX_NEXT = 30
MAX_STORIES = 100
_KINDS = {
    "verified": "good", "noisy": "warn", "stale": "warn", "simulated": "warn", "unranked": "warn",
    "quarantined": "bad", "failed": "bad", "unavailable": "absent", "never run": "absent",
}  # fmt: skip
"""How the cells of coverage are tinted; each says its state in words too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What every page has around it. ``stale`` says why what is published is behind, or may be; ``mlflow_url`` is the
    address of an MLflow UI, None where none is known. ``static`` pages link to files beside them."""

    published_at: str | None
    gate_id: str | None
    stale: str | None
    made_at: datetime
    static: bool
    mlflow_url: str | None = None

    def link(self, page: str, **arguments: object) -> str:
        """The address of a page. Arguments that are None are left out; files know pages of results and no filter."""
        given = {name: str(value) for name, value in arguments.items() if value is not None}
        if self.static:
            run = given.get("run")
            return f"result-{quote(run, safe='')}.html" if run is not None else f"{page}.html"
        if page == "result":
            return f"/results/{quote(given['run'], safe='')}"
        path = "/" if page == "index" else f"/{page}"
        return f"{path}?{urlencode(given)}" if given else path

    def asset(self, name: str) -> str:
        """The address of a file of :func:`assets`."""
        return name if self.static else f"/{name}"

    def mlflow(self, row: Row) -> str | None:
        """Where MLflow shows a run."""
        if self.mlflow_url is None or row.get("experiment_id") is None:
            return None
        experiment, run = quote(str(row["experiment_id"]), safe=""), quote(str(row["run_id"]), safe="")
        return f"{self.mlflow_url.rstrip('/')}/#/experiments/{experiment}/runs/{run}"


def assets() -> dict[str, tuple[str, str]]:
    """Files beside the pages: name -> its media type and content."""
    templates = resources.files("hwbench_mlflow.reports") / "templates"
    return {
        "style.css": ("text/css", (templates / "style.css").read_text("utf-8")
                      + (templates / "dashboard" / "more.css").read_text("utf-8")),
        "live.js": ("text/javascript", (templates / "dashboard" / "live.js").read_text("utf-8")),
    }  # fmt: skip


def index_page(frame: Frame, shown: Overview, gates: Gates, open_regressions: int | None) -> str:
    """The first page. ``open_regressions`` is None where it could not be said."""
    platforms = sorted({row["platform"] for row in shown.matrix})
    cells: dict[str, dict[str, Row]] = {}
    for row in shown.matrix:
        cells.setdefault(row["model_name"], {})[row["platform"]] = row
    return _render(
        "index", frame, o=shown, gates=gates, open_regressions=open_regressions, platforms=platforms, cells=cells,
        rows=_results(shown.latest.rows),
    )  # fmt: skip


def results_page(frame: Frame, part: Part, *, model: str | None, platform: str | None) -> str:
    """The last result of each configuration."""
    return _render(
        "results", frame, part=part, rows=_results(part.rows), model=model, platform=platform,
        more=_more(frame, "results", part, model=model, platform=platform),
    )  # fmt: skip


def result_page(frame: Frame, row: Row, history: Sequence[Row], drawn: Drawn | NotDrawn) -> str:
    """One result: its numbers, where they come from, and what came before it."""
    return _render(
        "result", frame, row=row, workload=words.workload(row), marks=words.marks(row), history=history,
        provenance=words.provenance(row), numbers=_numbers(row), figure=_figure(drawn),
    )  # fmt: skip


def trends_page(frame: Frame, figures: Sequence[Drawn | NotDrawn]) -> str:
    """Medians over time."""
    return _render("trends", frame, figures=[_figure(f) for f in figures])


def quarantine_page(frame: Frame, part: Part, failures: Part) -> str:
    """What was refused, with why; and what never became a result."""
    return _render(
        "quarantine", frame, part=part, failures=failures, more=_more(frame, "quarantine", part),
    )  # fmt: skip


def gate_page(frame: Frame, gates: Gates, failed: Sequence[Row]) -> str:
    """The history of gates and syncs. ``failed`` are the rules that kept something out of what is published."""
    return _render("gate", frame, gates=gates, failed=failed)


def machines_page(frame: Frame, part: Part) -> str:
    """The availability of each machine over time."""
    machines: dict[tuple[str, str], list[Row]] = {}
    for row in part.rows:
        machines.setdefault((row["host_id"], row["hostname"] or words.ABSENT), []).append(row)
    return _render("machines", frame, part=part, machines=machines)


def keys_page(frame: Frame, keys: Keys) -> str:
    """Whose results count."""
    known = {key.keyid for key in keys.keys}
    return _render("keys", frame, keys=keys, strangers={k: n for k, n in keys.used.items() if k not in known})


def coverage_page(frame: Frame, cells: Sequence[Cell], following: Sequence[Next]) -> str:
    """Model and precision by platform, each cell with its state and why; what to run next."""
    platforms = list(dict.fromkeys(cell.platform for cell in cells))
    grid: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        grid.setdefault((cell.model, cell.precision), {})[cell.platform] = cell
    return _render(
        "coverage", frame, headline=coverage.headline(cells), platforms=platforms,
        grid=dict(list(grid.items())[: coverage.SHOWN_MODELS]), hidden=max(0, len(grid) - coverage.SHOWN_MODELS),
        kinds=_KINDS, following=following[:MAX_NEXT], more=max(0, len(following) - MAX_NEXT),
    )  # fmt: skip


def regressions_page(frame: Frame, stories: Sequence[Story]) -> str:
    """What got worse and stayed so first, then what else changed."""
    shown = [
        {
            "state": regressions.state(story), "name": regressions.name(story), "lines": list(regressions.lines(story)),
            "open": story.open is not None, "run": story.series.runs[-1].run_id if story.series.runs else None,
        }
        for story in regressions.ordered(stories)[:MAX_STORIES]
    ]  # fmt: skip
    return _render("regressions", frame, headline=regressions.headline(stories), stories=shown)


def error_page(frame: Frame, page: str, message: str) -> str:
    """Why there is nothing to show."""
    return _render("error", frame, current=page, message=message)


def ago(then: datetime | None, now: datetime) -> str:
    """How long ago, in the largest unit that fits; what lies ahead says so."""
    if then is None:
        return "never"
    moment = then.replace(tzinfo=UTC) if then.tzinfo is None else then
    seconds = (now - moment).total_seconds()
    if seconds < -60:
        return "in the future: a clock is wrong"
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"


def _render(name: str, frame: Frame, *, current: str | None = None, **values: Any) -> str:
    page = current or {"result": "results"}.get(name, name)
    return (
        _environment()
        .get_template(f"dashboard/{name}.html.j2")
        .render(f=frame, page=page, pages=PAGES, version=__version__, words=words, **values)
    )


def _environment() -> Environment:
    made = environment()
    made.filters["ago"] = ago
    made.filters["when"] = lambda moment: words.ABSENT if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"
    return made


def _results(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [{"row": row, "workload": words.workload(row), "marks": words.marks(row), **_numbers(row)} for row in rows]


def _numbers(row: Row) -> dict[str, Any]:
    columns = {
        "median": "latency_ms_p50", "p90": "latency_ms_p90", "p99": "latency_ms_p99",
        "throughput": "throughput_items_per_s", "memory": "memory_peak_mb", "energy": "energy_j_per_item",
    }  # fmt: skip
    made: dict[str, Any] = {
        name: {
            "text": words.number(row[column]),
            "why": None if row[column] is not None else words.why_absent(row, column),
        }
        for name, column in columns.items()
    }
    return {**made, "interval": words.interval(row)}


def _figure(drawn: Drawn | NotDrawn) -> dict[str, Any]:
    if isinstance(drawn, NotDrawn):
        return {"title": drawn.title, "reason": drawn.reason}
    return figure_markup(drawn)


def _more(frame: Frame, page: str, part: Part, **filters: object) -> dict[str, str | None]:
    """Links to the pages before and after; files hold the first page alone."""
    link: Callable[..., str] = frame.link
    before = part.offset > 0 and not frame.static
    after = part.offset + len(part.rows) < part.total and not frame.static
    return {
        "before": link(page, offset=max(0, part.offset - part.limit) or None, **filters) if before else None,
        "after": link(page, offset=part.offset + part.limit, **filters) if after else None,
    }
