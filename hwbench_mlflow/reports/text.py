"""Reports for other programs and for pull requests: Markdown of a summary, JSON and CSV of every result."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from hwbench_mlflow.reports import estimates, words
from hwbench_mlflow.reports.page import title
from hwbench_mlflow.summary import Row, Summary

SCHEMA_VERSION = 1


def to_markdown(summary: Summary) -> Iterator[str]:
    """The page's tables as Markdown, a line at a time."""
    manifest = summary.manifest
    yield f"# {title(summary)}"
    yield ""
    if summary.stale is not None:
        yield f"> **Stale:** {cell(summary.stale)}"
        yield ""
    yield (
        f"Published {manifest['published_at']} by gate `{manifest['gate_id']}`: {manifest['rows_real']} real, "
        f"{manifest['rows_simulated']} simulated, {manifest['rows_estimates']} SIMULATED estimates, "
        f"{manifest['rows_rooflines']} rooflines, {manifest['rows_quarantined']} quarantined of "
        f"{manifest['rows_in']} runs."
    )
    if (filters := summary.filters.words()) is not None:
        yield f"Only {cell(filters)}."
    yield ""
    yield "## Real results"
    yield ""
    yield from _table(summary.real.latest, summary.real.configurations)
    yield from _written([row for row in summary.real.latest if words.writes(row)])
    if summary.simulated is not None:
        yield "## SIMULATED results: not measured on the hardware named, never ranked"
        yield ""
        yield from _table(summary.simulated.latest, summary.simulated.configurations)
    if summary.estimates is not None:
        yield from estimates.markdown(summary.estimates, summary.estimate_count)
    if summary.failures:
        yield "## Not measured"
        yield ""
        yield "| model | hardware | why | what to do |"
        yield "| --- | --- | --- | --- |"
        for row in summary.failures:
            why = f"{row['failure_category']}: {row['failure_reason']}"
            cells = (row["model_name"], row["hardware_type"], why, row["failure_remedy"])
            yield f"| {' | '.join(map(cell, cells))} |"
        yield ""
    if summary.quarantine:
        yield f"## Quarantined ({words.counted(int(manifest['rows_quarantined']), 'result')})"
        yield ""
        yield "| run | rule | why |"
        yield "| --- | --- | --- |"
        for row in summary.quarantine:
            yield f"| {cell(row['run_id'])} | {cell(row['rule'])} | {cell(row['reason'])} |"
        yield ""


def _written(rows: Sequence[Row]) -> Iterator[str]:
    """Of models that write or hear, what the other tables have no column for."""
    if not rows:
        return
    yield "## Writing and hearing"
    yield ""
    yield "| model | device | workload | first token ms | each token ms | tokens/s | times real time | run |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |"
    for row in rows:
        numbers = ("ttft_ms_p50", "tpot_ms_p50", "tokens_per_s", "real_time_factor")
        cells = [
            cell(row["model_name"]), cell(words.device(row)), cell(words.workload(row)),
            *[words.number(row[name]) for name in numbers], cell(row["run_id"]),
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"
    yield ""


def _table(rows: Sequence[Row], configurations: int) -> Iterator[str]:
    if not rows:
        yield "None."
        yield ""
        return
    yield "| model | device | workload | median ms (95% interval) | p90 | p99 | items/s | MB | J/item | note | run |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |"
    for row in rows:
        median = words.number(row["latency_ms_p50"])
        if (interval := words.interval(row)) is not None:
            median += f" ({interval})"
        numbers = ("latency_ms_p90", "latency_ms_p99", "throughput_items_per_s", "memory_peak_mb", "energy_j_per_item")
        cells = [
            cell(row["model_name"]), cell(words.device(row)), cell(words.workload(row)), median,
            *[words.number(row[name]) for name in numbers], cell("; ".join(words.marks(row))), cell(row["run_id"]),
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"
    yield ""
    if configurations > len(rows):
        yield f"{words.counted(configurations - len(rows), 'more configuration')} not shown."
        yield ""


def cell(text: str | None) -> str:
    """Text as Markdown that shows exactly it, on one line; nothing that turns the writing round."""
    if text is None:
        return words.ABSENT
    plain = words.short(" ".join(str(text).split()), 1000)
    return re.sub(r"([\\`*_{}\[\]()#|<>~&!])", r"\\\1", plain).replace("\\<", "&lt;").replace("\\>", "&gt;")


def write_csv(columns: Sequence[str], rows: Iterable[Row], out: TextIO) -> None:
    """Every result, a line each; NULL is empty, lists are JSON."""
    writer = csv.writer(out)
    writer.writerow(columns)
    for row in rows:
        values = [row[name] for name in columns]
        writer.writerow([json.dumps(v, default=str) if isinstance(v, list | dict) else v for v in values])


def write_json(summary: Summary, rows: Iterable[Row], out: TextIO) -> None:
    """One object: the manifest, every result (``is_simulated`` on each), and what is missing. Written as it is read."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "title": title(summary),
        "stale": summary.stale,
        "filters": summary.filters.words(),
        "includes_simulated": summary.simulated is not None,
        "manifest": dict(summary.manifest),
        **({"estimates": [dict(row) for row in summary.estimates]} if summary.estimates is not None else {}),
        "failures": [dict(row) for row in summary.failures],
        "quarantine": [dict(row) for row in summary.quarantine],
        "availability": [dict(row) for row in summary.availability],
    }
    out.write(json.dumps(head, default=str)[:-1] + ', "results": [')
    for number, row in enumerate(rows):
        out.write((",\n" if number else "\n") + json.dumps(row, default=str))
    out.write("]}\n")
