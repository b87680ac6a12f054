"""``hwbench report`` as its users run it: what is on the page, what is kept off it, and what refuses one."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from hwbench_mlflow.cli.report import report
from hwbench_mlflow.errors import Refused, StoreError
from hwbench_mlflow.reports import figures, page
from hwbench_mlflow.summary import Filters
from hwbench_mlflow.warehouse.published import open_published
from hwbench_mlflow.warehouse.summarize import summarize
from tests.commands import ROOT
from tests.gates.conftest import edit
from tests.gates.corpus import HOSTILE
from tests.reports.conftest import FAILURE, SIMULATION
from tests.warehouse.results import Lab

Reported = Callable[..., Result]


class Page(HTMLParser):
    """Text of a page as a browser has it, and whether each piece lies in something that is marked as simulated."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[tuple[str, bool]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[tuple[str, bool]] = []
        self.feed(text)
        self.close()
        assert not self.stack, "tags that were not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            inside = self.stack[-1][1] if self.stack else False
            self.stack.append((tag, inside or dict(attrs).get("data-simulated") == "true"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1][0] == "style":
            return
        self.pieces.append((data, self.stack[-1][1] if self.stack else False))

    def text(self, *, simulated: bool | None = None) -> str:
        return " ".join(text for text, inside in self.pieces if simulated is None or inside is simulated)


def rows(here: Path, table: str, columns: str) -> list[tuple[str, ...]]:
    with duckdb.connect(str(here / "published.duckdb"), read_only=True) as connection:
        return connection.execute(f"SELECT {columns} FROM {table}").fetchall()


def page_of(here: Path) -> Page:
    return Page((here / "report.html").read_text(encoding="utf-8"))


def test_a_page_shows_what_is_real_and_nothing_that_is_simulated_or_refused(here: Path, reported: Reported) -> None:
    done = reported()
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("report.html: 21 real results in ")
    found = page_of(here)
    text = found.text()
    # The count of those that there are is said; nothing else.
    assert text.count("published as simulated") == 1
    assert "SIMULATED" not in text
    assert SIMULATION not in text
    shown = [r for (r,) in rows(here, "real_results", "run_id") if r in text]
    assert len(shown) == 14  # the last of each configuration
    assert not [r for (r,) in rows(here, "simulated_results", "run_id") if r in text]
    refused = {r for (r,) in rows(here, "quarantine", "run_id")}
    assert refused
    after = text[text.index(" refused; their numbers are shown nowhere") :]
    assert all(r in after and r not in text[: -len(after)] for r in refused)
    assert FAILURE in text


def test_every_simulated_mark_is_there_when_simulated_results_are_asked_for(here: Path, reported: Reported) -> None:
    done = reported("--include-simulated")
    assert done.exit_code == 0
    assert "SIMULATED data is included: 6 results" in done.stderr
    found = page_of(here)
    assert found.tags[[t for t, _ in found.tags].index("h1")]
    assert ("title", {}) in found.tags
    assert found.text().split("SIMULATED DATA INCLUDED: hwbench report")[0].strip() == ""
    simulated = {r for (r,) in rows(here, "simulated_results", "run_id")}
    assert len(simulated) == 6
    outside, inside = found.text(simulated=False), found.text(simulated=True)
    assert not [r for r in simulated if r in outside]
    assert SIMULATION not in outside
    assert "SIMULATED: not measured on the hardware named" in inside
    with_reason = [t for t, marked in found.pieces if marked and t.startswith(f"SIMULATED: {SIMULATION}")]
    shown = [r for r in simulated if r in inside]
    assert len(with_reason) == 2 * len(shown) >= 10  # in the row, and in its details
    # And no real result among them.
    assert not [r for (r,) in rows(here, "real_results", "run_id") if r in inside]
    assert any(a.get("id") == "figure-simulated-latency" and a.get("data-simulated") == "true" for _, a in found.tags)


def test_a_page_needs_no_network_and_lets_no_script_run(here: Path, reported: Reported) -> None:
    assert reported("--include-simulated").exit_code == 0
    text = (here / "report.html").read_text(encoding="utf-8")
    found = page_of(here)
    assert "script" not in {tag for tag, _ in found.tags}
    assert not [name for _, attrs in found.tags for name in attrs if name.startswith("on")]
    links = [v for _, attrs in found.tags for n, v in attrs.items() if n in {"src", "href", "xlink:href"} and v]
    assert links
    assert all(link.startswith("#") for link in links), links
    assert "default-src 'none'" in text
    assert not re.search(r"url\((?!#)", text)
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links} <= set(ids)
    assert len(text) < 5_000_000


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_hostile_names_are_shown_as_text(here: Path, reported: Reported, kind: str) -> None:
    assert reported().exit_code == 0
    assert HOSTILE[kind] in [text for text, _ in page_of(here).pieces]
    done = reported("--format", "md")
    assert done.exit_code == 0
    assert "<script" not in done.stdout
    assert "\u202e" not in done.stdout
    header, *lines = [line for line in done.stdout.splitlines() if line.startswith("| ")][:3]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in (header, *lines)} == {12}


