"""``hwbench dashboard``: the state of everything, in a browser or as files. Wiring only."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from hwbench_mlflow.cli.choices import published_option
from hwbench_mlflow.errors import HwbenchError

if TYPE_CHECKING:
    from hwbench_mlflow.board import Gates, Keys
    from hwbench_mlflow.decide.changes import Story
    from hwbench_mlflow.reports.dashboard import Frame
    from hwbench_mlflow.warehouse.published import Published

STATIC_RESULTS = 300
"""A page of its own for so many of the newest configurations, where pages are written as files."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Another than loopback lets others read it.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes a free one.")
@click.option("--mlflow-url", metavar="URL", help="Where the MLflow UI is: runs link to it.")
@click.option(
    "--static", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Write the pages into this folder and leave.",
)  # fmt: skip
@published_option
def dashboard(  # noqa: PLR0917 -- click passes by name
    host: str, port: int, mlflow_url: str | None, static: Path | None, published: Path, db: Path
) -> None:
    """Show coverage, results, trends, regressions, gates, quarantine, machines and keys, in a browser.

    Reads what `hwbench gate` published, and the gates and syncs of the warehouse; writes nothing. The page follows by
    itself what is synced and published meanwhile, such as a batch: `hwbench sync --watch 30` keeps the mirror up.

    \b
    hwbench dashboard
    hwbench dashboard --mlflow-url http://127.0.0.1:5000
    hwbench dashboard --static public
    """
    if mlflow_url is not None and not mlflow_url.startswith(("http://", "https://")):
        raise click.UsageError(f"--mlflow-url {mlflow_url!r} is no http address")
    board = Board(published, db, mlflow_url=mlflow_url, static=static is not None)
    if static is not None:
        count = write_static(board, static)
        click.echo(f"{static}: {count} pages, from {static / 'index.html'}")
        return
    from hwbench_mlflow.dashboard import LOOPBACK, serve

    if host not in LOOPBACK:
        click.echo(f"hwbench: warning: everybody who reaches {host} can read this dashboard", err=True)
    with contextlib.closing(board):
        serve(board, host, port, lambda address: click.echo(f"dashboard at {address} (Ctrl-C stops it)"))


