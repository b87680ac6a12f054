"""Which device for a model: a ranking of verified results, how sure it is, and what would make it surer. Pure.

Confidence, from where the numbers come from and nothing else:

* *high*: measured on two hosts or more that agree within 10%, and replicated: another machine of the same kind, with
  another key, confirms a run within 2% (:mod:`.replicating`); 4 runs or more whose spread is at most 5%; most of them
  not noisy; the newest at most 90 days old; 662 samples or more; the very model that was asked for.
* *medium*: 2 runs or more, spread at most 10%, not most of them noisy, at most 180 days old, 64 samples or more, the
  very model.
* *low*: everything else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from hwbench_mlflow.decide.replicating import MARGIN
from hwbench_mlflow.errors import UsageError


class Objective(StrEnum):
    """What is to be good."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    ENERGY = "energy"
    COST = "cost"


UNITS = {
    Objective.LATENCY: "ms", Objective.THROUGHPUT: "items/s", Objective.ENERGY: "J/item",
    Objective.COST: "per million items",
}  # fmt: skip


class Confidence(StrEnum):
    """How sure a number is."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The thresholds of one level of confidence."""

    hosts: int
    runs: int
    spread: float
    age: timedelta
    samples: int
    replicated: bool


LIMITS = {
    Confidence.HIGH: Limits(hosts=2, runs=4, spread=0.05, age=timedelta(days=90), samples=662, replicated=True),
    Confidence.MEDIUM: Limits(hosts=1, runs=2, spread=0.10, age=timedelta(days=180), samples=64, replicated=False),
}
AGREEMENT = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One configuration with what its runs measured: medians over runs. Unknown is None.

    ``replicated`` counts the runs that another machine confirms; ``confirmable`` is the newest run that one could
    confirm (:mod:`.replicating`), if any. ``low`` and ``high`` are the extremes of its runs' median latencies and of
    their throughputs. ``hosts`` has each host's median latency, or throughput where there is no latency.
    ``energy_j_per_item`` is of counters or integrated power only: an estimate is no measurement. ``cost`` is per
    million items, in the currency of the user's prices.
    """

    work: Mapping[str, Any]
    similar: bool
    runs: int
    noisy: int
    samples: int
    newest: datetime
    run_ids: Sequence[str]
    hosts: Sequence[float]
    spread: float | None
    latency_ms: float | None
    latency_range: tuple[float, float] | None
    latency_at: Mapping[int, float | None]
    throughput: float
    throughput_range: tuple[float, float]
    energy_j_per_item: float | None
    simulation_reason: str | None = None
    cost: float | None = None
    replicated: int = 0
    confirmable: str | None = None

    def value(self, objective: Objective) -> float | None:
        """What the objective looks at."""
        return {
            Objective.LATENCY: self.latency_ms, Objective.THROUGHPUT: self.throughput,
            Objective.ENERGY: self.energy_j_per_item, Objective.COST: self.cost,
        }[objective]  # fmt: skip

    @property
    def alone(self) -> bool:
        """Whether only one machine has measured it: nothing but that machine's word stands behind it."""
        return len(self.hosts) == 1

    @property
    def why_not_confirmable(self) -> str | None:
        """Why no other machine could confirm any of its runs as they are; None if one could."""
        if self.confirmable is not None:
            return None
        if self.work["scenario"] == "offline":
            return "scenario offline has no median latency that could be confirmed; a run of latency has"
        return f"none of its runs is quiet, with a median known to {MARGIN:.0%}: measure it longer first"

    @property
    def device(self) -> tuple[Any, ...]:
        """What a row of the ranking is for."""
        return tuple(self.work[name] for name in ("platform", "device_name", "effective_precision"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of the ranking. ``missing`` would raise its confidence; ``tied``: it may be as good as the first."""

    rank: int
    candidate: Candidate
    value: float
    confidence: Confidence
    missing: Sequence[str]
    tied: bool
    on_front: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """``left_out`` says of devices with results why they have no row; ``front_of`` which metrics the front is over."""

    objective: Objective
    entries: Sequence[Entry]
    similar: Sequence[Entry]
    simulated: Sequence[Candidate]
    left_out: Sequence[str]
    front_of: Sequence[Objective]
    front: Sequence[Candidate]


PRICE = re.compile(r"([^=]+)=(\d+(?:\.\d+)?|\.\d+)(?:/h)?")


def prices(texts: Sequence[str]) -> dict[tuple[str, str | None], float]:
    """``PLATFORM[:DEVICE]=NUMBER[/h]`` each -> price an hour, by platform and device. Raises UsageError."""
    found: dict[tuple[str, str | None], float] = {}
    for text in texts:
        matched = PRICE.fullmatch(text.strip())
        if matched is None or float(matched[2]) <= 0:
            raise UsageError(f"{text!r} is no price", remedy="Prices look like cuda:NVIDIA-L4=0.8/h or cpu=0.12")
        platform, _, device = matched[1].partition(":")
        key = (platform.strip().lower(), _plain(device) if device else None)
        if key in found:
            raise UsageError(f"{matched[1]!r} has two prices")
        found[key] = float(matched[2])
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]+", "-", name.lower()).strip("-")


def priced(candidate: Candidate, table: Mapping[tuple[str, str | None], float]) -> Candidate:
    """With its cost, if there is a price for its device, or for its platform: price an hour over items an hour."""
    platform = str(candidate.work["platform"])
    price = table.get((platform, _plain(str(candidate.work["device_name"]))), table.get((platform, None)))
    return candidate if price is None else replace(candidate, cost=price / (candidate.throughput * 3600) * 1e6)


def recommend(
    candidates: Sequence[Candidate],
    simulated: Sequence[Candidate],
    objective: Objective,
    *,
    now: datetime,
    max_latency_ms: float | None = None,
    percentile: int = 50,
) -> Recommendation:
    """Rank the best configuration of each device and precision; of similar models apart, and after.

    ``max_latency_ms`` bounds the given percentile of latency; who has none is left out, and that is said.
    """
    left_out: list[str] = []
    usable = []
    for one in candidates:
        at = one.latency_at.get(percentile)
        if max_latency_ms is not None and (at is None or at > max_latency_ms):
            known = "unknown" if at is None else f"{at:.4g} ms"
            left_out.append(f"{_name(one)}: its latency (p{percentile}) is {known}, the bound {max_latency_ms:g} ms")
        elif one.value(objective) is None:
            why = {
                Objective.LATENCY: "no latency of single inferences was measured",
                Objective.ENERGY: "its energy was not measured",
                Objective.COST: "no price was given for it (--price)",
                Objective.THROUGHPUT: "no throughput was measured",
            }[objective]
            left_out.append(f"{_name(one)}: {why}")
        else:
            usable.append(one)
    dimensions, front = pareto([one for one in usable if not one.similar])
    ranked = [_ranked([c for c in usable if c.similar is similar], objective, now, front) for similar in (False, True)]
    return Recommendation(
        objective=objective, entries=ranked[0], similar=ranked[1], simulated=simulated,
        left_out=list(dict.fromkeys(left_out)), front_of=dimensions, front=front,
    )  # fmt: skip


def _name(one: Candidate) -> str:
    work = one.work
    return f"{work['device_name']} ({work['platform']}), batch {work['batch_size']}, {work['effective_precision']}"


def _better(objective: Objective, a: float, b: float) -> bool:
    return a > b if objective is Objective.THROUGHPUT else a < b


def _ranked(
    candidates: Sequence[Candidate], objective: Objective, now: datetime, front: Sequence[Candidate]
) -> list[Entry]:
    sign = -1 if objective is Objective.THROUGHPUT else 1
    best: dict[tuple[Any, ...], Candidate] = {}
    for one in sorted(candidates, key=lambda c: (sign * (c.value(objective) or 0), c.run_ids[0])):
        best.setdefault(one.device, one)
    entries: list[Entry] = []
    for one in best.values():
        value = one.value(objective)
        assert value is not None  # others were left out
        level, missing = confidence(one, now)
        entries.append(
            Entry(
                rank=len(entries) + 1, candidate=one, value=value, confidence=level, missing=missing,
                tied=bool(entries) and _tied(entries[0].candidate, one, objective), on_front=one in front,
            )
        )  # fmt: skip
    return entries


def _tied(first: Candidate, other: Candidate, objective: Objective) -> bool:
    """Whether their runs overlap in what the objective is made of; energies have no range, so within a twentieth."""
    if objective is Objective.ENERGY:
        return math.isclose(first.energy_j_per_item or 0, other.energy_j_per_item or 0, rel_tol=0.05)
    if objective is Objective.LATENCY:
        one, two = first.latency_range, other.latency_range
    elif objective is Objective.COST:
        one, two = (_cost_range(c) for c in (first, other))
    else:
        one, two = first.throughput_range, other.throughput_range
    return one is not None and two is not None and one[0] <= two[1] and two[0] <= one[1]


def _cost_range(one: Candidate) -> tuple[float, float] | None:
    if one.cost is None:
        return None
    low, high = one.throughput_range
    return one.cost * one.throughput / high, one.cost * one.throughput / low


def confidence(one: Candidate, now: datetime) -> tuple[Confidence, list[str]]:
    """The level, and what is missing for the next one up."""
    high = _missing(one, LIMITS[Confidence.HIGH], now)
    if not high:
        return Confidence.HIGH, []
    medium = _missing(one, LIMITS[Confidence.MEDIUM], now)
    return (Confidence.LOW, medium) if medium else (Confidence.MEDIUM, high)


def _missing(one: Candidate, limits: Limits, now: datetime) -> list[str]:
    said = []
    if one.similar:
        said.append(f"a run of the model itself: this is {one.work['model_name']}")
    if len(one.hosts) < limits.hosts:
        said.append(f"an independent replication on {limits.hosts - len(one.hosts)} more host")
    elif len(one.hosts) > 1 and max(one.hosts) / min(one.hosts) > 1 + AGREEMENT:
        said.append(f"hosts that agree: they differ by {max(one.hosts) / min(one.hosts) - 1:.0%}")
    elif limits.replicated and not one.replicated:
        said.append("a replication: the same within 2% by another machine of the same kind (hwbench replicate)")
    if one.runs < limits.runs:
        said.append(f"{limits.runs - one.runs} more runs")
    elif one.spread is None or one.spread > limits.spread:
        spread = "unknown" if one.spread is None else f"{one.spread:.0%}"
        said.append(f"a spread of runs of at most {limits.spread:.0%}: it is {spread}")
    if 2 * one.noisy >= one.runs and one.noisy:
        said.append(f"runs that are not noisy: {one.noisy} of {one.runs} are")
    if now - one.newest > limits.age:
        said.append(f"a run of the last {limits.age.days} days: the newest is {(now - one.newest).days} days old")
    if one.samples < limits.samples:
        said.append(f"{limits.samples} samples: there are {one.samples}")
    return said


def pareto(candidates: Sequence[Candidate]) -> tuple[list[Objective], list[Candidate]]:
    """The configurations that no other one beats in everything, and in what.

    Over latency and throughput, and over energy and cost where every candidate has one: who is not measured is neither
    beaten nor unbeaten.
    """
    known = [c for c in candidates if c.latency_ms is not None]
    if not known:
        return [], []
    dimensions = [o for o in Objective if all(c.value(o) is not None for c in known)]
    points = [tuple((-1 if o is Objective.THROUGHPUT else 1) * (c.value(o) or 0) for o in dimensions) for c in known]
    front: list[tuple[Candidate, tuple[float, ...]]] = []
    for one, point in sorted(zip(known, points, strict=True), key=lambda item: item[1]):
        # Sorted: whoever beats it in everything came before it.
        if not any(all(a <= b for a, b in zip(p, point, strict=True)) and p != point for _, p in front):
            front.append((one, point))
    return dimensions, [one for one, _ in front]