def test_percentiles_that_the_samples_do_not_carry_are_absent_with_the_reason(here: Path, reported: Reported) -> None:
    assert reported().exit_code == 0
    shown = 0
    for table in (here / "report.html").read_text(encoding="utf-8").split("<table")[1:]:
        cells = re.findall(r'<span class="absent" title="([^"]+)">—<sup>(\w)</sup></span>', table)
        # For those who cannot point at it, too: on paper, on a touch screen, with a keyboard.
        below = dict(re.findall(r"<li><sup>(\w)</sup> ([^<]+)</li>", table))
        assert {letter for _, letter in cells} == set(below)
        assert all(why.startswith(below[letter]) for why, letter in cells)
        shown += ("too few samples: p90 needs 64, this has 40", "a") in cells
        assert table.count("—<sup>") == len(cells)
    assert shown == 1


def test_noisy_results_are_marked(here: Path, reported: Reported) -> None:
    assert reported().exit_code == 0
    ((reasons,),) = rows(here, "real_results WHERE NOT stable", "noise_reasons")
    marks = [text for text, _ in page_of(here).pieces if text.startswith("noisy: ")]
    assert marks == [f"noisy: {'; '.join(reasons)}"]  # the details; the row itself says "noisy"
    assert [text for text, _ in page_of(here).pieces].count("noisy") == 1


def test_filters_keep_the_rest_out(here: Path, reported: Reported) -> None:
    done = reported("--hardware", "openvino", "--format", "json")
    document = json.loads(done.stdout)
    assert {r["platform"] for r in document["results"]} == {"openvino"}
    assert (document["filters"], document["includes_simulated"]) == ("hardware openvino", False)
    assert json.loads(reported("--model", "no such", "--format", "json").stdout)["results"] == []
    assert "No real result fits the filters" in (reported("--model", "x"), page_of(here))[1].text()
    assert json.loads(reported("--since", "2999-01-01", "--format", "json").stdout)["results"] == []


def test_json_and_csv_hold_every_result_and_only_what_was_asked_for(here: Path, reported: Reported) -> None:
    document = json.loads(reported("--format", "json").stdout)
    assert document["schema_version"] == 1
    real = {r for (r,) in rows(here, "real_results", "run_id")}
    assert {r["run_id"] for r in document["results"]} == real
    both = json.loads(reported("--format", "json", "--include-simulated").stdout)
    assert sum(r["is_simulated"] for r in both["results"]) == 6
    assert both["title"].startswith("SIMULATED")
    lines = list(csv.DictReader(io.StringIO(reported("--format", "csv").stdout)))
    assert {line["run_id"] for line in lines} == real
    assert {line["is_simulated"] for line in lines} == {"False"}
    assert reported("-o", "x.csv").exit_code == 0
    assert (here / "x.csv").read_text().startswith("run_id,")


def test_a_trend_marks_noisy_points_apart_from_stable_ones(here: Path) -> None:
    with open_published(here / "published.duckdb") as found:
        summary = summarize(found, Filters(), simulated=False, stale=None)
    [trend, *_] = summary.trends
    points = [(at, median, low, high, n % 2 == 0) for n, (at, median, low, high, _) in enumerate(trend.points)]
    assert {p[4] for p in trend.points} == {True}
    drawn = [figures.trend_figure([dataclasses.replace(trend, points=given)]) for given in (trend.points, points)]
    assert all(isinstance(one, figures.Drawn) for one in drawn)
    noisy = len(points) // 2
    for one, hollow in zip(drawn, (0, noisy), strict=True):
        assert isinstance(one, figures.Drawn)
        marks = {
            line.get_fillstyle(): int(np.size(line.get_xdata()))
            for line in one.figure.axes[0].lines
            if line.get_marker() == "o"
        }
        assert marks == {"full": len(points) - hollow, "none": hollow}
        assert (f"{noisy} noisy" in one.description) is bool(hollow)
        assert "hollow: a noisy result" in one.figure.axes[0].get_xlabel()


def _ranked(here: Path, *changes: dict[str, object]) -> list[figures.Drawn | figures.NotDrawn]:
    """Every figure of results that are all like one of the published ones, but for these changes."""
    with open_published(here / "published.duckdb") as found:
        summary = summarize(found, Filters(), simulated=False, stale=None)
    row = next(r for r in summary.real.latest if r["platform"] == "openvino")
    results = dataclasses.replace(summary.real, latest=[{**row, **change} for change in changes])
    return figures.draw(dataclasses.replace(summary, real=results))


