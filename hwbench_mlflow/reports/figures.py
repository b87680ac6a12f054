"""The figures of a report, as matplotlib draws them without a display, and as SVG that takes the page's colours.

Real and simulated results are never in one figure. Everything a figure shows is in the page's tables too.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from hwbench_mlflow.reports import words
from hwbench_mlflow.summary import Row, Summary, Trend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK = "#010203"
"""Drawn in this, it takes the colour of the page's text, light or dark (see :func:`svg`)."""
SERIES = ("#3b7dd8", "#d9731a", "#2e9e5b", "#a64ac9", "#c9344b", "#138a9e", "#8a7a1c", "#7a6a5d")
"""Seen on white and on dark grey alike."""
MAX_BARS = 40
MAX_LINES = len(SERIES)
WIDTH_IN = 9.5
MARGIN = timedelta(minutes=10)
"""Around the first and the last result of a trend."""
WIDE = 20.0
"""Values that span more than this factor get a logarithmic axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One figure: a name for its file, a title, what it shows in words (for those who cannot see it)."""

    name: str
    title: str
    description: str
    figure: Figure
    simulated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NotDrawn:
    """A figure that there is nothing for, and why."""

    title: str
    reason: str


def draw(summary: Summary) -> list[Drawn | NotDrawn]:
    """Every figure of a report, in the order they are shown."""
    from hwbench_mlflow.reports.estimates import estimates_figure
    from hwbench_mlflow.reports.rooflines import roofline_figure

    with _style():
        every = [row for row in summary.real.latest if row["ranked"] and row["phase"] == "forward"]
        # A query that waits in line, or has several samples, is not one inference: ranked with its like only. Nor is a
        # whole generation: those have a table of their own.
        ranked = [row for row in every if row["scenario"] in {"latency", "offline"}]
        drawn: list[Drawn | NotDrawn] = [
            _heat_map(ranked),
            _latency(ranked),
            _throughput(ranked),
            _percentiles(ranked),
            *(_servers(rows) for rows in [_of(every, "server")] if rows),
            *(_multistreams(rows) for rows in [_of(every, "multistream")] if rows),
            _bars("memory", "Peak memory", ranked, "memory_peak_mb", "MB, the worker process (less is better)"),
            _bars("energy", "Energy of one item", ranked, "energy_j_per_item", "J per item (less is better)"),
            _trends(summary.trends),
            roofline_figure(ranked, summary.rooflines),
        ]
        if summary.simulated is not None and summary.simulated.latest:
            drawn.append(_simulated(summary.simulated.latest))
        if summary.estimates:
            drawn.append(estimates_figure(summary.estimates))
    return drawn


def trend_figure(trends: Sequence[Trend]) -> Drawn | NotDrawn:
    """The figure of medians over time alone."""
    with _style():
        return _trends(trends)


# --- as files ---------------------------------------------------------------------------------------


def svg(drawn: Drawn, *, themed: bool = False) -> str:
    """The figure as SVG with its text as text; ``themed`` for a page, whose ink it then takes."""
    out = io.StringIO()
    with _style(), _missing_glyphs_allowed():
        import matplotlib as mpl

        with mpl.rc_context({"svg.hashsalt": drawn.name}):
            drawn.figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    if not themed:
        return text.replace(INK, "#222222")
    text = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :]).replace(INK, "currentColor")
    # Definitions are told apart from those of the page's other figures.
    text = re.sub(r'\bid="', f'id="{drawn.name}-', text)
    return re.sub(r'((?:xlink:href="|url\()#)', rf"\g<1>{drawn.name}-", text)


def png(drawn: Drawn) -> bytes:
    """The figure as PNG on white, 150 dots an inch."""
    out = io.BytesIO()
    with _style(), _missing_glyphs_allowed():
        drawn.figure.savefig(out, format="png", dpi=150, facecolor="white")
    return out.getvalue()


def figure_markup(drawn: Drawn) -> dict[str, Any]:
    """A figure as templates take it, its SVG as markup."""
    from markupsafe import Markup

    # matplotlib has escaped the text in it; the pages' policies let no script of it run anyway.
    return {
        "name": drawn.name,
        "title": drawn.title,
        "description": drawn.description,
        "simulated": drawn.simulated,
        "svg": Markup(svg(drawn, themed=True)),  # noqa: S704
    }


