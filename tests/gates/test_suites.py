"""The shipped suites: none of their rules can be lost or weakened unseen, and each one bites."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from hwbench_mlflow.gates import run
from hwbench_mlflow.gates.loader import Rule, Suite, load, shipped
from hwbench_mlflow.gates.pins import PINS
from hwbench_mlflow.gates.pins_documents import DOCUMENT_PINS
from hwbench_mlflow.gates.run import check
from hwbench_mlflow.rules import Outcome, RuleKind, decide
from tests.warehouse.results import Lab

OURS = shipped()
SUITES = {suite.name: suite for suite in load().suites}
REQUIRED = [(table, rule) for table, pins in PINS.items() for rule in pins]


def edited(table: str, change: Callable[[dict[str, Any]], object]) -> list[Outcome]:
    """What loading says once a suite's file was changed."""
    document = json.loads(OURS[table])
    change(document)
    return list(load(ours={**OURS, table: json.dumps(document).encode()}).problems)


def entry(document: dict[str, Any], rule: str) -> dict[str, Any]:
    return next(e for e in document["expectations"] if e["meta"]["rule"] == rule)


def refused(problems: list[Outcome], reason: str) -> None:
    [problem] = problems
    assert not problem.passed
    assert problem.kind is RuleKind.TABLE
    assert reason in str(problem.reason), problem.reason
    assert not decide([problem], strict=False).publish


def test_the_shipped_suites_are_whole_and_say_why() -> None:
    loaded = load()
    assert loaded.problems == ()
    assert {s.table for s in loaded.suites} == set(PINS) == {
        "performance_results", "latency_samples", "models", "hardware_platforms", "hardware_availability_log",
        "verdict_findings", "benchmark_runs", "estimates", "rooflines",
    }  # fmt: skip
    for suite in loaded.suites:
        assert suite.ours
        assert [r.rule for r in suite.rules] == list(PINS[suite.table])
        assert all(r.why.endswith(".") and len(r.what_to_do) > 20 for r in suite.rules)
    assert sum(map(len, PINS.values())) >= 140


@pytest.mark.parametrize(("table", "rule"), REQUIRED, ids=[r for _, r in REQUIRED])
def test_no_required_rule_can_be_removed(table: str, rule: str) -> None:
    refused(edited(table, lambda d: d["expectations"].remove(entry(d, rule))), f"the required rule {rule} is missing")


def opposite(e: dict[str, Any]) -> None:
    """The rule, turned round or made toothless."""
    kwargs = e["kwargs"]
    if "min_value" in kwargs:
        kwargs["min_value"], kwargs["max_value"] = -kwargs.get("max_value", 1e300), kwargs["min_value"]
    elif "value_set" in kwargs:
        e["type"] = "expect_column_values_to_not_be_in_set"
    elif e["type"] == "expect_column_values_to_not_be_null":
        e["type"] = "expect_column_values_to_be_null"
    elif "column_list" in kwargs:
        kwargs["column_list"].reverse()
    elif "column_A" in kwargs:
        kwargs["column_A"], kwargs["column_B"] = kwargs["column_B"], kwargs["column_A"]
    elif "regex" in kwargs:
        kwargs["regex"] = ".*"
    elif "column_set" in kwargs:
        kwargs["column_set"] = []
    elif "type_list" in kwargs:
        kwargs["type_list"].append("object")
    else:
        kwargs["column"] = "run_id"


@pytest.mark.parametrize(("table", "rule"), REQUIRED, ids=[r for _, r in REQUIRED])
def test_no_required_rule_can_be_turned_round(table: str, rule: str) -> None:
    refused(edited(table, lambda d: opposite(entry(d, rule))), f"the required rule {rule} was changed")


WEAKENED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "emptied": (lambda d: d.update(expectations=[]), "holds no expectation"),
    "shortened": (lambda d: d["expectations"].pop(), "is missing"),
    "mistyped": (lambda d: d["expectations"][5].update(type="expect_column_values_to_not_be_nul"), "was changed"),
    "severity": (lambda d: d["expectations"][5].update(severity="mild"), "not exactly type, kwargs and meta"),
    "mostly": (lambda d: d["expectations"][5]["kwargs"].update(mostly=0.01), "some rows only"),
    "condition": (lambda d: d["expectations"][5]["kwargs"].update(row_condition="1 == 0"), "some rows only"),
    "milder": (lambda d: d["expectations"][0]["meta"].update(kind="row"), "was changed"),
    "nulls honest": (lambda d: d["expectations"][5]["meta"].update(may_be_null=True), "was changed"),
    "null flag": (lambda d: d["expectations"][5]["meta"].update(may_be_null="no"), "true or false"),
    "no reason": (lambda d: d["expectations"][5]["meta"].update(why=" "), "must be text"),
    "no rule": (lambda d: d["expectations"][5]["meta"].pop("rule"), "meta has not exactly"),
    "twice": (lambda d: d["expectations"].append(copy.deepcopy(d["expectations"][3])), "in it twice"),
    "another table": (lambda d: d["meta"].update(table="models"), "it is of table models"),
    "no table": (lambda d: d["meta"].update(table="x"), "meta.table is not one of"),
    "another name": (lambda d: d.update(name="x"), "calls itself"),
    "no list": (lambda d: d.update(expectations={}), "holds no expectation"),
    "no object": (lambda d: d["expectations"].append("x"), "has not exactly"),
}


