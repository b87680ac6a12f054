"""rocm: the build, the kernel's nodes and the device's architecture must agree."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from hwbench_mlflow.backends import amdsmi, rocm
from hwbench_mlflow.backends.rocm import RocmBackend
from hwbench_mlflow.model import AvailabilityStatus
from tests.backends.vendors import Enumeration, properties

MI300 = {"name": "AMD Instinct MI300X", "gcnArchName": "gfx942:sramecc+:xnack-"}


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Enumeration:
    """A ROCm build, a /dev/kfd that opens and no nodes yet."""
    monkeypatch.delenv("HSA_OVERRIDE_GFX_VERSION", raising=False)
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(rocm, "KFD", tmp_path / "kfd")
    monkeypatch.setattr(rocm, "TOPOLOGY", tmp_path / "nodes")
    enumeration = Enumeration(monkeypatch)
    enumeration.build(hip="6.4.1")
    return enumeration


def _node(tmp_path: Path, index: int, simd: int, vendor_id: int, version: int) -> None:
    folder = tmp_path / "nodes" / str(index)
    folder.mkdir(parents=True)
    text = f"cpu_cores_count 0\nsimd_count {simd}\nvendor_id {vendor_id}\ngfx_target_version {version}\n"
    (folder / "properties").write_text(text)


def test_another_build_of_torch_is_not_installed(vendor: Enumeration) -> None:
    vendor.build(cuda="12.8")
    assert RocmBackend().probe().status is AvailabilityStatus.NOT_INSTALLED
    vendor.build(cuda="12.8", hip="6.4")
    assert RocmBackend().probe().status is AvailabilityStatus.NOT_INSTALLED


def test_without_kfd_there_is_no_driver(vendor: Enumeration, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rocm, "KFD", tmp_path / "absent")
    vendor.devices(properties(**MI300))
    answer = RocmBackend().probe()
    assert answer.status is AvailabilityStatus.NO_DRIVER
    assert "absent" in answer.reason


def test_a_kfd_that_may_not_be_opened_says_so(vendor: Enumeration, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rocm.os, "access", lambda path, mode: False)
    answer = RocmBackend().probe()
    assert answer.status is AvailabilityStatus.NO_DRIVER
    assert "may not be opened" in answer.reason
    assert "render" in str(answer.remedy)


@pytest.mark.parametrize(("simd", "vendor_id"), [(0, 4098), (304, 32902)], ids=["a CPU node", "another vendor's node"])
def test_nodes_that_are_no_amd_gpu_are_no_device(
    vendor: Enumeration, tmp_path: Path, simd: int, vendor_id: int
) -> None:
    _node(tmp_path, 0, simd, vendor_id, 90402)
    vendor.devices(properties(**MI300))
    assert RocmBackend().probe().status is AvailabilityStatus.NO_DEVICE


def test_a_node_that_torch_does_not_list_is_no_device(vendor: Enumeration, tmp_path: Path) -> None:
    _node(tmp_path, 0, 304, 4098, 90402)
    vendor.devices()
    assert RocmBackend().probe().status is AvailabilityStatus.NO_DEVICE


def test_a_gpu_on_which_torch_and_the_kernel_agree_is_verified(vendor: Enumeration, tmp_path: Path) -> None:
    _node(tmp_path, 0, 0, 0, 0)
    _node(tmp_path, 1, 304, 4098, 90402)
    vendor.devices(properties(**MI300))
    answer = RocmBackend().probe()
    assert answer.verified, answer.reason
    assert answer.devices[0].id == "rocm:0"
    assert vendor.checked == ["cuda:0"]


def test_an_architecture_that_the_kernel_does_not_list_fails(vendor: Enumeration, tmp_path: Path) -> None:
    _node(tmp_path, 0, 304, 4098, 90010)
    vendor.devices(properties(**MI300))
    answer = RocmBackend().probe()
    assert answer.status is AvailabilityStatus.PROBE_FAILED
    assert "gfx942" in answer.reason
    assert "gfx90a" in answer.reason


def test_an_overridden_architecture_is_flagged(
    vendor: Enumeration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _node(tmp_path, 0, 304, 4098, 90402)
    vendor.devices(properties(**MI300))
    monkeypatch.setenv("HSA_OVERRIDE_GFX_VERSION", "9.4.2")
    assert RocmBackend().probe().devices[0].details["HSA_OVERRIDE_GFX_VERSION"] == "9.4.2"


@pytest.mark.parametrize(
    ("version", "name"), [("90010", "gfx90a"), ("90402", "gfx942"), ("100300", "gfx1030"), ("0", ""), ("", "")]
)
def test_the_kernel_s_number_is_read_as_a_name(version: str, name: str) -> None:
    assert rocm.target_name(version) == name


class AmdSmi(types.ModuleType):
    """``amdsmi`` as ROCm 6.3 answers for one MI300X; "N/A" stands for what a device lacks."""

    class AmdSmiException(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("amdsmi")
        self.energy: Any = {"energy_accumulator": 1_000_000, "counter_resolution": 15.3, "timestamp": 1}
        self.activity: Any = {"gfx_activity": 87, "umc_activity": 3, "mm_activity": "N/A"}

    def amdsmi_init(self) -> None:
        pass

    def amdsmi_get_processor_handles(self) -> list[str]:
        return ["other", "handle"]

    def amdsmi_get_gpu_device_bdf(self, handle: str) -> str:
        return {"other": "0000:0B:00.0", "handle": "0000:0A:00.0"}[handle]

    def amdsmi_get_energy_count(self, handle: str) -> Any:
        assert handle == "handle"
        return self.energy

    def amdsmi_get_gpu_activity(self, handle: str) -> Any:
        return self.activity

    def amdsmi_get_gpu_process_list(self, handle: str) -> list[dict[str, Any]]:
        raise self.AmdSmiException("not supported")


def test_amdsmi_s_readings_are_those_of_the_gpu_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    library = AmdSmi()
    monkeypatch.setitem(sys.modules, "amdsmi", library)
    assert amdsmi.start() is library
    handle = amdsmi.handle_of(library, "00000000:0a:00.0")
    assert handle == "handle"
    assert amdsmi.energy_mj(library, handle) == 15_300  # microjoules a tick, to millijoules
    assert amdsmi.activity(library, handle) == 0.87
    assert amdsmi.processes(library, handle) is None
    assert amdsmi.handle_of(library, "00000000:0c:00.0") is None
    assert amdsmi.handle_of(library, None) is None


def test_what_amdsmi_does_not_know_is_unknown_and_not_zero() -> None:
    library = AmdSmi()
    library.energy, library.activity = {"energy_accumulator": "N/A", "counter_resolution": 15.3}, "N/A"
    assert (amdsmi.energy_mj(library, "handle"), amdsmi.activity(library, "handle")) == (None, None)
    library.activity = {"gfx_activity": "N/A"}
    assert amdsmi.activity(library, "handle") is None


@pytest.mark.parametrize("error", [KeyError("ROCM_PATH"), OSError("libamd_smi.so"), AttributeError("amdsmi_wrapper")])
def test_an_amdsmi_without_its_library_is_a_reason_and_no_crash(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As recorded: the package raises KeyError while it is imported."""

    class Finder:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name == "amdsmi":
                raise error

    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert str(amdsmi.start()).startswith(f"amdsmi cannot load its library: {type(error).__name__}")
