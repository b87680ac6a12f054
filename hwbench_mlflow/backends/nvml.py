"""NVIDIA's management library as the cuda backend asks it: identity, energy, processes.

Owns the lookup of a device by PCI address and the reasons why there is none. Imports pynvml only
inside functions. Every reading is None where the device does not give it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwbench_mlflow.model import AvailabilityStatus


@dataclass(eq=False)  # not frozen: an exception is given its traceback when it is raised
class NvmlAbsent(Exception):
    """Why NVML cannot be asked, in the words of an availability."""

    status: AvailabilityStatus
    reason: str
    remedy: str


def start() -> Any:
    """The initialised ``pynvml`` module. Raises :class:`NvmlAbsent`."""
    try:
        import pynvml
    except ModuleNotFoundError as error:
        raise NvmlAbsent(
            AvailabilityStatus.NOT_INSTALLED, f"no module named {error.name!r}", "pip install nvidia-ml-py"
        ) from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlAbsent(
            AvailabilityStatus.NO_DRIVER,
            f"NVIDIA's driver does not answer (NVML: {error})",
            "Install NVIDIA's driver, or give the container access to it",
        ) from error
    return pynvml


def driver_version(nvml: Any) -> str | None:
    """The driver's version, as NVML gives it."""
    return text(reading(nvml, "nvmlSystemGetDriverVersion"))


def handle_of(nvml: Any, pci_address: str) -> Any:
    """NVML's handle of the device at a PCI address; None if NVML lists none there."""
    return reading(nvml, "nvmlDeviceGetHandleByPciBusId", pci_address.encode())


def reading(nvml: Any, name: str, *arguments: Any) -> Any:
    """One value, or None where NVML says that it has none."""
    try:
        return getattr(nvml, name)(*arguments)
    except nvml.NVMLError:
        return None


def text(value: Any) -> str | None:
    """Older pynvml gives bytes."""
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else str(value)
