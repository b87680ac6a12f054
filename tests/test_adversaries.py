"""Backends that cheat, through the real command and the real runner: none is ever verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwbench_mlflow import evidence, probing, runner
from hwbench_mlflow.backends.cpu import CpuBackend
from hwbench_mlflow.bundle import read_bundle
from hwbench_mlflow.errors import HardwareUnavailable
from hwbench_mlflow.keystore import load_keyring
from hwbench_mlflow.model import PROFILES, AvailabilityStatus, Platform, RunRequest, VerdictState, Workload
from tests import adversaries
from tests.commands import SMOKE, hwbench, only, performance, said

PROBE_FAILED = AvailabilityStatus.PROBE_FAILED


def target(kind: type) -> str:
    return f"tests.adversaries:{kind.__name__}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rule", "reason"),
    [
        (adversaries.Sleeper, "execution", "it waited instead of computing"),
        (adversaries.CachedOutput, "outputs", "wrong, cached, or of other inputs"),
        (adversaries.TimerPatcher, "clocks", "its parent saw"),
        (adversaries.CpuCalledCuda, "execution", "the device ran no kernel"),
    ],
)
def test_a_cheat_is_contradicted_by_the_rule_that_is_there_for_it(
    kind: type[CpuBackend], rule: str, reason: str, tiny_folder: Path, tmp_path: Path
) -> None:
    options = ("--hardware", kind.platform.value, "--profile", "smoke", "--backend", target(kind))
    done = hwbench("run", "--model", str(tiny_folder), *options, "--out", "cheat.json", "--json", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    (shown,) = json.loads(done.stdout)["results"]
    assert shown["verdict"] == shown["tags"]["verdict"] == "contradicted"

    verdict = evidence.judge(read_bundle(tmp_path / "cheat.json"), None, load_keyring()).verdict
    assert verdict.state is VerdictState.CONTRADICTED
    decisive = [f for f in verdict.findings if f.effect is VerdictState.CONTRADICTED and f.rule == rule]
    assert any(reason in finding.reason for finding in decisive), verdict.reasons
    assert verdict.findings[0].effect is VerdictState.CONTRADICTED


@pytest.mark.slow
def test_a_server_that_sleeps_while_queries_run_is_contradicted_however_idle_its_window_may_be(
    tiny_folder: Path, tmp_path: Path
) -> None:
    options = ("--hardware", "cpu", "--profile", "smoke", "--backend", target(adversaries.Sleeper))
    scenario = ("--scenario", "server", "--latency-bound-ms", "2000", "--latency-percentile", "90")
    done = hwbench("run", "--model", str(tiny_folder), *options, *scenario, "--out", "cheat.json", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    verdict = evidence.judge(read_bundle(tmp_path / "cheat.json"), None, load_keyring()).verdict
    assert verdict.state is VerdictState.CONTRADICTED
    assert any(f.rule == "execution" and "of the time that queries ran" in f.reason for f in verdict.findings)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_gives_a_failed_run_with_the_signal_and_no_number(
    tiny_folder: Path, store_uri: str, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    done = hwbench(
        "run", "--model", str(tiny_folder), *SMOKE, "--backend", target(adversaries.KilledInTheMiddle), cwd=tmp_path
    )
    assert done.returncode == 1
    assert "killed by SIGKILL" in only(said(done.stderr))
    assert not done.stdout
    (run,) = MlflowClient(store_uri).search_runs(["0"])
    assert run.info.status == "FAILED"
    assert run.data.tags["hwbench.failure_category"] == "crash"
    assert "killed by SIGKILL while running the first inference" in run.data.tags["hwbench.failure_reason"]
    assert run.data.metrics == {}
    assert performance(run.data.metrics) == []


def request(kind: type, folder: Path) -> RunRequest:
    return RunRequest(
        platform=Platform.CPU, device=None, workload=Workload(model=str(folder)), profile=PROFILES["smoke"],
        threads=None, backend=target(kind),
    )  # fmt: skip


def probed(kind: type, timeout_s: float = 60.0) -> probing.Availability:
    (answer,) = probing.probe_isolated([Platform.CPU], timeout_s, backends={Platform.CPU: target(kind)})
    return answer


def test_a_probe_that_crashes_is_that_platform_s_failure_for_devices_and_for_a_run(tiny_folder: Path) -> None:
    answer = probed(adversaries.CrashingProbe)
    assert (answer.status, "SIGSEGV" in answer.reason) == (PROBE_FAILED, True)
    with pytest.raises(HardwareUnavailable, match="killed by SIGSEGV") as caught:
        runner.run(request(adversaries.CrashingProbe, tiny_folder))
    assert caught.value.availability.status is PROBE_FAILED
    assert caught.value.availability.probe_id
    assert not caught.value.availability.verified


def test_a_probe_that_hangs_is_ended_for_devices_and_for_a_run(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = probed(adversaries.HangingProbe, timeout_s=3.0)
    assert (answer.status, "did not answer within 3 s" in answer.reason) == (PROBE_FAILED, True)
    monkeypatch.setattr(runner, "PROBE_TIMEOUT_S", 3.0)
    with pytest.raises(HardwareUnavailable, match="said nothing for 3 s while probing cpu") as caught:
        runner.run(request(adversaries.HangingProbe, tiny_folder))
    assert caught.value.availability.status is PROBE_FAILED


def test_a_probe_that_boasts_without_an_operation_that_ran_is_not_believed(tiny_folder: Path) -> None:
    answer = probed(adversaries.BoastingProbe)
    assert (answer.status, answer.verified) == (PROBE_FAILED, False)
    with pytest.raises(HardwareUnavailable, match="without an operation that ran"):
        runner.run(request(adversaries.BoastingProbe, tiny_folder))


@pytest.mark.slow
def test_a_probe_that_prints_spoils_neither_its_answer_nor_a_run(tiny_folder: Path) -> None:
    assert probed(adversaries.NoisyProbe).verified
    measured = runner.run(request(adversaries.NoisyProbe, tiny_folder))
    assert measured.result.availability.verified
    assert measured.samples.workers[0].samples_ns
