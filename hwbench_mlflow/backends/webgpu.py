"""WebGPU in a browser, by onnxruntime-web.

Owns what the browser says of its adapter and what of it is believed: a software adapter, by flag, by type or by
name, is simulated; one that the GPU process does not know as hardware of this system is not verified.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hwbench_mlflow.backends import _web
from hwbench_mlflow.backends._browser import BrowserMissing, Page, PageError, open_page
from hwbench_mlflow.backends._reference import failed_check, refuse
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

DEVICE_ID = "adapter"
ARGUMENTS = ("--enable-unsafe-webgpu", "--enable-webgpu-developer-features")
"""Without the first, Chromium on Linux gives no adapter; the second makes it name the adapter's type and driver."""

SOFTWARE = ("swiftshader", "llvmpipe", "lavapipe", "softpipe", "swrast", "warp", "microsoft basic render")
VENDORS = {0x1002: "AMD", 0x10DE: "NVIDIA", 0x106B: "Apple", 0x13B5: "Arm", 0x5143: "Qualcomm", 0x8086: "Intel"}
"""PCI vendors of GPUs; Google's and Microsoft's adapters are software."""

RENAMING = ("gpu-testing-", "gpu-vendor-id", "gpu-device-id", "use-webgpu-adapter", "use-angle", "use-gl", "use-vulkan")
"""Switches by which a browser names another adapter than the system's."""


class WebgpuBackend:
    """A WebGPU adapter, as Chromium, Chrome or Edge grants it."""

    platform: ClassVar[Platform] = Platform.WEBGPU
    converts: ClassVar[bool] = True

    def probe(self) -> Availability:
        """The adapter that a page is granted, and a product on it."""
        missing = _web.missing_packages()
        if missing is not None:
            return _web.not_installed(self.platform, missing)
        try:
            with open_page(ARGUMENTS) as page:
                said = page.ask("adapter")
                if "missing" in said:
                    return Availability(
                        platform=self.platform,
                        status=AvailabilityStatus.NO_DEVICE,
                        reason=f"Chromium {page.version}: {said['missing']}",
                        remedy="A GPU whose driver has Vulkan, Metal or Direct3D 12, and a browser that uses it",
                    )
                device = adapter_device(said, page.system, page.version)
                check = self._check(page, device)
        except BrowserMissing as error:
            return _web.not_installed(self.platform, error)
        except (BenchmarkFailed, PageError) as error:
            return Availability(
                platform=self.platform,
                status=AvailabilityStatus.PROBE_FAILED,
                reason=str(error.args[0]),
                remedy="Check that the browser starts by itself, or name another one with --browser",
            )
        return Availability(
            platform=self.platform,
            status=AvailabilityStatus.AVAILABLE if check.passed else AvailabilityStatus.PROBE_FAILED,
            reason=f"Chromium {page.version} ran on {device.name}" if check.passed else check.reason,
            remedy=None if check.passed else "Start the browser without switches that choose or rename the adapter",
            devices=(device,),
            checks=(check,),
        )

    def _check(self, page: Page, device: Device) -> DeviceCheck:
        doubt = doubts(device, page.system, kernel_has_gpu())
        if doubt is not None:
            return failed_check(device.id, doubt)
        done = _web.check(page, device, {"platform": "webgpu"}, device.name)
        again = adapter_device(page.ask("adapter"), page.system, page.version)
        return done if again == device else failed_check(device.id, f"the adapter became {again.name}")

    @contextmanager
    def open(self, device: Device, workload: Workload, model: LoadedModel, threads: int | None) -> Iterator[Session]:
        """A page of its own for the session; its browser must grant the adapter that was probed."""
        if (device.platform, device.id) != (self.platform, DEVICE_ID):
            raise refuse(device, self.platform, [DEVICE_ID])
        _web.require_fp32(self.platform, workload.precision)
        begin = time.perf_counter_ns()
        with _web.browser(self.platform, ARGUMENTS) as page:
            start_ns = time.perf_counter_ns() - begin
            said = page.ask("adapter")
            granted = adapter_device(said, page.system, page.version) if "missing" not in said else None
            if granted != device:
                raise refuse(device, self.platform, [granted.name] if granted is not None else [])
            options = {"platform": "webgpu", "webgpuFeatures": ["timestamp-query"]}
            session = _web.WebSession(
                page, granted, options, model=model, workload=workload, threads=threads, start_ns=start_ns
            )
            try:
                yield session
            finally:
                session.close()

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:  # noqa: ARG002
        """No peak: a browser's own matrix product is far from the device's."""
        return None


