"""Two sides of a comparison, configuration by configuration, and what can be said of each pair. Pure.

The rules, in the order they are asked:

1. What is not alike is AMBIGUOUS, with what differs: precision, weights, device, driver, host, backend, key. So is a
   pair in which a run was throttled.
2. With four runs or more a side: the ratio of the medians of the runs, its 95% bootstrap interval over runs, and
   Mann-Whitney's U. With fewer, but six runs in all: Student's t on the pooled spread of the runs. With fewer still:
   t on the run-to-run spread of the configuration's published history, where it has six runs. Else AMBIGUOUS: what
   differs between two runs of one and the same thing is not known, and an interval over samples is not that.
3. SAME: the whole interval is within the margin. FASTER and SLOWER: it excludes 1, and the p-value, by Holm's method
   for all the pairs together, is under 5%. Anything else is AMBIGUOUS: measure more.

Where runs are few, noise within one is not in the spread between them: a noisy run makes such a pair AMBIGUOUS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from hwbench_mlflow.decide import ratios
from hwbench_mlflow.metrics import METRICS

ALPHA = 0.05
MIN_RUNS = 4
"""Fewest runs a side for a test by ranks: with three, Mann-Whitney's p cannot be under 5%."""
MIN_ALL = 6
"""Fewest runs of both sides together, and of a history, from which a spread is taken: 4 degrees of freedom."""
DEFAULT_MARGIN = 0.02

AUTO_METRIC = {
    "latency": "latency_ms_p50", "multistream": "latency_ms_p50", "offline": "throughput_items_per_s",
    "server": "server_rate_per_s",
}  # fmt: skip
"""What is compared unless something else is asked for, by scenario: overlapped inferences have no latency."""

WORK = (
    "model_name", "platform", "device_name", "requested_precision", "batch_size", "sequence_length", "image_size",
    "audio_seconds", "phase", "output_tokens", "kv_cache", "scenario", "latency_bound_ms", "latency_percentile",
    "query_size", "profile", "compile_mode", "threads",
)  # fmt: skip
"""What the two sides of a pair agree in: the configuration as it was asked for."""

ALIKE = {
    "effective_precision": "precision", "weights": "weights", "weights_sha256": "weights' content",
    "device_id": "device", "device_uuid": "device", "device_driver": "driver", "host_id": "host",
    "backend": "backend", "key_id": "signing key", "metric": "metric",
}  # fmt: skip
"""What they must agree in besides, to be comparable -> how it is called."""


