"""Where the level of a history changed, and whether it got worse and stayed so. Pure; numpy, scipy and ruptures.

Why ruptures and not Apache Otava: Otava 0.8 (formerly Hunter) pins numpy to 2.2 and scipy under 1.17, and brings
clients of BigQuery, Grafana, PostgreSQL and Slack, so it cannot be installed beside MLflow 3.17's versions; ruptures
needs numpy and scipy alone. Its exact search for the best segmentation (KernelCPD, in C) finds the candidates; a
candidate stays if, like in Otava, it stands a test against its neighbours and is large enough. Where Otava has
Student's t, here is Mann-Whitney's U: medians of runs have outliers. ``tests/benchmarks/bench_changes.py`` compares the
two on histories with planted changes.

References: Truong, Oudre and Vayatis, Selective review of offline change point detection methods, Signal Processing
2020; Fleming et al., Hunter, ICPE 2023, for the merging of weak candidates.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from hwbench_mlflow.decide.ratios import Values, mann_whitney

MIN_SEGMENT = 4
"""Runs before a level is a level. With fewer, a test by ranks against a long history is hardly ever sure."""

PENALTY = 2.5
"""Times ln n, in units of the run-to-run variance: a little above BIC's 2, whose candidates the test thins anyway."""

OUTLIER = 3.0
"""Steps of this many run-to-run deviations that are gone with the next run are drawn in before the search."""

MAX_P = 0.004
"""For each candidate, which was chosen for being extreme; 4 runs against 10 can reach 0.002."""

MIN_CHANGE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a history. ``value`` is in the metric's unit; ``environment`` says what it ran in, by name."""

    run_id: str
    started_at: datetime
    created_at: datetime
    value: float
    stable: bool
    environment: Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The history of one configuration on one machine, in the order of its clock."""

    configuration: Mapping[str, Any]
    metric: str
    runs: Sequence[Run]
    earlier: int = 0
    """Runs before these that were not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePoint:
    """The first run of another level. ``slowdown`` above 1 is worse; ``before`` and ``after`` are medians of levels.

    The baseline is all runs ``start`` to ``index``. ``environment`` says what is different: name -> (before, after).
    """

    index: int
    start: int
    end: int
    before: float
    after: float
    slowdown: float
    p: float
    environment: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A history read from its beginning. ``open`` is the slowdown that was never made good; None if there is none.

    ``baseline`` are the indices of the runs that it is measured against. ``trouble`` says why nothing can be said.
    """

    series: Series
    changes: Sequence[ChangePoint] = ()
    open: float | None = None
    baseline: tuple[int, int] | None = None
    trouble: str | None = None
    short: bool = False


def boundaries(values: Sequence[float], *, min_change: float = MIN_CHANGE, max_p: float = MAX_P) -> list[int]:
    """The indices at which another level begins, of positive values in the order of time."""
    import ruptures

    n = len(values)
    if n < 2 * MIN_SEGMENT:
        return []
    logs = np.log(np.asarray(values, dtype=float))
    # Relative to a hundred-thousandth at least: values without any noise have no scale of their own.
    spread = max(float(np.median(np.abs(np.diff(logs)))) / (0.6745 * 2**0.5), 1e-5)
    signal = _drawn_in(logs, spread) / spread
    search = ruptures.KernelCPD(kernel="linear", min_size=MIN_SEGMENT).fit(signal.reshape(-1, 1))
    found = [int(index) for index in search.predict(pen=PENALTY * np.log(n))][:-1]
    return _merged(logs, found, min_change, max_p)


def _drawn_in(logs: Values, spread: float) -> Values:
    """Single runs that stand out from both neighbours' level are moved to its edge; a step that stays is left."""
    padded = np.pad(logs, 2, mode="edge")
    middle = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    limit = OUTLIER * spread
    drawn: Values = np.clip(logs, middle - limit, middle + limit)
    return drawn


