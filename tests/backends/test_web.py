"""WebGPU and WebNN: what is believed of a browser, by recorded replies, and the real one where it is there."""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from hwbench_mlflow import protocol
from hwbench_mlflow.backends import _browser, _web, webgpu, webnn
from hwbench_mlflow.backends.base import SelfTimed
from hwbench_mlflow.backends.webgpu import WebgpuBackend, adapter_device, doubts, kernel_has_gpu, software_reason
from hwbench_mlflow.backends.webnn import WebnnBackend
from hwbench_mlflow.errors import BenchmarkFailed, HardwareUnavailable
from hwbench_mlflow.model import AvailabilityStatus, FailureCategory, Platform, Precision
from hwbench_mlflow.worker import _their_window
from hwbench_mlflow.workloads.base import InputSpec
from tests.backends.tiny import OUTPUT, reference, tiny_inputs, tiny_model, tiny_workload
from tests.browsers import need, webnn_browser

# --- recorded replies ---------------------------------------------------------------------------

SWIFTSHADER = {
    # Chromium 150 and 156 on Linux without a GPU, as recorded here.
    "info": {
        "vendor": "google", "architecture": "swiftshader", "device": "0xc0de",
        "description": "SwiftShader Device (Subzero)", "type": "CPU", "driver": "SwiftShader driver 5.0.0",
    },
    "isFallbackAdapter": True,
    "features": ["timestamp-query"],
}  # fmt: skip
SWIFTSHADER_SYSTEM = {
    "gpu": {
        "devices": [
            {
                "vendorId": 65535, "deviceId": 65535, "driverVendor": "SwANGLE", "driverVersion": "5.0.0",
                "deviceString": "ANGLE (Google, Vulkan 1.3.0 (SwiftShader Device (Subzero) (0x0000C0DE)))",
            }
        ],
        "auxAttributes": {"glRenderer": "ANGLE (Google, Vulkan 1.3.0 (SwiftShader Device (Subzero)))"},
    },
    "commandLine": "/usr/lib/chromium/chromium --headless --enable-unsafe-webgpu",
}  # fmt: skip
# The shape of Chrome's answers on an NVIDIA card, after its documentation: never seen on hardware by us.
NVIDIA = {
    "info": {"vendor": "nvidia", "architecture": "hopper", "description": "NVIDIA H100", "type": "discrete GPU"},
    "isFallbackAdapter": False,
    "features": ["timestamp-query", "shader-f16"],
}
NVIDIA_SYSTEM = {
    "gpu": {
        "devices": [
            {
                "vendorId": 0x10DE, "deviceId": 0x2330, "driverVendor": "Nvidia", "driverVersion": "570.1",
                "deviceString": "ANGLE (NVIDIA Corporation, NVIDIA H100)",
            }
        ],
        "auxAttributes": {"glRenderer": "ANGLE (NVIDIA Corporation, NVIDIA H100)"},
    },
    "commandLine": "/opt/google/chrome/chrome --headless --enable-unsafe-webgpu",
}  # fmt: skip

PLACED = [
    "2026-11-24 17:06:17.541 [V:onnxruntime:, session_state.cc:1377 VerifyEachNodeIsAssignedToAnEp] Node placements",
    "[V:onnxruntime:, session_state.cc:1383]  Node(s) placed on [CPUExecutionProvider]. Number of nodes: 3",
    "[V:onnxruntime:, session_state.cc:1383]  Node(s) placed on [WebGpuExecutionProvider]. Number of nodes: 53",
]


def with_info(**info: str) -> dict[str, Any]:
    return {**NVIDIA, "info": {**NVIDIA["info"], **info}}  # type: ignore[dict-item]


def test_nodes_are_counted_by_provider_from_the_log() -> None:
    assert _web.placement(PLACED) == {"CPUExecutionProvider": 3, "WebGpuExecutionProvider": 53}
    assert _web.placement(["[V] All nodes placed on [WebNNExecutionProvider]. Number of nodes: 1"]) == {
        "WebNNExecutionProvider": 1
    }
    assert _web.placement(["nothing that is known"]) == {}


