"""A real fleet on this machine: what is offered, where cells go, and that a lost node costs and doubles nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hwbench_mlflow import offers
from hwbench_mlflow.attest import parse_public_key
from hwbench_mlflow.backends.lookup import targets
from hwbench_mlflow.codec import encode
from hwbench_mlflow.evidence import judge, seal
from hwbench_mlflow.fleet.on_node import Board
from hwbench_mlflow.fleet.placing import MOST_LOSSES, Loop, Piece, Placement
from hwbench_mlflow.host import process_name
from hwbench_mlflow.keystore import load_keyring, signing_key
from hwbench_mlflow.model import Availability, AvailabilityStatus, Device, DeviceCheck, Platform
from hwbench_mlflow.offers import offered, resources, this_node
from hwbench_mlflow.spool import ParentPlace, Place, Spool
from hwbench_mlflow.tracking import PROCESS_TAG, Store
from tests.commands import Call, environment, hwbench, only, said
from tests.conftest import REQUIRED
from tests.fleets import TestFleet, new_fleet
from tests.honest import honest
from tests.test_cli_batch import runs, statuses

if TYPE_CHECKING:
    from mlflow.entities import Run

if importlib.util.find_spec("ray") is None:
    if "fleet" in REQUIRED:
        pytest.fail("ray is not installed", pytrace=False)
    pytest.skip("ray is not installed", allow_module_level=True)

FAKE = ("--hardware", "cpu", "--backend", "fake")
CELLS = ("--models", "bert-tiny,gpt2", *FAKE, "--seed", "3")


# --- what is offered ------------------------------------------------------------------------------------------


def answer(platform: Platform, *devices: Device, passed: bool = True, **change: Any) -> Availability:
    checks = tuple(DeviceCheck(device_id=d.id, operation="x", passed=passed, reason="made") for d in devices)
    found = Availability(
        platform=platform, status=AvailabilityStatus.AVAILABLE, reason="made", devices=devices, checks=checks
    )
    return dataclasses.replace(found, **change)


CPU = Device(platform=Platform.CPU, id="cpu", name="Test CPU")
GPU = Device(platform=Platform.CUDA, id="cuda:0", name="Test GPU", uuid="GPU-1")
SECOND = Device(platform=Platform.CUDA, id="cuda:1", name="Test GPU", uuid="GPU-2")
OPENVINO = Device(platform=Platform.OPENVINO, id="CPU", name="Test CPU")
SOFTWARE = Device(platform=Platform.WEBGPU, id="adapter", name="SwiftShader", emulation_reason="software")
BACKENDS = {platform: f"x:{platform}" for platform in Platform}


def test_only_what_computed_is_offered_and_what_shares_cores_is_one_resource() -> None:
    found = offered(
        [answer(Platform.CPU, CPU), answer(Platform.OPENVINO, OPENVINO), answer(Platform.CUDA, GPU, SECOND)],
        BACKENDS, emulated=False,
    )  # fmt: skip
    assert [(d.platform.value, d.device_id, d.first) for d in found] == [
        ("cpu", "cpu", True), ("openvino", "CPU", True), ("cuda", "cuda:0", True), ("cuda", "cuda:1", False),
    ]  # fmt: skip
    assert resources(found) == {"hwbench:cpu": 1.0, "hwbench:GPU-1": 1.0, "hwbench:GPU-2": 1.0}


@pytest.mark.parametrize(
    "probed",
    [
        answer(Platform.CUDA, GPU, passed=False),
        answer(Platform.CUDA, GPU, checks=()),
        answer(Platform.CUDA, GPU, status=AvailabilityStatus.PROBE_FAILED),
        answer(Platform.CUDA, status=AvailabilityStatus.NO_DRIVER),
        answer(Platform.WEBGPU, SOFTWARE),
    ],
    ids=["its check failed", "unchecked", "the probe failed", "no driver", "emulated"],
)
def test_what_is_not_verified_is_never_offered(probed: Availability) -> None:
    assert offered([probed], BACKENDS, emulated=False) == []
    assert [d.device_id for d in offered([probed], BACKENDS, emulated=True)] == (
        ["adapter"] if probed.platform is Platform.WEBGPU else []
    )


WRONG = [
    (("fleet", "join", "lab"), 1, "'lab' is no address of a fleet"),
    (("fleet", "join", "lab:1", "--hardware", "gpu"), 2, "'gpu' is no platform"),
    (("fleet", "status", "127.0.0.1:9"), 1, "no fleet answers at 127.0.0.1:9"),
    (("batch", *CELLS, "--fleet", "127.0.0.1:9"), 1, "no fleet answers at 127.0.0.1:9"),
    (("batch", *CELLS, "--fleet", "127.0.0.1:9", "--max-workers", "2"), 2, "--fleet takes no --pin"),
    (("replicate", "x", "--on", "lab-1"), 2, "give both --on and --fleet"),
    (("replicate", "0" * 32), 2, f"there is no run '{'0' * 32}'"),
]


@pytest.mark.parametrize(("arguments", "code", "wrong"), WRONG, ids=lambda value: str(value)[-40:])
def test_what_cannot_be_right_is_one_line(arguments: tuple[str, ...], code: int, wrong: str, call: Call) -> None:
    found, out, err = call(*arguments)
    assert (found, out) == (code, ""), err
    assert wrong in only(said(err))


def test_nobody_starts_a_fleet_that_everybody_may_enter(tmp_path: Path) -> None:
    env = {key: value for key, value in environment(HOME=str(tmp_path)).items() if not key.startswith("RAY_")}
    done = hwbench("fleet", "join", "127.0.0.1:6379", "--head", "--hardware", "none", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert "this machine has no token for it. Once: ray get-auth-token --generate" in only(said(done.stderr))


# --- a late delivery ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["still waited for", "given up", "resumed by another process"])
def test_a_node_that_comes_back_delivers_only_what_is_still_waited_for(
    why: str, store_uri: str, tmp_path: Path, isolated: Path
) -> None:
    from hwbench_mlflow.cli.delivery import Delivery

    store, told, spool = Store(store_uri), list[str](), Spool(tmp_path / "node")
    parent = store.start("batch", tags={PROCESS_TAG: "driver"})
    attempt = "ab" * 16
    place = Place(
        spool_version=1, attempt=attempt, tracking_uri=store_uri, experiment=None, name="cell", started_ms=1,
        lease="driver", parent=ParentPlace(attempt="cd" * 16, name="batch", started_ms=1, run_id=parent),
    )  # fmt: skip
    spool.put(place, seal(*honest(), signing_key()))
    if why == "given up":
        store.give_up(parent, attempt, "node lab-2 was lost")
    elif why == "resumed by another process":
        store.reopen(parent)
        assert store.run_index(parent).tags[PROCESS_TAG] == process_name()
    late = Delivery(store_uri, None, signing_key(), load_keyring(), told.append, spool)
    delivered = late.flush()
    assert bool(delivered) == (why == "still waited for")
    assert len(store.nested(parent)) == len(delivered)
    assert spool.waiting() == []
    assert [("measured again elsewhere" in line) for line in told] == ([] if delivered else [True])


# --- a real fleet ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(isolated: Path) -> Iterator[TestFleet]:
    """A head that measures nothing, and two nodes with a fake device each; their keys are trusted here."""
    shutil.rmtree(isolated / "spool", ignore_errors=True)
    with new_fleet() as made:
        made.join("head", "--hardware", "none")
        for name in ("one", "two"):
            made.join(name, *FAKE, "--emulated", HWBENCH_TEST_SECONDS="0.5")
        made.trust("head", "one", "two")
        yield made
    shutil.rmtree(isolated / "spool", ignore_errors=True)


@pytest.fixture
def clean(lab: TestFleet) -> TestFleet:
    """The fleet with nothing noted."""
    (lab.folder / "log").unlink(missing_ok=True)
    return lab


def batch(lab: TestFleet, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return hwbench("batch", *arguments, "--fleet", lab.address, "--json", cwd=cwd)


def start(lab: TestFleet, cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    """A batch that is waited for later."""
    return subprocess.Popen(
        [sys.executable, "-m", "hwbench_mlflow", "batch", *arguments, "--fleet", lab.address, "--json"],
        cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.1)


def overlaps(log: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Pairs of measurements that were on one device at one time."""
    rows = sorted(log, key=lambda row: row["begin"])
    return [
        (a, b)
        for number, a in enumerate(rows)
        for b in rows[number + 1 :]
        if a["home"] == b["home"] and b["begin"] < a["end"]
    ]


