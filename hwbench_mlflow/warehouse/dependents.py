"""What rests on a run, and goes when the run does: the rows of the star schema, kept true by every sync.

A sync that judges nothing needs no more of the star schema than this, and so is spared the rules of verdicts, whose
import takes longer than it does.
"""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PER_RUN = (
    "performance_results", "latency_samples", "verdict_findings", "evidence_files", "estimates", "rooflines",
    "benchmark_runs",
)  # fmt: skip
"""A run's rows in each are rewritten as a whole; the last one says that the others are there."""
DIMENSIONS = ("models", "hardware_platforms")
LOG = "hardware_availability_log"

KEYS = {"models": "model_id", "hardware_platforms": "hardware_id"}


@dataclass(slots=True, kw_only=True)
class Filled:
    """What one sync did to the star schema."""

    judged: int = 0
    written: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)


def forget(connection: DuckDBPyConnection, run_ids: Sequence[str]) -> None:
    """Take the rows of runs away, but not what they say of probes: that is a history. Inside the caller's
    transaction."""
    mine = connection.execute(
        "SELECT run_id FROM benchmark_runs WHERE run_id IN (SELECT unnest(?::VARCHAR[]))", [list(run_ids)]
    ).fetchall()
    if not mine:
        return
    for table in PER_RUN:
        connection.execute(f"DELETE FROM {table} WHERE run_id IN (SELECT unnest(?::VARCHAR[]))", [[r[0] for r in mine]])


def forget_changed(connection: DuckDBPyConnection, batch: int) -> None:
    """:func:`forget` the runs that a batch of the mirror rewrites."""
    rows = connection.execute("SELECT run_uuid FROM s_changed WHERE batch = ? AND NOT is_new", [batch]).fetchall()
    if rows:
        forget(connection, [r[0] for r in rows])


def orphans(connection: DuckDBPyConnection) -> bool:
    """True if a model or a device has no result left."""
    return any(
        connection.execute(
            f"SELECT EXISTS (SELECT 1 FROM {table} WHERE {key} NOT IN (SELECT {key} FROM performance_results))"
        ).fetchall()[0][0]
        for table, key in KEYS.items()
    )


def tidy(connection: DuckDBPyConnection) -> None:
    """Remove models and devices without a result. Inside the caller's transaction."""
    for table, key in KEYS.items():
        connection.execute(f"DELETE FROM {table} WHERE {key} NOT IN (SELECT {key} FROM performance_results)")
