"""A torch model as an ONNX file, for the platforms that take nothing else.

Owns the export and its cache. torch, onnx and onnxscript are imported only inside functions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.backends._reference import example_arrays, one_line, sized_spec
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.home import default_home
from hwbench_mlflow.model import FailureCategory, Workload

if TYPE_CHECKING:
    import torch

    from hwbench_mlflow.workloads.base import InputSpec, LoadedModel

OPSET = 18
RECIPE = 2
"""Changed whenever the same model would be exported differently: it is part of the cache's key."""

CACHE_BYTES = 8 << 30
"""How much the cache may hold: the files used longest ago go first."""


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """An exported model. ``inputs`` are the specs that the graph takes, in order; ``omitted`` the all-ones masks
    that it does without; ``outputs`` the graph's names, those of ``LoadedModel.output_names`` first."""

    path: Path
    sha256: str
    inputs: tuple[InputSpec, ...]
    omitted: tuple[str, ...]
    outputs: tuple[str, ...]


def export(model: LoadedModel, workload: Workload, cache: Path | None = None) -> OnnxModel:
    """The model at fp32 as one ONNX file of static shapes, from the cache where it is there.

    An all-ones mask says nothing: such inputs are left out, as the model without them computes the same. The key
    is of the weights, the config, the shapes and the exporter, and the file is the one that was written under it, by
    its digest. Raises :class:`BenchmarkFailed` (``unsupported_operator``) for a model that cannot be exported.
    """
    import onnxscript
    import torch

    from hwbench_mlflow.workloads.build import weights_digest

    spec = sized_spec(model.input_spec, workload.batch_size)
    taken = tuple(item for item in spec if item.kind != "ones")
    omitted = tuple(item.name for item in spec if item.kind == "ones")
    key = hashlib.sha256(
        json.dumps(
            [
                RECIPE, OPSET, str(torch.__version__), str(onnxscript.__version__), model.info.architecture,
                model.info.config_sha256, weights_digest(model.module), list(model.output_names),
                [[item.name, item.kind, item.shape] for item in spec],
            ]
        ).encode()
    ).hexdigest()  # fmt: skip
    path, digest, outputs = cached(key, lambda target: _write(model, taken, target), cache)
    return OnnxModel(path=path, sha256=digest, inputs=taken, omitted=omitted, outputs=outputs)


def cached(
    key: str, write: Callable[[Path], Sequence[str]], cache: Path | None = None
) -> tuple[Path, str, tuple[str, ...]]:
    """The file kept under ``key``: (path, sha256, names of its outputs). ``write`` makes it where it is not there, or
    is not what was written, and returns those names."""
    folder = cache or default_home() / "cache" / "onnx"
    path, record = folder / f"{key}.onnx", folder / f"{key}.json"
    written = _recorded(path, record)
    if written is None:
        folder.mkdir(parents=True, exist_ok=True)
        outputs = write(path)
        written = {"sha256": _digest(path), "outputs": list(outputs)}
        _replace(record, json.dumps(written).encode())
        _prune(folder, keep=path)
    return path, str(written["sha256"]), tuple(written["outputs"])


def _write(model: LoadedModel, spec: Sequence[InputSpec], path: Path) -> tuple[str, ...]:
    """Export to ``path``, whole or not at all; returns the outputs' names."""
    import torch

    example = {name: torch.from_numpy(array) for name, array in example_arrays(spec).items()}
    module = _Flat.of(model.module, list(example), model.output_names)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        with _quiet(), _plain_attention(model.module), torch.no_grad():
            program: Any = torch.onnx.export(
                module, tuple(example.values()), dynamo=True, opset_version=OPSET, external_data=False,
                input_names=list(example), verbose=False,
            )  # fmt: skip
            program.save(str(temporary))
        outputs = tuple(value.name for value in program.model.graph.outputs)
        taken = [value.name for value in program.model.graph.inputs]
        if taken != list(example) or len(outputs) < len(model.output_names):
            raise BenchmarkFailed(
                f"the ONNX export takes {taken}, the model {list(example)}", FailureCategory.UNSUPPORTED_OPERATOR
            )
        temporary.replace(path)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise BenchmarkFailed(
            f"{model.info.name} cannot be exported to ONNX: {one_line(error)}", FailureCategory.UNSUPPORTED_OPERATOR
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return outputs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks of its own deprecations and of operators of packages that are not installed."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _plain_attention(module: torch.nn.Module) -> Iterator[None]:
    """Attention as products and a softmax: what stands in for torch's fused one asks for NaNs, which GPU providers
    leave to the CPU."""
    chosen = getattr(getattr(module, "config", None), "_attn_implementation", None)
    settle = getattr(module, "set_attn_implementation", None)
    if settle is None or chosen in (None, "eager"):
        yield
        return
    settle("eager")
    try:
        yield
    finally:
        settle(chosen)


class _Flat:
    """Makes a module with positional inputs and a flat tuple of tensors, the compared ones first."""

    @staticmethod
    def of(module: torch.nn.Module, names: Sequence[str], outputs: Sequence[str]) -> torch.nn.Module:
        import torch

        class Flat(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.module = module

            def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
                result = self.module(**dict(zip(names, tensors, strict=True)))
                others = [key for key in result if key not in outputs and isinstance(result[key], torch.Tensor)]
                return tuple(result[key] for key in (*outputs, *others))

        return Flat().eval()


def product(folder: Path, dim: int) -> Path:
    """A graph of one fp32 matrix product, ``c = a @ b`` of square matrices: what a probe executes."""
    from onnx import TensorProto, checker, helper

    shape = [dim, dim]
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "abc"}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [values["a"], values["b"]], [values["c"]]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    checker.check_model(made)
    path = folder / f"product-{dim}.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def _recorded(path: Path, record: Path) -> Mapping[str, Any] | None:
    """What was recorded when the file was written, if it still is that file."""
    try:
        written = json.loads(record.read_bytes())
        if isinstance(written, dict) and written.get("sha256") == _digest(path) and written.get("outputs"):
            os.utime(path)
            return written
    except (OSError, ValueError):
        pass  # nothing there, or nothing that can be trusted: it is exported again
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    Path(name).replace(path)


def _prune(folder: Path, keep: Path) -> None:
    """Delete what was used longest ago, until the rest fits."""
    files = []
    for path in folder.glob("*.onnx"):
        with contextlib.suppress(FileNotFoundError):  # another process prunes as well
            files.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= CACHE_BYTES or path == keep:
            continue
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        total -= size
