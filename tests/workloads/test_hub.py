from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from hwbench_mlflow.workloads import hub
from tests.workloads.conftest import put_in_cache

COMMIT = "c" * 40


class _Hub(BaseHTTPRequestHandler):
    """The few routes of the hub that a download needs, on loopback."""

    files: dict[str, bytes] = {}  # noqa: RUF012  (set by each test)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        prefix, content = "/org/model/resolve/", None
        if path.startswith(prefix):
            content = self.files.get(path.removeprefix(prefix).split("/", 1)[1])
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if path.startswith(prefix) else "RepoNotFound")
            content = b""
        else:
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


def _point_at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Iterator[dict[str, bytes]]:
    """A hub on loopback; the test puts the files of ``org/model`` into the dict."""
    files: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (_Hub,), {"files": files}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    _point_at(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield files
    server.shutdown()
    thread.join()
    server.server_close()


def test_weights_come_from_the_hub_into_the_cache(served: dict[str, bytes]) -> None:
    served.update({"config.json": b"{}", "model.safetensors": b"weights"})
    found = hub.download_weights("org/model")
    assert found.folder is not None
    assert (found.folder / "model.safetensors").read_bytes() == b"weights"
    assert found.origin == f"hub:org/model@{COMMIT}"
    assert hub.cached_weights(["org/model"]) == found


def test_every_shard_comes_from_the_hub(served: dict[str, bytes]) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    served.update({"config.json": b"{}", hub.INDEX: json.dumps(index).encode()})
    served.update({"model-1.safetensors": b"1", "model-2.safetensors": b"2"})
    found = hub.download_weights("org/model")
    assert found.folder is not None
    assert (found.folder / "model-2.safetensors").read_bytes() == b"2"


def test_a_repository_with_only_pickles_is_refused_by_that_reason(served: dict[str, bytes]) -> None:
    served.update({"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(hub.Unreachable, match="pickled weights are never loaded"):
        hub.download_weights("org/model")


def test_a_repository_that_is_not_there_is_named(served: dict[str, bytes]) -> None:
    with pytest.raises(hub.Unreachable, match="no public model 'org/other'"):
        hub.download_config("org/other")


def test_a_repository_without_a_config_is_named(served: dict[str, bytes]) -> None:
    with pytest.raises(hub.Unreachable, match=r"'org/model' on the hub has no config\.json"):
        hub.download_config("org/model")


def test_offline_the_hub_is_not_asked(served: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    served["config.json"] = b"{}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(hub.Unreachable, match="HF_HUB_OFFLINE is set"):
        hub.download_config("org/model")


def test_a_hub_that_refuses_the_connection_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _point_at(monkeypatch, f"http://127.0.0.1:{port}")
    with pytest.raises(hub.Unreachable, match="could not be reached"):
        hub.download_config("org/model")


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _point_at(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "REACH_SECONDS", 0.2)
        with pytest.raises(hub.Unreachable, match="could not be reached"):
            hub.download_config("org/model")


def test_a_missing_shard_is_found_before_loading(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / hub.INDEX).write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").touch()
    assert hub.in_folder(tmp_path) == hub.Weights(None, reason="the shard model-2.safetensors is missing")
    (tmp_path / "model-2.safetensors").touch()
    assert hub.in_folder(tmp_path).folder == tmp_path


def test_the_cache_is_searched_under_every_name_of_a_model(hub_cache: Path) -> None:
    assert hub.cached_weights(["org/model", "model"]).reason == "the local cache does not have them"
    snapshot = put_in_cache(hub_cache, "model", {"model.safetensors": b""})
    assert hub.cached_weights(["org/model", "model"]).folder == snapshot


def test_cached_pickles_are_no_weights(hub_cache: Path) -> None:
    put_in_cache(hub_cache, "org/model", {"pytorch_model.bin": b""})
    found = hub.cached_weights(["org/model"])
    assert found.folder is None
    assert "pickled" in found.reason
