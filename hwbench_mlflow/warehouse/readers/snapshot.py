"""What the readers of database servers share: which tables are read whole, and which only of runs that changed.

What a later sync rests on: ``runs`` and ``tags`` are always compared by content, because MLflow edits and deletes
there. ``params`` and ``metrics`` only gain rows while their run lives, and ``latest_metrics`` changes only in the
transaction that adds to ``metrics``: the server counts rows a run, and only runs whose count is not the mirror's are
read again. Knows a cursor as ADBC's, and no server.
"""

# ruff: noqa: S608 -- names come from our own tables of columns, run ids are quoted

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwbench_mlflow.warehouse.readers import Mode, Request
from hwbench_mlflow.warehouse.readers.tables import FEW, SOURCES, experiment_ids, name_lists
from hwbench_mlflow.warehouse.stage import CHILDREN, MIRROR

if TYPE_CHECKING:
    from hwbench_mlflow.warehouse.stage import Stage


def usable(request: Request, kind: str, revision: str) -> bool:
    """True if only what changed since the last sync need be read."""
    previous = request.previous
    if request.mode is Mode.FULL or request.experiments or previous is None:
        return False
    return previous.kind == kind and previous.revision == revision


def load_tables(
    cursor: Any, stage: Stage, request: Request, columns: set[str], *, relied_on: bool, null_text: str
) -> None:
    """Fill the stage from the snapshot that ``cursor`` is in.

    ``columns`` are those of ``experiments``, ``null_text`` is SQL for a NULL of text, ``relied_on`` whether the mirror
    is what the last sync made it.
    """

    def load(table: str, where: str = "") -> None:
        absent = {"workspace"} - columns if table == "experiments" else set()
        picked = ", ".join(f'{null_text} AS "{c}"' if c in absent else f'"{c}"' for c in MIRROR[table])
        tail = f" WHERE {where}" if where else ""
        cursor.execute(f"SELECT {picked} FROM {SOURCES.get(table, table)}{tail}")
        stage.load(table, cursor.fetch_record_batch())

    names = request.experiments
    scope = f"experiment_id IN ({experiment_ids(cursor, names)})" if names else ""
    for table in ("experiments", "experiment_tags", "runs"):
        load(table, scope)
    changed = _changed(cursor, stage, request.mode) if relied_on else None
    if changed is None or len(changed) > FEW * max(stage.run_count(), 1):
        where = f"run_uuid IN (SELECT run_uuid FROM runs WHERE {scope})" if scope else ""
        for table in CHILDREN:
            load(table, where)
        stage.all_are_candidates()
        return
    for listed in name_lists(sorted(changed)):
        for table in CHILDREN:
            load(table, f"run_uuid IN ({listed})")
    stage.add_candidates(sorted(changed))


def _changed(cursor: Any, stage: Stage, mode: Mode) -> set[str]:
    """Runs to read again."""
    changed = set(stage.changed_run_rows())
    counted = ["params", "metric_history"]
    if mode is Mode.FAST:
        counted.append("tags")
    else:
        cursor.execute('SELECT run_uuid, "key", value FROM tags')
        changed |= set(stage.changed_tags(cursor.fetch_record_batch()))
    for table in counted:
        cursor.execute(f"SELECT run_uuid, count(*) AS n FROM {SOURCES.get(table, table)} GROUP BY run_uuid")
        changed |= set(stage.changed_counts(table, cursor.fetch_record_batch()))
    return changed
