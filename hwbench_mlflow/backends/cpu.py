"""The platform ``cpu``: torch on the processor this process runs on.

Owns the CPU's identity and torch's CPU settings. Imports torch only inside functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from hwbench_mlflow import host
from hwbench_mlflow.backends import _torch
from hwbench_mlflow.backends._reference import refuse
from hwbench_mlflow.model import (
    Availability,
    AvailabilityStatus,
    Calibration,
    Device,
    Platform,
    Precision,
    Workload,
)

if TYPE_CHECKING:
    from hwbench_mlflow.backends.base import Session
    from hwbench_mlflow.workloads.base import LoadedModel

DEVICE_ID = "cpu"


class CpuBackend:
    """torch on the CPU."""

    platform: ClassVar[Platform] = Platform.CPU
    writes: ClassVar[bool] = True

    def probe(self) -> Availability:
        """A product on the CPU by torch, and the processor's name before and after."""
        try:
            import torch
        except ModuleNotFoundError as error:
            return Availability(
                platform=self.platform,
                status=AvailabilityStatus.NOT_INSTALLED,
                reason=f"torch cannot be imported: no module named {error.name!r}",
                remedy="Install torch (a CPU build is enough)",
            )
        device = Device(
            platform=self.platform,
            id=DEVICE_ID,
            name=host.cpu_name(),
            vendor=host.cpu_vendor(),
            emulation_reason=host.cpu_emulation_reason(),
            details={
                "torch": str(torch.__version__),
                "torch.cpu_capability": torch.backends.cpu.get_cpu_capability(),
                "torch.mkldnn": str(torch._C._has_mkldnn),
            },
        )
        check = _torch.check_device(torch.device("cpu"), device.id, device.name, host.cpu_name)
        status = AvailabilityStatus.AVAILABLE if check.passed else AvailabilityStatus.PROBE_FAILED
        return Availability(
            platform=self.platform,
            status=status,
            reason=f"torch {torch.__version__!s} ran on {device.name}" if check.passed else check.reason,
            remedy=None if check.passed else "torch computes wrongly on this CPU: reinstall it",
            devices=(device,),
            checks=(check,),
        )

    @contextmanager
    def open(self, device: Device, workload: Workload, model: LoadedModel, threads: int | None) -> Iterator[Session]:
        """A session on the CPU with ``threads`` intra-op threads (torch's default if None)."""
        import torch

        if (device.platform, device.id) != (self.platform, DEVICE_ID):
            raise refuse(device, self.platform, [DEVICE_ID])
        with _torch.open_session(
            _torch.TorchSession, device, torch.device("cpu"), model, workload, threads=threads, knobs=cpu_knobs()
        ) as session:
            session.properties["torch.cpu_capability"] = torch.backends.cpu.get_cpu_capability()
            session.properties["torch.interop_threads"] = str(torch.get_num_interop_threads())
            yield session

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:
        """torch's best matrix product on all of torch's default threads."""
        return calibrate_cpu(device, precision, seconds)


def cpu_knobs() -> _torch.PrecisionKnobs:
    """oneDNN may compute fp32 products in bf16 or TF32 if it is allowed to."""
    import torch

    mkldnn = torch.backends.mkldnn
    if not hasattr(mkldnn, "matmul"):  # torch before 2.9 has one setting, and it cannot lower the CPU's products
        return {}
    operations = ("matmul", "conv", "rnn")
    return {f"mkldnn.{op}.fp32_precision": (getattr(mkldnn, op), "fp32_precision", "ieee") for op in operations}


def calibrate_cpu(device: Device, precision: Precision, seconds: float) -> Calibration:
    """The CPU's peak by torch, for every platform whose device is this CPU."""
    import torch

    flops, dim, repeats = _torch.measure_peak(torch.device("cpu"), precision, seconds)
    return Calibration(
        device_id=device.id,
        device_uuid=device.uuid,
        precision=precision,
        peak_flops_per_s=flops,
        source=f"measured: torch {torch.__version__!s} mm on the CPU, {torch.get_num_threads()} threads",
        dim=dim,
        repeats=repeats,
    )
