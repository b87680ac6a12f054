"""Finding a backend: by name, by target, never by accident."""

from __future__ import annotations

import importlib.metadata

import pytest

from hwbench_mlflow.backends import lookup
from hwbench_mlflow.backends.cpu import CpuBackend
from hwbench_mlflow.backends.fake import FakeBackend
from hwbench_mlflow.errors import UsageError
from hwbench_mlflow.model import Platform


def test_every_platform_has_a_backend() -> None:
    assert {p.value for p in Platform} <= lookup.targets().keys()


def test_a_platform_s_name_finds_a_backend_of_that_platform() -> None:
    for platform in Platform:
        assert lookup.find(platform.value).platform is platform


def test_a_target_is_loaded() -> None:
    assert isinstance(lookup.find("hwbench_mlflow.backends.fake:FakeBackend"), FakeBackend)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cuba", "no backend is called 'cuba'. Choose one of: cpu, cuda"),
        ("no_such_module:Thing", "no module named 'no_such_module'"),
        ("hwbench_mlflow.backends.cpu:Nothing", "has no class 'Nothing'"),
        ("hwbench_mlflow.backends.cpu:DEVICE_ID", "has no class 'DEVICE_ID'"),
        ("hwbench_mlflow.model:Precision", "Precision"),
        (":Thing", "does not name a backend"),
        ("module:", "does not name a backend"),
    ],
)
def test_a_wrong_name_is_one_line_that_says_why(name: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        lookup.find(name)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_distribution_adds_a_platform_but_replaces_none(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        importlib.metadata.EntryPoint("cpu", "evil.module:Backend", lookup.GROUP),
        importlib.metadata.EntryPoint("tpu", "other.module:Backend", lookup.GROUP),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    assert isinstance(lookup.find("cpu"), CpuBackend)
    assert lookup.targets()["tpu"] == "other.module:Backend"
