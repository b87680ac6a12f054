"""What every check of the gate answers, whoever made it: the suites, the SQL audit, the judge.

Stdlib only; imports nothing of the package, so that those who check and those who publish can share these words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class RuleKind(StrEnum):
    """What a failure means: ``row`` keeps the rows that fail out, ``table`` refuses everything."""

    ROW = "row"
    TABLE = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one rule.

    ``refused`` is ``(key, reason)`` for each row that failed; the key is the table's own (a run, a model, a device).
    ``evaluated`` and ``unexpected`` count rows (or runs) and are None where the rule could not be evaluated: then it
    has not passed. ``reason`` is set exactly when it has not passed.
    """

    rule: str
    suite: str
    table: str
    kind: RuleKind
    passed: bool
    why: str
    what_to_do: str
    suite_sha256: str | None = None
    evaluated: int | None = None
    unexpected: int | None = None
    reason: str | None = None
    refused: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        """A failure without a reason, or a pass of nothing that was evaluated, is a mistake of the caller's."""
        if self.passed is (self.reason is not None):
            raise ValueError(f"rule {self.rule}: passed is {self.passed}, the reason {self.reason!r}")
        if self.passed and (self.evaluated is None or self.unexpected != 0 or self.refused):
            raise ValueError(f"rule {self.rule} cannot have passed: it was not evaluated, or has unexpected rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Publish or not, and why not: the rules that refuse everything."""

    publish: bool
    refusals: tuple[Outcome, ...]


def decide(outcomes: Iterable[Outcome], *, strict: bool) -> Decision:
    """Refuse if a table rule failed, if a row rule failed without naming its rows, with ``strict`` if any failed.

    No outcome at all refuses too: a gate that checked nothing has not passed.
    """
    found = tuple(outcomes)
    failed = [o for o in found if not o.passed]
    refusals = [o for o in failed if strict or o.kind is RuleKind.TABLE or not o.refused]
    return Decision(publish=bool(found) and not refusals, refusals=tuple(refusals))
