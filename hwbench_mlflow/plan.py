"""From a matrix to cells, and from cells to a plan.

Pure: a document in, frozen types out. Owns the axes of a matrix, what contradicts itself in one, the order in which
cells run and how long that should take. Knows no model: whether one exists and takes a size is asked elsewhere.
"""

from __future__ import annotations

import difflib
import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from hwbench_mlflow.codec import encode, sha256
from hwbench_mlflow.errors import UsageError
from hwbench_mlflow.model import (
    DEFAULT_PRECISION,
    SCHEMA_VERSION,
    CompileMode,
    Platform,
    Precision,
    Profile,
    RunRequest,
    Scenario,
    WeightsPolicy,
    Workload,
)

MAX_CELLS = 100_000
"""More are no matrix but a mistake."""

CELLS_UNASKED = 100
"""Up to so many run without being asked about."""

START_SECONDS = 8.0
"""A guess of what one worker process takes to import, load and end, where no earlier run says more."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: its key in a matrix, the cell's field, and the values it takes (None: any text)."""

    key: str
    field: str
    kind: type[str] | type[int] | type[StrEnum]


AXES = (
    Axis("models", "model", str),
    Axis("hardware", "hardware", Platform),
    Axis("devices", "device", str),
    Axis("batch_sizes", "batch_size", int),
    Axis("precisions", "precision", Precision),
    Axis("scenarios", "scenario", Scenario),
    Axis("sequence_lengths", "sequence_length", int),
    Axis("image_sizes", "image_size", int),
    Axis("compile_modes", "compile_mode", CompileMode),
    Axis("threads", "threads", int),
)
BY_KEY = {axis.key: axis for axis in AXES}
BY_FIELD = {axis.field: axis for axis in AXES}
LISTS = ("include", "exclude")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of a matrix. ``None`` takes the default of the model, the platform or the library."""

    model: str
    hardware: Platform
    device: str | None = None
    batch_size: int = 1
    precision: Precision | None = None
    scenario: Scenario = Scenario.LATENCY
    sequence_length: int | None = None
    image_size: int | None = None
    compile_mode: CompileMode = CompileMode.EAGER
    threads: int | None = None

    def __str__(self) -> str:
        precision = self.precision.value if self.precision is not None else "default precision"
        given = [self.model, self.hardware.value, precision, f"batch {self.batch_size}"]
        given += [f"{name} {value}" for name, value in self._others().items()]
        return ", ".join(given)

    def _others(self) -> dict[str, object]:
        others = {
            "device": self.device,
            "scenario": None if self.scenario is Scenario.LATENCY else self.scenario.value,
            "sequence length": self.sequence_length,
            "image size": self.image_size,
            "compile mode": None if self.compile_mode is CompileMode.EAGER else self.compile_mode.value,
            "threads": self.threads,
        }
        return {name: value for name, value in others.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """What was asked for: values by field, cells beside the product, and patterns of what to leave out."""

    axes: Mapping[str, tuple[Any, ...]]
    include: tuple[Cell, ...] = ()
    exclude: tuple[Mapping[str, tuple[Any, ...]], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all cells of a batch share. ``pins``: the cores of a platform, where it is pinned to some.
    ``backends``: the code of each platform (``package.module:Class``)."""

    profile: Profile
    weights: WeightsPolicy
    backends: Mapping[Platform, str]
    pins: Mapping[Platform, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The requests of a batch in the order in which they run, and the seed that the order came from."""

    schema_version: int
    seed: int
    cooldown_s: float
    requests: tuple[RunRequest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """How long a plan should take. ``known`` of its cells have run before, the rest is guessed."""

    seconds: float
    known: int
    guessed: int


def nearest(name: str, names: Iterable[str]) -> str:
    """`` Did you mean ...?`` where one of the names is near, and else the names."""
    listed = list(names)
    close = difflib.get_close_matches(name, listed, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else f"Allowed: {', '.join(listed)}"


def matrix_of(document: object, where: str = "the matrix") -> Matrix:
    """A matrix from plain data: a mapping of axes to values, ``include`` and ``exclude`` to lists of mappings.

    Raises :class:`UsageError`, one line, for whatever is no axis, no value of it, or given twice.
    """
    if not isinstance(document, Mapping):
        raise UsageError(f"{where} is no mapping of axes to values", remedy=f"Axes: {', '.join(BY_KEY)}")
    for key in document:
        if key not in BY_KEY and key not in LISTS:
            raise UsageError(f"{where}: {key!r} is no axis", remedy=nearest(str(key), [*BY_KEY, *LISTS]))
    axes = {
        axis.field: _values(axis, document[axis.key], f"{where}: {axis.key}") for axis in AXES if axis.key in document
    }
    include = tuple(
        _cell(entry, f"{where}: include {number}")
        for number, entry in enumerate(_list(document.get("include"), f"{where}: include"), 1)
    )
    exclude = tuple(
        _pattern(entry, f"{where}: exclude {number}")
        for number, entry in enumerate(_list(document.get("exclude"), f"{where}: exclude"), 1)
    )
    missing = [axis.key for axis in AXES[:2] if axis.field not in axes]
    if missing and (axes or not include):
        raise UsageError(f"{where} names no {' and no '.join(missing)}")
    return Matrix(axes=axes, include=include, exclude=exclude)


def _list(value: object, where: str) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise UsageError(f"{where} is no list")
    return value


def _values(axis: Axis, given: object, where: str) -> tuple[Any, ...]:
    values = given if isinstance(given, list) else [given]
    if not values:
        raise UsageError(f"{where} has no value")
    checked = tuple(_value(axis, value, where) for value in values)
    for value in checked:
        if checked.count(value) > 1:
            raise UsageError(f"{where} names {str(value)!r} twice")
    return checked


def _value(axis: Axis, value: object, where: str) -> Any:
    if axis.kind is int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{where}: {value!r} is no whole number of 1 or more")
        return value
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{where}: {value!r} is no name")
    if issubclass(axis.kind, StrEnum):
        names = [member.value for member in axis.kind]
        if value not in names:
            raise UsageError(f"{where}: {value!r} is not known", remedy=nearest(value, names))
        return axis.kind(value)
    return value


def _fields(entry: object, where: str) -> dict[str, object]:
    if not isinstance(entry, Mapping) or not entry:
        raise UsageError(f"{where} is no mapping", remedy=f"Fields: {', '.join(BY_FIELD)}")
    for key in entry:
        if key not in BY_FIELD:
            raise UsageError(f"{where}: {key!r} is no field", remedy=nearest(str(key), BY_FIELD))
    return dict(entry)


def _cell(entry: object, where: str) -> Cell:
    fields = _fields(entry, where)
    missing = [name for name in ("model", "hardware") if name not in fields]
    if missing:
        raise UsageError(f"{where} names no {' and no '.join(missing)}")
    return Cell(**{name: _value(BY_FIELD[name], value, f"{where}: {name}") for name, value in fields.items()})


def _pattern(entry: object, where: str) -> dict[str, tuple[Any, ...]]:
    return {name: _values(BY_FIELD[name], value, f"{where}: {name}") for name, value in _fields(entry, where).items()}


def cells_of(matrix: Matrix) -> tuple[Cell, ...]:
    """The product of the axes without what is excluded, then what is included.

    Raises :class:`UsageError` where a rule does nothing or undoes another: it was meant to do something else.
    """
    size = math.prod(len(values) for values in matrix.axes.values()) if matrix.axes else 0
    if size > MAX_CELLS:
        raise UsageError(f"the matrix has {size} cells; {MAX_CELLS} is the most", remedy="Split it")
    names = list(matrix.axes)
    product = [
        Cell(**dict(zip(names, point, strict=True)))
        for point in itertools.product(*matrix.axes.values())
        if matrix.axes
    ]
    used = [False] * len(matrix.exclude)
    kept = []
    for cell in product:
        hits = [number for number, rule in enumerate(matrix.exclude) if _matches(cell, rule)]
        for number in hits:
            used[number] = True
        if not hits:
            kept.append(cell)
    for number, hit in enumerate(used, 1):
        if not hit:
            raise UsageError(f"exclude {number} matches no cell of the matrix", remedy="Correct it, or leave it out")
    known = set(kept)
    for number, cell in enumerate(matrix.include, 1):
        if cell in known:
            raise UsageError(f"include {number} is in the matrix already: {cell}")
        if any(_matches(cell, rule) for rule in matrix.exclude):
            raise UsageError(f"include {number} is excluded as well: {cell}")
        known.add(cell)
        kept.append(cell)
    if not kept:
        raise UsageError("the matrix has no cell left: everything is excluded")
    return tuple(kept)


def _matches(cell: Cell, rule: Mapping[str, tuple[Any, ...]]) -> bool:
    return all(getattr(cell, name) in values for name, values in rule.items())


def requests_of(cells: Sequence[Cell], settings: Settings) -> tuple[RunRequest, ...]:
    """The request of each cell. Raises :class:`UsageError` for pins that pin nothing."""
    used = {cell.hardware for cell in cells}
    for platform in settings.pins:
        if platform not in used:
            raise UsageError(f"--pin {platform}: no cell of the matrix runs on {platform}")
    return tuple(
        RunRequest(
            platform=cell.hardware,
            device=cell.device,
            workload=Workload(
                model=cell.model,
                batch_size=cell.batch_size,
                sequence_length=cell.sequence_length,
                image_size=cell.image_size,
                precision=cell.precision or DEFAULT_PRECISION.get(cell.hardware, Precision.FP32),
                scenario=cell.scenario,
                weights=settings.weights,
                compile_mode=cell.compile_mode,
            ),
            profile=settings.profile,
            threads=cell.threads,
            backend=settings.backends[cell.hardware],
            cores=settings.pins.get(cell.hardware),
        )
        for cell in cells
    )


def plan_of(requests: Sequence[RunRequest], seed: int, cooldown_s: float) -> Plan:
    """The plan: every request once, in an order drawn from ``seed``, so that a machine that drifts (warms up, is
    used by others) does not favour one model over another. Raises :class:`UsageError` for two that are the same."""
    seen: set[bytes] = set()
    for request in requests:
        form = encode(request)
        if form in seen:
            work = request.workload
            raise UsageError(f"two cells are the same: {work.model} on {request.platform}, batch {work.batch_size}")
        seen.add(form)
    order = list(requests)
    random.Random(seed).shuffle(order)  # noqa: S311  # an order, not a secret
    return Plan(schema_version=SCHEMA_VERSION, seed=seed, cooldown_s=cooldown_s, requests=tuple(order))


def cell_id(request: RunRequest) -> str:
    """A name for one configuration: the same on every machine."""
    return sha256(encode(request))[:32]


Configuration = tuple[str, ...]
"""What makes two runs last about as long: see :func:`configuration`."""


def configuration(request: RunRequest) -> Configuration:
    """By what earlier runs of the same configuration are found. For estimates only: nothing is believed for it."""
    work = request.workload
    shape = (work.sequence_length, work.image_size)
    names = (work.model, request.platform, work.batch_size, work.scenario, work.compile_mode, request.profile.name)
    return tuple(str(value) for value in (*names, *shape))


def guess_seconds(profile: Profile) -> float:
    """How long one cell takes that never ran: its windows, half its warm-up, and its processes."""
    processes = profile.workers + 1  # and the one that computes the reference
    return profile.seconds + profile.workers * profile.max_warmup_seconds / 2 + processes * START_SECONDS


def estimate(plan: Plan, earlier: Mapping[Configuration, float], lanes: Sequence[Sequence[RunRequest]]) -> Estimate:
    """Seconds until the last of the ``lanes`` ends, which run side by side; by ``earlier`` runs where there are."""
    known = sum(configuration(request) in earlier for request in plan.requests)

    def seconds(request: RunRequest) -> float:
        return earlier.get(configuration(request), guess_seconds(request.profile)) + plan.cooldown_s

    longest = max((sum(map(seconds, lane)) for lane in lanes), default=0.0)
    return Estimate(seconds=longest, known=known, guessed=len(plan.requests) - known)


def resolved(request: RunRequest, workload: Workload) -> RunRequest:
    """The request with the model's defaults filled in, so that a default and its value are one configuration."""
    work = replace(request.workload, sequence_length=workload.sequence_length, image_size=workload.image_size)
    return replace(request, workload=work)
