"""The README's commands: that they are there, where CI finds them, and that they are ours."""

from __future__ import annotations

import re

import click
import pytest

from hwbench_mlflow.cli.main import root
from tests.commands import ROOT
from tests.shown import blocks, check_hwbench, inline

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block_after(marker: str) -> str:
    """The fenced block that follows ``<!-- marker -->``."""
    found = re.search(rf"^<!-- {marker} -->\n```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no block after <!-- {marker} -->"
    return found[1]


def shown() -> list[str]:
    """Every ``hwbench ...`` command of the README's shell blocks and of its inline code."""
    lines = [line for block in blocks(README) if block.language == "bash" for line in block.lines]
    return sorted({line for line in [*lines, *inline(README)] if line.startswith("hwbench ")})


def test_the_main_command_holds_the_verbatim_mlflow_run() -> None:
    block = block_after("main-command")
    assert "mlflow run . -P model=bert -P hardware=cpu" in block
    assert "-c constraints.txt" in block


def test_the_test_command_installs_what_the_tests_need_and_runs_them_all() -> None:
    block = block_after("test-command")
    assert "-c constraints.txt" in block
    assert "python -m pytest" in block
    assert "not slow" not in block


def test_ci_looks_for_the_same_markers() -> None:
    runs = (ROOT / ".ci" / "run").read_text()
    assert "command_after test-command" in runs
    assert "command_after main-command" in runs


def test_the_readme_shows_commands() -> None:
    assert {"run", "devices", "verify", "push"} <= {line.split()[1] for line in shown()}


@pytest.mark.parametrize("line", shown())
def test_a_command_that_is_shown_parses(line: str) -> None:
    check_hwbench(line)


def test_an_option_that_does_not_exist_would_be_noticed() -> None:
    command = root.get_command(click.Context(root), "run")
    assert command is not None
    with pytest.raises(click.NoSuchOption):
        command.make_parser(click.Context(command)).parse_args(["--colour", "red"])


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!https?:)[^)#]+)\)", README))
def test_what_the_readme_links_to_is_there(path: str) -> None:
    assert (ROOT / path).exists()