@pytest.mark.parametrize("case", WEAKENED)
def test_a_suite_that_was_edited_is_refused(case: str) -> None:
    change, reason = WEAKENED[case]
    refused(edited("performance_results", change), reason)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"name":"models","name":"models"}', b"\xff\xfe", b'{"a":NaN}'])
def test_a_file_that_is_no_suite_is_refused(data: bytes) -> None:
    refused(list(load(ours={**OURS, "models": data}).problems), "suite models: ")


def test_a_suite_that_is_missing_or_unknown_is_refused() -> None:
    refused(list(load(ours={k: v for k, v in OURS.items() if k != "models"}).problems), "suite models: it is missing")
    refused(list(load(ours={**OURS, "more": OURS["models"]}).problems), "hwbench ships no such suite")
    assert len(load(ours={}).problems) == len(PINS)


def rule_of_mine(**changes: Any) -> dict[str, Any]:
    meta = {"rule": "mine.batch", "kind": "row", "why": "We only run batch 1.", "what_to_do": "Run batch 1."}
    return {
        "type": "expect_column_values_to_be_in_set",
        "kwargs": {"column": "batch_size", "value_set": [1]}, "meta": meta, **changes,
    }  # fmt: skip


def write(path: Path, *entries: dict[str, Any], table: str = "performance_results") -> Path:
    path.write_text(json.dumps({"name": path.stem, "meta": {"table": table}, "expectations": list(entries)}))
    return path


def test_a_suite_can_be_added_and_ours_stay(tmp_path: Path) -> None:
    loaded = load([write(tmp_path / "mine.json", rule_of_mine())])
    assert loaded.problems == ()
    assert [s.name for s in loaded.suites] == [*PINS, "mine"]
    assert "batch_size" in loaded.suites[-1].columns
    assert len(loaded.digests["mine"]) == 64
    assert [s.name for s in load([tmp_path]).suites] == [*PINS, "mine"]


def test_an_added_suite_that_would_replace_ours_or_is_bad_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    refused(list(load([write(tmp_path / "a" / "models.json", rule_of_mine())]).problems), "is called models already")
    taken = rule_of_mine()
    taken["meta"]["rule"] = "models.columns"
    refused(list(load([write(tmp_path / "mine.json", taken)]).problems), "is in another suite already")
    (tmp_path / "empty").mkdir()
    refused(list(load([tmp_path / "empty"]).problems), "holds no suite")
    refused(list(load([tmp_path / "absent.json"]).problems), "cannot be read")


# --- what a rule sees ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frames(synced: tuple[Lab, Path], documented: tuple[Lab, Path]) -> dict[str, pd.DataFrame]:
    """The honest warehouse, a frame a table."""
    with duckdb.connect(str(synced[1]), read_only=True) as connection:
        found = {table: connection.execute(f"FROM {table}").df() for table in PINS}
    with duckdb.connect(str(documented[1]), read_only=True) as connection:
        return found | {table: connection.execute(f"FROM {table}").df() for table in DOCUMENT_PINS}


@pytest.mark.parametrize("table", PINS)
def test_an_honest_warehouse_passes_every_rule(table: str, frames: dict[str, pd.DataFrame]) -> None:
    outcomes = check(SUITES[table], [frames[table]]).outcomes
    assert [o.reason for o in outcomes if not o.passed] == []
    assert [o.rule for o in outcomes] == [f"{table}.rows", *PINS[table]]
    assert all(o.evaluated == len(frames[table]) for o in outcomes)