def test_a_recorded_hardware_adapter_is_believed() -> None:
    device = adapter_device(NVIDIA, NVIDIA_SYSTEM, "156")
    assert device.emulation_reason is None
    assert device.pci_id == "10de:2330"
    assert doubts(device, NVIDIA_SYSTEM, True) is None
    assert doubts(device, NVIDIA_SYSTEM, None) is None  # a system without such files


@pytest.mark.parametrize(
    ("said", "system"),
    [
        (SWIFTSHADER, SWIFTSHADER_SYSTEM),
        ({**SWIFTSHADER, "isFallbackAdapter": False}, SWIFTSHADER_SYSTEM),
        ({**NVIDIA, "isFallbackAdapter": True}, NVIDIA_SYSTEM),
        (with_info(type="CPU"), NVIDIA_SYSTEM),
        (with_info(description="llvmpipe (LLVM 15.0.6, 256 bits)", vendor="mesa"), NVIDIA_SYSTEM),
        (with_info(architecture="lavapipe"), NVIDIA_SYSTEM),
        (with_info(description="Microsoft Basic Render Driver"), NVIDIA_SYSTEM),
        (NVIDIA, SWIFTSHADER_SYSTEM),
    ],
    ids=["swiftshader", "by-name", "by-flag", "by-type", "llvmpipe", "lavapipe", "warp", "renamed-adapter"],
)
def test_software_is_known_by_flag_by_type_and_by_any_name(said: dict[str, Any], system: dict[str, Any]) -> None:
    assert str(software_reason(said, system)).startswith("WebGPU on a software adapter: ")


@pytest.mark.parametrize(
    ("change", "kernel", "reason"),
    [
        ({"commandLine": "chrome --gpu-testing-vendor-id=0x10de"}, True, "gpu-testing-vendor-id"),
        ({"commandLine": "chrome --use-webgpu-adapter=default"}, True, "use-webgpu-adapter"),
        ({"gpu": {"devices": [{"vendorId": 65535, "deviceId": 1}], "auxAttributes": {}}}, True, "knows no hardware"),
        ({"gpu": {"devices": [], "auxAttributes": {}}}, True, "knows no hardware"),
        ({}, False, "no GPU device"),
    ],
)
def test_an_adapter_that_only_calls_itself_hardware_is_not_believed(
    change: dict[str, Any], kernel: bool, reason: str
) -> None:
    device = adapter_device(NVIDIA, NVIDIA_SYSTEM, "156")
    assert reason in str(doubts(device, {**NVIDIA_SYSTEM, **change}, kernel))


def test_a_device_file_alone_grants_nothing(tmp_path: Path) -> None:
    (tmp_path / "dri").mkdir()
    (tmp_path / "dri" / "renderD128").touch()
    assert kernel_has_gpu(tmp_path) is True
    device = adapter_device(NVIDIA, NVIDIA_SYSTEM, "156")
    assert doubts(device, {**NVIDIA_SYSTEM, "gpu": SWIFTSHADER_SYSTEM["gpu"]}, kernel_has_gpu(tmp_path)) is not None


def test_another_precision_is_refused_in_one_line() -> None:
    with pytest.raises(BenchmarkFailed, match="fp32 only"):
        _web.require_fp32(Platform.WEBGPU, Precision.FP16)


@pytest.mark.parametrize(
    ("message", "category"),
    [
        ("Out of memory: Aborted(OOM)", FailureCategory.OUT_OF_MEMORY),
        ("GPUDevice was lost", FailureCategory.CRASH),
        ("no kernel for operator Foo", FailureCategory.UNSUPPORTED_OPERATOR),
    ],
)
def test_the_browser_s_words_get_a_category(message: str, category: FailureCategory) -> None:
    assert _web.translate(_web.PageError(message, "Error"), "webgpu cannot run").category is category