def by_cell(children: list[Run]) -> Counter[str]:
    """How many finished runs each cell has."""
    return Counter(run.data.tags["hwbench.cell"] for run in children if run.info.status == "FINISHED")


@pytest.mark.slow
def test_cells_are_placed_where_their_hardware_is_and_signed_there(
    clean: TestFleet, store_uri: str, tmp_path: Path
) -> None:
    Path("m.yaml").write_text("models: [bert-tiny, gpt2]\nhardware: [cpu, cuda]\nbatch_sizes: [1, 2]\n")
    done = batch(clean, tmp_path, "--matrix", "m.yaml", "--backend", "fake")
    document = json.loads(done.stdout)
    states = Counter((cell["request"]["platform"], cell["state"]) for cell in document["cells"])
    assert (done.returncode, states) == (1, Counter({("cpu", "done"): 4, ("cuda", "failed"): 4})), done.stderr
    reason = "cuda is unavailable: no live node that may measure offers it. See `hwbench fleet status`"
    assert {cell["reason"] for cell in document["cells"] if cell["state"] == "failed"} == {reason}
    assert done.stderr.splitlines() == [f"hwbench: warning: {reason}"]
    parent, children = runs(store_uri)
    assert (parent.info.status, statuses(children)) == ("FAILED", Counter(FINISHED=4, FAILED=4))
    finished = [run for run in children if run.info.status == "FINISHED"]
    assert {run.data.tags["verdict"] for run in finished} == {"simulated"}, "a fake device measures nothing real"
    cells = [cell for cell in document["cells"] if cell["state"] == "done"]
    assert {cell["verdict"] for cell in cells} == {"simulated"}
    assert {cell["node"] for cell in cells} == {"one", "two"}
    assert (len(clean.log()), overlaps(clean.log())) == (4, [])
    assert {row["omp"] for row in clean.log()} == {None}, "Ray's own limit of threads is no measurement's"
    for cell in cells:
        index, files = Store(store_uri).read_run(cell["run_id"])
        signature = judge(files, index, load_keyring()).signature
        key = parse_public_key((clean.folder / f"{cell['node']}.key").read_bytes(), name="n")
        assert signature is not None
        assert (signature.trusted, signature.keyid) == (True, key.keyid)


