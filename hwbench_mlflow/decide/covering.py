"""What was measured, model by platform by precision; what to run next, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from hwbench_mlflow.model import DEFAULT_PRECISION, Platform, Precision

ALL_PLATFORMS = tuple(str(platform) for platform in Platform)
STALE_AFTER_DAYS = 90
ENOUGH_RUNS = 4
"""Runs that a comparison needs a side."""

Key = tuple[str, str, str]
"""Model, platform, precision that it ran in."""

Failures = Mapping[tuple[str, str, str | None], "Found"]
"""Model, platform, precision that was asked for (None: unknown) -> the last failure."""

EMULATED = "EMULATED"
"""State of a platform of which a probe found an emulator only: what runs there is simulated."""


def usual_precision(platform: str) -> str:
    """What a benchmark runs in where no precision is asked for. ``platform`` may be a name unknown here."""
    known = platform in ALL_PLATFORMS
    return str(DEFAULT_PRECISION.get(Platform(platform), Precision.FP32) if known else Precision.FP32)


class State(StrEnum):
    """What a cell holds, the best first: the first one that is true of it."""

    VERIFIED = "verified"
    NOISY = "noisy"
    STALE = "stale"
    SIMULATED = "simulated"
    UNRANKED = "unranked"
    QUARANTINED = "quarantined"
    FAILED = "failed"
    UNAVAILABLE = "unavailable"
    NEVER = "never run"


ABSENT = frozenset({"not_installed", "no_driver", "no_device", "unsupported_host", "probe_failed"})
"""Failures that say that the hardware was not there."""

RETRIED = frozenset({"timeout", "interrupted", "crash", "hub_unreachable"})
"""Failures that another attempt may not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Results of one cell. ``stable`` counts ranked ones that are not noisy and newer than the age that is stale."""

    ranked: int = 0
    fresh: int = 0
    stable: int = 0
    unranked: int = 0
    simulated: int = 0
    quarantined: int = 0
    newest: datetime | None = None
    run_id: str | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The last failure of a model on a platform, or the best probe of a platform; ``remedy`` would change it."""

    state: str
    reason: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell. ``reason`` says why it is in that state, where the numbers do not."""

    model: str
    platform: str
    precision: str
    state: State
    runs: int
    newest: datetime | None
    run_id: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """A run worth doing, the most useful first."""

    model: str
    platform: str
    precision: str
    why: str


def cover(  # noqa: PLR0917 -- three axes, and what is known of their cells
    models: Iterable[str],
    platforms: Iterable[str],
    precisions: Iterable[str] | None,
    measured: Mapping[Key, Measured],
    failures: Failures,
    probes: Mapping[str, Found],
) -> list[Cell]:
    """Every cell of the table. ``precisions`` None: for each platform what is usual, and what was ever run on it."""
    rows = []
    for model in models:
        for platform in platforms:
            ran = {p for (_, where, p) in measured if where == platform}
            for precision in sorted({usual_precision(platform), *ran} if precisions is None else set(precisions)):
                known = measured.get((model, platform, precision), Measured())
                failure = _failure(failures, model, platform, precision)
                rows.append(_cell(model, platform, precision, known, failure, probes.get(platform)))
    return rows


def _failure(failures: Failures, model: str, platform: str, precision: str) -> Found | None:
    """The last failure at a precision; one of which the precision is unknown may have been of any."""
    return failures.get((model, platform, precision), failures.get((model, platform, None)))


def _cell(  # noqa: PLR0917 -- a key and what is known of it
    model: str, platform: str, precision: str, known: Measured, failure: Found | None, probe: Found | None
) -> Cell:
    state, reason = _state(known, failure, probe)
    return Cell(
        model=model, platform=platform, precision=precision, state=state, runs=known.ranked, newest=known.newest,
        run_id=known.run_id, reason=reason,
    )  # fmt: skip


def _state(known: Measured, failure: Found | None, probe: Found | None) -> tuple[State, str | None]:
    simple = (
        (known.stable, State.VERIFIED, None),
        (known.fresh, State.NOISY, known.why),
        (known.ranked, State.STALE, None),
        (known.simulated, State.SIMULATED, known.why),
        (known.unranked, State.UNRANKED, "only the test profile was run"),
        (known.quarantined, State.QUARANTINED, known.why),
    )
    for count, state, reason in simple:
        if count:
            return state, reason
    if failure is not None and failure.state not in ABSENT:
        return State.FAILED, f"{failure.state}: {failure.reason}"
    if probe is not None and probe.state == EMULATED:
        return State.UNAVAILABLE, f"only emulated: {probe.reason}; what runs there is simulated"
    if probe is not None and probe.state != "AVAILABLE":
        return State.UNAVAILABLE, _with_remedy(probe)
    if probe is None and failure is not None:
        return State.UNAVAILABLE, _with_remedy(failure)
    return State.NEVER, None if probe is not None else "never probed: run `hwbench devices --log`"


def _with_remedy(found: Found) -> str:
    return f"{found.state}: {found.reason}" + (f" -> {found.remedy}" if found.remedy else "")


def next_runs(cells: Sequence[Cell], failures: Failures, probes: Mapping[str, Found]) -> list[Next]:
    """What can be run, as far as is known, and would change the table most."""
    found: list[tuple[int, Next]] = []
    for cell in cells:
        probe = probes.get(cell.platform)
        if probe is None or probe.state != "AVAILABLE":
            continue
        failure = _failure(failures, cell.model, cell.platform, cell.precision)
        order = _worth(cell, failure.state if failure is not None else None)
        if order is not None:
            rank, why = order
            found.append((rank, Next(model=cell.model, platform=cell.platform, precision=cell.precision, why=why)))
    return [one for _, one in sorted(found, key=lambda item: item[0])]


def _worth(cell: Cell, category: str | None) -> tuple[int, str] | None:
    if cell.state is State.FAILED:
        return (5, f"it failed with {category}, which another attempt may not") if category in RETRIED else None
    if cell.state is State.VERIFIED:
        return (6, f"{cell.runs} runs: a comparison needs {ENOUGH_RUNS}") if cell.runs < ENOUGH_RUNS else None
    alone = (1, f"only {cell.state} so far, and the hardware was verified")
    return {
        # The usual one first: what others are compared with.
        State.NEVER: (
            0 if cell.precision == usual_precision(cell.platform) else 3,
            "never run, and the hardware was verified",
        ),
        State.SIMULATED: alone,
        State.UNRANKED: alone,
        State.QUARANTINED: alone,
        State.NOISY: (2, "its fresh results are all noisy"),
        State.STALE: (4, f"its newest result is of {cell.newest:%Y-%m-%d}" if cell.newest else "it is stale"),
    }.get(cell.state)


def stale_before(now: datetime, days: float) -> datetime:
    """Results older than this are stale."""
    return now - timedelta(days=days)
