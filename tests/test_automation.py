"""What other people's machines run of us: the GitHub workflow and the pre-commit hook."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from hwbench_mlflow.cli.main import COMMANDS, root
from tests.commands import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "benchmark.yml"
PERFORMANCE = ROOT / ".github" / "workflows" / "performance.yml"
HOOKS = ROOT / ".pre-commit-hooks.yaml"


def steps() -> list[dict[str, Any]]:
    loaded = yaml.safe_load(WORKFLOW.read_text())
    found: list[dict[str, Any]] = loaded["jobs"]["benchmark"]["steps"]
    return found


def ours(line: str) -> None:
    """The command is one of hwbench's, with options that it has."""
    name, *arguments = shlex.split(line.split(" >> ", maxsplit=1)[0])[1:]
    assert name in COMMANDS
    command = root.get_command(click.Context(root), name)
    assert command is not None
    command.make_context(name, arguments)


def test_the_workflow_measures_mirrors_gates_and_reports_in_that_order() -> None:
    commands = [step["run"] for step in steps() if "run" in step]
    kinds = [match[1] for line in commands if (match := re.match(r"(?:hwbench (\w+)|mlflow run)", line))]
    assert kinds == [None, "sync", "gate", "report", "report"]
    for line in commands:
        if line.startswith("hwbench "):
            ours(line)


@pytest.mark.parametrize(
    ("path", "job"), [(WORKFLOW, "benchmark"), (PERFORMANCE, "compare")], ids=["benchmark", "compare"]
)
def test_no_step_of_a_workflow_may_fail_unseen(path: Path, job: str) -> None:
    text = path.read_text()
    assert "continue-on-error" not in text
    assert "|| true" not in text
    # Inputs reach the shell as variables only: one that held a command would run it otherwise.
    assert not [step["run"] for step in yaml.safe_load(text)["jobs"][job]["steps"] if "${{" in step.get("run", "")]


def test_a_pull_request_is_compared_and_what_it_regressed_fails_the_job() -> None:
    commands = [
        step["run"] for step in yaml.safe_load(PERFORMANCE.read_text())["jobs"]["compare"]["steps"] if "run" in step
    ]
    lines = [line.replace('"$REGRESSION"', "10%") for line in commands if line.startswith("hwbench ")]
    for line in lines:
        ours(line)
    assert [line.split()[1] for line in lines] == ["sync", "gate", "compare", "regressions"]
    assert "--fail-on-regression" in lines[2]
    assert "--allow-ambiguous" not in lines[2]


def test_the_hook_is_the_gate_and_fails_with_it() -> None:
    (hook,) = yaml.safe_load(HOOKS.read_text())
    ours(hook["entry"])
    assert hook["entry"] == "hwbench gate --strict"  # without it, rows are quarantined and the rest passes
    assert (hook["always_run"], hook["pass_filenames"]) == (True, False)
