"""The platform ``qnn``: Qualcomm's Hexagon tensor processor (HTP), by onnxruntime's QNN plugin.

Owns what a Hexagon is and what only emulates one, the session without a fallback, and the reading of where nodes ran.
The package's x86-64 build carries an emulator of the HTP: it is measured as what it is, simulated. QNN's own ``cpu``
backend is no NPU and is never used. Never run on a Snapdragon by us: that part is tested against recorded replies.
onnxruntime is imported only inside functions.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hwbench_mlflow import host
from hwbench_mlflow.backends import _htp, _onnx
from hwbench_mlflow.backends._reference import (
    CHECK_DIM,
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
    Platform,
    Precision,
    SessionFacts,
    Workload,
)
from hwbench_mlflow.verdict import QNN_PROVIDER

if TYPE_CHECKING:
    from hwbench_mlflow.backends._reference import Array
    from hwbench_mlflow.backends.base import Session
    from hwbench_mlflow.workloads.base import LoadedModel

HARDWARE, EMULATOR = "htp", "htp-emulator"
EMULATION_REASON = "QNN HTP emulator on x86-64"
PACKAGES = ("onnxruntime", "onnxruntime_qnn", "onnx", "onnxscript")
QUALCOMM_VENDOR_ID = 0x4D4F4351
"""ACPI's and onnxruntime's number for Qualcomm: "QCOM", little-endian."""

EMULATED = {"backend_type": "htp", "soc_model": "60", "htp_arch": "73"}
"""Which Hexagon is emulated: v73, of the Snapdragon X Elite. Without it the emulator takes the oldest there was."""

OPTIONS = {HARDWARE: {"backend_type": "htp"}, EMULATOR: EMULATED}
NODES = ("dev/fastrpc-cdsp", "dev/fastrpc-cdsp-secure", "dev/adsprpc-smd")
MACHINES = {0x3E: "x86-64", 0xB7: "aarch64", 0x8664: "x86-64", 0xAA64: "aarch64", 0xA641: "aarch64"}
"""Machines of ELF (the first two) and of PE files."""

PRODUCT_TOLERANCE = 0.25
"""The HTP's floating point is no IEEE one: whole numbers come out a few 1e-5 off. A quarter still tells each whole
number from its neighbours."""

PRECISIONS = (Precision.FP16, Precision.INT8)
CALIBRATION_DIMS = (256, 512, 1024, 2048)
_SNAPDRAGON = "Run on a Windows PC or a Linux board with a Snapdragon"
_UNSUPPORTED = re.compile(r"type: (\w+)")


@dataclass(frozen=True, slots=True)
class Places:
    """Where a system tells of its hardware: the root of its files, and what it calls itself."""

    root: Path = field(default_factory=lambda: Path("/"))
    system: str = sys.platform

    def soc(self) -> dict[str, str]:
        """What the kernel says of the SoC (``/sys/devices/soc0``); nothing on other systems."""
        folder = self.root / "sys/devices/soc0"
        found = {}
        for name in ("vendor", "family", "machine", "soc_id", "revision"):
            with contextlib.suppress(OSError):
                found[name] = (folder / name).read_text().strip()
        return found

    def node(self) -> str | None:
        """The first FastRPC device node, by which a program reaches the Hexagon."""
        return next((f"/{name}" for name in NODES if (self.root / name).is_char_device()), None)


class QnnBackend:
    """Hexagon tensor processors, and their emulator."""

    platform: ClassVar[Platform] = Platform.QNN

    def probe(self) -> Availability:
        """What the QNN plugin lists, what the system says of a Hexagon, and a product on it."""
        import importlib.util

        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            return absent(
                AvailabilityStatus.NOT_INSTALLED,
                f"not installed: {', '.join(name.replace('_', '-') for name in missing)}",
                "pip install 'hwbench-mlflow[qnn]'",
            )
        try:
            library, version = _library()
            enumerated = _enumerate(library)
        except unloadable() as error:
            return absent(
                AvailabilityStatus.PROBE_FAILED,
                f"onnxruntime-qnn cannot be loaded: {one_line(error)}",
                "Reinstall onnxruntime-qnn",
            )
        found = find_device(enumerated, machine_of(library), version, Places())
        if isinstance(found, Availability):
            return found
        check = _check(found, library, version)
        return Availability(
            platform=self.platform,
            status=AvailabilityStatus.AVAILABLE if check.passed else AvailabilityStatus.PROBE_FAILED,
            reason=f"onnxruntime-qnn {version} ran on {found.name}" if check.passed else check.reason,
            remedy=None if check.passed else "Update the Snapdragon's NPU driver and onnxruntime-qnn",
            devices=(found,),
            checks=(check,),
        )

    @contextmanager
    def open(self, device: Device, workload: Workload, model: LoadedModel, threads: int | None) -> Iterator[Session]:
        """The exported model on that device, every node of it; what the plugin leaves to the CPU is an error."""
        known = self.probe() if device.platform is self.platform and device.id in OPTIONS else None
        if known is None or known.verified_device(device.id) != device:
            raise refuse(device, self.platform, [d.id for d in known.devices] if known is not None else [])
        if workload.precision not in PRECISIONS:
            raise BenchmarkFailed(
                f"the HTP computes in {' and in '.join(PRECISIONS)}, not in {workload.precision}",
                FailureCategory.UNSUPPORTED_OPERATOR,
                remedy="Ask for --precision fp16",
            )
        session = QnnSession(device, model=model, workload=workload, threads=threads)
        try:
            yield session
        finally:
            session.close()

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:
        """The HTP's best matrix product; None for the emulator, which has no peak that bounds anything."""
        if device.emulation_reason is not None:
            return None
        flops, dim, repeats = measure_peak(device, seconds, CALIBRATION_DIMS)
        return Calibration(
            device_id=device.id,
            device_uuid=device.uuid,
            precision=precision,
            peak_flops_per_s=flops,
            source=f"measured: QNN MatMul in fp16 on {device.id}",
            dim=dim,
            repeats=repeats,
        )


