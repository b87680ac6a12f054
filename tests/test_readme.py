"""The README's commands: that they are there, where CI finds them, and that they are ours."""

from __future__ import annotations

import itertools
import re
import shlex

import click
import pytest

from hwbench_mlflow.cli.main import COMMANDS, root
from tests.commands import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block_after(marker: str) -> str:
    """The fenced block that follows ``<!-- marker -->``."""
    found = re.search(rf"^<!-- {marker} -->\n```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no block after <!-- {marker} -->"
    return found[1]


def shown() -> list[str]:
    """Every ``hwbench ...`` command of the README's shell blocks and of its inline code."""
    lines = [
        line.split("  #")[0].strip()
        for block in re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    # Inline code that names a command with an argument, not the bare name of one.
    lines += re.findall(r"`(hwbench [^`]+)`", README)
    return sorted({line for line in lines if line.startswith("hwbench ")})


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
    name, *arguments = shlex.split(line)[1:]
    assert name in COMMANDS
    command = root.get_command(click.Context(root), name)
    while isinstance(command, click.Group) and arguments:
        found = command.get_command(click.Context(command), arguments.pop(0))
        assert found is not None, line
        command = found
    assert command is not None
    # Resilient: a file or a run that is named need not exist, but an option that does not is refused.
    parser = command.make_parser(click.Context(command))
    _, left, _ = parser.parse_args(list(arguments))
    takes = any(isinstance(param, click.Argument) for param in command.params)
    assert takes or not left, f"{line}: {left} goes nowhere"
    for param, value in _values(command, arguments):
        param.type.convert(value, param, click.Context(command))


def _values(command: click.Command, arguments: list[str]) -> list[tuple[click.Option, str]]:
    """The options with the value that the line gives them, flags left out."""
    options = {name: param for param in command.params if isinstance(param, click.Option) for name in param.opts}
    return [
        (options[word], value)
        for word, value in itertools.pairwise(arguments)
        if word in options and not options[word].is_flag
    ]


def test_an_option_that_does_not_exist_would_be_noticed() -> None:
    command = root.get_command(click.Context(root), "run")
    assert command is not None
    with pytest.raises(click.NoSuchOption):
        command.make_parser(click.Context(command)).parse_args(["--colour", "red"])


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!https?:)[^)#]+)\)", README))
def test_what_the_readme_links_to_is_there(path: str) -> None:
    assert (ROOT / path).exists()