class Board:
    """The pages, made of what the files hold when they are asked for. Opened files are kept until they change."""

    def __init__(self, published: Path, db: Path, *, mlflow_url: str | None = None, static: bool = False) -> None:
        self.path, self.db, self.mlflow_url, self.static = published, db, mlflow_url, static
        self._lock = threading.Lock()
        self._found: Published | None = None
        self._found_stamp = ""
        self._gates: Gates | None = None
        self._stale: str | None = None
        self._seen = ""
        self._made: dict[object, str] = {}
        self._open_regressions: int | None = None
        self._counting: list[threading.Thread] = []

    # --- what dashboard.Site asks for ---------------------------------------------------------------

    def stamp(self) -> str:
        """The identity of both files, as the file system tells it, and what was worked out of them meanwhile."""
        return f"{self._files()} {self._open_regressions}"

    def assets(self) -> Mapping[str, tuple[str, str]]:
        """The style and the script."""
        from hwbench_mlflow.reports.dashboard import assets

        return assets()

    def open(self) -> None:
        """Check the files before anybody asks, so that the first page need not wait for it. What cannot be read is told
        to whoever asks for a page."""
        with self._lock, contextlib.suppress(HwbenchError):
            self._opened()

    def close(self) -> None:
        """Wait for what still counts, some seconds at a million results. A thread that is inside DuckDB when the
        interpreter ends takes the process down with it (SIGABRT)."""
        for counting in self._counting:
            counting.join()

    def error(self, name: str, message: str) -> str:
        """A page without data."""
        from hwbench_mlflow.reports import dashboard as pages

        return pages.error_page(self._frame(None), name if name in pages.PAGES else "index", message)

    def page(self, name: str, arguments: Mapping[str, str], offset: int) -> str | None:
        """A page, or None if there is none; one at a time, as they share the open file."""
        with self._lock:
            make = _PAGES.get(name)
            if make is None:
                return None
            found = self._opened()
            key = (name, tuple(sorted(arguments.items())))
            # Only what is dear to make is kept, and only while nothing has changed.
            if name in _DEAR and key in self._made:
                return self._made[key]
            html = make(self, found, arguments, offset)
            if name in _DEAR and html is not None:
                self._made[key] = html
            return html

    # --- pages --------------------------------------------------------------------------------------

    def _index(self, found: Published, _: Mapping[str, str], __: int) -> str:
        from hwbench_mlflow.reports import dashboard as pages
        from hwbench_mlflow.warehouse import overview

        assert self._gates is not None
        return pages.index_page(self._frame(found), overview.overview(found), self._gates, self._open_regressions)

    def _results(self, found: Published, arguments: Mapping[str, str], offset: int) -> str:
        from hwbench_mlflow.reports import dashboard as pages
        from hwbench_mlflow.warehouse import overview

        model, platform = arguments.get("model"), arguments.get("platform")
        part = overview.latest(found, model=model, platform=platform, offset=offset)
        return pages.results_page(self._frame(found), part, model=model, platform=platform)

    def _result(self, found: Published, arguments: Mapping[str, str], _: int) -> str | None:
        from hwbench_mlflow.reports import dashboard as pages
        from hwbench_mlflow.reports.figures import trend_figure
        from hwbench_mlflow.summary import Trend
        from hwbench_mlflow.warehouse import overview

        row = overview.one_result(found, arguments["run"])
        if row is None:
            return None
        history = overview.history_of(found, row)
        points = [
            (
                h["created_at"],
                h["latency_ms_p50"],
                h["latency_ms_p50_ci95_low"],
                h["latency_ms_p50_ci95_high"],
                h["stable"],
            )
            for h in reversed(history)
            if h["latency_ms_p50"] is not None
        ]
        drawn = trend_figure([Trend(row=row, points=points)] if len(points) > 1 else [])
        return pages.result_page(self._frame(found), row, history, drawn)

    def _trends(self, found: Published, _: Mapping[str, str], __: int) -> str:
        from hwbench_mlflow.reports import dashboard as pages
        from hwbench_mlflow.reports.figures import trend_figure
        from hwbench_mlflow.summary import Filters
        from hwbench_mlflow.warehouse.summarize import trends

        return pages.trends_page(self._frame(found), [trend_figure(trends(found, Filters()))])

    def _coverage(self, _: Published, __: Mapping[str, str], ___: int) -> str:
        from hwbench_mlflow.decide.covering import ALL_PLATFORMS, STALE_AFTER_DAYS, cover, next_runs, stale_before
        from hwbench_mlflow.reports import dashboard as pages
        from hwbench_mlflow.warehouse import coverage

        with coverage.open_coverage(self.path) as found:
            now = datetime.fromisoformat(found.manifest["published_at"]).replace(tzinfo=None)
            measured = coverage.measured(found, stale_before(now, STALE_AFTER_DAYS))
            failures, probes = coverage.failures(found), coverage.probes(found)
            models = sorted({model for model, *_ in measured} | {model for model, *_ in failures})
            cells = cover(models, ALL_PLATFORMS, None, measured, failures, probes)
            return pages.coverage_page(self._frame(found), cells, next_runs(cells, failures, probes))

    def _regressions(self, _: Published, __: Mapping[str, str], ___: int) -> str:
        from hwbench_mlflow.reports import dashboard as pages

        stories, frame = self._stories()
        return pages.regressions_page(frame, stories)

    def _quarantine(self, found: Published, _: Mapping[str, str], offset: int) -> str:
        from hwbench_mlflow.reports import dashboard as pages
        from hwbench_mlflow.warehouse import overview

        return pages.quarantine_page(self._frame(found), overview.quarantine(found, offset), overview.failures(found))

    def _gate(self, found: Published, _: Mapping[str, str], __: int) -> str:
        from hwbench_mlflow.reports import dashboard as pages
        from hwbench_mlflow.warehouse import overview

        assert self._gates is not None
        return pages.gate_page(self._frame(found), self._gates, overview.rules_failed(found))

    def _machines(self, found: Published, _: Mapping[str, str], __: int) -> str:
        from hwbench_mlflow.reports import dashboard as pages
        from hwbench_mlflow.warehouse import overview

        return pages.machines_page(self._frame(found), overview.availability(found))

    def _keys(self, found: Published, _: Mapping[str, str], __: int) -> str:
        from hwbench_mlflow.reports import dashboard as pages
        from hwbench_mlflow.warehouse import overview

        return pages.keys_page(self._frame(found), _keyring(overview.keys_used(found)))

    # --- what they are made of ----------------------------------------------------------------------

    def _files(self) -> str:
        return f"{_stamp(self.path)} {_stamp(self.db)}"

    def _opened(self) -> Published:
        """The published file as it is now, checked again whenever it was replaced; the warehouse looked at again."""
        from hwbench_mlflow.warehouse import overview

        stamp, seen = _stamp(self.path), self._files()
        if self._found is None or stamp != self._found_stamp:
            if self._found is not None:
                self._found.close()
                self._found = None
            self._found = overview.open_board(self.path)
            self._found_stamp, self._seen = stamp, ""
        if seen != self._seen:
            self._gates = overview.gates_of(self.db)
            self._stale = self._found.stale_against(self.db)
            self._seen = seen
            self._made.clear()
            self._open_regressions = None
            if self.static:
                self._count_regressions()
            else:
                counting = threading.Thread(target=self._count_regressions, name="regressions")
                self._counting = [*filter(threading.Thread.is_alive, self._counting), counting]
                counting.start()
        return self._found

    def _frame(self, found: Published | None) -> Frame:
        from hwbench_mlflow.reports.dashboard import Frame

        manifest = found.manifest if found is not None else {}
        return Frame(
            published_at=manifest.get("published_at"), gate_id=manifest.get("gate_id"),
            stale=self._stale if found is not None else None, made_at=datetime.now(UTC), static=self.static,
            mlflow_url=self.mlflow_url,
        )  # fmt: skip

    def _stories(self) -> tuple[list[Story], Frame]:
        """Every history, read from the file as it is now; the frame is of that very publication."""
        from hwbench_mlflow.cli.regressions import DEFAULT_LAST, DEFAULT_MIN_CHANGE, DEFAULT_THRESHOLD, stories_of
        from hwbench_mlflow.warehouse.history import open_history

        with open_history(self.path, None, None) as found:
            stories = stories_of(
                found, None, None, threshold=DEFAULT_THRESHOLD, min_change=DEFAULT_MIN_CHANGE, last=DEFAULT_LAST
            )
            return stories, self._frame(found)

    def _count_regressions(self) -> None:
        """Keep the number of open regressions, which may take seconds. A history that cannot be read makes it None."""
        seen = self._seen
        try:
            stories, _ = self._stories()
        except HwbenchError:
            return
        if seen == self._seen and not any(story.trouble for story in stories):
            self._open_regressions = sum(story.open is not None for story in stories)


