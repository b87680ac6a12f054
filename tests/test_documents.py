"""Signed documents that are no results: forged files, tags and metrics, and none of it becomes more than it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench_mlflow.attest import Keyring, SigningKey
from hwbench_mlflow.documents import judge_estimate_run, judge_roofline_run, role_of
from hwbench_mlflow.estimate import EstimateState
from hwbench_mlflow.evidence import judge
from hwbench_mlflow.keystore import load_keyring, signing_key
from hwbench_mlflow.metrics import ALL_METRICS
from hwbench_mlflow.model import VerdictState
from tests.documents import Logged, claimed_estimate, claimed_roofline, estimate, replace, roofline


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return signing_key(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def keyring(key: SigningKey) -> Keyring:
    return Keyring({key.keyid: key.public})


def claimed(key: SigningKey) -> Logged:
    return claimed_estimate(estimate(), "run", key)


def test_what_hwbench_logs_is_simulated_and_verified(key: SigningKey, keyring: Keyring) -> None:
    assert judge_estimate_run(*claimed(key), keyring).verdict.reasons == ()
    assert judge_estimate_run(*claimed(key), keyring).verdict.state is EstimateState.SIMULATED
    assert judge_roofline_run(*claimed_roofline(roofline(), "run", key), keyring).verdict.reasons == ()


def test_a_stranger_proves_nothing(key: SigningKey, tmp_path: Path) -> None:
    others = load_keyring(tmp_path)
    assert judge_estimate_run(*claimed(key), others).verdict.state is EstimateState.UNVERIFIED
    found = judge_roofline_run(*claimed_roofline(roofline(), "run", key), others)
    assert found.verdict.state is VerdictState.UNVERIFIED


def tag(name: str, value: str | None) -> Callable[[Logged], Logged]:
    def change(logged: Logged) -> Logged:
        tags = {k: v for k, v in logged[1].tags.items() if k != name}
        return logged[0], replace(logged[1], tags=tags if value is None else {**tags, name: value})

    return change


def param(name: str, value: str) -> Callable[[Logged], Logged]:
    return lambda r: (r[0], replace(r[1], params={**r[1].params, name: value}))


def metric(name: str, *values: float) -> Callable[[Logged], Logged]:
    return lambda r: (r[0], replace(r[1], metrics={**r[1].metrics, name: list(values)}))


def file(name: str, data: Callable[[bytes], bytes] | None) -> Callable[[Logged], Logged]:
    def change(logged: Logged) -> Logged:
        files = dict(logged[0])
        old = files.pop(name)
        return (files if data is None else {**files, name: data(old)}), logged[1]

    return change


C, U = EstimateState.CONTRADICTED, EstimateState.UNVERIFIED
EDITS: dict[str, tuple[Callable[[Logged], Logged], EstimateState, str]] = {
    "called real": (tag("is_simulated", "false"), C, "tag is_simulated says 'false'"),
    "called verified": (tag("verdict", "verified"), C, "tag verdict says 'verified'"),
    "called available": (tag("hardware_available", "true"), C, "tag hardware_available"),
    "availability verified": (tag("availability_verified", "true"), C, "tag availability_verified"),
    "the reason taken away": (tag("simulation_reason", None), U, "tag simulation_reason is missing"),
    "the reason changed": (tag("simulation_reason", "measured"), C, "tag simulation_reason"),
    "called a result": (tag("hwbench.role", "result"), C, "tag hwbench.role"),
    "logged as a measurement": (metric("latency_ms_p50", 1.5), C, "metric latency_ms_p50 was logged"),
    "logged as throughput": (metric("throughput_items_per_s", 660.0), C, "metric throughput_items_per_s"),
    "logged as a peak": (metric("peak_tflops_fp32", 67.0), C, "metric peak_tflops_fp32"),
    "logged again": (metric("estimate_latency_ms_expected", 0.1), C, "metric estimate_latency_ms_expected"),
    "a metric lost": (metric("estimate_latency_ms_high"), U, "metric estimate_latency_ms_high is missing"),
    "a result's digest": (param("hwbench.result_sha256", "0" * 64), C, "param hwbench.result_sha256"),
    "another run's": (lambda r: (r[0], replace(r[1], run_id="other")), C, "it was copied here"),
    "still running": (lambda r: (r[0], replace(r[1], status="RUNNING")), U, "RUNNING"),
    "unsigned": (file("attestation.dsse.json", None), U, "not signed"),
    "unbound": (file("binding.dsse.json", None), U, "belongs to this run"),
    "gone": (file("estimate.json", None), U, "estimate.json is missing"),
    "edited": (file("estimate.json", lambda d: d.replace(b"H100", b"H900")), C, "is not this file"),
    "garbage": (file("estimate.json", lambda d: d[:-9]), C, "is not the one this run was logged with"),
    "envelopes swapped": (
        lambda r: ({**r[0], "attestation.dsse.json": r[0]["binding.dsse.json"]}, r[1]), C, "no document of the kind",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_seen(name: str, key: SigningKey, keyring: Keyring) -> None:
    change, state, reason = EDITS[name]
    found = judge_estimate_run(*change(claimed(key)), keyring).verdict
    assert found.state is state, found.reasons
    assert any(reason in said for said in found.reasons), found.reasons


def test_an_estimate_renamed_to_a_result_is_no_result(key: SigningKey, keyring: Keyring) -> None:
    files, run = claimed(key)
    renamed = {**files, "result.json": files["estimate.json"]}
    found = judge(renamed, run, keyring)
    assert found.result is None
    assert found.verdict.state is not VerdictState.VERIFIED
    assert found.verdict.state is VerdictState.CONTRADICTED  # what was signed is not a benchmark result


def test_a_run_with_a_results_params_is_not_an_estimate(key: SigningKey) -> None:
    _, run = claimed(key)
    assert role_of(run) == "estimate"
    assert role_of(claimed_roofline(roofline(), "run", key)[1]) == "roofline"
    assert role_of(replace(run, params={**run.params, "hwbench.result_id": "x"})) is None
    assert role_of(replace(run, params={})) is None


TEXT = st.sampled_from(["true", "false", "verified", "simulated", "result", "", "estimate", "0" * 64])
NAMES = ["is_simulated", "verdict", "hwbench.role", "simulation_reason", "hardware_available", "hardware", "x"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_tags_params_or_metrics_make_it_verified(data: st.DataObject, key: SigningKey, keyring: Keyring) -> None:
    files, run = claimed(key)
    tags = {**run.tags, **data.draw(st.dictionaries(st.sampled_from(NAMES), TEXT, max_size=4))}
    params = {**run.params, **data.draw(st.dictionaries(st.sampled_from(["hwbench.result_id", "hwbench.x"]), TEXT))}
    points = data.draw(st.dictionaries(st.sampled_from(sorted(ALL_METRICS)), st.floats(), max_size=3))
    metrics = {**run.metrics, **{name: [value] for name, value in points.items()}}
    status = data.draw(st.sampled_from(["FINISHED", "RUNNING", "FAILED"]))
    kept = data.draw(st.sets(st.sampled_from(sorted(files))))
    found: Any = judge_estimate_run(
        {name: files[name] for name in kept},
        replace(run, tags=tags, params=params, metrics=metrics, status=status),
        keyring,
    )
    assert str(found.verdict.state) in {"simulated", "unverified", "contradicted"}
    assert isinstance(found.verdict.state, EstimateState)
