"""Recommendations: what is ranked, how sure, and what never is."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from hwbench_mlflow.cli.main import root
from hwbench_mlflow.decide.recommending import Candidate, Confidence, Objective, confidence, pareto, priced, prices
from hwbench_mlflow.errors import UsageError
from tests.decide.made import published, rows_of, run_id

NOW = datetime(2026, 11, 20)


def candidate(**change: Any) -> Candidate:
    sound: dict[str, Any] = {
        "work": {
            "model_name": "bert", "platform": "cuda", "device_name": "NVIDIA L4", "effective_precision": "fp16",
            "batch_size": 1, "sequence_length": 128, "image_size": None, "scenario": "latency",
            "compile_mode": "eager", "threads": 1,
        },
        "similar": False, "runs": 5, "noisy": 0, "samples": 1000, "newest": NOW - timedelta(days=1),
        "run_ids": ["a" * 32], "hosts": [10.0, 10.5], "spread": 0.01, "latency_ms": 10.0, "latency_range": (9, 11),
        "latency_at": {50: 10.0}, "throughput": 100.0, "throughput_range": (90, 110), "energy_j_per_item": 1.0,
        "replicated": 1,
    }  # fmt: skip
    return Candidate(**{**sound, **change})


@pytest.mark.parametrize(
    ("change", "level", "missing"),
    [
        ({}, Confidence.HIGH, None),
        ({"hosts": [10.0]}, Confidence.MEDIUM, "independent replication"),
        ({"replicated": 0}, Confidence.MEDIUM, "the same within 2% by another machine"),
        ({"hosts": [10.0, 12.0]}, Confidence.LOW, "differ by 20%"),
        ({"runs": 3}, Confidence.MEDIUM, "1 more runs"),
        ({"runs": 1, "spread": None}, Confidence.LOW, "1 more runs"),
        ({"spread": 0.07}, Confidence.MEDIUM, "it is 7%"),
        ({"spread": 0.2}, Confidence.LOW, "it is 20%"),
        ({"noisy": 3}, Confidence.LOW, "3 of 5 are"),
        ({"newest": NOW - timedelta(days=100)}, Confidence.MEDIUM, "100 days old"),
        ({"newest": NOW - timedelta(days=200)}, Confidence.LOW, "200 days old"),
        ({"samples": 100}, Confidence.MEDIUM, "there are 100"),
        ({"samples": 30}, Confidence.LOW, "there are 30"),
        ({"similar": True}, Confidence.LOW, "a run of the model itself"),
    ],
)
def test_each_rule_of_confidence_bites(change: dict[str, Any], level: Confidence, missing: str | None) -> None:
    found, said = confidence(candidate(**change), NOW)
    assert found is level
    assert missing is None or any(missing in one for one in said)


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=1, max_size=30))
def test_nobody_on_the_front_is_beaten_and_everybody_else_is(points: list[tuple[float, float]]) -> None:
    all_of = [candidate(latency_ms=a, throughput=b, energy_j_per_item=None) for a, b in points]
    dimensions, front = pareto(all_of)
    assert dimensions == [Objective.LATENCY, Objective.THROUGHPUT]

    def beats(p: Candidate, q: Candidate) -> bool:
        a, b = (p.latency_ms, -p.throughput), (q.latency_ms, -q.throughput)
        return a != b and a[0] <= b[0] and a[1] <= b[1]  # type: ignore[operator]

    assert not [q for q in front if any(beats(p, q) for p in all_of)]
    assert all(any(beats(p, q) for p in all_of) for q in all_of if q not in front)


def test_prices_are_by_device_then_by_platform_and_nothing_else_has_a_cost() -> None:
    table = prices(["cuda:NVIDIA-L4=0.8/h", "cuda=2", "cpu=.1/h"])
    assert priced(candidate(), table).cost == pytest.approx(0.8 / 360_000 * 1e6)
    other = candidate(work={**candidate().work, "device_name": "NVIDIA H100"})
    assert priced(other, table).cost == pytest.approx(2 / 360_000 * 1e6)
    assert priced(candidate(work={**candidate().work, "platform": "mps"}), table).cost is None
    for wrong in ("cuda", "cuda=free", "cuda=0", "cuda=-1", "=1"):
        with pytest.raises(UsageError):
            prices([wrong])
    with pytest.raises(UsageError, match="two prices"):
        prices(["cpu=1", "cpu=2"])


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["recommend", *arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    simulated = {"verdict": "simulated", "is_simulated": True, "simulation_reason": "SwiftShader <b>"}
    recent = {"created_at": datetime(2026, 11, 10)}
    rows = [
        *rows_of([10.0] * 4, 0, model_name="bert", throughput_items_per_s=100.0),
        *rows_of([5.0, 5.1], 10, model_name="bert", effective_precision="bf16", throughput_items_per_s=200.0),
        *rows_of([1.0], 20, model_name="bert", profile="smoke", ranked=False, effective_precision="fp16"),
        *rows_of([0.1], 30, model_name="bert", device_name="Fast", **simulated),
        *rows_of([7.0], 40, model_name="albert", throughput_items_per_s=150.0),
        *rows_of([0.2], 50, model_name="only-simulated", **simulated),
    ]
    return str(published(tmp_path_factory.mktemp("recommend"), [{**row, **recent} for row in rows]))


def document(result: Result) -> dict[str, Any]:
    assert result.stdout, result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_ranking_is_of_verified_ranked_results_and_cites_its_runs(made: str) -> None:
    found = document(ask("--model", "bert", "--json", "--published", made))
    assert [(e["rank"], e["configuration"]["effective_precision"]) for e in found["ranking"]] == [
        (1, "bf16"),
        (2, "fp32"),
    ]
    assert set(found["ranking"][0]["run_ids"]) == {run_id(10), run_id(11)}
    assert found["simulated"] == []
    assert [e["configuration"]["model_name"] for e in found["similar_models"]] == ["albert"]
    assert found["similar_models"][0]["confidence"] == "low"
    assert "0.1" not in json.dumps([e["latency_ms"] for e in found["ranking"]])


ALONE: dict[str, tuple[dict[str, Any], str | None]] = {
    "one machine": ({}, None),
    "one machine, offline": (
        {"scenario": "offline", "latency_ms_p50": None, "latency_ms_p50_ci95_low": None,
         "latency_ms_p50_ci95_high": None},
        "scenario offline has no median latency that could be confirmed; a run of latency has",
    ),
    "one machine, noisy": ({"stable": False}, "none of its runs is quiet, with a median known to 2%"),
    "one machine, a median that is known to 5%": (
        {"latency_ms_p50_ci95_low": 9.5, "latency_ms_p50_ci95_high": 10.5},
        "none of its runs is quiet, with a median known to 2%",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ALONE)
def test_what_only_one_machine_has_measured_says_so_with_the_command_where_another_could_confirm_it(
    case: str, tmp_path: Path
) -> None:
    change, why = ALONE[case]
    sound = {"latency_ms_p50_ci95_low": 9.95, "latency_ms_p50_ci95_high": 10.05, "model_name": "bert"}
    rows = [{**row, **change} for row in rows_of([10.0, 10.0], 0, **sound)]
    made = str(published(tmp_path, rows))
    goal = ("--objective", "throughput", "--published", made)
    command = f"hwbench replicate {run_id(1)} --on NODE --fleet ADDRESS"
    text = ask("--model", "bert", *goal).stdout
    (line,) = [line.strip() for line in text.splitlines() if "only one machine" in line]
    assert line.startswith("only one machine has measured it")
    assert (command in text) is (why is None)
    assert (why or "only one") in line
    assert ("none can confirm it yet" in line) is (why is not None)
    found = document(ask("--task", "feature-extraction", "--json", *goal))
    assert found["commands"] == ([command] if why is None else [])
    (first,) = found["ranking"]
    assert (first["only_one_machine"], first["replicated_runs"]) == (True, 0)
    assert first["confirmable_run_id"] == (run_id(1) if why is None else None)
    assert "only one machine" in ask("--model", "bert", "--format", "markdown", *goal).stdout


def test_what_two_machines_have_measured_says_nothing_of_one(tmp_path: Path) -> None:
    rows = [*rows_of([10.0], 0, model_name="bert"), *rows_of([10.0], 1, model_name="bert", host_id="other")]
    made = str(published(tmp_path, rows))
    text = ask("--model", "bert", "--published", made).stdout
    assert "2 runs on 2 hosts" in text
    assert "only one machine" not in text
    assert "hwbench replicate " not in text.replace("(hwbench replicate)", "")


def test_the_command_that_is_recommended_is_one_that_hwbench_takes() -> None:
    from hwbench_mlflow.cli.replicate import replicate

    taken = {option for parameter in replicate.params for option in parameter.opts}
    assert {"--on", "--fleet"} <= taken


def test_simulated_results_are_shown_apart_when_asked_for_and_never_ranked(made: str) -> None:
    found = document(ask("--model", "bert", "--include-simulated", "--json", "--published", made))
    assert [e["configuration"]["device_name"] for e in found["ranking"]] == ["Test CPU", "Test CPU"]
    assert found["simulated"][0]["simulation_reason"] == "SwiftShader <b>"
    assert found["simulated"][0]["confirmable_run_id"] is None
    text = ask("--model", "bert", "--include-simulated", "--published", made).stdout
    assert text.index("1. ") < text.index("2. ") < text.index("SIMULATED")
    assert (
        "<b>" not in ask("--model", "bert", "--include-simulated", "--format", "markdown", "--published", made).stdout
    )


def test_nothing_verified_is_said_and_the_command_that_would_change_it_is_printed(made: str) -> None:
    found = ask("--model", "only-simulated", "--include-simulated", "--published", made)
    assert found.exit_code == 1
    assert "no verified result to rank" in found.stdout
    assert "hwbench run --model only-simulated --hardware cpu" in found.stdout
    assert "no verified, ranked result" in str(found.exception)
    absent = ask("--model", "x; rm -rf /", "--published", made)
    assert "'x; rm -rf /'" in absent.stdout
    assert "there are results of albert, bert" in str(absent.exception)


def test_a_bound_and_a_missing_energy_leave_out_and_say_so(made: str) -> None:
    bound = document(ask("--model", "bert", "--max-latency-ms", "6", "--json", "--published", made))
    assert [e["configuration"]["effective_precision"] for e in bound["ranking"]] == ["bf16"]
    assert "the bound 6 ms" in bound["left_out"][0]
    energy = ask("--model", "bert", "--objective", "energy", "--published", made)
    assert energy.exit_code == 1
    assert "its energy was not measured" in energy.stdout
    tail = document(
        ask("--model", "bert", "--max-latency-ms", "99", "--percentile", "99", "--json", "--published", made)
    )
    assert tail["ranking"] == []
    assert "(p99) is unknown" in tail["left_out"][0]


def test_costs_are_of_the_users_prices_only(made: str) -> None:
    refused = ask("--model", "bert", "--objective", "cost", "--published", made)
    assert refused.exit_code == 2
    found = document(
        ask("--model", "bert", "--objective", "cost", "--price", "cpu=0.36/h", "--json", "--published", made)
    )
    assert found["ranking"][0]["value"] == pytest.approx(0.36 / 3600 / 200 * 1e6)
    other = ask("--model", "bert", "--objective", "cost", "--price", "cuda=1", "--published", made)
    assert "no price was given for it" in other.stdout


def test_a_task_is_answered_with_its_models(made: str) -> None:
    found = document(ask("--task", "feature-extraction", "--json", "--published", made))
    assert {e["configuration"]["model_name"] for e in found["ranking"]} == {"bert", "albert"}
    assert ask("--published", made).exit_code == 2
