"""The platform ``openvino``: Intel's runtime on each concrete device it lists (CPU, GPU.0, NPU).

Owns enumeration, conversion, compilation and the runtime's own account of where it ran. Virtual
devices (AUTO, HETERO, MULTI, BATCH) choose for themselves and are never used. Imports openvino and
torch only inside functions.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hwbench_mlflow import host
from hwbench_mlflow.backends._reference import (
    check_matrices,
    check_slots,
    example_arrays,
    failed_check,
    judge_product,
    one_line,
    refuse,
    sized_spec,
)
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import (
    Availability,
    AvailabilityStatus,
    Calibration,
    Device,
    DeviceCheck,
    ExecutionWitness,
    FailureCategory,
    Phase,
    Platform,
    Precision,
    Scenario,
    SessionFacts,
    Workload,
)

if TYPE_CHECKING:
    import torch

    from hwbench_mlflow.backends._reference import Array
    from hwbench_mlflow.backends.base import Session
    from hwbench_mlflow.workloads.base import LoadedModel

PRECISION_HINTS = {Precision.FP32: "f32", Precision.BF16: "bf16", Precision.FP16: "f16"}
COMPUTE_LAYERS = frozenset(
    {
        "FullyConnected",
        "MatMul",
        "Convolution",
        "Deconvolution",
        "ScaledDotProductAttention",
        "MHA",
        "LSTMCell",
        "RNNSeq",
    }
)
"""Node types whose arithmetic decides the effective precision."""


class OpenvinoBackend:
    """OpenVINO on explicit devices."""

    platform: ClassVar[Platform] = Platform.OPENVINO
    converts: ClassVar[bool] = True
    writes: ClassVar[bool] = True

    def probe(self) -> Availability:
        """Compile a product to each device the runtime lists, run it, and read back where it ran."""
        try:
            import openvino as ov
        except ModuleNotFoundError as error:
            return Availability(
                platform=self.platform,
                status=AvailabilityStatus.NOT_INSTALLED,
                reason=f"openvino cannot be imported: no module named {error.name!r}",
                remedy="pip install openvino",
            )
        core = ov.Core()
        absent = {kind: reason for kind in ("GPU", "NPU") if (reason := why_absent(core, kind)) is not None}
        devices = tuple(describe_device(core, name, absent) for name in concrete_devices(core))
        if not devices:
            return Availability(
                platform=self.platform,
                status=AvailabilityStatus.NO_DEVICE,
                reason="openvino lists no device; " + "; ".join(absent.values()),
                remedy="Install an OpenVINO build whose plugins match this machine",
            )
        checks = tuple(check_device(core, device) for device in devices)
        passed = [check.device_id for check in checks if check.passed]
        notes = "".join(f"; no {kind}: {reason}" for kind, reason in absent.items())
        if not passed:
            return Availability(
                platform=self.platform,
                status=AvailabilityStatus.PROBE_FAILED,
                reason="; ".join(f"{c.device_id}: {c.reason}" for c in checks) + notes,
                remedy="Reinstall openvino, or the driver of the device that failed",
                devices=devices,
                checks=checks,
            )
        return Availability(
            platform=self.platform,
            status=AvailabilityStatus.AVAILABLE,
            reason=f"openvino {ov.__version__.partition('-')[0]} ran on {', '.join(passed)}{notes}",
            devices=devices,
            checks=checks,
        )

    @contextmanager
    def open(self, device: Device, workload: Workload, model: LoadedModel, threads: int | None) -> Iterator[Session]:
        """Convert the torch module and compile it for exactly this device and precision."""
        import openvino as ov

        core = ov.Core()
        known = concrete_devices(core)
        if device.platform is not self.platform or device.id not in known:
            raise refuse(device, self.platform, known)
        require_precision(core, device.id, workload.precision)
        from hwbench_mlflow.backends._openvino_writing import WriterSession, convert_writer

        begin = time.perf_counter_ns()
        if writes := workload.phase is not Phase.FORWARD:
            graph, kept = convert_writer(model, workload), model.output_names
        else:
            graph, kept = convert(model, workload)
        load_ns = time.perf_counter_ns() - begin
        session = (WriterSession if writes else OpenvinoSession)(
            core,
            graph,
            device=describe_device(core, device.id, {}),
            workload=workload,
            model=model,
            threads=threads,
            load_ns=load_ns,
        )
        session.properties["outputs"] = ",".join(kept)
        try:
            yield session
        finally:
            session.close()

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:
        """The CPU's peak, by torch: an upper bound that does not rest on OpenVINO. None for GPU and NPU."""
        if device.id != "CPU":
            return None
        from hwbench_mlflow.backends.cpu import calibrate_cpu

        return calibrate_cpu(device, precision, seconds)