Make = Callable[["Board", "Published", Mapping[str, str], int], "str | None"]
_PAGES: Mapping[str, Make] = {
    "index": Board._index,
    "results": Board._results,
    "result": Board._result,
    "coverage": Board._coverage,
    "trends": Board._trends,
    "regressions": Board._regressions,
    "quarantine": Board._quarantine,
    "gate": Board._gate,
    "machines": Board._machines,
    "keys": Board._keys,
}
_DEAR = frozenset({"trends", "regressions", "coverage"})


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "none"
    return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"


def _keyring(used: Mapping[str, int]) -> Keys:
    """The keys as the key store has them; a store that cannot be read is said, never taken for an empty one."""
    from hwbench_mlflow.board import Key, Keys
    from hwbench_mlflow.errors import KeyTrouble
    from hwbench_mlflow.keystore import existing_key, load_keyring

    try:
        ring, own = load_keyring(), existing_key()
    except KeyTrouble as error:
        return Keys(keys=(), used=used, trouble=str(error))
    keys = []
    for keyid in sorted({*ring.keys, *ring.revoked}):
        known, revoked = ring.keys.get(keyid), ring.revoked.get(keyid)
        detail = f"revoked {revoked.revoked_at}: {revoked.reason or 'no reason given'}" if revoked else None
        keys.append(
            Key(
                keyid=keyid, name=known.name if known else "unknown", standing="revoked" if revoked else "trusted",
                own=own is not None and own.keyid == keyid, detail=detail or (known.added_at if known else None),
            )
        )  # fmt: skip
    return Keys(keys=keys, used=used)


def _write(content: str, out: TextIO) -> None:
    out.write(content)


def write_static(board: Board, folder: Path) -> int:
    """Every page as a file, the newest configurations each with one of its own; how many pages there are."""
    from hwbench_mlflow.cli.output import write_whole
    from hwbench_mlflow.reports.dashboard import PAGES
    from hwbench_mlflow.warehouse import overview

    made = {f"{name}.html": board.page(name, {}, 0) for name in PAGES}
    with board._lock:
        rows = overview.latest(board._opened(), limit=STATIC_RESULTS).rows
    for row in rows:
        made[f"result-{row['run_id']}.html"] = board.page("result", {"run": row["run_id"]}, 0)
    made |= {name: content for name, (_, content) in board.assets().items() if name != "live.js"}
    for name, content in made.items():
        if content is not None:
            write_whole(folder / name, partial(_write, content))
    return sum(name.endswith(".html") and content is not None for name, content in made.items())
