"""From a request to a result: what is chosen, what is folded, what is left unknown; and whole runs of odd shapes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hwbench_mlflow import runner
from hwbench_mlflow.backends.fake import FakeBackend
from hwbench_mlflow.backends.lookup import targets
from hwbench_mlflow.errors import BenchmarkFailed, HardwareUnavailable
from hwbench_mlflow.model import (
    PROFILES,
    Availability,
    AvailabilityStatus,
    Device,
    DeviceCheck,
    EnergyMethod,
    FailureCategory,
    Platform,
    Profile,
    RunRequest,
    Scenario,
    VerdictState,
    Workload,
)
from hwbench_mlflow.neighbours import Others
from hwbench_mlflow.runner import choose_device, lock_name
from hwbench_mlflow.sampling import WindowConditions
from hwbench_mlflow.verdict import judge_result
from tests import troubled

replace = dataclasses.replace
ONE, TWO = (Device(platform=Platform.CUDA, id=f"cuda:{n}", name="Test GPU", uuid=f"GPU-{n}") for n in range(2))


def checked(device: Device, *, passed: bool = True) -> DeviceCheck:
    return DeviceCheck(device_id=device.id, operation="product", passed=passed, reason="equal" if passed else "wrong")


FOUND = Availability(
    platform=Platform.CUDA, status=AvailabilityStatus.AVAILABLE, reason="it computed", devices=(ONE, TWO),
    checks=(checked(ONE), checked(TWO)),
)  # fmt: skip


def test_the_first_device_is_taken_where_none_is_named_and_the_named_one_else() -> None:
    assert choose_device(FOUND, None) == ONE
    assert choose_device(FOUND, "cuda:1") == TWO


def test_a_device_that_is_not_there_is_never_replaced_by_another() -> None:
    with pytest.raises(
        HardwareUnavailable, match=r"no device cuda:7 \(it computed\)\. It has: cuda:0, cuda:1"
    ) as caught:
        choose_device(FOUND, "cuda:7")
    assert caught.value.availability.status is AvailabilityStatus.NO_DEVICE


def test_a_device_whose_check_failed_is_never_replaced_by_a_good_one() -> None:
    broken = replace(FOUND, checks=(checked(ONE, passed=False), checked(TWO)))
    with pytest.raises(HardwareUnavailable, match="cuda:0 is there, but failed its check: wrong") as caught:
        choose_device(broken, None)
    assert caught.value.availability.status is AvailabilityStatus.PROBE_FAILED
    assert choose_device(broken, "cuda:1") == TWO


def test_a_device_without_any_check_is_not_believed() -> None:
    with pytest.raises(HardwareUnavailable, match="no operation was checked on it"):
        choose_device(replace(FOUND, checks=()), None)


@pytest.mark.parametrize("status", [s for s in AvailabilityStatus if s is not AvailabilityStatus.AVAILABLE])
def test_an_unavailable_platform_gives_its_probe_s_reason(status: AvailabilityStatus) -> None:
    absent = replace(FOUND, status=status, reason="no such luck", remedy="Buy one")
    with pytest.raises(HardwareUnavailable, match=r"cuda is unavailable: no such luck\. Buy one") as caught:
        choose_device(absent, None)
    assert caught.value.availability is absent


def test_available_without_a_device_is_unavailable() -> None:
    with pytest.raises(HardwareUnavailable):
        choose_device(replace(FOUND, devices=()), None)


def test_whatever_computes_on_the_host_s_cpu_shares_one_lock() -> None:
    cpu = Device(platform=Platform.CPU, id="cpu", name="c")
    assert lock_name(cpu) == lock_name(Device(platform=Platform.OPENVINO, id="CPU", name="c")) == "cpu"
    names = {lock_name(ONE), lock_name(TWO), lock_name(Device(platform=Platform.OPENVINO, id="GPU.0", name="g"))}
    assert names == {"GPU-0", "GPU-1", "openvino-GPU.0"}


QUIET = WindowConditions(
    wall_s=1.0, steal_fraction=None, foreign_cpu_fraction=None, involuntary_switches=None, throttle_events=None,
    throttle_reasons=(), foreign_device_pids=(), package_joules=None, integrated_joules=None,
)  # fmt: skip


def test_conditions_are_the_worst_fraction_and_the_sum_of_counts() -> None:
    windows = [
        replace(QUIET, steal_fraction=0.1, involuntary_switches=3, throttle_reasons=("heat",)),
        replace(QUIET, steal_fraction=0.3, involuntary_switches=4, throttle_reasons=("heat", "cap")),
    ]
    found = runner._conditions(windows, 0.5)
    assert (found.load_before, found.steal_fraction, found.involuntary_switches) == (0.5, 0.3, 7)
    assert found.throttle_reasons == ("cap", "heat")


def test_what_no_window_could_say_stays_unknown_and_what_one_could_is_kept() -> None:
    found = runner._conditions([QUIET, replace(QUIET, throttle_events=0)], None)
    assert (found.steal_fraction, found.foreign_cpu_fraction, found.involuntary_switches) == (None, None, None)
    assert (found.load_before, found.throttle_events) == (None, 0)


def outcome(counter: float | None = None, package: float | None = None, power: float | None = None) -> Any:
    return SimpleNamespace(
        conditions=replace(QUIET, package_joules=package, integrated_joules=power),
        answer=SimpleNamespace(witness=SimpleNamespace(energy_j=counter)),
    )


CPU = Device(platform=Platform.CPU, id="cpu", name="c")


@pytest.mark.parametrize(
    ("device", "outcomes", "expected"),
    [
        (ONE, [outcome(counter=5.0), outcome(counter=7.0)], (12.0, EnergyMethod.COUNTER)),
        (ONE, [outcome(counter=5.0, power=4.0), outcome(power=6.0)], (10.0, EnergyMethod.INTEGRATED)),
        (ONE, [outcome(counter=5.0), outcome()], None),
        (ONE, [outcome(counter=0.0)], None),
        (ONE, [outcome(package=9.0)], None),
        (CPU, [outcome(package=9.0)], (9.0, EnergyMethod.COUNTER)),
        (CPU, [outcome(counter=9.0)], None),
        (CPU, [outcome()], None),
    ],
    ids=["counter", "power-where-a-counter-is-missing", "half", "zero", "not-the-package", "package", "no-gpu", "none"],
)
def test_energy_is_a_counter_s_or_integrated_power_of_every_window_or_absent(
    device: Device, outcomes: list[Any], expected: tuple[float, EnergyMethod] | None
) -> None:
    found = runner._energy(device, cast("list[runner._WorkerOutcome]", outcomes))
    assert (None if found is None else (found.joules, found.method)) == expected
    if found is not None:
        assert ("everything on the machine" in found.scope) is (device is CPU)


def request(folder: Path, backend: str, **changes: Any) -> RunRequest:
    return RunRequest(
        platform=Platform.CPU, device=None, workload=Workload(model=str(folder)), profile=PROFILES["smoke"],
        threads=None, backend=backend, **changes,
    )  # fmt: skip


def test_an_exception_in_a_probe_is_the_platform_s_failure_with_its_last_words(tiny_folder: Path) -> None:
    asked = request(tiny_folder, f"tests.troubled:{troubled.Unsettled.__name__}")
    with pytest.raises(HardwareUnavailable, match="the vendor's library is of another century") as caught:
        runner.run(asked)
    assert caught.value.availability.status is AvailabilityStatus.PROBE_FAILED


def test_an_interruption_from_outside_leaves_no_worker(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[runner.WorkerProcess] = []
    real = runner.WorkerProcess

    def spy() -> runner.WorkerProcess:
        made.append(real())
        return made[-1]

    def stop() -> None:
        raise BenchmarkFailed("told to stop", FailureCategory.INTERRUPTED)

    monkeypatch.setattr(runner, "WorkerProcess", spy)
    with pytest.raises(BenchmarkFailed, match="told to stop"):
        runner.run(request(tiny_folder, "hwbench_mlflow.backends.cpu:CpuBackend"), before_timing=stop)
    (worker,) = made
    assert worker._process.poll() is not None


class Heard(runner.Progress):
    """Everything that a run tells, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, text: str, seconds: float | None = None) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(text)


