"""From the command to the store, as people do it: what is there afterwards, and what every edit of it gives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click.testing
import pytest

from hwbench_mlflow import evidence
from hwbench_mlflow.bundle import read_bundle, write_bundle
from hwbench_mlflow.cli.push import push
from hwbench_mlflow.cli.verify import verify
from hwbench_mlflow.codec import decode_result, encode
from hwbench_mlflow.errors import ExitCode
from hwbench_mlflow.keystore import load_keyring
from hwbench_mlflow.metrics import METRICS
from tests import troubled
from tests.commands import (
    ROOT,
    SMOKE,
    alive,
    command,
    copy_project,
    copy_store,
    environment,
    hwbench,
    only,
    performance,
    said,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

pytestmark = pytest.mark.slow

PARENT_TAG = "mlflow.parentRunId"


@dataclass(frozen=True)
class Project:
    """A copy of the project's folder, what happened in it, and the store that this left there."""

    folder: Path
    done: subprocess.CompletedProcess[str]
    forbidden: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def runs(self, condition: str = "") -> list[Run]:
        return list(self.client.search_runs(["0"], condition, order_by=["attributes.start_time ASC"]))

    @property
    def main(self) -> Run:
        """The run of the verbatim command."""
        return [r for r in self.runs("tags.model = 'bert-tiny'") if "mlflow.project.entryPoint" in r.data.tags][-1]


def project_environment(forbidden: Path) -> dict[str, str]:
    """Without this checkout on Python's path, and with environment managers that fail if anything calls them."""
    env = environment()
    del env["PYTHONPATH"]
    return {**env, "PATH": f"{forbidden}{os.pathsep}{env['PATH']}"}


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, blank_store: Path) -> Project:
    """``mlflow run .``, as the README has it, in what a clone would hold."""
    forbidden = tmp_path_factory.mktemp("managers")
    for name in ("pyenv", "conda", "docker", "virtualenv", "uv"):
        (forbidden / name).write_text(f"#!/bin/sh\necho called >> {forbidden}/{name}.called\nexit 97\n")
        (forbidden / name).chmod(0o755)
    folder = copy_project(tmp_path_factory.mktemp("clone"))
    arguments = ("run", ".", "-P", "model=bert-tiny", "-P", "hardware=cpu", "-P", "profile=smoke")
    for _ in range(3):  # on a machine that does much else, an honest run of 0.3 s can be unverified
        done = command("mlflow", *arguments, cwd=folder, env=project_environment(forbidden))
        if "verdict     unverified" not in done.stdout:
            break
    return Project(folder, done, forbidden)


# --- what the main command leaves ---------------------------------------------------------------


def test_the_verbatim_mlflow_run_measures_and_says_so(project: Project) -> None:
    assert project.done.returncode == 0, project.done.stderr
    assert "bert-tiny on " in project.done.stdout
    assert "verdict     verified" in project.done.stdout
    assert f"run         {project.main.info.run_id}" in project.done.stdout


def test_no_environment_manager_is_called_even_where_one_is_there(project: Project) -> None:
    assert sorted(path.name for path in project.forbidden.iterdir()) == [
        "conda", "docker", "pyenv", "uv", "virtualenv",
    ]  # fmt: skip


def test_the_run_is_finished_under_a_name_that_says_what_was_measured(project: Project) -> None:
    info = project.main.info
    assert (info.status, info.run_name) == ("FINISHED", "bert-tiny-cpu-fp32-b1")
    assert info.end_time >= info.start_time


def test_its_tags_are_those_of_the_design(project: Project) -> None:
    tags = project.main.data.tags
    expected = {
        "hardware": "cpu", "hardware_available": "true", "availability_verified": "true", "is_simulated": "false",
        "verdict": "verified", "model": "bert-tiny", "hwbench.role": "result", "hwbench.profile": "smoke",
        "hwbench.ranked": "false", "hwbench.weights": "random", "hwbench.precision": "fp32",
    }  # fmt: skip
    assert {name: tags.get(name) for name in expected} == expected
    assert "simulation_reason" not in tags


