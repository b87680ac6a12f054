"""When a result is replicated, and the forgeries that never make it so."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

from hwbench_mlflow.cli.main import root
from hwbench_mlflow.decide.replicating import APART, SAME, SOUND, objections
from hwbench_mlflow.keystore import load_keyring, signing_key, trust
from hwbench_mlflow.model import BenchmarkResult, SampleSet
from hwbench_mlflow.warehouse import database
from hwbench_mlflow.warehouse.published import open_published
from hwbench_mlflow.warehouse.readers.sqlite import SqliteReader
from hwbench_mlflow.warehouse.star import Star
from hwbench_mlflow.warehouse.sync import sync
from tests.decide.made import published, rows_of, warehouse
from tests.gates.conftest import emulated
from tests.honest import resealed
from tests.warehouse.results import make_lab

replace = dataclasses.replace
OTHER = {"host_id": "other", "key_id": "f" * 64, "boot_id": "99999999-2222-3333-4444-555555555555"}

CHANGES: dict[str, tuple[dict[str, Any], str | None]] = {
    "another machine, the same": ({}, None),
    "1.9% slower": ({"latency_ms_p50": 10.19}, None),
    "1.9% faster": ({"latency_ms_p50": 9.82}, None),
    "3% slower": ({"latency_ms_p50": 10.3}, "differ by 3.0%"),
    "3% faster": ({"latency_ms_p50": 9.7}, "differ by 3.1%"),
    "the same host with another key": ({"host_id": "test"}, "host_id is the same"),
    "another host with the same key": ({"key_id": "SAME"}, "key_id is the same"),
    "another machine id on the same kernel": ({"boot_id": "SAME"}, "boot_id is the same"),
    "nobody knows which boot": ({"boot_id": None}, "boot_id is not known"),
    "the same card in another box": ({"device_uuid": "GPU-1"}, "the very same device"),
    "another product": ({"device_name": "Other CPU"}, "device_name differs"),
    "another model": ({"model_name": "bert-large"}, "model_id differs"),
    "other weights": ({"weights_sha256": "2" * 64}, "weights_sha256 differs"),
    "another precision in effect": ({"effective_precision": "bf16"}, "effective_precision differs"),
    "another batch": ({"batch_size": 2}, "batch_size differs"),
    "another length": ({"sequence_length": 64}, "sequence_length differs"),
    "other threads": ({"threads": 1}, "threads differs"),
    "another backend": ({"backend": "my.own:Backend"}, "backend differs"),
    "noisy": ({"stable": False}, "it is noisy"),
    "a smoke test": ({"ranked": False}, "smoke test"),
    "simulated": (
        {"verdict": "simulated", "is_simulated": True, "simulation_reason": "made up"},
        "not verified: simulated",
    ),
    "unverified": ({"verdict": "unverified"}, "not verified: unverified"),
    "a median that is known to 5%": ({"width": 0.05}, "known to 5.0% only"),
    "no interval": ({"latency_ms_p50_ci95_low": None}, "has no interval"),
    "another machine and a tag that says so of a 3% difference": (
        {"latency_ms_p50": 10.3, "tags": {"hwbench.replicates": "x", "trust_level": "replicated"}},
        "differ by 3.0%",
    ),
}


def pair(change: dict[str, Any]) -> list[dict[str, Any]]:
    """A result and one that is to confirm it, as rows. Both are of a GPU where the change names its UUID."""
    one, other = (dict(row) for row in rows_of([10.0, 10.0]))
    other |= OTHER | change
    if "device_uuid" in change:
        one["device_uuid"] = change["device_uuid"]
    for name, value in list(other.items()):
        if value == "SAME":
            del other[name]
    width = other.pop("width", 0.01)
    for row, known in ((one, 0.01), (other, width)):
        middle = row["latency_ms_p50"]
        row.setdefault("latency_ms_p50_ci95_low", middle * (1 - known))
        row.setdefault("latency_ms_p50_ci95_high", middle * (1 + known))
    return [one, other]


def levels(path: Path) -> list[str]:
    with open_published(path) as found:
        return [row[0] for row in found.connection.execute("SELECT trust_level FROM real_results").fetchall()]


@pytest.mark.parametrize("case", CHANGES)
def test_only_another_machine_that_agrees_confirms(case: str, tmp_path: Path) -> None:
    change, objection = CHANGES[case]
    rows = pair(change)
    kept_out = [(rows[1]["run_id"], "verdict", "it is not verified")] if "unverified" in change.values() else []
    path = published(tmp_path, rows, quarantine=kept_out)
    found = levels(path)
    assert set(found) == ({"replicated"} if objection is None else {"verified"}), case
    assert len(found) >= 1
    with duckdb.connect(str(tmp_path / "hwbench.duckdb"), read_only=True) as connection:
        names = (*SAME, *APART, *SOUND)
        rows = connection.execute(f"SELECT {', '.join(names)} FROM performance_results ORDER BY created_at").fetchall()
    one, other = (dict(zip(names, row, strict=True)) for row in rows)
    said = objections(one, other)
    assert bool(said) == (objection is not None), "SQL and Python must come to the same"
    assert objections(other, one) or not said
    assert objection is None or any(objection in line for line in said), said


def test_who_confirms_whom_is_published_and_a_run_that_was_kept_out_confirms_nobody(tmp_path: Path) -> None:
    rows = pair({"latency_ms_p50": 10.1})
    (tmp_path / "a").mkdir()
    with open_published(published(tmp_path / "a", rows)) as found:
        said = found.connection.execute("SELECT run_id, replicated_by, host_id, ratio FROM replications").fetchall()
    one, other = (row["run_id"] for row in rows)
    ratios = {run: (by, host, ratio) for run, by, host, ratio in said}
    assert ratios.keys() == {one, other}
    assert ratios[one] == (other, "other", pytest.approx(10 / 10.1))
    (tmp_path / "b").mkdir()
    assert levels(published(tmp_path / "b", rows, quarantine=[(other, "rule", "kept out")])) == ["verified"]


def test_a_published_file_whose_level_was_raised_by_hand_is_refused(tmp_path: Path) -> None:
    path = published(tmp_path, pair({"latency_ms_p50": 10.3}))
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE real_results SET trust_level = 'replicated'")
    with pytest.raises(Exception, match="edited after it was published"):
        open_published(path)


def test_a_thousand_runs_of_three_machines_are_each_confirmed_once(tmp_path: Path) -> None:
    rows = []
    for machine in range(3):
        for row in rows_of([10.0] * 100, machine * 100):
            width = {"latency_ms_p50_ci95_low": 9.95, "latency_ms_p50_ci95_high": 10.05}
            rows.append(
                {**row, **width, "host_id": f"h{machine}", "key_id": str(machine) * 64, "boot_id": f"b{machine}"}
            )
    db = warehouse(tmp_path, rows)
    from hwbench_mlflow.warehouse.replication import find_replicated

    with database.writer(db) as connection:
        connection.execute("CREATE TEMP TABLE g_quarantine (run_id VARCHAR)")
        find_replicated(connection)
        assert connection.execute("SELECT count(*), count(DISTINCT run_id) FROM g_replicated").fetchall() == [
            (300, 300)
        ]


Made = tuple[BenchmarkResult, SampleSet]


def elsewhere(result: BenchmarkResult, samples: SampleSet) -> Made:
    """The same product in another machine."""
    boot = "99999999-2222-3333-4444-555555555555"
    host = replace(result.host, host_id="another", hostname="another", boot_id=boot)
    availability = replace(result.availability, boot_id=boot, probe_id="bb" * 16)
    return replace(result, host=host, availability=availability), samples


def slower(result: BenchmarkResult, samples: SampleSet) -> Made:
    """Elsewhere, and everything took 3% longer."""
    result, samples = elsewhere(result, samples)
    one, worker = samples.workers[0], result.workers[0]
    longer = tuple(round(ns * 1.03) for ns in one.samples_ns)
    window = sum(longer) + 2_000
    worker = replace(
        worker, window_ns=window,
        witness=replace(worker.witness, wall_ns=window, process_cpu_ns=round(1.9 * window)),
        parent=replace(worker.parent, window_end_ns=worker.parent.window_begin_ns + window + 1_000_000),
    )  # fmt: skip
    samples = replace(samples, workers=(replace(one, samples_ns=longer),))
    return resealed(replace(result, workers=(worker,)), samples), samples


def fake(result: BenchmarkResult, samples: SampleSet) -> Made:
    """Elsewhere, by software."""
    return emulated(*elsewhere(result, samples))


@pytest.mark.parametrize(
    ("change", "other_key", "level"),
    [
        (elsewhere, True, "replicated"),
        (elsewhere, False, "verified"),
        (lambda result, samples: (result, samples), True, "verified"),
        (slower, True, "verified"),
        (fake, True, "verified"),
    ],
    ids=["another machine", "the same key", "the same host", "3% slower", "simulated"],
)
def test_evidence_alone_makes_a_result_replicated(  # noqa: PLR0917 -- pytest passes by name
    change: Any, other_key: bool, level: str, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From files that were signed by two keys, through the mirror and the gate, with tags that say what they like."""
    store = Path(shutil.copyfile(empty_store, tmp_path / "mlflow.db"))
    lab = make_lab(store, tmp_path / "home", tmp_path / "artifacts")
    second = signing_key(tmp_path / "second")
    trust(second.public, tmp_path / "home")
    first = lab.add(0)
    again = lab.add(1, change, key=second if other_key else None)
    for name in ("hwbench.replicates", "trust_level", "hwbench.trust_level"):
        lab.client.set_tag(again, name, first if name.endswith("replicates") else "replicated")
    sync(SqliteReader(store), tmp_path / "hwbench.duckdb", judge=Star(load_keyring(tmp_path / "home")))
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    gated = CliRunner().invoke(root, ["gate"])
    assert gated.exit_code == 0, gated.output
    assert set(levels(tmp_path / "published.duckdb")) == {level}
