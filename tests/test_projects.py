"""Each folder of ``projects/`` by the command that the README gives for it, on a model of its own kind."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, command, environment

pytestmark = pytest.mark.slow

CASES = {
    "vision": ({"model": "deit-tiny-tiny-test", "batch_size": "2"}, "batch 2, 32×32 pixels", "latency_ms_p50"),
    "audio": ({"model": "wav2vec2-tiny-test", "audio_seconds": "0.2"}, "0.2 s of audio", "real_time_factor"),
    "generation": (
        {"model": "qwen2-0.5b-tiny-test", "prompt_length": "8", "output_tokens": "3"},
        "8 tokens, generate of 3 tokens with KV cache",
        "tpot_ms_p50",
    ),
    "multimodal": ({"model": "llava-1.5-7b-tiny-test"}, "68 tokens, 16×16 pixels", "latency_ms_p50"),
}
ELSEWHERE = {"text": "tests/test_end_to_end.py runs it", "web": "its browser is run by tests/test_browsers.py"}


def test_every_project_is_run_here_or_said_to_be_run_elsewhere() -> None:
    folders = {path.parent.name for path in (ROOT / "projects").glob("*/MLproject")}
    assert folders - {"roofline"} == CASES.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_project_measures_its_kind_of_model_by_mlflow_run(name: str, tmp_path: Path) -> None:
    given, said, metric = CASES[name]
    # The installed command, which a test's environment may lack.
    script = tmp_path / "bin" / "hwbench"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m hwbench_mlflow "$@"\n')
    script.chmod(0o755)
    env = environment(OMP_NUM_THREADS="1")
    env["PATH"] = f"{script.parent}{os.pathsep}{env['PATH']}"
    shutil.copytree(ROOT / "projects" / name, tmp_path / "projects" / name)
    parameters = {**given, "profile": "smoke", "weights": "random"}
    words = [word for key, value in parameters.items() for word in ("-P", f"{key}={value}")]
    done = command("mlflow", "run", f"projects/{name}", *words, cwd=tmp_path, env=env)
    assert said in done.stdout, done.stderr
    # On a busy machine a run of 0.3 s may be unverified, or (exit 1) show no growth; the numbers are logged either way.
    [store] = tmp_path.rglob("mlflow.db")
    with sqlite3.connect(store) as database:
        logged = {key for (key,) in database.execute("SELECT key FROM latest_metrics")}
    database.close()
    assert {metric, "throughput_items_per_s"} <= logged
