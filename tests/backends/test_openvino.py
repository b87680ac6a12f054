"""openvino: concrete devices, the precision that is in force, and what was executed."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from hwbench_mlflow.backends import openvino as platform
from hwbench_mlflow.backends.openvino import OpenvinoBackend
from hwbench_mlflow.errors import BenchmarkFailed, HardwareUnavailable
from hwbench_mlflow.model import AvailabilityStatus, Device, FailureCategory, Precision, Scenario
from tests.backends.tiny import OUTPUT, reference, tiny_inputs, tiny_model, tiny_workload
from tests.conftest import REQUIRED

if "openvino" not in REQUIRED:
    pytest.importorskip("openvino", reason="openvino is not installed")


@pytest.fixture(scope="module")
def cpu() -> Device:
    return OpenvinoBackend().probe().devices[0]


def test_the_cpu_is_there_and_the_absent_plugins_say_why() -> None:
    answer = OpenvinoBackend().probe()
    assert answer.verified, answer.reason
    there = {device.id.partition(".")[0] for device in answer.devices}
    for kind in {"GPU", "NPU"} - there:
        assert f"no {kind}: " in answer.reason
        assert answer.devices[0].details[f"absent.{kind}"]


def test_without_the_package_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert OpenvinoBackend().probe().status is AvailabilityStatus.NOT_INSTALLED


@pytest.mark.parametrize("virtual", ["AUTO", "HETERO:CPU", "MULTI:CPU", "BATCH:CPU", "AUTO:CPU", "GPU", "NPU"])
def test_what_is_no_concrete_device_here_is_refused(cpu: Device, virtual: str) -> None:
    import dataclasses

    import openvino as ov

    if virtual in ov.Core().available_devices:
        pytest.skip(f"{virtual} is there")
    wanted = dataclasses.replace(cpu, id=virtual)
    with pytest.raises(HardwareUnavailable), OpenvinoBackend().open(wanted, tiny_workload(), tiny_model(), None):
        pass


class _Core:
    """A core with the given devices, whose GPU plugin fails as it does without a driver."""

    def __init__(self, devices: list[str], error: str | None = None) -> None:
        self.available_devices = devices
        self.error = error

    def get_property(self, device: str, name: str) -> Any:
        if self.error is not None:
            raise RuntimeError(self.error)
        return [] if name == "AVAILABLE_DEVICES" else device


def test_virtual_devices_are_never_listed() -> None:
    assert platform.concrete_devices(_Core(["AUTO", "CPU", "GPU.0", "GPU.1", "HETERO", "NPU", "BATCH"])) == [
        "CPU", "GPU.0", "GPU.1", "NPU",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("Cannot load library: libOpenCL.so.1: cannot open shared object file", "libOpenCL.so.1 is missing"),
        ("Cannot load library: libze_loader.so: cannot open shared object file", "no driver"),
    ],
)
def test_a_plugin_without_its_driver_says_which(error: str, says: str) -> None:
    assert says in str(platform.why_absent(_Core(["CPU"], error), "GPU"))


def test_a_plugin_without_a_device_node_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform.Path, "glob", lambda self, pattern: iter(()))
    assert platform.why_absent(_Core(["CPU"]), "NPU") == "no device node /dev/accel/accel*"
    assert platform.why_absent(_Core(["CPU", "GPU.0"]), "GPU") is None


def test_the_probe_of_a_device_that_runs_elsewhere_fails(cpu: Device) -> None:
    import dataclasses

    import openvino as ov

    class Elsewhere:
        """Compiles to the CPU whatever was asked for, as a fallback would."""

        def __init__(self) -> None:
            self.core = ov.Core()

        def compile_model(self, graph: Any, device: str, config: Any) -> Any:
            return self.core.compile_model(graph, "CPU", config)

        def get_property(self, device: str, name: str) -> Any:
            return self.core.get_property("CPU", name)

    check = platform.check_device(Elsewhere(), dataclasses.replace(cpu, id="GPU.0"))
    assert not check.passed
    assert "ran on ['CPU']" in check.reason


def test_a_precision_that_the_device_lacks_is_refused_in_one_line(cpu: Device) -> None:
    """Asked for f16, the CPU plugin takes bf16 or f32 without a word."""
    if "FP16" in cpu.details["capabilities"]:
        pytest.skip("this CPU computes in fp16")
    workload = tiny_workload(precision=Precision.FP16)
    with (
        pytest.raises(BenchmarkFailed) as caught,
        OpenvinoBackend().open(cpu, workload, tiny_model(workload), None),
    ):
        pass
    assert caught.value.category is FailureCategory.UNSUPPORTED_OPERATOR
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_the_precision_asked_for_is_set_read_back_and_executed(cpu: Device, precision: Precision) -> None:
    if precision.value.upper() not in cpu.details["capabilities"]:
        pytest.skip(f"this CPU has no {precision}")
    workload = tiny_workload(precision=precision)
    model = tiny_model(workload)
    with OpenvinoBackend().open(cpu, workload, model, 1) as session:
        session.stage([tiny_inputs(0)])
        session.witness_begin()
        observed = session.fetch(session.run(0))[OUTPUT]
        facts = session.facts()
        seen = session.witness_end(1, 1, None)
    assert abs(observed - reference(model, tiny_inputs(0))).max() < (1e-4 if precision is Precision.FP32 else 0.1)
    assert facts.effective_precision is precision
    assert facts.compile_ns is not None
    assert facts.properties["openvino.PERFORMANCE_HINT"] == "LATENCY"
    assert facts.properties["openvino.PERF_COUNT"] == "NO"
    assert facts.properties["openvino.INFERENCE_NUM_THREADS"] == "1"
    assert seen.execution_devices == ("CPU",)
    assert seen.executed_node_types["FullyConnected"] > 0
    assert ("bf16" in seen.executed_precisions) == (precision is Precision.BF16)


def test_every_tensor_that_the_model_returns_stays_in_the_graph(cpu: Device) -> None:
    with OpenvinoBackend().open(cpu, tiny_workload(), tiny_model(), 1) as session:
        assert session.facts().properties["outputs"] == "last_hidden_state,pooler_output"


def test_offline_asks_for_throughput(cpu: Device) -> None:
    workload = tiny_workload(scenario=Scenario.OFFLINE)
    with OpenvinoBackend().open(cpu, workload, tiny_model(workload), None) as session:
        properties = session.facts().properties
    assert properties["openvino.PERFORMANCE_HINT"] == "THROUGHPUT"
    assert int(properties["openvino.async_requests"]) >= 1


@pytest.mark.parametrize(
    ("hint", "planned", "expected"),
    [
        ("<Type: 'float32'>", ["f32", "f32"], Precision.FP32),
        ("<Type: 'float32'>", ["f32", "bf16"], Precision.BF16),
        ("<Type: 'float32'>", ["f16"], Precision.FP16),
        ("<Type: 'bfloat16'>", ["bf16", "f32"], Precision.BF16),
        ("<Type: 'bfloat16'>", ["f32"], Precision.FP32),
        ("<Type: 'float16'>", ["f16"], Precision.FP16),
        ("<Type: 'float32'>", [], Precision.FP32),
    ],
)
def test_the_nodes_decide_the_precision_when_they_contradict_the_hint(
    hint: str, planned: list[str], expected: Precision
) -> None:
    assert platform.effective_precision(hint, planned) is expected


def test_a_precision_that_is_not_understood_is_an_error() -> None:
    with pytest.raises(BenchmarkFailed, match="reports the precision"):
        platform.effective_precision("<Type: 'dynamic'>", ["f32"])


def test_a_model_that_cannot_be_converted_is_one_line(cpu: Device) -> None:
    import dataclasses

    import torch

    class Strange(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            raise RuntimeError("an operation\nthat cannot be traced")

    model = dataclasses.replace(tiny_model(), module=Strange())
    with pytest.raises(BenchmarkFailed) as caught, OpenvinoBackend().open(cpu, tiny_workload(), model, None):
        pass
    assert caught.value.category is FailureCategory.UNSUPPORTED_OPERATOR
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "category"),
    [
        ("std::bad_alloc", FailureCategory.OUT_OF_MEMORY),
        ("clEnqueueNDRangeKernel, error code: -5 CL_OUT_OF_RESOURCES", FailureCategory.OUT_OF_MEMORY),
        ("Unsupported operation of type: X", FailureCategory.UNSUPPORTED_OPERATOR),
    ],
)
def test_runtime_errors_become_categories(message: str, category: FailureCategory) -> None:
    assert platform.translate(RuntimeError(message), "it failed").category is category


def test_only_the_cpu_has_a_calibration(cpu: Device) -> None:
    import dataclasses

    found = OpenvinoBackend().calibrate(cpu, Precision.FP32, 0.05)
    assert found is not None
    assert "torch" in found.source
    assert OpenvinoBackend().calibrate(dataclasses.replace(cpu, id="GPU.0"), Precision.FP32, 0.05) is None
