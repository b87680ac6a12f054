"""``hwbench recommend``: which device, how sure, and what is missing. Wiring only."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from hwbench_mlflow.cli.choices import PATH, published_option

if TYPE_CHECKING:
    from hwbench_mlflow.decide.recommending import Recommendation

OBJECTIVES = ("latency", "throughput", "energy", "cost")


@click.command()
@click.argument("side", required=False)
@click.option("--model", help="The model that is to run.")
@click.option("--task", help="Or what it is to do, as the results name it; rows then name their model.")
@click.option("--objective", type=click.Choice(OBJECTIVES), default="latency", show_default=True)
@click.option("--max-latency-ms", type=click.FloatRange(min=0, min_open=True), help="Only what answers within this.")
@click.option(
    "--percentile", type=click.Choice(["50", "90", "95", "99"]), default="50", show_default=True,
    help="Which percentile of latency the bound is for.",
)  # fmt: skip
@click.option(
    "--price", "prices", multiple=True, metavar="PLATFORM[:DEVICE]=N/h",
    help="What an hour costs, as cuda:NVIDIA-L4=0.8/h; repeatable. No price, no cost.",
)  # fmt: skip
@click.option("--include-simulated", is_flag=True, help="Show simulated results too: apart, never ranked.")
@click.option("--format", "form", type=click.Choice(["text", "markdown", "json"]), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-o", "--output", type=PATH, help="Write to this file.")
@published_option
def recommend(  # noqa: PLR0917 -- click passes by name
    side: str | None, model: str | None, task: str | None, objective: str, max_latency_ms: float | None,
    percentile: str, prices: tuple[str, ...], include_simulated: bool, form: str, as_json: bool, output: Path | None,
    published: Path, db: Path,
) -> None:  # fmt: skip
    """Rank devices for a model or a task, from verified results alone, and say how sure each row is.

    A row is the best configuration of a device in a precision; SIDE, a search as in `hwbench compare`, narrows it.
    Confidence is high, medium or low by stated rules: replication on another host, runs, spread, age, noise, samples.
    Exits with 1 where nothing verified can be ranked, and prints the commands that would change that.

    \b
    hwbench recommend --model bert
    hwbench recommend --model bert --objective throughput --max-latency-ms 50 "precision:fp32"
    hwbench recommend --task feature-extraction --objective cost --price cuda:NVIDIA-L4=0.8/h --price cpu=0.1/h
    """
    from hwbench_mlflow.cli.choices import warn_if_stale, with_commits
    from hwbench_mlflow.cli.output import write_whole
    from hwbench_mlflow.decide import recommending
    from hwbench_mlflow.decide.selectors import parse
    from hwbench_mlflow.errors import StoreError
    from hwbench_mlflow.warehouse.candidates import available, candidates, known, open_candidates

    form = "json" if as_json else form
    if (model is None) == (task is None):
        raise click.UsageError("give --model or --task")
    table = recommending.prices(prices)
    goal = recommending.Objective(objective)
    if goal is recommending.Objective.COST and not table:
        raise click.UsageError("cost needs what an hour costs: --price PLATFORM[:DEVICE]=N/h")
    chosen = with_commits(parse(side)) if side else None
    with open_candidates(published, chosen, simulated=include_simulated) as found:
        measured = [recommending.priced(one, table) for one in candidates(found, model, task, chosen)]
        simulated = candidates(found, model, task, chosen, table="simulated_results") if include_simulated else []
        names = known(found, "model_name" if task is None else "task")
        devices = available(found)
        stale = found.stale_against(db)
    warn_if_stale(stale)
    result = recommending.recommend(
        measured, simulated, goal, now=datetime.fromisoformat(found.manifest["published_at"]).replace(tzinfo=None),
        max_latency_ms=max_latency_ms, percentile=int(percentile),
    )  # fmt: skip
    commands = _commands(result, model, [(platform, device) for platform, device, _ in devices])
    bound = "" if max_latency_ms is None else f", p{percentile} latency within {max_latency_ms:g} ms"
    title = f"{model or task}: by {objective}{bound}"
    context = {
        "model": model, "task": task, "max_latency_ms": max_latency_ms, "percentile": int(percentile), "stale": stale,
        "gate_id": found.manifest["gate_id"],
    }  # fmt: skip

    def render(out: TextIO) -> None:
        from hwbench_mlflow.reports import recommendation as pages

        if form == "json":
            out.write(json.dumps(pages.document(result, context, commands)) + "\n")
            return
        draw = pages.to_markdown if form == "markdown" else pages.to_text
        out.writelines(f"{line}\n" for line in draw(result, title, commands))

    write_whole(output, render)
    if not result.entries:
        others = f" (there are results of {', '.join(names[:8])})" if (model or task) not in names and names else ""
        raise StoreError(f"no verified, ranked result of {model or task!r} can be ranked by {objective}{others}")


def _commands(result: Recommendation, model: str | None, devices: Sequence[tuple[str, str]]) -> list[str]:
    """Another machine's confirmation of what only one has measured; then runs on devices that were seen and have no
    row, and more of those whose confidence is not high."""
    confirm = [
        f"hwbench replicate {entry.candidate.confirmable} --on NODE --fleet ADDRESS"
        for entry in result.entries[:3]
        if entry.candidate.alone and entry.candidate.confirmable is not None
    ]
    if model is None:
        return confirm
    ranked = {str(e.candidate.work["platform"]) for e in result.entries}
    said = [
        shlex.join(["hwbench", "run", "--model", model, "--hardware", platform, "--device", device,
                    "--profile", "standard"])
        for platform, device in dict.fromkeys(devices)
        if platform not in ranked
    ]  # fmt: skip
    for entry in result.entries[:3]:
        if entry.missing:
            work = entry.candidate.work
            asked = {"--batch-size": work["batch_size"], "--precision": work["effective_precision"]}
            command = ["hwbench", "run", "--model", model, "--hardware", str(work["platform"]), "--profile", "standard"]
            command += [part for name, value in asked.items() for part in (name, str(value))]
            said.append(shlex.join(command))
    if not said and not confirm:
        said = [shlex.join(["hwbench", "run", "--model", model, "--hardware", "cpu", "--profile", "standard"])]
        said = said if not result.entries else []
    return list(dict.fromkeys([*confirm, *said]))
