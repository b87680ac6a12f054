"""The platform ``rocm``: torch on AMD GPUs, with the kernel's KFD topology as a second witness.

Owns what a ROCm build, the kernel driver and a GPU node are. Imports torch only inside functions.
Never run on real hardware by us: it is tested against recorded replies.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hwbench_mlflow.backends import _torch, _torch_cuda, amdsmi
from hwbench_mlflow.backends._reference import failed_check, refuse
from hwbench_mlflow.model import Availability, AvailabilityStatus, Calibration, Device, DeviceCheck, Platform, Precision
from hwbench_mlflow.verdict import ROCM_OVERRIDE as OVERRIDE

if TYPE_CHECKING:
    from hwbench_mlflow.backends.base import Session
    from hwbench_mlflow.model import Workload
    from hwbench_mlflow.workloads.base import LoadedModel

KFD = Path("/dev/kfd")
TOPOLOGY = Path("/sys/class/kfd/kfd/topology/nodes")
AMD_VENDOR_ID = 4098


class RocmBackend:
    """torch on AMD GPUs."""

    platform: ClassVar[Platform] = Platform.ROCM
    writes: ClassVar[bool] = True

    def probe(self) -> Availability:
        """A ROCm build, ``/dev/kfd``, GPU nodes; then a product on each device that torch lists."""
        try:
            import torch
        except ModuleNotFoundError as error:
            return self._absent(
                AvailabilityStatus.NOT_INSTALLED, f"torch cannot be imported: no module named {error.name!r}",
                "Install a ROCm build of torch",
            )  # fmt: skip
        if torch.version.hip is None or torch.version.cuda is not None:
            return self._absent(
                AvailabilityStatus.NOT_INSTALLED,
                f"torch {torch.__version__} is not a ROCm build; {self._kernel_words()}",
                "On a machine with an AMD GPU and its driver, install a ROCm build of torch",
            )
        if not os.access(KFD, os.R_OK | os.W_OK):
            return self._absent(
                AvailabilityStatus.NO_DRIVER, self._kernel_words(),
                "Load the amdgpu driver, and join the groups render and video",
            )  # fmt: skip
        nodes = gpu_nodes(TOPOLOGY)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not nodes or count == 0:
            return self._absent(
                AvailabilityStatus.NO_DEVICE,
                f"the kernel lists {len(nodes)} AMD GPU nodes, torch {count} devices",
                "Attach an AMD GPU that ROCm supports; unset HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES",
            )
        seen = [self._device(torch, nodes, index) for index in range(count)]
        good = [device.name for device, check in seen if check.passed]
        return Availability(
            platform=self.platform,
            status=AvailabilityStatus.AVAILABLE if good else AvailabilityStatus.PROBE_FAILED,
            reason=f"torch {torch.__version__} (HIP {torch.version.hip}) ran on {', '.join(good)}"
            if good
            else "; ".join(check.reason for _, check in seen),
            remedy=None if good else "Check rocminfo and the kernel's log",
            devices=tuple(device for device, _ in seen),
            checks=tuple(check for _, check in seen),
        )

    def _absent(self, status: AvailabilityStatus, reason: str, remedy: str) -> Availability:
        return Availability(platform=self.platform, status=status, reason=reason, remedy=remedy)

    def _kernel_words(self) -> str:
        if not KFD.exists():
            return f"there is no {KFD}: no amdgpu driver"
        return f"{KFD} is there" if os.access(KFD, os.R_OK | os.W_OK) else f"{KFD} may not be opened by this user"

    def _device(self, torch: Any, nodes: list[dict[str, str]], index: int) -> tuple[Device, DeviceCheck]:
        """One GPU, and a product on it. Its architecture has to be one that the kernel lists."""
        properties = torch.cuda.get_device_properties(index)
        architecture = str(properties.gcnArchName)
        details = {"gcnArchName": architecture, "torch.hip": str(torch.version.hip)}
        override = os.environ.get(OVERRIDE)
        if override is not None:
            details[OVERRIDE] = override
        management = amdsmi.start()
        if isinstance(management, str):
            details["amdsmi"] = management
        uuid = getattr(properties, "uuid", None)
        device = Device(
            platform=self.platform,
            id=f"rocm:{index}",
            name=str(properties.name),
            vendor="AMD",
            uuid=None if uuid is None else str(uuid),
            pci_id=_torch_cuda.pci_address(properties),
            driver=str(torch.version.hip),
            memory_bytes=int(properties.total_memory),
            details=details,
        )
        known = {target_name(node.get("gfx_target_version", "")) for node in nodes}
        if architecture.partition(":")[0] not in known:
            listed = ", ".join(sorted(name for name in known if name)) or "none"
            return device, failed_check(device.id, f"torch says {architecture}, the kernel lists {listed}")
        where = torch.device("cuda", index)

        def identify() -> str:
            return str(torch.cuda.get_device_properties(where).gcnArchName)

        return device, _torch.check_device(where, device.id, architecture, identify)

    @contextmanager
    def open(self, device: Device, workload: Workload, model: LoadedModel, threads: int | None) -> Iterator[Session]:
        """A session on exactly that GPU (torch calls it ``cuda:N`` under ROCm too)."""
        import torch

        ours = torch.version.hip is not None and torch.cuda.is_available()
        known = [f"rocm:{i}" for i in range(torch.cuda.device_count())] if ours else []
        if device.platform is not self.platform or device.id not in known:
            raise refuse(device, self.platform, known)
        where = torch.device("cuda", int(device.id.partition(":")[2]))
        torch.cuda.set_device(where)
        torch.cuda.reset_peak_memory_stats(where)
        with _torch.open_session(
            RocmSession, device, where, model, workload, threads=threads, knobs=_torch_cuda.tf32_knobs()
        ) as session:
            yield session

    def free_memory_bytes(self, device: Device) -> int | None:
        """What is free on ``device`` now."""
        import torch

        return _torch_cuda.free_memory_bytes(torch.device("cuda", int(device.id.partition(":")[2])))

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:
        """torch's best matrix product on that GPU."""
        import torch

        where = torch.device("cuda", int(device.id.partition(":")[2]))
        flops, dim, repeats = _torch.measure_peak(where, precision, seconds)
        return Calibration(
            device_id=device.id, device_uuid=device.uuid, precision=precision, peak_flops_per_s=flops,
            source=f"measured: torch {torch.__version__} mm on {device.id}", dim=dim, repeats=repeats,
        )  # fmt: skip


