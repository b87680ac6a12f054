from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from hwbench_mlflow import host
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import FailureCategory, Phase, Precision, WeightsPolicy, Workload
from hwbench_mlflow.workloads import counting, generation
from hwbench_mlflow.workloads.build import count_on_meta, load
from hwbench_mlflow.workloads.challenge import make_inputs
from hwbench_mlflow.workloads.counting import Counts
from hwbench_mlflow.workloads.generation import raw
from hwbench_mlflow.workloads.memory import LIBRARY_BYTES, MARGIN, Room, kept_caches, require_room, weight_copies
from hwbench_mlflow.workloads.resolve import resolve

GIB = 2**30
BILLION = Counts(10**9, 1, 4 * 10**9, 1, {}, 10**8, 1)
HALF = Counts(10**9, 1, 2 * 10**9, 1, {}, 5 * 10**7, 1)


def _needed(error: BenchmarkFailed) -> int:
    return int(str(error).partition("needs ")[2].partition(" bytes")[0])


def test_what_fits_exactly_is_taken_and_one_byte_less_is_refused_with_both_numbers() -> None:
    needed = int((4 * 10**9 + 10**8) * 1.1) + LIBRARY_BYTES
    require_room("m", BILLION, precision=Precision.FP32, room=Room(needed))
    with pytest.raises(BenchmarkFailed, match=rf"needs {needed} bytes .*; {needed - 1} bytes") as caught:
        require_room("m", BILLION, precision=Precision.FP32, room=Room(needed - 1))
    assert caught.value.category is FailureCategory.MODEL_TOO_LARGE
    assert "\n" not in str(caught.value)


def test_what_is_unknown_refuses_nothing() -> None:
    require_room("m", BILLION, precision=Precision.FP32, room=Room(None))
    require_room("m", BILLION, precision=Precision.FP32, room=Room(None, None, own_memory=True))


def test_a_reduced_precision_on_the_hosts_cpu_is_a_second_copy_and_a_converter_holds_three() -> None:
    assert weight_copies(precision=Precision.FP32, own_memory=False, converted=False) == (4,)
    assert weight_copies(precision=Precision.BF16, own_memory=False, converted=False) == (4, 2)
    assert weight_copies(precision=Precision.BF16, own_memory=True, converted=False) == (4,)
    assert weight_copies(precision=Precision.FP32, own_memory=False, converted=True) == (4, 4, 4)


def test_a_device_with_memory_of_its_own_is_asked_for_weights_and_activations_only() -> None:
    fits = int((2 * 10**9 + 5 * 10**7) * 1.1)
    require_room("m", HALF, precision=Precision.BF16, room=Room(10**12, fits, own_memory=True))
    with pytest.raises(BenchmarkFailed, match="bf16 on the device needs"):
        require_room("m", HALF, precision=Precision.BF16, room=Room(10**12, fits - 1, own_memory=True))


def test_the_reference_in_fp32_has_to_fit_on_the_host_even_where_the_device_has_room() -> None:
    with pytest.raises(BenchmarkFailed, match="reference in fp32 on the host") as caught:
        require_room("m", HALF, precision=Precision.BF16, room=Room(4 * GIB, 10**12, own_memory=True))
    # 4 bytes a parameter, and the activations of a fp32 pass.
    assert _needed(caught.value) == int((4 * 10**9 + 10**8) * 1.1) + LIBRARY_BYTES


def test_a_model_of_seven_billion_parameters_is_refused_before_anything_of_it_is_made() -> None:
    before = psutil.Process().memory_info().rss

    def admit(name: str, counts: Counts) -> None:
        require_room(name, counts, precision=Precision.FP32, room=Room(24 * GIB))

    with pytest.raises(BenchmarkFailed, match=r"'llava-1.5-7b' does not fit: .*26\.3 of weights.*24\.0 GiB"):
        load(Workload(model="llava-1.5-7b", weights=WeightsPolicy.RANDOM), admit=admit)
    assert psutil.Process().memory_info().rss - before < GIB


def test_activations_are_the_most_that_is_alive_and_grow_with_the_batch() -> None:
    one, four = (
        count_on_meta(resolve(Workload(model="bert-tiny-test", batch_size=n))).activation_bytes for n in (1, 4)
    )
    # The widest moment is a feed-forward block: its input twice (residual), and its inner result before and after GELU.
    tokens, hidden, inner = 16, 32, 64
    assert 4 * tokens * (hidden + inner) <= one <= 4 * tokens * (4 * hidden + 3 * inner)
    assert 3 * one <= four <= 6 * one


def _decoding(alias: str, phase: Phase = Phase.DECODE, **changes: Any) -> Workload:
    sizes = {"batch_size": 3, "sequence_length": 8, "output_tokens": 4, **changes}
    return Workload(model=alias, weights=WeightsPolicy.RANDOM, phase=phase, **sizes)


