"""The dashboard: its pages as a program and as a browser have them, what it refuses, what it follows."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pytest
import requests
from click.testing import CliRunner

from hwbench_mlflow.cli.dashboard import Board, dashboard
from hwbench_mlflow.cli.gate import gate
from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.reports.dashboard import PAGES, ago
from hwbench_mlflow.warehouse.overview import latest
from tests.conftest import REQUIRED
from tests.reports.conftest import FAILURE, SIMULATION
from tests.reports.test_in_browser import CHROMIUM


class Links(HTMLParser):
    """The addresses and the elements of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.found += [value for name, value in attrs if name in {"href", "src"} and value]


def rows(here: Path, table: str, columns: str) -> list[tuple[str, ...]]:
    """What is published, read from a copy: DuckDB opens a file in one way at a time in one process."""
    copy = here / "copy.duckdb"
    shutil.copyfile(here / "published.duckdb", copy)
    with duckdb.connect(str(copy), read_only=True) as connection:
        return connection.execute(f"SELECT {columns} FROM {table}").fetchall()


@pytest.fixture
def board(here: Path) -> Board:
    return Board(here / "published.duckdb", here / "hwbench.duckdb", mlflow_url="http://127.0.0.1:5000/")


def page(board: Board, name: str, **arguments: str) -> str:
    html = board.page(name, arguments, int(arguments.get("offset", "0")))
    assert html is not None
    return html


def test_every_page_is_whole_without_script_and_has_no_simulated_number(board: Board, here: Path) -> None:
    simulated = {r for (r,) in rows(here, "simulated_results", "run_id")}
    assert simulated
    for name in PAGES:
        html = page(board, name)
        found = Links(html)
        assert found.tags.count("h1") == 1, name
        assert not found.handlers
        assert found.tags.count("script") == 1  # live.js
        assert "<script>alert" not in html
        assert not [run for run in simulated if run in html], name
        assert not [link for link in found.found if link.startswith("http") and "127.0.0.1:5000" not in link], name


def test_the_first_page_counts_what_is_published_and_links_to_it(board: Board, here: Path) -> None:
    manifest = dict(rows(here, "manifest", "key, value"))
    html = page(board, "index")
    for key in ("rows_real", "rows_simulated", "rows_quarantined"):
        assert re.search(rf"<dd>(<a [^>]*>)?{manifest[key]}<", html), key
    newest = rows(here, "real_results ORDER BY created_at DESC, run_id LIMIT 1", "run_id")[0][0]
    assert f"/results/{newest}" in html
    assert SIMULATION not in html


def test_a_result_shows_where_it_comes_from_and_links_to_mlflow(board: Board, here: Path) -> None:
    run, experiment, digest = rows(here, "real_results LIMIT 1", "run_id, experiment_id, result_sha256")[0]
    html = page(board, "result", run=run)
    assert digest in html
    assert f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{run}" in html
    assert f"hwbench verify {run}" in html


def test_what_is_not_real_has_no_page(board: Board, here: Path) -> None:
    assert board.page("result", {"run": "nosuchrun"}, 0) is None
    for table in ("simulated_results", "quarantine"):
        run = rows(here, f"{table} LIMIT 1", "run_id")[0][0]
        assert board.page("result", {"run": run}, 0) is None, table


def test_quarantine_and_failures_are_shown_as_text(board: Board, here: Path) -> None:
    html = page(board, "quarantine")
    run, rule = rows(here, "quarantine LIMIT 1", "run_id, rule")[0]
    assert run in html
    assert rule in html
    assert FAILURE not in html
    assert FAILURE.replace("<", "&lt;").replace(">", "&gt;") in html


def test_results_can_be_narrowed(board: Board, here: Path) -> None:
    model, platform = rows(here, "real_results LIMIT 1", "model_name, platform")[0]
    narrowed = page(board, "results", model=model, platform=platform)
    others = {r for (r,) in rows(here, "real_results", "run_id") if r[:8] in narrowed}
    quoted = model.replace("'", "''")  # one of the models is called '; DROP TABLE
    of_it = {r for (r,) in rows(here, f"real_results WHERE model_name = '{quoted}'", "run_id")}
    assert others <= of_it
    assert "No real result fits" in page(board, "results", model="no such model")
    assert "'; DROP TABLE real_results" not in page(board, "results", model="'; DROP TABLE real_results; --<b>")[:200]


def test_results_are_paged_without_a_gap(board: Board, here: Path) -> None:
    found = board._opened()
    parts = [latest(found, offset=offset, limit=3) for offset in range(0, 100, 3)]
    listed = [row["run_id"] for part in parts for row in part.rows]
    assert len(listed) == len(set(listed)) == parts[0].total > 3
    assert [row["run_id"] for row in latest(found).rows] == listed


def test_machines_show_stretches_of_like_answers(board: Board, here: Path) -> None:
    html = page(board, "machines")
    found = rows(here, "availability_changes", "hostname, hardware_type, status, probe_count")
    assert found
    for hostname, _, status, count in found:
        assert hostname in html
        assert status in html
        assert f'<td class="n">{count}</td>' in html


def test_keys_are_listed_with_their_standing(board: Board, here: Path) -> None:
    html = page(board, "keys")
    (key,) = {k for (k,) in rows(here, "real_results", "DISTINCT key_id")} & set(re.findall(r"[0-9a-f]{16,64}", html))
    assert "trusted" in html
    assert key


def test_an_edited_publication_is_refused_and_nothing_of_it_shown(here: Path) -> None:
    with duckdb.connect(str(here / "published.duckdb")) as connection:
        connection.execute("UPDATE real_results SET latency_ms_p50 = 0.001")
    done = CliRunner().invoke(dashboard, ["--static", "out"])
    assert done.exit_code == 1
    assert done.exception is not None
    assert "was edited" in str(done.exception)
    assert not list((here / "out").glob("*.html"))