def unloadable() -> tuple[type[Exception], ...]:
    """What a plugin that is broken, or none at all, raises."""
    return (ImportError, OSError, AttributeError, *_htp.onnxruntime_errors())


def absent(status: AvailabilityStatus, reason: str, remedy: str) -> Availability:
    """A probe's answer without a device."""
    return Availability(platform=Platform.QNN, status=status, reason=reason, remedy=remedy)


def _library() -> tuple[Path, str]:
    """The plugin's file, and its version with that of QNN."""
    import onnxruntime_qnn

    path = Path(onnxruntime_qnn.get_library_path())
    if not path.is_file():
        raise OSError(f"{path} is missing")
    return path, f"{onnxruntime_qnn.__version__} (QNN {onnxruntime_qnn.build_and_package_info.qnn_version})"


def _enumerate(library: Path) -> list[Any]:
    """The plugin's devices, in onnxruntime's words. Registered once a process."""
    import onnxruntime

    def listed() -> list[Any]:
        return [each for each in onnxruntime.get_ep_devices() if each.ep_name == QNN_PROVIDER]

    if not listed():
        onnxruntime.register_execution_provider_library(QNN_PROVIDER, str(library))
    return listed()


def machine_of(library: Path) -> str:
    """What machine a library is for, from its ELF or PE header: no variable and no file of ``/dev`` changes it."""
    with library.open("rb") as file:
        head = file.read(64)
        if head[:4] == b"\x7fELF":
            code = int.from_bytes(head[18:20], "little")
        elif head[:2] == b"MZ":
            file.seek(int.from_bytes(head[60:64], "little") + 4)
            code = int.from_bytes(file.read(2), "little")
        else:
            code = 0
    return MACHINES.get(code, "an unknown machine")


def find_device(enumerated: Sequence[Any], machine: str, version: str, places: Places) -> Device | Availability:
    """The Hexagon or its emulator, or why there is neither.

    ``machine`` is that of the plugin's own library: one for x86-64 holds an emulator and can reach no Hexagon. Real
    takes an NPU of Qualcomm's in onnxruntime's list and, on Linux, the kernel's FastRPC node and SoC.
    """
    if not enumerated:
        return absent(
            AvailabilityStatus.PROBE_FAILED, "the QNN plugin lists no device at all", "Reinstall onnxruntime-qnn"
        )
    if machine == "x86-64":
        return Device(
            platform=Platform.QNN,
            id=EMULATOR,
            name=f"Hexagon v{EMULATED['htp_arch']} emulated on {host.cpu_name()}",
            vendor="Qualcomm",
            driver=f"onnxruntime-qnn {version}",
            emulation_reason=EMULATION_REASON,
            details={"library": machine} | {f"option.{key}": value for key, value in EMULATED.items()},
        )
    if machine != "aarch64":
        return absent(AvailabilityStatus.UNSUPPORTED_HOST, f"the QNN plugin is built for {machine}", _SNAPDRAGON)
    return _hexagon(enumerated, version, places)


