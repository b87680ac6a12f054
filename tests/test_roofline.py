"""A device's roofline: what is derived from raw timings, and what its judge believes."""

from __future__ import annotations

from typing import Any

import pytest

from hwbench_mlflow.metrics import METRICS, ROOFLINE_METRICS
from hwbench_mlflow.model import Availability, AvailabilityStatus, Precision, VerdictState
from hwbench_mlflow.roofline import (
    Products,
    Stream,
    attainable_flops_per_s,
    index_of_roofline,
    judge_roofline,
    ridge,
)
from tests.documents import MB, replace, roofline

C, U = VerdictState.CONTRADICTED, VerdictState.UNVERIFIED


def test_a_peak_is_the_best_product_and_the_median_is_of_the_largest_size() -> None:
    found = Products(precision=Precision.FP32, dims=(100, 1000, 1000, 1000), took_ns=(1_000, 20 * MB, 40 * MB, 50 * MB))
    assert found.peak_flops_per_s == pytest.approx(2e6 / 1e-6)
    assert found.median_flops_per_s == pytest.approx(2e9 / 40e-3)


def test_bytes_are_counted_as_stream_counts_them() -> None:
    assert Stream(kernel="copy", array_bytes=100, took_ns=(10, 20, 40)).best_bytes_per_s == pytest.approx(2e10)
    assert Stream(kernel="triad", array_bytes=100, took_ns=(10, 20, 40)).median_bytes_per_s == pytest.approx(1.5e10)


def test_the_roof_turns_at_the_ridge() -> None:
    assert ridge(1e12, 1e11) == 10
    assert attainable_flops_per_s(5, 1e12, 1e11) == 5e11
    assert attainable_flops_per_s(50, 1e12, 1e11) == 1e12


def test_a_sound_calibration_is_verified() -> None:
    assert judge_roofline(roofline()).reasons == ()
    found = roofline()
    assert found.peak(Precision.FP32) == pytest.approx(1e11)
    assert found.peak(Precision.FP16) is None
    assert found.bandwidth_bytes_per_s == pytest.approx(10e9)


def absent(found: Any) -> Any:
    return Availability(platform=found.device.platform, status=AvailabilityStatus.NO_DEVICE, reason="none")


FORGED: dict[str, tuple[Any, VerdictState, str]] = {
    "another device": (lambda r: replace(r, device=replace(r.device, name="H100")), C, "another device under that id"),
    "no probe": (lambda r: replace(r, availability=absent(r)), C, "did not see"),
    "nothing checked": (
        lambda r: replace(r, availability=replace(r.availability, checks=())), U, "no operation was checked"
    ),
    "another boot": (
        lambda r: replace(r, host=replace(r.host, boot_id="other")), U, "before a reboot"
    ),
    "an old probe": (lambda r: replace(r, started_at="2026-11-01T10:00:20+00:00"), U, "not made in this run"),
    "too fast a clock": (lambda r: replace(r, worker_ns=10), C, "last longer than the worker"),
    "longer than the parent": (lambda r: replace(r, parent_ns=10), C, "longer than its parent"),
    "in a cache": (lambda r: replace(r, cache_bytes=10**9), U, "may lie in a cache"),
    "few passes": (
        lambda r: replace(r, streams=(replace(r.streams[0], took_ns=(20 * MB,)),)), U, "1 passes of copy"
    ),
    "no stream": (lambda r: replace(r, streams=()), U, "no bandwidth"),
    "no time": (
        lambda r: replace(r, products=(replace(r.products[0], took_ns=(0, 1, 1)),)), C, "a time that is none"
    ),
    "other lengths": (lambda r: replace(r, products=(replace(r.products[0], dims=(9,)),)), C, "1 sizes for 3 times"),
    "a precision twice": (lambda r: replace(r, products=(r.products[0], r.products[0])), C, "twice"),
    "an invented kernel": (
        lambda r: replace(r, streams=(replace(r.streams[0], kernel="quad"),)), C, "no streaming kernel 'quad'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_calibration_is_not_verified(name: str) -> None:
    change, state, reason = FORGED[name]
    found = judge_roofline(change(roofline()))
    assert found.state is state, found.reasons
    assert any(reason in said for said in found.reasons), found.reasons


def test_an_emulated_device_is_simulated() -> None:
    soft = replace(roofline().device, emulation_reason="llvmpipe")
    found = roofline(device=soft)
    assert judge_roofline(found).state is VerdictState.SIMULATED
    tags = index_of_roofline(found, "0" * 64, VerdictState.SIMULATED).tags
    assert (tags["is_simulated"], tags["simulation_reason"]) == ("true", "llvmpipe")


def test_its_metrics_are_its_own() -> None:
    index = index_of_roofline(roofline(), "0" * 64, VerdictState.VERIFIED)
    assert index.metrics.keys() <= ROOFLINE_METRICS.keys()
    assert not index.metrics.keys() & METRICS.keys()
    assert index.metrics["peak_tflops_fp32"] == pytest.approx(0.1)
    assert index.metrics["memory_bandwidth_gb_per_s"] == pytest.approx(10)
    assert "peak_tflops_fp16" not in index.metrics


def test_a_busy_machine_is_said_to_be_one() -> None:
    assert roofline().noise_reasons == ()
    [reason] = replace(roofline(), load_before=7.0).noise_reasons
    assert "load average 7.0 on 2 processors" in reason
    assert replace(roofline(), load_before=None).noise_reasons == ()