class Ahead:
    """A session whose clock says more time went by than did."""

    def timed_run(self, slot: int) -> int:
        return 1

    def timed_window(self, *, seconds: float, min_samples: int, runs_per_sample: int) -> int:
        return 10**12

    def timed_samples(self) -> tuple[list[int], list[object | None]]:
        return [], []


def test_a_page_s_clock_that_runs_ahead_of_the_worker_s_is_not_believed() -> None:
    session = Ahead()
    assert isinstance(session, SelfTimed)
    opening = protocol.Open(
        device_id="adapter", workload=tiny_workload(), nonce="0", slots=4, min_samples=5, seconds=0.1, scaling=False
    )
    with pytest.raises(BenchmarkFailed, match=r"1000\.000 s for a window") as failed:
        _their_window(session, opening, 1)
    assert failed.value.category is FailureCategory.WRONG_OUTPUT


# --- what is not installed, and browsers that are none ------------------------------------------


@pytest.mark.parametrize("backend", [WebgpuBackend, WebnnBackend])
def test_each_missing_part_is_named_with_what_would_help(
    backend: type[WebgpuBackend] | type[WebnnBackend], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_web, "missing_packages", lambda: None)
    monkeypatch.setenv(_browser.BROWSER_VARIABLE, str(tmp_path / "nothing"))
    answer = backend().probe()
    assert (answer.status, answer.devices) == (AvailabilityStatus.NOT_INSTALLED, ())
    assert "is not an executable file" in answer.reason
    assert "--browser" in str(answer.remedy)
    monkeypatch.setenv(_browser.BROWSER_VARIABLE, "/bin/true")
    monkeypatch.setenv(_browser.RUNTIME_VARIABLE, str(tmp_path))
    answer = backend().probe()
    assert answer.status is AvailabilityStatus.NOT_INSTALLED
    assert "onnxruntime-web is not installed" in answer.reason
    assert "npm install" in str(answer.remedy)


