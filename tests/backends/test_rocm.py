"""rocm: the build, the kernel's nodes and the device's architecture must agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwbench_mlflow.backends import rocm
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
