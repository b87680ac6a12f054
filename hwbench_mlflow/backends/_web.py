"""What WebGPU and WebNN have in common: an ONNX model in onnxruntime-web, in a worker of a page, in a browser.

Owns the session, the product that a probe executes and the reading of where nodes were placed. Imports numpy, torch
and playwright only inside functions.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.backends import _onnx
from hwbench_mlflow.backends._browser import BrowserMissing, Page, PageError, open_page
from hwbench_mlflow.backends._reference import (
    CHECK_DIM,
    check_matrices,
    check_slots,
    failed_check,
    judge_product,
    one_line,
    sized_spec,
)
from hwbench_mlflow.errors import BenchmarkFailed, HardwareUnavailable
from hwbench_mlflow.model import (
    Availability,
    AvailabilityStatus,
    Device,
    DeviceCheck,
    ExecutionWitness,
    FailureCategory,
    Platform,
    Precision,
    SessionFacts,
    Workload,
)
from hwbench_mlflow.verdict import BROWSER_PROVIDERS

if TYPE_CHECKING:
    from hwbench_mlflow.backends._reference import Array
    from hwbench_mlflow.workloads.base import LoadedModel

_PLACED = re.compile(r"(?:All nodes|Node\(s\)) placed on \[(\w+)\]\. Number of nodes: (\d+)")


@contextlib.contextmanager
def browser(platform: Platform, arguments: Sequence[str]) -> Iterator[Page]:
    """A page for that platform. Raises :class:`HardwareUnavailable` where the browser or its files are missing."""
    try:
        with open_page(arguments) as page:
            yield page
    except BrowserMissing as error:
        absent = not_installed(platform, error)
        raise HardwareUnavailable(absent.reason, absent, remedy=absent.remedy) from error


def not_installed(platform: Platform, error: BrowserMissing) -> Availability:
    """A probe's answer where something is not installed."""
    return Availability(
        platform=platform, status=AvailabilityStatus.NOT_INSTALLED, reason=str(error), remedy=error.remedy
    )