@contextlib.contextmanager
def _style() -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context(
        {
            "svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.size": 9,
            "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "axes.titlecolor": INK,
            "xtick.color": INK, "ytick.color": INK, "hatch.color": INK, "legend.labelcolor": INK,
            "axes.spines.top": False, "axes.spines.right": False, "legend.framealpha": 0.0, "hatch.linewidth": 0.8,
            "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
        }
    ):  # fmt: skip
        yield


@contextlib.contextmanager
def _missing_glyphs_allowed() -> Iterator[None]:
    """A name in a script that the drawing font lacks: a browser has another font, a PNG shows a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def new_figure(rows: int, height_of_row: float = 0.28) -> tuple[Figure, Axes]:
    """A figure for so many rows of bars or points, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, 1.3 + height_of_row * rows), layout="constrained")
    return figure, figure.subplots()


def say_below(figure: Figure, text: str) -> None:
    """What the horizontal axis is of, from the figure's right end: in the middle of axes that long names make narrow,
    it would be cut off."""
    figure.supxlabel(text, x=0.99, ha="right", fontsize="medium")


# --- one function a figure --------------------------------------------------------------------------


def _latency(rows: Sequence[Row]) -> Drawn | NotDrawn:
    title = "Latency: median and its 95% interval"
    shown = sorted((r for r in rows if r["latency_ms_p50"] is not None), key=_by_model)[:MAX_BARS]
    if not shown:
        return NotDrawn(title=title, reason="no ranked result has a median latency")
    figure, axes = new_figure(len(shown))
    for y, row in enumerate(shown):
        _dot(axes, y, row, row["latency_ms_p50"], SERIES[0])
    _name_rows(axes, shown)
    _scale(axes, [row["latency_ms_p50"] for row in shown])
    say_below(figure, "ms for one inference of a batch (less is better); hollow: a noisy result")
    lines = [f"{words.label(r)}: {words.number(r['latency_ms_p50'], 'ms')}{_noisy(r)}" for r in shown]
    return Drawn(name="latency", title=title, description="; ".join(lines), figure=figure)


