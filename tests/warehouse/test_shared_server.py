"""A shared server as people run one: `mlflow server` over PostgreSQL, artifacts by proxy, basic auth. Results reach it
by way of the spool, whatever happens to it meanwhile."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hwbench_mlflow import runner
from hwbench_mlflow.model import RunRequest
from hwbench_mlflow.runner import Measured
from hwbench_mlflow.spool import Spool
from tests.commands import caller, only, said
from tests.test_cli_batch import measured
from tests.warehouse.servers import PASSWORD, Cluster, _healthy, _wait, free_port

pytestmark = pytest.mark.slow

ADMIN = f"{PASSWORD}-admin"
BASE = ("batch", "--hardware", "cpu", "--batch-sizes", "1,2", "--seed", "3")
BATCH = (*BASE, "--models", "bert-tiny,gpt2")
Call = Callable[..., tuple[int, str, str]]


class Lab:
    """The server; it can be taken away and brought back."""

    def __init__(self, folder: Path, database: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self._database = database
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def start(self) -> None:
        settings = self.folder / "auth.ini"
        settings.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{self.folder}/auth.db\n"
            f"admin_username = admin\nadmin_password = {ADMIN}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        with (self.folder / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                 "--workers", "1", "--backend-store-uri", self._database,
                 "--artifacts-destination", str(self.folder / "artifacts"), "--app-name", "basic-auth"],
                stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                     "MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests only"},
            )  # fmt: skip
        _wait(lambda: _healthy(self.url), self._server, self.folder / "server.log")

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self._server is not None:
            os.killpg(self._server.pid, number)
            self._server.wait(30)
            self._server = None

    def requests(self) -> int:
        """How many requests for runs and artifacts the server has answered so far."""
        return len(re.findall(r'"(?:GET|POST|PUT|PATCH|DELETE) /(?:api|ajax-api)/', self.log))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[Lab]:
    cluster.execute("postgres", "CREATE DATABASE shared_lab")
    made = Lab(tmp_path_factory.mktemp("lab"), cluster.uri("shared_lab"))
    made.start()
    try:
        yield made
    finally:
        made.stop(signal.SIGTERM)


@pytest.fixture
def call(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, isolated: Path
) -> Iterator[Call]:
    """``hwbench`` in this process, with a runner that answers at once, told of the server as people tell it."""

    def quick(request: RunRequest, progress: Any, before_timing: Callable[[], None]) -> Measured:
        before_timing()
        return measured(request)

    monkeypatch.setattr(runner, "run", quick)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", lab.url)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    shutil.rmtree(isolated / "spool", ignore_errors=True)

    yield caller(monkeypatch, capsys)
    shutil.rmtree(isolated / "spool", ignore_errors=True)


def found(experiment: str) -> tuple[Counter[str], set[str]]:
    """The statuses of an experiment's runs, parent and children, and the ids of their results."""
    from mlflow import MlflowClient

    client = MlflowClient()
    known = client.get_experiment_by_name(experiment)
    assert known is not None
    every = client.search_runs([known.experiment_id])
    results = [run.data.params["hwbench.result_id"] for run in every if "hwbench.result_id" in run.data.params]
    assert len(results) == len(set(results)), "doubled"
    return Counter(run.info.status for run in every), set(results)


def test_a_cell_costs_the_server_at_most_ten_requests(call: Call, lab: Lab) -> None:
    before = lab.requests()
    code, out, err = call(*BATCH, "--experiment", "count")
    small = lab.requests() - before
    assert (code, err) == (0, ""), out
    before = lab.requests()
    assert call(*BASE, "--models", "bert-tiny,gpt2,distilbert", "--experiment", "count")[0] == 0
    large = lab.requests() - before
    assert 0 < large - small <= 2 * 10, f"{small} for 4 cells, {large} for 6"
    assert found("count")[0] == Counter(FINISHED=12)


@contextmanager
def dies_at(monkeypatch: pytest.MonkeyPatch, lab: Lab, step: str, count: int) -> Iterator[None]:
    """The server is killed before the ``count``-th call of a step of the store, for the next request to find."""
    from hwbench_mlflow.tracking import Store

    real = getattr(Store, step)
    left = [count]

    def dying(self: Store, *arguments: Any, **settings: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            lab.stop()
        return real(self, *arguments, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(Store, step, dying)
        yield


@pytest.mark.parametrize(("step", "count"), [("log_result", 2), ("_log", 2), ("start", 4)])
def test_a_server_that_dies_in_the_middle_loses_nothing_and_doubles_nothing(
    call: Call, lab: Lab, monkeypatch: pytest.MonkeyPatch, step: str, count: int
) -> None:
    experiment = f"outage {step}"
    with dies_at(monkeypatch, lab, step, count):
        code, out, err = call(*BATCH, "--experiment", experiment)
    try:
        assert (code, err.count("results wait in")) == (0, 1), err
        assert "queued" in out
        assert call("push", "--spool")[0] == 1, "it is away still"
    finally:
        lab.start()
    assert call("push", "--spool")[0] == 0
    statuses, results = found(experiment)
    assert (statuses, len(results)) == (Counter(FINISHED=5), 4)
    assert Spool().waiting() == []


def test_a_server_that_was_away_from_the_start_gets_it_all_nested_by_the_next_batch(call: Call, lab: Lab) -> None:
    call(*BATCH, "--experiment", "nested")  # the experiment is there
    lab.stop()
    try:
        code, out, err = call(*BATCH, "--experiment", "nested")
        assert code == 0
        assert "4 cells: 4 queued; parent run (waits in the spool)" in out
        assert len(err.splitlines()) == 1
    finally:
        lab.start()
    assert call(*BASE, "--models", "bert-tiny", "--experiment", "nested")[0] == 0
    statuses, results = found("nested")
    assert (statuses, len(results)) == (Counter(FINISHED=13), 10)
    from mlflow import MlflowClient

    client = MlflowClient()
    every = client.search_runs([client.get_experiment_by_name("nested").experiment_id])
    nested = Counter(run.data.tags.get("mlflow.parentRunId") for run in every)
    assert sorted(nested.values()) == [2, 3, 4, 4]
    for run in every:
        if "hwbench.result_id" in run.data.params:
            assert "binding.dsse.json" in {Path(f.path).name for f in client.list_artifacts(run.info.run_id, "hwbench")}
    # One of those that waited: the server hashes the password anew for each of some forty requests.
    waited = next(run for run in every if "hwbench.result_id" in run.data.params)
    assert call("verify", waited.info.run_id)[0] == 0


def test_a_wrong_password_is_one_line_before_anything_is_measured(
    call: Call, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "guessed")
    code, out, err = call(*BATCH)
    assert (code, out) == (1, "")
    assert "the tracking store refused" in only(said(err))
    assert "401" in err or "not authenticated" in err
    assert Spool().waiting() == []