@pytest.mark.slow
def test_a_node_whose_key_is_not_trusted_gets_no_cell(
    clean: TestFleet, store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path / "stranger"))
    done = batch(clean, tmp_path, *CELLS)
    assert done.returncode == 4
    assert done.stderr.count("is not trusted here, so nothing that it measures would count") == 3
    assert clean.log() == []
    Path("one.json").write_text(hwbench("fleet", "key", "one", clean.address, cwd=tmp_path).stdout)
    assert hwbench("keys", "trust", "one.json", cwd=tmp_path).returncode == 0
    shown = json.loads(hwbench("fleet", "status", clean.address, "--json", cwd=tmp_path).stdout)
    assert [(n["name"], n["key"], [d["name"] for d in n["devices"]]) for n in shown["nodes"]] == [
        ("head", "not trusted", []),
        ("one", "trusted", ["hwbench fake device"]),
        ("two", "not trusted", ["hwbench fake device"]),
    ]


@pytest.mark.slow
def test_two_batches_at_once_take_turns_on_a_device(clean: TestFleet, store_uri: str, tmp_path: Path) -> None:
    both = [start(clean, tmp_path, *CELLS, "--batch-sizes", "1,2") for _ in range(2)]
    ended = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert (len(clean.log()), overlaps(clean.log())) == (8, [])
    parents = {json.loads(out)["parent_run_id"] for out, _ in ended}
    every = Store(store_uri).client.search_runs(["0"], max_results=100)
    assert (len(parents), statuses(every)) == (2, Counter(FINISHED=10))


@pytest.mark.slow
def test_a_cell_that_waits_for_a_device_which_somebody_else_holds_is_given_to_a_free_one_and_once(
    clean: TestFleet, store_uri: str, tmp_path: Path
) -> None:
    """Two devices and four cells: one cell is given to the held device, and nobody ever lets go of that."""
    with clean.held("one"):
        done = batch(clean, tmp_path, *CELLS, "--batch-sizes", "1,2")
    document = json.loads(done.stdout)
    assert (done.returncode, Counter(cell["state"] for cell in document["cells"])) == (0, Counter(done=4)), done.stderr
    assert {cell["node"] for cell in document["cells"]} == {"two"}
    assert {row["home"] for row in clean.log()} == {str(clean.nodes["two"].home)}
    assert (len(clean.log()), overlaps(clean.log())) == (4, [])
    _, children = runs(store_uri)
    assert (statuses(children), set(by_cell(children).values())) == (Counter(FINISHED=4), {1})


