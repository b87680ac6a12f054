"""Each category of failure, by the real command: one line, a FAILED run without a number, a suggestion, a report."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from hwbench_mlflow import runner
from hwbench_mlflow.cli import main as cli
from hwbench_mlflow.model import FailureCategory
from hwbench_mlflow.remedies import SUGGESTIONS
from tests import failing
from tests.adversaries import KilledInTheMiddle
from tests.commands import SMOKE, only, performance, said
from tests.conftest import REQUIRED


def target(kind: type) -> tuple[str, str]:
    return "--backend", f"{kind.__module__}:{kind.__name__}"


def absent(status: str) -> tuple[FailureCategory, tuple[str, ...], int]:
    return FailureCategory(status.lower()), (*target(failing.Absent), "status=" + status), 4


CASES = [
    absent("NOT_INSTALLED"),
    absent("NO_DRIVER"),
    absent("NO_DEVICE"),
    absent("UNSUPPORTED_HOST"),
    absent("PROBE_FAILED"),
    (FailureCategory.OUT_OF_MEMORY, target(failing.OutOfMemory), 1),
    (FailureCategory.UNSUPPORTED_OPERATOR, ("--precision", "int8"), 1),
    (FailureCategory.HUB_UNREACHABLE, ("--weights", "pretrained"), 1),
    (FailureCategory.TIMEOUT, target(failing.Silent), 1),
    (FailureCategory.WRONG_OUTPUT, target(failing.ClockAhead), 1),
    (FailureCategory.FALLBACK_DETECTED, ("--hardware", "qnn", *target(failing.LeftToTheCpu)), 1),
    (FailureCategory.CRASH, target(KilledInTheMiddle), 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("category", "options", "code"), CASES, ids=lambda value: str(value)[:24])
def test_a_failure_is_one_line_a_failed_run_and_a_suggestion(  # noqa: PLR0917  # fixtures
    category: FailureCategory, options: tuple[str, ...], code: int, tiny_folder: Path, store_uri: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from mlflow import MlflowClient

    if category is FailureCategory.FALLBACK_DETECTED and importlib.util.find_spec("onnxruntime_qnn") is None:
        (pytest.fail if "qnn" in REQUIRED else pytest.skip)("onnxruntime-qnn is not installed")
    if options[-1].startswith("status="):
        monkeypatch.setenv("FAILING_STATUS", options[-1].partition("=")[2])
        options = options[:-1]
    monkeypatch.setattr(runner, "STEP_TIMEOUT_S", 3.0 if category is FailureCategory.TIMEOUT else 900.0)
    monkeypatch.setattr("sys.argv", ["hwbench", "run", "--model", str(tiny_folder), *SMOKE, *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out) == (code, "")
    line = only(said(captured.err))
    (run,) = MlflowClient(store_uri).search_runs(["0"])
    tags = run.data.tags
    assert (run.info.status, tags["hwbench.failure_category"]) == ("FAILED", str(category))
    assert tags["hwbench.failure_reason"] in line
    assert performance(run.data.metrics) == []
    failure = stored(store_uri, run.info.run_id)
    assert failure["category"] == str(category)
    assert failure["remedy"]
    assert failure["remedy"] in line
    assert "What to do: " in tags["mlflow.note.content"]
    if options[:1] == ("--backend",) and "Absent" in options[1]:
        assert failure["remedy"] == SUGGESTIONS[category]


def stored(store_uri: str, run_id: str) -> dict[str, Any]:
    from mlflow import MlflowClient

    path = MlflowClient(store_uri).download_artifacts(run_id, "hwbench/failure.json")
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def test_each_category_is_provoked_here_or_named_with_where_it_is() -> None:
    elsewhere = {
        FailureCategory.USAGE: "tests/test_cli_run.py",
        FailureCategory.INTERRUPTED: "tests/test_end_to_end.py",
        FailureCategory.MODEL_TOO_LARGE: "tests/workloads",
        FailureCategory.BOUND_NOT_MET: "tests/test_loadgen.py",
    }
    assert {category for category, _, _ in CASES} | set(elsewhere) == set(FailureCategory)
