"""What the commands that answer from published results have in common: percents, revisions, where the file is."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hwbench_mlflow.decide.selectors import Selector

PATH = click.Path(dir_okay=False, path_type=Path)
F = TypeVar("F", bound=Callable[..., Any])


class Percent(click.ParamType[float]):
    """``5%``, or ``0.05``: a fraction above 0 and at most 10."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The fraction."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        matched = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(%?)", text)
        fraction = float(matched[1]) / (100 if matched[2] else 1) if matched else 0.0
        if not 0 < fraction <= 10:
            self.fail(f"{value!r} is no share such as 5% or 0.05", param, ctx)
        return fraction


PERCENT = Percent()


def published_option(command: F) -> F:
    """``--published`` and ``--db``, as ``hwbench report`` has them."""
    command = click.option(
        "--db", type=PATH, default=Path("hwbench.duckdb"), show_default=True,
        help="The warehouse, looked at only to say whether this is stale.",
    )(command)  # fmt: skip
    return click.option(
        "--published", type=PATH, default=Path("published.duckdb"), show_default=True, help="What `hwbench gate` wrote."
    )(command)


def warn_if_stale(reason: str | None) -> None:
    """Say on standard error that the published file may be behind."""
    if reason is not None:
        click.echo(f"hwbench: warning: stale, or not known to be current: {reason}", err=True)


def with_commits(side: Selector) -> Selector:
    """The side with each revision as a commit: what git knows here, else what looks like the beginning of a hash."""
    return replace(side, commits=tuple(_commit(name) for name in side.commits))


def _commit(name: str) -> str:
    from hwbench_mlflow.errors import UsageError

    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        found = done.stdout.strip() if done.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        found = ""
    if found:
        return found
    if re.fullmatch(r"[0-9a-f]{7,64}", name):
        return name
    raise UsageError(f"git knows no revision {name!r} here, and it is no commit's hash of 7 or more characters")
