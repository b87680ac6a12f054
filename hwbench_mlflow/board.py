"""What the status dashboard is made of: a few rows of each kind, and how many there are. Types only; stdlib.

The warehouse fills it, the reports draw it, the server hands it out; none knows another. Unlike a report's
:class:`~hwbench_mlflow.summary.Summary` it is asked for a page at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some rows of all there are, from ``offset`` on."""

    rows: Sequence[Row]
    total: int
    offset: int = 0
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The first page. ``kinds`` counts quarantined runs by rule, ``failures`` runs without a result by category."""

    manifest: Mapping[str, str]
    latest: Part
    matrix: Sequence[Row]
    kinds: Sequence[Row]
    failures: Sequence[Row]
    rules: int
    rules_failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What the warehouse says of itself: its gates and syncs, newest first, and what MLflow says is running.

    ``trouble`` says why the warehouse cannot be looked at; then nothing else is known. ``read_at`` is UTC.
    """

    read_at: datetime
    trouble: str | None = None
    gates: Sequence[Row] = ()
    failed: Sequence[Row] = ()
    syncs: Sequence[Row] = ()
    running: Sequence[Row] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of the keyring. ``standing`` is ``trusted``, or ``revoked`` with when and why."""

    keyid: str
    name: str
    standing: str
    own: bool
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys that this machine's gate trusts. ``used`` counts published results by key."""

    keys: Sequence[Key]
    used: Mapping[str, int] = field(default_factory=dict)
    trouble: str | None = None
