"""``hwbench batch``: what is planned, what is left in the store, and that what is interrupted goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hwbench_mlflow import probing, runner
from hwbench_mlflow.codec import encode
from hwbench_mlflow.errors import BenchmarkFailed, HardwareUnavailable, StoreAway
from hwbench_mlflow.host import process_name
from hwbench_mlflow.model import (
    Availability,
    AvailabilityStatus,
    DeviceCheck,
    FailureCategory,
    Platform,
    Precision,
    RunRequest,
)
from hwbench_mlflow.runner import Measured
from hwbench_mlflow.spool import Spool
from hwbench_mlflow.tracking import PARENT_TAG, PROCESS_TAG, Store
from tests.commands import ROOT, Call, answering, environment, only, said
from tests.honest import DEVICES, honest, resealed

if TYPE_CHECKING:
    from mlflow.entities import Run

BASE = ("batch", "--models", "bert-tiny,gpt2", "--hardware", "cpu", "--batch-sizes", "1,2", "--seed", "3")


@pytest.fixture(autouse=True)
def empty_spool(isolated: Path) -> Iterator[None]:
    shutil.rmtree(isolated / "spool", ignore_errors=True)
    yield
    shutil.rmtree(isolated / "spool", ignore_errors=True)


def measured(request: RunRequest) -> Measured:
    """A result for that request, as an honest run could have given it; it was never measured."""
    result, samples = honest(request.platform)
    samples = dataclasses.replace(samples, result_id=uuid.uuid4().hex)
    workload = dataclasses.replace(
        result.workload, model=request.workload.model, batch_size=request.workload.batch_size
    )
    now = datetime.now(UTC)
    result = dataclasses.replace(
        result,
        result_id=samples.result_id,
        workload=workload,
        request=request,
        started_at=now.isoformat(),
        availability=dataclasses.replace(result.availability, started_at=now.isoformat()),
        finished_at=(now + timedelta(seconds=30)).isoformat(),
    )
    return Measured(result=resealed(result, samples), samples=samples)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[RunRequest]:
    """A runner that answers at once; what it was asked."""
    return answering(monkeypatch, measured)


def runs(store_uri: str) -> tuple[Run, list[Run]]:
    """The parent and its children."""
    every = list(Store(store_uri).client.search_runs(["0"], max_results=500))
    parent = only_run([run for run in every if PARENT_TAG not in run.data.tags])
    assert all(run.data.tags[PARENT_TAG] == parent.info.run_id for run in every if run is not parent)
    return parent, [run for run in every if run is not parent]


def only_run(found: list[Run]) -> Run:
    assert len(found) == 1, [run.info.run_name for run in found]
    return found[0]


def statuses(children: list[Run]) -> Counter[str]:
    return Counter(run.info.status for run in children)


WRONG = [
    (("--models", "bertt", "--hardware", "cpu"), "Did you mean 'bert'?"),
    (("--models", "bert", "--hardware", "cpx"), "Did you mean 'cpu'?"),
    (("--models", "bert", "--hardware", "cpu", "--batch-sizes", "1,x"), "batch_sizes: 'x' is no whole number"),
    (("--models", "bert", "--hardware", "cpu", "--image-sizes", "32"), "takes no image size"),
    (("--models", "bert", "--hardware", "cpu", "--sequence-lengths", "128,1000"), "at most 512 tokens"),
    (("--models", "bert", "--all-default-models", "--hardware", "cpu"), "--all-default-models beside other models"),
    (("--hardware", "cpu"), "names no models"),
    (("--models", "bert", "--hardware", "cpu", "--matrix", "m.yaml"), "hardware is in m.yaml and on the command line"),
    (("--matrix", "absent.yaml"), "cannot read absent.yaml"),
    (("--matrix", "twice.yaml"), "twice.yaml: 'models' is given twice"),
    (("--matrix", "broken.yaml"), "broken.yaml is not YAML"),
    (("--models", "bert", "--hardware", "cpu", "--pin", "cpu=a"), "is no list of cores like 0-3,6"),
    (("--models", "bert", "--hardware", "cpu", "--pin", "cuda=0"), "--pin cuda: no cell"),
    (("--models", "bert", "--hardware", "cpu", "--scenarios", "latency,server"), "server needs --latency-bound-ms"),
    (("--models", "bert", "--hardware", "cpu", "--latency-bound-ms", "5"), "is for scenario server, which no cell has"),
    (("--resume", "--models", "bert"), "--resume runs the plan that was made; it takes no --models"),
    (("--resume",), "no batch of this experiment is unfinished"),
    (("--resume", "0" * 32), f"there is no run '{'0' * 32}'"),
    (
        ("--models", "bert", "--hardware", "cpu", "--batch-sizes", ",".join(map(str, range(1, 102)))),
        "101 cells, about 52 min: more than 100 need --yes",
    ),
]


@pytest.mark.parametrize(("arguments", "wrong"), WRONG, ids=lambda value: str(value)[-40:])
def test_what_cannot_be_right_is_one_line_and_starts_nothing(
    arguments: tuple[str, ...], wrong: str, call: Call, store_uri: str, quick: list[RunRequest]
) -> None:
    Path("m.yaml").write_text("hardware: [cpu]\n")
    Path("twice.yaml").write_text("models: [bert]\nmodels: [vit]\n")
    Path("broken.yaml").write_text("models: [bert\n")
    code, out, err = call("batch", *arguments)
    assert (code, out, quick) == (2, "", [])
    assert wrong in only(said(err))
    assert list(Store(store_uri).client.search_runs(["0"])) == []


def test_a_dry_run_shows_the_plan_and_touches_nothing(call: Call, store_uri: str, quick: list[RunRequest]) -> None:
    code, out, _ = call(*BASE, "--dry-run")
    assert (code, quick) == (0, [])
    assert "4 cells, seed 3, about 2 min (0 cells by earlier runs, 4 guessed)" in out
    document = json.loads(call(*BASE, "--dry-run", "--json")[1])
    assert [len(document["cells"]), document["seed"], document["schema_version"]] == [4, 3, 1]
    assert list(Store(store_uri).client.search_runs(["0"])) == []
    assert call(*BASE, "--dry-run", "--experiment", "new")[0] == 0
    assert Store(store_uri).client.get_experiment_by_name("new") is None
    assert call(*BASE, "--dry-run", "--tracking-uri", "sqlite:///absent.db")[0] == 0
    assert not Path("absent.db").exists()


def test_a_batch_is_one_parent_with_a_run_for_each_cell_in_the_order_of_its_seed(
    call: Call, store_uri: str, quick: list[RunRequest]
) -> None:
    code, out, err = call(*BASE)
    assert (code, err) == (0, "")
    parent, children = runs(store_uri)
    assert (parent.info.status, statuses(children)) == ("FINISHED", Counter(FINISHED=4))
    assert parent.data.tags["hwbench.batch_seed"] == "3"
    assert f"4 cells: 4 done; parent run {parent.info.run_id}" in out
    assert out.count("verified") == 4
    first = [encode(request) for request in quick]
    quick.clear()
    call(*BASE)
    assert [encode(request) for request in quick] == first
    assert Spool().waiting() == []


def test_the_entry_point_of_mlflow_run_is_a_batch_in_the_run_that_mlflow_made(
    call: Call, store_uri: str, quick: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that ``mlflow run . -e batch -P ...`` starts, as MLflow makes it of MLproject."""
    from mlflow.projects._project_spec import load_project

    entry = load_project(str(ROOT)).get_entry_point("batch")
    given = {"models": "bert-tiny,gpt2", "hardware": "cpu", "batch_sizes": "1,2", "profile": "smoke"}
    words = shlex.split(entry.compute_command(given, None))
    assert words[:3] == ["python", "-m", "hwbench_mlflow"]
    client = Store(store_uri).client
    made = client.create_run("0", run_name="chosen-by-mlflow-77").info.run_id
    client.log_param(made, "models", given["models"])
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    code, out, _ = call(*words[3:])
    monkeypatch.delenv("MLFLOW_RUN_ID")
    parent, children = runs(store_uri)
    assert (code, parent.info.run_id, parent.info.status) == (0, made, "FINISHED")
    assert statuses(children) == Counter(FINISHED=4)
    assert f"4 cells: 4 done; parent run {made}" in out
    assert {request.profile.name for request in quick} == {"smoke"}


