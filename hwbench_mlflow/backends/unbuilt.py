"""Platforms that hwbench names and cannot drive yet: qnn.

Their probes say so and nothing else: a device, a package or a browser on this machine changes
nothing as long as no code here can execute on it. Imports no vendor SDK.
"""

# ruff: noqa: ARG002  (the protocol's signatures; nothing here has a use for the arguments)
from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

from hwbench_mlflow import __version__
from hwbench_mlflow.errors import HardwareUnavailable
from hwbench_mlflow.model import Availability, AvailabilityStatus, Calibration, Device, Platform, Precision, Workload

if TYPE_CHECKING:
    from hwbench_mlflow.backends.base import Session
    from hwbench_mlflow.workloads.base import LoadedModel


class _UnbuiltBackend:
    platform: ClassVar[Platform]

    def probe(self) -> Availability:
        """NOT_INSTALLED: what is missing is hwbench's own code."""
        return Availability(
            platform=self.platform,
            status=AvailabilityStatus.NOT_INSTALLED,
            reason=f"hwbench {__version__} has no {self.platform} backend yet",
            remedy=f"Use a later hwbench, or install a distribution with a backend for {self.platform}",
        )

    def open(
        self, device: Device, workload: Workload, model: LoadedModel, threads: int | None
    ) -> AbstractContextManager[Session]:
        """Always raises :class:`HardwareUnavailable`."""
        absent = self.probe()
        raise HardwareUnavailable(absent.reason, absent, remedy=absent.remedy)

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:
        """There is nothing to measure."""
        return None


class QnnBackend(_UnbuiltBackend):
    """Qualcomm's QNN, through onnxruntime-qnn: not built yet."""

    platform: ClassVar[Platform] = Platform.QNN
