"""How often a tracking server is asked for one run, counted at a socket that answers as MLflow's REST API does.

The same is counted on a real `mlflow server` in ``warehouse/test_shared_server.py``; this one is quick.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from hwbench_mlflow.cli.delivery import Delivery
from hwbench_mlflow.codec import sha256
from hwbench_mlflow.evidence import EVIDENCE_FILES, RunIndex, bind, judge, seal
from hwbench_mlflow.index import index_of
from hwbench_mlflow.keystore import load_keyring, signing_key
from hwbench_mlflow.model import VerdictState
from hwbench_mlflow.spool import Spool
from hwbench_mlflow.tracking import Store
from hwbench_mlflow.tracking.reader import HISTORIES_AT_A_TIME
from tests.honest import honest

RUN = "0123456789abcdef0123456789abcdef"


class Answers(BaseHTTPRequestHandler):
    """What a client of MLflow needs to hear; everything asked is noted."""

    asked: list[str] = []  # noqa: RUF012  # one list a test: the fixture empties it
    connections: set[object] = set()  # noqa: RUF012  # the same
    held: tuple[RunIndex, dict[str, bytes]] | None = None
    second_history = threading.Event()
    protocol_version = "HTTP/1.1"  # connections stay open, as a real server's do

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
        self.connections.add(self.client_address)
        if self.held is not None and "/mlflow-artifacts/artifacts" in path and path.count("/") > 4:
            self._send(self.held[1][path.rpartition("/")[2]])
            return
        info = {
            "run_id": RUN, "run_uuid": RUN, "experiment_id": "0", "status": "RUNNING", "start_time": 1, "run_name": "x",
            "artifact_uri": f"mlflow-artifacts:/0/{RUN}/artifacts", "lifecycle_stage": "active", "user_id": "",
        }  # fmt: skip
        body: dict[str, object] = {}
        if path.endswith("runs/create"):
            body = {"run": {"info": info, "data": {}}}
        elif path.endswith("runs/update"):
            body = {"run_info": info}
        elif path.endswith("experiments/get"):
            tag = {"key": "mlflow.experimentKind", "value": "custom_model_development"}
            body = {"experiment": {"experiment_id": "0", "name": "Default", "lifecycle_stage": "active", "tags": [tag]}}
        elif self.held is not None:
            body = self._held(path, info)
        self._send(json.dumps(body).encode())

    def _held(self, path: str, info: dict[str, object]) -> dict[str, object]:
        """What a client hears of the run that is held here: its index, the history of a metric, its files."""
        assert self.held is not None
        index, files = self.held
        if path.endswith("runs/get"):
            data = {
                "metrics": [_point(name, points[-1]) for name, points in index.metrics.items()],
                "params": [{"key": key, "value": value} for key, value in index.params.items()],
                "tags": [{"key": key, "value": value} for key, value in index.tags.items()],
            }
            return {"run": {"info": {**info, "status": index.status}, "data": data}}
        if path.endswith("metrics/get-history"):
            if sum(one.endswith("metrics/get-history") for one in self.asked) > 1:
                self.second_history.set()
            self.second_history.wait(30)
            [name] = parse_qs(urlsplit(self.path).query)["metric_key"]
            return {"metrics": [_point(name, value) for value in index.metrics[name]]}
        if path.endswith("server-info"):
            return {}
        assert path.endswith("/mlflow-artifacts/artifacts"), path
        return {"files": [{"path": name, "is_dir": False, "file_size": len(data)} for name, data in files.items()]}

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _point(name: str, value: float) -> dict[str, object]:
    return {"key": name, "value": value, "timestamp": 1, "step": 0}


@pytest.fixture
def server(blank_store: Path) -> Iterator[str]:
    """Its address. ``blank_store`` has MLflow imported without its own warnings."""
    Answers.asked.clear()
    Answers.connections.clear()
    Answers.second_history.clear()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_address[1]}"
    listening.shutdown()
    thread.join()
    listening.server_close()


def deliver(sender: Delivery, count: int) -> int:
    """How many requests ``count`` runs take, from their start to their end."""
    before = len(Answers.asked)
    files = seal(*honest(), signing_key())
    for _ in range(count):
        assert sender.keep(sender.open("x", {}), files) == RUN
    return len(Answers.asked) - before


def test_a_run_costs_ten_requests_and_one_of_a_batch_nine(server: str, tmp_path: Path) -> None:
    told: list[str] = []
    alone = Delivery(server, None, signing_key(), load_keyring(), told.append, Spool(tmp_path))
    assert deliver(alone, 1) == 11, "the first asks how the experiment is shown"
    assert deliver(alone, 3) == 30, Answers.asked
    batch = Delivery(server, None, signing_key(), load_keyring(), told.append, Spool(tmp_path))
    batch.open_parent("p", {}, b"{}")
    first = deliver(batch, 1)
    assert deliver(batch, 4) == 36, Answers.asked
    batch.end_parent(5, 0)
    assert first == 9 + 3, "the parent, its plan, and how the experiment is shown"
    assert told == []


def test_a_run_is_read_by_one_request_a_metric_side_by_side_and_one_a_file(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, samples = honest()
    files = seal(result, samples, signing_key())
    binding = bind(files, result.result_id, RUN, "2026-11-25T00:00:00+00:00", signing_key())
    files = {**files, "binding.dsse.json": binding}
    made = index_of(result, sha256(files["result.json"]), judge(files, None, load_keyring()).verdict)
    metrics = {name: [value] for name, value in made.metrics.items()}
    held = RunIndex(run_id=RUN, status="FINISHED", params=made.params, tags=made.tags, metrics=metrics)
    monkeypatch.setattr(Answers, "held", (held, files))
    store = Store(server)
    before = len(Answers.asked)
    index, read = store.read_run(RUN)
    asked = [one for one in Answers.asked[before:] if not one.endswith("server-info")]  # once a process
    assert judge(read, index, load_keyring()).verdict.state is VerdictState.VERIFIED
    assert set(read) == set(EVIDENCE_FILES)
    assert len(asked) == 1 + len(metrics) + 1 + len(EVIDENCE_FILES), asked
    assert Answers.second_history.is_set(), "one after the other"
    assert len(Answers.connections) <= HISTORIES_AT_A_TIME + 1, "the files have a session of their own"


def test_a_point_that_only_a_history_shows_is_found_on_a_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = RunIndex(run_id=RUN, status="FINISHED", params={}, tags={}, metrics={"latency_ms_p50": [9.0, 1.0, 2.0]})
    monkeypatch.setattr(Answers, "held", (held, {}))
    Answers.second_history.set()  # there is one metric alone
    index, files = Store(server).read_run(RUN)
    assert (index.metrics, files) == ({"latency_ms_p50": [9.0, 1.0, 2.0]}, {})
