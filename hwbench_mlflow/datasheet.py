"""Datasheets: YAML files of public specifications, one a device, with the source of each figure.

Owns their schema, the ones that hwbench ships (``datasheets/``) and the checks of a user's own file. Peaks are dense:
a figure "with sparsity" is not one that a dense model can reach. A figure that no source could be found for is absent,
and what needs it cannot be estimated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from hwbench_mlflow.codec import sha256
from hwbench_mlflow.errors import UsageError
from hwbench_mlflow.estimate import Figure, SheetKind, SheetUse
from hwbench_mlflow.model import Platform, Precision

SCHEMA_VERSION = 1
MAX_BYTES = 64 * 1024

OTHER_PEAKS = frozenset({"tf32", "int8", "fp8"})
"""Peaks that a sheet may hold beside those of :class:`~hwbench_mlflow.model.Precision`."""


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One document. ``url`` is the vendor's page, as text; ``via`` what was in fact read on the day ``read``, where
    that was not the vendor's page itself."""

    title: str
    publisher: str
    url: str
    read: date
    via: str | None = None


class Quantity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure. ``source`` is a key of :attr:`Sheet.sources`; ``note`` says how it follows from what is printed."""

    value: float
    source: str
    note: str | None = None


class Sheet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device as its vendor specifies it.

    ``device_names`` are what drivers call it, for comparisons with measurements. ``runtime_devices``: how many devices
    the platform's library shows for one of these (two dies of one card); an estimate is of one of them.
    """

    schema_version: int
    name: str
    product: str
    vendor: str
    platforms: tuple[Platform, ...]
    sources: dict[str, Source]
    peak_tflops: dict[str, Quantity] = msgspec.field(default_factory=dict)
    memory_bandwidth_gb_per_s: Quantity | None = None
    memory_gb: Quantity | None = None
    tdp_w: Quantity | None = None
    device_names: tuple[str, ...] = ()
    runtime_devices: int = 1
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasheet:
    """A sheet that passed every check, with the digest of its file."""

    sheet: Sheet
    sha256: str

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What can be estimated with it."""
        if self.sheet.memory_bandwidth_gb_per_s is None:
            return ()
        return tuple(p for p in Precision if p.value in self.sheet.peak_tflops)

    def use(self, platform: Platform, precision: Precision) -> SheetUse:
        """The figures for an estimate. Raises :class:`UsageError` for another platform or a figure it lacks."""
        sheet = self.sheet
        if platform not in sheet.platforms:
            raise UsageError(
                f"{sheet.name} is a datasheet of {sheet.product}, which is no {platform} device",
                remedy=f"It is of: {', '.join(sheet.platforms)}",
            )
        peak, bandwidth = sheet.peak_tflops.get(precision.value), sheet.memory_bandwidth_gb_per_s
        if peak is None or bandwidth is None:
            missing = f"peak in {precision}" if peak is None else "memory bandwidth"
            raise UsageError(
                f"{sheet.name} has no sourced {missing}: {sheet.product} cannot be estimated in {precision}",
                remedy=f"It can be in: {', '.join(self.precisions) or 'no precision'}",
            )
        return SheetUse(
            kind=SheetKind.DATASHEET,
            name=sheet.name,
            product=sheet.product,
            vendor=sheet.vendor,
            sha256=self.sha256,
            precision=precision,
            peak_flops_per_s=self._figure(peak, 1e12),
            bandwidth_bytes_per_s=self._figure(bandwidth, 1e9),
            memory_bytes=self._figure(sheet.memory_gb, 1e9) if sheet.memory_gb is not None else None,
        )

    def _figure(self, quantity: Quantity, unit: float) -> Figure:
        source = self.sheet.sources[quantity.source]
        said = f"{source.publisher}: {source.title} ({source.url}), read {source.read.isoformat()}"
        if source.via is not None:
            said += f" via {source.via}"
        if quantity.note is not None:
            said += f"; {quantity.note}"
        if self.sheet.runtime_devices > 1:
            said += f"; divided by {self.sheet.runtime_devices}: one of the devices that the runtime shows"
        return Figure(value=quantity.value * unit / self.sheet.runtime_devices, source=said)


def shipped() -> dict[str, Datasheet]:
    """Name -> datasheet of those that come with hwbench."""
    folder = resources.files("hwbench_mlflow") / "datasheets"
    found = {}
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            found[entry.name.removesuffix(".yaml")] = parse(entry.read_bytes(), entry.name)
    return found


def load(name_or_path: str) -> Datasheet:
    """A shipped datasheet by name, or a file. Raises :class:`UsageError` in one line."""
    path = Path(name_or_path).expanduser()
    looks_like_a_file = path.suffix in {".yaml", ".yml"} or len(path.parts) > 1
    if not looks_like_a_file:
        known = shipped()
        if name_or_path in known:
            return known[name_or_path]
        raise UsageError(
            f"there is no datasheet {name_or_path!r}", remedy=f"There are: {', '.join(known)}; or give a YAML file"
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is larger than any datasheet")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the datasheet {path}: {error.strerror or error}") from error
    return parse(data, str(path))


def parse(data: bytes, where: str) -> Datasheet:
    """A datasheet from the bytes of its file. Raises :class:`UsageError` for anything that is not wholly one."""
    import yaml

    try:
        value = yaml.load(data, _loader())  # noqa: S506 -- a SafeLoader that refuses more than the safe one
        sheet = msgspec.convert(value, Sheet)
    except (yaml.YAMLError, msgspec.ValidationError, RecursionError, ValueError) as error:
        raise UsageError(f"{where} is not a datasheet: {' '.join(str(error).split())}") from error
    for wrong in _wrong(sheet):
        raise UsageError(f"{where} is not a datasheet: {wrong}")
    return Datasheet(sheet=sheet, sha256=sha256(data))


def _wrong(sheet: Sheet) -> Iterator[str]:
    if sheet.schema_version != SCHEMA_VERSION:
        yield f"schema_version {sheet.schema_version}; this hwbench reads {SCHEMA_VERSION}"
    for name, text in (("name", sheet.name), ("product", sheet.product), ("vendor", sheet.vendor)):
        if not text.strip() or not text.isprintable() or len(text) > 100:
            yield f"{name} is not 1 to 100 printable characters"
    if not sheet.platforms:
        yield "it names no platform"
    if not 1 <= sheet.runtime_devices <= 64:
        yield f"runtime_devices {sheet.runtime_devices} is none"
    known = {p.value for p in Precision} | OTHER_PEAKS
    for precision in sheet.peak_tflops.keys() - known:
        yield f"peak_tflops has the precision {precision!r}; known: {', '.join(sorted(known))}"
    for key, source in sheet.sources.items():
        if not (source.title.strip() and source.publisher.strip() and source.url.strip()):
            yield f"source {key!r} has no title, publisher or url"
    yield from _wrong_figures(sheet)


def _wrong_figures(sheet: Sheet) -> Iterator[str]:
    quantities = {f"peak_tflops.{name}": peak for name, peak in sheet.peak_tflops.items()}
    for name in ("memory_bandwidth_gb_per_s", "memory_gb", "tdp_w"):
        if (quantity := getattr(sheet, name)) is not None:
            quantities[name] = quantity
    for name, quantity in quantities.items():
        if not (math.isfinite(quantity.value) and 0 < quantity.value < 1e9):
            yield f"{name} is {quantity.value}: not a positive number"
        if quantity.source not in sheet.sources:
            yield f"{name} has the source {quantity.source!r}, which is not among its sources"


def _loader() -> Any:
    import yaml

    class Strict(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
        """Without aliases, which can make much of little, and without keys that are given twice."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("a datasheet has no aliases")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for key in keys if keys.count(key) > 1]
            if twice:
                raise yaml.YAMLError(f"the key {twice[0]!r} is given twice")
            return super().construct_mapping(node, deep)

    return Strict
