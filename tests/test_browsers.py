"""WebGPU and WebNN from the command to the report: what is simulated stays apart, what is verified says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwbench_mlflow.backends import _browser, _web
from tests.browsers import need, webnn_browser
from tests.commands import ROOT, environment, hwbench, only, performance, said

pytestmark = pytest.mark.slow


def rows(folder: Path, sql: str, *options: str) -> list[dict[str, object]]:
    done = hwbench("query", sql, "--format", "json", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, blank_store: Path) -> Path:
    made = tmp_path_factory.mktemp("browsers")
    (made / "mlflow.db").write_bytes(blank_store.read_bytes())
    return made


def test_a_software_adapter_is_measured_simulated_and_in_no_default_report(folder: Path, tiny_folder: Path) -> None:
    need("webgpu")
    done = hwbench(
        "run", "--model", str(tiny_folder), "--hardware", "webgpu", "--profile", "smoke", "--json", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert hwbench("sync", cwd=folder).returncode == 0
    (row,) = rows(
        folder,
        "SELECT is_simulated, simulation_reason, verdict, latency_ms_p50 FROM performance_results",
        "--db",
        "hwbench.duckdb",
    )
    if not row["is_simulated"]:
        pytest.skip("this machine's adapter is hardware")
    assert row["verdict"] == "simulated"
    assert str(row["simulation_reason"]).startswith("WebGPU on a software adapter: ")
    assert isinstance(row["latency_ms_p50"], float)
    (count,) = rows(folder, "SELECT count(*) AS n FROM verified_results", "--db", "hwbench.duckdb")
    assert count["n"] == 0
    gated = hwbench("gate", cwd=folder)
    assert gated.returncode == 0, gated.stdout + gated.stderr
    report = hwbench("report", "--format", "json", cwd=folder)
    assert json.loads(report.stdout)["results"] == []
    asked = hwbench("report", "--format", "json", "--include-simulated", cwd=folder)
    shown = [row for part in json.loads(asked.stdout).values() if isinstance(part, list) for row in part]
    assert [row["verdict"] for row in shown if "latency_ms_p50" in row] == ["simulated"]


def test_webnn_on_the_cpu_is_verified(folder: Path, tiny_folder: Path) -> None:
    browser = webnn_browser()
    arguments = ("run", "--model", "bert-tiny", "--hardware", "webnn", "--profile", "smoke", "--weights", "random")
    done = hwbench(*arguments, "--browser", browser, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert result["verdict"] == "verified", result
    refused = hwbench(*arguments, "--browser", browser, "--device", "npu", cwd=folder)
    assert refused.returncode == 4
    assert "does not say where they compute" in only(said(refused.stderr))


def test_a_browser_that_is_not_there_is_one_line_and_a_failed_run_without_numbers(
    folder: Path, tiny_folder: Path
) -> None:
    if _web.missing_packages() is not None:
        pytest.skip("the [web] extra is not installed")
    done = hwbench(
        "run", "--model", str(tiny_folder), "--hardware", "webgpu", "--browser", "/nowhere/chrome", cwd=folder
    )
    assert done.returncode == 4
    assert "/nowhere/chrome is not an executable file" in only(said(done.stderr))
    from mlflow import MlflowClient

    run = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_runs(["0"], "attributes.status = 'FAILED'")[0]
    assert run.data.tags["hwbench.failure_category"] == "not_installed"
    assert not performance(run.data.metrics)


def test_variables_and_files_grant_no_adapter(tmp_path: Path) -> None:
    """Everything that a naive detector takes for a GPU, at once."""
    for tool in ("nvidia-smi", "rocm-smi"):
        (tmp_path / tool).write_text("#!/bin/sh\necho 'NVIDIA H100'\n")
        (tmp_path / tool).chmod(0o755)
    base = environment()
    fooled = base | {
        "PATH": f"{tmp_path}:{base['PATH']}",
        "CUDA_VISIBLE_DEVICES": "0",
        "WEBGPU_ADAPTER": "NVIDIA H100",
        "VK_ICD_FILENAMES": str(tmp_path / "nvidia_icd.json"),
        "HWBENCH_HARDWARE": "webgpu",
    }
    done = hwbench("devices", "--platform", "webgpu", "--platform", "webnn", "--json", cwd=tmp_path, env=fooled)
    assert done.returncode == 0, done.stderr
    for answer in json.loads(done.stdout)["platforms"]:
        for device in answer["devices"]:
            assert device["emulation_reason"] or Path("/dev/dri").exists() or answer["platform"] == "webnn"


def test_the_page_and_its_runtime_are_named_with_one_version() -> None:
    """What the remedy installs is what the page's package.json asks for."""
    asked = json.loads((ROOT / "projects" / "web" / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    assert asked == _browser.RUNTIME_VERSION