def test_without_any_browser_it_says_which_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_browser, "NAMES", ())
    monkeypatch.setattr(_browser, "PLACES", ())
    with pytest.raises(_browser.BrowserMissing, match="no Chromium, Chrome or Edge") as missing:
        _browser.find_browser()
    assert "--browser" in missing.value.remedy


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answer = WebgpuBackend().probe()
    assert answer.status is AvailabilityStatus.NOT_INSTALLED
    assert answer.reason == "not installed: playwright, onnx, onnxscript"
    assert "[web]" in str(answer.remedy)


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize("body", ["exit 0", "exec sleep 600", "echo hello; exit 3"], ids=["ends", "hangs", "talks"])
def test_what_is_no_browser_is_one_line_and_leaves_no_process(
    body: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    need("webgpu")
    monkeypatch.setattr(_browser, "START_TIMEOUT_MS", 3000)
    monkeypatch.setenv(_browser.BROWSER_VARIABLE, script(tmp_path / "browser", body))
    answer = WebgpuBackend().probe()
    assert answer.status is AvailabilityStatus.PROBE_FAILED
    assert "could not be started" in answer.reason
    assert "\n" not in answer.reason
    assert not psutil.Process().children(recursive=True)


def test_a_browser_that_is_too_old_says_which_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    need("webgpu")
    monkeypatch.setattr(_browser, "OLDEST", 9999)
    answer = WebgpuBackend().probe()
    assert answer.status is AvailabilityStatus.NOT_INSTALLED
    assert "9999 is the oldest that will do" in answer.reason
    assert "Update it" in str(answer.remedy)
    assert not browser_processes()


def test_without_a_free_port_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    need("webgpu")

    def taken(*_: object) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(_browser, "ThreadingHTTPServer", taken)
    answer = WebgpuBackend().probe()
    assert answer.status is AvailabilityStatus.PROBE_FAILED
    assert "no port on loopback for the page: [Errno 98] Address already in use" in answer.reason


# --- the real browser ---------------------------------------------------------------------------


@pytest.fixture
def page() -> Iterator[_browser.Page]:
    need("webgpu")
    with _browser.open_page(webgpu.ARGUMENTS) as opened:
        yield opened


def browser_processes() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


def test_the_adapter_here_is_software_and_simulated_or_is_hardware_of_this_system(page: _browser.Page) -> None:
    device = adapter_device(page.ask("adapter"), page.system, page.version)
    assert device.emulation_reason is not None or doubts(device, page.system, kernel_has_gpu()) is None


def test_a_hanging_page_is_a_timeout_and_stays_one(page: _browser.Page) -> None:
    with pytest.raises(_browser.PageError):
        page.ask("nothing of that name")
    with pytest.raises(BenchmarkFailed, match="hangs") as failed:
        page.ask("window", {"seconds": 30, "minSamples": 1, "runsPerSample": 1 << 30}, timeout_ms=0)
    assert failed.value.category is FailureCategory.TIMEOUT
    with pytest.raises(_browser.PageError, match="no answer to window"):
        page.ask("clock")


def test_a_browser_that_is_killed_is_a_crash_in_one_line(page: _browser.Page) -> None:
    for process in browser_processes():
        if "chrom" in process.name():
            process.kill()
    with pytest.raises(BenchmarkFailed, match="went away") as failed:
        page.ask("clock")
    assert failed.value.category is FailureCategory.CRASH
    assert "\n" not in str(failed.value.args[0])


def test_nothing_of_it_is_left_after_the_block() -> None:
    need("webgpu")
    with _browser.open_page(webgpu.ARGUMENTS):
        assert any("chrom" in process.name() for process in browser_processes())
    deadline = time.monotonic() + 10
    while browser_processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not browser_processes()


def test_the_browser_ends_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    need("webgpu")
    code = (
        "import time\n"
        "from hwbench_mlflow.backends import _browser, webgpu\n"
        "with _browser.open_page(webgpu.ARGUMENTS):\n"
        "    print('open', flush=True)\n"
        "    time.sleep(600)\n"
    )
    import sys

    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    family = psutil.Process(child.pid).children(recursive=True)
    assert any("chrom" in process.name() for process in family)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_the_server_gives_nothing_to_who_does_not_know_its_path(page: _browser.Page) -> None:
    url = page._page.url
    origin = url[: url.index("/", len("http://"))]
    for path in ("/", "/index.html", "/ort/ort.webgpu.min.mjs"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(origin + path)
    for path in ("../pyproject.toml", "ort/../package.json", "%2e%2e/x", "node_modules/"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url + path)
    with urllib.request.urlopen(url) as answer:
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"


def test_an_operator_that_the_provider_lacks_is_a_fallback_and_no_number() -> None:
    need("webgpu")

    class AsksForNans(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {OUTPUT: torch.where(torch.isnan(x @ x), torch.zeros_like(x), x)}

    model = dataclasses.replace(tiny_model(), module=AsksForNans(), input_spec=(InputSpec("x", "normal", (4, 4)),))
    backend = WebgpuBackend()
    device = backend.probe().devices[0]
    with (
        pytest.raises(BenchmarkFailed, match="not all run on webgpu") as failed,
        backend.open(device, tiny_workload(batch_size=4), model, None),
    ):
        pass
    assert failed.value.category is FailureCategory.FALLBACK_DETECTED


def test_a_mask_that_is_not_all_ones_is_refused_where_it_was_left_out() -> None:
    need("webgpu")
    backend = WebgpuBackend()
    device = backend.probe().devices[0]
    inputs = tiny_inputs(0)
    inputs["attention_mask"][0, 3] = 0
    with (
        backend.open(device, tiny_workload(), tiny_model(), None) as session,
        pytest.raises(BenchmarkFailed, match="attention_mask is not all ones"),
    ):
        session.stage([inputs])


def test_the_page_times_its_own_window_and_every_slot_has_its_output() -> None:
    need("webgpu")
    backend, model = WebgpuBackend(), tiny_model()
    device = backend.probe().devices[0]
    slots = [tiny_inputs(seed) for seed in range(3)]
    with backend.open(device, tiny_workload(), model, None) as session:
        assert isinstance(session, SelfTimed)
        session.stage(slots)
        session.witness_begin()
        begin = time.perf_counter_ns()
        wall_ns = session.timed_window(seconds=0.2, min_samples=6, runs_per_sample=2)
        seen_ns = time.perf_counter_ns() - begin
        samples, outputs = session.timed_samples()
        witness = session.witness_end(wall_ns, 1, None)
        for slot, output in enumerate(outputs):
            np.testing.assert_allclose(session.fetch(output)[OUTPUT], reference(model, slots[slot]), atol=1e-4)
    assert len(samples) >= 6
    assert sum(samples) <= wall_ns <= seen_ns
    assert min(samples) > 0
    assert witness.placement.keys() == {"WebGpuExecutionProvider"}
    assert witness.kernel_count is not None
    assert witness.kernel_count > 0
    assert witness.helper_cpu_ns is not None


# --- WebNN --------------------------------------------------------------------------------------


def test_a_browser_without_webnn_says_so_in_its_own_words() -> None:
    need("webgpu")
    answer = WebnnBackend().probe()
    if answer.status is AvailabilityStatus.AVAILABLE:
        pytest.skip("this system's browser has WebNN")
    assert answer.status is AvailabilityStatus.NO_DRIVER
    assert "NotSupportedError" in answer.reason or "navigator.ml is not there" in answer.reason
    assert not answer.checks


@pytest.fixture
def with_webnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_browser.BROWSER_VARIABLE, webnn_browser())


@pytest.mark.usefixtures("with_webnn")
def test_webnn_on_the_cpu_is_checked_and_its_gpu_and_npu_are_no_devices() -> None:
    answer = WebnnBackend().probe()
    assert answer.status is AvailabilityStatus.AVAILABLE
    assert [device.id for device in answer.devices] == ["cpu"]
    assert answer.verified
    assert "contexts for gpu and npu are granted too, but the browser does not say where" in answer.reason


GRANTED: dict[str, Any] = {"said": {}}
REFUSED = {"missing": "createContext({deviceType: 'cpu'}): NotSupportedError: no"}


def test_a_context_for_gpu_or_npu_alone_is_no_device() -> None:
    answer = webnn.answer("153", {"cpu": REFUSED, "gpu": GRANTED, "npu": REFUSED}, None, None)
    assert (answer.status, answer.devices) == (AvailabilityStatus.NO_DEVICE, ())
    assert "NotSupportedError: no; contexts for gpu are granted too" in answer.reason


@pytest.mark.usefixtures("with_webnn")
def test_webnn_runs_every_node_in_one_dispatch_on_the_cpu() -> None:
    backend, model = WebnnBackend(), tiny_model()
    device = backend.probe().devices[0]
    with backend.open(device, tiny_workload(), model, None) as session:
        session.stage([tiny_inputs(0)])
        session.run(0)
        session.witness_begin()
        wall_ns = session.timed_window(seconds=0.5, min_samples=5, runs_per_sample=1)  # type: ignore[attr-defined]
        witness = session.witness_end(wall_ns, 1, None)
        observed = session.fetch(session.run(0))[OUTPUT]
    np.testing.assert_allclose(observed, reference(model, tiny_inputs(0)), atol=1e-4)
    assert witness.placement.keys() == {"WebNNExecutionProvider"}
    assert witness.kernel_count == 1
    assert witness.helper_cpu_ns is not None
    assert witness.helper_cpu_ns > 0.3 * wall_ns


@pytest.mark.usefixtures("with_webnn")
def test_a_webnn_device_that_cannot_be_verified_is_not_measured() -> None:
    from hwbench_mlflow.runner import choose_device

    with pytest.raises(HardwareUnavailable, match=r"webnn has no device npu .* does not say where they compute"):
        choose_device(WebnnBackend().probe(), "npu")