def test_without_a_publication_it_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(dashboard, ["--static", "out"])
    assert "hwbench gate" in str(done.exception)


def test_a_locked_warehouse_is_said_and_the_published_numbers_stay(board: Board, here: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import duckdb; c = duckdb.connect({str(here / 'hwbench.duckdb')!r}); print('held', flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        html = page(board, "index")
        assert "The warehouse cannot be looked at" in html
        assert "unknown" in html  # never "just now", never 0
        assert page(board, "results")
    finally:
        holder.kill()
        holder.communicate()


def test_static_pages_link_to_files_that_are_there(here: Path) -> None:
    done = CliRunner().invoke(dashboard, ["--static", "out"])
    assert done.exit_code == 0, done.output
    names = {path.name for path in (here / "out").iterdir()}
    assert {f"{name}.html" for name in PAGES} <= names
    for path in (here / "out").glob("*.html"):
        found = Links(path.read_text("utf-8"))
        assert "script" not in found.tags
        missing = {link.partition("?")[0] for link in found.found if not link.startswith("#")} - names
        older = {link for link in missing if link.startswith("result-")}
        assert missing == older, path.name  # results before the newest of their configuration have no file


def test_ago_never_calls_the_unknown_recent() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert ago(None, now) == "never"
    assert ago(now - timedelta(seconds=10), now) == "just now"
    assert ago(now - timedelta(hours=3), now) == "3 hours ago"
    assert ago(datetime(2026, 1, 1), now) == "1 day ago"
    assert "clock is wrong" in ago(now + timedelta(hours=1), now)


# --- served -----------------------------------------------------------------------------------------


@pytest.fixture
def served(here: Path) -> Iterator[str]:
    """The address of a real server over that folder."""
    with _serving(here) as address:
        yield address


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "hwbench_mlflow", "dashboard", "--port", "0"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("dashboard at http://127.0.0.1:"), line
        yield line.split()[2]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert "Traceback" not in errors
        assert "terminate called" not in errors
        assert process.returncode in {0, 1}, (process.returncode, errors)
    finally:
        process.kill()
        process.communicate()


def test_served_pages_let_no_script_but_their_own_run(served: str) -> None:
    for path in ("", "results", "trends", "quarantine", "gate", "machines", "keys"):
        answer = requests.get(f"{served}{path}", timeout=30)
        assert answer.status_code == 200, path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
    assert requests.get(f"{served}live.js", timeout=10).headers["Content-Type"].startswith("text/javascript")


def test_a_name_that_points_here_from_elsewhere_is_refused(served: str) -> None:
    assert requests.get(served, headers={"Host": "evil.example"}, timeout=10).status_code == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [("nosuchpage", 404), ("results/nosuchrun", 404), ("results?offset=-1", 400), ("results?offset=1e9", 400),
     ("results/%3Cscript%3Ealert(1)%3C%2Fscript%3E", 404), ("..%2f..%2fetc%2fpasswd", 404)],
)  # fmt: skip
def test_a_strange_address_gets_a_page_and_a_status(served: str, path: str, status: int) -> None:
    answer = requests.get(f"{served}{path}", timeout=30)
    assert answer.status_code == status
    assert "<script>alert" not in answer.text


def test_nothing_can_be_written(served: str) -> None:
    for method in ("post", "put", "delete"):
        assert requests.request(method, served, timeout=10).status_code == 405


def test_it_follows_a_new_publication(here: Path, served: str) -> None:
    before = requests.get(f"{served}stamp", timeout=10).text
    first = requests.get(served, timeout=30).text
    done = CliRunner().invoke(gate, [])
    assert done.exit_code == 0
    assert requests.get(f"{served}stamp", timeout=10).text != before
    second = requests.get(served, timeout=30).text
    gates = [re.search(r"by gate (\w+)", text) for text in (first, second)]
    assert all(gates)
    assert gates[0] is not None
    assert gates[1] is not None
    assert gates[0][1] != gates[1][1]


def test_it_ends_well_when_told_to_before_its_first_page(here: Path) -> None:
    with _serving(here):
        pass


def test_a_port_that_is_taken_is_one_line(here: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "hwbench_mlflow", "dashboard", "--port", str(taken.getsockname()[1])],
            cwd=here, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot listen on 127.0.0.1" in done.stderr


@pytest.mark.slow
def test_in_a_real_browser_it_shows_a_new_publication_by_itself(here: Path, served: str) -> None:
    if CHROMIUM is None:
        if "chromium" in REQUIRED:
            pytest.fail("Chromium is required here and is not there")
        pytest.skip("there is no Chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            tab = browser.new_page()
            wrong: list[str] = []
            tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
            tab.on("pageerror", lambda error: wrong.append(str(error)))
            tab.goto(served)
            before = tab.inner_text("#freshness")
            time.sleep(4)  # its first look
            assert CliRunner().invoke(gate, []).exit_code == 0
            deadline = time.monotonic() + 20
            while tab.inner_text("#freshness") == before and time.monotonic() < deadline:
                time.sleep(0.2)
            assert tab.inner_text("#freshness") != before
            assert "by gate" in tab.inner_text("#freshness")
            assert not wrong
        finally:
            browser.close()


def test_files_are_checked_before_the_first_page_and_a_bad_one_is_told_by_the_page(
    board: Board, tmp_path: Path
) -> None:
    board.open()
    assert board._found is not None
    absent = Board(tmp_path / "absent.duckdb", tmp_path / "absent-too.duckdb")
    absent.open()
    with pytest.raises(StoreError, match="nothing is published"):
        absent.page("index", {}, 0)
