"""What a report is made of: rows that passed the gate, and what is missing beside them. Types only; stdlib.

The warehouse fills it, the reports draw it; neither knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Row = Mapping[str, Any]
"""A row of a published table: column -> value, None where it is unknown. Units are in the names, times are UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which results are wanted; an empty tuple wants all. ``since`` is UTC and naive."""

    models: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    since: datetime | None = None

    def words(self) -> str | None:
        """The filters as people say them; None if there are none."""
        named = [("model", self.models), ("hardware", self.platforms), ("precision", self.precisions)]
        said = [f"{name} {' or '.join(values)}" for name, values in named if values]
        if self.since is not None:
            said.append(f"since {self.since:%Y-%m-%d %H:%M} UTC")
        return ", ".join(said) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Results of one kind. ``latest`` has the last result of each configuration, at most so many of them.

    ``results`` and ``configurations`` count what the filters let through, shown or not. A row of ``latest`` has, beside
    the published columns, ``result_count``: how many results its configuration has.
    """

    latest: Sequence[Row]
    configurations: int
    results: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """One configuration over time: medians in ms, their 95% interval and whether they are stable, oldest first; of
    ``row`` the last one."""

    row: Row
    points: Sequence[tuple[datetime, float, float | None, float | None, bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Everything that a page shows. ``simulated`` is None unless it was asked for.

    ``stale`` says why this is not what the warehouse would publish now; None if it is. The ``*_count`` are of all
    there are; the rows beside them may be fewer.
    """

    manifest: Mapping[str, str]
    stale: str | None
    filters: Filters
    real: Results
    simulated: Results | None
    trends: Sequence[Trend]
    quarantine: Sequence[Row]
    quarantine_count: int
    failures: Sequence[Row]
    failure_count: int
    availability: Sequence[Row]
    rules_failed: Sequence[Row]
    rule_count: int