def concrete_devices(core: Any) -> list[str]:
    """What the runtime lists, less virtual devices."""
    return [name for name in core.available_devices if name.partition(".")[0] in ("CPU", "GPU", "NPU")]


def canonical(name: str) -> str:
    """``GPU`` and ``GPU.0`` name the same device."""
    return name.removesuffix(".0")


def why_absent(core: Any, kind: str) -> str | None:
    """Why a plugin that OpenVINO ships has no device here; None if it has one.

    The plugins are installed everywhere, so their presence says nothing.
    """
    if any(name.partition(".")[0] == kind for name in core.available_devices):
        return None
    try:
        core.get_property(kind, "AVAILABLE_DEVICES")
    except RuntimeError as error:
        if "libOpenCL" in str(error):
            return "no driver: libOpenCL.so.1 is missing"
        if "cannot open shared object" in str(error) or "Cannot load library" in str(error):
            return f"no driver: {one_line(error)}"
    nodes = {"GPU": ("/dev/dri", "renderD*"), "NPU": ("/dev/accel", "accel*")}
    directory, pattern = nodes[kind]
    if not any(Path(directory).glob(pattern)):
        return f"no device node {directory}/{pattern}"
    return f"{directory}/{pattern} is there, but the plugin lists no device"


def read_property(holder: Any, name: str, *device: str) -> str | None:
    """A property as text; None where this plugin does not have or cannot convert it."""
    try:
        return str(holder.get_property(*device, name))
    except (RuntimeError, TypeError):  # pybind raises TypeError for values without a Python type
        return None


def describe_device(core: Any, name: str, absent: Mapping[str, str]) -> Device:
    """Identity as the plugin gives it. ``absent`` (why no GPU, no NPU) is noted on the CPU."""
    kind = name.partition(".")[0]
    facts = {
        "architecture": read_property(core, "DEVICE_ARCHITECTURE", name),
        "capabilities": read_property(core, "OPTIMIZATION_CAPABILITIES", name),
    }
    if kind == "CPU":
        facts |= {f"absent.{other}": reason for other, reason in absent.items()}
    memory = read_property(core, "GPU_DEVICE_TOTAL_MEM_SIZE", name) if kind == "GPU" else None
    return Device(
        platform=Platform.OPENVINO,
        id=name,
        name=(read_property(core, "FULL_DEVICE_NAME", name) or name).strip(),
        vendor=host.cpu_vendor() if kind == "CPU" else "Intel",
        uuid=read_property(core, "DEVICE_UUID", name) if kind != "CPU" else None,
        pci_id=read_property(core, "DEVICE_PCI_INFO", name) if kind != "CPU" else None,
        driver=read_property(core, "NPU_DRIVER_VERSION", name) if kind == "NPU" else None,
        memory_bytes=int(memory) if memory and memory.isdigit() else None,
        emulation_reason=host.cpu_emulation_reason() if kind == "CPU" else None,
        details={key: value for key, value in facts.items() if value is not None},
    )


