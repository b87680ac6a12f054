"""cuda: each missing piece has its own status; a GPU is what torch and NVML agree on."""

from __future__ import annotations

import dataclasses
import os
import sys
import types
from typing import Any

import pytest
import torch

from hwbench_mlflow.backends import _torch, _torch_cuda
from hwbench_mlflow.backends.cuda import CudaBackend, CudaSession, torch_uuid
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import AvailabilityStatus, Device, FailureCategory, Platform
from tests.backends.tiny import tiny_model, tiny_workload
from tests.backends.vendors import ADDRESS, UUID, Enumeration, Nvml, properties


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Enumeration:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Enumeration(monkeypatch)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    module = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_a_build_without_cuda_is_not_installed(vendor: Enumeration, nvml: Nvml) -> None:
    vendor.build()
    answer = CudaBackend().probe()
    assert answer.status is AvailabilityStatus.NOT_INSTALLED
    assert "built without CUDA" in answer.reason
    assert "driver is there" in answer.reason


def test_a_rocm_build_is_no_cuda_whatever_is_available_says(vendor: Enumeration, nvml: Nvml) -> None:
    vendor.build(hip="6.4")
    vendor.devices(properties(name="AMD Instinct MI300X"))
    answer = CudaBackend().probe()
    assert answer.status is AvailabilityStatus.NOT_INSTALLED
    assert "ROCm build" in answer.reason
    assert not answer.devices


def test_without_a_driver_it_is_no_driver(vendor: Enumeration, nvml: Nvml) -> None:
    vendor.build(cuda="12.8")
    nvml.init_error = "Driver Not Loaded"
    answer = CudaBackend().probe()
    assert answer.status is AvailabilityStatus.NO_DRIVER
    assert "Driver Not Loaded" in answer.reason
    assert answer.remedy is not None


