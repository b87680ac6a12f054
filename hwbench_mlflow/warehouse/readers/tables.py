"""What the readers of MLflow's own tables share: their names, and short queries over an ADBC cursor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hwbench_mlflow.errors import UsageError

SOURCES = {"metric_history": "metrics"}
"""MLflow's name of a table, where it is not the mirror's."""
FEW = 0.2
"""Above this share of changed runs, reading whole tables beats looking runs up."""
_IN_LIST = 500


def rows(cursor: Any, sql: str) -> list[tuple[Any, ...]]:
    """All rows of a short answer."""
    cursor.execute(sql)
    return [tuple(r) for r in cursor.fetchall()]


def experiment_ids(cursor: Any, names: Sequence[str]) -> str:
    """The ids of the named experiments, for an SQL ``IN``. Raises UsageError for a name that the store lacks."""
    known = {r[1]: int(r[0]) for r in rows(cursor, "SELECT experiment_id, name FROM experiments")}
    return ", ".join(str(known[name]) for name in check_names(known, names))


def check_names(known: dict[str, int], names: Sequence[str]) -> Sequence[str]:
    """``names`` if all are known; otherwise a UsageError that names the first one that is not."""
    unknown = [n for n in names if n not in known]
    if unknown:
        raise UsageError(f"no experiment named {unknown[0]!r} in the store")
    return names


def name_lists(run_ids: Sequence[str]) -> Iterator[str]:
    """Run ids quoted for SQL ``IN`` lists, a few hundred at a time: short statements keep the plan on the index."""
    for begin in range(0, len(run_ids), _IN_LIST):
        yield ", ".join("'" + r.replace("'", "''") + "'" for r in run_ids[begin : begin + _IN_LIST])
