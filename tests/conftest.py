"""What every test shares: no hub, no user's keys, no user's store."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import pytest

from tests.commands import Call, caller

REQUIRED = frozenset(filter(None, os.environ.get("HWBENCH_REQUIRE_BACKENDS", "").split(",")))
"""Backends whose absence is a failure here, and not a skip."""

WEBNN_BROWSER = os.environ.get("HWBENCH_TEST_WEBNN_BROWSER")
"""A browser that has a WebNN backend: Debian's Chromium has none."""


@pytest.fixture(scope="session", autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty key store; offline hub; no tracking store from outside."""
    home = tmp_path_factory.mktemp("hwbench-home")
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "HWBENCH_"))]:
        del os.environ[name]
    os.environ.update(HWBENCH_HOME=str(home), HF_HUB_OFFLINE="1", MLFLOW_DISABLE_TELEMETRY="true")
    return home


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.fixture(autouse=True)
def sound_signal_stack() -> None:
    """OpenVINO's ``compile_model`` (2026.4.1) registers an alternate signal stack and frees its memory: where an
    earlier test ran it in this process, the next signal that Python handles is a segmentation fault. hwbench's own
    parent process never loads OpenVINO."""
    if sys.platform == "linux":
        disabled = _SignalStack(flags=2)  # SS_DISABLE
        assert ctypes.CDLL(None).sigaltstack(ctypes.byref(disabled), None) == 0


@pytest.fixture(scope="session")
def blank_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with MLflow's schema and nothing in it; making one takes MLflow seconds."""
    path = tmp_path_factory.mktemp("blank") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own, while it is imported and maps its tables
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store_uri(tmp_path: Path, blank_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh SQLite store of the test's own, with its artifacts beside it: the working folder is there too."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(blank_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store_uri: str) -> Call:
    """The ``hwbench`` command in this process: exit code, standard output, standard error."""
    del store_uri  # where it writes
    return caller(monkeypatch, capsys)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local model that takes less than a millisecond."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 32, "intermediate_size": 64,
        "max_position_embeddings": 40, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 99,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder
