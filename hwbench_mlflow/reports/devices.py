"""The hardware availability report: what the probes of one machine said, as HTML or Markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench_mlflow import __version__
from hwbench_mlflow.model import Availability, HostInfo, Platform
from hwbench_mlflow.remedies import Plan, plan_for
from hwbench_mlflow.reports import words
from hwbench_mlflow.reports.page import environment
from hwbench_mlflow.reports.text import cell


def devices_html(answers: Sequence[Availability], host: HostInfo) -> str:
    """One page without network or script."""
    verified = sum(answer.verified for answer in answers)
    template = environment().get_template("devices.html.j2")
    return template.render(answers=answers, plans=plans(answers), host=host, verified=verified, version=__version__)


def devices_markdown(answers: Sequence[Availability], host: HostInfo) -> str:
    """The same as a Markdown table."""
    lines = [
        f"# Hardware of {cell(host.hostname)}",
        "",
        f"{cell(host.os)}, {cell(host.machine)}, {cell(host.cpu_name)}; hwbench {__version__}",
        "",
        "| platform | status | verified | devices | why | what would make it available |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for answer in answers:
        devices = [
            f"{d.id}: {d.name}" + (f" (SIMULATED: {d.emulation_reason})" if d.emulation_reason else "")
            for d in answer.devices
        ]
        cells = ["; ".join(devices) or words.ABSENT, answer.reason, answer.remedy]
        verified = "yes" if answer.verified else "no"
        lines.append(f"| {answer.platform} | {answer.status} | {verified} | {' | '.join(map(cell, cells))} |")
    if wanted := plans(answers):
        lines += ["", "## What would make the others available", ""]
        lines += ["| platform | hardware | driver | package | where to rent it | why these |", "|" + " --- |" * 6]
        for platform, plan in wanted:
            wanted_cells = (platform, plan.hardware, plan.driver, plan.package, "; ".join(plan.rent), plan.why)
            lines.append(f"| {' | '.join(map(cell, wanted_cells))} |")
    return "\n".join([*lines, ""])


def plans(answers: Sequence[Availability]) -> list[tuple[Platform, Plan]]:
    """The acquisition plan: each platform that has no hardware here."""
    return [(answer.platform, plan) for answer in answers if (plan := plan_for(answer)) is not None]
