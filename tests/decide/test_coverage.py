"""The table of coverage: each state, what to run next, and the plan."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from click.testing import CliRunner, Result

from hwbench_mlflow.cli.main import root
from hwbench_mlflow.decide.covering import Found, Measured, State, cover, next_runs
from tests.decide.made import published, rows_of, run_id, warehouse

WHEN = datetime(2026, 11, 1)
YES = Found(state="AVAILABLE", reason="ran")
NO = Found(state="NO_DRIVER", reason="libcuda is missing", remedy="install it")


@pytest.mark.parametrize(
    ("known", "failure", "probe", "state", "reason"),
    [
        (Measured(ranked=3, fresh=2, stable=1), None, YES, State.VERIFIED, None),
        (Measured(ranked=3, fresh=2, why="steal 9%"), None, YES, State.NOISY, "steal 9%"),
        (Measured(ranked=3, newest=WHEN), None, YES, State.STALE, None),
        (Measured(simulated=1, why="SwiftShader"), None, NO, State.SIMULATED, "SwiftShader"),
        (Measured(unranked=1), None, YES, State.UNRANKED, "only the test profile was run"),
        (Measured(quarantined=1, why="verdict: forged"), None, YES, State.QUARANTINED, "verdict: forged"),
        (Measured(), Found(state="out_of_memory", reason="8 GB"), YES, State.FAILED, "out_of_memory: 8 GB"),
        (Measured(), Found(state="no_driver", reason="x"), NO, State.UNAVAILABLE,
         "NO_DRIVER: libcuda is missing -> install it"),
        (Measured(), Found(state="no_driver", reason="x"), None, State.UNAVAILABLE, "no_driver: x"),
        (Measured(), None, YES, State.NEVER, None),
        (Measured(), None, None, State.NEVER, "never probed: run `hwbench devices --log`"),
        # The hardware came after the failure: nothing failed but its absence.
        (Measured(), Found(state="no_driver", reason="x"), YES, State.NEVER, None),
    ],
)  # fmt: skip
def test_each_state(known: Measured, failure: Found | None, probe: Found | None, state: State, reason: str) -> None:
    (cell,) = cover(
        ["bert"], ["cuda"], ["fp32"], {("bert", "cuda", "fp32"): known},
        {("bert", "cuda", None): failure} if failure else {}, {"cuda": probe} if probe else {},
    )  # fmt: skip
    assert (cell.state, cell.reason) == (state, reason)


def test_only_what_can_be_run_is_proposed_the_most_useful_first() -> None:
    measured = {
        ("new", "cpu", "bf16"): Measured(ranked=4, fresh=4, stable=4),
        ("old", "cpu", "fp32"): Measured(ranked=4, newest=WHEN),
        ("noisy", "cpu", "fp32"): Measured(ranked=1, fresh=1),
        ("few", "cpu", "fp32"): Measured(ranked=1, fresh=1, stable=1),
        ("fine", "cpu", "fp32"): Measured(ranked=9, fresh=9, stable=9),
    }
    failed: dict[tuple[str, str, str | None], Found] = {
        ("big", "cpu", None): Found(state="out_of_memory", reason="x"),
        ("slow", "cpu", "fp32"): Found(state="timeout", reason="x"),
    }
    models = ["new", "old", "noisy", "few", "fine", "big", "slow"]
    probes = {"cpu": YES, "cuda": NO}
    cells = cover(models, ["cpu", "cuda"], ["fp32"], measured, failed, probes)
    assert [n.model for n in next_runs(cells, failed, probes)] == ["new", "noisy", "old", "slow", "few"]


def test_a_platform_without_fp32_is_asked_for_what_it_has() -> None:
    failed: dict[tuple[str, str, str | None], Found] = {
        ("bert", "qnn", "fp32"): Found(state="unsupported_operator", reason="no fp32"),
    }
    (cell,) = cover(["bert"], ["qnn"], None, {}, failed, {"qnn": YES})
    assert (cell.precision, cell.state) == ("fp16", State.NEVER), "a failure of fp32 says nothing of fp16"
    assert [(one.platform, one.precision) for one in next_runs([cell], failed, {"qnn": YES})] == [("qnn", "fp16")]


def test_what_is_only_emulated_is_not_proposed_as_hardware() -> None:
    emulated = {"qnn": Found(state="EMULATED", reason="QNN HTP emulator on x86-64")}
    cells = cover(["bert"], ["qnn"], None, {}, {}, emulated)
    assert [(c.state, c.reason) for c in cells] == [
        (State.UNAVAILABLE, "only emulated: QNN HTP emulator on x86-64; what runs there is simulated")
    ]
    assert next_runs(cells, {}, emulated) == []


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["coverage", *arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    simulated = {"verdict": "simulated", "is_simulated": True, "simulation_reason": "<b>|soft"}
    recent = {"created_at": datetime(2026, 11, 10)}
    rows = [
        *rows_of([10.0] * 5, 0, model_name="bert"),
        *rows_of([10.0], 10, model_name="gpt2", effective_precision="bf16", stable=False, noise_reasons=["steal"]),
        *rows_of([10.0], 20, model_name="vit", profile="smoke", ranked=False),
        *rows_of([0.1], 30, model_name="sim", **simulated),
        *rows_of([1.0], 50, model_name="forged", verdict="unverified"),
    ]
    rows = [{**row, **recent} for row in rows]
    rows += [{**row, "created_at": datetime(2026, 6, 1)} for row in rows_of([10.0], 40, model_name="old")]
    return str(published(tmp_path_factory.mktemp("coverage"), rows, quarantine=[(run_id(50), "verdict", "unverified")]))


def states(result: Result) -> dict[tuple[str, str], str]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return {(c["model"], c["precision"]): c["state"] for c in found["cells"] if c["platform"] == "cpu"}


def test_cells_are_what_was_published(made: str) -> None:
    found = states(ask("--json", "--published", made))
    assert found["bert", "fp32"] == "verified"
    assert found["gpt2", "bf16"] == "noisy"
    assert found["gpt2", "fp32"] == "never run"
    assert found["vit", "fp32"] == "unranked"
    assert found["sim", "fp32"] == "simulated"
    assert found["old", "fp32"] == "stale"
    assert found["forged", "fp32"] == "quarantined"
    assert states(ask("--stale-after", "300", "--json", "--published", made))["old", "fp32"] == "verified"


def test_the_plan_is_yaml_that_a_batch_takes_and_holds_only_what_can_run(made: str, tmp_path: Path) -> None:
    plan = tmp_path / "matrix.yaml"
    done = ask("--plan", str(plan), "--published", made)
    assert done.exit_code == 0, done.output
    loaded = yaml.safe_load(plan.read_text())
    assert loaded.keys() == {"include"}
    assert {"model": "gpt2", "hardware": "cpu", "precision": "fp32", "batch_size": 1} in loaded["include"]
    assert {cell["hardware"] for cell in loaded["include"]} == {"cpu"}
    assert "bert" not in {cell["model"] for cell in loaded["include"] if cell["precision"] == "fp32"}
    said = plan.read_text().splitlines()[0].partition("Run it: ")[2]
    assert f"to run them: {said.replace('FILE', str(plan))}" in done.stderr


def test_the_command_that_the_plan_names_runs_it(made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    wanted = ["--model", "bert-tiny", "--model", "gpt2", "--hardware", "cpu", "--precision", "fp32"]
    assert ask(*wanted, "--plan", "matrix.yaml", "--published", made).exit_code == 0
    program, *arguments = Path("matrix.yaml").read_text().splitlines()[0].partition("Run it: ")[2].split()
    assert program == "hwbench"
    done = CliRunner().invoke(root, [*("matrix.yaml" if a == "FILE" else a for a in arguments), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "2 cells" in done.output
    assert "bert-tiny" in done.output


def test_a_hostile_name_stays_a_name(made: str, tmp_path: Path) -> None:
    name = "x: y\n- #<b>|'\""
    plan = tmp_path / "matrix.yaml"
    done = ask("--model", name, "--hardware", "cpu", "--plan", str(plan), "--published", made)
    assert done.exit_code == 0, done.output
    assert name in {cell["model"] for cell in yaml.safe_load(plan.read_text())["include"]}
    assert "<b>" not in ask("--model", name, "--format", "markdown", "--published", made).stdout


def test_platforms_that_were_never_probed_are_not_called_absent(made: str) -> None:
    text = ask("--published", made).stdout
    assert "never probed: cuda, rocm" in text
    assert "bert" in text.splitlines()[1]


def test_bad_input_is_one_line(made: str, tmp_path: Path) -> None:
    assert "nothing is published" in str(ask("--published", str(tmp_path / "absent")).exception)
    nothing = ask("--model", "bert", "--hardware", "cuda", "--plan", str(tmp_path / "p.yaml"), "--published", made)
    assert "nothing to run next" in str(nothing.exception)
    assert not (tmp_path / "p.yaml").exists()
    empty = warehouse(tmp_path, [])
    with duckdb.connect(str(empty)) as connection:
        assert connection.execute("SELECT count(*) FROM performance_results").fetchall() == [(0,)]
    assert "knows no model" in str(ask("--published", str(published(tmp_path, []))).exception)
