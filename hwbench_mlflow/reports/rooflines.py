"""The roofline plot of a report: what was achieved beside what the device can reach. Pure.

Drawn for real results of devices that were calibrated (`hwbench roofline`) on the same host.
"""

from __future__ import annotations

from collections.abc import Sequence

from hwbench_mlflow.reports import words
from hwbench_mlflow.reports.figures import SERIES, Drawn, NotDrawn, new_figure, plain_log
from hwbench_mlflow.summary import Row

TITLE = "Roofline: achieved beside attainable"
MARKERS = "osD^vP*X"
MAX_ROOFS = len(SERIES)


def roofline_figure(rows: Sequence[Row], rooflines: Sequence[Row]) -> Drawn | NotDrawn:
    """Achieved TFLOP/s by arithmetic intensity, under the roofs of the devices that it ran on."""
    by_device = {(r["host_id"], r["device_name"]): r for r in rooflines}
    placed = [
        (row, roof)
        for row in rows
        if (roof := by_device.get((row["host_id"], row["device_name"]))) is not None
        and row["achieved_tflops"]
        and row["bytes_per_item_gb"]
        and roof[f"peak_tflops_{row['effective_precision']}"] is not None
    ]
    if not placed:
        return NotDrawn(
            title=TITLE, reason="no ranked result is of a device that was calibrated: `hwbench roofline --hardware cpu`"
        )
    roofs = list(dict.fromkeys((r["device_name"], row["effective_precision"], r["run_id"]) for row, r in placed))
    figure, axes = new_figure(12)
    intensities = [row["flops_per_item_g"] / row["bytes_per_item_gb"] for row, _ in placed]
    left, right = min(intensities) / 4, max(intensities) * 4
    lines = []
    for colour, (name, precision, run_id) in zip(SERIES, roofs[:MAX_ROOFS], strict=False):
        roof = next(r for _, r in placed if r["run_id"] == run_id)
        peak, bandwidth = roof[f"peak_tflops_{precision}"], roof["memory_bandwidth_gb_per_s"] / 1e3
        turn = peak / bandwidth
        xs = sorted({min(left, turn / 4), turn, max(right, turn * 4)})
        text = f"{words.short(name, 28)}, {precision}: {peak:.3g} TFLOP/s, {bandwidth * 1e3:.3g} GB/s"
        axes.plot(xs, [min(peak, x * bandwidth) for x in xs], "-", color=colour, label=text)
        lines.append(text)
    colours = {roof: colour for colour, roof in zip(SERIES, roofs, strict=False)}
    models = list(dict.fromkeys(row["model_name"] for row, _ in placed))
    for row, r in placed:
        its_colour = colours.get((r["device_name"], row["effective_precision"], r["run_id"]))
        if its_colour is None:
            continue
        x, y = row["flops_per_item_g"] / row["bytes_per_item_gb"], row["achieved_tflops"]
        symbol = MARKERS[models.index(row["model_name"]) % len(MARKERS)]
        axes.plot([x], [y], symbol, color=its_colour, fillstyle="full" if row["stable"] else "none", markersize=7)
        name = f"{words.short(row['model_name'], 16)} b{row['batch_size']}"
        axes.annotate(name, (x, y), xytext=(6, -3), textcoords="offset points", fontsize=7)
        lines.append(f"{name}, {row['effective_precision']}: {y:.3g} TFLOP/s at {x:.3g} FLOP/byte")
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)
    axes.set_xlabel("arithmetic intensity, FLOP/byte (counted: weights once, inputs, outputs); hollow: a noisy result")
    axes.set_ylabel("TFLOP/s")
    axes.legend(loc="lower left", fontsize="small")
    more = f" ({len(roofs) - MAX_ROOFS} more roofs are not drawn)" if len(roofs) > MAX_ROOFS else ""
    return Drawn(name="roofline", title=TITLE + more, description="; ".join(lines), figure=figure)
