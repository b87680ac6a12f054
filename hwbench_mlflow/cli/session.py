"""The configurations of one ``hwbench run``: measured one after another, each result on its way to where it belongs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hwbench_mlflow.cli.signals import undisturbed
from hwbench_mlflow.model import Phase, Scenario

if TYPE_CHECKING:
    from hwbench_mlflow.attest import Keyring, SigningKey
    from hwbench_mlflow.cli.delivery import Delivery
    from hwbench_mlflow.cli.progress import TerminalProgress
    from hwbench_mlflow.errors import HwbenchError
    from hwbench_mlflow.model import Failure, RunRequest
    from hwbench_mlflow.spool import Place


@dataclass(slots=True)
class Done:
    """One finished configuration: in a run, in a file, or (both None) waiting in the spool."""

    run_id: str | None
    file: str | None
    files: Mapping[str, bytes]


@dataclass(slots=True)
class RunSession:
    """The configurations of one command, and where their results go."""

    tracking_uri: str | None
    experiment: str | None
    out: Path | None
    key: SigningKey
    keyring: Keyring
    tags: Mapping[str, str] = field(default_factory=dict)
    done: list[Done] = field(default_factory=list)
    errors: list[HwbenchError] = field(default_factory=list)

    def run_all(self, requests: list[RunRequest]) -> None:
        """Measure each; a failure of one does not stop the others, except being told to stop."""
        from hwbench_mlflow.cli.delivery import Delivery
        from hwbench_mlflow.cli.progress import TerminalProgress
        from hwbench_mlflow.errors import StoreError

        with TerminalProgress() as progress:
            delivery = Delivery(self.tracking_uri, self.experiment, self.key, self.keyring, progress.warn)
            if self.out is None:
                delivery.flush()
            if len(requests) > 1:
                delivery.open_parent(run_name(requests[0], batch=False), {})
            try:
                for request in requests:
                    self._run_one(request, delivery, progress)
            except StoreError:
                # It says where the result is kept: that the parent cannot be ended either is no news.
                with contextlib.suppress(StoreError):
                    delivery.end_parent(len(requests), len(requests) - len(self.done))
                raise
            except BaseException:
                delivery.end_parent(len(requests), len(requests) - len(self.done))
                raise
            delivery.end_parent(len(requests), len(requests) - len(self.done))

    def _run_one(self, request: RunRequest, delivery: Delivery, progress: TerminalProgress) -> None:
        from hwbench_mlflow import evidence, runner
        from hwbench_mlflow.errors import BenchmarkFailed, HardwareUnavailable, Interrupted, UsageError

        place: Place | None = None

        def prepare() -> None:
            nonlocal place
            if self.out is None and place is None:
                place = delivery.open(run_name(request), {**request_tags(request), **self.tags})

        try:
            measured = runner.run(request, progress, prepare)
        except (HardwareUnavailable, BenchmarkFailed, UsageError) as error:
            prepare()
            self.errors.append(error)
            if place is not None:
                delivery.fail(place, failure_of(error, request), killed=isinstance(error, Interrupted))
            if isinstance(error, Interrupted):
                raise
        else:
            progress.stage("signing and logging")
            files = evidence.seal(measured.result, measured.samples, self.key)
            self._keep(place, files, delivery)

    def _keep(self, place: Place | None, files: Mapping[str, bytes], delivery: Delivery) -> None:
        from hwbench_mlflow.bundle import write_bundle

        if place is None:
            assert self.out is not None
            write_bundle(self.out, files)
            self.done.append(Done(run_id=None, file=str(self.out), files=files))
            return
        with undisturbed():
            run_id = delivery.keep(place, files)
            self.done.append(Done(run_id=run_id, file=None, files=files))

    def print_summary(self, *, as_json: bool) -> None:
        """What was measured, on standard output."""
        from hwbench_mlflow.cli.summary import summary_document, summary_text
        from hwbench_mlflow.evidence import judge

        judged = [(done.run_id, done.file, judge(done.files, None, self.keyring)) for done in self.done]
        if as_json:
            from hwbench_mlflow.codec import encode

            click.echo(encode(summary_document(judged)).decode())
            return
        for run_id, file, judgement in judged:
            click.echo(summary_text(run_id, file, judgement))

    def exit(self) -> None:
        """Exit by the worst that happened: an error's own code, or 3 for a contradicted result."""
        from hwbench_mlflow.errors import ExitCode
        from hwbench_mlflow.evidence import judge
        from hwbench_mlflow.model import VerdictState

        for error in self.errors:
            click.echo(f"hwbench: {' '.join(str(error).split())}", err=True)
        if self.errors:
            sys.exit(int(max(error.exit_code for error in self.errors)))
        verdicts = {judge(done.files, None, self.keyring).verdict.state for done in self.done}
        if VerdictState.CONTRADICTED in verdicts:
            sys.exit(int(ExitCode.REFUSED))


def failure_of(error: HwbenchError, request: RunRequest) -> Failure:
    """Why there is no result, as it is stored."""
    from hwbench_mlflow import tracking
    from hwbench_mlflow.errors import BenchmarkFailed, HardwareUnavailable
    from hwbench_mlflow.host import describe_host
    from hwbench_mlflow.model import FailureCategory
    from hwbench_mlflow.remedies import suggested

    category = FailureCategory.USAGE
    if isinstance(error, HardwareUnavailable):
        category = FailureCategory(error.availability.status.lower())
    elif isinstance(error, BenchmarkFailed):
        category = error.category
    error.remedy = suggested(category, error.remedy)
    return tracking.failure_of(error, category, request, describe_host())


def request_tags(request: RunRequest) -> dict[str, str]:
    """What a run says of what is about to be measured, so that one that fails or dies says what it was.

    The precision is the one asked for; a result replaces it by the one that was effective.
    """
    work = request.workload
    return {"hardware": str(request.platform), "model": work.model, "hwbench.precision": str(work.precision)}


def run_name(request: RunRequest, *, batch: bool = True) -> str:
    work = request.workload
    parts = [Path(work.model).name or work.model, request.platform.value, work.precision.value]
    if batch:
        parts.append(f"b{work.batch_size}")
    if work.phase is not Phase.FORWARD:
        parts.append(work.phase.value)
    if work.scenario is not Scenario.LATENCY:
        parts.append(work.scenario.value)
    return "-".join(parts)
