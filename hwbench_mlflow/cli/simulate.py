"""``hwbench simulate``: the datasheets, and how good estimates are where something was measured. Wiring only."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hwbench_mlflow.datasheet import Datasheet
    from hwbench_mlflow.estimate import Interval, SheetUse, Work
    from hwbench_mlflow.model import Precision

SCHEMA_VERSION = 1


@click.command()
@click.argument("name", metavar="[NAME|FILE]", required=False)
@click.option("--check", is_flag=True, help="Hold estimates against verified results of hardware that is there.")
@click.option(
    "--published", type=click.Path(dir_okay=False, path_type=Path), default=Path("published.duckdb"),
    show_default=True, help="What `hwbench gate` wrote; for --check.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def simulate(name: str | None, check: bool, published: Path, as_json: bool) -> None:
    """List the datasheets that `hwbench run --simulate` takes, or show one with its sources. Measures nothing.

    With --check: for each verified result whose device has a datasheet or a calibration (`hwbench roofline`), what an
    estimate says of it, what was measured, and the error.

    \b
    hwbench simulate
    hwbench simulate h100-sxm
    hwbench simulate --check
    """
    if check:
        if name is not None:
            raise click.UsageError("--check takes every datasheet there is: leave the name out")
        _check(published, as_json)
    elif name is not None:
        _show(name, as_json)
    else:
        _list(as_json)


def _list(as_json: bool) -> None:
    from hwbench_mlflow.datasheet import shipped

    sheets = shipped()
    if as_json:
        _echo_json({"schema_version": SCHEMA_VERSION, "datasheets": [_object(sheet) for sheet in sheets.values()]})
        return
    rows = [("NAME", "PRODUCT", "HARDWARE", "CAN BE ESTIMATED IN (TFLOP/s)", "GB/s", "GB")]
    for found in sheets.values():
        sheet = found.sheet
        peaks = ", ".join(f"{p} {sheet.peak_tflops[p.value].value:g}" for p in found.precisions)
        rows.append(
            (
                sheet.name, sheet.product, ", ".join(sheet.platforms), peaks or "nothing: no sourced peak",
                f"{sheet.memory_bandwidth_gb_per_s.value:g}" if sheet.memory_bandwidth_gb_per_s else "-",
                f"{sheet.memory_gb.value:g}" if sheet.memory_gb else "-",
            )
        )  # fmt: skip
    _table(rows)


def _show(name: str, as_json: bool) -> None:
    from hwbench_mlflow.datasheet import load

    found = load(name)
    if as_json:
        _echo_json({"schema_version": SCHEMA_VERSION, "datasheet": _object(found)})
        return
    sheet = found.sheet
    click.echo(f"{sheet.name}: {sheet.product} by {sheet.vendor} ({', '.join(sheet.platforms)})")
    figures = {f"peak {p} TFLOP/s": quantity for p, quantity in sheet.peak_tflops.items()}
    for what, quantity in (
        ("bandwidth GB/s", sheet.memory_bandwidth_gb_per_s), ("memory GB", sheet.memory_gb), ("TDP W", sheet.tdp_w),
    ):  # fmt: skip
        if quantity is not None:
            figures[what] = quantity
    for what, quantity in figures.items():
        note = f" ({quantity.note})" if quantity.note else ""
        click.echo(f"  {what:<20} {quantity.value:g}  [{quantity.source}]{note}")
    for key, source in sheet.sources.items():
        via = f", via {source.via}" if source.via else ""
        click.echo(f"  [{key}] {source.publisher}: {source.title}, {source.url}, read {source.read}{via}")
    if sheet.note:
        click.echo(f"  {sheet.note}")
    click.echo(f"  can be estimated in: {', '.join(found.precisions) or 'no precision'}")


def _object(found: Datasheet) -> dict[str, Any]:
    import msgspec

    return {
        **msgspec.to_builtins(found.sheet), "sha256": found.sha256, "can_estimate": [str(p) for p in found.precisions]
    }  # fmt: skip


# --- how good they are --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An estimate beside a measured median, ms. ``error_percent`` is of the expected value against the measured one."""

    run_id: str
    model: str
    platform: str
    device: str
    batch_size: int
    precision: str
    sheet: str
    bound: str
    estimate: Interval
    measured_ms: float
    stable: bool

    @property
    def error_percent(self) -> float:
        """Positive: the estimate is slower than what was measured."""
        return (self.estimate.expected / self.measured_ms - 1) * 100

    @property
    def inside(self) -> bool:
        """Whether what was measured lies in the interval."""
        return self.estimate.low <= self.measured_ms <= self.estimate.high


def summary_of(found: Sequence[Comparison]) -> dict[str, Any]:
    """How good they were, all together; the error is None where there is nothing to say it of."""
    from hwbench_mlflow.stats import median

    errors = [abs(one.error_percent) for one in found]
    steady = [abs(one.error_percent) for one in found if one.stable]
    return {
        "compared": len(found),
        "inside": sum(one.inside for one in found),
        "median_absolute_error_percent": median(errors) if errors else None,
        "stable": len(steady),
        "median_absolute_error_percent_of_stable": median(steady) if steady else None,
    }


