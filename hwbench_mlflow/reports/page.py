"""The HTML page: one file, no network, no script, light and dark. Everything is escaped by Jinja's autoescape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.reports import estimates, words
from hwbench_mlflow.reports.figures import Drawn, NotDrawn, figure_markup
from hwbench_mlflow.summary import Row, Summary

if TYPE_CHECKING:
    from jinja2 import Environment

SIMULATED_TITLE = "SIMULATED DATA INCLUDED: hwbench report"
TITLE = "hwbench report"


def title(summary: Summary) -> str:
    """The page's title; it says so where simulated results are on it."""
    return SIMULATED_TITLE if summary.holds_simulated else TITLE


def to_html(summary: Summary, figures: Sequence[Drawn | NotDrawn]) -> str:
    """The whole page. Its size is bounded by what a summary shows, not by the results behind it."""
    shown = [figure_markup(f) for f in figures if isinstance(f, Drawn)]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            s=summary,
            title=title(summary),
            counted=words.counted,
            manifest=summary.manifest,
            suites=json.loads(summary.manifest["suites"]),
            figures=[f for f in shown if not f["simulated"]],
            simulated_figures=[f for f in shown if f["simulated"]],
            not_drawn=[f for f in figures if isinstance(f, NotDrawn)],
            real=_table(summary.real.latest, _NUMBERS),
            written=_table([row for row in summary.real.latest if words.writes(row)], _WRITTEN),
            simulated=_table(summary.simulated.latest if summary.simulated is not None else (), _NUMBERS),
            estimates=[estimates.shown(row) for row in summary.estimates or ()],
        )
    )


def environment() -> Environment:
    """The templates, every value escaped, an unknown name an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("hwbench_mlflow.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


_NUMBERS = {
    "median": "latency_ms_p50", "p90": "latency_ms_p90", "p95": "latency_ms_p95", "p99": "latency_ms_p99",
    "throughput": "throughput_items_per_s", "memory": "memory_peak_mb", "energy": "energy_j_per_item",
}  # fmt: skip
_WRITTEN = {"ttft": "ttft_ms_p50", "tpot": "tpot_ms_p50", "tokens": "tokens_per_s", "audio": "real_time_factor"}


def _table(rows: Sequence[Row], columns: Mapping[str, str]) -> dict[str, Any]:
    """Rows as the template takes them, and why numbers are absent: footnotes by their letter.

    A hover title alone would be nothing on paper, on a touch screen or by keyboard.
    """
    letters: dict[str, str] = {}
    shown = [_shown(row, columns, letters) for row in rows]
    return {"rows": shown, "footnotes": {letter: why for why, letter in letters.items()}}


def _shown(row: Row, columns: Mapping[str, str], letters: dict[str, str]) -> dict[str, Any]:
    cells: dict[str, dict[str, str | None]] = {}
    for name, column in columns.items():
        cells[name] = {"text": words.number(row[column]), "why": None}
        if row[column] is None:
            letter = letters.setdefault(words.footnote(row, column), chr(ord("a") + len(letters)))
            cells[name] |= {"why": words.why_absent(row, column), "letter": letter}
    return {
        "row": row, "cells": cells, "interval": words.interval(row), "workload": words.workload(row),
        "marks": words.marks(row), "provenance": words.provenance(row),
    }  # fmt: skip
