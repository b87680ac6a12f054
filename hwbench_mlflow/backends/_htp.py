"""An exported model as Qualcomm's HTP takes it: folded, in shapes that it computes right, and quantised where asked.

Owns what is changed of the graph, and why. onnx and onnxruntime are imported only inside functions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.backends._onnx import OnnxModel, cached
from hwbench_mlflow.backends._reference import one_line
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import FailureCategory, OutputCheck, Precision
from hwbench_mlflow.verdict import OUTPUT_TOLERANCE, output_error
from hwbench_mlflow.workloads.challenge import make_inputs, sample_output

if TYPE_CHECKING:
    from hwbench_mlflow.backends._reference import Array
    from hwbench_mlflow.workloads.base import InputSpec

RECIPE = 2
"""Changed whenever the same export would become another graph: it is part of the cache's key."""

CALIBRATION_SETS = 8
CALIBRATION_NONCE = "hwbench calibration"
"""The input sets by which the ranges of activations are found: seeded, and none of any run's challenge."""

LOSS_SETS = 3
"""How many more are looked at for what quantisation costs."""

COMPUTE = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
"""Operators whose arithmetic decides the effective precision."""

QUANTISATION = f"static QDQ, uint8 activations and weights, ranges (min-max) of {CALIBRATION_SETS} seeded input sets"


@dataclass(frozen=True, slots=True)
class HtpGraph:
    """The graph to run. ``compute_nodes`` are those of :data:`COMPUTE`, ``quantised_nodes`` the ones of them whose
    inputs are all dequantised from integers."""

    model: OnnxModel
    compute_nodes: int
    quantised_nodes: int


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: classes of its own, that have no base but ``Exception``; and its Python parts."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (
        "DeviceReset", "EngineError", "EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf",
        "ModelLoadCanceled", "ModelLoaded", "ModelRequiresCompilation", "NoModel", "NoSuchFile", "NotFound",
        "NotImplemented", "RuntimeException",
    )  # fmt: skip
    return (
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        *(getattr(state, name) for name in own if hasattr(state, name)),
    )


def prepare(exported: OnnxModel, precision: Precision, cache: Path | None = None) -> HtpGraph:
    """The exported model for the HTP, from the cache where it is there.

    Raises :class:`BenchmarkFailed` (``unsupported_operator``) for a model that cannot be prepared.
    """
    import onnxruntime

    quantised = precision is Precision.INT8
    key = hashlib.sha256(
        json.dumps([RECIPE, onnxruntime.__version__, exported.sha256, quantised, QUANTISATION]).encode()
    ).hexdigest()

    def write(target: Path) -> Sequence[str]:
        with tempfile.TemporaryDirectory(prefix="hwbench-") as folder:
            try:
                made = _fold(exported.path, Path(folder))
                if quantised:
                    with _quiet():
                        made = _quantise(made, exported.inputs, Path(folder))
                    _refuse_loss(made, exported)
            except onnxruntime_errors() as error:
                raise BenchmarkFailed(
                    f"the graph cannot be prepared for the HTP: {one_line(error)}", FailureCategory.UNSUPPORTED_OPERATOR
                ) from error
            part = target.with_suffix(".part")
            part.write_bytes(made.read_bytes())
            part.replace(target)
        return exported.outputs

    path, digest, _ = cached(key, write, cache)
    compute, from_integers = _count(path)
    return HtpGraph(
        model=replace(exported, path=path, sha256=digest), compute_nodes=compute, quantised_nodes=from_integers
    )


def _fold(source: Path, folder: Path) -> Path:
    """Constants folded by onnxruntime, without anything that belongs to one provider; then :func:`_whole_batch`."""
    import onnx
    import onnxruntime

    target = folder / "folded.onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    model = onnx.shape_inference.infer_shapes(onnx.load(target))
    _whole_batch(model)
    _unshare(model)
    _unused(model)
    onnx.save(model, target)
    return target


