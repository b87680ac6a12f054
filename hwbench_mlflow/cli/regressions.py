"""``hwbench regressions``: what got slower over time and stayed so, and what changed with it. Wiring only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from hwbench_mlflow.cli.choices import PATH, PERCENT, published_option

if TYPE_CHECKING:
    from hwbench_mlflow.decide.changes import Story
    from hwbench_mlflow.warehouse.published import Published


@click.command()
@click.argument("side", required=False)
@click.option("--side", "named", default="", help="The same as SIDE, for those who have to name it.")
@click.option("--metric", help="What is looked at (default: median latency; throughput where inferences overlapped).")
@click.option(
    "--threshold", type=PERCENT, default="5%", show_default=True, help="A level this much worse is a regression."
)
@click.option(
    "--min-change", type=PERCENT, default="1%", show_default=True, help="Changes smaller than this are not listed."
)
@click.option(
    "--last", type=click.IntRange(8, 5000), default=200, show_default=True, help="Newest runs of each configuration."
)
@click.option("--allow-unreadable", is_flag=True, help="A history whose order is not known does not fail.")
@click.option("--format", "form", type=click.Choice(["text", "markdown", "json"]), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-o", "--output", type=PATH, help="Write to this file.")
@published_option
def regressions(  # noqa: PLR0917 -- click passes by name
    side: str | None, named: str, metric: str | None, threshold: float, min_change: float, last: int,
    allow_unreadable: bool, form: str, as_json: bool, output: Path | None, published: Path, db: Path,
) -> None:  # fmt: skip
    """Find the changes of level in each configuration's published history, and what of them is still open.

    A regression is a level of 4 runs or more that is worse than the baseline (the best level before it: a set of runs)
    by the threshold, and that no later level made good. Beside each change stands what else changed: driver, kernel,
    packages, revision, host. Exits with 3 if a regression is open, or if a history's order cannot be known. SIDE is a
    search as in `hwbench compare`; since:DATE begins anew after a change that is accepted.

    \b
    hwbench regressions
    hwbench regressions "model:bert since:2026-11-01" --threshold 3%
    hwbench regressions --format markdown >> "$GITHUB_STEP_SUMMARY"
    """
    from hwbench_mlflow.cli.choices import warn_if_stale, with_commits
    from hwbench_mlflow.cli.output import write_whole
    from hwbench_mlflow.decide.changes import read
    from hwbench_mlflow.decide.selectors import parse
    from hwbench_mlflow.errors import Refused, StoreError
    from hwbench_mlflow.metrics import METRICS
    from hwbench_mlflow.warehouse.history import histories, open_history

    form = "json" if as_json else form
    if side and named:
        raise click.UsageError("give the search once: as SIDE or with --side")
    side = side or named or None
    chosen = with_commits(parse(side)) if side else None
    with open_history(published, chosen, metric) as found:
        series = histories(found, chosen, metric, last=last)
        if not series:
            raise StoreError(
                f"{'nothing' if side is None else f'{side!r} chooses nothing'} in {published} that has a history"
            )
        stories = [
            _with_packages(
                found,
                read(
                    one, higher_is_worse=METRICS[one.metric].better == "lower", threshold=threshold,
                    min_change=min_change,
                ),
            )
            for one in series
        ]  # fmt: skip
        stale = found.stale_against(db)
    warn_if_stale(stale)
    context = {"side": side, "threshold": threshold, "stale": stale, "gate_id": found.manifest["gate_id"]}

    def render(out: TextIO) -> None:
        from hwbench_mlflow.reports import regressions as pages

        if form == "json":
            out.write(json.dumps(pages.document(stories, context)) + "\n")
            return
        draw = pages.to_markdown if form == "markdown" else pages.to_text
        out.writelines(f"{line}\n" for line in draw(stories))

    write_whole(output, render)
    opened = sum(story.open is not None for story in stories)
    unreadable = sum(story.trouble is not None for story in stories)
    if opened or (unreadable and not allow_unreadable):
        said = [f"{opened} regressions of {threshold:.1%} or more are unresolved"] if opened else []
        said += [f"{unreadable} histories cannot be read"] if unreadable and not allow_unreadable else []
        raise Refused("; ".join(said))


def _with_packages(found: Published, story: Story) -> Story:
    """The change of packages as the packages that changed."""
    from hwbench_mlflow.warehouse.history import PACKAGES, package_changes

    changes = []
    for change in story.changes:
        environment = dict(change.environment)
        sets = environment.pop(PACKAGES, None)
        changes.append(
            replace(change, environment=environment | (package_changes(found, *sets) if sets is not None else {}))
        )
    return replace(story, changes=changes)
