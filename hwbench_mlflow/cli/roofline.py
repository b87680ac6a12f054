"""``hwbench roofline``: a device's measured limits, as an MLflow run. Wiring only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hwbench_mlflow.cli.run import POSITIVE, OrEmpty
from hwbench_mlflow.cli.signals import interruptible, undisturbed
from hwbench_mlflow.model import Platform, Precision

if TYPE_CHECKING:
    from hwbench_mlflow.documents import RooflineJudgement
    from hwbench_mlflow.roofline import Roofline


class Precisions(click.ParamType[tuple[Precision, ...]]):
    """``fp32`` or ``fp32,bf16``."""

    name = "P[,P...]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Precision, ...]:
        """Known, each once; fp32 always among them, for it bounds the others."""
        if isinstance(value, tuple):
            return value
        names = str(value).split(",")
        unknown = sorted(set(names) - {p.value for p in Precision})
        if unknown or len(set(names)) != len(names):
            self.fail(f"{value!r} is not a list of {', '.join(p.value for p in Precision)}, each once", param, ctx)
        return tuple(dict.fromkeys([Precision.FP32, *map(Precision, names)]))


@click.command()
@click.option("--hardware", required=True, type=click.Choice([p.value for p in Platform]), help="The platform.")
@click.option("--device", type=OrEmpty(click.STRING), help="One device of it, as `hwbench devices` calls it.")
@click.option("--precision", "precisions", type=Precisions(), default="fp32,bf16", show_default=True)
@click.option("--threads", type=POSITIVE, help="CPU threads; the library's default if not given.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.05, max=600), default=3.0, show_default=True,
    help="For each precision and each streaming kernel.",
)  # fmt: skip
@click.option(
    "--tracking-uri", type=OrEmpty(click.STRING), help="MLflow store; else MLFLOW_TRACKING_URI, else ./mlflow.db."
)
@click.option("--experiment", type=OrEmpty(click.STRING), help="MLflow experiment, by name.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def roofline(  # noqa: PLR0917 -- click passes by name
    hardware: str, device: str | None, precisions: tuple[Precision, ...], threads: int | None, seconds: float,
    tracking_uri: str | None, experiment: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure a device's peak FLOP/s at each precision and its memory bandwidth, as an MLflow run.

    Matrix products and streaming kernels (copy, triad) through torch, over arrays far larger than the caches; every
    timing is kept. `hwbench simulate --check` and the report's roofline rest on it.

    \b
    hwbench roofline --hardware cpu
    hwbench roofline --hardware cuda --device cuda:0 --precision fp32,bf16,fp16
    """
    from hwbench_mlflow.backends.lookup import targets
    from hwbench_mlflow.calibrate import calibrate
    from hwbench_mlflow.cli.progress import TerminalProgress
    from hwbench_mlflow.documents import judge_roofline_run, seal_roofline
    from hwbench_mlflow.errors import BenchmarkFailed, HardwareUnavailable, Interrupted
    from hwbench_mlflow.host import describe_host
    from hwbench_mlflow.keystore import load_keyring, signing_key
    from hwbench_mlflow.model import FailureCategory
    from hwbench_mlflow.tracking import Store, failure_of

    key, keyring = signing_key(), load_keyring()
    store = Store(tracking_uri, experiment)
    run_id = store.start(f"roofline-{hardware}")
    try:
        with interruptible(), TerminalProgress() as progress:
            found = calibrate(
                Platform(hardware), targets()[hardware], device=device, precisions=precisions, threads=threads,
                seconds=seconds, progress=progress,
            )  # fmt: skip
    except HardwareUnavailable as error:
        category = FailureCategory(error.availability.status.lower())
        store.fail(run_id, failure_of(error, category, None, describe_host()))
        raise
    except BenchmarkFailed as error:
        failure = failure_of(error, error.category, None, describe_host())
        store.fail(run_id, failure, killed=isinstance(error, Interrupted))
        raise
    files = seal_roofline(found, key)
    with undisturbed():
        store.log_roofline(run_id, files, key, keyring)
    judged = judge_roofline_run(files, None, keyring)
    if as_json:
        from hwbench_mlflow.codec import encode

        click.echo(encode({"schema_version": 1, **roofline_document(run_id, judged)}).decode())
        return
    click.echo("\n".join(roofline_lines(run_id, judged)))


def roofline_document(run_id: str | None, judged: RooflineJudgement) -> dict[str, object]:
    """One calibration for programs."""
    document: dict[str, object] = {
        "run_id": run_id, "verdict": str(judged.verdict.state), "reasons": list(judged.verdict.reasons),
    }  # fmt: skip
    found = judged.roofline
    if found is not None:
        from hwbench_mlflow.roofline import index_of_roofline

        document |= {
            "roofline_id": found.roofline_id, "device": found.device, "threads": found.threads,
            "metrics": index_of_roofline(found, "", judged.verdict.state).metrics, "skipped": found.skipped,
        }  # fmt: skip
    return document


def roofline_lines(run_id: str | None, judged: RooflineJudgement) -> list[str]:
    """One calibration for people."""
    found = judged.roofline
    if found is None:
        return [f"no readable roofline: {'; '.join(judged.verdict.reasons)}"]
    noise = [("stability", f"noisy: {reason}") for reason in found.noise_reasons]
    rows = [*_limits(found), *noise, ("verdict", str(judged.verdict.state)), *[("", r) for r in judged.verdict.reasons]]
    if run_id is not None:
        rows.append(("run", run_id))
    head = f"Roofline of {found.device.name} ({found.device.platform}), {found.threads} threads"
    return [head, *[f"  {name:<11} {value}" for name, value in rows]]


def _limits(found: Roofline) -> list[tuple[str, str]]:
    rows = [
        (
            f"{p.precision} peak",
            f"{p.peak_flops_per_s / 1e12:.4g} TFLOP/s  (median {p.median_flops_per_s / 1e12:.4g}, "
            f"{len(p.took_ns)} products up to {max(p.dims)})",
        )
        for p in found.products
    ]
    rows += [
        (
            s.kernel,
            f"{s.best_bytes_per_s / 1e9:.4g} GB/s  (median {s.median_bytes_per_s / 1e9:.4g}, {len(s.took_ns)} passes "
            f"over {s.array_bytes / 1e6:.0f} MB arrays)",
        )
        for s in found.streams
    ]
    return rows + [(name, f"not measured: {why}") for name, why in found.skipped.items()]
