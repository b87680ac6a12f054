"""Reference pages that MkDocs generates from the code: ``{{ metrics }}``, ``{{ warehouse }}``, ``{{ published }}``.

Reads the package and starts nothing. A placeholder that is not known fails the build.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PLACEHOLDER = re.compile(r"^\{\{ (\w+) \}\}$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the placeholders of a page."""
    return PLACEHOLDER.sub(lambda found: GENERATED[found[1]](), markdown)


def on_config(config: Any, **_: Any) -> Any:
    """Let the reference of commands show examples as such, and what stands below the options as well."""
    import click

    from hwbench_mlflow.cli.main import root

    def prepare(command: click.Command) -> None:
        paragraphs = "\n\n".join(inspect.cleandoc(text or "") for text in (command.help, command.epilog)).split("\n\n")
        command.help = "\n\n".join(
            "\n".join(f"    {line}" for line in text.splitlines()[1:]) if text.startswith("\b") else text
            for text in paragraphs
        ).strip()
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                found = command.get_command(click.Context(command), name)
                assert found is not None
                prepare(found)

    prepare(root)
    return config


def metrics() -> str:
    """The tables of ``metrics.py``."""
    from hwbench_mlflow.metrics import ESTIMATE_METRICS, METRICS, ROOFLINE_METRICS

    parts = []
    for heading, table in (
        ("Of a result", METRICS), ("Of an estimate", ESTIMATE_METRICS), ("Of a calibration", ROOFLINE_METRICS),
    ):  # fmt: skip
        rows = [(f"`{s.name}`", s.unit, s.better or "", s.meaning) for s in table.values()]
        parts += [f"## {heading}", "", _table(("metric", "unit", "better", "meaning"), rows), ""]
    return "\n".join(parts)


def warehouse() -> str:
    """What the migrations make."""
    import duckdb

    from hwbench_mlflow.warehouse.database import migrate

    with duckdb.connect() as connection:
        migrate(connection, Path("hwbench.duckdb"))
        return _tables(connection, "memory")


def published() -> str:
    """What a publication holds."""
    import duckdb

    from hwbench_mlflow.warehouse.database import migrate
    from hwbench_mlflow.warehouse.publish import create_tables

    with duckdb.connect() as connection:
        migrate(connection, Path("hwbench.duckdb"))
        connection.execute("ATTACH ':memory:' AS pub")
        create_tables(connection)
        return _tables(connection, "pub")


def _tables(connection: Any, database: str) -> str:
    columns = connection.execute(
        "SELECT schema_name, table_name, column_name, data_type, is_nullable FROM duckdb_columns() "
        "WHERE database_name = ? AND NOT internal ORDER BY schema_name, table_name, column_index",
        [database],
    ).fetchall()
    found: dict[str, list[tuple[str, str, str]]] = {}
    for schema, table, column, kind, nullable in columns:
        name = table if schema == "main" else f"{schema}.{table}"
        found.setdefault(name, []).append((f"`{column}`", kind, "may be unknown" if nullable else ""))
    return "\n\n".join(f"### `{name}`\n\n{_table(('column', 'type', 'NULL'), rows)}" for name, rows in found.items())


def _table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heading = list(heading)
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


GENERATED = {"metrics": metrics, "warehouse": warehouse, "published": published}
