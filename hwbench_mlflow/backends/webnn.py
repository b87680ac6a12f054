"""WebNN in a browser, by onnxruntime-web.

Owns which of WebNN's device types can be verified: ``cpu`` by the CPU time of the browser's processes. For ``gpu``
and ``npu`` a browser grants contexts that compute on the CPU and says nothing, so such a context is no evidence.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from hwbench_mlflow import host
from hwbench_mlflow.backends import _web
from hwbench_mlflow.backends._browser import BrowserMissing, Page, PageError, open_page
from hwbench_mlflow.backends._reference import failed_check, refuse
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

DEVICE_TYPES = ("cpu", "gpu", "npu")
ARGUMENTS = ("--enable-features=WebMachineLearningNeuralNetwork",)


class WebnnBackend:
    """WebNN contexts, as Chromium, Chrome or Edge grants them."""

    platform: ClassVar[Platform] = Platform.WEBNN

    def probe(self) -> Availability:
        """The device types that a context is granted for, and a product in each that can be verified."""
        missing = _web.missing_packages()
        if missing is not None:
            return _web.not_installed(self.platform, missing)
        devices: list[Device] = []
        checks: list[DeviceCheck] = []
        try:
            with open_page(ARGUMENTS) as page:
                refused = ""
                for kind in DEVICE_TYPES:
                    said = page.ask("context", kind)
                    if "missing" in said:
                        refused = refused or f"Chromium {page.version}: {said['missing']}"
                        continue
                    device = _device(kind, said["said"], page)
                    devices.append(device)
                    checks.append(_check(page, device))
        except BrowserMissing as error:
            return _web.not_installed(self.platform, error)
        except (BenchmarkFailed, PageError) as error:
            return Availability(
                platform=self.platform,
                status=AvailabilityStatus.PROBE_FAILED,
                reason=str(error.args[0]),
                remedy="Check that the browser starts by itself, or name another one with --browser",
            )
        if not devices:
            return Availability(
                platform=self.platform,
                status=AvailabilityStatus.NO_DRIVER,
                reason=refused,
                remedy="A browser with a WebNN backend (Chrome or Edge on Windows, macOS or ChromeOS): --browser PATH",
            )
        passed = [check for check in checks if check.passed]
        return Availability(
            platform=self.platform,
            status=AvailabilityStatus.AVAILABLE if passed else AvailabilityStatus.PROBE_FAILED,
            reason=f"Chromium {page.version} ran WebNN on {', '.join(check.device_id for check in passed)}"
            if passed
            else checks[0].reason,
            remedy=None if passed else "Try another browser with --browser",
            devices=tuple(devices),
            checks=tuple(checks),
        )

    @contextmanager
    def open(self, device: Device, workload: Workload, model: LoadedModel, threads: int | None) -> Iterator[Session]:
        """A browser of its own for the session: one that has lost a context refuses the next ones."""
        if device.platform is not self.platform or device.id not in DEVICE_TYPES:
            raise refuse(device, self.platform, DEVICE_TYPES)
        _web.require_fp32(self.platform, workload.precision)
        begin = time.perf_counter_ns()
        with _web.browser(self.platform, ARGUMENTS) as page:
            start_ns = time.perf_counter_ns() - begin
            said = page.ask("context", device.id)
            granted = _device(device.id, said["said"], page) if "missing" not in said else None
            if granted != device:
                raise refuse(device, self.platform, [granted.name] if granted is not None else [])
            options = {"platform": "webnn", "deviceType": device.id}
            session = _web.WebSession(
                page, granted, options, model=model, workload=workload, threads=threads, start_ns=start_ns
            )
            try:
                yield session
            finally:
                session.close()

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:
        """The CPU's peak by torch, where the device is the CPU."""
        return calibrate_cpu(device, precision, seconds) if device.id == "cpu" else None


def _device(kind: str, said: dict[str, str], page: Page) -> Device:
    """The device behind a context: this machine's CPU, or whatever the browser does not say."""
    name = host.cpu_name() if kind == "cpu" else f"WebNN {kind}, which the browser does not name"
    return Device(
        platform=Platform.WEBNN,
        id=kind,
        name=name,
        vendor=host.cpu_vendor() if kind == "cpu" else None,
        driver=f"Chromium {page.version}",
        emulation_reason=host.cpu_emulation_reason() if kind == "cpu" else None,
        details={f"context.{key}": value for key, value in said.items()},
    )


def _check(page: Page, device: Device) -> DeviceCheck:
    if device.id != "cpu":
        return failed_check(
            device.id,
            f"the browser grants a context for {device.id} and does not say where it computes: browsers that have "
            "only a CPU grant it as well",
        )
    return _web.check(page, device, {"platform": "webnn", "deviceType": device.id}, host.cpu_name())