OTHERWISE = "2026-01-01"
SPOILT: dict[str, dict[str, Any]] = {
    "performance_results.latency.order": {"latency_ms_p50": 1e6},
    "performance_results.latency.interval": {"latency_ms_p50_ci95_low": 1e6},
    "performance_results.throughput.follows": {"throughput_items_per_s": 1.0},
    "performance_results.scenario.asked": {"scenario": "server"},
    "performance_results.simulation.said": {"is_simulated": True, "simulation_reason": None},
    "performance_results.evidence.held": {"verdict": "verified", "signature_state": "untrusted"},
    "performance_results.device.asked": {"observed_device": "cuda:0"},
    "performance_results.precision.asked": {"effective_precision": "bf16"},
    "performance_results.probe.same_boot": {"probe_boot_id": "another"},
    "performance_results.probe.not_before": {"probed_at": pd.Timestamp(OTHERWISE)},
    "performance_results.probe.not_after": {"created_at": pd.Timestamp(OTHERWISE)},
    **{
        f"performance_results.ttft.within_latency_{q}": {f"latency_ms_{q}": 5.0, f"ttft_ms_{q}": 6.0}
        for q in ("p50", "p90", "p99")
    },
    "performance_results.energy.method": {"energy_j": 5.0, "energy_method": None},
    "estimates.latency.order": {"estimate_latency_ms_low": 1e6},
    "estimates.throughput.order": {"estimate_throughput_items_per_s_low": 1e9},
    "rooflines.bandwidth.best_copy": {"memory_bandwidth_gb_per_s_copy": 1e6},
    "rooflines.bandwidth.best_triad": {"memory_bandwidth_gb_per_s_triad": 1e6},
    "hardware_availability_log.verified.computed": {"is_verified": True, "check_operation": None},
}
"""What is wrong with a row, for rules whose arguments do not say it."""


