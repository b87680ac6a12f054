"""``hwbench devices``: what is there, shown to people, programs and MLflow.

Owns the command's options and its table. Probes come from :mod:`hwbench_mlflow.probing`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from hwbench_mlflow.model import Availability, HostInfo, Platform

if TYPE_CHECKING:
    from rich.console import Console

STDOUT = Path("-")
_PATH = click.Path(dir_okay=False, allow_dash=True, path_type=Path)


SCHEMA_VERSION = 1
"""Of the object of ``--json``."""


@click.command("devices")
@click.option(
    "platforms",
    "--platform",
    multiple=True,
    type=click.Choice([p.value for p in Platform]),
    help="Only this platform; may be given again.",
)
@click.option("--browser", default=None, help="webgpu, webnn: the browser's executable.")
@click.option("as_json", "--json", is_flag=True, help="One JSON object on standard output.")
@click.option("--markdown", type=_PATH, metavar="FILE", help="Write the availability report as Markdown; - for stdout.")
@click.option("--html", type=_PATH, metavar="FILE", help="Write it as an HTML page; - for stdout.")
@click.option("log", "--log", is_flag=True, help="Log the answers to MLflow as a run of their own.")
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=60.0, show_default=True, help="Seconds for each probe."
)
@click.option("--tracking-uri", default=None, help="Where --log logs to.")
@click.option("--experiment", default=None, help="The experiment --log logs into.")
def devices(  # noqa: PLR0917  # click passes options by keyword
    platforms: tuple[str, ...],
    browser: str | None,
    as_json: bool,
    markdown: Path | None,
    html: Path | None,
    log: bool,
    timeout: float,
    tracking_uri: str | None,
    experiment: str | None,
) -> None:
    """Find out which hardware is really there.

    Each platform is probed in a process of its own. "verified" means that an operation ran on the
    device in this probe, its output was right, and the device's identity was read back.

    \b
    hwbench devices --platform cpu --platform cuda
    hwbench devices --html devices.html
    """
    from hwbench_mlflow import host
    from hwbench_mlflow.cli.run import use_browser

    use_browser(browser)
    if [as_json, markdown == STDOUT, html == STDOUT].count(True) > 1:
        raise click.UsageError("only one of --json, --markdown - and --html - goes to standard output")
    chosen = [Platform(name) for name in dict.fromkeys(platforms)] or list(Platform)
    answers = _probe(chosen, timeout)
    _keep(answers)
    described = host.describe_host()
    if as_json:
        click.echo(as_json_text(answers, described))
    elif STDOUT not in {markdown, html}:
        from rich.console import Console

        print_table(Console(), answers)
    _write_reports(answers, described, markdown, html)
    if log:
        from hwbench_mlflow import tracking

        tracking.log_devices(answers, described, tracking_uri, experiment)


def _write_reports(
    answers: Sequence[Availability], described: HostInfo, markdown: Path | None, html: Path | None
) -> None:
    if markdown is None and html is None:
        return
    from hwbench_mlflow.cli.output import write_whole
    from hwbench_mlflow.reports.devices import devices_html, devices_markdown

    for path, text in ((markdown, devices_markdown), (html, devices_html)):
        if path is not None:
            write_whole(None if path == STDOUT else path, partial(_put, text(answers, described)))


def _put(text: str, out: TextIO) -> None:
    out.write(text)


def _probe(chosen: Sequence[Platform], timeout_s: float) -> list[Availability]:
    """The probes, with a line of progress on a terminal's stderr."""
    from hwbench_mlflow.probing import probe_isolated

    if not sys.stderr.isatty():
        return probe_isolated(chosen, timeout_s)
    from rich.console import Console

    waiting = [platform.value for platform in chosen]
    with Console(stderr=True).status(f"probing {', '.join(waiting)}") as status:

        def answered(answer: Availability) -> None:
            waiting.remove(answer.platform.value)
            status.update(f"probing {', '.join(waiting)}")

        return probe_isolated(chosen, timeout_s, on_answer=answered)


def _keep(answers: Sequence[Availability]) -> None:
    """For the tags of other MLflow runs (:mod:`hwbench_mlflow.last_probe`); that it cannot be kept stops no answer."""
    from hwbench_mlflow.errors import KeyTrouble, StoreError
    from hwbench_mlflow.last_probe import keep

    try:
        keep(answers)
    except (KeyTrouble, StoreError) as error:
        reason = " ".join(str(error).split())
        click.echo(f"hwbench: warning: no run can be tagged with what was found: {reason}", err=True)


def as_json_text(answers: Sequence[Availability], described: HostInfo) -> str:
    """``{"schema_version", "host", "platforms": [availability + "verified" + "plan"]}``; "plan" is what would make the
    platform available, null where it is."""
    import msgspec

    from hwbench_mlflow.remedies import plan_for

    platforms: list[dict[str, Any]] = [
        msgspec.to_builtins(a) | {"verified": a.verified, "plan": msgspec.to_builtins(plan_for(a))} for a in answers
    ]
    document = {"schema_version": SCHEMA_VERSION, "host": msgspec.to_builtins(described), "platforms": platforms}
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def print_table(console: Console, answers: Sequence[Availability]) -> None:
    """One row a platform, without rules or boxes, so that it reads the same in a pipe."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("PLATFORM", "STATUS", "VERIFIED"):
        table.add_column(heading, no_wrap=True)
    table.add_column("DEVICE, OR WHY NOT", overflow="fold")
    for answer in answers:
        there = bool(answer.devices) and answer.status.value == "AVAILABLE"
        table.add_row(
            Text(answer.platform.value, style="bold"),
            Text(answer.status.value, style="green" if there else "yellow"),
            Text(_verified_words(answer)),
            # Text, not str: a vendor's "[...]" is no markup.
            Text("\n".join(describe(answer))),
        )
    console.print(table)


def _verified_words(answer: Availability) -> str:
    if not answer.devices:
        return "-"
    good = sum(answer.verified_device(device.id) is not None for device in answer.devices)
    return "yes" if good == len(answer.devices) else f"{good} of {len(answer.devices)}"


def describe(answer: Availability) -> list[str]:
    """The lines of a platform's cell: each device with its identity, the reason, the remedy, where to rent it."""
    from hwbench_mlflow.remedies import plan_for

    lines = []
    for device in answer.devices:
        parts = [f"{device.id}: {device.name}"]
        if device.memory_bytes is not None:
            parts.append(f"{device.memory_bytes / 2**30:.0f} GiB")
        parts += [part for part in (device.uuid, device.pci_id) if part]
        if device.driver:
            parts.append(f"driver {device.driver}")
        lines.append(", ".join(parts))
        if device.emulation_reason:
            lines.append(f"  emulated: {device.emulation_reason}")
        failures = [c.reason for c in answer.checks if c.device_id == device.id and not c.passed]
        lines += [f"  not verified: {reason}" for reason in failures]
    lines.append(answer.reason)
    if answer.remedy:
        lines.append(f"-> {answer.remedy}")
    plan = plan_for(answer)
    if plan is not None:
        lines.append(f"   rent: {'; '.join(plan.rent)}")
    return lines