def missing_packages() -> BrowserMissing | None:
    """What of the ``[web]`` extra cannot be imported."""
    import importlib.util

    absent = [name for name in ("playwright", "onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    return BrowserMissing(f"not installed: {', '.join(absent)}", "pip install 'hwbench-mlflow[web]'")


def check(page: Page, device: Device, options: Mapping[str, Any], identity: str) -> DeviceCheck:
    """The probe's product by onnxruntime-web on that device, every node on the platform's own provider."""
    import numpy as np

    a, b, reference = check_matrices()
    with tempfile.TemporaryDirectory(prefix="hwbench-") as folder:
        page.files.files["check.onnx"] = _onnx.product(Path(folder), CHECK_DIM)
        asked = {"threads": 1, **options, "model": "check.onnx"}
        try:
            placed = placement(page.ask("placement", asked))
            page.ask("load", asked)
            page.ask("stage", [_feeds(page, 0, {"a": np.array(a, np.float32), "b": np.array(b, np.float32)})])
            page.ask("run", 0)
            observed = _fetch(page, 0, ["c"])["c"].tolist()
        except PageError as error:
            return failed_check(device.id, f"the browser: {error.kind}: {one_line(str(error))}")
    if set(placed) != {BROWSER_PROVIDERS[device.platform]}:
        return failed_check(device.id, f"the product was placed on {', '.join(placed) or 'nothing that is known'}")
    return judge_product(device.id, observed, reference, identity=identity, enumerated=device.name)


def placement(log: Sequence[str]) -> dict[str, int]:
    """Nodes by execution provider, from the lines that onnxruntime logs while it makes a session."""
    found: dict[str, int] = {}
    for line in log:
        for provider, count in _PLACED.findall(line):
            found[provider] = int(count)
    return found


def _feeds(page: Page, slot: int, arrays: Mapping[str, Array]) -> list[dict[str, Any]]:
    """Put one input set where the page can fetch it; returns what the worker needs to know of it."""
    feeds: list[dict[str, Any]] = []
    for name, array in arrays.items():
        path = f"in/{slot}/{len(feeds)}"
        page.files.blobs[path] = array.tobytes()
        feeds.append({"name": name, "type": str(array.dtype), "shape": list(array.shape), "path": path})
    return feeds


def _fetch(page: Page, slot: int, names: Sequence[str]) -> dict[str, Array]:
    """The outputs of a slot's last run, as float32."""
    import numpy as np

    described = page.ask("outputs", {"slot": slot, "names": list(names), "path": "out"})
    found: dict[str, Array] = {}
    for index, item in enumerate(described):
        raw = page.files.received.pop(f"out/{index}")
        found[item["name"]] = np.frombuffer(raw, dtype=item["type"]).reshape(item["shape"]).astype(np.float32)
    return found


def require_fp32(platform: Platform, precision: Precision) -> None:
    """Refuse what is not built."""
    if precision is not Precision.FP32:
        raise BenchmarkFailed(
            f"{platform} computes in fp32 only here, not in {precision}",
            FailureCategory.UNSUPPORTED_OPERATOR,
            remedy="Ask for --precision fp32",
        )


class WebSession:
    """A model in the page. Each run reads its outputs back: that is when a browser says that work is done.

    The loop and its clock are in the page; see :class:`.base.SelfTimed`.
    """

    def __init__(
        self,
        page: Page,
        device: Device,
        options: Mapping[str, Any],
        *,
        model: LoadedModel,
        workload: Workload,
        threads: int | None,
        start_ns: int,
    ) -> None:
        self._page = page
        self._open = True
        self._device = device
        self._spec = sized_spec(model.input_spec, workload.batch_size)
        self._names = model.output_names
        self._threads = threads or 1
        begin = time.perf_counter_ns()
        self._graph = _onnx.export(model, workload)
        export_ns = time.perf_counter_ns() - begin
        page.files.files["model.onnx"] = self._graph.path
        self._options = {**options, "threads": self._threads, "model": "model.onnx"}
        self._placement = placement(self._ask("placement", self._options))
        self._refuse_fallback()
        begin = time.perf_counter_ns()
        self._ask("load", self._options)
        self._load_ns = time.perf_counter_ns() - begin
        self._slots = 0
        self._cpu_before: int | None = None
        self.properties = {
            "browser": f"Chromium {page.version}",
            "browser.switches": " --".join(page.command_line()),
            "browser.start_ns": str(start_ns),
            "onnx.export_ns": str(export_ns),
            "onnx.sha256": self._graph.sha256,
            "onnx.opset": str(_onnx.OPSET),
            "onnx.inputs_omitted": ", ".join(f"{name} (all ones)" for name in self._graph.omitted),
            "timing": "the page's clock, outputs read back after each inference",
            "threads": "of onnxruntime-web's own part; the browser chooses those that compute",
        } | {f"placement.{provider}": str(count) for provider, count in self._placement.items()}

    def _ask(self, operation: str, argument: Any = None) -> Any:
        if not self._open:
            raise BenchmarkFailed("the session is closed", FailureCategory.USAGE)
        try:
            return self._page.ask(operation, argument)
        except PageError as error:
            raise translate(error, f"{self._device.platform} in the browser cannot {operation}") from error

    def _refuse_fallback(self) -> None:
        """Every node has to be on the platform's provider. Which nodes are not is in no log that can be relied on."""
        own = BROWSER_PROVIDERS[self._device.platform]
        elsewhere = {name: count for name, count in self._placement.items() if name != own}
        if not self._placement.get(own):
            raise BenchmarkFailed(f"onnxruntime placed no node on {own}", FailureCategory.FALLBACK_DETECTED)
        if elsewhere:
            listed = ", ".join(f"{count} on {name}" for name, count in elsewhere.items())
            raise BenchmarkFailed(
                f"of the model's nodes, {listed}: not all run on {self._device.platform}",
                FailureCategory.FALLBACK_DETECTED,
                remedy="The provider lacks an operator of this model",
            )

    def stage(self, slots: Sequence[Mapping[str, Array]]) -> None:
        """Put the input sets into the page. A mask that was left out must be what it was left out as."""
        check_slots(self._spec, slots)
        for slot in slots:
            for name in self._graph.omitted:
                if not (slot[name] == 1).all():
                    raise BenchmarkFailed(f"the input {name} is not all ones", FailureCategory.USAGE)
        self._page.files.blobs.clear()
        taken = [item.name for item in self._graph.inputs]
        self._ask(
            "stage",
            [_feeds(self._page, index, {name: slot[name] for name in taken}) for index, slot in enumerate(slots)],
        )
        self._slots = len(slots)

    def run(self, slot: int) -> object:
        """One inference, finished and read back to the page."""
        self._ask("run", slot)
        return slot

    def synchronize(self) -> None:
        """Nothing is ever pending: a run ends with its outputs."""

    def timed_run(self, slot: int) -> int:
        """One inference: ns on the page's clock."""
        return round(float(self._ask("run", slot)) * 1e6)

    def timed_window(self, *, seconds: float, min_samples: int, runs_per_sample: int) -> int:
        """The window in the page: ns on its clock."""
        asked = {"seconds": seconds, "minSamples": min_samples, "runsPerSample": runs_per_sample}
        return round(float(self._ask("window", asked)) * 1e6)

    def timed_samples(self) -> tuple[Sequence[int], list[object | None]]:
        """The window's samples in ns; each slot stands for its last output."""
        import numpy as np

        count = self._ask("samples", "samples")
        samples = np.frombuffer(self._page.files.received.pop("samples"), dtype=np.float64)
        if len(samples) != count:
            raise BenchmarkFailed("the page sent another number of samples", FailureCategory.WRONG_OUTPUT)
        return [round(ms * 1e6) for ms in samples.tolist()], list(range(self._slots))

    def fetch(self, output: object) -> dict[str, Array]:
        """The compared outputs of that slot's last run, as float32."""
        if not isinstance(output, int):
            raise TypeError("fetch takes what run returned")
        names = self._graph.outputs[: len(self._names)]
        try:
            found = _fetch(self._page, output, names)
        except PageError as error:
            raise translate(error, "the browser cannot give the outputs") from error
        return {known: found[name] for known, name in zip(self._names, names, strict=True)}

    def facts(self) -> SessionFacts:
        """fp32 is the graph's; whether the device kept to it is for the output check to see."""
        return SessionFacts(
            device=self._device,
            effective_precision=Precision.FP32,
            threads=self._threads,
            load_ns=self._load_ns,
            compile_ns=None,
            properties=self.properties,
        )

    def witness_begin(self) -> None:
        """The browser's CPU time before the window."""
        self._cpu_before = self._page.cpu_ns()

    def witness_end(self, wall_ns: int, process_cpu_ns: int, run_delay_ns: int | None) -> ExecutionWitness:
        """The browser's CPU time in the window, and one more inference with the page's device calls counted."""
        after = self._page.cpu_ns()
        known = after is not None and self._cpu_before is not None
        seen = self._ask("witness")
        webgpu = self._device.platform is Platform.WEBGPU
        return ExecutionWitness(
            wall_ns=wall_ns,
            process_cpu_ns=process_cpu_ns,
            run_delay_ns=run_delay_ns,
            threads=self._threads,
            kernel_count=int(seen["dispatchWorkgroups" if webgpu else "mlDispatch"]),
            kernel_busy_ns=int(seen["gpuBusyNs"]) if seen["gpuBusyNs"] is not None else None,
            kernel_wall_ns=round(seen["ms"] * 1e6),
            device_identity=self._device.name,
            placement=self._placement,
            helper_cpu_ns=(after or 0) - (self._cpu_before or 0) if known else None,
            properties={"webgpu.submits": str(seen["submit"]), "webnn.dispatches": str(seen["mlDispatch"])},
        )

    def close(self) -> None:
        """A later run fails."""
        self._open = False


def translate(error: PageError, what: str) -> BenchmarkFailed:
    """A JavaScript error in hwbench's words."""
    text = str(error)
    low = text.lower()
    if any(word in low for word in ("out of memory", "oom", "allocation", "bad_alloc", "buffer size", "too large")):
        category = FailureCategory.OUT_OF_MEMORY
    elif any(word in low for word in ("lost", "destroyed", "aborted")):
        category = FailureCategory.CRASH
    else:
        category = FailureCategory.UNSUPPORTED_OPERATOR
    return BenchmarkFailed(f"{what}: {error.kind}: {one_line(text)}", category)
