from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import FailureCategory, ModelInfo, Precision, WeightsPolicy, Workload
from hwbench_mlflow.workloads.base import InputSpec
from hwbench_mlflow.workloads.build import load
from hwbench_mlflow.workloads.challenge import make_inputs
from hwbench_mlflow.workloads.counting import count
from tests.workloads.conftest import TINY_BERT, TINY_GPT2, TINY_RESNET, TINY_VIT, MakeFolder


def _info(model: object, **changes: Any) -> ModelInfo:
    return load(Workload(model=str(model), weights=WeightsPolicy.RANDOM, **changes)).info


def _bert_flops(batch: int, tokens: int, hidden: int, inner: int, layers: int) -> int:
    """Multiply-adds of an encoder by hand, times two: four projections, two products of attention, two of the
    feed-forward block, and the pooler on one token."""
    per_layer = 4 * tokens * hidden**2 + 2 * tokens**2 * hidden + 2 * tokens * hidden * inner
    return 2 * batch * (layers * per_layer + hidden**2)


def test_bert_flops_are_those_of_the_formula_attention_included(make_folder: MakeFolder) -> None:
    info = _info(make_folder(TINY_BERT), batch_size=3, sequence_length=40)
    assert info.flops == pytest.approx(_bert_flops(3, 40, 32, 64, 2), rel=0.02)
    without_attention = _bert_flops(3, 40, 32, 64, 2) - 2 * 3 * 2 * 2 * 40**2 * 32
    assert info.flops > 1.02 * without_attention  # so the tolerance above could not hide its absence


@pytest.mark.parametrize("config", [TINY_BERT, TINY_VIT, TINY_RESNET])
def test_the_count_on_meta_is_the_count_of_a_real_pass(config: dict[str, Any], make_folder: MakeFolder) -> None:
    size = {"image_size": 32} if config is TINY_RESNET else {}
    loaded = load(Workload(model=str(make_folder(config)), weights=WeightsPolicy.RANDOM, batch_size=2, **size))
    inputs = {k: torch.from_numpy(v) for k, v in make_inputs(loaded.input_spec, "n", 0).items()}
    # The counter does not know the CPU's fused attention: ask for the plain one, whose products it sees.
    with sdpa_kernel(SDPBackend.MATH), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        loaded.module(**inputs)
    assert loaded.info.flops == counter.get_total_flops() > 0


def test_flops_grow_with_the_batch_and_parameters_do_not(make_folder: MakeFolder) -> None:
    folder = make_folder(TINY_GPT2)
    one, four = _info(folder), _info(folder, batch_size=4)
    assert four.flops == 4 * one.flops
    assert four.parameters == one.parameters
    assert four.min_bytes > one.min_bytes


def test_tied_parameters_count_once_and_a_tied_table_is_read_whole(make_folder: MakeFolder) -> None:
    info = _info(make_folder(TINY_GPT2), sequence_length=8)
    table, positions, width = 99 * 32, 64 * 32, 32
    blocks = 2 * (12 * width**2 + 13 * width) + 2 * width
    assert info.parameters == table + positions + blocks
    # Position rows are only looked up; the token table is also the output head.
    assert info.min_bytes == 4 * (table + blocks) + 8 * (8 + 8) + 4 * 8 * 99


def test_bytes_follow_the_precision(make_folder: MakeFolder) -> None:
    folder = make_folder(TINY_RESNET)
    full, half = _info(folder), _info(folder, precision=Precision.BF16)
    assert full.weight_bytes == 4 * full.parameters
    assert half.weight_bytes == 2 * half.parameters
    assert full.min_bytes == 2 * half.min_bytes
    assert full.flops == half.flops


def test_a_model_that_returns_something_else_is_refused() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": x}

    spec = [InputSpec("x", "normal", (1, 2))]
    assert count(Odd(), spec, (), Precision.FP32).outputs == {"y": (1, 2)}
    with pytest.raises(BenchmarkFailed, match="not \\['logits'\\]") as caught:
        count(Odd(), spec, ("logits",), Precision.FP32)
    assert caught.value.category is FailureCategory.UNSUPPORTED_OPERATOR


def test_a_model_that_looks_at_its_data_cannot_be_counted() -> None:
    class Peeking(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": x if bool(x.sum() > 0) else -x}

    with pytest.raises(BenchmarkFailed, match="cannot be counted on meta tensors") as caught:
        count(Peeking(), [InputSpec("x", "normal", (1, 2))], (), Precision.FP32)
    assert caught.value.category is FailureCategory.UNSUPPORTED_OPERATOR


@pytest.mark.slow
def test_bert_base_has_the_size_everyone_knows() -> None:
    info = _info("bert")
    assert info.parameters == 109_482_240
    assert info.flops == pytest.approx(_bert_flops(1, 128, 768, 3072, 12), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alias", "parameters"),
    # torchvision's resnet50 and timm's vit_base_patch16_224; GPT-2 small with its head tied.
    [("distilbert", 66_362_880), ("gpt2", 124_439_808), ("vit", 86_567_656), ("resnet-50", 25_557_032)],
)
def test_the_other_models_have_their_published_size(alias: str, parameters: int) -> None:
    assert _info(alias).parameters == parameters