def check_device(core: Any, device: Device) -> DeviceCheck:
    """The probe's product, compiled in fp32 to this device alone."""
    import numpy as np
    import openvino as ov
    from openvino import opset13

    a, b, reference = check_matrices()
    shape = [len(a), len(a)]
    left, right = (opset13.parameter(shape, np.float32) for _ in range(2))
    graph = ov.Model([opset13.matmul(left, right, False, False)], [left, right], "check")
    try:
        compiled = core.compile_model(graph, device.id, {"INFERENCE_PRECISION_HINT": "f32"})
        result = compiled([np.array(a, dtype=np.float32), np.array(b, dtype=np.float32)])[0]
        where = [str(name) for name in compiled.get_property("EXECUTION_DEVICES")]
        name = (read_property(core, "FULL_DEVICE_NAME", device.id) or device.id).strip()
    except RuntimeError as error:
        return failed_check(device.id, one_line(error))
    if [canonical(each) for each in where] != [canonical(device.id)]:
        return failed_check(device.id, f"the product ran on {where}")
    return judge_product(device.id, result.tolist(), reference, identity=name, enumerated=device.name)


def require_precision(core: Any, device_id: str, precision: Precision) -> None:
    """Refuse what the device lacks: asked for f16, the CPU plugin takes bf16 without a word. Its INT8 is for graphs
    that are quantised, and these are not."""
    if precision not in PRECISION_HINTS:
        raise BenchmarkFailed(
            f"openvino computes in {', '.join(PRECISION_HINTS)} here, not in {precision}",
            FailureCategory.UNSUPPORTED_OPERATOR,
            remedy="Ask for --precision fp32, or for --hardware qnn",
        )
    capabilities = [str(c) for c in core.get_property(device_id, "OPTIMIZATION_CAPABILITIES")]
    if precision.value.upper() not in capabilities:
        raise BenchmarkFailed(
            f"openvino's {device_id} cannot compute in {precision} (it can: {', '.join(capabilities)})",
            FailureCategory.UNSUPPORTED_OPERATOR,
            remedy="Ask for --precision fp32",
        )


def convert(model: LoadedModel, workload: Workload) -> tuple[Any, tuple[str, ...]]:
    """The module as a static-shape graph, and the names of its outputs in order.

    Every tensor that the module returns stays an output, the compared ones first, so that no part of
    the model's work is pruned; only caches (not tensors) are dropped.
    """
    import torch

    spec = sized_spec(model.input_spec, workload.batch_size)
    example = tuple(torch.from_numpy(array) for array in example_arrays(spec).values())
    positional = _positional(model.module, [item.name for item in spec], model.output_names)
    graph = converted(positional, example, [list(item.shape) for item in spec])
    shapes = [tuple(port.shape) for port in graph.inputs]
    if shapes != [item.shape for item in spec]:
        raise BenchmarkFailed(
            f"openvino's graph takes {shapes}, the model {[item.shape for item in spec]}",
            FailureCategory.UNSUPPORTED_OPERATOR,
        )
    return graph, tuple(positional.kept)


def converted(module: torch.nn.Module, example: tuple[torch.Tensor, ...], shapes: list[list[int]]) -> Any:
    """A module with positional inputs as a graph that takes those shapes (-1: any). Raises BenchmarkFailed."""
    import openvino as ov
    import torch
    from openvino import frontend
    from torch.jit._trace import TracerWarning

    with warnings.catch_warnings(), torch.no_grad():
        # The converter traces with what torch deprecates; shapes are static, so what the tracer fixes
        # as constant is constant. The output check is what catches a wrong trace.
        for category in (DeprecationWarning, FutureWarning, TracerWarning):
            warnings.simplefilter("ignore", category)
        try:
            return ov.convert_model(module, example_input=example, input=shapes)
        except (
            RuntimeError,
            frontend.GeneralFailure,
            frontend.NotImplementedFailure,
            frontend.OpConversionFailure,
            frontend.OpValidationFailure,
        ) as error:
            raise BenchmarkFailed(
                f"openvino cannot convert the model: {one_line(_cause(str(error)))}",
                FailureCategory.UNSUPPORTED_OPERATOR,
            ) from error