def test_an_attempt_begins_or_is_taken_back_and_never_both() -> None:
    async def asked() -> list[bool]:
        board = Board()
        first = [await board.begin("a"), await board.take_back("a"), await board.grant("a")]
        return [*first, await board.take_back("b"), await board.begin("b"), await board.grant("b")]

    assert asyncio.run(asked()) == [True, False, True, True, False, False]


@pytest.mark.slow
def test_a_run_is_replicated_on_the_node_that_is_named_if_its_device_is_the_same_product(
    clean: TestFleet, store_uri: str, tmp_path: Path
) -> None:
    def original(device_name: str) -> str:
        result, samples = honest()
        device = dataclasses.replace(result.device, name=device_name)
        facts = dataclasses.replace(result.workers[0].facts, device=device)
        check = dataclasses.replace(result.availability.checks[0], identity=device_name)
        result = dataclasses.replace(
            result, device=device, workers=(dataclasses.replace(result.workers[0], facts=facts),),
            request=dataclasses.replace(result.request, backend=targets()["fake"]),
            availability=dataclasses.replace(result.availability, devices=(device,), checks=(check,)),
        )  # fmt: skip
        store = Store(store_uri)
        run_id = store.start_pushed(result)
        assert (
            store.log_result(run_id, seal(result, samples, signing_key()), signing_key(), load_keyring()) == "verified"
        )
        return run_id

    there = ("--on", "two", "--fleet", clean.address)
    done = hwbench("replicate", original("Test CPU"), *there, cwd=tmp_path)
    refused = "hwbench: node two has hwbench fake device, and the original ran on Test CPU"
    assert (done.returncode, clean.log()) == (3, [])
    assert only(said(done.stderr)).startswith(refused)
    first = original("hwbench fake device")
    done = hwbench("replicate", first, *there, "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    again = Store(store_uri).run_index(document["run_id"])
    assert (again.tags["hwbench.replicates"], again.tags["verdict"]) == (first, "simulated")
    assert [row["home"] for row in clean.log()] == [str(clean.nodes["two"].home)]
    assert (done.returncode, document["agrees"]) == (3, False), "what was simulated confirms nothing"
    assert any("not verified: simulated" in reason for reason in document["objections"])


@pytest.mark.slow
def test_a_node_lost_in_the_middle_costs_nothing_and_doubles_nothing(
    clean: TestFleet, store_uri: str, tmp_path: Path
) -> None:
    """And a node whose device is gone since it joined gets one cell, and no second."""
    doomed = clean.join("doomed", *FAKE, "--emulated", HWBENCH_TEST_SECONDS="100")
    broken = clean.join("broken", *FAKE, "--emulated", HWBENCH_TEST_BROKEN="1")
    clean.trust("doomed", "broken")
    running = start(clean, tmp_path, *CELLS, "--batch-sizes", "1,2,4,8")
    until(lambda: list(doomed.home.glob("locks/fleet-*.json")) and len(clean.log()) >= 3)
    shown = json.loads(hwbench("fleet", "status", clean.address, "--json", cwd=tmp_path).stdout)
    assert [len(node["running"]) for node in shown["nodes"] if node["name"] == "doomed"] == [1]
    doomed.kill()
    out, err = running.communicate(timeout=120)
    assert broken.leave() == 0
    document = json.loads(out)
    assert (running.returncode, Counter(cell["state"] for cell in document["cells"])) == (0, Counter(done=8)), err
    lost, gone = sorted(err.splitlines(), key=lambda line: "broken" in line)
    assert "node doomed was lost" in lost
    assert "is measured again elsewhere" in lost
    assert gone.startswith("hwbench: warning: node broken: cpu is unavailable: it broke")
    parent, children = runs(store_uri)
    assert (parent.info.status, statuses(children)) == ("FINISHED", Counter(FINISHED=8, KILLED=1, FAILED=1))
    assert (len(by_cell(children)), set(by_cell(children).values())) == (8, {1})
    killed = next(run for run in children if run.info.status == "KILLED")
    assert killed.data.metrics == {}
    assert "doomed was lost" in killed.data.tags["hwbench.failure_reason"]
    assert f"hwbench.given_up.{killed.data.tags['hwbench.attempt']}" in parent.data.tags
    assert len({run.data.params["hwbench.result_id"] for run in children if run.info.status == "FINISHED"}) == 8


@pytest.mark.slow
def test_a_batch_that_is_stopped_and_one_that_is_killed_go_on_with_what_is_missing(
    clean: TestFleet, store_uri: str, tmp_path: Path
) -> None:
    running = start(clean, tmp_path, *CELLS, "--batch-sizes", "1,2,4,8,16")
    until(lambda: len(clean.log()) >= 3)
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=120)
    assert (running.returncode, only(said(err))) == (1, "hwbench: interrupted by SIGTERM")
    parent, children = runs(store_uri)
    assert parent.info.status == "FAILED"
    assert "RUNNING" not in statuses(children)
    before = len(clean.log())
    running = start(clean, tmp_path, "--resume")
    until(lambda: len(clean.log()) >= before + 2 and "RUNNING" in statuses(runs(store_uri)[1]))
    running.kill()
    running.communicate(timeout=60)
    before = len(clean.log())
    done = batch(clean, tmp_path, "--resume")
    assert done.returncode == 0, done.stderr
    parent, children = runs(store_uri)
    # What was measured when it was killed may still have been delivered by its node: then no run is left to end.
    assert (parent.info.status, set(statuses(children)) - {"KILLED"}) == ("FINISHED", {"FINISHED"})
    assert (len(by_cell(children)), set(by_cell(children).values())) == (10, {1})
    states = Counter(cell["state"] for cell in json.loads(done.stdout)["cells"])
    assert states["kept"] >= 3
    assert states["kept"] + states["done"] == 10
    assert overlaps(clean.log()[before:]) == []
    assert all(run.data.metrics == {} for run in children if run.info.status == "KILLED")


