"""AMD's management library as the rocm backend asks it: energy, activity, processes.

Owns the lookup of a device by PCI address. Imports amdsmi only inside functions. Every reading is None where the
library or the device does not give it. Never run on real hardware by us: it is tested against recorded replies.
"""

from __future__ import annotations

from typing import Any

UNAVAILABLE = "N/A"
"""What amdsmi gives for what a device lacks."""


def start() -> Any:
    """The initialised ``amdsmi`` module, or why there is none as text.

    The package looks for its library while it is imported, and raises KeyError, OSError or AttributeError without it.
    """
    try:
        import amdsmi
    except ModuleNotFoundError as error:
        return f"no module named {error.name!r}"
    except (KeyError, OSError, AttributeError, ImportError) as error:
        return f"amdsmi cannot load its library: {type(error).__name__}: {error}"
    try:
        amdsmi.amdsmi_init()
    except amdsmi.AmdSmiException as error:
        return f"amdsmi cannot be started: {error}"
    return amdsmi


def handle_of(library: Any, pci_address: str | None) -> Any:
    """amdsmi's handle of the GPU at a PCI address; None if it lists none there."""
    if pci_address is None:
        return None
    for handle in reading(library, "amdsmi_get_processor_handles") or ():
        address = reading(library, "amdsmi_get_gpu_device_bdf", handle)
        if address is not None and str(address).lower()[-12:] == pci_address.lower()[-12:]:
            return handle
    return None


def reading(library: Any, name: str, *arguments: Any) -> Any:
    """One value, or None where amdsmi says that it has none."""
    try:
        return getattr(library, name)(*arguments)
    except library.AmdSmiException:
        return None


def energy_mj(library: Any, handle: Any) -> int | None:
    """Total energy since the driver was loaded, mJ: the accumulator times its resolution in microjoules."""
    found = reading(library, "amdsmi_get_energy_count", handle)
    if not isinstance(found, dict):
        return None
    ticks = found.get("energy_accumulator", found.get("power"))  # "power" before ROCm 6.2
    resolution = found.get("counter_resolution")
    if not isinstance(ticks, int | float) or not isinstance(resolution, int | float):
        return None
    return round(ticks * resolution / 1000)


def activity(library: Any, handle: Any) -> float | None:
    """Share of the last sampling period in which the GPU's compute part was busy, 0..1."""
    found = reading(library, "amdsmi_get_gpu_activity", handle)
    value = found.get("gfx_activity") if isinstance(found, dict) else None
    return value / 100 if isinstance(value, int | float) else None


def processes(library: Any, handle: Any) -> tuple[int, ...] | None:
    """Processes that use the device."""
    found = reading(library, "amdsmi_get_gpu_process_list", handle)
    if not isinstance(found, list):
        return None
    pids = [item.get("pid") for item in found if isinstance(item, dict)]
    return tuple(pid for pid in pids if isinstance(pid, int))
