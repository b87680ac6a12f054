"""Commands and files that documents show: taken out of Markdown, and held against the real command line."""

from __future__ import annotations

import itertools
import re
import shlex
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path

import click
import yaml

from hwbench_mlflow.cli.main import COMMANDS, root
from tests.commands import ROOT

FENCE = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<marker>[^\n]+?) -->\n(?P=indent))?```(?P<language>\w+)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
OTHERS = frozenset({"export", "git", "npm", "python3"})
"""Programs that are not ours: their lines are not checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block, with the comment that stands before it."""

    marker: str | None
    language: str
    body: str

    @property
    def lines(self) -> list[str]:
        """Its commands: continued lines joined, comments left out."""
        joined = self.body.replace("\\\n", " ").splitlines()
        parts = [part.strip() for line in joined for part in line.split("  #")[0].split("&&")]
        return [part for part in parts if part and not part.startswith("#")]


def blocks(text: str) -> list[Block]:
    """Every fenced block that has a language."""
    return [
        Block(marker=found["marker"], language=found["language"], body=textwrap.dedent(found["indent"] + found["body"]))
        for found in FENCE.finditer(text)
    ]


def inline(text: str) -> list[str]:
    """Inline code that names a command of ours with an argument."""
    without_blocks = FENCE.sub("", text)
    return [" ".join(found.split()) for found in re.findall(r"`(hwbench [^`]+)`", without_blocks)]


def check_line(line: str) -> None:
    """Hold a line of a shell block against what it calls; whatever is wrong with it raises."""
    words = shlex.split(line)
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        words = words[1:]
    program = words[0]
    if program == "hwbench":
        check_hwbench(line)
    elif program == "mlflow":
        check_mlflow(words)
    elif program == "pip":
        check_extras(words)
    else:
        assert program in OTHERS | {"."}, f"{line}: nobody checks {program}"


def check_hwbench(line: str) -> None:
    """Parse a command of ours as click would; a file or a run that is named need not exist."""
    name, *arguments = shlex.split(line.split(" > ", maxsplit=1)[0].split(" >> ", maxsplit=1)[0])[1:]
    assert name in COMMANDS, line
    command = root.get_command(click.Context(root), name)
    while isinstance(command, click.Group) and arguments:
        found = command.get_command(click.Context(command), arguments.pop(0))
        assert found is not None, line
        command = found
    assert command is not None
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


def check_mlflow(words: list[str]) -> None:
    """``mlflow server``, or ``mlflow run`` of a project, an entry point and parameters that are there."""
    if words[1] == "server":
        return
    assert words[1] == "run", words
    project = yaml.safe_load((ROOT / words[2] / "MLproject").read_text(encoding="utf-8"))
    point = words[words.index("-e") + 1] if "-e" in words else "main"
    known = project["entry_points"][point].get("parameters", {})
    for option, value in itertools.pairwise(words):
        if option == "-P":
            assert value.partition("=")[0] in known, f"{words}: no parameter {value}"


def check_extras(words: list[str]) -> None:
    """``pip install`` of extras that pyproject.toml has."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words:
        if found := re.fullmatch(r"\.\[(.+)\]", word):
            assert set(found[1].split(",")) <= extras.keys(), word
    if "-c" in words:
        assert Path(ROOT, words[words.index("-c") + 1]).exists()
