"""The loop over tokens on every architecture that writes, held against one teacher-forced pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hwbench_mlflow.errors import UsageError
from hwbench_mlflow.model import TINY_SUFFIX, CompileMode, Phase, Scenario, WeightsPolicy, Workload
from hwbench_mlflow.workloads.base import LoadedModel
from hwbench_mlflow.workloads.build import load, weights_digest
from hwbench_mlflow.workloads.challenge import make_inputs
from hwbench_mlflow.workloads.generation import teacher_forced
from hwbench_mlflow.workloads.resolve import resolve
from hwbench_mlflow.workloads.zoo import BUILT_IN

WRITERS = sorted(spec.alias + TINY_SUFFIX for spec in BUILT_IN if spec.writes and spec.alias != "t5-efficient-tiny")
PHASES = [(Phase.PREFILL, None), (Phase.DECODE, None), (Phase.GENERATE, True), (Phase.GENERATE, False)]


def _load(alias: str, phase: Phase, cache: bool | None = None, **changes: Any) -> LoadedModel:
    return load(Workload(model=alias, weights=WeightsPolicy.RANDOM, phase=phase, kv_cache=cache, **changes))


def _inputs(loaded: LoadedModel, slot: int = 0) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in make_inputs(loaded.input_spec, "n", slot).items()}


@pytest.mark.parametrize(("phase", "cache"), PHASES, ids=[f"{p}-{c}" for p, c in PHASES])
@pytest.mark.parametrize("alias", WRITERS)
def test_each_step_has_the_logits_of_one_pass_over_the_whole_path_and_the_work_is_counted(
    alias: str, phase: Phase, cache: bool | None
) -> None:
    loaded = _load(alias, phase, cache, batch_size=2)
    module: Any = loaded.module
    inputs = _inputs(loaded)
    with torch.inference_mode():
        module.prepare(**inputs)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            output = module(**inputs)
        again = module(**inputs)
        reference = teacher_forced(module, loaded.workload)(**inputs)["logits"]
    assert counter.get_total_flops() == loaded.info.flops
    steps = 1 if phase is Phase.PREFILL else 4
    assert output["logits"].shape == reference.shape == (2, steps, 128)
    assert torch.allclose(output["logits"], reference, atol=1e-4)
    assert torch.allclose(again["logits"], reference, atol=1e-4)  # a decoding leaves its prompt as it was
    assert len(output.token_ns) == (0 if phase is Phase.PREFILL else 4)
    assert all(ns > 0 for ns in output.token_ns)


def test_a_decoding_follows_what_is_staged_and_not_what_was() -> None:
    loaded = _load("gpt2-tiny-test", Phase.DECODE)
    reference = teacher_forced(loaded.module, loaded.workload)
    for slot in (0, 1, 0):
        inputs = _inputs(loaded, slot)
        with torch.inference_mode():
            assert torch.allclose(loaded.module(**inputs)["logits"], reference(**inputs)["logits"], atol=1e-4)


def test_without_a_cache_the_prompt_is_read_again_for_each_token() -> None:
    kept, again = (_load("tinyllama-1.1b-tiny-test", Phase.GENERATE, cache).info for cache in (True, False))
    assert again.flops > 3 * kept.flops
    assert again.parameters == kept.parameters


def test_weights_are_read_once_a_token_and_those_of_an_encoder_once() -> None:
    one, four = (
        _load("gpt2-tiny-test", phase, output_tokens=tokens).info
        for phase, tokens in ((Phase.PREFILL, None), (Phase.GENERATE, 4))
    )
    assert four.min_bytes > 3.5 * one.min_bytes
    heard = _load("whisper-tiny-tiny-test", Phase.GENERATE, output_tokens=4).info
    assert heard.min_bytes < 4 * heard.weight_bytes


def test_a_writer_holds_the_same_weights_as_the_model_it_wraps() -> None:
    digests = {weights_digest(_load("gpt2-tiny-test", phase).module) for phase in Phase}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, "writes no text"),
        ({"model": "gpt2", "scenario": Scenario.OFFLINE}, "goes with --scenario latency"),
        ({"model": "gpt2", "compile_mode": CompileMode.COMPILE}, "goes with --compile-mode eager"),
        ({"model": "gpt2", "phase": Phase.DECODE, "kv_cache": False}, "is about the key-value cache"),
        ({"model": "gpt2", "phase": Phase.FORWARD, "kv_cache": True}, "has no key-value cache"),
        ({"model": "gpt2", "phase": Phase.FORWARD, "output_tokens": 3}, "takes no output length"),
        ({"model": "gpt2", "phase": Phase.PREFILL, "output_tokens": 3}, "takes no output length"),
        ({"model": "gpt2", "output_tokens": 1}, "1 output tokens are not possible"),
        ({"model": "gpt2", "sequence_length": 1000}, "at most 1024 tokens, not 1000 and 32 new ones"),
        ({"model": "whisper-tiny", "output_tokens": 449}, "writes at most 448 tokens"),
        ({"model": "llava-1.5-7b", "sequence_length": 576}, "needs 576 tokens for the image alone"),
    ],
)
def test_what_a_writer_cannot_do_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolve(Workload(**{"phase": Phase.GENERATE, **changes}))
    assert "\n" not in str(caught.value)


def test_the_defaults_of_a_generation_are_filled() -> None:
    work = resolve(Workload(model="gpt2", phase=Phase.GENERATE)).workload
    assert (work.sequence_length, work.output_tokens, work.kv_cache) == (128, 32, True)
    assert resolve(Workload(model="gpt2")).workload.output_tokens is None