def test_earlier_runs_tell_how_long_a_plan_takes(call: Call, quick: list[RunRequest]) -> None:
    call(*BASE)
    assert "(4 cells by earlier runs, 0 guessed)" in call(*BASE, "--dry-run")[1]


def test_a_failure_stops_nothing_else_and_the_exit_code_is_1(
    call: Call, store_uri: str, quick: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = runner.run

    def run(request: RunRequest, *arguments: Any) -> Measured:
        if request.workload.batch_size == 2:
            raise BenchmarkFailed("out of memory", FailureCategory.OUT_OF_MEMORY)
        return good(request, *arguments)

    monkeypatch.setattr(runner, "run", run)
    code, out, _ = call(*BASE, "--json")
    document = json.loads(out)
    parent, children = runs(store_uri)
    assert (code, document["failed"], parent.info.status) == (1, 2, "FAILED")
    assert statuses(children) == Counter(FINISHED=2, FAILED=2)
    reasons = [cell["reason"] for cell in document["cells"] if cell["state"] == "failed"]
    assert all(reason.startswith("out of memory") for reason in reasons)


def absent(request: RunRequest) -> HardwareUnavailable:
    found = Availability(platform=request.platform, status=AvailabilityStatus.NO_DEVICE, reason="no such luck")
    return HardwareUnavailable(f"{request.platform} is unavailable: no such luck", found)


def test_an_unavailable_platform_is_probed_once_and_each_of_its_cells_says_why(
    call: Call, store_uri: str, quick: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = runner.run
    probed: list[RunRequest] = []

    def run(request: RunRequest, *arguments: Any) -> Measured:
        if request.platform is Platform.CUDA:
            probed.append(request)
            raise absent(request)
        return good(request, *arguments)

    monkeypatch.setattr(runner, "run", run)
    assert call("batch", "--models", "bert-tiny", "--hardware", "cpu,cuda", "--batch-sizes", "1,2,4")[0] == 1
    _, children = runs(store_uri)
    reasons = [run.data.tags["hwbench.failure_reason"] for run in children if run.info.status == "FAILED"]
    assert (len(probed), reasons) == (1, ["cuda is unavailable: no such luck"] * 3)
    assert all(run.data.metrics == {} for run in children if run.info.status == "FAILED")
    assert call("batch", "--models", "bert-tiny", "--hardware", "cuda")[0] == 4, "nothing could run"


def test_a_cell_that_fails_says_its_precision_and_one_that_ends_well_the_effective_one(
    call: Call, store_uri: str, quick: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = runner.run

    def run(request: RunRequest, progress: Any, prepare: Callable[[], None]) -> Measured:
        if request.workload.precision is Precision.INT8:
            prepare()  # a run is there when a worker dies under it
            raise BenchmarkFailed("no int8 here", FailureCategory.CRASH)
        found = good(request, progress, prepare)
        assert found.result.effective_precision is Precision.FP32, "bf16 was asked for, and silently not had"
        return found

    monkeypatch.setattr(runner, "run", run)
    call("batch", "--models", "bert-tiny", "--hardware", "cpu", "--precisions", "int8,bf16")
    _, children = runs(store_uri)
    said = {run.data.tags["hwbench.role"]: run.data.tags["hwbench.precision"] for run in children}
    assert said == {"failure": "int8", "result": "fp32"}


def test_a_resumed_batch_measures_only_what_no_evidence_proves(
    call: Call, store_uri: str, quick: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = runner.run

    def run(request: RunRequest, *arguments: Any) -> Measured:
        if len(quick) == 3:
            raise BenchmarkFailed("it broke", FailureCategory.CRASH)
        return good(request, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(runner, "run", run)
        assert call(*BASE)[0] == 1
    _, children = runs(store_uri)
    finished = [run for run in children if run.info.status == "FINISHED"]
    # One says in its tags that it is verified, and its evidence is another run's: tags are not believed.
    forged, other = finished[0], finished[1]
    store = Store(store_uri)
    folder = store.client.download_artifacts(other.info.run_id, "hwbench")
    store.client.log_artifacts(forged.info.run_id, folder, "hwbench")
    quick.clear()
    code, out, _ = call("batch", "--resume", "--json")
    document = json.loads(out)
    states = Counter(cell["state"] for cell in document["cells"])
    assert (code, states, len(quick)) == (0, Counter(kept=2, done=2), 2)
    parent, children = runs(store_uri)
    assert (parent.info.status, len(children)) == ("FINISHED", 6)
    assert document["parent_run_id"] == parent.info.run_id
    quick.clear()
    assert call("batch", "--resume", parent.info.run_id)[0] == 0
    assert quick == []
    assert len(runs(store_uri)[1]) == 6


def test_a_batch_that_is_told_to_stop_ends_its_run_and_goes_on_when_resumed(
    call: Call, store_uri: str, quick: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(request: RunRequest, progress: Any, before_timing: Callable[[], None]) -> Measured:
        quick.append(request)
        before_timing()
        if len(quick) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)  # the main thread ends the workers meanwhile
            raise BenchmarkFailed("the worker was killed by SIGKILL", FailureCategory.CRASH)
        return measured(request)

    with monkeypatch.context() as patched:
        patched.setattr(runner, "run", run)
        code, _, err = call(*BASE)
    assert (code, only(said(err))) == (1, "hwbench: interrupted by SIGTERM")
    parent, children = runs(store_uri)
    assert (parent.info.status, statuses(children)) == ("FAILED", Counter(FINISHED=2, KILLED=1))
    quick.clear()
    assert call("batch", "--resume")[0] == 0
    parent, children = runs(store_uri)
    assert (len(quick), parent.info.status, statuses(children)) == (2, "FINISHED", Counter(FINISHED=4, KILLED=1))


def test_runs_that_a_killed_batch_left_are_ended_and_a_live_one_is_not_resumed(
    call: Call, store_uri: str, quick: list[RunRequest]
) -> None:
    call(*BASE)
    store = Store(store_uri)
    parent, children = runs(store_uri)
    gone = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    name = process_name(gone.pid)
    for run_id in (parent.info.run_id, children[0].info.run_id):
        store.client.update_run(run_id, "RUNNING")
        store.client.set_tag(run_id, PROCESS_TAG, name)
    code, _, err = call("batch", "--resume")
    assert (code, only(said(err))) == (
        3,
        f"hwbench: batch {parent.info.run_id} is running: process {gone.pid} of this machine",
    )
    gone.kill()
    gone.wait()
    quick.clear()
    assert call("batch", "--resume")[0] == 0
    parent, children = runs(store_uri)
    assert (len(quick), statuses(children)) == (1, Counter(FINISHED=4, KILLED=1))
    store.client.update_run(parent.info.run_id, "RUNNING")
    store.client.set_tag(parent.info.run_id, PROCESS_TAG, "elsewhere:boot:1:1")
    assert call("batch", "--resume")[0] == 3
    assert call("batch", "--resume", "--yes")[0] == 0
    assert runs(store_uri)[0].info.status == "FINISHED", "nothing was missing but its end"


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has a CPU and a GPU, by its probes."""

    def probe(platforms: Any, **settings: Any) -> list[Availability]:
        return [
            Availability(
                platform=platform,
                status=AvailabilityStatus.AVAILABLE,
                reason="made by a test",
                devices=(DEVICES[platform],),
                checks=(DeviceCheck(device_id=DEVICES[platform].id, operation="x", passed=True, reason="equal"),),
            )
            for platform in platforms
        ]

    monkeypatch.setattr(probing, "probe_isolated", probe)


def test_different_devices_are_measured_side_by_side_and_one_device_never(
    call: Call, store_uri: str, two_devices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2, timeout=30)
    at_work: Counter[str] = Counter()
    seen: list[tuple[str, int]] = []
    met: list[str] = []

    def run(request: RunRequest, progress: Any, before_timing: Callable[[], None]) -> Measured:
        before_timing()
        device = "gpu" if request.platform is Platform.CUDA else "host"
        at_work[device] += 1
        seen.append((device, at_work[device]))
        if device not in met:
            met.append(device)
            together.wait()  # breaks, and fails the cell, unless the other device is at work as well
        at_work[device] -= 1
        return measured(request)

    monkeypatch.setattr(runner, "run", run)
    code, _, err = call(
        "batch",
        "--models",
        "bert-tiny",
        "--hardware",
        "cpu,openvino,cuda",
        "--batch-sizes",
        "1,2",
        "--max-workers",
        "3",
    )
    assert code == 0, err
    assert sorted(met) == ["gpu", "host"]
    assert {count for _, count in seen} == {1}, "openvino's CPU device and torch's are one device"
    assert statuses(runs(store_uri)[1]) == Counter(FINISHED=6)


def test_a_store_that_goes_away_in_the_middle_costs_nothing_and_doubles_nothing(
    call: Call, store_uri: str, quick: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Store.log_result
    sent: list[str] = []

    def log_result(self: Store, run_id: str, *arguments: Any, **settings: Any) -> Any:
        if len(sent) >= 1:
            raise StoreAway("the tracking store cannot be reached: made by a test")
        sent.append(run_id)
        return real(self, run_id, *arguments, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "log_result", log_result)
        code, out, err = call(*BASE)
    assert code == 0
    assert "4 cells: 1 done, 3 queued" in out
    assert err.count("results wait in") == 1
    assert len(Spool().waiting()) == 4, "three results, and the end of their parent"
    assert call("push", "--spool")[0] == 0
    parent, children = runs(store_uri)
    assert (parent.info.status, statuses(children)) == ("FINISHED", Counter(FINISHED=4))
    results = [run.data.params["hwbench.result_id"] for run in children]
    assert len(set(results)) == 4
    assert Spool().waiting() == []
    quick.clear()
    assert call("batch", "--resume", parent.info.run_id)[0] == 0
    assert quick == [], "each is proven by its evidence"


KILLED_BATCH = """
import os, signal, sys
sys.path.insert(0, {root!r})
from hwbench_mlflow import bundle, runner, spool
from hwbench_mlflow.cli.main import main
from hwbench_mlflow.tracking import Store
from tests import test_cli_batch as fakes

left = [int(os.environ["KILL_AT"])]

def killing(owner, name):
    real = getattr(owner, name)
    def step(*arguments, **settings):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **settings)
    setattr(owner, name, step)

for owner, names in (
    (Store, ("start", "log_plan", "_log", "_log_files", "end_killed", "reopen", "end_parent")),
    (spool.Spool, ("put", "put_end", "remove", "_write_place")),
    (spool, ("write_bundle",)),
):
    for name in names:
        killing(owner, name)

def run(request, progress, before_timing):
    before_timing()
    return fakes.measured(request)

runner.run = run
main()
"""
"""A batch whose measurements are instant, killed before the step of that number, whichever it is."""


@pytest.mark.slow
def test_a_batch_killed_at_random_points_and_resumed_has_each_cell_exactly_once(store_uri: str, tmp_path: Path) -> None:
    def start(*arguments: str, kill_at: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", KILLED_BATCH.format(root=str(ROOT)), *arguments],
            cwd=tmp_path, env=environment(KILL_AT=str(kill_at)), capture_output=True, text=True, check=False,
        )  # fmt: skip

    seed = random.randrange(1000)
    points = random.Random(seed)
    cells = ("--models", "bert-tiny,gpt2", "--hardware", "cpu,openvino", "--batch-sizes", "1")
    done = start("batch", *cells, "--seed", "1", kill_at=points.randint(5, 16))  # after the plan is in the store
    for _ in range(4):
        assert done.returncode == -signal.SIGKILL, (seed, done.stderr)
        done = start("batch", "--resume", kill_at=points.randint(1, 14))
        if done.returncode == 0:
            break
    if done.returncode != 0:
        done = start("batch", "--resume", "--json", kill_at=0)
    assert done.returncode == 0, (seed, done.stderr)
    parent, children = runs(store_uri)
    finished = [run for run in children if run.info.status == "FINISHED"]
    by_cell = Counter(run.data.tags["hwbench.cell"] for run in finished)
    assert (parent.info.status, len(by_cell), set(by_cell.values())) == ("FINISHED", 4, {1}), seed
    assert len({run.data.params["hwbench.result_id"] for run in finished}) == 4, seed
    assert statuses(children).keys() <= {"FINISHED", "KILLED"}, f"{seed}: none is left RUNNING"
    assert Spool().waiting() == []
    assert all(run.data.metrics == {} for run in children if run.info.status == "KILLED")