def test_its_params_are_the_given_ones_and_the_resolved_ones(project: Project) -> None:
    params = project.main.data.params
    files = _files(project.client, project.main.info.run_id)
    assert params["model"] == "bert-tiny"
    assert params["hwbench.sequence_length"] == "128"
    assert params["hwbench.batch_size"] == "1"
    assert params["hwbench.result_sha256"] == evidence.sha256(files[evidence.RESULT_FILE])


def test_its_metrics_are_numbers_of_the_table_and_none_is_a_stand_in(project: Project) -> None:
    metrics = project.main.data.metrics
    ours = {name for name in metrics if name in METRICS}
    assert ours == set(metrics)
    assert {"latency_ms_p50", "throughput_items_per_s", "memory_peak_mb", "first_inference_ms", "load_ms"} <= ours
    for name in ("latency_ms_p50", "throughput_items_per_s", "memory_peak_mb", "roofline_fraction"):
        assert metrics[name] > 0
    assert metrics["latency_ms_p50_ci95_low"] <= metrics["latency_ms_p50"] <= metrics["latency_ms_p50_ci95_high"]
    document = json.loads(_files(project.client, project.main.info.run_id)[evidence.SAMPLES_FILE])
    samples = document["workers"][0]["samples_ns"]
    assert metrics["sample_count"] == len(samples) >= 12
    assert ("latency_ms_p99" in metrics) is (len(samples) >= 662), "MLPerf's rule for p99"


def _files(client: MlflowClient, run_id: str) -> dict[str, bytes]:
    from hwbench_mlflow.tracking import Store

    return Store(client.tracking_uri).read_run(run_id)[1]


def test_its_artifacts_are_the_evidence_a_figure_and_a_table(project: Project, tmp_path: Path) -> None:
    client, run_id = project.client, project.main.info.run_id
    assert {item.path for item in client.list_artifacts(run_id)} >= {"hwbench", "latency.png", "samples_table.json"}
    assert {Path(item.path).name for item in client.list_artifacts(run_id, "hwbench")} == set(evidence.EVIDENCE_FILES)
    picture = Path(client.download_artifacts(run_id, "latency.png", str(tmp_path))).read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    table = json.loads(Path(client.download_artifacts(run_id, "samples_table.json", str(tmp_path))).read_text())
    assert table["columns"] == ["worker", "sample", "latency_ms"]
    assert len(table["data"]) == project.main.data.metrics["sample_count"]


def test_its_note_says_in_words_what_was_measured(project: Project) -> None:
    note = project.main.data.tags["mlflow.note.content"]
    for words in ("**Verdict: verified.**", "Batch 1, 128 tokens, fp32", "a test profile: never ranked", "median"):
        assert words in note


def test_its_input_is_the_workload_s_challenge(project: Project) -> None:
    (given,) = project.main.inputs.dataset_inputs
    assert given.dataset.name == "challenge inputs for bert-tiny"
    assert json.loads(given.dataset.profile) == {"batch_size": 1, "sequence_length": 128}


# --- verify, and what each edit gives -----------------------------------------------------------


