"""A model small enough for any device, loaded by hand: what a workload module would hand over."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from hwbench_mlflow.model import CompileMode, ModelInfo, Precision, Scenario, WeightsSource, Workload
from hwbench_mlflow.workloads.base import InputSpec, LoadedModel

LENGTH = 16
OUTPUT = "last_hidden_state"


def tiny_workload(
    batch_size: int = 2,
    precision: Precision = Precision.FP32,
    scenario: Scenario = Scenario.LATENCY,
    compile_mode: CompileMode = CompileMode.EAGER,
) -> Workload:
    return Workload(
        model="tiny",
        batch_size=batch_size,
        sequence_length=LENGTH,
        precision=precision,
        scenario=scenario,
        compile_mode=compile_mode,
    )


def tiny_model(workload: Workload | None = None, layers: int = 1) -> LoadedModel:
    workload = workload or tiny_workload()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=LENGTH,
    )  # fmt: skip
    module = BertModel(config).eval()
    parameters = sum(p.numel() for p in module.parameters())
    shape = (workload.batch_size, LENGTH)
    return LoadedModel(
        module=module,
        workload=workload,
        info=ModelInfo(
            name="tiny", architecture="BertModel", task="feature-extraction", source="test", config_sha256="0" * 64,
            parameters=parameters, flops=1, min_bytes=1, weight_bytes=4 * parameters,
            weights_source=WeightsSource.RANDOM, weights_sha256="0" * 64,
        ),
        input_spec=(
            InputSpec("input_ids", "token", shape, 0, 64),
            InputSpec("attention_mask", "ones", shape),
            InputSpec("token_type_ids", "token", shape, 0, 1),
        ),
        output_names=("last_hidden_state",),
    )  # fmt: skip


def tiny_inputs(seed: int, batch_size: int = 2) -> dict[str, np.ndarray[Any, Any]]:
    draw = np.random.default_rng(seed)
    shape = (batch_size, LENGTH)
    return {
        "input_ids": draw.integers(0, 64, shape, dtype=np.int64),
        "attention_mask": np.ones(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
    }


def reference(model: LoadedModel, inputs: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The model in plain fp32 torch on the CPU, in eager mode."""
    with torch.inference_mode():
        out = model.module(**{k: torch.from_numpy(v) for k, v in inputs.items()})
    return out["last_hidden_state"].numpy().copy()
