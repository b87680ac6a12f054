"""The root of the command line: finds the commands, says errors in one line, sets the exit code.

Imports click and nothing heavy: ``hwbench --help`` must be instant. A command's module is imported
when it is called.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

from hwbench_mlflow import __version__

if TYPE_CHECKING:
    from hwbench_mlflow.errors import HwbenchError

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("hwbench_mlflow.cli.run:run", "Measure a model on a platform, as an MLflow run."),
    "batch": ("hwbench_mlflow.cli.batch:batch", "Measure a matrix of models, platforms and configurations."),
    "fleet": ("hwbench_mlflow.cli.fleet:fleet", "Many machines: join a fleet, and see what is in it."),
    "replicate": ("hwbench_mlflow.cli.replicate:replicate", "Measure a run's configuration again, elsewhere."),
    "devices": ("hwbench_mlflow.cli.devices:devices", "What hardware is there, and was it made to compute?"),
    "verify": ("hwbench_mlflow.cli.verify:verify", "Recompute a run's verdict from its evidence."),
    "push": ("hwbench_mlflow.cli.push:push", "Make MLflow runs of result files, each once."),
    "sync": ("hwbench_mlflow.cli.sync:sync", "Mirror an MLflow store into the DuckDB warehouse."),
    "gate": ("hwbench_mlflow.cli.gate:gate", "Audit the warehouse and publish what passes."),
    "report": ("hwbench_mlflow.cli.report:report", "A page of what was published: HTML, Markdown, JSON, CSV."),
    "compare": ("hwbench_mlflow.cli.compare:compare", "Is B faster or slower than A, and how sure is that?"),
    "regressions": (
        "hwbench_mlflow.cli.regressions:regressions",
        "What got slower over time, and why?",
    ),
    "recommend": ("hwbench_mlflow.cli.recommend:recommend", "Which device for a model, and how sure is that?"),
    "coverage": ("hwbench_mlflow.cli.coverage:coverage", "What was measured where, and what to run next?"),
    "dashboard": ("hwbench_mlflow.cli.dashboard:dashboard", "The state of everything, in a browser or as files."),
    "query": ("hwbench_mlflow.cli.query:query", "SQL over what is published, or over the warehouse."),
    "roofline": ("hwbench_mlflow.cli.roofline:roofline", "A device's measured peak and bandwidth, as an MLflow run."),
    "simulate": ("hwbench_mlflow.cli.simulate:simulate", "Datasheets for estimates, and how good estimates are."),
    "doctor": ("hwbench_mlflow.cli.doctor:doctor", "What is wrong with this set-up, and what to do."),
    "keys": ("hwbench_mlflow.cli.keys:keys", "Signing keys: show, make, export, trust, revoke."),
}
"""Name -> where the command is, and its line in the help (kept here so that help imports none)."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hwbench")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def root(ctx: click.Context, debug: bool) -> None:
    """Benchmarks of models on hardware, as MLflow runs whose numbers can be verified.

    \b
    hwbench run --model bert --hardware cpu
    hwbench devices
    hwbench verify RUN_ID

    Exit codes: 0 done, 1 failed, 2 usage, 3 a check refused, 4 hardware unavailable.
    """
    ctx.obj = {"debug": debug}


def main() -> None:
    """The ``hwbench`` command."""
    from hwbench_mlflow.errors import ExitCode, HwbenchError

    debug = "--debug" in sys.argv[1:2]
    try:
        code = root.main(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = ExitCode.USAGE
    except click.ClickException as error:
        reason = _usage_line(error)
        click.echo(f"hwbench: {reason}", err=True)
        _tell_adopted_run(reason)
        code = ExitCode.USAGE
    except click.Abort:
        click.echo("hwbench: aborted", err=True)
        code = ExitCode.FAILED
    except KeyboardInterrupt:
        click.echo("hwbench: interrupted", err=True)
        code = ExitCode.FAILED
    except HwbenchError as error:
        if debug:
            raise
        click.echo(f"hwbench: {_one_line(error)}", err=True)
        if error.exit_code is ExitCode.USAGE:
            _tell_adopted_run(str(error))
        code = error.exit_code
    except (OSError, UnicodeEncodeError) as error:  # commands name their files: most often it is standard output
        if debug:
            raise
        if not isinstance(error, BrokenPipeError):  # whoever reads has enough
            click.echo(f"hwbench: {_system_line(error)}", err=True)
        _forget_output()
        code = ExitCode.FAILED
    sys.exit(int(code) if isinstance(code, int) else 0)


def _usage_line(error: click.ClickException) -> str:
    """What was wrong and what is allowed, in one line; click's own message takes four and lists nothing."""
    said = " ".join(error.format_message().split())
    if isinstance(error, click.exceptions.NoSuchOption) and error.ctx is not None:
        options = [param for param in error.ctx.command.get_params(error.ctx) if isinstance(param, click.Option)]
        allowed = [max(option.opts, key=len) for option in options if not option.hidden]
        return f"{said} Allowed: {', '.join(allowed)}"
    if isinstance(error, click.exceptions.NoSuchCommand):
        return f"{said} Commands: {', '.join(COMMANDS)}"
    return said


def _one_line(error: HwbenchError) -> str:
    return " ".join(str(error).split())


def _system_line(error: OSError | UnicodeEncodeError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[error.start : error.end]!a} cannot be written in {error.encoding}. Use UTF-8, or a file"
    return f"{error.strerror or error}: {error.filename or 'standard output, or a file that it does not name'}"


def _forget_output() -> None:
    """What standard output did not take is not tried again, and complained of, when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell_adopted_run(reason: str) -> None:
    """Under ``mlflow run`` a run exists already: say on it why it has no result."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id is None:
        return
    from hwbench_mlflow.errors import StoreError, UsageError
    from hwbench_mlflow.model import FailureCategory
    from hwbench_mlflow.tracking import Store, failure_of

    try:
        Store().fail(run_id, failure_of(UsageError(reason), FailureCategory.USAGE, None, None))
    except StoreError as error:
        click.echo(f"hwbench: {_one_line(error)}", err=True)
