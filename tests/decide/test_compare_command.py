"""``hwbench compare`` from a published file to an exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner, Result

from hwbench_mlflow.cli.main import root
from tests.decide.made import published, rows_of, run_id

Ask = Callable[..., Result]


def drawn(seed: int, n: int, shift: float = 1.0) -> list[float]:
    return [float(v) for v in shift * 10 * np.exp(np.random.default_rng(seed).normal(0, 0.004, n))]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """``hwbench compare`` in the test's folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(root, ["compare", *arguments])


def document(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases of two models; the second one made ``gpt2`` slower, and is tagged with something hostile."""
    rows = [
        *rows_of(
            drawn(1, 10),
            0,
            model_name="bert",
            tags={"release": "1.0"},
            git_commit="a" * 40,
            experiment="nightly",
            packages={"torch": "2.13.0"},
        ),
        *rows_of(
            drawn(2, 10),
            10,
            model_name="bert",
            tags={"release": "<b>|1.1"},
            git_commit="b" * 40,
            packages={"torch": "2.14.0"},
        ),
        *rows_of(drawn(3, 10), 20, model_name="gpt|2", tags={"release": "1.0"}, git_commit="a" * 40),
        *rows_of(drawn(4, 10, 1.2), 30, model_name="gpt|2", tags={"release": "<b>|1.1"}, git_commit="b" * 40),
        *rows_of(drawn(5, 1, 1.5), 40, model_name="bert", threads=1),
        *rows_of(drawn(6, 8), 41, model_name="bert", profile="smoke", ranked=False, tags={"release": "1.0"}),
    ]
    return published(tmp_path_factory.mktemp("compare"), rows)


def test_what_got_slower_is_named_and_the_rest_is_the_same(ask: Ask, made: Path) -> None:
    found = document(ask("tag:release=1.0", "tag:release=<b>|1.1", "--json", "--published", str(made)))
    verdicts = {c["configuration"]["model_name"]: c["verdict"] for c in found["comparisons"]}  # type: ignore[attr-defined]
    assert verdicts == {"bert": "SAME", "gpt|2": "SLOWER"}
    assert found["counts"] == {"FASTER": 0, "SLOWER": 1, "SAME": 1, "AMBIGUOUS": 0}
    slower = next(c for c in found["comparisons"] if c["verdict"] == "SLOWER")  # type: ignore[attr-defined]
    assert slower["ratio_low"] < 1.2 < slower["ratio_high"]
    assert slower["b"]["runs"] == 10
    assert run_id(35) in slower["b"]["run_ids"]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("git:aaaaaaaaaa", "git:bbbbbbbbbb"),
        ("model:bert,gpt|2 ..2026-10-01T09:30", "2026-10-01T09:30..2026-10-01T19:30"),
        ("experiment:nightly", "model:bert git:bbbbbbbb"),
        ("package:torch=2.13.0 git:aaaaaaaa", "package:torch=2.14.0"),
    ],
)
def test_sides_are_chosen_by_revision_date_and_experiment(ask: Ask, made: Path, a: str, b: str) -> None:
    found = document(ask(a, b, "--json", "--published", str(made)))
    bert = [c for c in found["comparisons"] if c["configuration"]["model_name"] == "bert"]  # type: ignore[attr-defined]
    assert [c["verdict"] for c in bert] == ["SAME"]


def test_fewer_threads_on_purpose_are_compared_and_else_not(ask: Ask, made: Path) -> None:
    one = run_id(40)
    apart = ask("model:bert git:aaaaaaaa", one, "--published", str(made))
    assert apart.exit_code == 1
    assert str(apart.exception) if apart.exception else True
    found = document(ask("model:bert git:aaaaaaaa", one, "--vary", "threads", "--json", "--published", str(made)))
    assert [c["verdict"] for c in found["comparisons"]] == ["SLOWER"]  # type: ignore[attr-defined]
    by_word = document(ask("model:bert threads:2", "model:bert threads:1", "--json", "--published", str(made)))
    assert by_word["varied"] == ["threads"]


def test_a_regression_exits_with_3_and_none_with_0(ask: Ask, made: Path) -> None:
    sides = ("tag:release=1.0", "tag:release=<b>|1.1", "--published", str(made))
    failed = ask(*sides, "--fail-on-regression", "5%")
    assert failed.exit_code == 1  # click's runner sees the exception; its exit code is main's
    assert failed.exception is not None
    assert failed.exception.exit_code == 3  # type: ignore[attr-defined]
    assert "1 found, 0 not excluded: FAILED" in failed.stdout
    assert ask(*sides, "--fail-on-regression", "50%").exit_code == 0


def test_markdown_shows_names_as_they_are_and_no_html_of_theirs(ask: Ask, made: Path) -> None:
    text = ask("tag:release=1.0", "tag:release=<b>|1.1", "--format", "markdown", "--published", str(made)).stdout
    assert text.startswith("<!-- hwbench compare -->\n### hwbench: 1 SLOWER, 1 SAME\n")
    assert "gpt\\|2" in text
    assert "<b>" not in text
    rows = [line for line in text.splitlines() if line.startswith("| **")]
    assert rows[0].startswith("| **SLOWER** |")
    assert all(line.replace("\\|", "").count("|") == 8 for line in rows)


def refused(result: Result) -> str:
    assert result.exception is not None
    assert result.exit_code != 0
    said = str(result.exception) if not isinstance(result.exception, SystemExit) else result.stderr
    assert "\n" not in said.strip() or isinstance(result.exception, SystemExit)
    return said


def test_bad_input_is_one_line(ask: Ask, made: Path, tmp_path: Path) -> None:
    at = ("--published", str(made))
    assert "nothing is published" in refused(ask("git:aaaaaaaa", "git:bbbbbbbb"))
    absent = refused(ask("model:bert", "model:absent", *at))
    assert "side B (model:absent) has no verified result" in absent
    assert "--include-unranked takes runs of the profile smoke too" in absent
    assert "--include-unranked" not in refused(ask("model:bert", "model:absent", "--include-unranked", *at))
    assert "on both sides" in refused(ask("model:bert", "git:aaaaaaaa", *at))
    assert "is no metric" in refused(ask("git:aaaaaaaa", "git:bbbbbbbb", "--metric", "colour", *at))
    assert "git knows no revision" in refused(ask("git:no-such-branch", "git:bbbbbbbb", *at))
    assert "no share" in refused(ask("git:aaaaaaaa", "git:bbbbbbbb", "--margin", "much", *at))
    assert "two sides" in refused(ask("git:aaaaaaaa", *at))
    assert "differ in threads 2 and 1. To compare them all the same: --vary threads" in refused(
        ask(run_id(0), run_id(40), *at)
    )


def test_units_that_differ_are_never_divided(ask: Ask, tmp_path: Path) -> None:
    rows = [
        *rows_of(drawn(1, 5), 0),
        *rows_of([10.0] * 5, 5, scenario="offline", latency_ms_p50=None, throughput_items_per_s=100.0),
    ]
    published(tmp_path, [{**r, "latency_ms_p50": None} if r.get("scenario") == "offline" else r for r in rows])
    found = document(ask("scenario:latency", "scenario:offline", "--json"))
    (only,) = found["comparisons"]  # type: ignore[misc]
    assert only["verdict"] == "AMBIGUOUS"
    assert only["reasons"] == ["other metric: latency_ms_p50 and throughput_items_per_s"]


UNLIKE = {
    "effective_precision": ("bf16", "precision"), "weights": ("pretrained", "weights"),
    "device_driver": ("560", "driver"), "host_id": ("elsewhere", "host"), "key_id": ("another", "signing key"),
    "backend": ("other:Backend", "backend"),
    "device_uuid": ("GPU-2", "device"),
}  # fmt: skip


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for each column that the two revisions do not share."""
    rows: list[dict[str, object]] = []
    for column, (value, _) in UNLIKE.items():
        rows += rows_of(drawn(1, 4), len(rows), model_name=column, git_commit="a" * 40)
        rows += rows_of(drawn(2, 4), len(rows), model_name=column, git_commit="b" * 40, **{column: value})
    return published(tmp_path_factory.mktemp("unlike"), rows)


def test_what_is_not_alike_is_said(ask: Ask, unlike: Path) -> None:
    found = document(ask("git:aaaaaaa", "git:bbbbbbb", "--json", "--published", str(unlike)))
    said = {c["configuration"]["model_name"]: (c["verdict"], *c["reasons"]) for c in found["comparisons"]}  # type: ignore[attr-defined]
    assert said.keys() == UNLIKE.keys()
    for column, (value, called) in UNLIKE.items():
        verdict, *reasons = said[column]
        assert verdict == "AMBIGUOUS"
        assert reasons[0].startswith(f"other {called}: ")
        assert reasons[0].endswith(value)


def test_like_is_paired_with_like_and_what_is_left_is_counted(ask: Ask, tmp_path: Path) -> None:
    rows = [
        *rows_of(drawn(1, 5), 0, git_commit="a" * 40, device_driver="1"),
        *rows_of(drawn(2, 3), 5, git_commit="a" * 40, device_driver="2"),
        *rows_of(drawn(3, 5), 8, git_commit="b" * 40, device_driver="1"),
    ]
    published(tmp_path, rows)
    found = document(ask("git:aaaaaaa", "git:bbbbbbb", "--json"))
    assert [(c["a"]["runs"], c["b"]["runs"]) for c in found["comparisons"]] == [(5, 5)]  # type: ignore[attr-defined]
    assert "3 runs of A have no counterpart" in found["left_out"][0]  # type: ignore[index]


def test_throttled_runs_are_ambiguous(ask: Ask, tmp_path: Path) -> None:
    rows = [*rows_of(drawn(1, 5), 0, git_commit="a" * 40), *rows_of(drawn(2, 5), 5, git_commit="b" * 40)]
    rows[7] |= {"noise_reasons": ["throttled: power"], "stable": False}
    published(tmp_path, [{"noise_reasons": [], "stable": True, **row} for row in rows])
    (only,) = document(ask("git:aaaaaaa", "git:bbbbbbb", "--json"))["comparisons"]  # type: ignore[misc]
    assert only["reasons"] == ["1 of 5 runs of B were throttled"]


def test_single_runs_fall_back_on_samples_and_are_never_decided_by_them(ask: Ask, tmp_path: Path) -> None:
    rows = rows_of([10.0, 20.0])
    published(tmp_path, rows, samples={run_id(0): drawn(1, 60), run_id(1): drawn(2, 60, 2.0)})
    (only,) = document(ask(run_id(0), run_id(1), "--json"))["comparisons"]  # type: ignore[misc]
    assert (only["verdict"], only["interval"]) == ("AMBIGUOUS", "within these runs only")
    assert only["ratio_low"] < 2 < only["ratio_high"]


def test_single_runs_with_a_history_are_decided_by_its_spread(ask: Ask, tmp_path: Path) -> None:
    published(tmp_path, rows_of([*drawn(1, 9), 12.0]))
    (only,) = document(ask(run_id(0), run_id(9), "--json"))["comparisons"]  # type: ignore[misc]
    assert only["verdict"] == "SLOWER"
    assert only["interval"] == "t, spread of 10 runs of its history"


def test_forged_rows_in_the_warehouse_change_no_answer(ask: Ask, tmp_path: Path) -> None:
    """Rows that did not pass the gate are in the warehouse, in quarantine and as simulated results; none is counted."""
    rows = [*rows_of(drawn(1, 6), 0, git_commit="a" * 40), *rows_of(drawn(2, 6), 6, git_commit="b" * 40)]
    honest = tmp_path / "honest"
    honest.mkdir()
    path = published(honest, rows)
    forged = rows_of([1.0] * 6, 20, git_commit="b" * 40)
    kept_out = [(row["run_id"], "verdict", "unverified") for row in forged]
    simulated = rows_of(
        [0.1] * 3, 30, git_commit="b" * 40, verdict="simulated", is_simulated=True, simulation_reason="an estimate"
    )
    with_forged = published(tmp_path, [*rows, *forged, *simulated], quarantine=kept_out)
    answers = [ask("git:aaaaaaa", "git:bbbbbbb", "--json", "--published", str(p)) for p in (path, with_forged)]
    first, second = (document(answer) for answer in answers)
    assert first["comparisons"] == second["comparisons"]
    with duckdb.connect(str(tmp_path / "hwbench.duckdb")) as connection:
        connection.execute("UPDATE performance_results SET latency_ms_p50 = latency_ms_p50 * 3")
    assert document(ask("git:aaaaaaa", "git:bbbbbbb", "--json"))["comparisons"] == first["comparisons"]
    with duckdb.connect(str(with_forged)) as connection:
        connection.execute("UPDATE real_results SET latency_ms_p50 = 1")
    assert "was edited" in refused(ask("git:aaaaaaa", "git:bbbbbbb", "--json"))


def test_aa_says_how_often_it_would_be_wrong(ask: Ask, made: Path, tmp_path: Path) -> None:
    found = document(ask("--aa", "git:aaaaaaaa,bbbbbbbb", "--json", "--published", str(made)))
    assert found["configurations"] == 2
    assert found["neighbours"]["comparisons"] == 4  # type: ignore[index]
    assert found["random_splits"]["comparisons"] == 400  # type: ignore[index]
    text = ask("--aa", "--published", str(made))
    assert "false alarms in" in text.stdout
    published(tmp_path, rows_of(drawn(1, 7)))
    assert "no configuration has 8 verified runs" in refused(ask("--aa"))


def test_the_table_is_read_at_a_glance(ask: Ask, made: Path) -> None:
    text = ask("tag:release=1.0", "tag:release=<b>|1.1", "--published", str(made)).stdout
    assert "[gpt|2 on Test CPU (cpu): batch 1, 128 tokens, fp32, 2 threads, profile " in text
    assert text.splitlines()[-1] == "1 SLOWER, 1 SAME"
