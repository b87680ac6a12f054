"""The roofline's numbers, and that an estimate can be nothing but an estimate."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench_mlflow.estimate import (
    EFFICIENCIES,
    Bound,
    Efficiencies,
    Estimate,
    EstimateFinding,
    EstimateState,
    EstimateVerdict,
    Figure,
    Interval,
    SheetKind,
    SheetUse,
    Work,
    bound,
    conclude,
    efficiencies,
    index_of_estimate,
    judge_estimate,
    latency_ms,
    throughput_items_per_s,
)
from hwbench_mlflow.metrics import ESTIMATE_METRICS, METRICS
from hwbench_mlflow.model import Platform, Precision
from tests.documents import estimate, replace

SHEET = SheetUse(
    kind=SheetKind.DATASHEET, name="round", product="Round numbers", vendor="Test", sha256="0" * 64,
    precision=Precision.FP32, peak_flops_per_s=Figure(value=1e12, source="test"),
    bandwidth_bytes_per_s=Figure(value=1e11, source="test"), memory_bytes=None,
)  # fmt: skip
HALF = Efficiencies(
    compute=Interval(low=0.25, expected=0.5, high=1.0), memory=Interval(low=0.25, expected=0.5, high=1.0),
    overhead_s=Interval(low=1e-6, expected=1e-5, high=1e-4), basis="test",
)  # fmt: skip


def work(flops: int, size: int, operators: int = 10) -> Work:
    return Work(parameters=1, flops=flops, min_bytes=size, weight_bytes=size, operators=operators, activation_bytes=1)


def test_compute_bound_is_operations_over_peak() -> None:
    found = latency_ms(work(10**10, 1000), SHEET, HALF)
    assert found == Interval(low=pytest.approx(10.01), expected=pytest.approx(20.1), high=pytest.approx(41.0))
    assert bound(work(10**10, 1000), SHEET, HALF) is Bound.COMPUTE


def test_memory_bound_is_bytes_over_bandwidth() -> None:
    large = work(1000, 10**9)
    assert latency_ms(large, SHEET, HALF).expected == pytest.approx(20.1)
    assert bound(large, SHEET, HALF) is Bound.MEMORY


def test_small_work_is_the_launches() -> None:
    assert latency_ms(work(1000, 1000), SHEET, HALF).expected == pytest.approx(0.1, rel=1e-3)
    assert bound(work(1000, 1000), SHEET, HALF) is Bound.OVERHEAD


def test_throughput_is_the_batch_over_the_time() -> None:
    found = throughput_items_per_s(8, Interval(low=1.0, expected=2.0, high=4.0))
    assert found == Interval(low=2000.0, expected=4000.0, high=8000.0)


@pytest.mark.parametrize("key", EFFICIENCIES, ids=str)
def test_stated_efficiencies_are_ranges_with_a_basis(key: tuple[SheetKind, bool]) -> None:
    found = EFFICIENCIES[key]
    for span in (found.compute, found.memory, found.overhead_s):
        assert 0 < span.low < span.expected < span.high <= 1
    assert found.basis
    assert "measured" in found.basis or "hwbench" in found.basis  # it says whether anybody measured it


def test_a_cpu_is_assumed_otherwise_than_a_gpu() -> None:
    assert efficiencies(SheetKind.MEASURED, Platform.CPU) is not efficiencies(SheetKind.MEASURED, Platform.CUDA)


# --- its verdict --------------------------------------------------------------------------------


def test_an_estimates_verdict_has_no_word_for_verified() -> None:
    assert {str(s) for s in EstimateState} == {"simulated", "unverified", "contradicted"}
    assert typing.get_type_hints(EstimateVerdict)["state"] is EstimateState
    assert typing.get_type_hints(EstimateFinding)["effect"] is EstimateState
    assert typing.get_type_hints(judge_estimate)["return"] is EstimateVerdict
    with pytest.raises(ValueError, match="verified"):
        EstimateState("verified")


def test_a_sound_estimate_is_simulated() -> None:
    found = judge_estimate(estimate())
    assert (found.state, found.reasons) == (EstimateState.SIMULATED, ())


FORGED: dict[str, tuple[Any, str]] = {
    "not simulated": (lambda e: replace(e, is_simulated=False), "an estimate always is"),
    "another reason": (lambda e: replace(e, simulation_reason="measured"), "does not name the sheet"),
    "faster": (lambda e: replace(e, latency_ms=replace(e.latency_ms, expected=0.1)), "the times are not"),
    "narrower": (lambda e: replace(e, latency_ms=replace(e.latency_ms, high=2.0)), "the times are not"),
    "more items": (
        lambda e: replace(e, throughput_items_per_s=replace(e.throughput_items_per_s, high=1e9)), "the throughput",
    ),
    "another bound": (lambda e: replace(e, bound=Bound.MEMORY), "the bound is not"),
    "another peak": (
        lambda e: replace(e, sheet=replace(e.sheet, peak_flops_per_s=Figure(value=1e9, source="x"))), "the times",
    ),
    "infinite peak": (
        lambda e: replace(e, sheet=replace(e.sheet, peak_flops_per_s=Figure(value=float("inf"), source="x"))),
        "a peak of inf is none",
    ),
    "another precision": (
        lambda e: replace(e, workload=replace(e.workload, precision=Precision.FP32)), "the peak is of bf16",
    ),
    "no memory": (
        lambda e: replace(e, sheet=replace(e.sheet, memory_bytes=Figure(value=1e6, source="x"))), "does not fit",
    ),
    "more than all": (
        lambda e: replace(e, efficiencies=replace(e.efficiencies, compute=Interval(low=0.5, expected=1, high=7.0))),
        "the range of compute",
    ),
    "no work": (lambda e: replace(e, work=replace(e.work, flops=0)), "a number of operations of 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_estimate_is_contradicted(name: str) -> None:
    change, reason = FORGED[name]
    found = judge_estimate(change(estimate()))
    assert found.state is EstimateState.CONTRADICTED
    assert any(reason in said for said in found.reasons), found.reasons


NUMBERS = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.integers(-(10**40), 10**40))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_is_written_into_one_it_never_becomes_more(data: st.DataObject) -> None:
    found: Any = estimate()
    for _ in range(data.draw(st.integers(1, 4))):
        found = _mutated(found, data)
    verdict = judge_estimate(found)
    assert isinstance(verdict.state, EstimateState)
    assert str(verdict.state) in {"simulated", "unverified", "contradicted"}
    assert index_of_estimate(found, "0" * 64).tags["verdict"] == "simulated"
    assert index_of_estimate(found, "0" * 64).tags["is_simulated"] == "true"


def _mutated(value: Any, data: st.DataObject) -> Any:
    """The document with one of its numbers or flags, wherever it lies, drawn anew."""
    fields = [
        f.name
        for f in dataclasses.fields(value)
        if dataclasses.is_dataclass(getattr(value, f.name))
        or (isinstance(getattr(value, f.name), int | float) and f.name != "schema_version")
    ]
    name = data.draw(st.sampled_from(fields))
    inner = getattr(value, name)
    if dataclasses.is_dataclass(inner) and any(
        isinstance(getattr(inner, f.name), int | float) or dataclasses.is_dataclass(getattr(inner, f.name))
        for f in dataclasses.fields(inner)
    ):
        return replace(value, **{name: _mutated(inner, data)})
    if isinstance(inner, bool):
        return replace(value, **{name: data.draw(st.booleans())})
    return replace(value, **{name: data.draw(NUMBERS)}) if isinstance(inner, int | float) else value


def test_findings_of_any_kind_conclude_to_one_of_three() -> None:
    unsure = EstimateFinding(rule="key", effect=EstimateState.UNVERIFIED, reason="x")
    wrong = EstimateFinding(rule="shape", effect=EstimateState.CONTRADICTED, reason="y")
    assert conclude([]).state is EstimateState.SIMULATED
    assert conclude([unsure]).state is EstimateState.UNVERIFIED
    assert conclude([unsure, wrong]).state is EstimateState.CONTRADICTED
    assert conclude([unsure, wrong]).reasons == ("shape: y", "key: x")


# --- its index ----------------------------------------------------------------------------------


def test_no_name_of_its_index_is_a_measurements() -> None:
    index = index_of_estimate(estimate(), "0" * 64)
    assert index.metrics.keys() == ESTIMATE_METRICS.keys()
    assert not index.metrics.keys() & METRICS.keys()
    assert all(name.startswith("estimate_") for name in index.metrics)
    assert {"hwbench.result_sha256", "hwbench.result_id"}.isdisjoint(index.params)
    assert index.tags | {
        "is_simulated": "true", "verdict": "simulated", "hardware_available": "false",
        "availability_verified": "false", "hwbench.role": "estimate", "hwbench.ranked": "false",
    } == index.tags  # fmt: skip
    assert index.tags["simulation_reason"] == "roofline estimate from datasheet h100-sxm; nothing was measured"


def test_an_estimate_has_no_default_for_being_simulated() -> None:
    field = next(f for f in dataclasses.fields(Estimate) if f.name == "is_simulated")
    assert field.default is dataclasses.MISSING
