"""The hardware availability report: what the probes of one machine said, as HTML or Markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench_mlflow import __version__
from hwbench_mlflow.model import Availability, HostInfo
from hwbench_mlflow.reports import words
from hwbench_mlflow.reports.page import environment
from hwbench_mlflow.reports.text import cell


def devices_html(answers: Sequence[Availability], host: HostInfo) -> str:
    """One page without network or script."""
    verified = sum(answer.verified for answer in answers)
    template = environment().get_template("devices.html.j2")
    return template.render(answers=answers, host=host, verified=verified, version=__version__)


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
    return "\n".join([*lines, ""])