class RocmSession(_torch_cuda.CudaLikeSession):
    """The identity by torch's runtime. Energy, activity and processes by amdsmi, and unknown without it."""

    def _managed(self) -> tuple[Any, Any] | None:
        library = amdsmi.start()
        handle = None if isinstance(library, str) else amdsmi.handle_of(library, self._device.pci_id)
        return None if handle is None else (library, handle)

    def read_energy_mj(self) -> int | None:
        """Total energy since the driver was loaded, mJ."""
        managed = self._managed()
        return None if managed is None else amdsmi.energy_mj(*managed)

    def read_utilization(self) -> float | None:
        """Share of the last sampling period in which the GPU was busy, 0..1."""
        managed = self._managed()
        return None if managed is None else amdsmi.activity(*managed)

    def read_processes(self) -> tuple[int, ...] | None:
        """Processes that use the GPU."""
        managed = self._managed()
        return None if managed is None else amdsmi.processes(*managed)

    def read_identity(self) -> str | None:
        """The UUID that torch's runtime gives for the device in use."""
        import torch

        found = getattr(torch.cuda.get_device_properties(self._torch_device), "uuid", None)
        return None if found is None else str(found)


def gpu_nodes(topology: Path) -> list[dict[str, str]]:
    """The kernel's AMD GPU nodes: those with SIMDs and AMD's vendor id (KFD topology in sysfs)."""
    found = []
    for properties in sorted(topology.glob("*/properties")):
        try:
            lines = properties.read_text().splitlines()
        except OSError:
            continue
        node = {key: value for key, _, value in (line.partition(" ") for line in lines)}
        if int(node.get("simd_count", "0")) > 0 and int(node.get("vendor_id", "0")) == AMD_VENDOR_ID:
            found.append(node)
    return found


def target_name(version: str) -> str:
    """``gfx90a`` of KFD's ``gfx_target_version`` 90010: major, then minor and stepping in hex digits."""
    if not version.isdigit() or int(version) == 0:
        return ""
    number = int(version)
    return f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}"