def verified(uri: str, run_id: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(verify, [run_id, "--tracking-uri", uri])


def test_verify_recomputes_everything_from_the_store_and_is_content(project: Project) -> None:
    run_id = project.main.info.run_id
    done = hwbench("verify", run_id, cwd=project.folder)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(f"{run_id}: verified\n")
    assert "recompute to the statistics exactly" in done.stdout


@dataclass(frozen=True)
class Copied:
    """A copy of the store for one test to spoil."""

    uri: str
    run_id: str
    other_id: str
    folder: Path

    @property
    def client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def artifact(self, run_id: str, name: str) -> Path:
        return only_path(self.folder.glob(f"mlruns/0/{run_id}/artifacts/hwbench/{name}"))


def only_path(paths: Iterator[Path]) -> Path:
    (path,) = paths
    return path


def set_tag(name: str, value: str) -> Callable[[Copied], None]:
    return lambda store: store.client.set_tag(store.run_id, name, value)


def log_again(name: str, value: float) -> Callable[[Copied], None]:
    return lambda store: store.client.log_metric(store.run_id, name, value, step=1)


def edit_samples(store: Copied) -> None:
    path = store.artifact(store.run_id, evidence.SAMPLES_FILE)
    document = json.loads(path.read_text())
    document["workers"][0]["samples_ns"][0] //= 2
    path.write_text(json.dumps(document, separators=(",", ":")))


def copy_evidence(store: Copied) -> None:
    for name in evidence.EVIDENCE_FILES:
        shutil.copyfile(store.artifact(store.other_id, name), store.artifact(store.run_id, name))


@pytest.fixture
def copied(project: Project, nested: list[Run], tmp_path: Path) -> Copied:
    uri = copy_store(project.folder, tmp_path / "copy")
    return Copied(uri, project.main.info.run_id, nested[1].info.run_id, tmp_path / "copy")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (set_tag("is_simulated", "true"), "tag is_simulated says 'true', the evidence 'false'"),
        (set_tag("hardware", "cuda"), "tag hardware says 'cuda', the evidence 'cpu'"),
        (log_again("latency_ms_p50", 0.001), "metric latency_ms_p50 was logged as"),
        (edit_samples, "samples.json is not the file that result.json was made from"),
        (copy_evidence, "the evidence belongs to another run: it was copied here"),
    ],
    ids=["is_simulated", "hardware", "metric", "samples", "evidence"],
)
def test_an_edit_is_contradicted_with_its_reason(edit: Callable[[Copied], None], reason: str, copied: Copied) -> None:
    assert verified(copied.uri, copied.run_id).exit_code == 0
    edit(copied)
    done = verified(copied.uri, copied.run_id)
    assert done.exit_code == 3
    assert done.output.startswith(f"{copied.run_id}: contradicted\n")
    assert reason in done.output


def test_a_signature_by_a_key_that_is_not_trusted_is_unverified(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path / "another machine's"))
    done = verified(project.uri, project.main.info.run_id)
    assert done.exit_code == 3
    assert done.output.startswith(f"{project.main.info.run_id}: unverified\n")
    assert "not among the keys trusted here" in done.output
    assert "contradicted" not in done.output


