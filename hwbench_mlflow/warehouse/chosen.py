"""Published results that a search chooses, as SQL with bound values; and the columns that it needs to have checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hwbench_mlflow.decide.selectors import FIELDS, Selector


def reads_of(selectors: Iterable[Selector]) -> dict[str, list[str]]:
    """Table -> columns that must be checked before :func:`condition` can be asked."""
    columns: list[str] = ["run_id"]
    reads: dict[str, list[str]] = {}
    for side in selectors:
        columns += [FIELDS[name] for name in side.fields]
        columns += ["git_commit"] if side.commits else []
        columns += ["created_at"] if side.since or side.until else []
        if "host" in side.fields:
            columns.append("host_id")
        if "precision" in side.fields:
            columns.append("requested_precision")
        if side.experiments:
            columns.append("experiment_id")
            reads["experiments"] = ["experiment_id", "name"]
        if side.packages:
            columns.append("packages_id")
            reads["package_sets"] = ["packages_id", "package", "version"]
        if side.tags:
            reads["labels"] = ["run_id", "key", "value"]
    return {**reads, "real_results": list(dict.fromkeys(columns))}


def condition(side: Selector, prefix: str, values: dict[str, Any]) -> str:
    """A boolean expression over ``real_results``; its values are added to ``values``, under names with that prefix."""

    def bound(value: Any) -> str:
        name = f"{prefix}{len(values)}"
        values[name] = value
        return f"${name}"

    def among(column: str, wanted: Iterable[str]) -> str:
        return f"coalesce(list_contains({bound(list(wanted))}::VARCHAR[], {column}::VARCHAR), false)"

    def begins(column: str, wanted: Iterable[str]) -> str:
        return "(" + " OR ".join(f"coalesce(starts_with({column}, {bound(w)}), false)" for w in wanted) + ")"

    parts = []
    if side.runs:
        parts.append(begins("run_id", side.runs))
    if side.commits:
        parts.append(begins("git_commit", side.commits))
    for name, wanted in side.fields.items():
        columns = {"host": ("hostname", "host_id")}.get(name, (FIELDS[name],))
        parts.append("(" + " OR ".join(among(column, wanted) for column in columns) + ")")
    if side.experiments:
        inner = f"SELECT experiment_id FROM experiments WHERE {among('name', side.experiments)}"  # noqa: S608 -- bound
        parts.append(f"experiment_id IN ({inner})")
    for key, value in side.tags:
        inner = f"SELECT run_id FROM labels WHERE key = {bound(key)} AND value = {bound(value)}"  # noqa: S608 -- bound
        parts.append(f"run_id IN ({inner})")
    for key, value in side.packages:
        inner = f"SELECT packages_id FROM package_sets WHERE package = {bound(key)} AND version = {bound(value)}"  # noqa: S608
        parts.append(f"packages_id IN ({inner})")
    if side.since is not None:
        parts.append(f"created_at >= {bound(side.since)}::TIMESTAMP")
    if side.until is not None:
        parts.append(f"created_at < {bound(side.until)}::TIMESTAMP")
    return " AND ".join(parts) or "true"
