"""``hwbench run``: measure, sign, log. Wiring only."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hwbench_mlflow.model import (
    DEFAULT_PRECISION,
    PROFILES,
    CompileMode,
    Phase,
    Platform,
    Precision,
    RunRequest,
    Scenario,
    WeightsPolicy,
    Workload,
)
from hwbench_mlflow.scenarios import DEFAULT_PERCENTILE, DEFAULT_QUERY_SIZE, SERVER_PERCENTILES


class BatchSizes(click.ParamType[tuple[int, ...]]):
    """``1`` or ``1,2,4``."""

    name = "N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Positive, each once."""
        if isinstance(value, tuple):
            return value
        try:
            sizes = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers like 1,2,4", param, ctx)
        if min(sizes) < 1 or len(set(sizes)) != len(sizes):
            self.fail(f"{value!r}: batch sizes are positive and each is given once", param, ctx)
        return sizes


class OrEmpty(click.ParamType[Any]):
    """Another type, where an empty string means that the option was not given: MLproject has no other way."""

    def __init__(self, inner: click.ParamType[Any]) -> None:
        self.inner = inner
        self.name = inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """None for an empty string."""
        return None if value == "" else self.inner.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """As the other type's."""
        return self.inner.get_metavar(param, ctx) or self.inner.name.upper()


class Bound(click.ParamType[float]):
    """A time in ms: a number above zero, and no infinity."""

    name = "MS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """NaN and infinity are bounds that nothing can break or keep."""
        try:
            bound = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not math.isfinite(bound) or bound <= 0:
            self.fail(f"{value!r} is no time above 0 ms", param, ctx)
        return bound


POSITIVE = OrEmpty(click.IntRange(min=1))
SECONDS = OrEmpty(click.FloatRange(min=0, min_open=True))
BOUND = OrEmpty(Bound())
BROWSERS = frozenset({Platform.WEBGPU, Platform.WEBNN})


@click.command()
@click.option("--model", required=True, help="An alias (bert, bert-tiny, gpt2, vit, ...), a hub name, or a folder.")
@click.option("--hardware", required=True, type=click.Choice([p.value for p in Platform]), help="The platform.")
@click.option("--device", type=OrEmpty(click.STRING), help="One device of it, as `hwbench devices` calls it.")
@click.option("--browser", type=OrEmpty(click.STRING), help="webgpu, webnn: the browser's executable.")
@click.option("--batch-size", type=BatchSizes(), default="1", show_default=True, help="Several give nested runs.")
@click.option(
    "--sequence-length", "--prompt-length", type=POSITIVE, help="Tokens; the model's default (128) if not given."
)
@click.option("--image-size", type=POSITIVE, help="Pixels; the model's default if not given.")
@click.option("--audio-seconds", type=SECONDS, help="Length of one item; the model's default if not given.")
@click.option(
    "--phase",
    type=click.Choice([p.value for p in Phase]),
    default="forward",
    show_default=True,
    help="Of a model that writes: one pass, the prompt, the tokens after it, or both with a time for each token.",
)
@click.option("--output-tokens", type=POSITIVE, help="Tokens to write (in a forward pass: to decode); 32 if not given.")
@click.option("--kv-cache/--no-kv-cache", default=None, help="In prefill, decode and generate; with one if not given.")
@click.option(
    "--precision",
    type=OrEmpty(click.Choice([p.value for p in Precision])),
    help="fp32 if not given; fp16 for qnn, which has no fp32.",
)
@click.option(
    "--scenario",
    type=click.Choice([s.value for s in Scenario]),
    default="latency",
    show_default=True,
    help="After MLPerf: latency (SingleStream), offline, server (the highest rate of Poisson arrivals that holds "
    "--latency-bound-ms, one query at a time), multistream (queries of --streams samples, one after the other).",
)
@click.option("--latency-bound-ms", type=BOUND, help="server: what a query may take from its scheduled arrival on.")
@click.option(
    "--latency-percentile",
    type=OrEmpty(click.Choice([str(p) for p in SERVER_PERCENTILES])),
    help=f"server: the percentile of queries that the bound is for; {DEFAULT_PERCENTILE} if not given.",
)
@click.option(
    "--streams",
    type=POSITIVE,
    help=f"multistream: samples a query, {DEFAULT_QUERY_SIZE} if not given. It is run as streams / batch size "
    "inferences, so --batch-size 8 makes one inference of 8 streams, --batch-size 1 eight in a row.",
)
@click.option("--threads", type=POSITIVE, help="CPU threads; the library's default if not given.")
@click.option("--compile-mode", type=click.Choice([m.value for m in CompileMode]), default="eager", show_default=True)
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default="quick",
    show_default=True,
    help="How long: quick 10 s, standard 60 s, certified 600 s; smoke is for tests and never ranked.",
)
@click.option(
    "--weights",
    type=click.Choice([w.value for w in WeightsPolicy]),
    default="auto",
    show_default=True,
    help="auto: pretrained if the cache or the hub has them, else seeded random ones, said so.",
)
@click.option(
    "--tracking-uri", type=OrEmpty(click.STRING), help="MLflow store; else MLFLOW_TRACKING_URI, else ./mlflow.db."
)
@click.option("--experiment", type=OrEmpty(click.STRING), help="MLflow experiment, by name.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the signed result to this file instead of MLflow (which need not be installed).",
)
@click.option(
    "--backend", type=OrEmpty(click.STRING), hidden=True, help="Another backend, by entry point or module:Class."
)
@click.option(
    "--simulate", type=OrEmpty(click.STRING), metavar="NAME|FILE",
    help="Do not measure: estimate from this datasheet (`hwbench simulate` lists them). Always labelled SIMULATED.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def run(**options: Any) -> None:
    """Measure a model on a platform, as an MLflow run.

    \b
    hwbench run --model bert --hardware cpu
    hwbench run --model bert-tiny --hardware openvino --batch-size 1,8,32
    hwbench run --model ./my-model --hardware cuda --device cuda:1 --profile standard
    hwbench run --model bert-tiny --hardware cpu --scenario server --latency-bound-ms 50
    hwbench run --model bert --hardware cuda --precision bf16 --simulate h100-sxm
    """
    if options["simulate"] is not None:
        from hwbench_mlflow.cli.estimates import estimate_runs

        estimate_runs(options)
        return
    from hwbench_mlflow.cli.session import RunSession
    from hwbench_mlflow.cli.signals import interruptible
    from hwbench_mlflow.keystore import load_keyring, signing_key

    use_browser(options["browser"])
    batch_sizes, out = options["batch_size"], options["out"]
    if out is not None and len(batch_sizes) > 1:
        raise click.UsageError("--out takes one batch size: one file holds one result")
    requests = [_request(options, size) for size in batch_sizes]
    key = signing_key()
    keyring = load_keyring()
    session = RunSession(
        tracking_uri=options["tracking_uri"], experiment=options["experiment"], out=out, key=key, keyring=keyring
    )
    with interruptible():
        session.run_all(requests)
    session.print_summary(as_json=options["as_json"])
    session.exit()


def use_browser(executable: str | None) -> None:
    """For this process and the workers that it starts."""
    if executable is not None:
        os.environ["HWBENCH_BROWSER"] = executable


def _precision(asked: str | None, platform: Platform) -> Precision:
    return Precision(asked) if asked is not None else DEFAULT_PRECISION.get(platform, Precision.FP32)


def _request(options: dict[str, Any], batch_size: int) -> RunRequest:
    """The request, with the model's name and sizes checked before anything is started."""
    from hwbench_mlflow.backends.lookup import targets
    from hwbench_mlflow.errors import UsageError
    from hwbench_mlflow.workloads.resolve import resolve

    scenario = Scenario(options["scenario"])
    bound, percentile, streams = scenario_load(options, scenario, batch_size)
    workload = Workload(
        model=options["model"],
        batch_size=batch_size,
        sequence_length=options["sequence_length"],
        image_size=options["image_size"],
        precision=_precision(options["precision"], Platform(options["hardware"])),
        scenario=scenario,
        weights=WeightsPolicy(options["weights"]),
        compile_mode=CompileMode(options["compile_mode"]),
        audio_seconds=options["audio_seconds"],
        output_tokens=options["output_tokens"],
        phase=Phase(options["phase"]),
        kv_cache=options["kv_cache"],
        latency_bound_ms=bound,
        latency_percentile=percentile,
        query_size=streams,
    )
    resolve(workload)
    backend = options["backend"] or options["hardware"]
    if ":" not in backend:
        if backend not in targets():
            raise UsageError(f"no backend is called {backend!r}", remedy=f"There are: {', '.join(sorted(targets()))}")
        backend = targets()[backend]
    return RunRequest(
        platform=Platform(options["hardware"]),
        device=options["device"],
        workload=workload,
        profile=PROFILES[options["profile"]],
        threads=options["threads"],
        backend=backend,
    )