# --- several batch sizes ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def nested(project: Project, tiny_folder: Path) -> list[Run]:
    """The parent and the children of one command, in the same store."""
    done = hwbench("run", "--model", str(tiny_folder), *SMOKE, "--batch-size", "1,4", cwd=project.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (parent,) = project.runs("tags.`hwbench.role` = 'parent'")
    return [parent, *project.runs(f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'")]


def test_several_batch_sizes_are_a_parent_without_numbers_and_a_nested_run_each(nested: list[Run]) -> None:
    parent, *children = nested
    assert (parent.info.status, parent.data.metrics) == ("FINISHED", {})
    assert [child.data.params["hwbench.batch_size"] for child in children] == ["1", "4"]
    assert [child.info.run_name for child in children] == ["tiny-cpu-fp32-b1", "tiny-cpu-fp32-b4"]
    for child in children:
        assert child.info.status == "FINISHED"
        assert child.data.metrics["latency_ms_p50"] > 0


def test_a_parent_is_verified_by_its_nested_runs(project: Project, nested: list[Run]) -> None:
    done = verified(project.uri, nested[0].info.run_id)
    verdicts = {child.info.run_id: child.data.tags["verdict"] for child in nested[1:]}
    assert [f"{run_id}: {verdict}\n" in done.output for run_id, verdict in verdicts.items()] == [True, True]
    assert done.exit_code == (0 if set(verdicts.values()) == {"verified"} else 3)


# --- what cannot be right, and what is not there ------------------------------------------------


def test_an_unknown_parameter_under_mlflow_run_ends_the_run_with_what_is_allowed(project: Project) -> None:
    arguments = ("run", ".", "-P", "model=bert-tiny", "-P", "hardware=cpu", "-P", "colour=red")
    done = command("mlflow", *arguments, cwd=project.folder, env=project_environment(project.forbidden))
    assert done.returncode == 1
    line = only(said(done.stderr))
    assert "'--colour'" in line
    assert "Allowed: --model, --hardware" in line
    (run,) = project.runs("params.colour = 'red'")
    assert run.info.status == "FAILED"
    assert run.data.tags["hwbench.failure_category"] == "usage"
    assert run.data.tags["hwbench.failure_reason"] in line
    assert run.data.metrics == {}


def test_hardware_that_is_absent_under_mlflow_run_ends_the_run_with_the_reason(project: Project) -> None:
    from hwbench_mlflow.model import Platform
    from hwbench_mlflow.probing import probe_isolated

    absent = [a for a in probe_isolated([Platform.MPS, Platform.ROCM]) if a.status != "AVAILABLE"]
    assert absent, "no machine has both"
    name = absent[0].platform.value
    arguments = ("run", ".", "-P", "model=bert-tiny", "-P", f"hardware={name}", "-P", "profile=smoke")
    done = command("mlflow", *arguments, cwd=project.folder, env=project_environment(project.forbidden))
    assert done.returncode == 1, "mlflow run has no other"
    assert f"{name} is unavailable: {absent[0].reason}" in only(said(done.stderr))
    (run,) = project.runs(f"tags.hardware = '{name}'")
    assert (run.info.status, run.data.metrics) == ("FAILED", {})
    assert run.data.tags["hardware_available"] == "false"
    assert run.data.tags["availability_verified"] == "false"
    assert run.data.tags["hwbench.availability_status"] == absent[0].status
    assert absent[0].reason in run.data.tags["hwbench.failure_reason"]
    assert "verdict" not in run.data.tags


def test_a_project_under_projects_stands_by_itself(project: Project, tiny_folder: Path, tmp_path: Path) -> None:
    """Its command is the installed ``hwbench``: here a script that does what the installed one does."""
    script = tmp_path / "bin" / "hwbench"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m hwbench_mlflow "$@"\n')
    script.chmod(0o755)
    folder = tmp_path / "text"
    shutil.copytree(project.folder / "projects" / "text", folder)
    env = environment()
    env["PATH"] = f"{script.parent}{os.pathsep}{env['PATH']}"
    given = {"model": str(tiny_folder), "batch_size": "2", "sequence_length": "16", "profile": "smoke"}
    done = command("mlflow", "run", ".", *_parameters(given), cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    assert "batch 2, 16 tokens" in done.stdout


def _parameters(given: dict[str, str]) -> list[str]:
    return [word for name, value in given.items() for word in ("-P", f"{name}={value}")]


# --- told to stop -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_told_to_stop_in_the_timed_window_the_run_is_killed_with_the_reason_and_without_a_number(
    number: signal.Signals, store_uri: str, tiny_folder: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    done, worker = _stopped(number, tiny_folder, tmp_path)
    assert done.returncode == 1
    assert only(said(done.stderr)) == f"hwbench: interrupted by {number.name}. Start it again: nothing was measured"
    (run,) = MlflowClient(store_uri).search_runs(["0"])
    assert run.info.status == "KILLED"
    assert run.data.tags["hwbench.failure_reason"] == f"interrupted by {number.name}"
    assert run.data.tags["hwbench.failure_category"] == "interrupted"
    assert run.data.tags["hardware"] == "cpu"
    assert run.data.metrics == {}
    assert not alive(worker), "an orphan goes on measuring"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_no_worker_outlives_a_benchmark_that_was_killed_outright(
    store_uri: str, tiny_folder: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    done, worker = _stopped(signal.SIGKILL, tiny_folder, tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert not alive(worker), "an orphan goes on measuring"
    (run,) = MlflowClient(store_uri).search_runs(["0"])
    assert performance(run.data.metrics) == []


def _stopped(number: signal.Signals, folder: Path, tmp_path: Path) -> tuple[subprocess.CompletedProcess[str], int]:
    """A ten-second run that gets a signal in its window; the worker's process id."""
    env = environment(TROUBLE_SIGNAL=str(int(number)), TROUBLE_PID_FILE=str(tmp_path / "pid"))
    backend = f"tests.troubled:{troubled.ToldToStop.__name__}"
    options = ("--hardware", "cpu", "--profile", "quick", "--backend", backend)
    done = hwbench("run", "--model", str(folder), *options, cwd=tmp_path, env=env)
    return done, int((tmp_path / "pid").read_text())


# --- borrowed and air-gapped machines -----------------------------------------------------------


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A tracking server on the loopback, from when it answers until the block ends."""
    arguments = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    arguments += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    arguments += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            ["mlflow", *arguments],
            cwd=folder,
            env=environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),  # five more processes, for nothing here
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _until_it_answers(port, process, folder / "server.log")
            yield process
        finally:
            # The whole session: the server's workers and job runners outlive it otherwise.
            for child in _session(process.pid):
                os.kill(child, signal.SIGKILL)
            process.wait()


def _session(leader: int) -> list[int]:
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader:
                found.append(process.pid)
        except ProcessLookupError:
            continue
    return found


def _until_it_answers(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    pytest.fail(f"the server does not answer: {log.read_text()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_store_that_goes_away_loses_nothing(tmp_path: Path, blank_store: Path, tiny_folder: Path) -> None:
    shutil.copyfile(blank_store, tmp_path / "mlflow.db")
    port = _free_port()
    uri = f"http://127.0.0.1:{port}"
    work = tmp_path / "work"
    work.mkdir()
    spool = Path(os.environ["HWBENCH_HOME"]) / "spool"
    shutil.rmtree(spool, ignore_errors=True)
    with server(tmp_path, port) as running:
        # All of its processes are in one session; the backend ends the group, before anything is logged.
        env = environment(
            TROUBLE_STORE_PID=str(running.pid), MLFLOW_TRACKING_URI=uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"
        )
        backend = f"tests.troubled:{troubled.StoreGoesAway.__name__}"
        done = hwbench("run", "--model", str(tiny_folder), *SMOKE, "--backend", backend, cwd=work, env=env)
    assert done.returncode == 0, done.stderr
    kept = only_path(path for path in spool.glob("*.json") if "place" not in path.name)
    assert f"results wait in {kept.parent} (hwbench push --spool delivers them)" in done.stderr
    assert "waits in the spool" in done.stdout
    verdict = _verdict(kept)

    with server(tmp_path, port):
        env = environment()
        first = hwbench("push", "--spool", "--json", cwd=work, env=env)
        again = hwbench("push", "--spool", cwd=work, env=env)
        assert first.returncode == 0, first.stderr
        (pushed,) = json.loads(first.stdout)["delivered"]
        assert (again.returncode, again.stdout) == (0, "")
        held = hwbench("verify", pushed["run_id"], "--tracking-uri", uri, cwd=work, env=env)
    assert held.stdout.startswith(f"{pushed['run_id']}: {verdict}\n")
    with_results = _search(f"sqlite:///{tmp_path / 'mlflow.db'}", "tags.`hwbench.role` = 'result'")
    assert [run.info.run_id for run in with_results] == [pushed["run_id"]]


def _verdict(file: Path) -> str:
    """What a result file comes to by itself: on a busy machine a short honest run can be unverified."""
    return str(evidence.judge(read_bundle(file), None, load_keyring()).verdict.state)


def _search(uri: str, condition: str = "") -> list[Run]:
    from mlflow import MlflowClient

    return list(MlflowClient(uri).search_runs(["0"], condition))


@pytest.fixture(scope="session")
def without_mlflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which mlflow cannot be imported."""
    stub = tmp_path_factory.mktemp("no-mlflow")
    (stub / "mlflow").mkdir()
    (stub / "mlflow" / "__init__.py").write_text("raise ImportError('No module named mlflow')\n")
    return environment(PYTHONPATH=f"{stub}{os.pathsep}{ROOT}")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, without_mlflow: dict[str, str], tiny_folder: Path) -> Path:
    """A result that was measured where there is no mlflow."""
    folder = tmp_path_factory.mktemp("borrowed")
    for _ in range(3):  # as above
        done = hwbench(
            "run", "--model", str(tiny_folder), *SMOKE, "--out", "result.json", cwd=folder, env=without_mlflow
        )
        assert done.returncode == 0, done.stderr
        assert "file        result.json" in done.stdout
        if "verdict     verified" in done.stdout:
            break
    assert [path.name for path in folder.iterdir()] == ["result.json"]
    return folder / "result.json"


def test_without_mlflow_and_without_out_it_says_what_to_do(
    without_mlflow: dict[str, str], tiny_folder: Path, tmp_path: Path
) -> None:
    done = hwbench("run", "--model", str(tiny_folder), *SMOKE, cwd=tmp_path, env=without_mlflow)
    assert done.returncode == 1
    assert "mlflow is not installed here" in only(said(done.stderr))
    assert "--out" in only(said(done.stderr))


def test_a_file_is_verified_as_it_is(bundle: Path) -> None:
    done = click.testing.CliRunner().invoke(verify, [str(bundle)])
    assert (done.exit_code, done.output.startswith(f"{bundle}: verified\n")) == (0, True)


def pushed(*arguments: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(push, [str(argument) for argument in arguments])


def test_a_pushed_file_is_one_run_with_the_same_evidence_and_verdict(bundle: Path, store_uri: str) -> None:
    first, again = pushed(bundle), pushed(bundle)
    (run,) = _search(store_uri)
    assert (first.exit_code, first.output) == (0, f"{bundle}: run {run.info.run_id} (verified)\n")
    assert (again.exit_code, again.output) == (0, f"{bundle}: run {run.info.run_id} (already there)\n")
    assert run.info.status == "FINISHED"
    assert verified(store_uri, run.info.run_id).exit_code == 0
    from hwbench_mlflow.tracking import Store

    held = Store(store_uri).read_run(run.info.run_id)[1]
    given = json.loads(bundle.read_text())["files"]
    assert {name: held[name].decode() for name in given} == given


def test_a_file_of_a_machine_that_is_not_trusted_is_logged_unverified(
    bundle: Path, store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path / "home"))
    done = pushed(bundle)
    assert done.output.endswith("(unverified)\n")
    (run,) = _search(store_uri)
    assert run.data.tags["verdict"] == "unverified"
    assert "not among the keys trusted here" in run.data.tags["hwbench.reasons"]


def test_a_forged_file_becomes_a_failed_run_without_a_number(bundle: Path, store_uri: str, tmp_path: Path) -> None:
    files = read_bundle(bundle)
    result = decode_result(files[evidence.RESULT_FILE])
    assert result.aggregates.p50_ms is not None
    faster = replace(result, aggregates=replace(result.aggregates, p50_ms=result.aggregates.p50_ms / 10))
    write_bundle(tmp_path / "forged.json", {**files, evidence.RESULT_FILE: encode(faster)})
    done = pushed(tmp_path / "forged.json")
    assert done.exit_code == ExitCode.REFUSED
    assert "(contradicted)" in done.stdout
    told = f"hwbench: contradicted by its own evidence: {tmp_path / 'forged.json'}. `hwbench verify FILE` says why\n"
    assert done.stderr == told
    (run,) = _search(store_uri)
    assert (run.info.status, run.data.metrics) == ("FAILED", {})
    assert run.data.tags["verdict"] == "contradicted"
    assert "the statistics are not those of the raw samples" in run.data.tags["hwbench.reasons"]


def test_one_unreadable_file_in_a_list_pushes_none(bundle: Path, store_uri: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    done = hwbench("push", str(bundle), "other.json", cwd=tmp_path)
    assert done.returncode == 1
    assert "other.json is not a result" in only(said(done.stderr))
    assert _search(store_uri) == []
