"""Tokens: their statistics from raw time stamps, and what a verdict says of stamps that are not a generation's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hwbench_mlflow.backends.cpu import CpuBackend
from hwbench_mlflow.backends.openvino import OpenvinoBackend
from hwbench_mlflow.backends.webgpu import WebgpuBackend
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.generation import generation_stats
from hwbench_mlflow.index import index_of, real_time_factor
from hwbench_mlflow.model import BenchmarkResult, FailureCategory, Phase, SampleSet, VerdictState, Workload
from hwbench_mlflow.verdict import judge_result
from hwbench_mlflow.writing import require_writer
from tests.honest import as_generation, honest, resealed

MS = 1_000_000


def _work(phase: Phase = Phase.GENERATE, **changes: Any) -> Workload:
    cache = None if phase is Phase.FORWARD else True
    return Workload(**{"model": "gpt2", "output_tokens": 4, "phase": phase, "kv_cache": cache, **changes})


def _run(first: int, each: int) -> tuple[int, ...]:
    return (first * MS, each * MS, each * MS, each * MS)


def test_the_first_token_and_each_after_it_are_told_apart_as_mlperf_defines_them() -> None:
    runs = [_run(100 + i, 10) for i in range(11)]
    samples = [sum(run) + MS for run in runs]
    stats = generation_stats(_work(batch_size=2), [samples], [[ns for run in runs for ns in run]])
    assert stats is not None
    assert stats.ttft_ms_p50 == 105
    assert stats.tpot_ms_p50 == 10
    # TPOT is (latency - TTFT) / (tokens - 1), here without the millisecond that no token took.
    assert stats.tpot_ms_p50 == (samples[0] - MS - runs[0][0]) / 3 / MS
    assert stats.tokens_per_s == 4 * 11 * 2 / (sum(samples) / 1e9)
    assert stats.ttft_ms_p90 is None


def test_percentiles_need_as_many_generations_as_they_need_of_any_sample() -> None:
    runs = [_run(100, 10)] * 10
    stats = generation_stats(_work(), [[sum(run) for run in runs]], [[ns for run in runs for ns in run]])
    assert stats is not None
    assert (stats.ttft_ms_p50, stats.tpot_ms_p50) == (None, None)
    assert stats.tokens_per_s == pytest.approx(4 / 0.13)


def test_a_prefill_has_a_first_token_and_a_decoding_has_none() -> None:
    prefill = generation_stats(_work(Phase.PREFILL, output_tokens=None), [[5 * MS] * 11], [[]])
    assert prefill is not None
    assert (prefill.ttft_ms_p50, prefill.tpot_ms_p50, prefill.tokens_per_s) == (5, None, None)
    decode = generation_stats(_work(Phase.DECODE), [[8 * MS] * 11], [[2 * MS] * 44])
    assert decode is not None
    assert (decode.ttft_ms_p50, decode.tpot_ms_p50) == (None, 2)
    assert decode.tokens_per_s == pytest.approx(500)


def test_several_workers_are_one_population() -> None:
    work = _work()
    one = generation_stats(work, [[130 * MS] * 12], [list(_run(100, 10)) * 12])
    assert one == generation_stats(work, [[130 * MS] * 5, [130 * MS] * 7], [list(_run(100, 10)) * n for n in (5, 7)])


@pytest.mark.parametrize(
    ("samples", "tokens", "why"),
    [
        ([130 * MS], [100 * MS, 10 * MS, 10 * MS], "3 time stamps for 1 samples of 4 tokens"),
        ([130 * MS], [], "0 time stamps"),
        ([130 * MS], [130 * MS, 0, 0, 0], "took no time"),
        ([130 * MS], [101 * MS, 10 * MS, 10 * MS, 10 * MS], "tokens of 131000000 ns in a sample of 130000000 ns"),
        ([130 * MS], [1 * MS, 1 * MS, 1 * MS, 1 * MS], "tokens of 4000000 ns"),
        ([], [], "needs samples"),
    ],
)
def test_stamps_that_are_not_a_generations_are_refused(samples: list[int], tokens: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        generation_stats(_work(), [samples], [tokens])


@pytest.mark.parametrize("phase", [Phase.FORWARD, Phase.PREFILL])
def test_a_phase_without_tokens_may_not_bring_stamps(phase: Phase) -> None:
    with pytest.raises(ValueError, match="token"):
        generation_stats(_work(phase), [[MS]], [[MS]])
    assert generation_stats(_work(Phase.FORWARD), [[MS]], [[]]) is None


# --- evidence -----------------------------------------------------------------------------------


def generated() -> tuple[BenchmarkResult, SampleSet]:
    return as_generation(*honest())


def _reasons(result: BenchmarkResult, samples: SampleSet) -> tuple[VerdictState, str]:
    found = judge_result(resealed(result, samples), samples)
    return found.state, "; ".join(found.reasons)


def test_an_honest_generation_is_verified_and_its_metrics_are_those_of_its_tokens() -> None:
    result, samples = generated()
    assert judge_result(result, samples).reasons == ()
    metrics = index_of(result, "0" * 64, judge_result(result, samples)).metrics
    assert metrics["ttft_ms_p50"] < metrics["latency_ms_p50"]
    assert metrics["tokens_per_s"] == pytest.approx(4 * metrics["throughput_items_per_s"], rel=1e-12)
    assert metrics["tpot_ms_p50"] == pytest.approx(metrics["latency_ms_p50"] / 10, rel=0.01)


def test_a_faster_token_rate_than_the_stamps_give_is_a_contradiction() -> None:
    result, samples = generated()
    assert result.generation is not None
    state, reasons = _reasons(replace(result, generation=replace(result.generation, tpot_ms_p50=0.001)), samples)
    assert state is VerdictState.CONTRADICTED
    assert "the tokens' statistics are not those of the raw samples" in reasons


def test_a_generation_without_its_stamps_is_a_contradiction() -> None:
    result, samples = generated()
    bare = replace(samples, workers=(replace(samples.workers[0], token_ns=()),))
    state, reasons = _reasons(result, bare)
    assert state is VerdictState.CONTRADICTED
    assert "0 time stamps" in reasons


def test_a_forward_pass_that_calls_itself_a_generation_is_a_contradiction() -> None:
    result, samples = honest()
    state, reasons = _reasons(replace(result, workload=replace(result.workload, phase=Phase.GENERATE)), samples)
    assert state is VerdictState.CONTRADICTED
    assert "phase forward was asked, generate ran" in reasons


def test_a_cache_that_was_forbidden_and_used_is_a_contradiction() -> None:
    result, samples = generated()
    asked = replace(result.request, workload=replace(result.request.workload, kv_cache=False))
    state, reasons = _reasons(replace(result, request=asked), samples)
    assert state is VerdictState.CONTRADICTED
    assert "kv_cache False was asked, True ran" in reasons


# --- audio, and who can write -------------------------------------------------------------------


def test_the_real_time_factor_is_seconds_of_audio_a_second() -> None:
    assert real_time_factor(Workload(model="wav2vec2", audio_seconds=10.0), 2.5) == 25
    assert real_time_factor(Workload(model="bert"), 2.5) is None
    # A decoding alone has not heard the audio in its time.
    assert real_time_factor(_work(Phase.DECODE, audio_seconds=30.0), 2.5) is None


def test_a_platform_that_runs_graphs_of_one_pass_refuses_to_write_in_one_line() -> None:
    with pytest.raises(BenchmarkFailed, match="webgpu runs one forward pass") as caught:
        require_writer(WebgpuBackend(), _work())
    assert caught.value.category is FailureCategory.UNSUPPORTED_OPERATOR
    assert "\n" not in str(caught.value)
    require_writer(WebgpuBackend(), _work(Phase.FORWARD))
    require_writer(OpenvinoBackend(), _work())
    require_writer(CpuBackend(), _work())