class Outcome(StrEnum):
    """What is said of B, measured against A."""

    FASTER = "FASTER"
    SLOWER = "SLOWER"
    SAME = "SAME"
    AMBIGUOUS = "AMBIGUOUS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The runs of one configuration on one side, oldest first. ``values`` are in the metric's unit, one a run.

    ``run_ids`` may be cut short; ``count`` is how many runs there are. ``missing`` counts runs without the metric.
    """

    count: int
    values: Sequence[float]
    run_ids: Sequence[str]
    noisy: int = 0
    throttled: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One configuration on both sides. ``work`` has the columns of WORK, None where a side is free in one.

    ``differs`` says in which columns of ALIKE the sides do not agree, with both values. ``history`` are the values of
    every published run of this very configuration, oldest first. ``samples_a`` and ``samples_b`` are of single runs.
    """

    work: Mapping[str, Any]
    metric: str
    a: Side
    b: Side
    differs: Mapping[str, tuple[str, str]]
    history: Sequence[float] = ()
    samples_a: Sequence[Sequence[float]] = ()
    samples_b: Sequence[Sequence[float]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came of a pair. ``ratio`` is B over A in the metric's unit; ``slowdown`` is it turned so that more is worse.

    ``low`` and ``high`` are its 95% interval; ``basis`` says of what. ``p`` is before, ``p_adjusted`` after Holm.
    ``a12`` is the chance that a run of B is larger than one of A. What is unknown is None; ``reasons`` say why.
    """

    pair: Pair
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    basis: str | None = None
    p: float | None = None
    p_adjusted: float | None = None
    test: str | None = None
    a12: float | None = None

    def slowdown(self) -> tuple[float, float | None, float | None] | None:
        """Ratio and interval as how much worse B is: above 1 is worse. None where there is no ratio."""
        if self.ratio is None:
            return None
        if METRICS[self.pair.metric].better == "lower":
            return self.ratio, self.low, self.high
        return 1 / self.ratio, _reciprocal(self.high), _reciprocal(self.low)

    @property
    def cliffs_delta(self) -> float | None:
        """Cliff's delta of B over A."""
        return None if self.a12 is None else 2 * self.a12 - 1


def _reciprocal(value: float | None) -> float | None:
    return None if value is None else 1 / value


def compare(pairs: Sequence[Pair], *, margin: float = DEFAULT_MARGIN, seed: int = 0) -> list[Comparison]:
    """What can be said of every pair, with p-values adjusted for all of them together."""
    measured = [_measure(pair, seed) for pair in pairs]
    adjusted = ratios.holm([found.p for found in measured])
    return [_decide(replace(found, p_adjusted=p), margin) for found, p in zip(measured, adjusted, strict=True)]


def _measure(pair: Pair, seed: int) -> Comparison:
    """Ratio, interval, test; and every reason against saying anything. The outcome is set by :func:`_decide`."""
    reasons = [f"other {ALIKE[c]}: {one} and {other}" for c, (one, other) in _told_once(pair.differs).items()]
    notes: list[str] = []
    for name, side in (("A", pair.a), ("B", pair.b)):
        if side.missing:
            reasons.append(f"{side.missing} of {side.count} runs of {name} have no {pair.metric}")
        if side.throttled:
            reasons.append(f"{side.throttled} of {side.count} runs of {name} were throttled")
        measured = np.asarray(side.values, dtype=float)
        if not (np.isfinite(measured) & (measured > 0)).all():
            reasons.append(f"{name} has values of {pair.metric} that are no positive numbers")
    usable = not any("no positive numbers" in reason for reason in reasons)
    found = Comparison(pair=pair, outcome=Outcome.AMBIGUOUS, reasons=tuple(reasons))
    a, b = pair.a.values, pair.b.values
    if not usable or not a or not b:
        return found
    found = replace(found, ratio=_median(b) / _median(a))
    few = min(len(a), len(b)) < MIN_RUNS
    for name, side in (("A", pair.a), ("B", pair.b)):
        if side.noisy:
            text = f"{side.noisy} of {side.count} runs of {name} are noisy"
            (reasons if few else notes).append(text)
    found = _tested(found, a, b, seed)
    if found.basis is None or found.p is None:
        counted = f"{len(a)} and {len(b)} runs"
        reasons.append(
            f"{counted}, and {len(pair.history)} in its history: how much two runs of one thing differ is not known; "
            f"measure {MIN_RUNS} a side"
        )
    return replace(found, reasons=tuple(reasons), notes=tuple(notes))


def _tested(found: Comparison, a: Sequence[float], b: Sequence[float], seed: int) -> Comparison:
    effect = ratios.a12(a, b) if len(a) + len(b) > 2 else None
    if min(len(a), len(b)) >= MIN_RUNS:
        low, high = ratios.median_ratio_interval(a, b, seed=seed)
        p = ratios.mann_whitney(a, b)
        return replace(found, low=low, high=high, basis="bootstrap of runs", p=p, test="Mann-Whitney U", a12=effect)
    if len(a) + len(b) >= MIN_ALL:
        spread, degrees = ratios.pooled_spread(a, b)
        low, high, p = ratios.spread_ratio_interval(a, b, spread, degrees)
        return replace(found, low=low, high=high, basis="t, spread of these runs", p=p, test="t", a12=effect)
    history = found.pair.history
    if len(history) >= MIN_ALL:
        # Successive differences overlap: about two thirds of them are degrees of freedom (von Neumann et al.).
        degrees = (2 * (len(history) - 1)) // 3
        low, high, p = ratios.spread_ratio_interval(a, b, ratios.successive_spread(history), degrees)
        basis = f"t, spread of {len(history)} runs of its history"
        return replace(found, low=low, high=high, basis=basis, p=p, test="t", a12=effect)
    if found.pair.samples_a and found.pair.samples_b:
        low, high = ratios.block_ratio_interval(found.pair.samples_a, found.pair.samples_b, seed=seed)
        pooled = [[v for worker in side for v in worker] for side in (found.pair.samples_a, found.pair.samples_b)]
        effect = ratios.a12(*pooled)
        return replace(found, low=low, high=high, basis="within these runs only", a12=effect)
    return found


def _decide(found: Comparison, margin: float) -> Comparison:
    turned = found.slowdown()
    if found.reasons or turned is None:
        return found
    _, low, high = turned
    if low is None or high is None or found.p_adjusted is None:
        return found
    if 1 / (1 + margin) <= low and high <= 1 + margin:
        return replace(found, outcome=Outcome.SAME)
    excludes = high < 1 or low > 1
    if excludes and found.p_adjusted < ALPHA:
        return replace(found, outcome=Outcome.FASTER if high < 1 else Outcome.SLOWER)
    if excludes:
        why = f"p is {found.p_adjusted:.2g} after Holm's correction: measure more runs a side"
    else:
        why = f"the interval holds 1 and reaches beyond the margin of {margin:.1%}: measure more runs a side"
    return replace(found, reasons=(why,))


def _told_once(differs: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """One column of each name: a device's id and its UUID are both the device."""
    kept: dict[str, tuple[str, str]] = {}
    for column, values in differs.items():
        if ALIKE[column] not in {ALIKE[c] for c in kept} and not (column == "weights_sha256" and "weights" in differs):
            kept[column] = values
    return kept


def _median(values: Sequence[float]) -> float:
    return float(np.median(np.asarray(values, dtype=float)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """``--fail-on-regression``: the pairs that are slower by that much, and those in which that is not excluded."""

    threshold: float
    regressed: Sequence[Comparison]
    undecided: Sequence[Comparison]

    def passed(self, *, ambiguous_passes: bool) -> bool:
        """Nothing regressed, and, unless told otherwise, nothing is open."""
        return not self.regressed and (ambiguous_passes or not self.undecided)


def check(found: Sequence[Comparison], threshold: float) -> Check:
    """Which pairs fail a threshold. AMBIGUOUS is no pass, unless its interval excludes such a regression all the same.

    That needs a pair whose sides are alike: an interval over two different things excludes nothing.
    """
    regressed, undecided = [], []
    for one in found:
        turned = one.slowdown()
        if one.outcome is Outcome.SLOWER and turned is not None and turned[0] >= 1 + threshold:
            regressed.append(one)
        elif one.outcome is Outcome.AMBIGUOUS:
            fine = one.p is not None and not one.pair.differs and turned is not None and turned[2] is not None
            throttled = one.pair.a.throttled or one.pair.b.throttled or one.pair.a.missing or one.pair.b.missing
            if not fine or throttled or (turned is not None and turned[2] is not None and turned[2] >= 1 + threshold):
                undecided.append(one)
    return Check(threshold=threshold, regressed=regressed, undecided=undecided)
