"""``hwbench replicate``: a run's configuration measured again, here or on a node of a fleet. Wiring only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hwbench_mlflow.cli.batch_view import Outcome
    from hwbench_mlflow.evidence import Judgement
    from hwbench_mlflow.model import BenchmarkResult, RunRequest

REPLICATES_TAG = "hwbench.replicates"
SCHEMA_VERSION = 1


@click.command()
@click.argument("run", metavar="RUN_ID")
@click.option("--on", "node", help="The node of the fleet that is to measure; this machine if not given.")
@click.option("--fleet", metavar="ADDRESS", help="The fleet that --on names a node of.")
@click.option("--tracking-uri", help="MLflow store; else MLFLOW_TRACKING_URI, else ./mlflow.db.")
@click.option("--experiment", help="MLflow experiment of the new run, by name.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def replicate(  # noqa: PLR0917  # click passes options by keyword
    run: str, node: str | None, fleet: str | None, tracking_uri: str | None, experiment: str | None, as_json: bool
) -> None:
    """Measure the configuration of RUN_ID again, and say whether it comes to the same within 2%.

    The new run is tagged with the old one, for people. Whether a result counts as replicated is worked out from the
    evidence of both when they are published: verified, another machine of the same kind, another key, the same
    configuration, medians within 2%. Exits with 3 where the original is not verified, or the two do not agree.

    \b
    hwbench replicate 5d0c... --on lab-2 --fleet lab-1:6379
    hwbench replicate 5d0c...                                # on this machine: run it where the original was not
    """
    from hwbench_mlflow.decide.replicating import objections, ratio
    from hwbench_mlflow.warehouse.results import compared

    if (node is None) != (fleet is None):
        raise click.UsageError("--on names a node of a fleet: give both --on and --fleet, or neither")
    original = _original(run, tracking_uri)
    assert original.result is not None
    request = replace(original.result.request, workload=_settled(original.result))
    measure = _here if fleet is None else _there(fleet, node or "")
    run_id, again = measure(request, original.result, run, tracking_uri, experiment)
    one, other = compared(original), compared(again)
    against, found = objections(one, other), ratio(one, other)
    if as_json:
        from hwbench_mlflow.codec import encode

        document = {
            "schema_version": SCHEMA_VERSION, "original": run, "run_id": run_id, "agrees": not against,
            "ratio": found, "objections": against,
        }  # fmt: skip
        click.echo(encode(document).decode())
    else:
        click.echo(f"{run_id or '(waits in the spool)'} replicates {run}")
        if found is not None:
            click.echo(f"  medians    {other['latency_ms_p50']:.4g} ms, {one['latency_ms_p50']:.4g} ms before")
        click.echo(f"  replicated {'no' if against else 'yes, once both are published'}")
        for reason in against:
            click.echo(f"             {reason}")
    if against:
        from hwbench_mlflow.errors import ExitCode

        sys.exit(int(ExitCode.REFUSED))


def _original(run: str, tracking_uri: str | None) -> Judgement:
    """The run's evidence, judged now. Raises Refused unless it is verified: there is nothing else to confirm."""
    from hwbench_mlflow.errors import Refused
    from hwbench_mlflow.evidence import judge
    from hwbench_mlflow.keystore import load_keyring
    from hwbench_mlflow.model import VerdictState
    from hwbench_mlflow.tracking import Store

    index, files = Store(tracking_uri).read_run(run)
    judged = judge(files, index, load_keyring())
    if judged.result is None or judged.verdict.state is not VerdictState.VERIFIED:
        reasons = "; ".join(judged.verdict.reasons)
        raise Refused(f"run {run} is {judged.verdict.state}, so it cannot be replicated: {reasons}")
    return judged


def _settled(result: BenchmarkResult) -> Any:
    """The workload with what the first run's defaults came to: another machine's cache may hold other weights."""
    from hwbench_mlflow.model import WeightsPolicy

    work = result.request.workload
    sizes = {name: getattr(result.workload, name) for name in ("sequence_length", "image_size")}
    return replace(work, weights=WeightsPolicy(result.model.weights_source.value), **sizes)


def _same_product(name: str | None, original: BenchmarkResult, where: str) -> None:
    from hwbench_mlflow.errors import Refused

    if name != original.device.name:
        raise Refused(
            f"{where} has {name or 'no such device'}, and the original ran on {original.device.name}",
            remedy="Take a machine with the same product",
        )


Measured = tuple[str | None, "Judgement"]


def _here(
    request: RunRequest, original: BenchmarkResult, run: str, tracking_uri: str | None, experiment: str | None
) -> Measured:
    from hwbench_mlflow.cli.session import RunSession
    from hwbench_mlflow.cli.signals import interruptible
    from hwbench_mlflow.evidence import judge
    from hwbench_mlflow.keystore import load_keyring, signing_key
    from hwbench_mlflow.probing import probe_isolated
    from hwbench_mlflow.runner import choose_device

    (answer,) = probe_isolated([request.platform], backends={request.platform: request.backend})
    _same_product(choose_device(answer, request.device).name, original, "this machine")
    session = RunSession(
        tracking_uri=tracking_uri, experiment=experiment, out=None, key=signing_key(), keyring=load_keyring(),
        tags={REPLICATES_TAG: run},
    )  # fmt: skip
    with interruptible():
        session.run_all([request])
    if session.errors:
        raise session.errors[0]
    (done,) = session.done
    return done.run_id, judge(done.files, None, session.keyring)


def _there(address: str, node: str) -> Callable[..., Measured]:
    def measure(
        request: RunRequest, original: BenchmarkResult, run: str, tracking_uri: str | None, experiment: str | None
    ) -> Measured:
        from hwbench_mlflow.cli.batch_view import BatchProgress
        from hwbench_mlflow.cli.delivery import Delivery
        from hwbench_mlflow.cli.fleet_batch import FleetCells, enter, fits, the_node
        from hwbench_mlflow.cli.signals import interruptible
        from hwbench_mlflow.keystore import load_keyring, signing_key

        keyring = load_keyring()
        outcomes: list[Outcome] = []
        with BatchProgress(1) as progress, interruptible():
            delivery = Delivery(tracking_uri, experiment, signing_key(), keyring, progress.warn)
            with enter(address, delivery.uri(), experiment) as entered:
                found = the_node(entered.nodes(), node)
                fitting = [device.device_name for device in found.joined.devices if fits(request)(device)]
                _same_product(fitting[0] if fitting else None, original, f"node {node}")
                cells = FleetCells(
                    delivery=delivery, keyring=keyring, progress=progress, over=outcomes.append, only_on=node
                )
                cells.run(entered, [request], 0.0, lambda _: {REPLICATES_TAG: run})
        return _outcome(outcomes, request)

    return measure


def _outcome(outcomes: Sequence[Outcome], request: RunRequest) -> Measured:
    from hwbench_mlflow.errors import BenchmarkFailed, HardwareUnavailable
    from hwbench_mlflow.model import Availability, AvailabilityStatus, FailureCategory

    judged = outcomes[0].judgement if outcomes else None
    if judged is None or judged.result is None:
        reason = (outcomes[0].reason if outcomes else None) or "it was not measured"
        if outcomes and outcomes[0].unavailable:
            absent = Availability(platform=request.platform, status=AvailabilityStatus.NO_DEVICE, reason=reason)
            raise HardwareUnavailable(reason, absent)
        raise BenchmarkFailed(f"{request.workload.model} on {request.platform}: {reason}", FailureCategory.CRASH)
    return outcomes[0].run_id, judged
