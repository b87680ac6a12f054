"""Intervals and tests of ratios, against truths that are known because they were planted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from hwbench_mlflow.decide import ratios

values = st.lists(st.floats(1e-3, 1e6), min_size=4, max_size=40)


def within_binomial_bounds(hits: int, trials: int, rate: float) -> bool:
    """Whether so many hits are what that rate gives, at 99.9%."""
    spread = 3.3 * np.sqrt(rate * (1 - rate) / trials)
    return bool(abs(hits / trials - rate) <= spread)


@given(values, values)
@settings(max_examples=40, deadline=None)
def test_b_against_a_is_the_reciprocal_of_a_against_b(a: list[float], b: list[float]) -> None:
    low, high = ratios.median_ratio_interval(a, b)
    back_low, back_high = ratios.median_ratio_interval(b, a)
    assert (low, high) == pytest.approx((1 / back_high, 1 / back_low))
    assert ratios.mann_whitney(a, b) == pytest.approx(ratios.mann_whitney(b, a))
    assert ratios.a12(a, b) == pytest.approx(1 - ratios.a12(b, a))


@given(values, values, st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_another_unit_changes_no_interval(a: list[float], b: list[float], scale: float) -> None:
    scaled = ratios.median_ratio_interval([v * scale for v in a], [v * scale for v in b])
    assert scaled == pytest.approx(ratios.median_ratio_interval(a, b), rel=1e-9)


def test_medians_of_resamples_are_those_of_resamples_that_are_made() -> None:
    for n in (7, 8):
        ordered = np.sort(np.random.default_rng(n).lognormal(0, 0.2, n))
        draw = np.random.default_rng(1)
        made = np.median(ordered[draw.integers(0, n, (40_000, n))], axis=1)
        drawn = np.concatenate([ratios._medians_of_resamples(ordered, s, 0) for s in range(1, 41)])
        for q in (0.05, 0.25, 0.5, 0.75, 0.95):
            assert np.mean(made <= np.quantile(ordered, q)) == pytest.approx(
                float(np.mean(drawn <= np.quantile(ordered, q))), abs=0.015
            )


@pytest.mark.parametrize("n", [4, 5, 8, 20])
def test_intervals_cover_and_tests_raise_false_alarms_as_often_as_they_say(n: int) -> None:
    draw, trials = np.random.default_rng(n), 400
    covered = alarms = 0
    for _ in range(trials):
        a, b = np.exp(draw.normal(0, 0.02, n)), 1.1 * np.exp(draw.normal(0, 0.02, n))
        low, high = ratios.median_ratio_interval(a, b)
        covered += low <= 1.1 <= high
        alarms += ratios.mann_whitney(a, b / 1.1) < 0.05
    assert covered / trials >= 0.90
    assert alarms / trials <= 0.05 + 3.3 * np.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(("first", "second"), [(1, 5), (1, 19), (2, 4), (3, 3)])
def test_the_test_for_few_runs_keeps_its_rate_too(first: int, second: int) -> None:
    draw, trials = np.random.default_rng(first * 100 + second), 1000
    alarms = 0
    for _ in range(trials):
        a, b = np.exp(draw.normal(0, 0.03, first)), np.exp(draw.normal(0, 0.03, second))
        spread, degrees = ratios.pooled_spread(a, b)
        alarms += ratios.spread_ratio_interval(a, b, spread, degrees)[2] < 0.05
    assert within_binomial_bounds(alarms, trials, 0.05)


@pytest.mark.parametrize(("shift", "least"), [(1.05, 0.95), (1.10, 0.99)])
def test_a_shift_is_found(shift: float, least: float) -> None:
    draw, trials, found = np.random.default_rng(3), 200, 0
    for _ in range(trials):
        a, b = np.exp(draw.normal(0, 0.02, 10)), shift * np.exp(draw.normal(0, 0.02, 10))
        found += ratios.mann_whitney(a, b) < 0.05 and ratios.median_ratio_interval(a, b)[0] > 1
    assert found / trials >= least


def test_blocks_keep_what_neighbours_have_in_common() -> None:
    """Autocorrelated samples: single ones would give an interval several times too narrow."""
    draw = np.random.default_rng(5)

    def run() -> list[float]:
        noise, state = draw.normal(0, 0.01, 400), 0.0
        return [10 + (state := 0.9 * state + step) for step in noise]

    covered = 0
    for _ in range(60):
        low, high = ratios.block_ratio_interval([run()], [run()])
        covered += low <= 1 <= high
    assert covered >= 44
    low, high = ratios.block_ratio_interval([run()], [[2 * v for v in run()]])
    assert low < 2 < high < 2.1


def test_a_shift_of_the_level_is_no_spread() -> None:
    steady = [10.0, 10.1, 9.9, 10.0, 10.1, 9.9]
    assert ratios.successive_spread([*steady, *[v * 1.5 for v in steady]]) < 0.5 * ratios.log_spread(
        [*steady, *[v * 1.5 for v in steady]]
    )


def test_holm_is_the_textbooks_and_leaves_out_what_was_not_tested() -> None:
    assert ratios.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert ratios.holm([]) == []


def test_the_effect_size_counts_ties_half() -> None:
    a, b = [1.0, 2.0, 2.0, 3.0], [2.0, 2.0, 4.0]
    statistic = mannwhitneyu(b, a).statistic
    assert ratios.a12(a, b) == pytest.approx(statistic / 12)


@pytest.mark.parametrize("hits", [0, 3, 20])
def test_a_proportions_interval_is_exact(hits: int) -> None:
    from scipy.stats import binomtest

    exact = binomtest(hits, 20).proportion_ci(0.95, "exact")
    assert ratios.binomial_interval(hits, 20) == pytest.approx((exact.low, exact.high))
    assert ratios.binomial_interval(0, 0) == (0.0, 1.0)


def test_too_few_values_are_refused() -> None:
    with pytest.raises(ValueError, match="four values"):
        ratios.median_ratio_interval([1.0, 2.0, 3.0], [1.0] * 4)
    with pytest.raises(ValueError, match="no samples"):
        ratios.block_ratio_interval([[1.0]], [[]])
