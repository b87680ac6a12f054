"""One suite that every backend passes, or says why it cannot be asked here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from hwbench_mlflow.backends import lookup
from hwbench_mlflow.backends._browser import BROWSER_VARIABLE
from hwbench_mlflow.errors import BenchmarkFailed, HardwareUnavailable, UsageError
from hwbench_mlflow.model import (
    DEFAULT_PRECISION,
    Availability,
    AvailabilityStatus,
    Device,
    ExecutionWitness,
    FailureCategory,
    Platform,
    Precision,
    Scenario,
    SessionFacts,
)
from tests.backends.tiny import OUTPUT, reference, tiny_inputs, tiny_model, tiny_workload
from tests.conftest import REQUIRED, WEBNN_BROWSER

TOLERANCES = {"qnn": 3e-2}  # fp16
FP32_TOLERANCE = 1e-4  # against fp32 of another library: sums in another order


@dataclasses.dataclass
class Opened:
    """A backend with a session open on its first device, at the precision that it computes in by default."""

    backend: Any
    device: Device
    session: Any
    model: Any
    tolerance: float


def default_precision(device: Device) -> Precision:
    return DEFAULT_PRECISION.get(device.platform, Precision.FP32)


def tolerance(device: Device) -> float:
    return TOLERANCES.get(device.platform, FP32_TOLERANCE)


@pytest.fixture(scope="module", params=sorted(lookup.targets()))
def probed(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any, Availability]]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "webnn" and WEBNN_BROWSER is not None:
            patch.setenv(BROWSER_VARIABLE, WEBNN_BROWSER)
        backend = lookup.find(request.param)
        yield request.param, backend, backend.probe()


def skip_if_absent(name: str, answer: Availability, required: frozenset[str]) -> None:
    """Skip with the probe's reason; where the backend is required (in CI), fail with it."""
    if answer.status is AvailabilityStatus.AVAILABLE:
        return
    if name in required:
        pytest.fail(f"{name} is required here: {answer.status}: {answer.reason}")
    pytest.skip(f"{name}: {answer.status}: {answer.reason}")


@pytest.fixture(scope="module")
def available(probed: tuple[str, Any, Availability]) -> tuple[Any, Device]:
    name, backend, answer = probed
    skip_if_absent(name, answer, REQUIRED)
    return backend, answer.devices[0]


@pytest.fixture(scope="module")
def opened(available: tuple[Any, Device]) -> Iterator[Opened]:
    backend, device = available
    workload = tiny_workload(precision=default_precision(device))
    model = tiny_model(workload)
    with backend.open(device, workload, model, 1) as session:
        yield Opened(backend, device, session, model, tolerance(device))


def test_a_required_backend_that_is_absent_fails_instead_of_skipping() -> None:
    absent = Availability(platform=Platform.CUDA, status=AvailabilityStatus.NO_DRIVER, reason="no driver")
    with pytest.raises(pytest.skip.Exception, match="no driver"):
        skip_if_absent("cuda", absent, frozenset())
    with pytest.raises(pytest.fail.Exception, match="no driver"):
        skip_if_absent("cuda", absent, frozenset({"cuda"}))


def test_a_probe_gives_a_reason_and_says_what_would_help(probed: tuple[str, Any, Availability]) -> None:
    _, backend, answer = probed
    assert answer.platform is backend.platform
    assert answer.reason
    assert "\n" not in answer.reason
    if answer.status is not AvailabilityStatus.AVAILABLE:
        assert answer.remedy


def test_available_means_that_an_operation_was_executed_and_checked(probed: tuple[str, Any, Availability]) -> None:
    _, _, answer = probed
    if answer.status is not AvailabilityStatus.AVAILABLE:
        assert not any(check.passed for check in answer.checks)
        return
    assert answer.verified
    assert all(check.identity and check.max_abs_error is not None for check in answer.checks)


def test_an_answer_survives_json(probed: tuple[str, Any, Availability]) -> None:
    _, _, answer = probed
    assert msgspec.json.decode(msgspec.json.encode(answer), type=Availability) == answer


def test_an_absent_platform_does_not_open(probed: tuple[str, Any, Availability]) -> None:
    _, backend, answer = probed
    if answer.status is AvailabilityStatus.AVAILABLE:
        pytest.skip("it is there")
    wanted = Device(platform=backend.platform, id=f"{backend.platform}:0", name="wished for")
    with pytest.raises(HardwareUnavailable), backend.open(wanted, tiny_workload(), tiny_model(), None):
        pass


@pytest.mark.parametrize(
    "change", [{"id": "cpu:99"}, {"id": "AUTO"}, {"platform": None}], ids=["index", "auto", "platform"]
)
def test_another_device_is_refused(available: tuple[Any, Device], change: dict[str, Any]) -> None:
    backend, device = available
    if "platform" in change:
        change = {"platform": next(p for p in Platform if p is not device.platform)}
    other = dataclasses.replace(device, **change)
    with pytest.raises(HardwareUnavailable), backend.open(other, tiny_workload(), tiny_model(), None):
        pass


def test_each_slot_gives_the_reference_of_its_own_inputs(opened: Opened) -> None:
    inputs = [tiny_inputs(seed) for seed in range(3)]
    opened.session.stage(inputs)
    outputs = []
    for slot in (2, 0, 1):
        observed = opened.session.fetch(opened.session.run(slot))[OUTPUT]
        outputs.append(observed)
        assert observed.dtype == np.float32
        np.testing.assert_allclose(observed, reference(opened.model, inputs[slot]), atol=opened.tolerance)
    assert not np.allclose(outputs[0], outputs[1])
    assert not np.allclose(outputs[1], outputs[2])


