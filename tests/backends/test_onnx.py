"""The ONNX export, its cache, and what is said of a model that cannot be exported."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from hwbench_mlflow.backends import _onnx
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import FailureCategory
from hwbench_mlflow.workloads.base import InputSpec, LoadedModel
from tests.backends.tiny import tiny_model, tiny_workload

onnx = pytest.importorskip("onnx", reason="the [web] extra is not installed")
pytest.importorskip("onnxscript", reason="the [web] extra is not installed")


class Toy(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": 2 * x, "z": x + 1}


def toy(module: torch.nn.Module | None = None) -> LoadedModel:
    return dataclasses.replace(
        tiny_model(), module=module or Toy(), input_spec=(InputSpec("x", "normal", (2, 3)),), output_names=("z",)
    )


def test_an_all_ones_mask_is_left_out_and_shapes_are_the_workload_s(tmp_path: Path) -> None:
    made = _onnx.export(tiny_model(), tiny_workload(batch_size=5), tmp_path)
    graph = onnx.load(str(made.path)).graph
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.input}
    assert shapes == {"input_ids": [5, 16], "token_type_ids": [5, 16]}
    assert made.omitted == ("attention_mask",)
    assert [item.name for item in made.inputs] == ["input_ids", "token_type_ids"]
    assert [o.name for o in graph.output] == list(made.outputs)


def test_no_node_asks_for_nans_and_the_model_keeps_its_attention(tmp_path: Path) -> None:
    model = tiny_model()
    before = model.module.config._attn_implementation
    made = _onnx.export(model, tiny_workload(), tmp_path)
    assert "IsNaN" not in {node.op_type for node in onnx.load(str(made.path)).graph.node}
    assert model.module.config._attn_implementation == before


def test_the_compared_output_comes_first_whatever_the_module_s_order(tmp_path: Path) -> None:
    made = _onnx.export(toy(), tiny_workload(), tmp_path)
    reference = onnx.reference.ReferenceEvaluator(str(made.path))
    x = np.ones((2, 3), np.float32)
    first, second = reference.run(None, {"x": x})
    np.testing.assert_array_equal(first, x + 1)
    np.testing.assert_array_equal(second, 2 * x)


def test_the_same_model_is_exported_once_and_another_one_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _onnx.export(toy(), tiny_workload(), tmp_path)
    written: list[Path] = []
    original = _onnx._write

    def counted(model: LoadedModel, spec: tuple[InputSpec, ...], path: Path) -> tuple[str, ...]:
        written.append(path)
        return original(model, spec, path)

    monkeypatch.setattr(_onnx, "_write", counted)
    assert _onnx.export(toy(), tiny_workload(), tmp_path) == first
    assert not written
    assert _onnx.export(toy(), tiny_workload(batch_size=4), tmp_path).path != first.path
    assert len(written) == 1


@pytest.mark.parametrize("damage", ["file", "record", "record-of-another-shape"])
def test_a_damaged_cache_is_not_believed(tmp_path: Path, damage: str) -> None:
    first = _onnx.export(toy(), tiny_workload(), tmp_path)
    good = first.path.read_bytes()
    record = first.path.with_suffix(".json")
    if damage == "file":
        first.path.write_bytes(good[:-1] + b"?")
    else:
        record.write_text("[1]" if damage == "record-of-another-shape" else "{")
    again = _onnx.export(toy(), tiny_workload(), tmp_path)
    onnx.checker.check_model(onnx.load(str(again.path)))
    assert _onnx._recorded(again.path, record) is not None


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = _onnx.export(toy(), tiny_workload(batch_size=1), tmp_path)
    newer = _onnx.export(toy(), tiny_workload(batch_size=2), tmp_path)
    os.utime(old.path, (1, 1))
    os.utime(newer.path, (2, 2))
    monkeypatch.setattr(_onnx, "CACHE_BYTES", 2 * newer.path.stat().st_size)
    newest = _onnx.export(toy(), tiny_workload(batch_size=3), tmp_path)
    assert sorted(tmp_path.glob("*.onnx")) == sorted([newer.path, newest.path])
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_a_model_that_cannot_be_exported_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    class DataDependent(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"z": x if x.sum() > 0 else -x}

    with pytest.raises(BenchmarkFailed, match="cannot be exported to ONNX") as failed:
        _onnx.export(toy(DataDependent()), tiny_workload(), tmp_path)
    assert failed.value.category is FailureCategory.UNSUPPORTED_OPERATOR
    assert "\n" not in str(failed.value.args[0])
    assert not list(tmp_path.iterdir())
