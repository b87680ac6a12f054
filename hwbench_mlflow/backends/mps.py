"""The platform ``mps``: torch on Apple's GPUs through Metal.

Owns what host, build and settings it takes. Imports torch only inside functions. Never run on real
hardware by us: it is tested against recorded replies.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from hwbench_mlflow import host
from hwbench_mlflow.backends import _torch
from hwbench_mlflow.backends._reference import refuse
from hwbench_mlflow.model import (
    Availability,
    AvailabilityStatus,
    Calibration,
    Device,
    ExecutionWitness,
    Platform,
    Precision,
)

if TYPE_CHECKING:
    from hwbench_mlflow.backends.base import Session
    from hwbench_mlflow.model import Workload
    from hwbench_mlflow.workloads.base import LoadedModel

DEVICE_ID = "mps"
FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"


class MpsBackend:
    """torch on Apple's GPUs."""

    platform: ClassVar[Platform] = Platform.MPS
    writes: ClassVar[bool] = True

    def probe(self) -> Availability:  # noqa: PLR0911  # one return for each thing that may be missing
        """Host, build, settings; then a product on the GPU and what it allocated there."""
        if sys.platform != "darwin" or platform.machine() != "arm64":
            return self._absent(
                AvailabilityStatus.UNSUPPORTED_HOST,
                f"Metal needs macOS on Apple silicon; this is {platform.system()} on {platform.machine()}",
                "Run on a Mac with Apple silicon",
            )
        if _translated():
            return self._absent(
                AvailabilityStatus.UNSUPPORTED_HOST, "this Python runs under Rosetta", "Install an arm64 Python"
            )
        if os.environ.get(FALLBACK, "0") not in {"", "0"}:
            return self._absent(
                AvailabilityStatus.PROBE_FAILED,
                f"{FALLBACK} lets operations run on the CPU unseen",
                f"Unset {FALLBACK}",
            )
        try:
            import torch
        except ModuleNotFoundError as error:
            return self._absent(
                AvailabilityStatus.NOT_INSTALLED, f"torch cannot be imported: no module named {error.name!r}",
                "Install torch",
            )  # fmt: skip
        if not torch.backends.mps.is_built():
            return self._absent(
                AvailabilityStatus.NOT_INSTALLED,
                f"torch {torch.__version__} is built without MPS",
                "Install torch for macOS",
            )
        if not torch.backends.mps.is_available():
            return self._absent(
                AvailabilityStatus.NO_DEVICE, "Metal lists no GPU (a virtual machine?)", "Run on the Mac itself"
            )
        device = Device(
            platform=self.platform,
            id=DEVICE_ID,
            name=f"{host.cpu_name()} GPU",
            vendor="Apple",
            driver=f"macOS {platform.mac_ver()[0]}",
            memory_bytes=int(torch.mps.recommended_max_memory()),
            details={"torch": str(torch.__version__)},
        )
        torch.mps.empty_cache()  # what an earlier use of this process left cached would hide the growth
        allocated = torch.mps.driver_allocated_memory()
        check = _torch.check_device(torch.device("mps"), device.id, device.name, lambda: f"{host.cpu_name()} GPU")
        if check.passed and torch.mps.driver_allocated_memory() <= allocated:
            check = replace(check, passed=False, reason="the product allocated nothing on the GPU")
        return Availability(
            platform=self.platform,
            status=AvailabilityStatus.AVAILABLE if check.passed else AvailabilityStatus.PROBE_FAILED,
            reason=f"torch {torch.__version__} ran on {device.name}" if check.passed else check.reason,
            remedy=None if check.passed else "Update macOS and torch",
            devices=(device,),
            checks=(check,),
        )

    def _absent(self, status: AvailabilityStatus, reason: str, remedy: str) -> Availability:
        return Availability(platform=self.platform, status=status, reason=reason, remedy=remedy)

    @contextmanager
    def open(self, device: Device, workload: Workload, model: LoadedModel, threads: int | None) -> Iterator[Session]:
        """A session on the GPU; an operation that Metal lacks fails."""
        import torch

        known = [DEVICE_ID] if torch.backends.mps.is_available() else []
        if (
            device.platform is not self.platform
            or device.id not in known
            or os.environ.get(FALLBACK, "0") not in {"", "0"}
        ):
            raise refuse(device, self.platform, known)
        with _torch.open_session(
            MpsSession, device, torch.device("mps"), model, workload, threads=threads, knobs={}
        ) as session:
            yield session

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:
        """torch's best matrix product on the GPU."""
        import torch

        flops, dim, repeats = _torch.measure_peak(torch.device("mps"), precision, seconds)
        return Calibration(
            device_id=device.id, device_uuid=device.uuid, precision=precision, peak_flops_per_s=flops,
            source=f"measured: torch {torch.__version__} mm on mps", dim=dim, repeats=repeats,
        )  # fmt: skip


class MpsSession(_torch.TorchSession):
    """Adds Metal's synchronisation and its allocator."""

    def synchronize(self) -> None:
        """Wait for the GPU."""
        import torch

        with _torch.torch_errors():
            torch.mps.synchronize()

    def witness_end(self, wall_ns: int, process_cpu_ns: int, run_delay_ns: int | None) -> ExecutionWitness:
        """What this process holds on the GPU after the window."""
        import torch

        seen = super().witness_end(wall_ns, process_cpu_ns, run_delay_ns)
        return replace(seen, device_memory_peak_bytes=int(torch.mps.driver_allocated_memory()))


def _translated() -> bool:
    """Whether Rosetta translates this process (sysctl.proc_translated)."""
    answer = subprocess.run(
        ["/usr/sbin/sysctl", "-n", "sysctl.proc_translated"], capture_output=True, text=True, check=False, timeout=5
    )
    return answer.stdout.strip() == "1"
