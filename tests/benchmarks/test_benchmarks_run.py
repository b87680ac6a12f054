"""Each benchmark still runs, and its table is complete. What the numbers are is never asserted here."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.side_by_side import HEADER, Target, figure_row, in_turns, ratio_row, table
from tests.conftest import REQUIRED

ROOT = Path(__file__).resolve().parents[2]

ROWS = {
    "fidelity": (
        "bert-tiny, torch: p50 / torch.utils.benchmark",
        "bert-tiny, OpenVINO: p50 / benchmark_app",
        "bert-tiny, OpenVINO: p50 / benchmark_app's loop",
        "bert-tiny, OpenVINO: p50 / that loop from outside",
    ),
    "overhead": (
        "time added inside a sample, us",
        "time added to a turn of the loop, us",
        "sampler thread, % of one core",
        "whole parent in a window, % of one core",
    ),
    "load": (
        "time added inside a query, us",
        "time added to a turn of the open loop, us",
        "a query's start after its schedule, median, us",
        "a query's start after its schedule, p99, us",
    ),
    "startup": (
        "python -m hwbench_mlflow --help / import click",
        "to the first inference, bert-tiny",
        "to the first inference, bert-tiny, first run of a store",
    ),
}


def printed(name: str) -> list[str]:
    """The lines that a benchmark prints at its smallest size."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}", "--smallest"], cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_prints_a_complete_table(name: str) -> None:
    header, rule, *lines = printed(name)
    assert tuple(re.split(r"  +", header)) == HEADER
    assert set(rule) == {"-", " "}
    cells = {line.split("  ")[0]: re.split(r"  +", line) for line in lines}
    for what in ROWS[name]:
        assert len(cells.pop(what)) == len(HEADER)
    assert all("hwbench --help" in extra for extra in cells)  # the installed command, where there is one


@pytest.mark.slow
def test_the_batch_s_tables_are_complete() -> None:
    found = [re.fullmatch(r"\| (.+) \| (?:\d+\.\d+%?)? ?\|", line) for line in printed("bench_batch")]
    assert [one[1] for one in found if one] == [
        "one device, 1 cell, profile smoke",
        "whole batch, s",
        "its measurements and model loads, s",
        "its own cost, s",
        "its own cost, share of the measurements (at most 3%)",
        "making runs and sending results while workers start, s",
        "two devices, 2 cells, profile smoke",
        "whole batch, s",
        "cells of cpu, s",
        "cells of openvino, s",
        "whole batch, the longer of them = 1",
        "whole batch, all cells one after the other = 1",
    ]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None and "fleet" not in REQUIRED, reason="ray is not installed")
def test_the_fleet_s_table_is_complete() -> None:
    found = [re.fullmatch(r"\| (.+) \| (?:-?\d+\.\d+)? ?\|", line) for line in printed("bench_fleet")]
    assert [one[1] for one in found if one] == [
        "4 cells on 1 nodes of this machine",
        "whole batch, s",
        "scheduling overhead a cell, ms: mean (at most 50)",
        "the same, median",
        "the same, 95% are below",
        "signing, drawing and delivering a cell on its node, s, median",
        "requests of the server a cell, all of the batch's (at most 10)",
    ]


def test_who_goes_first_changes_from_pair_to_pair() -> None:
    calls: list[str] = []

    def called(name: str, value: float) -> float:
        calls.append(name)
        return value

    pairs = in_turns(lambda: called("ours", 1.0), lambda: called("peer", 2.0), 3)
    assert calls == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert pairs == [(1.0, 2.0)] * 3


@pytest.mark.parametrize(
    ("values", "met"),
    [([1.0] * 6, "yes"), ([1.5] * 6, "no"), ([0.5] * 6, "no"), ([0.9, 1.0, 1.0, 1.0, 1.0, 1.1], "cannot tell")],
)
def test_a_target_is_met_only_where_the_whole_interval_is_inside(values: list[float], met: str) -> None:
    assert figure_row("x", values, Target(low=0.98, high=1.02), "{:.2f}").met == met


def test_too_few_pairs_never_say_what_is_met() -> None:
    row = ratio_row("x", [(1.0, 1.0)] * 5, Target(2.0), "s", 1.0)
    assert (row.interval, row.met) == ("too few", "cannot tell")
    assert "too few" in table([row])


@pytest.mark.slow
def test_the_decisions_are_timed_over_what_is_published_and_a_refusal_is_no_time(tmp_path: Path) -> None:
    def part(name: str) -> subprocess.CompletedProcess[str]:
        words = ("--part", name, "--folder", str(tmp_path), "--rows", "400")
        return subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.bench_decide", *words], cwd=ROOT, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    assert part("build").returncode == 0
    for name in ("hwbench:coverage", "page:index"):
        done = part(name)
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads(done.stdout.splitlines()[-1])["s"] > 0
    (tmp_path / "published.duckdb").write_bytes(b"not what the gate wrote")
    assert part("hwbench:coverage").returncode != 0
