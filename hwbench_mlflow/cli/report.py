"""``hwbench report``: a page of what was published, or its rows. Wiring only."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from hwbench_mlflow.reports.figures import Drawn, NotDrawn
    from hwbench_mlflow.summary import Summary
    from hwbench_mlflow.warehouse.published import Published

FORMATS = ("html", "md", "json", "csv")
_PATH = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "-o", "--output", type=_PATH, help="Where to (default: report.html; other formats go to standard output)."
)
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: as the output is called, else html.")
@click.option("--include-simulated", is_flag=True, help="Show simulated results too: apart, marked, never ranked.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model; repeatable.")
@click.option("--hardware", "platforms", multiple=True, metavar="PLATFORM", help="Only this platform; repeatable.")
@click.option("--precision", "precisions", multiple=True, help="Only what ran in this precision; repeatable.")
@click.option("--since", type=click.DateTime(), help="Only what was measured since then (UTC).")
@click.option(
    "--published", type=_PATH, default=Path("published.duckdb"), show_default=True, help="What `hwbench gate` wrote."
)
@click.option(
    "--db", type=_PATH, default=Path("hwbench.duckdb"), show_default=True,
    help="The warehouse, looked at only to say whether this is stale.",
)  # fmt: skip
@click.option("--figures", type=click.Path(file_okay=False, path_type=Path), help="Write each figure as PNG and SVG.")
@click.option("--log", is_flag=True, help="Log the report to MLflow too, as a run's artifact.")
@click.option("--tracking-uri", help="MLflow store for --log; else MLFLOW_TRACKING_URI, else ./mlflow.db.")
def report(  # noqa: PLR0917 -- click passes by name
    output: Path | None, form: str | None, include_simulated: bool, models: tuple[str, ...],
    platforms: tuple[str, ...], precisions: tuple[str, ...], since: datetime | None, published: Path, db: Path,
    figures: Path | None, log: bool, tracking_uri: str | None,
) -> None:  # fmt: skip
    """Make a page of what `hwbench gate` published: one HTML file, no network; or Markdown, JSON, CSV.

    Reads only the published file, and refuses one that was edited. Simulated results are shown only when asked for.
    JSON and CSV hold every result; HTML and Markdown the last one of each configuration.

    \b
    hwbench report
    hwbench report --format md --model bert
    hwbench report -o results.csv
    """
    from hwbench_mlflow.cli.output import write_whole
    from hwbench_mlflow.summary import Filters
    from hwbench_mlflow.warehouse.published import open_published
    from hwbench_mlflow.warehouse.summarize import summarize

    form = form or _format_of(output)
    if output is None and form == "html":
        output = Path("report.html")
    if output is not None and output.resolve() in {published.resolve(), db.resolve()}:
        raise click.UsageError(f"--output is {output}, which the report is made from: name another file")
    if log and output is None:
        raise click.UsageError("--log needs a file: give --output")
    filters = Filters(models=models, platforms=platforms, precisions=precisions, since=since)
    with open_published(published) as found:
        summary = summarize(found, filters, simulated=include_simulated, stale=found.stale_against(db))
        drawn = _drawn(summary) if form == "html" or figures is not None else []
        write_whole(output, lambda out: _render(out, form, found, summary, drawn))
    if figures is not None:
        _write_figures(figures, drawn)
    _tell(summary, output)
    if log:
        _log(summary, output, tracking_uri)


def _format_of(output: Path | None) -> str:
    if output is None:
        return "html"
    suffix = output.suffix.lstrip(".").lower()
    known = {"htm": "html", "markdown": "md"}.get(suffix, suffix)
    if known not in FORMATS:
        raise click.UsageError(f"{output} names no format that is known; give --format, one of {', '.join(FORMATS)}")
    return known


def _drawn(summary: Summary) -> list[Drawn | NotDrawn]:
    from hwbench_mlflow.reports.figures import draw

    return draw(summary)


def _render(out: TextIO, form: str, found: Published, summary: Summary, drawn: list[Drawn | NotDrawn]) -> None:
    from hwbench_mlflow.warehouse.summarize import every_result, result_columns

    if form == "html":
        from hwbench_mlflow.reports.page import to_html

        out.write(to_html(summary, drawn))
        return
    from hwbench_mlflow.reports.text import to_markdown, write_csv, write_json

    if form == "md":
        out.writelines(f"{line}\n" for line in to_markdown(summary))
        return
    rows = every_result(found, summary.filters, simulated=summary.simulated is not None)
    if form == "csv":
        write_csv(result_columns(found), rows, out)
    else:
        write_json(summary, rows, out)


def _write_figures(folder: Path, drawn: list[Drawn | NotDrawn]) -> None:
    from hwbench_mlflow.errors import StoreError
    from hwbench_mlflow.reports.figures import NotDrawn, png, svg

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in drawn:
            if isinstance(figure, NotDrawn):
                click.echo(f"{figure.title}: not drawn, {figure.reason}", err=True)
                continue
            (folder / f"{figure.name}.png").write_bytes(png(figure))
            (folder / f"{figure.name}.svg").write_text(svg(figure), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error


def _tell(summary: Summary, output: Path | None) -> None:
    """What came of it, on standard error where the report itself is on standard output."""
    from hwbench_mlflow.reports.words import counted

    if summary.stale is not None:
        click.echo(f"hwbench: warning: stale, or not known to be current: {summary.stale}", err=True)
    if summary.simulated is not None:
        click.echo(
            f"hwbench: warning: SIMULATED data is included: {counted(summary.simulated.results, 'result')} not from "
            "the hardware named",
            err=True,
        )
        if summary.estimate_count:
            click.echo(
                f"hwbench: warning: SIMULATED: {counted(summary.estimate_count, 'roofline estimate')} included; "
                'nothing was measured for them, and CSV leaves them out (`hwbench query "FROM estimates"`)',
                err=True,
            )
    click.echo(
        f"{output or 'report'}: {counted(summary.real.results, 'real result')} in "
        f"{counted(summary.real.configurations, 'configuration')}, "
        f"published {summary.manifest['published_at']}",
        err=output is None,
    )


def _log(summary: Summary, output: Path | None, tracking_uri: str | None) -> None:
    from hwbench_mlflow.reports.page import title
    from hwbench_mlflow.tracking import Store

    assert output is not None  # --log without a file was refused
    gate = summary.manifest["gate_id"]
    run_id = Store(tracking_uri).log_report(output, f"{title(summary)}: what gate {gate} published")
    click.echo(f"logged as run {run_id}")