@pytest.mark.parametrize(
    ("alias", "formula"),
    [
        # 2 x layers x key-value heads x size of a head x (prompt 8 + written 4) x batch 3 x 4 bytes
        ("gpt2-tiny-test", lambda c: 2 * c.n_layer * c.n_embd * 12 * 3 * 4),
        (
            "qwen2-0.5b-tiny-test",
            lambda c: 2 * c.num_hidden_layers * c.num_key_value_heads * (c.hidden_size // c.num_attention_heads)
            * 12 * 3 * 4,
        ),
        # The decoder begins with one token, and its layers keep the encoder's 8 as well.
        ("t5-small-tiny-test", lambda c: 2 * c.num_decoder_layers * c.num_heads * c.d_kv * (5 + 8) * 3 * 4),
    ],
)  # fmt: skip
def test_a_cache_is_counted_as_by_the_formula_and_as_torch_allocates_it_for_every_staged_prompt(
    alias: str, formula: Callable[[Any], int]
) -> None:
    resolved = resolve(_decoding(alias))
    counts = count_on_meta(resolved)
    loaded = load(_decoding(alias))
    module: Any = loaded.module
    assert counts.cache_bytes == formula(raw(module).config)
    slots = 4
    staged = [
        {name: torch.from_numpy(array) for name, array in make_inputs(loaded.input_spec, "n", slot).items()}
        for slot in range(slots)
    ]
    with torch.no_grad(), counting._live_bytes() as live:  # of real tensors here
        for inputs in staged:
            module(**inputs)
    held = sum(
        generation._held_bytes(part)
        for _, state in module._prefixes.values()
        for part in {id(p): p for p in (generation._self_attention(state["cache"]),
                                        getattr(state["cache"], "cross_attention_cache", state["cache"]))}.values()
    )  # fmt: skip
    assert held == slots * counts.cache_bytes
    estimate = counts.activation_bytes + kept_caches(Phase.DECODE, slots=slots, converted=False) * counts.cache_bytes
    assert held < live.peak <= estimate * (1 + MARGIN)


def test_a_prompt_that_is_no_longer_staged_keeps_no_cache() -> None:
    loaded = load(_decoding("gpt2-tiny-test"))
    module: Any = loaded.module
    for slot in range(3):
        inputs = {name: torch.from_numpy(a) for name, a in make_inputs(loaded.input_spec, "n", slot).items()}
        with torch.no_grad():
            module(**inputs)
        assert len(module._prefixes) == 1


def test_a_run_that_keeps_no_cache_between_runs_counts_none_beside_its_own() -> None:
    generating = count_on_meta(resolve(_decoding("gpt2-tiny-test", Phase.GENERATE)))
    decoding = count_on_meta(resolve(_decoding("gpt2-tiny-test")))
    assert generating.cache_bytes * 12 == decoding.cache_bytes * 11, "the last token is chosen, and not fed"
    assert generating.activation_bytes > generating.cache_bytes, "it is among what the run itself holds"
    assert count_on_meta(resolve(_decoding("gpt2-tiny-test", Phase.GENERATE, kv_cache=False))).cache_bytes == 0
    assert count_on_meta(resolve(Workload(model="gpt2-tiny-test"))).cache_bytes == 0
    copies = {
        (phase, converted): kept_caches(phase, slots=4, converted=converted)
        for phase in Phase
        for converted in (False, True)
    }
    assert {key: count for key, count in copies.items() if count} == {
        (Phase.DECODE, False): 3, (Phase.DECODE, True): 5, (Phase.GENERATE, True): 1,
    }  # fmt: skip


def test_caches_are_refused_where_they_do_not_fit_at_the_precision_and_of_a_converter_at_fp32() -> None:
    counts = replace(HALF, cache_bytes=10**9)
    fits = int((2 * 10**9 + 5 * 10**7 + 3 * 5 * 10**8) * 1.1)
    device = partial(require_room, "m", counts, precision=Precision.BF16, caches=3)
    device(room=Room(10**12, fits, own_memory=True))
    with pytest.raises(BenchmarkFailed, match=r"bf16 on the device needs .* 1\.4 of key-value caches, 10% margin"):
        device(room=Room(10**12, fits - 1, own_memory=True))
    host = partial(require_room, "m", counts, precision=Precision.BF16, caches=3, converted=True)
    needed = int((10 * 10**9 + 5 * 10**7 + 3 * 10**9) * 1.1) + LIBRARY_BYTES
    host(room=Room(needed))
    with pytest.raises(BenchmarkFailed, match=rf"bf16 on the host needs {needed} bytes"):
        host(room=Room(needed - 1))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "max", "memory.current": "5"}, 100 * GIB),
        ({"memory.max": str(8 * GIB), "memory.current": str(3 * GIB)}, 5 * GIB),
        (
            {"memory.max": str(8 * GIB), "memory.current": str(7 * GIB), "memory.stat": f"anon 1\ninactive_file {GIB}"},
            2 * GIB,
        ),
        ({"memory.max": str(GIB), "memory.current": str(2 * GIB)}, 0),
        ({"memory/memory.limit_in_bytes": str(GIB), "memory/memory.usage_in_bytes": "0"}, GIB),
        ({}, 100 * GIB),
    ],
)
def test_a_cgroups_limit_counts_where_it_leaves_less(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 100 * GIB}))
    assert host.available_memory_bytes() == expected