def _cause(text: str) -> str:
    """Of a failed trace, the exception that stopped it; the converter's advice around it is for who wrote the model."""
    _, _, inner = text.partition("Exception:")
    return inner.partition("Please check correctness")[0].strip() or text


def _positional(module: torch.nn.Module, names: Sequence[str], outputs: Sequence[str]) -> Any:
    """The module with positional inputs and a flat tuple of tensors, as the tracer wants it."""
    import torch

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module
            self.kept: list[str] = []

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            result = self.module(**dict(zip(names, tensors, strict=True)))
            others = [key for key in result if key not in outputs and isinstance(result[key], torch.Tensor)]
            self.kept = [*outputs, *others]
            return tuple(result[key] for key in self.kept)

    return Positional().eval()


def compile_config(device_id: str, workload: Workload, threads: int | None) -> dict[str, str]:
    """What is asked of the compiler: explicit precision, a hint for the scenario, no virtual batching."""
    hint = "THROUGHPUT" if workload.scenario is Scenario.OFFLINE else "LATENCY"
    config = {"INFERENCE_PRECISION_HINT": PRECISION_HINTS[workload.precision], "PERFORMANCE_HINT": hint}
    if device_id == "CPU":
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(threads)
    elif device_id.startswith("GPU"):
        config["ALLOW_AUTO_BATCHING"] = "NO"
    return config


def effective_precision(hint: str, compute_precisions: Iterable[str]) -> Precision:
    """The precision in force: the compiled hint, unless the planned compute nodes say otherwise.

    fp32 asked for and any compute node lower: the lower one. A lower one asked for and no compute
    node in it: fp32.
    """
    by_type = {"float32": Precision.FP32, "bfloat16": Precision.BF16, "float16": Precision.FP16}
    named = next((precision for name, precision in by_type.items() if f"'{name}'" in hint), None)
    if named is None:
        raise BenchmarkFailed(f"openvino reports the precision {hint}", FailureCategory.WRONG_OUTPUT)
    planned = set(compute_precisions)
    if named is Precision.FP32:
        lowered = [p for p, text in PRECISION_HINTS.items() if p is not Precision.FP32 and text in planned]
        return lowered[0] if lowered else named
    return named if not planned or PRECISION_HINTS[named] in planned else Precision.FP32