def _hexagon(enumerated: Sequence[Any], version: str, places: Places) -> Device | Availability:
    """The Hexagon of this Arm machine, or what of it is missing."""
    soc, node, windows = places.soc(), places.node(), places.system == "win32"
    qualcomm = [each for each in enumerated if _is_qualcomm_npu(each)]
    snapdragon = windows or any("snapdragon" in soc.get(key, "").lower() for key in ("family", "machine"))
    snapdragon = snapdragon or "qualcomm" in soc.get("vendor", "").lower()
    if not snapdragon:
        said = " ".join(soc.values()) or "nothing"
        return absent(AvailabilityStatus.NO_DEVICE, f"no Snapdragon: /sys/devices/soc0 says {said}", _SNAPDRAGON)
    if not windows and node is None:
        return absent(
            AvailabilityStatus.NO_DRIVER,
            f"{soc.get('machine', 'the SoC')} has no FastRPC node (/dev/fastrpc-cdsp, /dev/adsprpc-smd)",
            "Load the fastrpc driver and the CDSP's firmware",
        )
    if not qualcomm:
        kinds = ", ".join(sorted({str(each.device.type).rpartition(".")[2] for each in enumerated}))
        return absent(
            AvailabilityStatus.NO_DRIVER if windows else AvailabilityStatus.NO_DEVICE,
            f"the QNN plugin lists no NPU of Qualcomm's, but {kinds}",
            "Install Qualcomm's NPU driver and onnxruntime-qnn's build for this system",
        )
    metadata = {str(key): str(value) for key, value in dict(qualcomm[0].device.metadata).items()}
    name = soc.get("machine") or metadata.get("Description") or "Qualcomm NPU"
    details = {"library": "aarch64"} | {f"soc.{key}": value for key, value in soc.items()}
    details |= {f"device.{key}": value for key, value in metadata.items()}
    if node is not None:
        details["fastrpc"] = node
    return Device(
        platform=Platform.QNN,
        id=HARDWARE,
        name=f"{name} Hexagon",
        vendor="Qualcomm",
        driver=f"onnxruntime-qnn {version}",
        details=details,
    )


def _is_qualcomm_npu(enumerated: Any) -> bool:
    device = enumerated.device
    named = "qualcomm" in str(device.vendor).lower() or device.vendor_id == QUALCOMM_VENDOR_ID
    return named and str(device.type).rpartition(".")[2] == "NPU"


def _devices_for(device: Device, enumerated: Sequence[Any]) -> list[Any]:
    """What a session is bound to: the NPU, or for the emulator the plugin's one device, which it calls a CPU."""
    if device.id == EMULATOR:
        return list(enumerated[:1])
    return [each for each in enumerated if _is_qualcomm_npu(each)][:1]


def _check(device: Device, library: Path, version: str) -> DeviceCheck:
    """The probe's product, every node on the QNN provider, and the device enumerated again."""
    import numpy as np

    a, b, reference = check_matrices()
    feeds = {"a": np.array(a, np.float32), "b": np.array(b, np.float32)}
    with tempfile.TemporaryDirectory(prefix="hwbench-") as folder:
        try:
            with _Profiled(device, _onnx.product(Path(folder), CHECK_DIM), 1, Path(folder)) as opened:
                observed = opened.session.run(["c"], feeds)[0].tolist()
                placed = opened.placement()
        except BenchmarkFailed as error:
            return failed_check(device.id, str(error.args[0]))
    if set(placed) != {QNN_PROVIDER}:
        return failed_check(device.id, f"the product ran on {', '.join(placed) or 'nothing that is known'}")
    again = find_device(_enumerate(library), machine_of(library), version, Places())
    identity = again.name if isinstance(again, Device) else again.reason
    return judge_product(
        device.id, observed, reference, identity=identity, enumerated=device.name, tolerance=PRODUCT_TOLERANCE
    )


class _Profiled:
    """An onnxruntime session on that device and nowhere else. It profiles until its placement is read."""

    def __init__(self, device: Device, path: Path, threads: int, folder: Path) -> None:
        import onnxruntime

        library, _ = _library()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.add_provider_for_devices(_devices_for(device, _enumerate(library)), OPTIONS[device.id])
        said: list[str] = []
        onnxruntime.set_default_logger_callback(lambda *words: said.append(str(words[-1])))
        try:
            self.session = onnxruntime.InferenceSession(str(path), options)
        except _htp.onnxruntime_errors() as error:
            raise translate(str(error), said) from error
        finally:
            onnxruntime.set_default_logger_callback(None)
        self._profiling = True

    def __enter__(self) -> _Profiled:
        return self

    def __exit__(self, *_: object) -> None:
        if self._profiling:
            self.session.end_profiling()

    def placement(self) -> dict[str, int]:
        """Nodes that ran so far, by provider; profiling ends with it."""
        self._profiling = False
        profile = Path(self.session.end_profiling())
        events = json.loads(profile.read_text(encoding="utf-8"))
        profile.unlink()
        return placement(events)


