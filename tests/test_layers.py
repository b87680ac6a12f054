"""The layers of the design, read from the imports."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_backends_table_and_the_entry_points_agree() -> None:
    from hwbench_mlflow.backends.lookup import BUILT_IN

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["hwbench.backends"] == BUILT_IN


@pytest.mark.parametrize("heavy", ["torch", "transformers", "mlflow", "openvino", "matplotlib", "msgspec", "numpy"])
def test_help_imports_nothing_heavy(heavy: str) -> None:
    code = (
        "import sys, hwbench_mlflow.cli.main as m\n"
        "try: m.root.main(['--help'], standalone_mode=False)\n"
        f"finally: assert {heavy!r} not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


@pytest.mark.parametrize("module", ["runner", "worker", "verdict", "evidence", "bundle", "keystore", "supervise"])
def test_the_runner_needs_no_mlflow(module: str) -> None:
    code = f"import sys; sys.modules['mlflow'] = None; import hwbench_mlflow.{module}; import hwbench_mlflow.cli.run"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
