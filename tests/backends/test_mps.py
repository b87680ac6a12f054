"""mps: only a Mac with Apple silicon, natively, without the CPU fallback."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hwbench_mlflow.backends import mps
from hwbench_mlflow.backends.mps import MpsBackend
from hwbench_mlflow.errors import HardwareUnavailable
from hwbench_mlflow.model import AvailabilityStatus, Device, Platform
from tests.backends.tiny import tiny_model, tiny_workload
from tests.backends.vendors import Enumeration

Grow = Callable[[bool], None]


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A Mac whose GPU works: its allocator grows by the product."""
    monkeypatch.delenv(mps.FALLBACK, raising=False)
    monkeypatch.setattr(mps.sys, "platform", "darwin")
    monkeypatch.setattr(mps.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(mps.platform, "mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))
    monkeypatch.setattr(mps, "_translated", lambda: False)
    monkeypatch.setattr(mps.host, "cpu_name", lambda: "Apple M4")
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16 * 2**30)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    readings = iter((0, 4096))
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: next(readings))
    Enumeration(monkeypatch).compute_on_the_cpu()
    return monkeypatch


def test_a_working_mac_is_verified(mac: pytest.MonkeyPatch) -> None:
    answer = MpsBackend().probe()
    assert answer.verified, answer.reason
    assert answer.devices[0].name == "Apple M4 GPU"


@pytest.mark.parametrize(("system", "machine"), [("linux", "arm64"), ("darwin", "x86_64")])
def test_another_host_is_unsupported(mac: pytest.MonkeyPatch, system: str, machine: str) -> None:
    mac.setattr(mps.sys, "platform", system)
    mac.setattr(mps.platform, "machine", lambda: machine)
    assert MpsBackend().probe().status is AvailabilityStatus.UNSUPPORTED_HOST


def test_rosetta_is_unsupported(mac: pytest.MonkeyPatch) -> None:
    mac.setattr(mps, "_translated", lambda: True)
    answer = MpsBackend().probe()
    assert answer.status is AvailabilityStatus.UNSUPPORTED_HOST
    assert "Rosetta" in answer.reason


def test_the_cpu_fallback_is_refused_by_probe_and_open(mac: pytest.MonkeyPatch) -> None:
    mac.setenv(mps.FALLBACK, "1")
    answer = MpsBackend().probe()
    assert answer.status is AvailabilityStatus.PROBE_FAILED
    assert mps.FALLBACK in answer.reason
    device = Device(platform=Platform.MPS, id="mps", name="Apple M4 GPU")
    with pytest.raises(HardwareUnavailable), MpsBackend().open(device, tiny_workload(), tiny_model(), None):
        pass


def test_a_build_without_mps_is_not_installed(mac: pytest.MonkeyPatch) -> None:
    mac.setattr(torch.backends.mps, "is_built", lambda: False)
    assert MpsBackend().probe().status is AvailabilityStatus.NOT_INSTALLED


def test_no_metal_gpu_is_no_device(mac: pytest.MonkeyPatch) -> None:
    mac.setattr(torch.backends.mps, "is_available", lambda: False)
    assert MpsBackend().probe().status is AvailabilityStatus.NO_DEVICE


def test_a_product_that_allocated_nothing_on_the_gpu_is_not_verified(mac: pytest.MonkeyPatch) -> None:
    mac.setattr(torch.mps, "driver_allocated_memory", lambda: 4096)
    answer = MpsBackend().probe()
    assert answer.status is AvailabilityStatus.PROBE_FAILED
    assert "allocated nothing" in answer.reason