def neighbours(monkeypatch: pytest.MonkeyPatch, cores: float) -> None:
    others = Others(cores=cores, of=2, most="'stress'", most_cores=cores, pid=4711)
    monkeypatch.setattr(runner, "Look", lambda *_: SimpleNamespace(others=lambda: others))


@pytest.mark.slow
def test_the_fake_backend_gives_a_whole_result_that_is_never_verified(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a busy machine is told before anything is timed, and kept in the result."""
    neighbours(monkeypatch, 1.0)
    target = f"{FakeBackend.__module__}:{FakeBackend.__name__}"
    heard = Heard()
    measured = runner.run(request(tiny_folder, target), heard)
    result = measured.result
    busy = (
        "this machine is busy: other processes take 1.0 of 2 cores, most of it 'stress' (process 4711, 1.0); "
        "times may be far longer than on a calm one"
    )
    assert result.warnings[-1] == busy
    measuring = next(number for number, line in enumerate(heard.lines) if line.endswith(": measuring"))
    assert [number for number, line in enumerate(heard.lines) if line == busy] == [heard.lines.index(busy)]
    assert heard.lines.index(busy) < measuring
    assert (result.is_simulated, result.simulation_reason) == (True, FakeBackend().probe().reason)
    assert measured.samples.workers[0].samples_ns
    assert judge_result(result, measured.samples).state in {VerdictState.SIMULATED, VerdictState.CONTRADICTED}


@pytest.mark.slow
def test_two_workers_and_overlapping_inferences_agree_on_the_model_and_are_each_challenged(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbours(monkeypatch, 0.4)
    profile = Profile(name="smoke", workers=2, min_samples=12, seconds=0.3, max_warmup_seconds=0.5, ranked=False)
    asked = request(tiny_folder, "hwbench_mlflow.backends.cpu:CpuBackend")
    asked = replace(asked, profile=profile, workload=replace(asked.workload, scenario=Scenario.OFFLINE))
    for _ in range(3):  # where much else runs, one inference can take as long as a whole sample should
        measured = runner.run(asked)
        result = measured.result
        if any(w.runs_per_sample > 1 for w in result.workers):
            break
    assert [w.index for w in result.workers] == [w.index for w in measured.samples.workers] == [0, 1]
    assert not [line for line in result.warnings if "busy" in line]
    assert len({w.pid for w in result.workers}) == len({w.nonce for w in result.workers}) == 2
    assert any(w.runs_per_sample > 1 for w in result.workers)
    assert [bool(len(w.scaling) > 1) for w in result.workers] == [True, False]
    assert sum(len(w.samples_ns) for w in measured.samples.workers) >= 12
    findings = judge_result(result, measured.samples).findings
    assert not [f for f in findings if f.effect is VerdictState.CONTRADICTED], findings


@pytest.mark.slow
@pytest.mark.parametrize("hardware", ["cpu", "openvino"])
def test_a_server_is_searched_by_the_first_worker_and_offered_the_same_rate_by_the_next(
    hardware: str, tiny_folder: Path
) -> None:
    """A bound that any machine holds: what is tested is that every window is what its evidence says."""
    profile = Profile(name="smoke", workers=2, min_samples=12, seconds=1.0, max_warmup_seconds=0.5, ranked=False)
    asked = request(tiny_folder, targets()[hardware])
    work = replace(asked.workload, scenario=Scenario.SERVER, latency_bound_ms=20_000.0, latency_percentile=90)
    asked = replace(asked, platform=Platform(hardware), profile=profile, workload=work)
    measured = runner.run(asked)
    result, raw = measured.result, measured.samples.workers
    windows = [w.server for w in result.workers if w.server is not None]
    assert len({w.rate_per_s for w in windows}) == 1
    assert [bool(w.trials) for w in windows] == [True, False]
    assert all(trial.held for trial in windows[0].trials)
    assert all(len(one.samples_ns) == len(one.arrivals_ns) == len(one.ends_ns) for one in raw)
    assert raw[0].arrivals_ns[:3] != raw[1].arrivals_ns[:3]
    stats = result.aggregates.server
    assert stats is not None
    assert (stats.late_count, stats.held) == (0, True if result.aggregates.sample_count >= 64 else None)
    findings = judge_result(result, measured.samples).findings
    assert not [f for f in findings if f.effect is VerdictState.CONTRADICTED], findings


@pytest.mark.slow
def test_a_multistream_query_is_run_as_its_batches(tiny_folder: Path) -> None:
    asked = request(tiny_folder, "hwbench_mlflow.backends.cpu:CpuBackend")
    work = replace(asked.workload, scenario=Scenario.MULTISTREAM, batch_size=2, query_size=6)
    measured = runner.run(replace(asked, workload=work))
    result = measured.result
    assert [w.runs_per_sample for w in result.workers] == [3]
    findings = judge_result(result, measured.samples).findings
    assert not [f for f in findings if f.effect is VerdictState.CONTRADICTED], findings
