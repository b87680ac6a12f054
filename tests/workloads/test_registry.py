from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from hwbench_mlflow.errors import UsageError
from hwbench_mlflow.workloads import registry
from hwbench_mlflow.workloads.registry import ModelSpec


@pytest.fixture(autouse=True)
def _fresh_registry() -> Iterator[None]:
    registry.registry.cache_clear()
    yield
    registry.registry.cache_clear()


def _spec(**changes: Any) -> ModelSpec:
    facts: dict[str, Any] = {
        "alias": "mine",
        "hub_ids": ("me/mine",),
        "kind": "text",
        "task": "feature-extraction",
        "auto_class": "AutoModel",
        "config": {"model_type": "bert", "vocab_size": 10},
    }
    return ModelSpec(**{**facts, **changes})


def _install(monkeypatch: pytest.MonkeyPatch, target: object) -> None:
    """As if an installed package declared ``target`` in the entry point group."""
    monkeypatch.setattr(sys.modules[__name__], "_target", target, raising=False)
    point = EntryPoint("mine", f"{__name__}:_target", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])


def test_the_promised_aliases_are_known() -> None:
    assert {"bert", "bert-tiny", "distilbert", "gpt2", "vit", "resnet-50"} <= set(registry.known_aliases())


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("bert", "bert"),
        ("bert-base-uncased", "bert"),
        ("google-bert/bert-base-uncased", "bert"),
        ("prajjwal1/bert-tiny", "bert-tiny"),
        ("distilbert-base-uncased", "distilbert"),
        ("openai-community/gpt2", "gpt2"),
        ("google/vit-base-patch16-224", "vit"),
        ("microsoft/resnet-50", "resnet-50"),
    ],
)
def test_an_alias_and_a_hub_name_lead_to_the_same_spec(name: str, alias: str) -> None:
    spec = registry.find(name)
    assert spec is not None
    assert spec.alias == alias


def test_an_unknown_name_is_not_found_and_the_close_one_is_suggested() -> None:
    assert registry.find("berts") is None
    assert registry.closest("berts") == "bert"
    assert registry.closest("zzzzzz") is None


def test_a_package_adds_a_model_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, _spec())
    assert registry.find("me/mine") == _spec()
    assert "mine" in registry.known_aliases()


def test_a_package_adds_several_models_by_one_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, [_spec(), _spec(alias="other", hub_ids=())])
    assert {"mine", "other"} <= set(registry.known_aliases())


@pytest.mark.parametrize("taken", [{"alias": "bert"}, {"hub_ids": ("bert-base-uncased",)}, {"alias": "gpt2"}])
def test_a_package_cannot_take_a_name_that_is_taken(monkeypatch: pytest.MonkeyPatch, taken: dict[str, Any]) -> None:
    _install(monkeypatch, _spec(**taken))
    with pytest.raises(UsageError, match="which is taken"):
        registry.registry()


@pytest.mark.parametrize("target", [42, ["not a spec"]])
def test_an_entry_point_that_is_no_spec_is_refused(monkeypatch: pytest.MonkeyPatch, target: object) -> None:
    _install(monkeypatch, target)
    with pytest.raises(UsageError, match="not a ModelSpec"):
        registry.registry()


def test_an_entry_point_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("gone", "no_such_package_at_all:SPEC", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(UsageError, match=r"gone = no_such_package_at_all:SPEC.*does not load"):
        registry.registry()
