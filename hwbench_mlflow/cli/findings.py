"""What a look at one thing comes to, for ``hwbench doctor``: what was seen, how bad it is, and what to do about it.

A check is a function that says its findings. One that crashes is ``unknown``, with its error: never ok.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    UNKNOWN = "unknown"
    ABSENT = "absent"
    """Not here, or not yet, and nothing is wrong with that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at: what was seen, and what to do where something is to be done."""

    check: str
    level: Level
    seen: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is to be looked at."""

    tracking_uri: str | None
    db: Path
    published: Path
    stuck_hours: float
    probe: bool


Check = Callable[[Setup], Iterator[Finding]]


def run_checks(setup: Setup, checks: dict[str, Check]) -> list[Finding]:
    """Every check's findings, in order. One that raises, or that says nothing, is unknown."""
    found: list[Finding] = []
    for name, check in checks.items():
        try:
            said = list(check(setup))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is shown, and it is not ok
            text = " ".join(str(error).split())[:300] or type(error).__name__
            said = [Finding(check=name, level=Level.UNKNOWN, seen=f"the check failed: {type(error).__name__}: {text}")]
        found += said or [Finding(check=name, level=Level.UNKNOWN, seen="the check saw nothing")]
    return found
