"""QNN: what is a Hexagon and what only emulates one, by recorded replies; the emulator itself where it is installed.

The replies of hardware are after onnxruntime's and the kernel's documentation: never seen on hardware by us.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from hwbench_mlflow.backends import _htp, _onnx, qnn
from hwbench_mlflow.backends.qnn import EMULATION_REASON, Places, QnnBackend, find_device, machine_of, translate
from hwbench_mlflow.errors import BenchmarkFailed, HardwareUnavailable
from hwbench_mlflow.model import (
    Availability,
    AvailabilityStatus,
    Device,
    FailureCategory,
    Platform,
    Precision,
)
from hwbench_mlflow.runner import lock_name
from hwbench_mlflow.verdict import QNN_PROVIDER
from hwbench_mlflow.workloads.base import InputSpec
from tests.backends.tiny import OUTPUT, reference, tiny_inputs, tiny_model, tiny_workload
from tests.commands import hwbench
from tests.conftest import REQUIRED

VERSION = "2.7.0 (QNN 2.51.0)"


def listed(kind: str, vendor: str, vendor_id: int, **metadata: str) -> types.SimpleNamespace:
    """An ``OrtEpDevice`` of the plugin's."""
    device = types.SimpleNamespace(
        type=f"OrtHardwareDeviceType.{kind}", vendor=vendor, vendor_id=vendor_id, device_id=0, metadata=metadata
    )
    return types.SimpleNamespace(ep_name=QNN_PROVIDER, ep_vendor="Qualcomm", device=device)


HERE = [listed("CPU", "AMD", 4130)]  # as recorded on x86-64
NPU = listed(
    "NPU", "", qnn.QUALCOMM_VENDOR_ID, Description="Snapdragon(R) X Elite - X1E80100 - Qualcomm(R) Hexagon(TM) NPU"
)
SNAPDRAGON = [listed("CPU", "Qualcomm", qnn.QUALCOMM_VENDOR_ID), NPU]


class Node(Places):
    """A system with a FastRPC node: making a character device takes root."""

    def node(self) -> str | None:
        return "/dev/fastrpc-cdsp"


def soc(root: Path, **facts: str) -> Path:
    folder = root / "sys/devices/soc0"
    folder.mkdir(parents=True)
    for name, text in facts.items():
        (folder / name).write_text(f"{text}\n")
    return root


BOARD = {"family": "Snapdragon", "machine": "QCS6490", "soc_id": "497", "revision": "1.0"}


def found(answer: Device | Availability) -> Device:
    assert isinstance(answer, Device), answer
    return answer


def status(answer: Device | Availability) -> tuple[AvailabilityStatus, str]:
    assert isinstance(answer, Availability), answer
    assert answer.remedy
    return answer.status, answer.reason


def test_a_recorded_linux_board_is_a_hexagon(tmp_path: Path) -> None:
    device = found(find_device(SNAPDRAGON, "aarch64", VERSION, Node(soc(tmp_path, **BOARD), "linux")))
    assert (device.id, device.name, device.emulation_reason) == ("htp", "QCS6490 Hexagon", None)
    assert device.details["fastrpc"] == "/dev/fastrpc-cdsp"
    assert device.details["soc.soc_id"] == "497"
    assert lock_name(device) == "qnn-htp"


def test_a_recorded_windows_pc_is_a_hexagon(tmp_path: Path) -> None:
    device = found(find_device(SNAPDRAGON, "aarch64", VERSION, Places(tmp_path, "win32")))
    assert (device.id, device.emulation_reason) == ("htp", None)
    assert "X1E80100" in device.name