def test_a_measurement_sees_the_environment_of_its_node_and_what_it_sets_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "_engines", {})
    monkeypatch.setenv("PYTHONBREAKPOINT", "mine")
    joined = this_node("lab-1", "0.1.0", "host", [])
    monkeypatch.setenv(offers.OFFER_VARIABLE, encode(joined).decode())
    for name, value in (("OMP_NUM_THREADS", "1"), ("RAY_OF_ITS_OWN", "1"), ("PYTHONBREAKPOINT", "ray's")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SET_BY_US", raising=False)
    for _ in range(2):
        with offers.as_joined():
            assert [os.environ.get(n) for n in ("OMP_NUM_THREADS", "RAY_OF_ITS_OWN", "PYTHONBREAKPOINT")] == [
                None, None, "mine",
            ]  # fmt: skip
            monkeypatch.setenv("SET_BY_US", os.environ.get("SET_BY_US", "") + "x")
        assert (os.environ["OMP_NUM_THREADS"], os.environ["PYTHONBREAKPOINT"]) == ("1", "ray's")
    assert os.environ["SET_BY_US"] == "xx"


def test_a_node_says_what_its_environment_was() -> None:
    joined = this_node("lab-1", "0.1.0", "host", [])
    assert set(joined.names) == set(os.environ)
    assert b"PATH" in encode(joined)
    assert "RAY_AUTH_TOKEN" not in joined.values, "names, and values of what Ray changes, and no secret"


def test_a_piece_under_which_three_nodes_ended_is_given_to_no_fourth(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    over: list[tuple[str, bool]] = []
    handler = SimpleNamespace(
        lost=lambda at, granted, why: False, nowhere=lambda piece, why, *, lost: over.append((why, lost))
    )
    board = SimpleNamespace(give_up=SimpleNamespace(remote=lambda attempt: False))
    piece = Piece(payload=b"", fits=lambda device: True, label="bert")
    node = SimpleNamespace(node_id="1", joined=SimpleNamespace(name="doomed"))
    at = Placement(piece=piece, node=node, device=SimpleNamespace(), attempt="a")  # type: ignore[arg-type]
    loop = Loop(None, lambda *_: b"", handler, deque(), board)  # type: ignore[arg-type]
    for count in range(1, MOST_LOSSES + 1):
        assert not over
        loop._handle(at, ray.exceptions.WorkerCrashedError())
        assert len(loop.waiting) == min(count, MOST_LOSSES - 1)
    assert over == [("its node was lost 3 times; the last was doomed", True)]