def scenario_load(
    options: Mapping[str, Any], scenario: Scenario, batch_size: int
) -> tuple[float | None, int | None, int | None]:
    """The server's bound and its percentile, and multistream's query size; None where the scenario has none."""
    from hwbench_mlflow.errors import UsageError

    bound, percentile, streams = options["latency_bound_ms"], options["latency_percentile"], options["streams"]
    for name, value, owner in (
        ("--latency-bound-ms", bound, Scenario.SERVER),
        ("--latency-percentile", percentile, Scenario.SERVER),
        ("--streams", streams, Scenario.MULTISTREAM),
    ):
        if value is not None and scenario is not owner:
            raise UsageError(f"{name} is for --scenario {owner}, not for {scenario}")
    if scenario in {Scenario.SERVER, Scenario.MULTISTREAM} and Platform(options["hardware"]) in BROWSERS:
        raise UsageError(f"--scenario {scenario} is not measured in a browser", remedy="Use latency or offline")
    if scenario is Scenario.SERVER:
        if bound is None:
            raise UsageError("--scenario server needs --latency-bound-ms", remedy="For example --latency-bound-ms 50")
        return bound, int(percentile or DEFAULT_PERCENTILE), None
    if scenario is not Scenario.MULTISTREAM:
        return None, None, None
    size = streams or DEFAULT_QUERY_SIZE
    if size % batch_size:
        raise UsageError(
            f"a query of {size} streams is not made of batches of {batch_size}",
            remedy="Take --streams that is a multiple of --batch-size",
        )
    return None, None, size
