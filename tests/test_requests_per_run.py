"""How often a tracking server is asked for one run, counted at a socket that answers as MLflow's REST API does.

The same is counted on a real `mlflow server` in ``warehouse/test_shared_server.py``; this one is quick.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hwbench_mlflow.cli.delivery import Delivery
from hwbench_mlflow.evidence import seal
from hwbench_mlflow.keystore import load_keyring, signing_key
from hwbench_mlflow.spool import Spool
from tests.honest import honest

RUN = "0123456789abcdef0123456789abcdef"


class Answers(BaseHTTPRequestHandler):
    """What a client of MLflow needs to hear; everything asked is noted."""

    asked: list[str] = []  # noqa: RUF012  # one list a test: the fixture empties it

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
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
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server(blank_store: Path) -> Iterator[str]:
    """Its address. ``blank_store`` has MLflow imported without its own warnings."""
    Answers.asked.clear()
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