def _check(published: Path, as_json: bool) -> None:
    from hwbench_mlflow.errors import ExitCode
    from hwbench_mlflow.warehouse.comparable import calibrations, comparable_results
    from hwbench_mlflow.warehouse.published import open_published

    with open_published(published) as file:
        results, rooflines = comparable_results(file), calibrations(file)
    compared, left = _compare(results, rooflines)
    summary = summary_of(compared)
    if as_json:
        rows = [
            {
                "run_id": c.run_id, "model": c.model, "platform": c.platform, "device": c.device,
                "batch_size": c.batch_size, "precision": c.precision, "sheet": c.sheet, "bound": c.bound,
                "estimate_latency_ms": c.estimate, "measured_latency_ms_p50": c.measured_ms, "inside": c.inside,
                "error_percent": c.error_percent, "stable": c.stable,
            }
            for c in compared
        ]  # fmt: skip
        _echo_json({"schema_version": SCHEMA_VERSION, "comparisons": rows, "not_compared": left, "summary": summary})
    else:
        _print(compared, left, summary)
    if not compared:
        click.echo("hwbench: nothing to compare: no verified result of a device with a datasheet or a calibration. "
                   "Run `hwbench roofline`, `hwbench run`, `hwbench sync` and `hwbench gate`", err=True)  # fmt: skip
        sys.exit(int(ExitCode.FAILED))


def _print(compared: Sequence[Comparison], left: Sequence[Mapping[str, str]], summary: Mapping[str, Any]) -> None:
    rows = [("MODEL", "ON", "BATCH", "PRECISION", "ESTIMATE ms (expected)", "MEASURED ms", "ERROR", "INSIDE", "FROM")]
    rows += [
        (
            c.model, f"{c.device} ({c.platform})", str(c.batch_size), c.precision,
            f"{c.estimate.low:.4g} to {c.estimate.high:.4g} ({c.estimate.expected:.4g})",
            f"{c.measured_ms:.4g}" + ("" if c.stable else " noisy"), f"{c.error_percent:+.0f}%",
            "yes" if c.inside else "NO", c.sheet,
        )
        for c in compared
    ]  # fmt: skip
    if compared:
        _table(rows)
        line = (
            f"{summary['inside']} of {summary['compared']} measured medians lie inside the interval; median absolute "
            f"error of the expected value {summary['median_absolute_error_percent']:.0f}%"
        )
        if summary["median_absolute_error_percent_of_stable"] is not None:
            error = summary["median_absolute_error_percent_of_stable"]
            line += f" ({error:.0f}% over the {summary['stable']} stable ones)"
        click.echo(line)
    for one in left:
        click.echo(f"not compared: {one['run_id']}: {one['reason']}", err=True)


def _compare(
    results: Sequence[Mapping[str, Any]], rooflines: Sequence[Mapping[str, Any]]
) -> tuple[list[Comparison], list[dict[str, str]]]:
    """Each result with an estimate for it; for the others, why there is none."""
    from hwbench_mlflow.datasheet import shipped
    from hwbench_mlflow.errors import BenchmarkFailed, UsageError
    from hwbench_mlflow.estimate import bound, efficiencies, latency_ms
    from hwbench_mlflow.model import Platform, Precision

    sheets = list(shipped().values())
    compared, left = [], []
    for row in results:
        platform, precision = Platform(row["platform"]), Precision(row["effective_precision"])
        try:
            sheet = _sheet(row, platform, precision, sheets, rooflines)
            work = _work(row, precision)
        except (UsageError, BenchmarkFailed) as error:
            left.append({"run_id": str(row["run_id"]), "reason": " ".join(str(error).split())})
            continue
        assumed = efficiencies(sheet.kind, platform)
        compared.append(
            Comparison(
                run_id=row["run_id"],
                model=row["model_name"],
                platform=row["platform"],
                device=row["device_name"],
                batch_size=row["batch_size"],
                precision=precision.value,
                sheet=sheet.name,
                bound=str(bound(work, sheet, assumed)),
                estimate=latency_ms(work, sheet, assumed),
                measured_ms=row["latency_ms_p50"],
                stable=row["stable"],
            )
        )
    return compared, left


def _sheet(
    row: Mapping[str, Any],
    platform: Any,
    precision: Precision,
    sheets: Sequence[Datasheet],
    rooflines: Sequence[Mapping[str, Any]],
) -> SheetUse:
    """The datasheet of the result's device, else the calibration of this very device of this very host."""
    from hwbench_mlflow.errors import UsageError
    from hwbench_mlflow.estimator import calibrated_sheet

    for found in sheets:
        if row["device_name"] in found.sheet.device_names and platform in found.sheet.platforms:
            return found.use(platform, precision)
    for one in rooflines:
        if (one["host_id"], one["device_name"]) == (row["host_id"], row["device_name"]):
            return calibrated_sheet(one, precision)
    raise UsageError(f"{row['device_name']} ({platform}) has no datasheet and no calibration of its host")


def _work(row: Mapping[str, Any], precision: Precision) -> Work:
    """The model counted again here; it has to be the one that was measured."""
    from hwbench_mlflow.errors import UsageError
    from hwbench_mlflow.model import WeightsPolicy, Workload
    from hwbench_mlflow.workloads.estimating import count_work

    workload = Workload(
        model=row["model_name"], batch_size=row["batch_size"], sequence_length=row["sequence_length"],
        image_size=row["image_size"], precision=precision, weights=WeightsPolicy.RANDOM,
    )  # fmt: skip
    _, _, work = count_work(workload)
    if work.flops / row["batch_size"] / 1e9 != row["flops_per_item_g"]:
        raise UsageError(f"{row['model_name']} is counted otherwise here: it is another model, or another version")
    return work


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _echo_json(value: object) -> None:
    from hwbench_mlflow.codec import encode

    click.echo(encode(value).decode())
