"""Changes of level: found where they were planted, rarely elsewhere, with what changed beside them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench_mlflow.cli.main import root
from hwbench_mlflow.decide.changes import Run, Series, boundaries, read
from tests.decide.made import published, rows_of, run_id

START = datetime(2026, 10, 1)


def noise(seed: int, n: int, spread: float = 0.01) -> list[float]:
    return [float(v) for v in 10 * np.exp(np.random.default_rng(seed).normal(0, spread, n))]


def shifted(values: list[float], at: int, shift: float) -> list[float]:
    return [v * shift if n >= at else v for n, v in enumerate(values)]


def series(values: list[float], **environments: tuple[int, str]) -> Series:
    runs = [
        Run(
            run_id=str(n), started_at=START + timedelta(hours=n), created_at=START + timedelta(hours=n, minutes=5),
            value=value, stable=True,
            environment={name: (new if n >= at else "old") for name, (at, new) in environments.items()},
        )
        for n, value in enumerate(values)
    ]  # fmt: skip
    return Series(configuration={}, metric="latency_ms_p50", runs=runs)


def test_steady_noise_has_hardly_a_change() -> None:
    false = sum(bool(boundaries(noise(seed, 100))) for seed in range(200))
    assert false / 200 <= 0.05


@pytest.mark.parametrize(
    ("shift", "after", "least"), [(1.05, 5, 0.95), (1.10, 4, 0.97), (0.9, 20, 0.99), (1.02, 30, 0.7)]
)
def test_a_planted_shift_is_found_where_it_is(shift: float, after: int, least: float) -> None:
    at = 60 - after
    near = 3 if shift == 1.02 else 1
    found = sum(
        any(abs(index - at) <= near for index in boundaries(shifted(noise(s, 60), at, shift))) for s in range(100)
    )
    assert found / 100 >= least


def test_single_runs_that_stand_out_are_no_change() -> None:
    false = 0
    for seed in range(100):
        values = noise(seed, 80)
        for at in np.random.default_rng(seed).integers(0, 80, 3):
            values[at] *= 1.3
        false += bool(boundaries(values))
    assert false <= 12


@given(st.integers(0, 500), st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_another_unit_moves_no_boundary(seed: int, scale: float) -> None:
    values = shifted(noise(seed, 40), 25, 1.2)
    assert boundaries(values) == boundaries([v * scale for v in values])


def test_values_without_noise_change_where_they_change() -> None:
    assert boundaries([10.0] * 40) == []
    assert boundaries([10.0] * 20 + [11.0] * 20) == [20]


def test_what_changed_with_it_is_named_and_what_did_not_is_not() -> None:
    found = read(
        series(shifted(noise(1, 40), 30, 1.2), driver=(30, "560"), kernel=(10, "7"), hwbench=(99, "2")),
        higher_is_worse=True, threshold=0.05,
    )  # fmt: skip
    (change,) = found.changes
    assert dict(change.environment) == {"driver": ("old", "560")}
    assert found.open == pytest.approx(1.2, rel=0.02)
    assert found.baseline == (0, 30)


def test_a_regression_that_was_made_good_is_closed_and_half_of_it_is_not() -> None:
    up = shifted(noise(2, 60), 20, 1.3)
    healed = read(series(shifted(up, 40, 1 / 1.3)), higher_is_worse=True, threshold=0.05)
    half = read(series(shifted(up, 40, 1.15 / 1.3)), higher_is_worse=True, threshold=0.05)
    assert (len(healed.changes), healed.open) == (2, None)
    assert half.open == pytest.approx(1.15, rel=0.02)


def test_small_steps_add_up() -> None:
    values = [v * 1.03 ** (n // 20) for n, v in enumerate(noise(3, 80, 0.004))]
    assert read(series(values), higher_is_worse=True, threshold=0.05).open == pytest.approx(1.03**3, rel=0.01)


def test_more_throughput_is_no_regression() -> None:
    values = shifted(noise(1, 40), 30, 1.2)
    assert read(series(values), higher_is_worse=False, threshold=0.05).open is None
    assert read(series([1 / v for v in values]), higher_is_worse=False, threshold=0.05).open is not None


def test_clocks_out_of_order_and_numbers_that_are_none_are_said() -> None:
    sound = series(noise(1, 20))
    runs = list(sound.runs)
    runs[7] = Run(
        run_id="7", started_at=runs[6].created_at - timedelta(minutes=1), created_at=runs[7].created_at, value=10,
        stable=True, environment={},
    )  # fmt: skip
    back = read(Series(configuration={}, metric="latency_ms_p50", runs=runs), higher_is_worse=True, threshold=0.05)
    assert back.trouble is not None
    assert "clock was set back" in back.trouble
    zero = read(series([*noise(1, 10), 0.0]), higher_is_worse=True, threshold=0.05)
    assert "no positive numbers" in str(zero.trouble)
    assert read(series(noise(1, 7)), higher_is_worse=True, threshold=0.05).short


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["regressions", *arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = shifted(noise(1, 30, 0.005), 20, 1.2)
    rows = rows_of(values, 0, model_name="bert")
    for n, row in enumerate(rows):
        row |= {
            "device_driver": "560" if n >= 20 else "550",
            "packages": {"torch": "2.14" if n >= 20 else "2.13", "x": "1"},
        }
    rows += rows_of(noise(5, 12, 0.005), 30, model_name="gpt2")
    return published(tmp_path_factory.mktemp("regressions"), rows)


def test_an_open_regression_exits_with_3_and_names_its_driver_and_packages(made: Path) -> None:
    found = ask("--json", "--published", str(made))
    assert getattr(found.exception, "exit_code", None) == 3
    document = json.loads(found.stdout)
    assert (document["histories"], document["regressions"]) == (2, 1)
    (story,) = document["stories"]
    (change,) = story["changes"]
    assert change["run_id"] == run_id(20)
    assert change["environment"] == {
        "driver": {"before": "550", "after": "560"}, "package torch": {"before": "2.13", "after": "2.14"},
    }  # fmt: skip
    assert story["baseline_run_ids"] == [run_id(n) for n in range(20)]


def test_what_is_accepted_is_left_behind_by_a_date_and_another_model_is_fine(made: Path) -> None:
    assert ask("since:2026-10-01T20:00", "--published", str(made)).exit_code == 0
    assert ask("model:gpt2", "--published", str(made)).exit_code == 0
    assert ask("--threshold", "30%", "--published", str(made)).exit_code == 0


def test_text_and_markdown_say_the_same(made: Path) -> None:
    text = ask("--published", str(made)).stdout
    assert text.startswith("1 unresolved regressions, 1 histories with a change, of 2 histories\n")
    assert "driver 550 -> 560, package torch 2.13 -> 2.14" in text
    assert "against its baseline of 20 runs" in text
    marked = ask("--format", "markdown", "--published", str(made)).stdout
    assert marked.startswith("<!-- hwbench regressions -->\n### hwbench: 1 unresolved")
    assert "**REGRESSION** bert on Test CPU" in marked


def test_bad_input_is_one_line(made: Path, tmp_path: Path) -> None:
    assert "chooses nothing" in str(ask("model:absent", "--published", str(made)).exception)
    assert "nothing is published" in str(ask("--published", str(tmp_path / "absent")).exception)
    assert "is no metric" in str(ask("--metric", "colour", "--published", str(made)).exception)


def test_overlapping_runs_are_refused_unless_told_otherwise(tmp_path: Path) -> None:
    rows = rows_of(noise(1, 10))
    rows[5]["started_at"] = rows[3]["created_at"] - timedelta(minutes=3)
    path = str(published(tmp_path, rows))
    found = ask("--published", path)
    assert "1 histories cannot be read" in str(found.exception)
    assert "UNREADABLE" in found.stdout
    assert ask("--allow-unreadable", "--published", path).exit_code == 0