def _simulated(rows: Sequence[Row]) -> Drawn | NotDrawn:
    title = "SIMULATED latency: not measured on the hardware named"
    shown = [r for r in rows if r["latency_ms_p50"] is not None][:MAX_BARS]
    if not shown:
        return NotDrawn(title=title, reason="no simulated result has a median latency")
    figure, axes = new_figure(len(shown), 0.45)
    values = [row["latency_ms_p50"] for row in shown]
    axes.barh(range(len(shown)), values, facecolor="none", edgecolor=INK, hatch="///")
    # The reason stands before its bar: beyond it a browser's wider letters would leave the picture.
    names = [f"SIMULATED {words.label(row)}\n{words.short(str(row['simulation_reason']), 40)}" for row in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.invert_yaxis()
    say_below(figure, "ms for one inference of a batch, SIMULATED, not ranked")
    lines = [f"SIMULATED {words.label(r)}: {words.number(r['latency_ms_p50'], 'ms')}" for r in shown]
    return Drawn(name="simulated-latency", title=title, description="; ".join(lines), figure=figure, simulated=True)


def _throughput(rows: Sequence[Row]) -> Drawn | NotDrawn:
    title = "Throughput by batch size"
    curves: dict[str, list[Row]] = {}
    for row in rows:
        if row["throughput_items_per_s"] is not None:
            name = words.label({**row, "batch_size": "*"}).replace("batch *, ", "")
            curves.setdefault(name, []).append(row)
    several = {name: c for name, c in curves.items() if len({r["batch_size"] for r in c}) > 1}
    if not several:
        return NotDrawn(
            title=title, reason="no configuration was measured at two batch sizes: `hwbench run --batch-size 1,8,32`"
        )
    kept = dict(sorted(several.items(), key=lambda item: -len(item[1]))[:MAX_LINES])
    figure, axes = new_figure(12)
    lines = []
    for colour, (name, curve) in zip(SERIES, kept.items(), strict=False):
        curve.sort(key=lambda r: r["batch_size"])
        xs, ys = [r["batch_size"] for r in curve], [r["throughput_items_per_s"] for r in curve]
        axes.plot(xs, ys, "-", color=colour, label=name)
        for row, x, y in zip(curve, xs, ys, strict=True):
            axes.plot([x], [y], "o", color=colour, markersize=5, fillstyle=_fill(row))
        at = (f"{y:.4g} items/s at batch {x}{_noisy(row)}" for row, x, y in zip(curve, xs, ys, strict=True))
        lines.append(f"{name}: {', '.join(at)}")
    axes.set_xscale("log", base=2)
    batches = sorted({r["batch_size"] for c in kept.values() for r in c})
    axes.set_xticks(batches, [str(b) for b in batches])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("batch size; hollow: a noisy result")
    axes.set_ylabel("items/s (more is better)")
    axes.legend(loc="best", fontsize="small")
    left = f" ({len(several) - len(kept)} more are in the table)" if len(several) > len(kept) else ""
    return Drawn(name="throughput", title=title + left, description="; ".join(lines), figure=figure)


PERCENTILES = (("p50", "o"), ("p90", "^"), ("p95", "s"), ("p99", "D"))


def _percentiles(rows: Sequence[Row]) -> Drawn | NotDrawn:
    title = "Percentiles of latency"
    shown = sorted((r for r in rows if r["latency_ms_p90"] is not None), key=_by_model)[:MAX_BARS]
    if not shown:
        return NotDrawn(title=title, reason="no ranked result has the 64 samples that a 90th percentile needs")
    figure, axes = new_figure(len(shown))
    drawn: list[float] = []
    for index, (name, marker) in enumerate(PERCENTILES):
        known = [(y, row) for y, row in enumerate(shown) if row[f"latency_ms_{name}"] is not None]
        if known:
            axes.plot([], [], marker, color=SERIES[index], label=name, linestyle="none", markersize=6)
        for y, row in known:
            value = row[f"latency_ms_{name}"]
            axes.plot([value], [y], marker, color=SERIES[index], markersize=6, fillstyle=_fill(row))
            drawn.append(value)
    _name_rows(axes, shown)
    _scale(axes, drawn)
    say_below(figure, "ms for one inference of a batch; hollow: noisy; absent: the samples do not carry it")
    axes.legend(loc="best", ncols=4, fontsize="small")
    lines = [f"{words.label(r)}: p90 {words.number(r['latency_ms_p90'], 'ms')}{_noisy(r)}" for r in shown]
    return Drawn(name="percentiles", title=title, description="; ".join(lines), figure=figure)


def _of(rows: Sequence[Row], scenario: str) -> list[Row]:
    return [row for row in rows if row["scenario"] == scenario]


def _servers(rows: Sequence[Row]) -> Drawn | NotDrawn:
    title = "Server: highest rate that holds the latency bound"
    axis = "queries/s (more is better)"
    return _bars("server", title, rows, "server_rate_per_s", axis)


def _multistreams(rows: Sequence[Row]) -> Drawn | NotDrawn:
    title = "Multistream: 99th percentile of a query"
    axis = "ms for a query (less is better)"
    return _bars("multistream", title, rows, "latency_ms_p99", axis)


def _bars(name: str, title: str, rows: Sequence[Row], column: str, axis: str) -> Drawn | NotDrawn:
    shown = sorted((r for r in rows if r[column] is not None), key=_by_model)[:MAX_BARS]
    if not shown:
        return NotDrawn(title=title, reason=f"no ranked result has {column}")
    figure, axes = new_figure(len(shown))
    colours = [SERIES[0] if row["stable"] else "none" for row in shown]
    axes.barh(range(len(shown)), [row[column] for row in shown], color=colours, edgecolor=SERIES[0], height=0.6)
    _name_rows(axes, shown)
    say_below(figure, f"{axis}; hollow: a noisy result")
    lines = [f"{words.label(r)}: {words.number(r[column])}{_noisy(r)}" for r in shown]
    return Drawn(name=name, title=title, description="; ".join(lines), figure=figure)


def best_cells(rows: Sequence[Row]) -> tuple[list[str], list[str], Mapping[tuple[str, str], Row]]:
    """Models with their input's size, platforms, and the result with the lowest median at batch 1 of each pair."""
    cells: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row["latency_ms_p50"] is None or row["batch_size"] != 1 or row["scenario"] != "latency":
            continue
        key = (f"{words.short(row['model_name'], 28)}, {words.size(row)}", str(row["platform"]))
        if key not in cells or row["latency_ms_p50"] < cells[key]["latency_ms_p50"]:
            cells[key] = row
    return sorted({m for m, _ in cells}), sorted({p for _, p in cells}), cells


def _heat_map(rows: Sequence[Row]) -> Drawn | NotDrawn:
    title = "Models on platforms: lowest median latency at batch 1"
    models, platforms, cells = best_cells(rows)
    models = models[:MAX_BARS]
    if not models:
        return NotDrawn(title=title, reason="no ranked result at batch 1")
    from matplotlib.patches import Rectangle

    figure, axes = new_figure(len(models), 0.42)
    lines = []
    for y, model in enumerate(models):
        medians = [cells[model, p]["latency_ms_p50"] for p in platforms if (model, p) in cells]
        for x, platform in enumerate(platforms):
            found = cells.get((model, platform))
            if found is None:
                axes.text(x, y, "no result", ha="center", va="center", fontstyle="italic", alpha=0.7)
                continue
            ratio = found["latency_ms_p50"] / min(medians)
            axes.add_patch(
                Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=SERIES[0], alpha=max(0.12, 0.6 / ratio))
            )
            text = f"{found['latency_ms_p50']:.4g} ms, {words.precision(found)}{_noisy(found)}"
            axes.text(x, y, text.replace(" (noisy)", "\n(noisy)"), ha="center", va="center")
            lines.append(f"{model} on {platform}: {text}")
    axes.set_xlim(-0.5, len(platforms) - 0.5)
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.set_xticks(range(len(platforms)), platforms)
    axes.set_yticks(range(len(models)), models)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    say_below(figure, "bluer: nearer to the lowest of its row")  # darker on white, lighter on a dark page
    return Drawn(name="heatmap", title=title, description="; ".join(lines), figure=figure)