def _merged(logs: Values, found: list[int], min_change: float, max_p: float) -> list[int]:
    """Drop the weakest candidate until every one stands: each drop makes its neighbours' levels longer."""
    found = list(found)
    while found:
        edges = [0, *found, len(logs)]
        weakest, worst = None, (False, 0.0)
        for number in range(1, len(edges) - 1):
            left, right = logs[edges[number - 1] : edges[number]], logs[edges[number] : edges[number + 1]]
            p = mann_whitney(left.tolist(), right.tolist())
            change = abs(float(np.median(right) - np.median(left)))
            small = change < np.log1p(min_change)
            if (p > max_p or small) and (small, p) >= worst:
                weakest, worst = number - 1, (small, p)
        if weakest is None:
            return found
        del found[weakest]
    return found


def read(series: Series, *, higher_is_worse: bool, threshold: float, min_change: float = MIN_CHANGE) -> Story:
    """What happened in a history, and what of it is still open.

    The baseline is the first level, then each level that is better than it. A level worse than the baseline by
    ``threshold`` opens a regression, which is closed by a later level within the threshold of the baseline: so a slow
    drift in small steps adds up, and an improvement that makes good half of a regression does not close it.
    """
    trouble = _trouble(series)
    if trouble is not None:
        return Story(series=series, trouble=trouble)
    values = [run.value for run in series.runs]
    if len(values) < 2 * MIN_SEGMENT:
        return Story(series=series, short=True)
    edges = [0, *boundaries(values, min_change=min_change), len(values)]
    levels = [float(np.median(values[start:end])) for start, end in itertools.pairwise(edges)]
    changes = [
        _change(series, edges[n - 1 : n + 2], levels[n - 1], levels[n], higher_is_worse) for n in range(1, len(levels))
    ]
    baseline, opened = 0, None
    for n in range(1, len(levels)):
        worse = _slowdown(levels[baseline], levels[n], higher_is_worse)
        opened = worse if worse >= 1 + threshold else None
        if worse < 1:
            baseline = n
    held = (edges[baseline], edges[baseline + 1])
    return Story(series=series, changes=changes, open=opened, baseline=held)


def _slowdown(before: float, after: float, higher_is_worse: bool) -> float:
    return after / before if higher_is_worse else before / after


def _change(series: Series, edges: Sequence[int], before: float, after: float, higher_is_worse: bool) -> ChangePoint:
    start, index, end = edges
    values = [run.value for run in series.runs]
    return ChangePoint(
        index=index, start=start, end=end, before=before, after=after,
        slowdown=_slowdown(before, after, higher_is_worse), p=mann_whitney(values[start:index], values[index:end]),
        environment=_environment(series.runs[start:index], series.runs[index:end]),
    )  # fmt: skip


def _environment(before: Sequence[Run], after: Sequence[Run]) -> dict[str, tuple[str, str]]:
    """What the last run before and the first after do not share; and noise, where most runs of one side have it."""
    one, other = before[-1].environment, after[0].environment
    said = {
        name: (_said(one.get(name)), _said(other.get(name)))
        for name in dict.fromkeys((*one, *other))
        if one.get(name) != other.get(name)
    }
    noisy = [sum(not run.stable for run in runs) for runs in (before, after)]
    if (2 * noisy[0] > len(before)) != (2 * noisy[1] > len(after)):
        said["noisy runs"] = (f"{noisy[0]} of {len(before)}", f"{noisy[1]} of {len(after)}")
    return said


def _said(value: str | None) -> str:
    return "none" if value is None else value


def _trouble(series: Series) -> str | None:
    if any(not np.isfinite(run.value) or run.value <= 0 for run in series.runs):
        return f"it has values of {series.metric} that are no positive numbers"
    back = [later.run_id for earlier, later in itertools.pairwise(series.runs) if later.started_at < earlier.created_at]
    if back:
        return (
            f"{len(back)} runs began before the one before them had ended ({back[0]}): the clock was set back, or they "
            "ran at once on one device; which came first is not known"
        )
    return None
