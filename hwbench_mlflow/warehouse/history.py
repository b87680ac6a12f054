"""The published history of each configuration on each machine, with what it ran in. Reads what was checked."""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwbench_mlflow.decide.changes import Run, Series
from hwbench_mlflow.decide.comparing import WORK
from hwbench_mlflow.decide.selectors import Selector
from hwbench_mlflow.warehouse.chosen import condition, reads_of
from hwbench_mlflow.warehouse.pairs import METRIC_COLUMNS, value_sql
from hwbench_mlflow.warehouse.published import Published, open_published

SERIES = (*WORK, "host_id", "device_id", "weights")
"""Results that agree in these are one history. Drivers, packages, revisions, effective precision may change in it."""

ENVIRONMENT = {
    "device_driver": "driver", "kernel": "kernel", "python": "python", "hwbench_version": "hwbench",
    "git_commit": "git commit", "effective_precision": "effective precision", "backend": "backend",
    "device_uuid": "device UUID", "hostname": "host name", "key_id": "signing key", "boot_id": "boot",
    "weights_sha256": "weights' content",
}  # fmt: skip
"""What is named beside a change, by column. Packages are named one by one."""


def open_history(path: Path, side: Selector | None, metric: str | None) -> Published:
    """The published file with what a history reads checked. Raises UsageError for a metric that has no better."""
    value_sql(metric)
    reads = reads_of([] if side is None else [side])
    wanted = [
        *reads["real_results"], *SERIES, *ENVIRONMENT, "packages_id", "created_at", "started_at", "stable", "ranked",
        *METRIC_COLUMNS, *([] if metric is None else [metric]),
    ]  # fmt: skip
    reads["real_results"] = list(dict.fromkeys(wanted))
    reads["package_sets"] = ["packages_id", "package", "version"]
    return open_published(path, reads)


def histories(found: Published, side: Selector | None, metric: str | None, *, last: int) -> list[Series]:
    """The ``last`` newest ranked runs of every configuration that has the metric, oldest first."""
    values: dict[str, Any] = {"last": last}
    value, named = value_sql(metric)
    wanted = "true" if side is None else condition(side, "s", values)
    keys = ", ".join(SERIES)
    # Grouped first, with the newest runs of each group: a window over a million rows by fourteen columns is slow.
    groups = found.connection.execute(
        f"""SELECT {keys}, {named} AS metric, count(*) AS n, arg_max(run_id, created_at, $last) AS runs
            FROM real_results WHERE ranked AND {value} IS NOT NULL AND {wanted}
            GROUP BY {keys}, metric ORDER BY ALL""",
        values,
    ).fetchall()
    if not groups:
        return []
    runs = _runs(found, [run for group in groups for run in group[-1]], value)
    made = []
    for *names, metric_of, count, ids in groups:
        ordered = sorted((runs[i] for i in ids), key=lambda run: (run.created_at, run.run_id))
        made.append(
            Series(
                configuration=dict(zip(SERIES, names, strict=True)), metric=metric_of, runs=ordered,
                earlier=count - len(ids),
            )
        )  # fmt: skip
    return made


def _runs(found: Published, ids: Sequence[str], value: str) -> dict[str, Run]:
    import pyarrow as pa

    found.connection.register("wanted_runs", pa.table({"run_id": pa.array(ids, pa.string())}))
    columns = ", ".join(ENVIRONMENT)
    rows = found.connection.execute(
        f"""SELECT run_id, started_at, created_at, {value}, stable, packages_id, {columns}
            FROM real_results SEMI JOIN wanted_runs USING (run_id)"""
    ).fetchall()
    found.connection.unregister("wanted_runs")
    made = {}
    for run_id, started_at, created_at, measured, stable, packages, *rest in rows:
        environment = {name: v and str(v) for name, v in zip(ENVIRONMENT.values(), rest, strict=True)}
        made[run_id] = Run(
            run_id=run_id, started_at=started_at, created_at=created_at, value=measured, stable=stable,
            environment=environment | {PACKAGES: packages},
        )  # fmt: skip
    return made


PACKAGES = "packages"


def package_changes(found: Published, before: str, after: str) -> dict[str, tuple[str, str]]:
    """``package NAME`` -> both versions, of what two sets of packages do not share."""
    rows = found.connection.execute(
        """SELECT coalesce(a.package, b.package), coalesce(a.version, 'none'), coalesce(b.version, 'none')
           FROM (FROM package_sets WHERE packages_id = $before) a
           FULL JOIN (FROM package_sets WHERE packages_id = $after) b ON a.package = b.package
           WHERE a.version IS DISTINCT FROM b.version ORDER BY 1""",
        {"before": before, "after": after},
    ).fetchall()
    return {f"package {name}": (one, other) for name, one, other in rows}