def spoil(rule: Rule, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its first row (or all of it) such that this rule has to see it."""
    frame = frame.copy()
    if "column_set" in rule.kwargs:
        return frame.drop(columns=rule.kwargs["column_set"][1])
    if rule.rule in SPOILT:
        values = SPOILT[rule.rule]
    elif rule.type.endswith("unique"):
        return pd.concat([frame, frame.head(1)], ignore_index=True)
    else:
        values = {rule.columns[0]: _bad(rule)}
    for column, value in values.items():
        old = frame[column].tolist()
        frame[column] = pd.Series([value, *old[1:]], dtype=object if isinstance(value, str | bool | None) else None)
    return frame


def _bad(rule: Rule) -> Any:
    if rule.type == "expect_column_values_to_not_be_null":
        return None
    if "min_value" in rule.kwargs and "lengths" not in rule.type:
        lowest = rule.kwargs["min_value"]
        return float(lowest) if rule.kwargs.get("strict_min") else float(lowest) - 1
    return "" if "lengths" in rule.type else "maybe"


@pytest.mark.parametrize(("table", "name"), REQUIRED, ids=[r for _, r in REQUIRED])
def test_every_rule_bites(table: str, name: str, frames: dict[str, pd.DataFrame]) -> None:
    suite = SUITES[table]
    rule = next(r for r in suite.rules if r.rule == name)
    alone = Suite(name=table, table=table, sha256="", rules=(rule,), ours=True)
    frame = spoil(rule, frames[table])
    [_, outcome] = check(alone, [frame]).outcomes
    assert not outcome.passed
    assert outcome.kind is rule.kind
    assert not decide([outcome], strict=True).publish
    if rule.kind is RuleKind.ROW:
        assert outcome.evaluated == len(frame)
        assert frame[suite.key].iloc[0] in {key for key, _ in outcome.refused} or rule.columns == (suite.key,)
        assert not decide([outcome], strict=False).refusals


@pytest.mark.parametrize("column", ["latency_ms_p50", "power_w_mean", "throughput_items_per_s", "roofline_fraction"])
def test_ranges_have_an_upper_end(column: str, frames: dict[str, pd.DataFrame]) -> None:
    suite = SUITES["performance_results"]
    rule = next(r for r in suite.rules if r.rule == f"performance_results.{column}.range")
    frame = frames["performance_results"].assign(**{column: 1e15})
    [_, outcome] = check(Suite(name="x", table=suite.table, sha256="", rules=(rule,), ours=True), [frame]).outcomes
    assert outcome.unexpected == len(frame)


# --- failing closed -----------------------------------------------------------------------------


def alone(rule: Rule, table: str = "performance_results") -> Suite:
    return Suite(name="x", table=table, sha256="", rules=(rule,), ours=False)


def some(**changes: Any) -> Rule:
    fields = {
        "rule": "x.batch", "type": "expect_column_values_to_be_in_set", "kind": RuleKind.ROW, "why": "w",
        "what_to_do": "d", "kwargs": {"column": "batch_size", "value_set": [1]}, **changes,
    }  # fmt: skip
    return Rule(**fields)


FRAME = pd.DataFrame({"run_id": ["a", "b"], "batch_size": [1, 1], "energy_j": [None, None]})

BROKEN: dict[str, tuple[Rule, str]] = {
    "unknown type": (some(type="expect_nothing"), "is no expectation"),
    "unknown argument": (some(kwargs={"column": "batch_size", "value_set": [1], "colum": "x"}), "extra fields"),
    "argument of another type": (some(kwargs={"column": 7, "value_set": 3}), "does not take"),
    "no such column": (some(kwargs={"column": "nope", "value_set": [1]}), 'column "nope"'),
    "a column of NULLs": (some(kwargs={"column": "energy_j", "value_set": [1]}), "evaluated 0 of 2"),
    "about a table": (some(type="expect_table_row_count_to_equal", kwargs={"value": 2}), "cannot say which rows"),
    "raises": (
        some(type="expect_column_values_to_match_regex", kwargs={"column": "batch_size", "regex": "("}),
        "raised",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_rule_that_was_not_evaluated_refuses_everything(case: str) -> None:
    rule, reason = BROKEN[case]
    outcome = check(alone(rule), [FRAME]).outcomes[-1]
    assert outcome.kind is RuleKind.TABLE
    assert str(outcome.reason).startswith("not evaluated: ")
    assert reason in str(outcome.reason)
    assert outcome.evaluated is None
    assert not decide([outcome], strict=False).publish


def test_an_honest_null_is_said_to_be_one() -> None:
    rule = some(kwargs={"column": "energy_j", "value_set": [1]}, may_be_null=True)
    assert check(alone(rule), [FRAME]).outcomes[-1].passed


@pytest.mark.parametrize("what", ["dropped", "doubled", "succeeds without looking", "raises", "looked at less"])
def test_whatever_great_expectations_does_to_a_rule_is_seen(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = run._validate

    def tampered(*arguments: Any) -> Any:
        if what == "raises":
            raise KeyError("metric")
        result = real(*arguments)
        if what == "dropped":
            result.results = result.results[1:]
        elif what == "doubled":
            result.results = [*result.results, result.results[0]]
        elif what == "looked at less":
            result.results[0].result["element_count"] -= 1
        else:
            result.results[0].result = {}
        return result

    monkeypatch.setattr(run, "_validate", tampered)
    outcomes = check(alone(some()), [FRAME]).outcomes
    assert not decide(outcomes, strict=False).publish
    assert str(outcomes[-1].reason).startswith("not evaluated: ")


def test_two_rules_that_great_expectations_takes_for_one_are_both_run() -> None:
    twin = some(rule="x.twin")
    suite = Suite(name="x", table="performance_results", sha256="", rules=(some(), twin), ours=False)
    outcomes = check(suite, [FRAME.assign(batch_size=[1, 9])]).outcomes
    assert [(o.rule, o.unexpected) for o in outcomes[1:]] == [("x.batch", 1), ("x.twin", 1)]


def test_an_empty_table_is_refused_unless_allowed_or_honest() -> None:
    [rows] = check(SUITES["models"], [pd.DataFrame({"model_id": []})]).outcomes
    assert (rows.passed, rows.reason) == (False, "models is empty")
    assert not decide([rows], strict=False).publish
    assert check(SUITES["models"], [], allow_empty=True).outcomes[0].passed
    assert check(SUITES["verdict_findings"], [pd.DataFrame({"run_id": []})]).outcomes[0].passed


def test_a_table_in_pieces_is_one_table() -> None:
    pieces = [FRAME, FRAME.assign(run_id=["c", "d"], batch_size=[1, 9])]
    outcome = check(alone(some()), pieces).outcomes[-1]
    assert (outcome.evaluated, outcome.unexpected) == (4, 1)
    assert [key for key, _ in outcome.refused] == ["d"]
    assert check(alone(some()), [FRAME, FRAME]).outcomes[-1].evaluated == 4


def test_a_gate_without_a_check_has_not_passed() -> None:
    assert not decide([], strict=False).publish


def test_warnings_of_great_expectations_are_not_ours() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        check(alone(some()), [FRAME])
    assert [str(w.message) for w in seen] == []


def test_an_outcome_cannot_pass_for_nothing() -> None:
    fields: dict[str, Any] = {
        "rule": "r", "suite": "s", "table": "t", "kind": RuleKind.ROW, "why": "w", "what_to_do": "d",
    }  # fmt: skip
    for wrong in (
        {"passed": True}, {"passed": True, "evaluated": 3, "unexpected": 1}, {"passed": False, "evaluated": 3},
        {"passed": True, "evaluated": 3, "unexpected": 0, "reason": "x"},
        {"passed": True, "evaluated": 3, "unexpected": 0, "refused": (("a", "b"),)},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="rule r"):
            Outcome(**fields, **wrong)
