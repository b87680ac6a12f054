"""Statistics against numpy's and against the binomial they come from."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench_mlflow.model import Conditions, Scenario
from hwbench_mlflow.stats import (
    aggregate,
    block_throughput_interval,
    is_flat,
    median_interval,
    percentile,
    quantile,
)

times = st.lists(st.integers(1, 10**12), min_size=1, max_size=300)


@given(times, st.floats(0, 1))
def test_quantiles_are_numpys(values: list[int], q: float) -> None:
    assert quantile(sorted(values), q) == pytest.approx(float(np.quantile(values, q)), rel=1e-12)


@pytest.mark.parametrize(("percent", "fewest"), [(50, 11), (90, 64), (95, 130), (99, 662)])
def test_a_percentile_of_too_few_samples_is_unknown(percent: int, fewest: int) -> None:
    assert percentile([1.0] * (fewest - 1), percent) is None
    assert percentile([1.0] * fewest, percent) == 1.0


@pytest.mark.parametrize("n", [6, 11, 30, 200, 1000, 1001, 5000])
def test_the_medians_interval_covers_at_least_95_percent(n: int) -> None:
    interval = median_interval([float(v) for v in range(n)])
    assert interval is not None
    below = int(interval[0])  # order statistic below+1: missed if at most `below` samples lie under the median
    log_tail = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(below + 1)
    ]
    assert 2 * math.fsum(map(math.exp, log_tail)) <= 0.0505
    assert interval[1] == n - 1 - below


def test_five_samples_have_no_interval() -> None:
    assert median_interval([1.0] * 5) is None


@given(times, st.integers(1, 64))
def test_throughput_is_items_over_time(values: list[int], batch: int) -> None:
    found = aggregate([values], [1], batch, Conditions())
    assert found.throughput_items_per_s == pytest.approx(batch * len(values) / (sum(values) / 1e9))
    assert found.min_ms <= found.mean_ms * (1 + 1e-12)
    assert found.mean_ms <= found.max_ms * (1 + 1e-12)


@pytest.mark.parametrize("samples", [[[]], [[0]], [[5, -1]]])
def test_no_statistics_of_nothing(samples: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="samples"):
        aggregate(samples, [1], 1, Conditions())


@pytest.mark.parametrize(
    ("samples", "conditions", "reason"),
    [
        ([[100] * 50 + [200] * 50], Conditions(), "drift"),
        ([[100, 200] * 50], Conditions(), "interquartile"),
        ([[100] * 50, [120] * 50], Conditions(), "workers"),
        ([[100] * 50], Conditions(steal_fraction=0.2), "hypervisor"),
        ([[100] * 50], Conditions(foreign_cpu_fraction=0.5), "other processes"),
        ([[100] * 50], Conditions(throttle_events=3), "throttle"),
        ([[100] * 50], Conditions(throttle_reasons=("power cap",)), "power cap"),
        ([[100] * 50], Conditions(foreign_device_pids=(7,)), "on the device"),
    ],
)
def test_noise_has_its_reason(samples: list[list[int]], conditions: Conditions, reason: str) -> None:
    found = aggregate(samples, [1] * len(samples), 1, conditions)
    assert not found.stable
    assert any(reason in said for said in found.noise_reasons), found.noise_reasons


def test_a_quiet_machine_is_stable() -> None:
    assert aggregate([[100, 101] * 50], [1], 1, Conditions(steal_fraction=0.0)).stable


def test_a_warm_up_is_over_when_its_blocks_are_flat() -> None:
    assert not is_flat([10.0, 10.0])
    assert not is_flat([20.0, 12.0, 10.0])
    assert is_flat([20.0, 10.1, 10.0, 10.0])


def test_the_interval_of_a_block_s_throughput_is_the_one_of_its_times_turned_around() -> None:
    """Against the definition: the order statistics of the blocks' own throughputs."""
    drawn = np.random.default_rng(6).lognormal(16, 0.05, 60)
    blocks, runs, batch = [int(ns) * 4 for ns in drawn], 4, 8
    stats = aggregate([blocks], [runs], batch, Conditions())
    interval = median_interval(sorted(batch * 1e9 * runs / ns for ns in blocks))
    assert block_throughput_interval(stats, batch) == pytest.approx(interval, rel=1e-12)
    assert interval is not None
    assert interval[0] < stats.throughput_items_per_s < interval[1]
    assert block_throughput_interval(aggregate([blocks[:5]], [runs], batch, Conditions()), batch) is None


@pytest.mark.parametrize("scenario", [Scenario.LATENCY, Scenario.OFFLINE])
def test_only_an_offline_result_shows_an_interval_of_its_blocks(scenario: Scenario) -> None:
    from hwbench_mlflow.cli.summary import summary_document, summary_text
    from hwbench_mlflow.model import Verdict, VerdictState
    from tests.honest import honest

    result, _ = honest()
    result = replace(result, workload=replace(result.workload, scenario=scenario))
    judged: Any = SimpleNamespace(result=result, verdict=Verdict(state=VerdictState.VERIFIED, findings=()))
    listed: Any = summary_document([(None, None, judged)])["results"]
    (entry,) = listed
    shown = "(median block: 95% interval " in summary_text(None, None, judged)
    assert shown is (entry["block_throughput_items_per_s_ci95"] is not None) is (scenario is Scenario.OFFLINE)
