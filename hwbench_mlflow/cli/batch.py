"""``hwbench batch``: a matrix of models, platforms and configurations, a run for each. Wiring only."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwbench_mlflow.cli.run import BOUND, POSITIVE, OrEmpty
from hwbench_mlflow.model import PROFILES, CompileMode, Platform, Precision, RunRequest, Scenario, WeightsPolicy
from hwbench_mlflow.scenarios import SERVER_PERCENTILES

if TYPE_CHECKING:
    from hwbench_mlflow.plan import Estimate, Matrix, Plan

LATEST = "latest"
MAX_MATRIX_BYTES = 1_000_000
TEXT = OrEmpty(click.STRING)


class Pins(click.ParamType[tuple[Platform, tuple[int, ...]]]):
    """``cpu=0-3,6``: a platform and the logical cores that it is pinned to."""

    name = "PLATFORM=CORES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The platform and its cores, each once, in order."""
        if isinstance(value, tuple):
            return value
        platform, _, listed = str(value).partition("=")
        if platform not in [p.value for p in Platform]:
            self.fail(f"{platform!r} is no platform", param, ctx)
        cores: set[int] = set()
        for part in listed.split(","):
            first, _, last = part.partition("-")
            if not first.isdigit() or not (last or first).isdigit() or int(last or first) < int(first):
                self.fail(f"{listed!r} is no list of cores like 0-3,6", param, ctx)
            cores.update(range(int(first), int(last or first) + 1))
        return Platform(platform), tuple(sorted(cores))