def _whole_batch(model: Any) -> None:
    """Write constants out that are broadcast over the batch.

    QNN 2.51 computes LayerNormalization(Add(x, c)) wrongly for every item but the first where ``c`` has a batch of
    one: position embeddings. The output check sees it; this avoids it.
    """
    import numpy as np
    from onnx import numpy_helper

    graph = model.graph
    values = [*graph.value_info, *graph.input, *graph.output]
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}
    constants = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type not in {"Add", "Sub", "Mul", "Div"}:
            continue
        for index, other in ((0, 1), (1, 0)):
            constant, shape = constants.get(node.input[index]), shapes.get(node.input[other])
            if constant is None or not shape or len(constant.dims) != len(shape):
                continue
            if constant.dims[0] != 1 or shape[0] <= 1 or all(dim == 1 for dim in constant.dims):
                continue
            name = f"{constant.name}.whole_batch"
            if name not in constants:
                array = numpy_helper.to_array(constant)
                whole = np.ascontiguousarray(np.broadcast_to(array, (shape[0], *array.shape[1:])))
                constants[name] = numpy_helper.from_array(whole, name)
                graph.initializer.append(constants[name])
            node.input[index] = name


def _unshare(model: Any) -> None:
    """A constant of its own for each node, as far as it is small: a bias of zeros that the exporter shared between
    nodes would be quantised for one of them and be wrong for the others."""
    constants = {item.name: item for item in model.graph.initializer}
    seen: set[str] = set()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            constant = constants.get(name)
            if constant is None or len(constant.dims) > 1:
                continue
            if name in seen:
                own = type(constant)()
                own.CopyFrom(constant)
                own.name = f"{name}.{node.name or node.output[0]}.{index}"
                model.graph.initializer.append(own)
                node.input[index] = own.name
            seen.add(name)


def _unused(model: Any) -> None:
    """Drop the constants that no node takes any more."""
    taken = {name for node in model.graph.node for name in node.input}
    for item in [item for item in model.graph.initializer if item.name not in taken]:
        model.graph.initializer.remove(item)


def _quantise(source: Path, inputs: Sequence[InputSpec], folder: Path) -> Path:
    """Integers in and out of each node, after onnxruntime's own recipe for QNN.

    ``Gelu`` is fused before, as the HTP has no quantised Erf; weights are uint8, as its quantised LayerNormalization
    takes no signed ones.
    """
    from onnxruntime.quantization import QuantType, quantize
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config, qnn_preprocess_model

    fused, target = folder / "fused.onnx", folder / "quantised.onnx"
    if not qnn_preprocess_model(source, fused):
        fused = source
    config = get_qnn_qdq_config(fused, _reader(inputs), activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8)
    quantize(fused, target, config)
    return target


def _refuse_loss(quantised: Path, exported: OnnxModel) -> None:
    """Refuse a model that quantisation costs more than the verdict tolerates: by onnxruntime's CPU, on inputs that
    were not calibrated with."""
    worst = 0.0
    for slot in range(CALIBRATION_SETS, CALIBRATION_SETS + LOSS_SETS):
        feeds = make_inputs(exported.inputs, CALIBRATION_NONCE, slot)
        reference, observed = (
            sample_output(dict(zip(exported.outputs, _on_cpu(path, feeds), strict=True)), CALIBRATION_NONCE, slot)
            for path in (exported.path, quantised)
        )
        error = output_error(
            OutputCheck(
                nonce=CALIBRATION_NONCE, slot=slot, phase="after", inputs_sha256="", observed_sha256=observed[1],
                observed=observed[0], reference=reference[0], elements=observed[2],
            )
        )  # fmt: skip
        worst = max(worst, math.inf if error is None else error)
    if worst > OUTPUT_TOLERANCE[Precision.INT8]:
        raise BenchmarkFailed(
            f"int8 costs this model {worst:.2g} standard deviations of its output "
            f"(at most {OUTPUT_TOLERANCE[Precision.INT8]:g})",
            FailureCategory.WRONG_OUTPUT,
            remedy="Ask for --precision fp16",
        )


def _on_cpu(path: Path, feeds: Mapping[str, Array]) -> list[Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, dict(feeds))
    return outputs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantiser recommends a preparation that was made, on the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _reader(inputs: Sequence[InputSpec]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self._sets = iter(range(CALIBRATION_SETS))

        def get_next(self) -> Any:
            """The next input set, or None."""
            slot = next(self._sets, None)
            return None if slot is None else make_inputs(inputs, CALIBRATION_NONCE, slot)

    return Reader()


def _count(path: Path) -> tuple[int, int]:
    """How many nodes compute, and how many of them take what was dequantised and nothing else."""
    import onnx

    graph = onnx.load(path).graph
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    nodes = [node for node in graph.node if node.op_type in COMPUTE]
    return len(nodes), sum(all(name in dequantised for name in node.input if name) for node in nodes)