def test_staging_replaces_what_was_staged(opened: Opened) -> None:
    opened.session.stage([tiny_inputs(10)])
    before = opened.session.fetch(opened.session.run(0))[OUTPUT]
    opened.session.stage([tiny_inputs(11)])
    after = opened.session.fetch(opened.session.run(0))[OUTPUT]
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, reference(opened.model, tiny_inputs(11)), atol=opened.tolerance)


def test_fetched_outputs_outlive_the_next_run(opened: Opened) -> None:
    opened.session.stage([tiny_inputs(20), tiny_inputs(21)])
    kept = opened.session.fetch(opened.session.run(0))[OUTPUT]
    copy = kept.copy()
    opened.session.fetch(opened.session.run(0))
    opened.session.fetch(opened.session.run(1))
    np.testing.assert_array_equal(kept, copy)


def test_inputs_of_another_batch_are_refused(opened: Opened) -> None:
    with pytest.raises(UsageError, match="shapes"):
        opened.session.stage([tiny_inputs(0, batch_size=1)])


def test_facts_name_the_granted_device_and_what_is_in_force(opened: Opened) -> None:
    facts = opened.session.facts()
    assert (facts.device.platform, facts.device.id) == (opened.device.platform, opened.device.id)
    assert facts.device.name == opened.device.name
    assert facts.device.uuid == opened.device.uuid
    assert facts.effective_precision is default_precision(opened.device)
    assert facts.threads == 1
    assert msgspec.json.decode(msgspec.json.encode(facts), type=SessionFacts) == facts


def test_the_witness_keeps_what_the_worker_measured(opened: Opened) -> None:
    opened.session.stage([tiny_inputs(0)])
    opened.session.witness_begin()
    opened.session.run(0)
    opened.session.synchronize()
    seen = opened.session.witness_end(1_000_000, 900_000, 1_000)
    assert (seen.wall_ns, seen.process_cpu_ns, seen.run_delay_ns) == (1_000_000, 900_000, 1_000)
    assert seen.device_identity
    if seen.kernel_count is not None:
        assert seen.kernel_count > 0
    if seen.kernel_busy_ns is not None:
        assert 0 < seen.kernel_busy_ns <= seen.kernel_wall_ns
    assert msgspec.json.decode(msgspec.json.encode(seen), type=ExecutionWitness) == seen


def test_the_workload_s_batch_is_what_runs(available: tuple[Any, Device]) -> None:
    backend, device = available
    model = tiny_model(tiny_workload(batch_size=2))
    five = tiny_workload(batch_size=5, precision=default_precision(device))
    with backend.open(device, five, model, 1) as session:
        inputs = tiny_inputs(3, batch_size=5)
        session.stage([inputs])
        observed = session.fetch(session.run(0))[OUTPUT]
    assert observed.shape[0] == 5
    np.testing.assert_allclose(observed, reference(model, inputs), atol=tolerance(device))


def test_offline_runs_finish_at_synchronize_with_the_right_outputs(available: tuple[Any, Device]) -> None:
    backend, device = available
    workload = tiny_workload(scenario=Scenario.OFFLINE, precision=default_precision(device))
    model = tiny_model(workload)
    inputs = [tiny_inputs(seed) for seed in range(4)]
    with backend.open(device, workload, model, None) as session:
        session.stage(inputs)
        outputs = [session.run(slot % 4) for slot in range(12)]
        session.synchronize()
        for slot, output in enumerate(outputs):
            observed = session.fetch(output)[OUTPUT]
            np.testing.assert_allclose(observed, reference(model, inputs[slot % 4]), atol=tolerance(device))


def test_int8_is_quantised_or_refused_in_one_line(available: tuple[Any, Device]) -> None:
    backend, device = available
    workload = tiny_workload(precision=Precision.INT8)
    opening = backend.open(device, workload, tiny_model(workload), 1)
    if device.platform is Platform.QNN:
        with opening as session:
            assert session.facts().effective_precision is Precision.INT8
    elif device.id == "fake:0":  # says that it computed in fp32
        with opening as session:
            assert session.facts().effective_precision is Precision.FP32
    else:
        with pytest.raises(BenchmarkFailed, match="not in int8") as refused, opening:
            pass
        assert refused.value.category is FailureCategory.UNSUPPORTED_OPERATOR
        assert "\n" not in str(refused.value)


def test_a_closed_session_does_not_run(available: tuple[Any, Device]) -> None:
    backend, device = available
    workload = tiny_workload(precision=default_precision(device))
    with backend.open(device, workload, tiny_model(workload), 1) as session:
        session.stage([tiny_inputs(0)])
        session.run(0)
    with pytest.raises(BenchmarkFailed, match="closed"):
        session.run(0)


def test_the_caller_s_model_is_left_as_it_was(available: tuple[Any, Device]) -> None:
    import torch

    backend, device = available
    workload = tiny_workload(precision=Precision.BF16)
    model = tiny_model(workload)
    before = reference(model, tiny_inputs(0))
    try:
        with backend.open(device, workload, model, 1) as session:
            session.stage([tiny_inputs(0)])
            session.run(0)
    except BenchmarkFailed as refused:
        pytest.skip(f"no bf16 here: {refused}")
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    np.testing.assert_array_equal(reference(model, tiny_inputs(0)), before)
