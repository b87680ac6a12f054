"""Rows that were put into the warehouse by hand change none of the four answers, through the real gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hwbench_mlflow.cli.main import root
from tests.gates.conftest import edit
from tests.warehouse.results import Lab

FORGED = """
    INSERT INTO {table} SELECT * REPLACE (md5(run_id) AS run_id{more}) FROM {table}
    WHERE run_id = (SELECT min(run_id) FROM verified_results)"""


def answers() -> dict[str, Any]:
    """What the commands say, without when and by which gate it was published."""
    asked = {
        "compare": ["compare", "--aa"],
        "regressions": ["regressions"],
        "recommend": ["recommend", "--model", "bert-tiny"],
        "coverage": ["coverage"],
    }
    said = {}
    for name, words in asked.items():
        done = CliRunner().invoke(root, [*words, "--json"])
        found = json.loads(done.stdout) if done.stdout else {}
        said[name] = ({k: v for k, v in found.items() if k not in {"gate_id", "stale"}}, str(done.exception))
    return said


@pytest.mark.slow
def test_forged_rows_change_no_answer(
    lab: Lab,
    db: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWBENCH_HOME", str(lab.home))
    gated = CliRunner().invoke(root, ["gate"])
    assert gated.exit_code == 0, gated.output
    before = answers()
    assert before["recommend"][0]["ranking"]
    # Its own digest: a row with the digests of another is a replay, and both are kept out until one is deleted.
    more = (
        ", md5('forged') AS result_id, sha256('forged') AS result_sha256, latency_ms_p50 / 100 AS latency_ms_p50, "
        "1e6 AS throughput_items_per_s"
    )
    for table, replaced in (("performance_results", more), ("benchmark_runs", ""), ("latency_samples", "")):
        edit(db, FORGED.format(table=table, more=replaced))
    edit(db, "INSERT INTO verdict_findings SELECT md5('x'), 0, 'rule', 'simulated', 'reason'")
    again = CliRunner().invoke(root, ["gate"])
    assert "quarantined" in again.output
    assert answers() == before
