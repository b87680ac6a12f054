"""Roofline estimates in a report: apart, hatched, labelled SIMULATED, with their interval, ranked nowhere. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hwbench_mlflow.reports import words
from hwbench_mlflow.reports.figures import INK, MAX_BARS, Drawn, NotDrawn, new_figure, plain_log, say_below
from hwbench_mlflow.summary import Row

TITLE = "SIMULATED estimates: rooflines from datasheets; nothing was measured"


def label(row: Row) -> str:
    """One line for an axis; it says what the row is."""
    return (
        f"SIMULATED {words.short(row['model_name'], 28)} on {words.short(row['device_product'], 28)}, "
        f"batch {row['batch_size']}, {words.size(row)}, {row['precision']}"
    )


def span(row: Row, name: str) -> str:
    """An interval and its expected value."""
    low, expected, high = (words.number(row[f"{name}_{end}"]) for end in ("low", "expected", "high"))
    return f"{low} to {high} (expected {expected})"


def estimates_figure(rows: Sequence[Row]) -> Drawn | NotDrawn:
    """The intervals as hatched bars from low to high, with a mark at the expected value."""
    shown = rows[:MAX_BARS]
    if not shown:
        return NotDrawn(title=TITLE, reason="there is no estimate")
    figure, axes = new_figure(len(shown), 0.4)
    lows = [row["estimate_latency_ms_low"] for row in shown]
    widths = [row["estimate_latency_ms_high"] - low for row, low in zip(shown, lows, strict=True)]
    axes.barh(range(len(shown)), widths, left=lows, facecolor="none", edgecolor=INK, hatch="///", height=0.55)
    expected = [row["estimate_latency_ms_expected"] for row in shown]
    axes.plot(expected, range(len(shown)), "|", color=INK, markersize=16, markeredgewidth=2)
    axes.set_yticks(range(len(shown)), [label(row) for row in shown])
    axes.invert_yaxis()
    axes.set_xscale("log")
    plain_log(axes.xaxis)
    axes.set_xlim(min(lows) / 1.5, max(row["estimate_latency_ms_high"] for row in shown) * 1.5)
    say_below(figure, "ms for one batch, ESTIMATED (a mark: expected); not ranked")
    lines = [f"{label(row)}: {span(row, 'estimate_latency_ms')} ms" for row in shown]
    return Drawn(name="estimates", title=TITLE, description="; ".join(lines), figure=figure, simulated=True)


def shown(row: Row) -> dict[str, Any]:
    """One estimate as the page's template takes it."""
    return {
        "row": row,
        "workload": f"batch {row['batch_size']}, {words.size(row)}, {row['precision']}",
        "latency": span(row, "estimate_latency_ms"),
        "throughput": span(row, "estimate_throughput_items_per_s"),
        "provenance": [
            ("run", row["run_id"]), ("estimate", row["estimate_id"]), ("verdict", row["verdict"]),
            ("sheet", f"{row['sheet_kind']} {row['sheet_name']}"), ("sheet sha256", row["sheet_sha256"]),
            ("peak", f"{words.number(row['peak_flops_per_s'] / 1e12, 'TFLOP/s')}: {row['peak_source']}"),
            ("bandwidth", f"{words.number(row['bandwidth_bytes_per_s'] / 1e9, 'GB/s')}: {row['bandwidth_source']}"),
            ("efficiencies", row["efficiency_basis"]), ("signed by", row["key_name"] or words.ABSENT),
            ("estimate.json sha256", row["document_sha256"]), ("hwbench", row["hwbench_version"]),
            ("check it", f"hwbench verify {row['run_id']}"),
        ],
    }  # fmt: skip


def markdown(rows: Sequence[Row], count: int) -> Iterator[str]:
    """The estimates as a Markdown section."""
    from hwbench_mlflow.reports.text import cell

    yield f"## {TITLE}, never ranked"
    yield ""
    if not rows:
        yield "None."
        yield ""
        return
    yield "| model | device | workload | ESTIMATED ms | ESTIMATED items/s | mostly | why simulated | run |"
    yield "| --- | --- | --- | ---: | ---: | --- | --- | --- |"
    for row in rows:
        found = shown(row)
        cells = [
            row["model_name"], f"{row['device_product']} ({row['platform']})", found["workload"], found["latency"],
            found["throughput"], row["bound"], f"SIMULATED: {row['simulation_reason']}", row["run_id"],
        ]  # fmt: skip
        yield f"| {' | '.join(map(cell, cells))} |"
    yield ""
    if count > len(rows):
        yield f"{words.counted(count - len(rows), 'more estimate')} not shown."
        yield ""
