"""Reading suites: JSON files to rules, and everything that can be wrong with one as a refusal.

Owns the form of a suite file. Imports nothing of Great Expectations: whether a rule can be run is :mod:`.run`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from hwbench_mlflow.attest import canonical_json, parse_object
from hwbench_mlflow.codec import sha256
from hwbench_mlflow.gates.pin import Pin
from hwbench_mlflow.gates.pins import EMPTY_IS_HONEST, PINS
from hwbench_mlflow.rules import Outcome, RuleKind

KEYS = {"models": "model_id", "hardware_platforms": "hardware_id"}
"""What a row of a table is known by, where that is not its run."""

TABLES = tuple(PINS)

_ENTRY_KEYS = {"type", "kwargs", "meta"}
_META_KEYS = {"rule", "kind", "why", "what_to_do", "may_be_null"}
_WHAT_TO_DO = "put the suite back as hwbench ships it (reinstall hwbench), or mend the suite that you added"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One entry of a suite. ``may_be_null``: a column that is all NULL is honest, and passes."""

    rule: str
    type: str
    kwargs: Mapping[str, Any]
    kind: RuleKind
    why: str
    what_to_do: str
    may_be_null: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it looks at, in the order of its arguments."""
        found: list[str] = []
        for name in ("column", "column_A", "column_B", "column_list", "column_set"):
            value = self.kwargs.get(name, ())
            found += [value] if isinstance(value, str) else [str(v) for v in value]
        return tuple(found)

    @property
    def pin(self) -> Pin:
        """What :data:`.pins.PINS` holds of a rule that is exactly this one."""
        said = {"type": self.type, "kwargs": self.kwargs, "kind": str(self.kind), "may_be_null": self.may_be_null}
        return Pin(self.type, self.columns, self.kind, sha256(canonical_json(said))[:16])


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One file of rules for one table."""

    name: str
    table: str
    sha256: str
    rules: tuple[Rule, ...]
    ours: bool

    @property
    def key(self) -> str:
        """The column that names a row."""
        return KEYS.get(self.table, "run_id")

    @property
    def columns(self) -> tuple[str, ...]:
        """Everything that has to be read of the table."""
        return tuple(dict.fromkeys([self.key, *(column for rule in self.rules for column in rule.columns)]))

    @property
    def empty_is_honest(self) -> bool:
        """True for a table that has no rows where all is well."""
        return self.table in EMPTY_IS_HONEST

    def outcome(self, rule: str, kind: RuleKind, why: str, what_to_do: str, **found: Any) -> Outcome:
        """An outcome of this suite."""
        return Outcome(
            rule=rule, suite=self.name, suite_sha256=self.sha256, table=self.table, kind=kind, why=why,
            what_to_do=what_to_do, **found,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The suites that could be read, and a refusal for each thing that is wrong with any."""

    suites: tuple[Suite, ...]
    problems: tuple[Outcome, ...]

    @property
    def digests(self) -> dict[str, str]:
        """Name -> SHA-256 of each suite's file."""
        return {suite.name: suite.sha256 for suite in self.suites}

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Table -> what has to be read of it."""
        found: dict[str, list[str]] = {}
        for suite in self.suites:
            found.setdefault(suite.table, []).extend(suite.columns)
        return {table: tuple(dict.fromkeys(columns)) for table, columns in found.items()}


class _Wrong(ValueError):
    """What is wrong with a suite, as the end of a sentence."""


def shipped() -> dict[str, bytes]:
    """The suites that come with hwbench: in the wheel inside the package, in a source tree at its top."""
    inside = resources.files("hwbench_mlflow") / "expectations"
    folder = inside if inside.is_dir() else Path(__file__).parents[2] / "expectations"
    if not folder.is_dir():
        return {}
    return {entry.name[:-5]: entry.read_bytes() for entry in folder.iterdir() if entry.name.endswith(".json")}


def load(added: Sequence[Path] = (), *, ours: Mapping[str, bytes] | None = None) -> Loaded:
    """Ours, all of them and unchanged, and those of the files and folders ``added``. Never raises for a bad suite."""
    suites: list[Suite] = []
    problems: list[Outcome] = []
    found = shipped() if ours is None else ours
    for table, pins in PINS.items():
        try:
            if table not in found:
                raise _Wrong("it is missing")
            suite = _read(table, found[table], ours=True)
            _hold_to(suite, pins)
            suites.append(suite)
        except ValueError as error:
            problems.append(_problem(table, table, str(error)))
    for name in sorted(found.keys() - PINS.keys()):
        problems.append(_problem(name, name, "hwbench ships no such suite; give your own with --suite"))
    taken = {rule.rule for suite in suites for rule in suite.rules} | {rule for pins in PINS.values() for rule in pins}
    for name, data in _added(added):
        try:
            if isinstance(data, str):
                raise _Wrong(data)
            suite = _read(name, data, ours=False)
            if suite.name in {s.name for s in suites} | PINS.keys():
                raise _Wrong(f"another suite is called {suite.name} already")
            twice = sorted(rule.rule for rule in suite.rules if rule.rule in taken)
            if twice:
                raise _Wrong(f"rule {twice[0]} is in another suite already")
            taken |= {rule.rule for rule in suite.rules}
            suites.append(suite)
        except ValueError as error:
            problems.append(_problem(name, name, str(error)))
    return Loaded(suites=tuple(suites), problems=tuple(problems))


def _problem(suite: str, table: str, reason: str) -> Outcome:
    return Outcome(
        rule=f"suite.{suite}", suite=suite, table=table, kind=RuleKind.TABLE, passed=False,
        why="A check that is not made passes everything: each suite must be whole.",
        what_to_do=_WHAT_TO_DO, reason=f"suite {suite}: {reason}",
    )  # fmt: skip


def _added(paths: Iterable[Path]) -> Iterator[tuple[str, bytes | str]]:
    for path in paths:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            yield str(path), "the folder holds no suite (*.json)"
        for file in files:
            try:
                yield file.stem, file.read_bytes()
            except OSError as error:
                yield str(file), f"it cannot be read: {error.strerror or error}"


def _read(name: str, data: bytes, *, ours: bool) -> Suite:
    document = parse_object(data, "it")
    if document.keys() != {"name", "meta", "expectations"}:
        raise _Wrong("it has not exactly name, meta and expectations")
    meta, entries = document["meta"], document["expectations"]
    if not isinstance(meta, dict) or meta.get("table") not in TABLES:
        raise _Wrong(f"meta.table is not one of {', '.join(TABLES)}")
    if document["name"] != name:
        raise _Wrong(f"it calls itself {document['name']!r}; its file is {name}.json")
    if not isinstance(entries, list) or not entries:
        raise _Wrong("it holds no expectation")
    rules = tuple(_rule(number, entry) for number, entry in enumerate(entries))
    names = [rule.rule for rule in rules]
    twice = sorted({rule for rule in names if names.count(rule) > 1})
    if twice:
        raise _Wrong(f"rule {twice[0]} is in it twice")
    return Suite(name=name, table=str(meta["table"]), sha256=sha256(data), rules=rules, ours=ours)


def _rule(number: int, entry: object) -> Rule:
    where = f"expectation {number}"
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise _Wrong(f"{where} has not exactly type, kwargs and meta")
    meta, kwargs = entry["meta"], entry["kwargs"]
    if not isinstance(entry["type"], str) or not isinstance(kwargs, dict) or not isinstance(meta, dict):
        raise _Wrong(f"{where} has a type that is no text, or kwargs or meta that are no objects")
    if not {"rule", "kind", "why", "what_to_do"} <= meta.keys() <= _META_KEYS:
        raise _Wrong(f"{where}: meta has not exactly {', '.join(sorted(_META_KEYS))} (may_be_null may be left out)")
    texts = [meta[name] for name in ("rule", "why", "what_to_do")]
    if not all(isinstance(text, str) and text.strip() for text in texts) or meta["kind"] not in set(RuleKind):
        raise _Wrong(f"{where}: rule, why and what_to_do must be text, kind row or table")
    if not isinstance(meta.get("may_be_null", False), bool):
        raise _Wrong(f"{where}: may_be_null is true or false")
    if "mostly" in kwargs or "row_condition" in kwargs:
        raise _Wrong(f"{where} looks at some rows only ({json.dumps(entry['type'])}); here a rule is for all rows")
    return Rule(
        rule=texts[0], type=entry["type"], kwargs=kwargs, kind=RuleKind(meta["kind"]), why=texts[1],
        what_to_do=texts[2], may_be_null=meta.get("may_be_null", False),
    )  # fmt: skip


def _hold_to(suite: Suite, pins: Mapping[str, Pin]) -> None:
    if suite.table != suite.name:
        raise _Wrong(f"it is of table {suite.table}")
    found = {rule.rule: rule for rule in suite.rules}
    for name, pin in pins.items():
        if name not in found:
            raise _Wrong(f"the required rule {name} is missing")
        said = found[name].pin
        if said != pin:
            raise _Wrong(f"the required rule {name} was changed: it is {said}, not {pin}")
