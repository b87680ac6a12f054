"""What every test shares: no hub, no user's keys, no user's store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REQUIRED = frozenset(filter(None, os.environ.get("HWBENCH_REQUIRE_BACKENDS", "").split(",")))
"""Backends whose absence is a failure here, and not a skip."""


@pytest.fixture(scope="session", autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty key store; offline hub; no tracking store from outside."""
    home = tmp_path_factory.mktemp("hwbench-home")
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "HWBENCH_"))]:
        del os.environ[name]
    os.environ.update(HWBENCH_HOME=str(home), HF_HUB_OFFLINE="1", MLFLOW_DISABLE_TELEMETRY="true")
    return home