def adapter_device(said: Mapping[str, Any], system: Mapping[str, Any], version: str) -> Device:
    """What the page says of the adapter, and the GPU process of the system's, as one device."""
    info = {key: str(value) for key, value in said["info"].items() if value}
    words = [info.get(key, "") for key in ("vendor", "architecture", "description")]
    known = [gpu for gpu in system["gpu"]["devices"] if int(gpu.get("vendorId", 0)) in VENDORS]
    return Device(
        platform=Platform.WEBGPU,
        id=DEVICE_ID,
        name=" ".join(word for word in words if word) or "an adapter that the browser does not name",
        vendor=info.get("vendor"),
        pci_id=f"{int(known[0]['vendorId']):04x}:{int(known[0]['deviceId']):04x}" if known else None,
        driver=info.get("driver") or (f"{known[0]['driverVendor']} {known[0]['driverVersion']}" if known else None),
        emulation_reason=software_reason(said, system),
        details={f"adapter.{key}": value for key, value in info.items()}
        | {
            "adapter.isFallbackAdapter": str(said["isFallbackAdapter"]),
            "adapter.features": " ".join(said["features"]),
            "browser": f"Chromium {version}",
            "gpu_process": _renderer(system),
        },
    )


def software_reason(said: Mapping[str, Any], system: Mapping[str, Any]) -> str | None:
    """Why the adapter is software, if anything says that it is."""
    info = said["info"]
    names = " ".join(str(value) for value in info.values())
    found = [word for word in SOFTWARE if word in f"{names} {_renderer(system)}".lower()]
    if said["isFallbackAdapter"] or str(info.get("type", "")).upper() == "CPU" or found:
        return f"WebGPU on a software adapter: {info.get('description') or names or 'one without a name'}"
    return None


def doubts(device: Device, system: Mapping[str, Any], kernel_gpu: bool | None) -> str | None:
    """Why an adapter that calls itself hardware is not believed, or None."""
    if device.emulation_reason is not None:
        return None
    switches = [part.partition("=")[0].strip() for part in str(system.get("commandLine", "")).split(" --")[1:]]
    renamed = [switch for switch in switches if switch.startswith(RENAMING)]
    if renamed:
        return f"the browser runs with --{renamed[0]}, by which it can name any adapter"
    vendors = [VENDORS.get(int(gpu.get("vendorId", 0))) for gpu in system["gpu"]["devices"]]
    if not any(vendors):
        return "the browser's GPU process knows no hardware GPU"
    if kernel_gpu is False:
        return "this system has no GPU device: no /dev/dri/renderD*, /dev/nvidia0 or /dev/dxg"
    return None


def kernel_has_gpu(root: Path = Path("/dev")) -> bool | None:
    """Whether Linux has a GPU's device; None on systems that have no such files."""
    if sys.platform != "linux":
        return None
    return any(any(root.glob(pattern)) for pattern in ("dri/renderD*", "nvidia[0-9]*", "dxg", "mali*", "kgsl-3d0"))


def _renderer(system: Mapping[str, Any]) -> str:
    """The GPU process's own words for what it draws with."""
    gpu = system["gpu"]
    said = [str(gpu.get("auxAttributes", {}).get("glRenderer", ""))]
    said += [str(device.get("deviceString", "")) for device in gpu["devices"]]
    return "; ".join(dict.fromkeys(text for text in said if text))
