"""A tracking server's own troubles: failures in the middle, runs that move while they are read, logins, odd answers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient

from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.warehouse.readers import rest
from hwbench_mlflow.warehouse.readers.http import Server
from hwbench_mlflow.warehouse.readers.rest import RestReader
from hwbench_mlflow.warehouse.sync import SyncOptions, SyncSummary, sync
from tests.warehouse.conftest import collect_garbage, dump, events
from tests.warehouse.scenarios import Metric, fill
from tests.warehouse.servers import PASSWORD, Tracking, free_port

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")]


@dataclass
class Proxy:
    """Stands between the reader and the real server; ``before`` may answer in its place.

    ``before(path, n)`` gets the n-th request since it was set: a bytes object is sent as it is, None lets it through.
    """

    target: str
    before: Callable[[str, int], bytes | None] | None = None
    count: int = 0
    paths: list[str] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def on(self, before: Callable[[str, int], bytes | None]) -> None:
        self.before, self.count, self.paths = before, 0, []


def answer(status: int, body: str = "{}", kind: str = "application/json", *, length: int | None = None) -> bytes:
    raw = body.encode()
    size = len(raw) if length is None else length
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    return head.encode() + raw


@pytest.fixture
def proxy(tracking: Tracking) -> Iterator[Proxy]:
    made = Proxy(tracking.url)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with made.lock:
                made.count += 1
                made.paths.append(self.path)
                raw = made.before(self.path, made.count) if made.before else None
            if raw is None:
                kind = {"Content-Type": self.headers.get("Content-Type") or "application/json"}
                real = requests.request(self.command, made.target + self.path, data=body, headers=kind, timeout=60)
                raw = answer(real.status_code, real.text)
            self.close_connection = True
            with contextlib.suppress(BrokenPipeError):  # a client that lost patience
                self.wfile.write(raw)

        do_POST = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(tracking: Tracking) -> MlflowClient:
    return MlflowClient(tracking.url)


@pytest.fixture
def experiment(client: MlflowClient) -> str:
    """The id of an experiment of the test's own, named like its id's moment."""
    return client.create_experiment(f"e {time.time_ns()}")


class Mirror:
    """Syncs one experiment through the proxy."""

    def __init__(self, proxy: Proxy, client: MlflowClient, experiment: str, folder: Path) -> None:
        self.proxy, self.client, self.experiment, self.folder = proxy, client, experiment, folder
        self.db = folder / "w.duckdb"
        self.options = SyncOptions(experiments=(client.get_experiment(experiment).name,))

    def reader(self) -> RestReader:
        return RestReader("", {}, server=Server(self.proxy.url, {}, tries=4, backoff_s=0.01, timeout_s=(2, 2)))

    def sync(self) -> SyncSummary:
        return sync(self.reader(), self.db, self.options)

    def is_exact(self) -> None:
        self.proxy.before = None
        fresh = self.folder / "fresh.duckdb"
        fresh.unlink(missing_ok=True)
        sync(self.reader(), fresh, self.options)
        assert dump(self.db) == dump(fresh)


@pytest.fixture
def mirror(proxy: Proxy, client: MlflowClient, experiment: str, tmp_path: Path) -> Mirror:
    return Mirror(proxy, client, experiment, tmp_path)


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_failure_that_passes_is_not_noticed(status: int, mirror: Mirror) -> None:
    fill(mirror.client, mirror.experiment)
    mirror.proxy.on(lambda _, n: answer(status, "<h1>down</h1>", "text/html") if n % 3 == 2 else None)
    assert mirror.sync().runs_added == 4
    mirror.is_exact()


def test_an_answer_that_breaks_off_or_is_cut_short_is_asked_for_again(mirror: Mirror) -> None:
    fill(mirror.client, mirror.experiment)
    broken = {2: answer(200, '{"experiments": [', length=9_999), 4: answer(200, '{"runs": ['), 6: b""}
    mirror.proxy.on(lambda _, n: broken.get(n))
    assert mirror.sync().runs_added == 4
    mirror.is_exact()


def test_an_answer_that_does_not_come_is_asked_for_again(mirror: Mirror) -> None:
    fill(mirror.client, mirror.experiment)

    def hangs_once(_: str, n: int) -> None:
        if n == 3:
            mirror.proxy.lock.release()
            time.sleep(2.5)
            mirror.proxy.lock.acquire()

    mirror.proxy.on(hangs_once)
    assert mirror.sync().runs_added == 4
    mirror.is_exact()


@pytest.mark.parametrize("begins_at", [1, 3, 4, 6])
def test_a_server_that_fails_for_good_stops_the_sync_and_nothing_is_half_written(
    begins_at: int, mirror: Mirror
) -> None:
    runs = fill(mirror.client, mirror.experiment)
    mirror.sync()
    before = dump(mirror.db)
    for run in runs:
        mirror.client.set_tag(run, "u", "edited")
    mirror.proxy.on(lambda _, n: answer(503) if n >= begins_at else None)
    with pytest.raises(StoreError, match=r"failed 4 times at .*: status 503\. nothing was written") as raised:
        mirror.sync()
    assert "\n" not in str(raised.value)
    assert dump(mirror.db) == before
    mirror.proxy.before = None
    assert mirror.sync().runs_changed == 4
    mirror.is_exact()


def test_what_is_not_a_tracking_server_is_said_at_once(mirror: Mirror) -> None:
    mirror.proxy.on(lambda *_: answer(200, "<html>hello</html>", "text/html"))
    with pytest.raises(StoreError, match="is not an MLflow tracking server"):
        mirror.sync()
    mirror.proxy.on(lambda *_: answer(404, "not found", "text/plain"))
    with pytest.raises(StoreError, match="not an MLflow tracking server, or an old one"):
        mirror.sync()
    assert mirror.proxy.count == 1, "what will not pass is not tried again"
    with pytest.raises(StoreError, match="no server answers at"):
        sync(RestReader(f"http://127.0.0.1:{free_port()}", {}), mirror.db)


# -- runs that move ----------------------------------------------------------------------------------------------------


def test_a_run_that_moves_between_its_row_and_its_history_is_read_again(mirror: Mirror) -> None:
    runs = fill(mirror.client, mirror.experiment)

    def moves(path: str, _: int) -> None:
        if "history" in path and moved:
            mirror.client.log_metric(moved.pop(), "a_ms", 1.0, step=100)

    moved = runs[:2]
    mirror.proxy.on(moves)
    summary = mirror.sync()
    assert (summary.runs_added, summary.refused) == (4, {})
    mirror.is_exact()


def test_a_run_that_never_stands_still_is_refused_by_name_and_the_rest_goes_on(mirror: Mirror) -> None:
    runs = fill(mirror.client, mirror.experiment)
    mirror.proxy.on(lambda path, n: mirror.client.log_metric(runs[1], "a_ms", n, step=n) if "history" in path else None)
    summary = mirror.sync()
    assert list(summary.refused) == [runs[1]]
    assert "kept changing" in summary.refused[runs[1]]
    assert len(dump(mirror.db)["mlflow.runs"]) == 3
    mirror.proxy.before = None
    assert mirror.sync().refused == {}
    mirror.is_exact()


def test_a_run_collected_while_it_is_read_is_left_out(mirror: Mirror, tracking: Tracking) -> None:
    runs = fill(mirror.client, mirror.experiment)

    def vanishes(path: str, _: int) -> None:
        if "history" in path and doomed:
            mirror.client.delete_run(doomed.pop())
            collect_garbage(f"sqlite:///{tracking.store}", tracking.url)

    doomed = [runs[2]]
    mirror.proxy.on(vanishes)
    assert mirror.sync().refused == {}
    assert len(dump(mirror.db)["mlflow.runs"]) == 3
    mirror.is_exact()


@pytest.mark.parametrize("how", [answer(403), answer(200, '{"metrics": []}')], ids=["forbidden", "empty"])
def test_a_history_that_is_not_shown_is_not_taken_for_an_empty_one(how: bytes, mirror: Mirror) -> None:
    runs = fill(mirror.client, mirror.experiment)
    mirror.proxy.on(lambda path, _: how if "history" in path else None)
    summary = mirror.sync()
    assert sorted(summary.refused) == sorted(runs)
    assert "does not show the metric history" in summary.refused[runs[0]]
    assert dump(mirror.db)["mlflow.runs"] == []
    mirror.proxy.before = None
    assert mirror.sync().runs_added == 4
    mirror.is_exact()


def test_a_run_that_is_not_listed_is_kept_until_the_server_says_it_is_gone(
    mirror: Mirror, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = fill(mirror.client, mirror.experiment)
    mirror.sync()
    listed = RestReader._listed

    def shorter(self: RestReader, pool: ThreadPoolExecutor, experiments: list[str]) -> Iterator[list[dict[str, Any]]]:
        for page in listed(self, pool, experiments):
            yield [r for r in page if r["info"]["run_id"] != runs[0]]

    said: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(RestReader, "_listed", shorter)
        assert sync(mirror.reader(), mirror.db, mirror.options, say=said.append).up_to_date
        assert any(runs[0] in line and "kept" in line for line in said)
        mirror.client.delete_run(runs[0])
        collect_garbage(f"sqlite:///{tracking.store}", tracking.url)
        assert mirror.sync().runs_removed == 1


# -- pages -------------------------------------------------------------------------------------------------------------


def test_pages_lose_nothing_however_runs_share_start_times(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "PAGE", 3)
    for start in (0, 5, 5, 5, 5, 5, 5, 5, 6, 7, 7, 7, 8, 8, 9):
        run = mirror.client.create_run(mirror.experiment, start_time=start)
        mirror.client.log_param(run.info.run_id, "p", str(start))
    mirror.client.delete_run(run.info.run_id)
    mirror.proxy.on(lambda *_: None)
    assert mirror.sync().runs_added == 15
    assert sum(path.endswith("/runs/search") for path in mirror.proxy.paths) > 15 / 3, "in pages"
    monkeypatch.undo()
    mirror.is_exact()


@pytest.mark.parametrize("bulk", [True, False])
def test_long_histories_come_whole(bulk: bool, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = fill(mirror.client, mirror.experiment)
    points = [Metric("a_ms", v, t, s) for t in (1, 2) for s in range(4) for v in (0.0, float("nan"), float(s))]
    mirror.client.log_batch(runs[0], metrics=points)
    monkeypatch.setattr(rest, "BULK_CAP", 5)
    monkeypatch.setattr(rest, "HISTORY_PAGE", 2)
    if not bulk:
        mirror.proxy.on(lambda path, _: answer(404, "no such page", "text/plain") if "bulk" in path else None)
    mirror.sync()
    assert any("get-history?" in path for path in mirror.proxy.paths) or bulk
    monkeypatch.undo()
    mirror.is_exact()


# -- logins ------------------------------------------------------------------------------------------------------------


def test_with_basic_auth_a_login_is_needed_and_what_it_hides_is_not_gone(guarded: Tracking, tmp_path: Path) -> None:
    admin = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": f"{PASSWORD}-admin"}
    db = tmp_path / "w.duckdb"
    for wrong in ({}, {**admin, "MLFLOW_TRACKING_PASSWORD": "s3cret"}):
        with pytest.raises(StoreError, match="does not accept the login") as raised:
            sync(RestReader(guarded.url, wrong), db)
        assert "s3cret" not in str(raised.value)
    client = MlflowClient(f"sqlite:///{guarded.store}")
    runs = fill(client, client.create_experiment("hidden"))
    assert sync(RestReader(guarded.url, admin), db).runs_added == 4
    whole = dump(db)

    created = requests.post(
        f"{guarded.url}/api/2.0/mlflow/users/create", json={"username": "bob", "password": f"{PASSWORD}-bob-bob"},
        auth=("admin", f"{PASSWORD}-admin"), timeout=30,
    )  # fmt: skip
    assert created.status_code == 200, created.text
    bob = {"MLFLOW_TRACKING_USERNAME": "bob", "MLFLOW_TRACKING_PASSWORD": f"{PASSWORD}-bob-bob"}
    said: list[str] = []
    summary = sync(RestReader(guarded.url, bob), db, say=said.append)
    assert (summary.up_to_date, summary.runs_removed) == (True, 0)
    assert sorted(r for r in runs if any(r in line for line in said)) == sorted(runs)
    assert dump(db) == whole

    with_user = guarded.url.replace("http://", f"http://admin:{PASSWORD.replace('@', '%40')}-admin@")
    client.delete_run(runs[0])
    collect_garbage(f"sqlite:///{guarded.store}")
    assert sync(RestReader(with_user, {}), db).runs_removed == 1
    assert {e[0] for e in events(db)} == {"run_added", "run_removed", "experiment_added"}
