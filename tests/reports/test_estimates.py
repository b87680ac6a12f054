"""Estimates and rooflines on a report: estimates only when asked for, apart; a roof over what was achieved."""

# ruff: noqa: F811 -- fixtures of other modules

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest
from click.testing import CliRunner, Result

from hwbench_mlflow.cli.gate import run_gate
from hwbench_mlflow.cli.report import report
from hwbench_mlflow.cli.simulate import simulate
from hwbench_mlflow.reports.figures import Drawn, NotDrawn
from hwbench_mlflow.reports.rooflines import roofline_figure
from hwbench_mlflow.warehouse.comparable import calibrations
from tests.gates.conftest import documented  # noqa: F401 -- a fixture
from tests.reports.test_report import Page
from tests.warehouse.conftest import empty_store  # noqa: F401 -- a fixture
from tests.warehouse.results import Lab

Reported = Callable[..., Result]
REASON = "roofline estimate from datasheet h100-sxm; nothing was measured"


@pytest.fixture(scope="module")
def gated(documented: tuple[Lab, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Path]:
    """A folder with a warehouse and what was published of it: a result, an estimate and a calibration of its device."""
    lab, db = documented
    folder = tmp_path_factory.mktemp("estimates")
    shutil.copyfile(db, folder / "hwbench.duckdb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWBENCH_HOME", str(lab.home))
        assert run_gate(folder / "hwbench.duckdb", folder / "published.duckdb")[0].refusals == []
    return lab, folder


@pytest.fixture
def reported(gated: tuple[Lab, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reported:
    """``hwbench report`` there."""
    lab, folder = gated
    monkeypatch.setenv("HWBENCH_HOME", str(lab.home))
    monkeypatch.chdir(tmp_path)
    for name in ("hwbench.duckdb", "published.duckdb"):
        shutil.copyfile(folder / name, tmp_path / name)
    return lambda *arguments: CliRunner().invoke(report, list(arguments))


def page() -> Page:
    return Page(Path("report.html").read_text(encoding="utf-8"))


def test_a_default_report_shows_no_estimate(reported: Reported) -> None:
    done = reported()
    assert done.exit_code == 0, done.output
    text = page().text()
    assert "H100" not in text
    assert REASON not in text
    assert "SIMULATED" not in text
    for form in ("md", "csv", "json"):
        out = reported("--format", form).stdout
        assert "H100" not in out
        assert "h100-sxm" not in out


def test_asked_for_they_are_apart_labelled_and_with_their_interval(reported: Reported) -> None:
    done = reported("--include-simulated")
    assert "SIMULATED: 1 roofline estimate included; nothing was measured" in done.stderr
    found = page()
    assert "H100" not in found.text(simulated=False)
    apart = found.text(simulated=True)
    assert f"SIMULATED: {REASON}" in apart
    assert "(expected " in apart
    assert "never ranked" in apart or "ranked nowhere" in apart
    assert "SIMULATED DATA INCLUDED" in Path("report.html").read_text(encoding="utf-8")
    markdown = reported("--include-simulated", "--format", "md").stdout
    assert markdown.startswith("# SIMULATED DATA INCLUDED")
    assert "ESTIMATED ms" in markdown
    document = json.loads(reported("--include-simulated", "--format", "json").stdout)
    assert [row["is_simulated"] for row in document["estimates"]] == [True]
    assert all("estimate_latency_ms_expected" not in row for row in document["results"])


def test_filters_apply_to_estimates(reported: Reported) -> None:
    for filters, count in (
        (("--hardware", "cuda"), 1), (("--hardware", "cpu"), 0), (("--model", "bert"), 1), (("--precision", "fp32"), 0),
    ):  # fmt: skip
        document = json.loads(reported("--include-simulated", "--format", "json", *filters).stdout)
        assert len(document["estimates"]) == count, filters


def test_their_figure_is_hatched_and_says_so(reported: Reported) -> None:
    reported("--include-simulated", "--figures", "figures")
    svg = Path("figures/estimates.svg").read_text(encoding="utf-8")
    assert "SIMULATED bert on NVIDIA H100" in svg
    assert "<pattern" in svg
    assert not (reported("--figures", "plain"), Path("plain/estimates.svg").exists())[1]


def test_a_roof_is_drawn_over_results_of_a_calibrated_device(reported: Reported) -> None:
    reported("--figures", "figures")
    svg = Path("figures/roofline.svg").read_text(encoding="utf-8")
    assert "0.1 TFLOP/s, 10 GB/s" in svg
    assert "bert-tiny b1" in svg


def test_without_a_calibration_there_is_no_roof_and_it_says_why() -> None:
    found = roofline_figure([], [])
    assert isinstance(found, NotDrawn)
    assert "hwbench roofline" in found.reason
    assert not isinstance(found, Drawn)


def test_a_check_says_why_a_result_cannot_be_compared(reported: Reported) -> None:
    """The result of the test's lab has counts that no bert-tiny has."""
    del reported
    done = CliRunner().invoke(simulate, ["--check", "--json"])
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["comparisons"] == []
    [left] = document["not_compared"]
    assert "is counted otherwise here" in left["reason"]
    assert document["summary"]["median_absolute_error_percent"] is None
    assert "nothing to compare" in done.stderr


def test_of_several_calibrations_the_best_counts() -> None:
    """One that was measured while the machine was busy can only be too low."""
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE rooflines AS SELECT * FROM (VALUES ('busy', 0.02, TIMESTAMP '2026-11-02'), "
            "('quiet', 0.2, TIMESTAMP '2026-11-01')) t(run_id, peak_tflops_fp32, calibrated_at), "
            "(SELECT 'h' AS host_id, 'cpu' AS platform, 'cpu' AS device_id)"
        )
        found = calibrations(SimpleNamespace(connection=connection))  # type: ignore[arg-type]
    assert [row["run_id"] for row in found] == ["quiet"]
