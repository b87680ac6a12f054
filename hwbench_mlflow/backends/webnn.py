"""WebNN in a browser, by onnxruntime-web.

Owns which of WebNN's device types can be verified: ``cpu`` by the CPU time of the browser's processes. For ``gpu``
and ``npu`` a browser grants contexts that compute on the CPU and says nothing, so such a context is no evidence.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from hwbench_mlflow import host
from hwbench_mlflow.backends import _web
from hwbench_mlflow.backends._browser import BrowserMissing, Page, PageError, open_page
from hwbench_mlflow.backends._reference import refuse
from hwbench_mlflow.backends.cpu import calibrate_cpu
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import (
    Availability,
    AvailabilityStatus,
    Calibration,
    Device,
    DeviceCheck,
    Platform,
    Precision,
    Workload,
)

if TYPE_CHECKING:
    from hwbench_mlflow.backends.base import Session
    from hwbench_mlflow.workloads.base import LoadedModel

CPU = "cpu"
DEVICE_TYPES = (CPU, "gpu", "npu")
ARGUMENTS = ("--enable-features=WebMachineLearningNeuralNetwork",)


class WebnnBackend:
    """WebNN contexts, as Chromium, Chrome or Edge grants them."""

    platform: ClassVar[Platform] = Platform.WEBNN
    converts: ClassVar[bool] = True

    def probe(self) -> Availability:
        """The device types that a context is granted for, and a product in each that can be verified."""
        missing = _web.missing_packages()
        if missing is not None:
            return _web.not_installed(self.platform, missing)
        try:
            with open_page(ARGUMENTS) as page:
                said = {kind: page.ask("context", kind) for kind in DEVICE_TYPES}
                version = page.version
                device = _device(said["cpu"]["said"], page) if "missing" not in said["cpu"] else None
                options = {"platform": "webnn", "deviceType": CPU}
                check = _web.check(page, device, options, host.cpu_name()) if device is not None else None
        except BrowserMissing as error:
            return _web.not_installed(self.platform, error)
        except (BenchmarkFailed, PageError) as error:
            return Availability(
                platform=self.platform,
                status=AvailabilityStatus.PROBE_FAILED,
                reason=str(error.args[0]),
                remedy="Check that the browser starts by itself, or name another one with --browser",
            )
        return answer(version, said, device, check)

    @contextmanager
    def open(self, device: Device, workload: Workload, model: LoadedModel, threads: int | None) -> Iterator[Session]:
        """A browser of its own for the session: one that has lost a context refuses the next ones."""
        if (device.platform, device.id) != (self.platform, CPU):
            raise refuse(device, self.platform, [CPU])
        _web.require_fp32(self.platform, workload.precision)
        begin = time.perf_counter_ns()
        with _web.browser(self.platform, ARGUMENTS) as page:
            start_ns = time.perf_counter_ns() - begin
            said = page.ask("context", CPU)
            granted = _device(said["said"], page) if "missing" not in said else None
            if granted != device:
                raise refuse(device, self.platform, [granted.name] if granted is not None else [])
            options = {"platform": "webnn", "deviceType": CPU}
            session = _web.WebSession(
                page, granted, options, model=model, workload=workload, threads=threads, start_ns=start_ns
            )
            try:
                yield session
            finally:
                session.close()

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:
        """The CPU's peak by torch, where the device is the CPU."""
        return calibrate_cpu(device, precision, seconds) if device.id == CPU else None


def answer(
    version: str, said: Mapping[str, Mapping[str, Any]], device: Device | None, check: DeviceCheck | None
) -> Availability:
    """What the contexts that were granted amount to. A context for anything but the CPU is never a device."""
    mute = [kind for kind in DEVICE_TYPES if kind != CPU and "missing" not in said[kind]]
    no_evidence = (
        f"contexts for {' and '.join(mute)} are granted too, but the browser does not say where they compute: one that "
        "has only the CPU grants them as well"
    )
    if device is None or check is None:
        return Availability(
            platform=Platform.WEBNN,
            status=AvailabilityStatus.NO_DEVICE if mute else AvailabilityStatus.NO_DRIVER,
            reason=f"Chromium {version}: {said[CPU]['missing']}" + (f"; {no_evidence}" if mute else ""),
            remedy="A browser with a WebNN backend (Chrome or Edge on Windows, macOS or ChromeOS): --browser PATH",
        )
    ran = f"Chromium {version} ran WebNN on {device.name}" if check.passed else check.reason
    return Availability(
        platform=Platform.WEBNN,
        status=AvailabilityStatus.AVAILABLE if check.passed else AvailabilityStatus.PROBE_FAILED,
        reason=f"{ran}; {no_evidence}" if mute else ran,
        remedy=None if check.passed else "Try another browser with --browser",
        devices=(device,),
        checks=(check,),
    )


def _device(said: Mapping[str, str], page: Page) -> Device:
    """The device behind a context for the CPU: this machine's."""
    return Device(
        platform=Platform.WEBNN,
        id=CPU,
        name=host.cpu_name(),
        vendor=host.cpu_vendor(),
        driver=f"Chromium {page.version}",
        emulation_reason=host.cpu_emulation_reason(),
        details={f"context.{key}": value for key, value in said.items()},
    )