def placement(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Nodes by execution provider, from onnxruntime's profile. What a session's list of providers says is no evidence:
    it names those that ran nothing too."""
    ran = {
        (str(event["args"]["provider"]), str(event["name"]))
        for event in events
        if event.get("cat") == "Node" and "provider" in event.get("args", {})
    }
    return dict(Counter(provider for provider, _ in ran))


def translate(error: str, said: Sequence[str] = ()) -> BenchmarkFailed:
    """onnxruntime's error in hwbench's words; ``said`` is what it logged on the way."""
    everything = " ".join([error, *said])
    lacking = list(
        dict.fromkeys(name for line in said if "Unsupported nodes" in line for name in _UNSUPPORTED.findall(line))
    )
    if "MEM_ALLOC" in everything or "bad_alloc" in everything or "out of memory" in everything.lower():
        return BenchmarkFailed(f"QNN ran out of memory: {one_line(error)}", FailureCategory.OUT_OF_MEMORY)
    if lacking:
        return BenchmarkFailed(
            f"QNN lacks an operator of this model: {', '.join(lacking)}", FailureCategory.UNSUPPORTED_OPERATOR
        )
    if "fallback to CPU EP has been explicitly disabled" in error:
        why = next((line for line in said if "QNN" in line), "no reason was given")
        return BenchmarkFailed(
            f"QNN would leave nodes of this model to the CPU: {one_line(why)}", FailureCategory.FALLBACK_DETECTED
        )
    return BenchmarkFailed(f"QNN cannot run the model: {one_line(error)}", FailureCategory.UNSUPPORTED_OPERATOR)


class QnnSession:
    """A model on the HTP. A run returns when its outputs are in host memory."""

    def __init__(self, device: Device, *, model: LoadedModel, workload: Workload, threads: int | None) -> None:
        self._device = device
        self._workload = workload
        self._threads = threads or 1
        self._spec = sized_spec(model.input_spec, workload.batch_size)
        self._names = model.output_names
        begin = time.perf_counter_ns()
        prepared = _htp.prepare(_onnx.export(model, workload), workload.precision)
        self._graph = prepared.model
        self._effective = effective_precision(workload.precision, prepared)
        self._load_ns = time.perf_counter_ns() - begin
        self._outputs = list(self._graph.outputs)
        self._staged: list[dict[str, Array]] = []
        with tempfile.TemporaryDirectory(prefix="hwbench-") as folder:
            begin = time.perf_counter_ns()
            with _Profiled(device, self._graph.path, self._threads, Path(folder)) as opened:
                self._compile_ns = time.perf_counter_ns() - begin
                self._session: Any = opened.session
                self._profiled_run(opened)
        self._refuse_fallback()
        self._prepared = prepared
        self.properties = {
            "onnx.sha256": self._graph.sha256,
            "onnx.opset": str(_onnx.OPSET),
            "onnx.inputs_omitted": ", ".join(f"{name} (all ones)" for name in self._graph.omitted),
            "inputs": "token ids as int64, looked up on the device" if self._takes_tokens() else "as they are",
            "arithmetic": "the HTP's fp16 for fp32 graphs" if self._effective is Precision.FP16 else _htp.QUANTISATION,
            "threads": "of onnxruntime's own part; the HTP and its emulator choose theirs",
        } | {f"option.{key}": value for key, value in OPTIONS[device.id].items()}

    def _takes_tokens(self) -> bool:
        return any(item.kind == "token" for item in self._graph.inputs)

    def _profiled_run(self, opened: _Profiled) -> None:
        """One inference on examples with onnxruntime's profile; the session is the one that will be timed."""
        examples = example_arrays(self._graph.inputs)
        begin = time.perf_counter_ns()
        try:
            self._session.run(self._outputs, examples)
        except _htp.onnxruntime_errors() as error:
            raise translate(str(error)) from error
        self._profiled_ns = time.perf_counter_ns() - begin
        self._placement = opened.placement()

    def _refuse_fallback(self) -> None:
        elsewhere = {name: count for name, count in self._placement.items() if name != QNN_PROVIDER}
        if elsewhere or not self._placement.get(QNN_PROVIDER):
            listed = ", ".join(f"{count} on {name}" for name, count in elsewhere.items()) or "none was seen to run"
            raise BenchmarkFailed(
                f"not all of the model's nodes ran on QNN: {listed}", FailureCategory.FALLBACK_DETECTED
            )

    def stage(self, slots: Sequence[Mapping[str, Array]]) -> None:
        """Keep copies of the input sets. A mask that was left out must be what it was left out as."""
        check_slots(self._spec, slots)
        for slot in slots:
            for name in self._graph.omitted:
                if not (slot[name] == 1).all():
                    raise BenchmarkFailed(f"the input {name} is not all ones", FailureCategory.USAGE)
        taken = [item.name for item in self._graph.inputs]
        self._staged = [{name: slot[name].copy() for name in taken} for slot in slots]

    def run(self, slot: int) -> object:
        """One inference, finished."""
        if self._session is None:
            raise BenchmarkFailed("the session is closed", FailureCategory.USAGE)
        try:
            return self._session.run(self._outputs, self._staged[slot])
        except _htp.onnxruntime_errors() as error:
            raise translate(str(error)) from error

    def synchronize(self) -> None:
        """Nothing is ever pending: a run ends with its outputs."""

    def fetch(self, output: object) -> dict[str, Array]:
        """The compared outputs, as float32."""
        import numpy as np

        if not isinstance(output, list):
            raise TypeError("fetch takes what run returned")
        return {name: np.asarray(array, np.float32) for name, array in zip(self._names, output, strict=False)}

    def facts(self) -> SessionFacts:
        """The precision is the HTP's, or that of the quantised graph."""
        return SessionFacts(
            device=self._device,
            effective_precision=self._effective,
            threads=self._threads,
            load_ns=self._load_ns,
            compile_ns=self._compile_ns,
            properties=self.properties,
        )

    def witness_begin(self) -> None:
        """Nothing is read as a difference."""

    def witness_end(self, wall_ns: int, process_cpu_ns: int, run_delay_ns: int | None) -> ExecutionWitness:
        """Where the nodes of this session ran, by its profile from before the window."""
        compute, quantised = self._prepared.compute_nodes, self._prepared.quantised_nodes
        by_precision = {str(Precision.INT8): quantised, str(Precision.FP16): compute - quantised}
        return ExecutionWitness(
            wall_ns=wall_ns,
            process_cpu_ns=process_cpu_ns,
            run_delay_ns=run_delay_ns,
            threads=self._threads,
            kernel_count=self._placement.get(QNN_PROVIDER, 0),
            device_identity=self._device.name,
            executed_precisions={name: count for name, count in by_precision.items() if count},
            placement=self._placement,
            properties={"profiled_run_ns": str(self._profiled_ns)},
        )

    def close(self) -> None:
        """Give the device back; a later run fails."""
        self._session = None


def effective_precision(asked: Precision, prepared: _htp.HtpGraph) -> Precision:
    """What the graph computes in. Asked for int8, each node that computes has to take integers."""
    if asked is not Precision.INT8:
        return Precision.FP16
    if not prepared.compute_nodes or prepared.quantised_nodes != prepared.compute_nodes:
        raise BenchmarkFailed(
            f"only {prepared.quantised_nodes} of {prepared.compute_nodes} products could be quantised",
            FailureCategory.UNSUPPORTED_OPERATOR,
            remedy="Ask for --precision fp16",
        )
    return Precision.INT8


def measure_peak(device: Device, seconds: float, dims: Sequence[int]) -> tuple[float, int, int]:
    """The best FLOP/s of square products on the device: (FLOP/s, dimension, repeats)."""
    import numpy as np

    best = (0.0, dims[0], 0)
    for dim in dims:
        with tempfile.TemporaryDirectory(prefix="hwbench-") as folder:
            draw = np.random.default_rng(0)
            feeds = {name: draw.standard_normal((dim, dim), dtype=np.float32) for name in "ab"}
            with _Profiled(device, _onnx.product(Path(folder), dim), 1, Path(folder)) as opened:
                opened.session.run(["c"], feeds)
                if set(opened.placement()) != {QNN_PROVIDER}:
                    raise BenchmarkFailed("the product did not run on QNN", FailureCategory.FALLBACK_DETECTED)
                repeats, fastest_ns = 0, 0
                deadline = time.perf_counter_ns() + int(seconds / len(dims) * 1e9)
                while repeats < 3 or time.perf_counter_ns() < deadline:
                    begin = time.perf_counter_ns()
                    opened.session.run(["c"], feeds)
                    took = time.perf_counter_ns() - begin
                    fastest_ns = min(fastest_ns or took, took)
                    repeats += 1
        best = max(best, (2 * dim**3 / fastest_ns * 1e9, dim, repeats))
    return best