def test_each_missing_part_of_a_hexagon_is_told_apart(tmp_path: Path) -> None:
    board = soc(tmp_path, **BOARD)
    assert status(find_device(SNAPDRAGON, "aarch64", VERSION, Places(board, "linux"))) == (
        AvailabilityStatus.NO_DRIVER,
        "QCS6490 has no FastRPC node (/dev/fastrpc-cdsp, /dev/adsprpc-smd)",
    )
    state, reason = status(find_device(HERE, "aarch64", VERSION, Node(board, "linux")))
    assert (state, "no NPU of Qualcomm's, but CPU" in reason) == (AvailabilityStatus.NO_DEVICE, True)
    state, _ = status(find_device(HERE, "aarch64", VERSION, Places(tmp_path, "win32")))
    assert state is AvailabilityStatus.NO_DRIVER
    graviton = Node(tmp_path / "elsewhere", "linux")
    state, reason = status(find_device(SNAPDRAGON, "aarch64", VERSION, graviton))
    assert (state, "no Snapdragon" in reason) == (AvailabilityStatus.NO_DEVICE, True)
    assert status(find_device([], "aarch64", VERSION, graviton))[0] is AvailabilityStatus.PROBE_FAILED
    assert status(find_device(HERE, "an unknown machine", VERSION, graviton))[0] is AvailabilityStatus.UNSUPPORTED_HOST


def test_an_x86_64_library_only_emulates_whatever_files_and_devices_say(tmp_path: Path) -> None:
    device = found(find_device(SNAPDRAGON, "x86-64", VERSION, Node(soc(tmp_path, **BOARD), "linux")))
    assert (device.id, device.emulation_reason) == ("htp-emulator", EMULATION_REASON)
    assert lock_name(device) == "cpu"


