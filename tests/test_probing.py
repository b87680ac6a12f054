"""One vendor's library takes down its own probe and no other."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hwbench_mlflow import host, probing
from hwbench_mlflow.backends.fake import EMULATION_REASON, FakeBackend
from hwbench_mlflow.model import Availability, AvailabilityStatus, Platform
from tests import hostile_probes
from tests.hostile_probes import target

FAKE = "hwbench_mlflow.backends.fake:FakeBackend"
FAILED = AvailabilityStatus.PROBE_FAILED


def _beside_a_good_one(kind: type, timeout_s: float = 30.0) -> Availability:
    """The hostile probe's answer; a good probe beside it must have answered well."""
    bad, good = probing.probe_isolated(
        [Platform.CUDA, Platform.CPU], timeout_s, backends={Platform.CUDA: target(kind), Platform.CPU: FAKE}
    )
    assert good.status is AvailabilityStatus.AVAILABLE
    assert good.reason == EMULATION_REASON
    assert bad.platform is Platform.CUDA
    return bad


def test_a_crash_is_that_platform_s_failure_with_the_signal_and_its_last_words() -> None:
    answer = _beside_a_good_one(hostile_probes.Crashes)
    assert answer.status is FAILED
    assert "SIGSEGV" in answer.reason
    assert "about to fall over" in answer.reason


def test_a_hang_is_ended_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "pid"
    monkeypatch.setenv("HOSTILE_PID_FILE", str(pid_file))
    answer = _beside_a_good_one(hostile_probes.HangsWithAChild, timeout_s=6.0)
    assert answer.status is FAILED
    assert "did not answer within 6 s" in answer.reason
    grandchild = int(pid_file.read_text())
    for _ in range(200):  # a killed process stays visible until init reaps it
        state = _state(grandchild)
        if state in (None, "Z"):
            return
        time.sleep(0.05)
    pytest.fail(f"process {grandchild} is still in state {state}")


def _state(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def test_an_exception_is_a_failure_with_its_message() -> None:
    answer = _beside_a_good_one(hostile_probes.Raises)
    assert answer.status is FAILED
    assert "RuntimeError: the vendor changed its mind" in answer.reason


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (hostile_probes.LeavesEarly, "unreadable"),
        (hostile_probes.AnswersForAnother, "answered for cpu"),
        (hostile_probes.ClaimsWithoutDevices, "without an operation that ran"),
        (hostile_probes.ListsAStranger, "devices of other platforms"),
    ],
)
def test_an_answer_that_claims_more_than_it_shows_is_a_failure(kind: type, says: str) -> None:
    answer = _beside_a_good_one(kind)
    assert answer.status is FAILED
    assert says in answer.reason
    assert not answer.verified


@pytest.mark.parametrize("kind", [hostile_probes.Chatters, hostile_probes.CrashesAtExit])
def test_chatter_and_a_crash_at_exit_do_not_spoil_a_good_answer(kind: type) -> None:
    (answer,) = probing.probe_isolated([Platform.CPU], backends={Platform.CPU: target(kind)})
    assert (answer.status, answer.reason) == (AvailabilityStatus.AVAILABLE, EMULATION_REASON)


def test_answers_come_in_the_order_asked_and_are_stamped() -> None:
    seen: list[Platform] = []
    asked = [Platform.WEBGPU, Platform.QNN, Platform.WEBNN]
    answers = probing.probe_isolated(asked, jobs=2, on_answer=lambda answer: seen.append(answer.platform))
    assert [answer.platform for answer in answers] == asked
    assert sorted(seen) == sorted(asked)
    assert len({answer.probe_id for answer in answers}) == 3
    for answer in answers:
        assert len(answer.probe_id) == 32
        assert answer.started_at.endswith("+00:00")
        assert answer.duration_ns > 0
        assert answer.boot_id == host.boot_id()


def test_a_backend_that_is_not_there_is_a_failure_with_its_name() -> None:
    (answer,) = probing.probe_isolated([Platform.CUDA], backends={Platform.CUDA: "no_such_module:Thing"})
    assert answer.status is FAILED
    assert "no_such_module" in answer.reason


def test_probing_in_this_process_stamps_and_checks_the_same_way() -> None:
    good = probing.probe_here(FakeBackend())
    assert good.status is AvailabilityStatus.AVAILABLE
    assert good.probe_id
    bad = probing.probe_here(hostile_probes.ListsUnchecked())
    assert bad.status is FAILED


def test_a_working_probe_of_the_cpu_in_a_child() -> None:
    (answer,) = probing.probe_isolated([Platform.CPU])
    assert answer.verified, answer.reason


def test_a_child_s_signal_without_a_name_is_told_by_number() -> None:
    assert "signal 250" in probing.interpret(Platform.CUDA, -250, b"", b"").reason


def test_half_an_answer_is_no_answer() -> None:
    answer = probing.interpret(Platform.CUDA, 0, b'{"platform": "cuda", "status": "AVAIL', b"")
    assert answer.status is FAILED


GRANTING = {
    "CUDA_VISIBLE_DEVICES": "0,1",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "HIP_VISIBLE_DEVICES": "0",
    "ROCR_VISIBLE_DEVICES": "0",
    "HSA_OVERRIDE_GFX_VERSION": "10.3.0",
    "CUDA_HOME": "/usr/local/cuda",
    "ROCM_HOME": "/opt/rocm",
    "QNN_SDK_ROOT": "/opt/qnn",
    "WEBNN_AVAILABLE": "1",
    "WEBGPU_AVAILABLE": "1",
    "MPS_AVAILABLE": "1",
    "HWBENCH_SIMULATE": "1",
}


def test_no_variable_no_program_on_the_path_and_no_module_of_a_vendor_s_name_grants_hardware(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [p for p in Platform if p not in (Platform.CPU, Platform.OPENVINO)]
    plain = probing.probe_isolated(asked)
    for program in ("nvidia-smi", "rocm-smi", "rocminfo", "amd-smi", "qnn-net-run", "clinfo"):
        script = tmp_path / program
        script.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1234)'\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for module in ("qnn", "amdsmi", "tensorrt", "webgpu"):
        (tmp_path / f"{module}.py").write_text("AVAILABLE = True\n")
    for name, value in {**GRANTING, "PYTHONPATH": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    dressed = probing.probe_isolated(asked)
    assert [a.status for a in dressed] == [a.status for a in plain]
    assert [a.devices for a in dressed] == [a.devices for a in plain]
    assert [a.verified for a in dressed] == [a.verified for a in plain]
