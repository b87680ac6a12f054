"""What a side of a comparison is: a search of a few words, parsed. Pure, standard library only.

A side is words separated by blanks, each narrowing it further (quotes as in a shell: ``'tag:team=the best'``); commas
within a word mean *or*. A bare word is a run's id, or its beginning.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from hwbench_mlflow.errors import UsageError

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "model": "model_name", "hardware": "platform", "device": "device_name", "host": "hostname",
        "driver": "device_driver", "precision": "effective_precision", "batch": "batch_size",
        "sequence": "sequence_length", "image": "image_size", "scenario": "scenario", "compile": "compile_mode",
        "threads": "threads", "profile": "profile", "weights": "weights", "key": "key_name",
        "version": "hwbench_version",
    }
)  # fmt: skip
"""Words of the grammar -> the published column that they are compared with, as text."""

GRAMMAR = """\
A side is a search: words separated by blanks, all of which hold; commas mean or.
  RUN_ID (or its first 6 characters)   run:ID,ID
  git:REV          measured at that commit (a hash, or a name that git knows here)
  experiment:NAME  tag:KEY=VALUE  package:NAME=VERSION
  since:DATE  until:DATE  or DATE..DATE (UTC; until a day means its end)
  model: hardware: device: host: driver: precision: batch: sequence: image: scenario:
  compile: threads: profile: weights: key: version:"""

RUN = re.compile(r"[0-9a-f]{6,32}")
RANGE = re.compile(r"(\d{4}-\d{2}-\d{2}[^.]*)?\.\.(\d{4}-\d{2}-\d{2}.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One side. Empty means: everything. ``fields`` are by word; times are UTC and naive, ``until`` is exclusive."""

    text: str
    runs: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    experiments: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    packages: tuple[tuple[str, str], ...] = ()
    fields: Mapping[str, tuple[str, ...]]
    since: datetime | None = None
    until: datetime | None = None


def parse(text: str) -> Selector:
    """A side from what the user wrote. Raises UsageError, which says what is known."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text!r} cannot be read: {error}") from error
    if not words:
        raise UsageError("a side of the comparison is empty", remedy="Name a run, git:REV, tag:KEY=VALUE, ...")
    found = _Found()
    for word in words:
        _read(word, found)
    if found.since is not None and found.until is not None and found.since >= found.until:
        raise UsageError(f"{text!r} ends before it begins")
    return Selector(
        text=text, runs=tuple(found.runs), commits=tuple(found.commits), experiments=tuple(found.experiments),
        tags=tuple(found.tags), packages=tuple(found.packages),
        fields={name: tuple(values) for name, values in found.fields.items()}, since=found.since, until=found.until,
    )  # fmt: skip


class _Found:
    def __init__(self) -> None:
        self.runs: list[str] = []
        self.commits: list[str] = []
        self.experiments: list[str] = []
        self.tags: list[tuple[str, str]] = []
        self.packages: list[tuple[str, str]] = []
        self.fields: dict[str, list[str]] = {}
        self.since: datetime | None = None
        self.until: datetime | None = None


def _read(word: str, found: _Found) -> None:
    name, colon, value = word.partition(":")
    if (ends := RANGE.fullmatch(word)) is not None and (ends[1] or ends[2]):
        found.since = _moment(ends[1]) if ends[1] else found.since
        found.until = _end(ends[2]) if ends[2] else found.until
    elif not colon:
        found.runs += [_run(word)]
    elif not value:
        raise UsageError(f"{word!r} lacks a value")
    elif name in {"tag", "package"}:
        key, equals, wanted = value.partition("=")
        if not key or not equals:
            raise UsageError(f"{word!r} is not {name}:KEY=VALUE")
        (found.tags if name == "tag" else found.packages).append((key, wanted))
    elif name == "since":
        found.since = _moment(value)
    elif name == "until":
        found.until = _end(value)
    else:
        _several(name, [part for part in value.split(",") if part], word, found)


def _several(name: str, values: Sequence[str], word: str, found: _Found) -> None:
    if not values:
        raise UsageError(f"{word!r} lacks a value")
    if name == "run":
        found.runs += [_run(value) for value in values]
    elif name == "git":
        found.commits += values
    elif name == "experiment":
        found.experiments += values
    elif (known := {"platform": "hardware"}.get(name, name)) in FIELDS:
        found.fields.setdefault(known, []).extend(values)
    else:
        known_words = ", ".join(["run", "git", "experiment", "tag", "package", "since", "until", *FIELDS])
        raise UsageError(f"{name!r} is nothing that runs are chosen by", remedy=f"Known: {known_words}")


def _run(word: str) -> str:
    if not RUN.fullmatch(word.lower()):
        raise UsageError(
            f"{word!r} is no run's id, nor 6 or more characters of its beginning",
            remedy="Searches look like model:bert",
        )
    return word.lower()


def _moment(text: str) -> datetime:
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no date", remedy="Dates look like 2026-11-01 or 2026-11-01T12:00") from error
    return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


def _end(text: str) -> datetime:
    return _moment(text) + (timedelta(days=1) if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) else timedelta(0))


VARIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "hardware": ("platform", "device_id", "device_name", "device_uuid", "device_driver", "backend", "threads"),
        "device": ("device_id", "device_name", "device_uuid", "device_driver"),
        "host": ("host_id", "device_id", "device_name", "device_uuid", "device_driver", "threads", "key_id"),
        "driver": ("device_driver",),
        "precision": ("requested_precision", "effective_precision"),
        "weights": ("weights", "weights_sha256"),
        "model": ("model_name", "weights_sha256"),
        "batch": ("batch_size",),
        "sequence": ("sequence_length",),
        "image": ("image_size",),
        "scenario": ("scenario", "latency_bound_ms", "latency_percentile", "query_size"),
        "compile": ("compile_mode",),
        "threads": ("threads",),
        "profile": ("profile",),
        "key": ("key_id",),
    }
)
"""What may differ on purpose -> the columns that then neither pair two sides nor stand between them."""


def varied(a: Selector, b: Selector, asked: Sequence[str]) -> tuple[str, ...]:
    """The words of :data:`VARIES` that differ on purpose: asked for, or named with other values on both sides."""
    both = [w for w in VARIES if w in a.fields and w in b.fields and set(a.fields[w]) != set(b.fields[w])]
    return tuple(dict.fromkeys([*both, *asked]))