def test_without_nvml_s_package_it_is_not_installed(vendor: Enumeration, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor.build(cuda="12.8")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    answer = CudaBackend().probe()
    assert answer.status is AvailabilityStatus.NOT_INSTALLED
    assert "nvidia-ml-py" in str(answer.remedy)


def test_a_driver_without_devices_is_no_device(vendor: Enumeration, nvml: Nvml) -> None:
    vendor.build(cuda="12.8")
    vendor.devices()
    answer = CudaBackend().probe()
    assert answer.status is AvailabilityStatus.NO_DEVICE
    assert "CUDA_VISIBLE_DEVICES" not in answer.reason


def test_hidden_devices_are_no_device_and_the_variable_is_named(
    vendor: Enumeration, nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.build(cuda="12.8")
    vendor.devices()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    answer = CudaBackend().probe()
    assert answer.status is AvailabilityStatus.NO_DEVICE
    assert "CUDA_VISIBLE_DEVICES" in answer.reason


def test_a_gpu_on_which_torch_and_nvml_agree_is_verified(vendor: Enumeration, nvml: Nvml) -> None:
    vendor.build(cuda="12.8")
    vendor.devices(properties())
    answer = CudaBackend().probe()
    assert answer.verified, answer.reason
    (device,) = answer.devices
    assert (device.id, device.uuid, device.pci_id) == ("cuda:0", f"GPU-{UUID}", ADDRESS)
    assert device.driver == "570.86.15"
    assert vendor.checked == ["cuda:0"]


@pytest.mark.parametrize(
    ("recorded", "says"),
    [
        (Nvml(uuid="GPU-99999999-0000-0000-0000-000000000000"), "answered as GPU-99999999"),
        (Nvml(address="00000000:0b:00.0"), "nothing that NVML knows"),
    ],
    ids=["another uuid", "another slot"],
)
def test_a_gpu_that_nvml_does_not_know_is_not_verified(
    vendor: Enumeration, monkeypatch: pytest.MonkeyPatch, recorded: Nvml, says: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", recorded)
    vendor.build(cuda="12.8")
    vendor.devices(properties())
    answer = CudaBackend().probe()
    assert answer.status is AvailabilityStatus.PROBE_FAILED
    assert says in answer.reason


@pytest.mark.parametrize("gone", ["uuid", "pci_bus_id"])
def test_a_gpu_without_an_identity_is_not_verified(vendor: Enumeration, nvml: Nvml, gone: str) -> None:
    vendor.build(cuda="12.8")
    found = properties()
    delattr(found, gone)
    vendor.devices(found)
    answer = CudaBackend().probe()
    assert answer.status is AvailabilityStatus.PROBE_FAILED
    assert not answer.verified


def test_one_good_gpu_beside_a_bad_one_leaves_the_bad_one_unverified(vendor: Enumeration, nvml: Nvml) -> None:
    vendor.build(cuda="12.8")
    vendor.devices(properties(), properties(pci_bus_id=99))
    answer = CudaBackend().probe()
    assert answer.status is AvailabilityStatus.AVAILABLE
    assert answer.verified_device("cuda:0") is not None
    assert answer.verified_device("cuda:1") is None
    assert not answer.verified


@pytest.mark.parametrize("given", [UUID, f"GPU-{UUID}"])
def test_a_uuid_is_written_as_nvml_writes_it(given: str) -> None:
    assert torch_uuid(properties(uuid=given)) == f"GPU-{UUID}"


def test_a_pci_address_is_written_as_nvml_writes_it() -> None:
    assert _torch_cuda.pci_address(properties(pci_domain_id=1, pci_bus_id=0xAF, pci_device_id=2)) == "00000001:af:02.0"


DEVICE = Device(platform=Platform.CUDA, id="cuda:0", name="H100", uuid=f"GPU-{UUID}", pci_id=ADDRESS)


def _session(device: Device) -> CudaSession:
    """A session whose tensors are on the CPU: only its readings are asked for."""
    workload = tiny_workload()
    model = tiny_model(workload)
    return CudaSession(
        module=model.module, model=model, workload=workload, device=device,
        torch_device=torch.device("cpu", 0), load_ns=0,
    )  # fmt: skip


def test_energy_utilisation_and_processes_are_nvml_s(nvml: Nvml) -> None:
    nvml.pids = (7, os.getpid())
    session = _session(DEVICE)
    assert session.read_energy_mj() == 5_000
    assert session.read_utilization() == pytest.approx(0.87)
    assert session.read_processes() == (7, os.getpid())


def test_a_reading_that_the_gpu_does_not_support_is_none(nvml: Nvml) -> None:
    nvml.missing = {
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetComputeRunningProcesses",
    }
    session = _session(DEVICE)
    assert session.read_energy_mj() is None
    assert session.read_utilization() is None
    assert session.read_processes() is None


def test_a_reading_of_a_device_without_an_address_is_none(nvml: Nvml) -> None:
    assert _session(dataclasses.replace(DEVICE, pci_id=None)).read_energy_mj() is None


def test_a_gpu_that_is_another_one_than_probed_is_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    session = _session(DEVICE)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda which: properties())
    assert session.granted_device() == DEVICE
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda which: properties(uuid="another"))
    with pytest.raises(BenchmarkFailed) as caught:
        session.granted_device()
    assert caught.value.category is FailureCategory.FALLBACK_DETECTED


def test_parameters_on_the_cpu_are_no_gpu_session() -> None:
    workload = tiny_workload()
    model = tiny_model(workload)
    session = CudaSession(
        module=model.module, model=model, workload=workload, device=DEVICE,
        torch_device=torch.device("cuda", 0), load_ns=0,
    )  # fmt: skip
    with pytest.raises(BenchmarkFailed, match="parameters are on cpu"):
        session.facts()


def test_an_output_on_the_cpu_is_a_fallback() -> None:
    workload = tiny_workload()
    model = tiny_model(workload)
    session = CudaSession(
        module=model.module, model=model, workload=workload, device=DEVICE,
        torch_device=torch.device("cuda", 0), load_ns=0,
    )  # fmt: skip
    with pytest.raises(BenchmarkFailed) as caught:
        session.fetch({"last_hidden_state": torch.zeros(1)})
    assert caught.value.category is FailureCategory.FALLBACK_DETECTED


@pytest.mark.parametrize(
    ("listed", "initial", "expected"),
    [
        (None, True, None),
        ((), True, False),
        ((1, 2), True, False),
        ((1, 42), True, True),
        ((), False, None),
        ((1, 2), False, None),
        ((42,), False, True),
    ],
)
def test_absence_from_the_driver_s_list_counts_only_where_pids_are_the_host_s(
    monkeypatch: pytest.MonkeyPatch, listed: tuple[int, ...] | None, initial: bool, expected: bool | None
) -> None:
    monkeypatch.setattr(_torch_cuda, "in_initial_pid_namespace", lambda: initial)
    present, note = _torch_cuda.pid_present(42, listed)
    assert present is expected
    assert note


def test_copies_fills_and_host_calls_are_no_kernels() -> None:
    def event(name: str, where: str, us: float) -> Any:
        return types.SimpleNamespace(name=name, device_type=where, device_time_total=us)

    events = [
        event("Memcpy HtoD", "cuda", 9.0),
        event("Memset (Device)", "cuda", 1.0),
        event("cudaLaunchKernel", "cpu", 5.0),
        event("sm90_xmma_gemm_f32", "cuda", 12.5),
    ]
    assert _torch_cuda.kernels_of(events, "cuda") == [("sm90_xmma_gemm_f32", 12_500)]


def test_tf32_is_off_while_a_session_is_open_and_as_before_afterwards() -> None:
    knobs = _torch_cuda.tf32_knobs()
    before = _torch.read_knobs(knobs)
    with _torch.plain_fp32(knobs):
        assert set(_torch.read_knobs(knobs).values()) <= {"ieee", "False"}
    assert _torch.read_knobs(knobs) == before
