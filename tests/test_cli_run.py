"""``hwbench run``: what it refuses and in which words, what it leaves in the store, and when it may be stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from hwbench_mlflow import runner
from hwbench_mlflow.cli.run import BatchSizes, OrEmpty
from hwbench_mlflow.cli.signals import undisturbed
from hwbench_mlflow.codec import encode, sha256
from hwbench_mlflow.errors import BenchmarkFailed, Interrupted, StoreError
from hwbench_mlflow.model import AvailabilityStatus, FailureCategory, Platform, RunRequest
from hwbench_mlflow.probing import probe_isolated
from hwbench_mlflow.runner import Measured
from hwbench_mlflow.spool import Spool
from hwbench_mlflow.tracking import Store
from tests.commands import Call, answering, only, said
from tests.honest import honest

if TYPE_CHECKING:
    from mlflow.entities import Run

BASE = ("run", "--model", "bert-tiny", "--hardware", "cpu", "--profile", "smoke")


def runs(store_uri: str) -> list[Run]:
    return list(Store(store_uri).client.search_runs(["0"], order_by=["attributes.start_time ASC"]))


def measured(request: RunRequest) -> Measured:
    """A result as an honest run could have given it; it was never measured."""
    result, samples = honest()
    samples = dataclasses.replace(samples, result_id=uuid.uuid4().hex)
    workload = dataclasses.replace(result.workload, batch_size=1)
    result = dataclasses.replace(
        result, result_id=samples.result_id, samples_sha256=sha256(encode(samples)), workload=workload
    )
    return Measured(result=result, samples=samples)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[RunRequest]:
    """A runner that answers at once; what it was asked."""
    return answering(monkeypatch, measured)


WRONG = [
    (("--colour", "red"), "No such option '--colour'", "Allowed: --model, --hardware"),
    (("--batch-size", "many"), "'many' is not a list of whole numbers", "like 1,2,4"),
    (("--batch-size", "0"), "batch sizes are positive", ""),
    (("--batch-size", "2,2"), "each is given once", ""),
    (("--threads", "abc"), "'abc' is not a valid integer", ""),
    (("--hardware", "cuba"), "'cuba' is not one of", "'cpu', 'cuda', 'rocm', 'mps', 'openvino'"),
    (("--precision", "int4"), "'int4' is not one of", "'fp32', 'bf16', 'fp16', 'int8'"),
    (("--profile", "soon"), "'soon' is not one of", "'standard'"),
    (("--model", "no-such-model"), "'no-such-model' is neither a known model nor a folder", "Known: bert, bert-tiny"),
    (("--sequence-length", "100000"), "100000", ""),
    (("--image-size", "32"), "image", ""),
    (("--backend", "nonsense"), "no backend is called 'nonsense'", "There are: "),
    (("--out", "x.json", "--batch-size", "1,2"), "--out takes one batch size", ""),
]


SERVER = ("--scenario", "server", "--latency-bound-ms", "20")
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "server without a bound": (("--scenario", "server"), "--scenario server needs --latency-bound-ms"),
    "bound without server": (
        ("--latency-bound-ms", "20"), "--latency-bound-ms is for --scenario server, not for latency"
    ),
    "percentile without server": (
        ("--scenario", "offline", "--latency-percentile", "99"), "--latency-percentile is for --scenario server"
    ),
    "streams without multistream": ((*SERVER, "--streams", "8"), "--streams is for --scenario multistream"),
    "streams that no batch makes": (
        ("--scenario", "multistream", "--batch-size", "3"), "a query of 8 streams is not made of batches of 3"
    ),
    "a browser": ((*SERVER, "--hardware", "webgpu"), "--scenario server is not measured in a browser"),
    "streams in a browser": (
        ("--scenario", "multistream", "--hardware", "webnn"), "--scenario multistream is not measured in a browser"
    ),
    "no time": (("--scenario", "server", "--latency-bound-ms", "0"), "no time above 0 ms"),
    "not a number": (("--scenario", "server", "--latency-bound-ms", "nan"), "no time above 0 ms"),
    "endless": (("--scenario", "server", "--latency-bound-ms", "inf"), "no time above 0 ms"),
    "a word": (("--scenario", "server", "--latency-bound-ms", "fast"), "is not a number"),
    "a percentile without a rule": ((*SERVER, "--latency-percentile", "42"), "'42' is not one of"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_scenario_that_contradicts_itself_is_one_line_and_starts_nothing(
    case: str, call: Call, store_uri: str
) -> None:
    arguments, reason = REFUSED[case]
    code, out, err = call(*BASE, *arguments)
    assert (code, out) == (2, "")
    assert reason in only(said(err))
    assert runs(store_uri) == []


def test_what_a_scenario_leaves_open_is_resolved_before_anything_runs(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RunRequest] = []

    def refuse(request: RunRequest, *_: object) -> Measured:
        seen.append(request)
        raise BenchmarkFailed("enough", FailureCategory.CRASH)

    monkeypatch.setattr(runner, "run", refuse)
    call(*BASE, *SERVER)
    call(*BASE, "--scenario", "multistream", "--batch-size", "4")
    call(*BASE, "--scenario", "server", "--latency-bound-ms", "7.5", "--latency-percentile", "90", "--streams", "")
    work = [request.workload for request in seen]
    assert [(w.latency_bound_ms, w.latency_percentile, w.query_size) for w in work] == [
        (20.0, 99, None), (None, None, 8), (7.5, 90, None),
    ]  # fmt: skip


@pytest.mark.parametrize(("arguments", "wrong", "allowed"), WRONG, ids=lambda value: str(value)[:40])
def test_what_cannot_be_right_is_one_line_that_says_what_is_allowed(
    arguments: tuple[str, ...], wrong: str, allowed: str, call: Call, store_uri: str
) -> None:
    code, out, err = call(*BASE, *arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("hwbench: ")
    assert wrong in line
    assert allowed in line
    assert runs(store_uri) == [], "nothing was started"


@pytest.mark.parametrize(("arguments", "wrong"), [case[:2] for case in WRONG[:9]], ids=lambda value: str(value)[:40])
def test_under_mlflow_run_the_run_ends_failed_with_that_line(
    arguments: tuple[str, ...], wrong: str, call: Call, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Store(store_uri).client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    code, _, err = call(*BASE, *arguments)
    assert code == 2
    (run,) = runs(store_uri)
    assert (run.info.run_id, run.info.status, run.data.metrics) == (made, "FAILED", {})
    assert run.data.tags["hwbench.failure_category"] == "usage"
    assert wrong in run.data.tags["hwbench.failure_reason"]
    assert wrong in only(said(err))


def test_an_unknown_command_lists_the_commands_and_none_shows_the_help(call: Call) -> None:
    assert call("rum")[0] == 2
    assert "Commands: run, batch, fleet, replicate, devices, verify" in only(said(call("rum")[2]))
    assert "Usage: " in "".join(call()[1:])


@pytest.mark.parametrize("platform", [p for p in Platform if p not in (Platform.CPU, Platform.OPENVINO)])
def test_hardware_that_is_not_there_is_exit_4_and_a_failed_run_with_the_reason_and_no_number(
    platform: Platform, call: Call, store_uri: str
) -> None:
    (found,) = probe_isolated([platform])
    if found.status is AvailabilityStatus.AVAILABLE:
        pytest.skip(f"{platform} is really here: {found.reason}")
    code, out, err = call("run", "--model", "bert-tiny", "--hardware", platform.value, "--profile", "smoke")
    assert (code, out) == (4, "")
    assert found.reason in only(said(err))
    (run,) = runs(store_uri)
    assert (run.info.status, run.data.metrics) == ("FAILED", {})
    expected = {
        "hardware": platform.value, "hardware_available": "false", "availability_verified": "false",
        "hwbench.availability_status": str(found.status), "hwbench.failure_category": str(found.status).lower(),
        "hwbench.role": "failure", "model": "bert-tiny",
        "hwbench.precision": "fp16" if platform is Platform.QNN else "fp32",
    }  # fmt: skip
    assert {name: run.data.tags.get(name) for name in expected} == expected
    assert found.reason in run.data.tags["hwbench.failure_reason"]
    assert not {"verdict", "is_simulated"} & run.data.tags.keys()


def test_a_result_is_logged_and_shown_and_its_json_is_one_object(
    call: Call, store_uri: str, quick: list[RunRequest]
) -> None:
    code, out, _ = call(*BASE, "--json")
    document = json.loads(out)
    (run,) = runs(store_uri)
    assert (code, document["schema_version"]) == (0, 1)
    (shown,) = document["results"]
    assert (shown["run_id"], shown["verdict"]) == (run.info.run_id, "verified")
    assert shown["metrics"] == run.data.metrics
    assert only([r.workload.model for r in quick]) == "bert-tiny"


def test_an_empty_value_is_a_value_that_was_not_given(call: Call, quick: list[RunRequest]) -> None:
    empty = ("--device", "", "--sequence-length", "", "--image-size", "", "--threads", "", "--backend", "")
    assert call(*BASE, *empty)[0] == 0
    (asked,) = quick
    assert (asked.device, asked.threads, asked.workload.sequence_length) == (None, None, None)
    assert OrEmpty(click.INT).convert("", None, None) is None
    assert BatchSizes().convert((1, 2), None, None) == (1, 2)


def test_a_failure_of_one_batch_size_leaves_the_others_their_runs(
    call: Call, store_uri: str, quick: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = runner.run

    def run(request: RunRequest, *arguments: Any) -> Measured:
        if request.workload.batch_size == 8:
            raise BenchmarkFailed("out of memory", FailureCategory.OUT_OF_MEMORY)
        return good(request, *arguments)

    monkeypatch.setattr(runner, "run", run)
    code, out, err = call(*BASE, "--batch-size", "1,8,2")
    assert code == 1
    assert only(said(err)).startswith("hwbench: out of memory")
    assert out.count("verdict     verified") == 2
    by_name = {run.info.run_name: run.info.status for run in runs(store_uri)}
    assert by_name == {
        "bert-tiny-cpu-fp32": "FAILED", "bert-tiny-cpu-fp32-b1": "FINISHED", "bert-tiny-cpu-fp32-b8": "FAILED",
        "bert-tiny-cpu-fp32-b2": "FINISHED",
    }  # fmt: skip


@pytest.fixture(autouse=True)
def empty_spool(isolated: Path) -> Iterator[Path]:
    """The spool of this test's own, under the home that all share."""
    folder = isolated / "spool"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def refuse_results(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def log_result(self: Store, run_id: str, *arguments: Any, **settings: Any) -> None:
        self.client.set_tag(run_id, "hwbench.model", "half of it")
        raise error

    monkeypatch.setattr(Store, "log_result", log_result)


def test_a_result_that_the_store_refuses_waits_in_the_spool_and_is_delivered_once(
    call: Call, store_uri: str, quick: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        refuse_results(patched, StoreError("the disk is full"))
        code, out, err = call(*BASE, "--batch-size", "1,2")
    waiting = only(Spool().waiting())
    assert (code, out) == (1, "")
    line = only(said(err))
    assert f"the disk is full; the result is kept in {Spool().folder}. " in line
    assert "hwbench push --spool" in line
    assert len(quick) == 1, "no use in measuring what cannot be logged"
    assert all(run.data.metrics == {} for run in runs(store_uri))
    code, out, _ = call("push", "--spool")
    assert (code, out.startswith(f"{waiting}: run ")) == (0, True)
    statuses = {run.info.run_name: run.info.status for run in runs(store_uri)}
    assert statuses == {"bert-tiny-cpu-fp32": "FAILED", "bert-tiny-cpu-fp32-b1": "FINISHED"}
    assert call("push", "--spool")[:2] == (0, "")
    assert Spool().waiting() == []


def test_told_to_stop_while_a_result_is_logged_it_logs_it_whole_first(
    call: Call, store_uri: str, quick: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Store.log_result

    def log_result(self: Store, *arguments: Any, **settings: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return real(self, *arguments, **settings)

    monkeypatch.setattr(Store, "log_result", log_result)
    code, _, err = call(*BASE, "--batch-size", "1,2")
    assert (code, only(said(err))) == (1, "hwbench: interrupted by SIGTERM")
    statuses = {run.info.run_name: run.info.status for run in runs(store_uri)}
    assert statuses == {"bert-tiny-cpu-fp32": "FAILED", "bert-tiny-cpu-fp32-b1": "FINISHED"}
    assert len(quick) == 1
    assert Spool().waiting() == []


def test_told_twice_while_a_result_is_logged_it_breaks_off_and_the_next_run_delivers_it(
    call: Call, store_uri: str, quick: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_result(self: Store, *arguments: Any, **settings: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "log_result", log_result)
        code, _, err = call(*BASE)
    assert (code, only(said(err))) == (1, "hwbench: interrupted by SIGINT")
    assert [run.info.status for run in runs(store_uri)] == ["RUNNING"]
    assert len(Spool().waiting()) == 1
    assert call(*BASE)[0] == 0
    assert [run.info.status for run in runs(store_uri)] == ["FINISHED", "FINISHED"]
    assert Spool().waiting() == []


def test_told_to_stop_while_it_measures_the_run_is_killed_and_the_next_is_not_begun(
    call: Call, store_uri: str, quick: list[RunRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(request: RunRequest, progress: Any, before_timing: Callable[[], None]) -> Measured:
        quick.append(request)
        before_timing()
        signal.raise_signal(signal.SIGTERM)
        return measured(request)

    monkeypatch.setattr(runner, "run", run)
    assert call(*BASE, "--batch-size", "1,2")[0] == 1
    statuses = {run.info.run_name: run.info.status for run in runs(store_uri)}
    assert statuses == {"bert-tiny-cpu-fp32": "FAILED", "bert-tiny-cpu-fp32-b1": "KILLED"}
    assert len(quick) == 1


def test_a_signal_is_held_back_for_the_block_and_then_given_to_whom_it_was_for() -> None:
    told: list[str] = []

    def handler(number: int, frame: object) -> None:
        told.append(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            assert told == []
        assert told == ["SIGTERM"]
        with undisturbed():
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(Interrupted, match="SIGTERM"):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