class OpenvinoSession:
    """A compiled model. Each slot has its own bound input and output tensors, so nothing is copied
    while the clock runs; ``run`` returns the slot's outputs, which its next run overwrites."""

    def __init__(
        self,
        core: Any,
        graph: Any,
        *,
        device: Device,
        workload: Workload,
        model: LoadedModel,
        threads: int | None,
        load_ns: int,
    ) -> None:
        self._core = core
        self._graph = graph
        self._device = device
        self._output_names = model.output_names
        self._spec = sized_spec(model.input_spec, workload.batch_size)
        self._config = compile_config(device.id, workload, threads)
        self._load_ns = load_ns
        begin = time.perf_counter_ns()
        self._compiled = self._compile({})
        self._compile_ns = time.perf_counter_ns() - begin
        self._offline = workload.scenario is Scenario.OFFLINE
        self._queue = self._make_queue() if self._offline else None
        self._requests: list[Any] = []
        self._inputs: list[list[Any]] = []
        self._outputs: list[list[Any]] = []
        self._open = True
        self.properties = self._read_properties()
        self.execution_devices()

    def _compile(self, extra: dict[str, str]) -> Any:
        try:
            return self._core.compile_model(self._graph, self._device.id, self._config | extra)
        except RuntimeError as error:
            raise translate(error, "openvino cannot compile the model") from error

    def _make_queue(self) -> Any:
        import openvino as ov

        return ov.AsyncInferQueue(self._compiled)

    def _read_properties(self) -> dict[str, str]:
        names = [str(name) for name in self._compiled.get_property("SUPPORTED_PROPERTIES")]
        read = {name: read_property(self._compiled, name) for name in names if name != "SUPPORTED_PROPERTIES"}
        found = {f"openvino.{name}": value for name, value in read.items() if value is not None}
        if self._queue is not None:
            found["openvino.async_requests"] = str(len(self._queue))
        return found

    def execution_devices(self) -> tuple[str, ...]:
        """Where the compiled model executes. Raises if that is not the device asked for."""
        where = tuple(str(name) for name in self._compiled.get_property("EXECUTION_DEVICES"))
        if [canonical(name) for name in where] != [canonical(self._device.id)]:
            raise BenchmarkFailed(
                f"openvino executes on {', '.join(where) or 'nothing'}, not on {self._device.id}",
                FailureCategory.FALLBACK_DETECTED,
            )
        return where

    def stage(self, slots: Sequence[Mapping[str, Array]]) -> None:
        """Bind the input sets, and an output buffer for each."""
        import numpy as np
        import openvino as ov

        check_slots(self._spec, slots)
        self.synchronize()
        types = [port.element_type.to_dtype() for port in self._compiled.inputs]
        self._inputs = [
            [ov.Tensor(slot[item.name].astype(dtype)) for item, dtype in zip(self._spec, types, strict=True)]
            for slot in slots
        ]
        self._outputs = [
            [ov.Tensor(np.zeros(tuple(port.shape), port.element_type.to_dtype())) for port in self._compiled.outputs]
            for _ in slots
        ]
        # One stream runs one request at a time; a request per slot saves rebinding tensors in the loop.
        self._requests = [] if self._offline else [self._bind(slot) for slot in range(len(slots))]

    def _bind(self, slot: int) -> Any:
        request = self._compiled.create_infer_request()
        self._set_tensors(request, slot)
        return request

    def _set_tensors(self, request: Any, slot: int) -> None:
        for index, tensor in enumerate(self._inputs[slot]):
            request.set_input_tensor(index, tensor)
        for index, tensor in enumerate(self._outputs[slot]):
            request.set_output_tensor(index, tensor)

    def run(self, slot: int) -> object:
        """Latency: one inference, finished. Offline: one inference submitted, once a request is idle."""
        try:
            if self._queue is None:
                self._requests[slot].infer(share_outputs=True)
            else:
                self._set_tensors(self._queue[self._queue.get_idle_request_id()], slot)
                self._queue.start_async()
            return self._outputs[slot]
        except RuntimeError as error:
            raise translate(error, "openvino failed to run") from error
        except IndexError:
            if not self._open:
                raise BenchmarkFailed("the session is closed", FailureCategory.USAGE) from None
            raise

    def synchronize(self) -> None:
        """Wait for every submitted request; a failed one raises here."""
        if self._queue is None:
            return
        try:
            self._queue.wait_all()
        except RuntimeError as error:
            raise translate(error, "openvino failed to run") from error

    def fetch(self, output: object) -> dict[str, Array]:
        """Copies of the slot's last outputs, after everything submitted has finished."""
        import numpy as np

        self.synchronize()
        if not isinstance(output, list):
            raise TypeError("fetch takes what run returned")
        # The compared outputs come first in the graph: see convert.
        return {
            name: np.array(tensor.data, dtype=np.float32)
            for name, tensor in zip(self._output_names, output, strict=False)
        }

    def facts(self) -> SessionFacts:
        """Device, precision and threads as the compiled model reports them."""
        hint = repr(self._compiled.get_property("INFERENCE_PRECISION_HINT"))
        nodes = [runtime_info(op) for op in self._compiled.get_runtime_model().get_ops()]
        compute = [node["runtimePrecision"] for node in nodes if node.get("layerType") in COMPUTE_LAYERS]
        self.execution_devices()
        threads = self.properties.get("openvino.INFERENCE_NUM_THREADS")
        return SessionFacts(
            device=self._device,
            effective_precision=effective_precision(hint, compute),
            threads=int(threads) if threads else 1,
            load_ns=self._load_ns,
            compile_ns=self._compile_ns,
            properties=self.properties
            | {f"planned.{precision}": str(count) for precision, count in Counter(compute).items()},
        )

    def witness_begin(self) -> None:
        """The runtime keeps no counters over a window."""

    def witness_end(self, wall_ns: int, process_cpu_ns: int, run_delay_ns: int | None) -> ExecutionWitness:
        """Where it executed, and what one further inference with performance counters executed.

        The counters are off while time is taken; the profiled pass is a second compilation with the
        same configuration plus ``PERF_COUNT``.
        """
        nodes, pass_wall_ns = self._profiled_nodes()
        return ExecutionWitness(
            wall_ns=wall_ns,
            process_cpu_ns=process_cpu_ns,
            run_delay_ns=run_delay_ns,
            threads=self.facts().threads,
            kernel_count=len(nodes),
            kernel_busy_ns=sum(int(node.real_time.total_seconds() * 1e9) for node in nodes),
            kernel_wall_ns=pass_wall_ns,
            kernel_names=tuple(name for name, _ in Counter(node.exec_type for node in nodes).most_common(8)),
            device_identity=(read_property(self._core, "FULL_DEVICE_NAME", self._device.id) or "").strip() or None,
            execution_devices=self.execution_devices(),
            executed_node_types=dict(Counter(node.node_type for node in nodes)),
            # exec_type ends in the precision it computed in: brgemm_avx512_bf16
            executed_precisions=dict(Counter(node.exec_type.rpartition("_")[2] for node in nodes)),
            properties=self.properties,
        )

    def _profiled_nodes(self) -> tuple[list[Any], int]:
        """The nodes that one inference executed, with the runtime's own times, and its wall time."""
        if not self._inputs:
            raise BenchmarkFailed("nothing is staged to witness", FailureCategory.USAGE)
        request = self._compile({"PERF_COUNT": "YES"}).create_infer_request()
        for index, tensor in enumerate(self._inputs[0]):
            request.set_input_tensor(index, tensor)
        try:
            # Exactly one: the runtime reports each node's mean over all inferences, and only the sum over
            # one inference is bounded by that inference's wall time.
            begin = time.perf_counter_ns()
            request.infer(share_outputs=True)
            pass_wall_ns = time.perf_counter_ns() - begin
        except RuntimeError as error:
            raise translate(error, "openvino failed to run") from error
        executed = [node for node in request.profiling_info if node.status == node.Status.EXECUTED]
        return executed, pass_wall_ns

    def close(self) -> None:
        """Wait for what is under way, and let go; a later run fails."""
        with contextlib.suppress(BenchmarkFailed):  # what failed was raised when it was waited for
            self.synchronize()
        self._open = False
        self._queue, self._requests, self._inputs, self._outputs = None, [], [], []


def runtime_info(operation: Any) -> dict[str, str]:
    """A compiled node's ``rt_info`` as text: layerType, primitiveType, runtimePrecision, ..."""
    return {
        key: str(value.value if hasattr(value, "value") else value) for key, value in operation.get_rt_info().items()
    }


def translate(error: RuntimeError, what: str) -> BenchmarkFailed:
    """An OpenVINO error in hwbench's words."""
    text = one_line(error)
    memory = ("out of memory", "out_of_memory", "bad_alloc", "out_of_resources", "allocat")
    short = any(word in text.lower() for word in memory)
    category = FailureCategory.OUT_OF_MEMORY if short else FailureCategory.UNSUPPORTED_OPERATOR
    return BenchmarkFailed(f"{what}: {text}", category)