def _trends(trends: Sequence[Trend]) -> Drawn | NotDrawn:
    title = "Over time: median latency"
    if not trends:
        return NotDrawn(title=title, reason="no configuration was measured twice")
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, 1.7 * len(trends)), layout="constrained")
    lines = []
    for axes, trend in zip(figure.subplots(len(trends), 1, squeeze=False)[:, 0], trends, strict=True):
        times, medians = [p[0] for p in trend.points], [p[1] for p in trend.points]
        low = [p[1] if p[2] is None else p[2] for p in trend.points]
        high = [p[1] if p[3] is None else p[3] for p in trend.points]
        axes.fill_between(times, low, high, color=SERIES[0], alpha=0.25, linewidth=0)
        axes.plot(times, medians, "-", color=SERIES[0], linewidth=1)
        noisy = sum(not p[4] for p in trend.points)
        for style, stable in (("full", True), ("none", False)):
            mine = [p for p in trend.points if p[4] is stable]
            axes.plot([p[0] for p in mine], [p[1] for p in mine], "o", color=SERIES[0], markersize=4, fillstyle=style)
        axes.set_title(words.label(trend.row), fontsize="medium", loc="left")
        axes.set_ylabel("ms")
        # Results of one moment (a push of many files) have no range of their own to draw.
        axes.set_xlim(times[0] - MARGIN, times[-1] + MARGIN)
        locator = AutoDateLocator(maxticks=8)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        many = words.counted(len(times), "result") + (f", {noisy} noisy" if noisy else "")
        lines.append(f"{words.label(trend.row)}: from {medians[0]:.4g} to {medians[-1]:.4g} ms in {many}")
    axes.set_xlabel("less is better; hollow: a noisy result")
    return Drawn(name="trends", title=title, description="; ".join(lines), figure=figure)


# --- shared -----------------------------------------------------------------------------------------


def _by_model(row: Row) -> tuple[str, float]:
    return str(row["model_name"]), row["latency_ms_p50"] if row["latency_ms_p50"] is not None else float("inf")


def _dot(axes: Axes, y: int, row: Row, value: float, colour: str) -> None:
    low, high = row["latency_ms_p50_ci95_low"], row["latency_ms_p50_ci95_high"]
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=colour, linewidth=2, alpha=0.6)
    axes.plot([value], [y], "o", color=colour, markersize=6, fillstyle=_fill(row))


def _fill(row: Row) -> Literal["full", "none"]:
    """Of a marker: hollow where the result is noisy."""
    return "full" if row["stable"] else "none"


def _noisy(row: Row) -> str:
    """The same in words."""
    return "" if row["stable"] else " (noisy)"


def _name_rows(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set_yticks(range(len(rows)), [words.label(row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=INK, alpha=0.15)


def plain_log(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis: the usual powers of ten are math text, which is off for the sake of names
    with dollar signs."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _scale(axes: Axes, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) / min(values) > WIDE:
        axes.set_xscale("log")
        plain_log(axes.xaxis)
    else:
        axes.set_xlim(0, axes.dataLim.x1 * 1.05)  # else the largest, where all are alike, is half cut off
