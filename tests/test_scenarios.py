"""Schedules, the search, and the rule for a bound; and that nothing made up beside them is believed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from hwbench_mlflow.index import index_of
from hwbench_mlflow.model import PROFILES, Platform, VerdictState
from hwbench_mlflow.note import server_lines
from hwbench_mlflow.reports import words
from hwbench_mlflow.scenarios import RESOLUTION, bracket, next_rate, planned_queries, schedule
from hwbench_mlflow.stats import PERCENTILE_MIN_SAMPLES, allowed_late
from hwbench_mlflow.verdict import judge_result
from tests.honest import MS, honest_multistream, honest_server
from tests.scenario_forgeries import FORGERIES, offered_at, slower, stepped_down, window_of

QUICK = PROFILES["quick"]


def test_a_schedule_is_the_nonce_s_and_a_poisson_process() -> None:
    arrivals = schedule("aa" * 16, 0, 100.0, 20_000)
    assert arrivals == schedule("aa" * 16, 0, 100.0, 20_000)
    assert arrivals[:50] != schedule("ab" * 16, 0, 100.0, 50)
    assert arrivals[:50] != schedule("aa" * 16, 1, 100.0, 50)
    gaps = [b - a for a, b in zip((0, *arrivals), arrivals, strict=False)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((g - mean) ** 2 for g in gaps) / len(gaps))
    assert mean == pytest.approx(10 * MS, rel=0.03)
    assert spread == pytest.approx(mean, rel=0.03)  # exponential: as wide as its mean
    assert arrivals[:3] == (47_281_089, 51_002_660, 62_390_952)  # on every machine


@pytest.mark.parametrize(("percent", "fewest"), PERCENTILE_MIN_SAMPLES.items())
def test_a_bound_needs_as_many_queries_as_its_percentile(percent: int, fewest: int) -> None:
    assert allowed_late(fewest - 1, percent) is None
    assert allowed_late(fewest, percent) == 1


@pytest.mark.parametrize("queries", [662, 1000, 5000, 20_000, 59_000, 61_000, 300_000])
def test_late_queries_are_allowed_by_the_binomial_rule(queries: int) -> None:
    def chance(count: int) -> float:
        return math.fsum(
            math.exp(
                math.lgamma(queries + 1)
                - math.lgamma(k + 1)
                - math.lgamma(queries - k + 1)
                + k * math.log(0.01)
                + (queries - k) * math.log(0.99)
            )
            for k in range(count + 1)
        )

    allowed = allowed_late(queries, 99)
    assert allowed is not None
    slack = 1.02 if queries > 60_000 else 1.0  # the normal approximation's
    assert chance(allowed) <= 0.01 * slack
    assert chance(allowed + 2) > 0.01 / slack


@pytest.mark.parametrize("limit", [0.0, 1.0, 33.3, 99.0, 500.0])
def test_the_search_ends_beside_the_limit(limit: float) -> None:
    held: list[bool] = []
    while (rate := next_rate(100.0, held)) is not None:
        held.append(rate <= limit)
        assert len(held) < 10
    low, high = bracket(100.0, held)
    assert high - low <= RESOLUTION * 100
    assert low <= min(limit, 100)
    assert high >= min(limit, 100)


def test_a_window_is_long_enough_for_its_percentile_where_that_is_not_too_long() -> None:
    assert planned_queries(QUICK, 500.0, 99) == 5000
    assert planned_queries(QUICK, 100.0, 99) == 1324
    assert planned_queries(QUICK, 40.0, 99) == 1200
    assert planned_queries(QUICK, 2.0, 99) == 60  # and then no rate is claimed
    assert planned_queries(PROFILES["standard"], 10.0, 99) == 442


@pytest.mark.parametrize("platform", [Platform.CPU, Platform.CUDA, Platform.OPENVINO])
@pytest.mark.parametrize("make", [honest_server, honest_multistream])
def test_an_honest_result_is_verified(make: Any, platform: Platform) -> None:
    verdict = judge_result(*make(platform))
    assert verdict.state is VerdictState.VERIFIED, verdict.reasons


@pytest.mark.parametrize("times", [1, 2])
def test_a_window_after_those_that_did_not_hold_is_verified(times: int) -> None:
    result, samples = stepped_down(*honest_server(), times)
    verdict = judge_result(result, samples)
    assert verdict.state is VerdictState.VERIFIED, verdict.reasons


def test_a_bound_that_was_not_held_is_verified_and_claims_no_rate() -> None:
    result, samples = slower(*honest_server())
    scaled = [dataclasses.replace(p, median_ns=3 * p.median_ns) for p in result.workers[0].scaling]
    result = dataclasses.replace(result, workers=(dataclasses.replace(result.workers[0], scaling=tuple(scaled)),))
    verdict = judge_result(result, samples)
    assert verdict.state is VerdictState.VERIFIED, verdict.reasons
    metrics = index_of(result, "", verdict).metrics
    assert "server_rate_per_s" not in metrics
    assert metrics["late_count"] > 100
    assert metrics["latency_ms_p99"] > 60


def test_the_index_says_what_a_server_held_and_how() -> None:
    result, samples = honest_server()
    raw = samples.workers[0]
    index = index_of(result, "", judge_result(result, samples))
    window = result.workers[0].server
    assert window is not None
    assert index.params["hwbench.latency_bound_ms"] == "60.0"
    assert index.params["hwbench.latency_percentile"] == "99"
    assert index.metrics["server_rate_per_s"] == index.metrics["offered_rate_per_s"] == window.rate_per_s
    assert index.metrics["achieved_rate_per_s"] == len(raw.ends_ns) / (result.workers[0].window_ns / 1e9)
    assert index.metrics["late_count"] == 0
    assert index.metrics["latency_ms_max"] == max(raw.samples_ns) / 1e6
    waits = [s - a for a, s in zip(raw.arrivals_ns, raw.starts_ns, strict=True)]
    assert index.metrics["queue_ms_mean"] == pytest.approx(sum(waits) / len(waits) / 1e6)
    assert 10.0 <= index.metrics["service_ms_p50"] <= 10.1


def test_a_multistream_s_latency_is_of_the_query_and_its_throughput_of_the_samples() -> None:
    result, samples = honest_multistream()
    index = index_of(result, "", judge_result(result, samples))
    assert index.params["hwbench.query_size"] == "8"
    ns = samples.workers[0].samples_ns
    assert index.metrics["latency_ms_max"] == max(ns) / 1e6
    assert index.metrics["throughput_items_per_s"] == pytest.approx(8 * len(ns) / (sum(ns) / 1e9))
    assert "server_rate_per_s" not in index.metrics


def test_too_few_queries_claim_neither_a_rate_nor_a_percentile() -> None:
    result, samples = honest_server()
    result, samples = offered_at(result, samples, 1.5)
    metrics = index_of(result, "", judge_result(result, samples)).metrics
    assert metrics["late_count"] == 0
    assert "server_rate_per_s" not in metrics
    assert "latency_ms_p99" not in metrics


@pytest.mark.parametrize("case", FORGERIES, ids=[f[0] for f in FORGERIES])
def test_a_forgery_is_seen_by_its_rule(case: Any) -> None:
    _, make, state, rule, reason, forge = case
    verdict = judge_result(*forge(*make()))
    assert verdict.state is state, verdict.reasons
    assert any(f.rule == rule and f.effect is state and reason in f.reason for f in verdict.findings), verdict.reasons


def row(**changes: Any) -> dict[str, Any]:
    return {
        "scenario": "server", "latency_bound_ms": 20.0, "latency_percentile": 99, "query_size": None,
        "server_rate_per_s": 37.125, "offered_rate_per_s": 37.125, **changes,
    }  # fmt: skip


def test_a_report_says_what_a_server_held_under_which_bound_and_never_a_rate_that_was_not_shown() -> None:
    assert words.scenario(row()) == "server, 20 ms at p99"
    assert words.rate(row()) == "held at 37.12 queries/s"
    assert words.rate(row(server_rate_per_s=None)) == "not shown to hold at 37.12 queries/s: no rate is claimed"
    assert words.scenario(row(scenario="multistream", query_size=8)) == "multistream of 8"
    assert words.rate(row(scenario="multistream")) is None
    assert words.scenario(row(scenario="offline")) == "offline"


def test_the_summary_and_the_note_of_a_server_show_its_rate_its_bound_and_its_trail() -> None:
    result, _ = honest_server()
    said = dict(server_lines(result))
    assert said["rate"].startswith("37.12 queries/s hold 60 ms at percentile 99 (0 of ")
    assert said["tried"].count("held") == len(window_of(result).trials)
    assert "49.5/s not held (given up when 2 of 124 were late)" not in said["tried"]
    assert "49.5/s not held (given up when 1 of 124 were late)" in said["tried"]
    slow, _ = slower(*honest_server())
    assert dict(server_lines(slow))["rate"].startswith("none is claimed: 37.12 queries/s did not hold 60 ms")
    few, _ = offered_at(*honest_server(), 1.5)
    assert dict(server_lines(few))["rate"].startswith("none is claimed: too few queries at 1.5/s")
