"""A model's work for an estimate: what is counted, and that nothing is loaded for it."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import pytest

from hwbench_mlflow.model import Precision, Workload
from hwbench_mlflow.workloads.build import load
from hwbench_mlflow.workloads.estimating import count_work

LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
    "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 8192,
}  # fmt: skip


def test_the_counts_are_those_of_a_result(tiny_folder: Path) -> None:
    workload = Workload(model=str(tiny_folder), batch_size=3, sequence_length=16)
    resolved, model, work = count_work(workload)
    info = load(workload, ask_hub=False).info
    assert (work.parameters, work.flops, work.min_bytes, work.weight_bytes) == (
        info.parameters, info.flops, info.min_bytes, info.weight_bytes,
    )  # fmt: skip
    assert (model.name, model.config_sha256, model.architecture) == (info.name, info.config_sha256, info.architecture)
    assert resolved.sequence_length == 16


def test_operators_do_not_grow_with_the_batch_and_activations_do(tiny_folder: Path) -> None:
    one, many = (
        # From 2: a batch of one needs no copies of transposed heads.
        count_work(Workload(model=str(tiny_folder), batch_size=size, sequence_length=16))[2]
        for size in (2, 8)
    )
    assert one.operators == many.operators > 10
    assert many.activation_bytes == 4 * one.activation_bytes
    assert one.needed_bytes == one.weight_bytes + one.activation_bytes


def test_half_the_precision_is_half_the_bytes(tiny_folder: Path) -> None:
    full, half = (
        count_work(Workload(model=str(tiny_folder), precision=p, sequence_length=16))[2]
        for p in (Precision.FP32, Precision.BF16)
    )
    assert full.weight_bytes == 2 * half.weight_bytes
    assert full.flops == half.flops


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_a_model_of_70_billion_parameters_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, _, work = count_work(Workload(model=str(tmp_path), precision=Precision.BF16))
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    assert work.parameters > 70e9
    assert work.weight_bytes > 140e9
    assert grown_mb < 600
