"""Statistics of models that write, from the raw time stamps of their tokens.

Pure, standard library only, exact to the last bit like :mod:`.stats`. The words are MLPerf inference's
(mlcommons/inference, loadgen/results.cc at 7ad9af1: ``first_token_latencies``, ``time_per_output_token_arr``), the
definitions as we understand them: TTFT is the time from the query to its first token; TPOT is (latency - TTFT) /
(tokens - 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from hwbench_mlflow.model import GenerationStats, Phase, Workload
from hwbench_mlflow.stats import NS_PER_MS, percentile

MIN_TOKEN_COVER = 0.9
"""The tokens' times over the sample they are of: what is between them is a call and a look at the clock."""


def writes_tokens(workload: Workload) -> bool:
    """Whether each sample has a time stamp for each token."""
    return workload.phase in (Phase.DECODE, Phase.GENERATE)


def generation_stats(
    workload: Workload, samples_ns: Sequence[Sequence[int]], token_ns: Sequence[Sequence[int]]
) -> GenerationStats | None:
    """Statistics of one result; None for a forward pass. ``samples_ns`` and ``token_ns`` are per worker; the latter
    holds ``workload.output_tokens`` values a sample, in order.

    Raises ValueError where tokens are missing, take no time, or last longer than their sample.
    """
    if workload.phase is Phase.FORWARD:
        if any(token_ns):
            raise ValueError("a forward pass writes no tokens")
        return None
    samples = list(chain.from_iterable(samples_ns))
    if not samples or min(samples) <= 0:
        raise ValueError("a result needs samples, each longer than zero")
    if workload.phase is Phase.PREFILL:
        if any(token_ns):
            raise ValueError("a prefill has one token, whose time is the sample's")
        return _stats([float(ns) for ns in samples], [], None)
    count = workload.output_tokens or 0
    for worker, tokens in zip(samples_ns, token_ns, strict=True):
        if count < 1 or len(tokens) != count * len(worker):
            raise ValueError(f"{len(tokens)} time stamps for {len(worker)} samples of {count} tokens")
    runs = [
        tokens[i * count : (i + 1) * count]
        for worker, tokens in zip(samples_ns, token_ns, strict=True)
        for i in range(len(worker))
    ]
    for ns, run in zip(samples, runs, strict=True):
        if min(run) <= 0:
            raise ValueError("a token took no time")
        if not MIN_TOKEN_COVER * ns <= sum(run) <= ns:
            raise ValueError(f"tokens of {sum(run)} ns in a sample of {ns} ns")
    written = count * len(runs) * workload.batch_size
    rate = written / (sum(samples) / 1e9)
    if workload.phase is Phase.DECODE:
        return _stats([], [sum(run) / count for run in runs], rate)
    rest = [sum(run[1:]) / (count - 1) for run in runs] if count > 1 else []
    return _stats([float(run[0]) for run in runs], rest, rate)


def _stats(first: list[float], each: list[float], tokens_per_s: float | None) -> GenerationStats:
    def at(values: list[float], percent: int) -> float | None:
        found = percentile(sorted(values), percent)
        return None if found is None else found / NS_PER_MS

    return GenerationStats(
        ttft_ms_p50=at(first, 50),
        ttft_ms_p90=at(first, 90),
        ttft_ms_p99=at(first, 99),
        tpot_ms_p50=at(each, 50),
        tpot_ms_p90=at(each, 90),
        tpot_ms_p99=at(each, 99),
        tokens_per_s=tokens_per_s,
    )
