"""Recorded replies of vendors' libraries, so that each status is told without the hardware.

What is faked is named: torch's enumeration and NVML. The probe's product runs for real, on the CPU.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hwbench_mlflow.backends import _torch
from hwbench_mlflow.model import DeviceCheck

UUID = "11111111-2222-3333-4444-555555555555"
ADDRESS = "00000000:0a:00.0"


def properties(**changes: Any) -> types.SimpleNamespace:
    """What ``torch.cuda.get_device_properties`` gives for one H100 in slot 0a:00.0."""
    return types.SimpleNamespace(
        **(
            {
                "name": "NVIDIA H100 80GB HBM3", "uuid": UUID, "total_memory": 80 * 2**30, "major": 9, "minor": 0,
                "multi_processor_count": 132, "pci_domain_id": 0, "pci_bus_id": 10, "pci_device_id": 0,
                "gcnArchName": "",
            }
            | changes
        )
    )  # fmt: skip


class Enumeration:
    """Makes torch say that it is a certain build with certain devices."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.checked: list[str] = []

    def build(self, *, cuda: str | None = None, hip: str | None = None) -> None:
        self._patch.setattr(torch.version, "cuda", cuda)
        self._patch.setattr(torch.version, "hip", hip)

    def devices(self, *found: types.SimpleNamespace) -> None:
        self._patch.setattr(torch.cuda, "is_available", lambda: bool(found))
        self._patch.setattr(torch.cuda, "device_count", lambda: len(found))

        def of(which: int | torch.device) -> types.SimpleNamespace:
            return found[which if isinstance(which, int) else which.index]

        self._patch.setattr(torch.cuda, "get_device_properties", of)
        self.compute_on_the_cpu()

    def compute_on_the_cpu(self) -> None:
        """The product itself is real; only where it runs is not."""
        real = _torch.check_device

        def check(where: torch.device, device_id: str, enumerated: str, identify: Callable[[], str]) -> DeviceCheck:
            self.checked.append(str(where))
            return real(torch.device("cpu"), device_id, enumerated, identify)

        self._patch.setattr(_torch, "check_device", check)


class NvmlError(Exception):
    """``pynvml.NVMLError``."""


class Nvml(types.ModuleType):
    """``pynvml`` with one GPU; ``missing`` names calls that this driver does not support."""

    NVMLError = NvmlError

    def __init__(self, *, uuid: str = f"GPU-{UUID}", address: str = ADDRESS, init_error: str | None = None) -> None:
        super().__init__("pynvml")
        self.uuid, self.address, self.init_error = uuid, address, init_error
        self.missing: set[str] = set()
        self.energy_mj = 5_000
        self.pids: tuple[int, ...] = ()

    def _supported(self, name: str) -> None:
        if name in self.missing:
            raise NvmlError("Not Supported")

    def nvmlInit(self) -> None:
        if self.init_error:
            raise NvmlError(self.init_error)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.86.15"

    def nvmlDeviceGetHandleByPciBusId(self, address: bytes) -> str:
        if address.decode() != self.address:
            raise NvmlError("Not Found")
        return "handle"

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        assert handle == "handle"
        return self.uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self._supported("nvmlDeviceGetTotalEnergyConsumption")
        return self.energy_mj

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> types.SimpleNamespace:
        self._supported("nvmlDeviceGetUtilizationRates")
        return types.SimpleNamespace(gpu=87)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[types.SimpleNamespace]:
        self._supported("nvmlDeviceGetComputeRunningProcesses")
        return [types.SimpleNamespace(pid=pid) for pid in self.pids]