def test_points_of_noisy_results_are_hollow_in_every_figure_of_time(here: Path) -> None:
    drawn = _ranked(here, {"batch_size": 1, "stable": True}, {"batch_size": 8, "stable": False})
    named = {one.name: one.figure for one in drawn if isinstance(one, figures.Drawn)}
    for name, markers in (("latency", "o"), ("throughput", "o"), ("percentiles", "o^sD")):
        lines = [line for line in named[name].axes[0].lines if str(line.get_marker()) in list(markers)]
        fills = [line.get_fillstyle() for line in lines if np.size(line.get_xdata())]  # a legend's own has no point
        assert (fills.count("full"), fills.count("none")) == (len(markers), len(markers)), name
        said = named[name].axes[0].get_xlabel() + named[name].get_supxlabel()
        assert "hollow: " in said


@pytest.mark.parametrize(
    ("name", "column"),
    [("memory", "memory_peak_mb"), ("energy", "energy_j_per_item"), ("server", "server_rate_per_s"),
     ("multistream", "latency_ms_p99")],
)  # fmt: skip
def test_bars_of_noisy_results_are_hollow_and_said_to_be(here: Path, name: str, column: str) -> None:
    scenario = name if name in {"server", "multistream"} else "latency"
    like = {"scenario": scenario, column: 5.0, "latency_bound_ms": 20.0, "latency_percentile": 99, "query_size": 8}
    drawn = _ranked(here, {**like, "batch_size": 1, "stable": True}, {**like, "batch_size": 8, "stable": False})
    [one] = [one for one in drawn if isinstance(one, figures.Drawn) and one.name == name]
    bars = {bar.get_y() + bar.get_height() / 2: bar.get_facecolor()[3] for bar in one.figure.axes[0].patches}
    assert sorted(bars.values()) == [0.0, 1.0]
    names = [label.get_text() for label in one.figure.axes[0].get_yticklabels()]
    assert "batch 8" in names[round(next(y for y, alpha in bars.items() if not alpha))]
    assert "hollow: a noisy result" in one.figure.get_supxlabel()
    assert next(line for line in one.description.split("; ") if line.endswith("(noisy)")).count("batch 8") == 1


def test_percentiles_far_apart_get_a_logarithmic_axis(here: Path) -> None:
    for last, scale in ((12.0, "linear"), (900.0, "log")):
        [one] = [f for f in _ranked(here, {"latency_ms_p99": last}) if getattr(f, "name", None) == "percentiles"]
        assert isinstance(one, figures.Drawn)
        assert one.figure.axes[0].get_xscale() == scale


def _luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance of ``#rrggbb``."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_and_figures_have_the_contrast_that_wcag_asks_for() -> None:
    css = (Path(page.__file__).parent / "templates" / "style.css").read_text()
    light, dark = ({**dict(re.findall(r"--([a-z-]+): (#\w{6})", part))} for part in css.split("@media", 2)[:2])
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    for colours in (light, {**light, **dark}):
        for text in ("ink", "soft", "link", "warn", "bad"):
            for behind in ("page", "card", "warn-page"):
                assert _contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
        for series in figures.SERIES:
            assert _contrast(series, colours["page"]) >= 3, series


def test_a_figure_does_not_call_darker_what_a_dark_page_shows_lighter(here: Path, reported: Reported) -> None:
    assert reported().exit_code == 0
    text = (here / "report.html").read_text(encoding="utf-8")
    assert "bluer: nearer to the lowest of its row" in text
    assert "darker" not in text


def test_a_device_and_a_link_stay_what_they_are(here: Path, reported: Reported) -> None:
    (here / "nowhere").symlink_to("/dev/null")
    (here / "pages").mkdir()
    (here / "report.html").symlink_to("pages/report.html")
    assert reported("-o", "nowhere", "--format", "md").exit_code == 0
    assert reported().exit_code == 0
    assert (here / "nowhere").is_char_device()
    assert (here / "report.html").is_symlink()
    assert (here / "pages" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (("--format", "json"), {}, "No space left on device: standard output"),
        (("--format", "md", "--model", "no such"), {}, "No space left on device: standard output"),
        (("--format", "md"), {"PYTHONIOENCODING": "ascii"}, "'\\u2014' cannot be written in ascii"),
    ],
)
def test_a_standard_output_that_takes_nothing_is_one_line(
    here: Path, arguments: tuple[str, ...], environment: dict[str, str], reason: str
) -> None:
    with open("/dev/null" if environment else "/dev/full", "w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "hwbench_mlflow", "report", *arguments], cwd=here, stdout=out,
            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("report: ")]
    assert line.startswith(f"hwbench: {reason}")


