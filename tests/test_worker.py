"""What a worker decides by itself, without a process around it."""

from __future__ import annotations

import dataclasses

from hwbench_mlflow import protocol
from hwbench_mlflow.model import Calibration, Device, Precision
from hwbench_mlflow.worker import CALIBRATION_RETRIES, SCALING_RETRIES, SCALING_SAMPLES, calibrated, first_point
from tests.honest import honest

HONEST, _ = honest()


class Calibrator:
    """Measures the given peaks, one after the other."""

    def __init__(self, *peaks: float | None) -> None:
        self.left = list(peaks)
        self.asked = 0

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:
        self.asked += 1
        peak = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        assert HONEST.calibration is not None
        return None if peak is None else dataclasses.replace(HONEST.calibration, peak_flops_per_s=peak)


def peak(backend: Calibrator, fastest: float) -> float | None:
    order = protocol.Reference(
        request=HONEST.request, workload=HONEST.workload, challenges=(), device_id="cpu", precision=Precision.FP32,
        calibration_seconds=0.1, fastest_flops_per_s=fastest,
    )  # fmt: skip
    found = calibrated(backend, HONEST.device, order)  # type: ignore[arg-type]
    return None if found is None else found.peak_flops_per_s


def test_a_peak_above_what_was_achieved_is_measured_once() -> None:
    backend = Calibrator(3e11)
    assert peak(backend, 1e11) == 3e11
    assert backend.asked == 1


def test_a_peak_that_a_busy_machine_understated_is_measured_again() -> None:
    backend = Calibrator(4e9, 2e9, 3e11, 1e11)
    assert peak(backend, 1e11) == 3e11
    assert backend.asked == 3


def test_a_rate_that_no_calibration_reaches_stays_above_the_peak() -> None:
    backend = Calibrator(4e9, 5e9, 3e9)
    assert peak(backend, 1e12) == 5e9
    assert backend.asked == 1 + CALIBRATION_RETRIES


def test_a_backend_without_a_calibration_has_none() -> None:
    assert peak(Calibrator(None), 1e12) is None


class Disturbed:
    """A session that times itself; each try of the scaling probe finds the machine as it is told."""

    def __init__(self, *tries_ns: int) -> None:
        self.tries_ns = tries_ns
        self.asked = 0

    def run(self, slot: int) -> None:
        del slot

    def synchronize(self) -> None:
        pass

    def timed_run(self, slot: int) -> int:
        del slot
        self.asked += 1
        return self.tries_ns[min((self.asked - 1) // SCALING_SAMPLES, len(self.tries_ns) - 1)]

    def timed_window(self, *, seconds: float, min_samples: int, runs_per_sample: int) -> int:
        raise AssertionError("the probe asks for single runs")

    def timed_samples(self) -> tuple[list[int], list[None]]:
        raise AssertionError("the probe asks for single runs")


def first(session: Disturbed, expected_ns: float) -> int:
    return first_point(session, 4, expected_ns).median_ns  # type: ignore[arg-type]


def test_a_scaling_probe_that_agrees_with_the_window_is_made_once() -> None:
    session = Disturbed(1_400)
    assert first(session, 1_000) == 1_400
    assert session.asked == SCALING_SAMPLES


def test_a_scaling_probe_that_another_program_slowed_is_made_again() -> None:
    session = Disturbed(328_000, 72_000, 1_100)
    assert first(session, 1_000) == 1_100
    assert session.asked == 3 * SCALING_SAMPLES


def test_a_scaling_probe_that_stays_slower_keeps_its_fastest_try() -> None:
    session = Disturbed(328_000, 9_000, 72_000)
    assert first(session, 1_000) == 9_000
    assert session.asked == (1 + SCALING_RETRIES) * SCALING_SAMPLES


def test_a_scaling_probe_of_long_inferences_is_not_made_again() -> None:
    session = Disturbed(30_000_000_000, 1_000)
    assert first(session, 1_000) == 30_000_000_000
