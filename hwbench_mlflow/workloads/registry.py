"""The models hwbench knows by name.

Owns the entry point group ``hwbench.models`` and the lookup by alias or
hub name. Imports neither torch nor transformers.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points

from hwbench_mlflow.errors import UsageError
from hwbench_mlflow.model import TINY_SUFFIX
from hwbench_mlflow.workloads.spec import Kind, ModelSpec
from hwbench_mlflow.workloads.zoo import BUILT_IN

__all__ = [
    "BUILT_IN",
    "ENTRY_POINT_GROUP",
    "Kind",
    "ModelSpec",
    "closest",
    "find",
    "known_aliases",
    "of_type",
    "registry",
]

ENTRY_POINT_GROUP = "hwbench.models"
"""Each entry point loads to a :class:`ModelSpec` or an iterable of them."""


@cache
def registry() -> dict[str, ModelSpec]:
    """Alias -> spec: the built-in ones and their variants for tests, then those of installed packages.
    :class:`UsageError` names a package whose entry point does not load, is no :class:`ModelSpec`, or takes a name
    that is taken."""
    table: dict[str, ModelSpec] = {}
    for spec in BUILT_IN:
        _add(table, spec, "hwbench")
    for spec in BUILT_IN:
        tiny = spec.for_tests()
        if tiny is not None:
            _add(table, tiny, "hwbench")
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
        origin = f"entry point '{point.name} = {point.value}' of {ENTRY_POINT_GROUP}"
        try:
            loaded = point.load()
        except (ImportError, AttributeError) as error:
            raise UsageError(f"{origin} does not load: {error}", remedy="Fix or uninstall its package") from error
        specs = [loaded] if isinstance(loaded, ModelSpec) else loaded
        if not isinstance(specs, Iterable):
            raise UsageError(f"{origin} is {type(specs).__name__}, not a ModelSpec")
        for spec in specs:
            if not isinstance(spec, ModelSpec):
                raise UsageError(f"{origin} holds {type(spec).__name__}, not a ModelSpec")
            _add(table, spec, origin)
    return table


def _add(table: dict[str, ModelSpec], spec: ModelSpec, origin: str) -> None:
    taken = {name for other in table.values() for name in (other.alias, *other.hub_ids)}
    clash = sorted(taken & {spec.alias, *spec.hub_ids})
    if clash:
        raise UsageError(f"{origin} takes the model name '{clash[0]}', which is taken")
    table[spec.alias] = spec


def find(name: str) -> ModelSpec | None:
    """The spec of that alias (in any case: ``TinyLlama-1.1B``) or hub name, else None."""
    table = registry()
    if name.lower() in table:
        return table[name.lower()]
    return next((spec for spec in table.values() if name in spec.hub_ids), None)


def known_aliases() -> tuple[str, ...]:
    """The names ``--model`` takes, besides hub names, folders and the variants for tests."""
    return tuple(name for name in registry() if not name.endswith(TINY_SUFFIX))


def of_type(model_type: object) -> ModelSpec | None:
    """A built-in spec of that architecture: how hwbench runs others of it."""
    return next((spec for spec in BUILT_IN if spec.config["model_type"] == model_type), None)


def closest(name: str) -> str | None:
    """The known alias or hub name that ``name`` was likely meant to be."""
    names = [n for spec in registry().values() for n in (spec.alias, *spec.hub_ids)]
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return matches[0] if matches else None