def test_figures_are_written_as_png_and_svg(here: Path, reported: Reported) -> None:
    done = reported("--figures", "figures", "--include-simulated")
    assert done.exit_code == 0
    names = {path.name for path in (here / "figures").iterdir()}
    assert {"latency.png", "latency.svg", "heatmap.png", "trends.svg", "simulated-latency.svg"} <= names
    assert (here / "figures" / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert "SIMULATED" in (here / "figures" / "simulated-latency.svg").read_text(encoding="utf-8")
    assert "SIMULATED" not in (here / "figures" / "latency.svg").read_text(encoding="utf-8")
    assert "Throughput by batch size: not drawn" in done.stderr


def test_the_same_publication_gives_the_same_page(here: Path, reported: Reported) -> None:
    assert reported().exit_code == 0
    once = (here / "report.html").read_bytes()
    assert reported().exit_code == 0
    assert (here / "report.html").read_bytes() == once


def test_a_warehouse_that_was_synced_since_makes_it_stale(here: Path, reported: Reported) -> None:
    edit(here / "hwbench.duckdb", "UPDATE mlflow.sync_log SET finished_at = finished_at + INTERVAL 1 HOUR")
    done = reported()
    assert done.exit_code == 0
    assert "hwbench.duckdb was synced since" in done.stderr
    assert "was synced since" in page_of(here).text()


def test_without_the_warehouse_it_is_not_known_to_be_current(here: Path, reported: Reported) -> None:
    (here / "hwbench.duckdb").unlink()
    done = reported()
    assert done.exit_code == 0
    assert "not known to be current" in done.stderr
    assert "cannot be compared with the warehouse" in page_of(here).text()


def test_before_any_publication_it_says_what_to_run(here: Path, reported: Reported) -> None:
    (here / "published.duckdb").unlink()
    done = reported()
    assert isinstance(done.exception, StoreError)
    assert "run `hwbench sync`, then `hwbench gate`" in str(done.exception)
    assert not (here / "report.html").exists()


def test_a_published_file_that_was_edited_is_refused_and_the_old_page_stays(here: Path, reported: Reported) -> None:
    (here / "report.html").write_text("old")
    edit(here / "published.duckdb", "UPDATE real_results SET latency_ms_p50 = latency_ms_p50 / 2")
    done = reported()
    assert isinstance(done.exception, Refused)
    assert (here / "report.html").read_text() == "old"


def test_a_warehouse_is_no_published_file(here: Path, reported: Reported) -> None:
    done = reported("--published", "hwbench.duckdb", "--db", "other.duckdb")
    assert isinstance(done.exception, StoreError)
    assert "is a warehouse" in str(done.exception)
    assert here.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("-o", "published.duckdb", "--format", "html"), ("-o", "hwbench.duckdb", "--format", "csv"), ("-o", "x.pdf"),
        ("--log", "--format", "md"), ("--format", "xml"), ("--since", "yesterday"),
    ],
)  # fmt: skip
def test_wrong_usage_exits_2_and_writes_nothing(here: Path, reported: Reported, arguments: tuple[str, ...]) -> None:
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    assert reported(*arguments).exit_code == 2
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_a_place_that_cannot_be_written_is_one_line(here: Path, reported: Reported) -> None:
    (here / "file").write_text("")
    done = reported("-o", "file/report.html")
    assert isinstance(done.exception, StoreError)
    assert "cannot write file/report.html" in str(done.exception)


def test_the_report_is_logged_to_mlflow_on_request_and_is_no_result(
    here: Path, reported: Reported, made: tuple[Lab, Path], tmp_path: Path
) -> None:
    store = tmp_path / "copy.db"
    shutil.copyfile(made[0].path, store)
    done = reported("--log", "--tracking-uri", f"sqlite:///{store}")
    assert done.exit_code == 0, done.output + repr(done.exception)
    run_id = done.stdout.split()[-1]
    client = MlflowClient(f"sqlite:///{store}")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {}
    assert "hwbench.role" not in run.data.tags
    assert [f.path for f in client.list_artifacts(run_id)] == ["report.html"]
    assert here.exists()


def test_help_shows_an_example() -> None:
    assert "hwbench report --format md --model bert" in CliRunner().invoke(report, ["--help"]).stdout


def test_the_title_says_so_only_where_simulated_results_are_shown() -> None:
    assert page.TITLE != page.SIMULATED_TITLE
    assert "SIMULATED" in page.SIMULATED_TITLE
