"""The platform ``cuda``: torch on NVIDIA GPUs, with NVML as a second witness of identity.

Owns what a CUDA build, a driver and a device are, and how each is told to be missing. Imports torch
and pynvml only inside functions. ``torch.cuda.is_available()`` alone is no evidence: a ROCm build
says yes as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from hwbench_mlflow.backends import _torch, _torch_cuda, nvml
from hwbench_mlflow.backends._reference import refuse
from hwbench_mlflow.model import Availability, AvailabilityStatus, Calibration, Device, DeviceCheck, Platform, Precision

if TYPE_CHECKING:
    from hwbench_mlflow.backends.base import Session
    from hwbench_mlflow.model import Workload
    from hwbench_mlflow.workloads.base import LoadedModel


class CudaBackend:
    """torch on NVIDIA GPUs."""

    platform: ClassVar[Platform] = Platform.CUDA
    writes: ClassVar[bool] = True

    def probe(self) -> Availability:
        """Build, driver, devices; then a product on each, and its UUID by NVML."""
        try:
            import torch
        except ModuleNotFoundError as error:
            return self._absent(
                AvailabilityStatus.NOT_INSTALLED, f"torch cannot be imported: no module named {error.name!r}",
                "Install a CUDA build of torch",
            )  # fmt: skip
        try:
            management = nvml.start()
        except nvml.NvmlAbsent as absent:
            if torch.version.cuda is None:
                return self._no_build(torch, f"; {absent.reason}")
            return self._absent(absent.status, absent.reason, absent.remedy)
        if torch.version.cuda is None or torch.version.hip is not None:
            return self._no_build(torch, "; NVIDIA's driver is there")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            return self._no_device()
        seen = [self._device(torch, management, index) for index in range(count)]
        devices = tuple(device for device, _ in seen)
        good = [device.name for device, check in seen if check.passed]
        return Availability(
            platform=self.platform,
            status=AvailabilityStatus.AVAILABLE if good else AvailabilityStatus.PROBE_FAILED,
            reason=f"torch {torch.__version__} (CUDA {torch.version.cuda}) ran on {', '.join(good)}"
            if good
            else "; ".join(check.reason for _, check in seen),
            remedy=None if good else "Check the driver: nvidia-smi, and the kernel's log",
            devices=devices,
            checks=tuple(check for _, check in seen),
        )

    def _absent(self, status: AvailabilityStatus, reason: str, remedy: str) -> Availability:
        return Availability(platform=self.platform, status=status, reason=reason, remedy=remedy)

    def _no_build(self, torch: Any, also: str) -> Availability:
        build = "a ROCm build" if torch.version.hip is not None else "built without CUDA"
        return self._absent(
            AvailabilityStatus.NOT_INSTALLED,
            f"torch {torch.__version__} is {build}{also}",
            "On a machine with an NVIDIA GPU and its driver, install a CUDA build of torch",
        )

    def _no_device(self) -> Availability:
        restricted = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f" (CUDA_VISIBLE_DEVICES={restricted!r} hides them)" if restricted is not None else ""
        return self._absent(
            AvailabilityStatus.NO_DEVICE,
            f"the driver answers, but torch finds no NVIDIA GPU{why}",
            "Unset CUDA_VISIBLE_DEVICES" if why else "Attach an NVIDIA GPU, or match torch's CUDA to the driver's",
        )

    def _device(self, torch: Any, management: Any, index: int) -> tuple[Device, DeviceCheck]:
        """One GPU as torch enumerates it, and a product on it with the UUID that NVML reads afterwards."""
        properties = torch.cuda.get_device_properties(index)
        uuid, address = torch_uuid(properties), _torch_cuda.pci_address(properties)
        device = Device(
            platform=self.platform,
            id=f"cuda:{index}",
            name=str(properties.name),
            vendor="NVIDIA",
            uuid=uuid,
            pci_id=address,
            driver=nvml.driver_version(management),
            memory_bytes=int(properties.total_memory),
            details={
                "compute_capability": f"{properties.major}.{properties.minor}",
                "multiprocessors": str(properties.multi_processor_count),
                "torch.cuda": str(torch.version.cuda),
            },
        )
        if uuid is None or address is None:
            return device, _failed(device, "torch does not tell the device's UUID and PCI address")

        def identify() -> str:
            handle = nvml.handle_of(management, address)
            found = None if handle is None else nvml.text(nvml.reading(management, "nvmlDeviceGetUUID", handle))
            return found or f"nothing that NVML knows at {address}"

        return device, _torch.check_device(torch.device("cuda", index), device.id, uuid, identify)

    @contextmanager
    def open(self, device: Device, workload: Workload, model: LoadedModel, threads: int | None) -> Iterator[Session]:
        """A session on exactly that GPU, with TF32 off for fp32."""
        import torch

        known = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        if device.platform is not self.platform or device.id not in known:
            raise refuse(device, self.platform, known)
        where = torch.device(device.id)
        torch.cuda.set_device(where)
        torch.cuda.reset_peak_memory_stats(where)
        with _torch.open_session(
            CudaSession, device, where, model, workload, threads=threads, knobs=_torch_cuda.tf32_knobs()
        ) as session:
            yield session

    def free_memory_bytes(self, device: Device) -> int | None:
        """What is free on ``device`` now."""
        import torch

        return _torch_cuda.free_memory_bytes(torch.device(device.id))

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:
        """torch's best matrix product on that GPU."""
        import torch

        where = torch.device(device.id)
        with _torch.plain_fp32(_torch_cuda.tf32_knobs()):
            flops, dim, repeats = _torch.measure_peak(where, precision, seconds)
        return Calibration(
            device_id=device.id,
            device_uuid=torch_uuid(torch.cuda.get_device_properties(where)),
            precision=precision,
            peak_flops_per_s=flops,
            source=f"measured: torch {torch.__version__} mm on {device.id}",
            dim=dim,
            repeats=repeats,
        )


class CudaSession(_torch_cuda.CudaLikeSession):
    """NVML's readings of the GPU in use."""

    def _reading(self, name: str) -> Any:
        management = nvml.start()
        address = self._device.pci_id
        handle = None if address is None else nvml.handle_of(management, address)
        return None if handle is None else nvml.reading(management, name, handle)

    def read_identity(self) -> str | None:
        """The UUID that torch's runtime gives for the device in use."""
        import torch

        return torch_uuid(torch.cuda.get_device_properties(self._torch_device))

    def read_energy_mj(self) -> int | None:
        """Total energy since the driver was loaded, mJ (Volta and later)."""
        value = self._reading("nvmlDeviceGetTotalEnergyConsumption")
        return None if value is None else int(value)

    def read_utilization(self) -> float | None:
        """Share of the last sampling period in which a kernel ran, 0..1."""
        rates = self._reading("nvmlDeviceGetUtilizationRates")
        return None if rates is None else rates.gpu / 100

    def read_processes(self) -> tuple[int, ...] | None:
        """Processes with a compute context on the device."""
        running = self._reading("nvmlDeviceGetComputeRunningProcesses")
        return None if running is None else tuple(int(process.pid) for process in running)


def torch_uuid(properties: Any) -> str | None:
    """``GPU-...`` as NVML writes it; None before torch had it (2.5)."""
    found = getattr(properties, "uuid", None)
    if found is None:
        return None
    return str(found) if str(found).startswith("GPU-") else f"GPU-{found}"


def _failed(device: Device, reason: str) -> DeviceCheck:
    from hwbench_mlflow.backends._reference import failed_check

    return failed_check(device.id, reason)