@click.command()
@click.option("--models", type=TEXT, help="Names, separated by commas: as `hwbench run --model` takes them.")
@click.option("--all-default-models", is_flag=True, help="Every model that hwbench knows by name.")
@click.option("--hardware", type=TEXT, help="Platforms, separated by commas.")
@click.option("--batch-sizes", type=TEXT, help="1,2,4")
@click.option("--precisions", type=TEXT, help=f"Of: {', '.join(p.value for p in Precision)}.")
@click.option("--scenarios", type=TEXT, help=f"Of: {', '.join(s.value for s in Scenario)}.")
@click.option("--latency-bound-ms", type=BOUND, help="Of the server scenario's cells.")
@click.option("--latency-percentile", type=OrEmpty(click.Choice([str(p) for p in SERVER_PERCENTILES])))
@click.option("--streams", type=POSITIVE, help="Of the multistream scenario's cells.")
@click.option("--sequence-lengths", type=TEXT, help="Tokens: 64,128")
@click.option("--image-sizes", type=TEXT, help="Pixels: 224,384")
@click.option("--compile-modes", type=TEXT, help=f"Of: {', '.join(m.value for m in CompileMode)}.")
@click.option("--matrix", type=OrEmpty(click.Path(dir_okay=False, path_type=Path)), help="The axes as YAML.")
@click.option("--profile", type=click.Choice(list(PROFILES)), default="quick", show_default=True)
@click.option("--weights", type=click.Choice([w.value for w in WeightsPolicy]), default="auto", show_default=True)
@click.option("--max-workers", type=click.IntRange(min=1), default=1, show_default=True, help="Devices at a time.")
@click.option("--pin", "pins", type=Pins(), multiple=True, help="cpu=0-3: so pinned apart, two count as two devices.")
@click.option(
    "--cooldown", type=click.FloatRange(min=0, max=3600), default=0.0, show_default=True, help="Seconds between cells."
)
@click.option("--seed", type=click.IntRange(min=0), help="Of the order in which cells run; drawn if not given.")
@click.option(
    "--resume",
    type=TEXT,
    is_flag=False,
    flag_value=LATEST,
    metavar="[PARENT]",
    help="Run what is missing of a batch: of this parent run, or of the latest that is not whole.",
)
@click.option("--fleet", type=TEXT, metavar="ADDRESS", help="Measure on the nodes of this fleet: see `hwbench fleet`.")
@click.option("--dry-run", is_flag=True, help="Show the plan and measure nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--tracking-uri", type=TEXT, help="MLflow store; else MLFLOW_TRACKING_URI, else ./mlflow.db.")
@click.option("--experiment", type=TEXT, help="MLflow experiment, by name.")
@click.option("--backend", type=TEXT, hidden=True, help="Another backend, for every cell.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def batch(**options: Any) -> None:
    """Measure a matrix: every model on every platform in every configuration.

    \b
    hwbench batch --models bert,vit --hardware cpu,openvino --batch-sizes 1,4
    hwbench batch --matrix matrix.yaml --max-workers 2 --dry-run
    hwbench batch --resume
    hwbench batch --models bert,vit --hardware cpu,cuda --fleet lab-1:6379

    One parent run holds a run for each cell. What fails stops nothing else; what is interrupted goes on with --resume,
    which measures only what no finished run of the batch proves by its evidence.
    """
    from hwbench_mlflow.cli.batch_session import BatchSession
    from hwbench_mlflow.cli.signals import interruptible
    from hwbench_mlflow.keystore import load_keyring, signing_key

    session = BatchSession(
        tracking_uri=options["tracking_uri"],
        experiment=options["experiment"],
        key=signing_key(),
        keyring=load_keyring(),
        max_workers=options["max_workers"],
        fleet=None if options["dry_run"] else options["fleet"],
    )
    if options["fleet"] is not None and (options["pins"] or options["max_workers"] > 1):
        raise click.UsageError("--fleet takes no --pin and no --max-workers: each device of a node is one at a time")
    if options["resume"] is not None:
        _refuse_axes(options)
        plan = session.resume(None if options["resume"] == LATEST else options["resume"], take_over=options["yes"])
    else:
        plan = _plan(options)
        if options["dry_run"]:
            _show(plan, _estimate(session.earlier(), plan, options["max_workers"]), as_json=options["as_json"])
            return
        _confirm(plan, _estimate({}, plan, options["max_workers"]), options)
        session.begin(plan)
    if options["dry_run"]:
        _show(plan, _estimate(session.earlier(), plan, options["max_workers"]), as_json=options["as_json"])
        return
    with session, interruptible():
        session.run_all()
    session.print_summary(as_json=options["as_json"])
    sys.exit(int(session.exit_code()))


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The axes that the command line names."""
    from hwbench_mlflow.plan import AXES

    return {axis.key: options[axis.key] for axis in AXES if options.get(axis.key) is not None}


def _refuse_axes(options: Mapping[str, Any]) -> None:
    given = [f"--{key.replace('_', '-')}" for key in _given(options)]
    given += [
        f"--{name.replace('_', '-')}" for name in ("all_default_models", "matrix", "seed", "backend") if options[name]
    ]
    given += ["--pin"] if options["pins"] else []
    if given:
        raise click.UsageError(f"--resume runs the plan that was made; it takes no {', '.join(given)}")


def _plan(options: Mapping[str, Any]) -> Plan:
    from hwbench_mlflow.backends.lookup import targets
    from hwbench_mlflow.errors import UsageError
    from hwbench_mlflow.plan import Settings, cells_of, plan_of, requests_of, resolved
    from hwbench_mlflow.workloads.resolve import resolve

    backends = targets()
    code = options["backend"]
    if code is not None and ":" not in code:
        if code not in backends:
            raise UsageError(f"no backend is called {code!r}", remedy=f"There are: {', '.join(sorted(backends))}")
        code = backends[code]
    named = [s.strip() for s in (options["scenarios"] or "").split(",")]
    if options["matrix"] is None:
        for option, owner in (
            ("latency_bound_ms", "server"),
            ("latency_percentile", "server"),
            ("streams", "multistream"),
        ):
            if options[option] is not None and owner not in named:
                raise UsageError(f"--{option.replace('_', '-')} is for scenario {owner}, which no cell has")
    pins = dict(options["pins"])
    if len(pins) != len(options["pins"]):
        raise UsageError("--pin names a platform twice")
    settings = Settings(
        profile=PROFILES[options["profile"]],
        weights=WeightsPolicy(options["weights"]),
        backends={platform: code or backends[platform.value] for platform in Platform},
        pins=pins,
    )
    requests = requests_of(cells_of(_matrix(options)), settings)
    requests = tuple(_loaded(request, options) for request in requests)
    requests = tuple(resolved(request, resolve(request.workload).workload) for request in requests)
    seed = options["seed"] if options["seed"] is not None else secrets.randbelow(2**31)
    return plan_of(requests, seed, options["cooldown"])


def _loaded(request: RunRequest, options: Mapping[str, Any]) -> RunRequest:
    """The request with what its scenario needs: a bound, a percentile, streams. As `hwbench run` checks them."""
    from hwbench_mlflow.cli.run import scenario_load

    scenario = request.workload.scenario
    owners = {
        "latency_bound_ms": Scenario.SERVER,
        "latency_percentile": Scenario.SERVER,
        "streams": Scenario.MULTISTREAM,
    }
    own = {name: options[name] if scenario is owner else None for name, owner in owners.items()}
    bound, percentile, streams = scenario_load(
        {**own, "hardware": request.platform.value}, scenario, request.workload.batch_size
    )
    work = replace(request.workload, latency_bound_ms=bound, latency_percentile=percentile, query_size=streams)
    return replace(request, workload=work)


def _matrix(options: Mapping[str, Any]) -> Matrix:
    from hwbench_mlflow.errors import UsageError
    from hwbench_mlflow.plan import BY_KEY, matrix_of
    from hwbench_mlflow.workloads.registry import known_aliases

    document: dict[str, Any] = {}
    where = "the command line"
    if options["matrix"] is not None:
        where = str(options["matrix"])
        document = _read_yaml(options["matrix"])
    for key, value in _given(options).items():
        if key in document:
            raise UsageError(f"{key} is in {where} and on the command line", remedy="Leave one of them out")
        words = [word.strip() for word in str(value).split(",")]
        if BY_KEY[key].kind is int:
            words = [int(word) if word.isascii() and word.isdigit() else word for word in words]  # type: ignore[misc]
        document[key] = words
    if options["all_default_models"]:
        if "models" in document:
            raise UsageError("--all-default-models beside other models", remedy="Leave one of them out")
        document["models"] = list(known_aliases())
    return matrix_of(document, where)


def _read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping. Raises UsageError where it is none, too large, or says one thing twice."""
    import yaml

    from hwbench_mlflow.errors import UsageError

    class Strict(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
        """A key that is given twice is refused: YAML's loaders keep the last and say nothing."""

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str):
                raise UsageError(f"{path}: {key!r} is no name")
            if keys.count(key) > 1:
                raise UsageError(f"{path}: {key!r} is given twice")
        return dict(loader.construct_mapping(node, deep=True))

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        if path.stat().st_size > MAX_MATRIX_BYTES:
            raise UsageError(f"{path} is larger than any matrix")
        document = yaml.load(path.read_text(encoding="utf-8"), Strict)  # noqa: S506  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path} is no mapping of axes to values")
    return document


def _estimate(earlier: Mapping[tuple[str, ...], float], plan: Plan, max_workers: int) -> Estimate:
    from hwbench_mlflow.plan import estimate

    return estimate(plan, earlier, _lanes(plan.requests, max_workers))


def _lanes(requests: Sequence[RunRequest], max_workers: int) -> list[list[RunRequest]]:
    """Who may run beside whom, before any device is known: platforms apart, as far as there are workers."""
    if max_workers == 1:
        return [list(requests)]
    by_platform: dict[str, list[RunRequest]] = {}
    shared = {Platform.CPU, Platform.OPENVINO, Platform.WEBNN}
    for request in requests:
        name = "cpu" if request.platform in shared and request.cores is None else f"{request.platform}{request.device}"
        by_platform.setdefault(name, []).append(request)
    lanes: list[list[RunRequest]] = [[] for _ in range(max_workers)]
    for cells in sorted(by_platform.values(), key=len, reverse=True):
        min(lanes, key=len).extend(cells)
    return lanes


def _confirm(plan: Plan, estimated: Estimate, options: Mapping[str, Any]) -> None:
    """Ask before a plan that is larger than people mean to type. Without a terminal: refuse, and say how."""
    from hwbench_mlflow.errors import UsageError
    from hwbench_mlflow.plan import CELLS_UNASKED

    if len(plan.requests) <= CELLS_UNASKED or options["yes"]:
        return
    question = f"{len(plan.requests)} cells, about {duration(estimated.seconds)}"
    if not sys.stdin.isatty():
        raise UsageError(f"{question}: more than {CELLS_UNASKED} need --yes", remedy="See --dry-run")
    click.confirm(f"hwbench: {question}. Run them", abort=True, err=True)


def _show(plan: Plan, estimated: Estimate, *, as_json: bool) -> None:
    from hwbench_mlflow.cli.batch_view import request_row
    from hwbench_mlflow.codec import encode

    if as_json:
        document = {
            "schema_version": 1,
            "seed": plan.seed,
            "estimated_s": estimated.seconds,
            "estimated_from_earlier": estimated.known,
            "cells": list(plan.requests),
        }
        click.echo(encode(document).decode())
        return
    for number, request in enumerate(plan.requests, 1):
        click.echo(f"{number:>4}  {request_row(request)}")
    basis = f"{estimated.known} cells by earlier runs, {estimated.guessed} guessed"
    click.echo(f"{len(plan.requests)} cells, seed {plan.seed}, about {duration(estimated.seconds)} ({basis})")


def duration(seconds: float) -> str:
    """``2 h 5 min``, ``3 min``, ``40 s``."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
