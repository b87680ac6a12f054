"""Verdicts of pairs: each one, each reason against one, and how often they are wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwbench_mlflow.decide.alarms import alarms
from hwbench_mlflow.decide.comparing import WORK, Comparison, Outcome, Pair, Side, check, compare


def side(values: list[float], **more: Any) -> Side:
    return Side(count=len(values), values=values, run_ids=["a" * 32], **more)


def drawn(seed: int, n: int, shift: float = 1.0, spread: float = 0.005) -> list[float]:
    return [float(v) for v in shift * 10 * np.exp(np.random.default_rng(seed).normal(0, spread, n))]


def pair(a: list[float], b: list[float], metric: str = "latency_ms_p50", **more: Any) -> Pair:
    return Pair(work=dict.fromkeys(WORK), metric=metric, a=side(a), b=side(b), **{"differs": {}, **more})


def one(p: Pair, **options: Any) -> Comparison:
    return compare([p], **options)[0]


@pytest.mark.parametrize(
    ("shift", "metric", "outcome"),
    [
        (1.0, "latency_ms_p50", Outcome.SAME), (1.1, "latency_ms_p50", Outcome.SLOWER),
        (0.9, "latency_ms_p50", Outcome.FASTER), (1.1, "throughput_items_per_s", Outcome.FASTER),
        (0.9, "throughput_items_per_s", Outcome.SLOWER),
    ],
)  # fmt: skip
def test_a_clear_case_is_called_by_its_name_whichever_way_is_better(
    shift: float, metric: str, outcome: Outcome
) -> None:
    found = one(pair(drawn(1, 10), drawn(2, 10, shift), metric))
    assert found.outcome is outcome
    assert found.ratio == pytest.approx(shift, rel=0.01)
    assert found.basis == "bootstrap of runs"


def test_both_ways_round_the_verdict_is_the_opposite() -> None:
    a, b = drawn(1, 10), drawn(2, 12, 1.07)
    forth, back = one(pair(a, b)), one(pair(b, a))
    assert (forth.outcome, back.outcome) == (Outcome.SLOWER, Outcome.FASTER)
    assert forth.ratio == pytest.approx(1 / back.ratio)  # type: ignore[operator]
    assert forth.cliffs_delta == pytest.approx(-back.cliffs_delta)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"differs": {"effective_precision": ("fp32", "bf16")}}, "other precision: fp32 and bf16"),
        ({"differs": {"device_driver": ("550", "560")}}, "other driver: 550 and 560"),
        ({"differs": {"host_id": ("h1", "h2"), "device_uuid": ("u1", "u2")}}, "other host: h1 and h2"),
        ({"differs": {"weights": ("random", "pretrained")}}, "other weights: random and pretrained"),
        ({"differs": {"key_id": ("k1", "k2")}}, "other signing key: k1 and k2"),
        ({"differs": {"metric": ("latency_ms_p50", "throughput_items_per_s")}}, "other metric: latency_ms_p50 and"),
        ({"a": side(drawn(1, 10), throttled=1)}, "1 of 10 runs of A were throttled"),
        ({"b": side(drawn(1, 10), missing=2)}, "2 of 10 runs of B have no latency_ms_p50"),
        ({"b": side([*drawn(1, 9), 0.0])}, "B has values of latency_ms_p50 that are no positive numbers"),
        ({"b": side([*drawn(1, 9), float("nan")])}, "B has values of latency_ms_p50 that are no positive numbers"),
        ({"b": side([])}, "0 and"),
    ],
)  # fmt: skip
def test_what_is_not_alike_or_not_a_number_is_ambiguous_and_says_so(change: dict[str, Any], reason: str) -> None:
    sound = pair(drawn(1, 10), drawn(2, 10, 2.0))
    assert one(sound).outcome is Outcome.SLOWER
    found = one(replace(sound, **change))
    assert found.outcome is Outcome.AMBIGUOUS
    if reason != "0 and":
        assert any(said.startswith(reason) for said in found.reasons), found.reasons
    assert found.reasons or found.ratio is None


def test_single_runs_without_a_history_are_ambiguous_and_their_interval_is_called_what_it_is() -> None:
    samples = [drawn(n, 100) for n in range(3)]
    found = one(pair([10.0], [20.0], samples_a=samples, samples_b=[[2 * v for v in w] for w in samples]))
    assert found.outcome is Outcome.AMBIGUOUS
    assert found.basis == "within these runs only"
    assert found.ratio == 2
    assert found.low is not None
    assert found.p is None
    assert "measure 4 a side" in found.reasons[0]


def test_single_runs_are_held_against_the_spread_of_their_history() -> None:
    history = drawn(4, 20, spread=0.01)
    assert one(pair([10.0], [12.0], history=history)).outcome is Outcome.SLOWER
    assert one(pair([10.0], [10.1], history=history)).outcome is Outcome.AMBIGUOUS
    assert one(pair([10.0], [12.0], history=history[:5])).outcome is Outcome.AMBIGUOUS
    assert "history of" not in str(one(pair([10.0], [12.0], history=history)).reasons)


def test_one_run_against_many_is_held_against_their_spread() -> None:
    found = one(pair(drawn(5, 19, spread=0.01), [12.0]))
    assert (found.outcome, found.test) == (Outcome.SLOWER, "t")


def test_noise_counts_against_few_runs_and_is_noted_of_many() -> None:
    many = one(replace(pair(drawn(1, 10), drawn(2, 10, 1.1)), b=side(drawn(2, 10, 1.1), noisy=3)))
    assert (many.outcome, many.notes) == (Outcome.SLOWER, ("3 of 10 runs of B are noisy",))
    few = one(replace(pair(drawn(1, 10), [20.0]), b=side([20.0], noisy=1)))
    assert few.outcome is Outcome.AMBIGUOUS
    assert "1 of 1 runs of B are noisy" in few.reasons


def test_wide_intervals_are_ambiguous_and_ask_for_more_runs() -> None:
    found = one(pair(drawn(1, 6, spread=0.1), drawn(2, 6, spread=0.1)))
    assert found.outcome is Outcome.AMBIGUOUS
    assert "measure more runs" in found.reasons[0]


def test_many_comparisons_raise_hardly_a_false_alarm_together() -> None:
    families = 60
    wrong = sum(
        any(
            c.outcome in {Outcome.FASTER, Outcome.SLOWER}
            for c in compare(
                [pair(drawn(f * 50 + n, 8), drawn(10_000 + f * 50 + n, 8)) for n in range(20)], margin=1e-4
            )
        )
        for f in range(families)
    )
    assert wrong / families <= 0.05 + 3.3 * np.sqrt(0.05 * 0.95 / families)


def test_a_regression_fails_and_what_does_not_exclude_one_fails_too() -> None:
    slower, same = pair(drawn(1, 10), drawn(2, 10, 1.1)), pair(drawn(3, 10), drawn(4, 10))
    wide = pair(drawn(5, 6, spread=0.1), drawn(6, 6, spread=0.1))
    assert [c.outcome for c in compare([slower, same, wide])] == [Outcome.SLOWER, Outcome.SAME, Outcome.AMBIGUOUS]
    assert not check(compare([slower]), 0.05).passed(ambiguous_passes=True)
    assert check(compare([slower]), 0.2).passed(ambiguous_passes=False)
    assert check(compare([same]), 0.05).passed(ambiguous_passes=False)
    assert not check(compare([wide]), 0.05).passed(ambiguous_passes=False)
    assert check(compare([wide]), 0.05).passed(ambiguous_passes=True)
    # Its interval reaches beyond the margin, and not as far as the regression that is asked about.
    assert check(compare([wide]), 0.9).passed(ambiguous_passes=False)
    # Nor does any interval excuse sides that are not alike.
    other = replace(same, differs={"device_driver": ("1", "2")})
    assert not check(compare([other]), 0.9).passed(ambiguous_passes=False)
    assert not check(compare([replace(same, a=side(drawn(3, 10), throttled=1))]), 0.9).passed(ambiguous_passes=False)


def test_a_regression_of_throughput_is_less_of_it() -> None:
    found = compare([pair(drawn(1, 10), drawn(2, 10, 0.9), "throughput_items_per_s")])
    assert len(check(found, 0.05).regressed) == 1


def test_aa_finds_the_rate_of_honest_noise_and_a_drift_that_breaks_it() -> None:
    calm = alarms([pair(drawn(n, 40), []) for n in range(25)], margin=0.02)
    assert calm.neighbours is not None
    assert calm.splits is not None
    assert calm.neighbours.comparisons == 125
    assert calm.splits.comparisons == 400
    assert calm.neighbours.alarms / 125 <= 0.05
    assert calm.splits.alarms / 400 <= 0.06
    drift = [10.0 * 1.02**n for n in range(40)]
    moving = alarms([pair(drift, [])], margin=0.02)
    assert moving.neighbours is not None
    assert moving.neighbours.alarms == moving.neighbours.comparisons == 5
    assert alarms([pair(drawn(1, 7), [])], margin=0.02).neighbours is None