def test_an_ordinary_file_in_dev_is_no_device_node(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/fastrpc-cdsp").write_text("")
    assert Places(tmp_path, "linux").node() is None
    if os.geteuid() == 0:
        os.mknod(tmp_path / "dev/adsprpc-smd", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        assert Places(tmp_path, "linux").node() == "/dev/adsprpc-smd"


def test_the_machine_is_read_from_the_library_s_header(tmp_path: Path) -> None:
    made = tmp_path / "lib"
    made.write_bytes(b"\x7fELF" + bytes(14) + (0xB7).to_bytes(2, "little") + bytes(44))
    assert machine_of(made) == "aarch64"
    made.write_bytes(b"MZ" + bytes(58) + (64).to_bytes(4, "little") + b"PE\0\0" + (0xAA64).to_bytes(2, "little"))
    assert machine_of(made) == "aarch64"
    made.write_bytes(b"#!/bin/sh\n" + bytes(64))
    assert machine_of(made) == "an unknown machine"
    if sys.platform == "linux":
        assert machine_of(Path(sys.executable).resolve()) in {"x86-64", "aarch64"}


def test_nodes_are_counted_by_the_provider_that_ran_them_and_not_by_the_session_s_list() -> None:
    event = {"cat": "Node", "name": "n0_kernel_time", "args": {"provider": "CPUExecutionProvider"}}
    own = {"cat": "Node", "name": "qnn_kernel_time", "args": {"provider": QNN_PROVIDER}}
    assert qnn.placement([event, own, own, {"cat": "Session", "name": "model_run"}]) == {
        "CPUExecutionProvider": 1,
        QNN_PROVIDER: 1,
    }


@pytest.mark.parametrize(
    ("error", "said", "category", "words"),
    [
        ("QNN_COMMON_ERROR_MEM_ALLOC", (), FailureCategory.OUT_OF_MEMORY, "out of memory"),
        (
            "fallback to CPU EP has been explicitly disabled",
            ("Unsupported nodes in QNN EP: { name: n, type: Erf }, { name: m, type: Hardmax }",),
            FailureCategory.UNSUPPORTED_OPERATOR,
            "Erf, Hardmax",
        ),
        (
            "fallback to CPU EP has been explicitly disabled",
            ("QNN SetupBackend failed Unable to load backend, error: libQnnCpu.so",),
            FailureCategory.FALLBACK_DETECTED,
            "libQnnCpu.so",
        ),
        ("something else\nentirely", (), FailureCategory.UNSUPPORTED_OPERATOR, "something else entirely"),
    ],
)
def test_onnxruntime_s_words_get_a_category(
    error: str, said: tuple[str, ...], category: FailureCategory, words: str
) -> None:
    failed = translate(error, said)
    assert failed.category is category
    assert words in str(failed)
    assert "\n" not in str(failed)


def test_a_graph_that_is_only_partly_quantised_is_no_int8() -> None:
    model = _onnx.OnnxModel(path=Path("x"), sha256="", inputs=(), omitted=(), outputs=())
    with pytest.raises(BenchmarkFailed, match="only 3 of 4 products"):
        qnn.effective_precision(Precision.INT8, _htp.HtpGraph(model, 4, 3))
    with pytest.raises(BenchmarkFailed, match="only 0 of 0"):
        qnn.effective_precision(Precision.INT8, _htp.HtpGraph(model, 0, 0))
    assert qnn.effective_precision(Precision.FP16, _htp.HtpGraph(model, 4, 0)) is Precision.FP16


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answer = QnnBackend().probe()
    assert (answer.status, answer.devices) == (AvailabilityStatus.NOT_INSTALLED, ())
    assert answer.reason == "not installed: onnxruntime, onnxruntime-qnn, onnx, onnxscript"
    assert "[qnn]" in str(answer.remedy)


def test_a_package_that_only_has_the_name_makes_nothing_available(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An importable ``qnn``, and a plugin without a library."""
    pytest.importorskip("onnxruntime")
    empty = types.ModuleType("onnxruntime_qnn")
    empty.get_library_path = lambda: str(tmp_path / "none.so")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "qnn", types.ModuleType("qnn"))
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", empty)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    answer = QnnBackend().probe()
    assert (answer.status, answer.devices) == (AvailabilityStatus.PROBE_FAILED, ())
    assert "none.so is missing" in answer.reason


# --- the emulator -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emulator() -> Device:
    answer = QnnBackend().probe()
    if answer.status is not AvailabilityStatus.AVAILABLE:
        if "qnn" in REQUIRED:
            pytest.fail(f"qnn is required here: {answer.reason}")
        pytest.skip(answer.reason)
    if answer.devices[0].id != qnn.EMULATOR:
        pytest.skip("this machine has a Hexagon")
    return answer.devices[0]


def test_the_emulator_is_simulated_and_every_node_is_on_it(emulator: Device) -> None:
    workload = tiny_workload(precision=Precision.FP16)
    model = tiny_model(workload)
    with QnnBackend().open(emulator, workload, model, None) as session:
        session.stage([tiny_inputs(0)])
        observed = session.fetch(session.run(0))[OUTPUT]
        facts, seen = session.facts(), session.witness_end(1, 1, None)
    # the second item too: a constant that is broadcast over the batch comes out wrong there if it is left so
    np.testing.assert_allclose(observed, reference(model, tiny_inputs(0)), atol=3e-2)
    assert facts.device.emulation_reason == EMULATION_REASON
    assert facts.effective_precision is Precision.FP16
    assert facts.properties["inputs"] == "token ids as int64, looked up on the device"
    assert seen.placement.keys() == {QNN_PROVIDER}
    assert seen.executed_precisions.keys() == {"fp16"}
    assert QnnBackend().calibrate(emulator, Precision.FP16, 0.1) is None


def test_int8_takes_integers_in_each_product(emulator: Device) -> None:
    workload = tiny_workload(precision=Precision.INT8)
    model = tiny_model(workload)
    with QnnBackend().open(emulator, workload, model, None) as session:
        session.stage([tiny_inputs(0)])
        observed = session.fetch(session.run(0))[OUTPUT]
        facts, seen = session.facts(), session.witness_end(1, 1, None)
    assert facts.effective_precision is Precision.INT8
    assert seen.executed_precisions.keys() == {"int8"}
    assert seen.placement.keys() == {QNN_PROVIDER}
    error = np.abs(observed - reference(model, tiny_inputs(0))).max()
    assert 1e-3 < error < 0.75  # not fp32, and not another input's output


def test_fp32_is_refused_as_the_hardware_has_none(emulator: Device) -> None:
    with (
        pytest.raises(BenchmarkFailed, match="computes in fp16 and in int8, not in fp32") as failed,
        QnnBackend().open(emulator, tiny_workload(), tiny_model(), None),
    ):
        pass
    assert failed.value.category is FailureCategory.UNSUPPORTED_OPERATOR


def test_an_operator_that_qnn_lacks_is_named_and_never_left_to_the_cpu(emulator: Device) -> None:
    import torch

    class Sorts(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {OUTPUT: torch.linalg.det((x @ x).reshape(1, 4, 4)).reshape(1, 1) + x}

    model = dataclasses.replace(tiny_model(), module=Sorts(), input_spec=(InputSpec("x", "normal", (4, 4)),))
    workload = tiny_workload(batch_size=4, precision=Precision.FP16)
    with pytest.raises(BenchmarkFailed) as failed, QnnBackend().open(emulator, workload, model, None):
        pass
    assert failed.value.category is FailureCategory.UNSUPPORTED_OPERATOR
    assert "Det" in str(failed.value)


def test_qnn_s_cpu_backend_is_a_fallback_and_no_device(emulator: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not in the package, and onnxruntime would run everything on its own CPU, without a word."""
    monkeypatch.setitem(qnn.OPTIONS, qnn.EMULATOR, {"backend_type": "cpu"})
    answer = QnnBackend().probe()
    assert (answer.status, answer.verified) == (AvailabilityStatus.PROBE_FAILED, False)
    assert "to the CPU" in answer.reason


def test_a_session_that_ran_on_the_cpu_after_all_is_refused(emulator: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qnn._Profiled, "placement", lambda self: {"CPUExecutionProvider": 40})
    monkeypatch.setattr(QnnBackend, "probe", lambda self: Availability(
        platform=Platform.QNN, status=AvailabilityStatus.AVAILABLE, reason="", devices=(emulator,),
        checks=(qnn.judge_product(emulator.id, [[1.0]], [[1.0]], identity="x", enumerated="x"),),
    ))  # fmt: skip
    workload = tiny_workload(precision=Precision.FP16)
    with (
        pytest.raises(BenchmarkFailed, match="40 on CPUExecutionProvider") as failed,
        QnnBackend().open(emulator, workload, tiny_model(workload), None),
    ):
        pass
    assert failed.value.category is FailureCategory.FALLBACK_DETECTED


def test_a_disguised_emulator_is_refused(emulator: Device) -> None:
    real = dataclasses.replace(emulator, emulation_reason=None)
    with pytest.raises(HardwareUnavailable), QnnBackend().open(real, tiny_workload(), tiny_model(), None):
        pass


def test_the_peak_is_measured_by_products_on_the_device(emulator: Device) -> None:
    flops, dim, repeats = qnn.measure_peak(emulator, 0.1, (32, 64))
    assert flops > 0
    assert dim in {32, 64}
    assert repeats >= 3


@pytest.mark.slow
def test_the_emulator_is_measured_simulated_and_in_no_default_report(
    emulator: Device, tiny_folder: Path, store_uri: str, tmp_path: Path
) -> None:
    """From the command to the report; the probes of `devices --log` too, to the log of a sync."""
    done = hwbench(
        "run", "--model", str(tiny_folder), "--hardware", "qnn", "--profile", "smoke", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert (result["verdict"], result["tags"]["is_simulated"]) == ("simulated", "true")
    assert result["tags"]["simulation_reason"] == EMULATION_REASON
    assert hwbench("devices", "--platform", "qnn", "--platform", "mps", "--log", cwd=tmp_path).returncode == 0
    for command in ("sync", "gate"):
        done = hwbench(command, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr

    def rows(sql: str) -> list[dict[str, object]]:
        asked = hwbench("query", sql, "--db", "hwbench.duckdb", "--format", "json", cwd=tmp_path)
        assert asked.returncode == 0, asked.stderr
        found: list[dict[str, object]] = json.loads(asked.stdout)
        return found

    assert rows("SELECT count(*) AS n FROM verified_results") == [{"n": 0}]
    assert rows("SELECT effective_precision AS p, simulation_reason AS why FROM simulated_results") == [
        {"p": "fp16", "why": EMULATION_REASON}
    ]
    logged = rows(
        "SELECT hardware_type AS h, emulation_reason AS e FROM hardware_availability_log WHERE source = 'devices'"
    )
    assert sorted((str(row["h"]), row["e"]) for row in logged) == [("mps", None), ("qnn", EMULATION_REASON)]
    report = hwbench("report", "--format", "json", cwd=tmp_path)
    assert json.loads(report.stdout)["results"] == []
