"""Lanes: in order within one, side by side between them, and all of them end together."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from hwbench_mlflow import host, sampling, supervise
from hwbench_mlflow.errors import BenchmarkFailed, Interrupted
from hwbench_mlflow.lanes import Stopping, run_lanes
from hwbench_mlflow.model import Device, Platform
from hwbench_mlflow.runner import lock_parts
from hwbench_mlflow.supervise import (
    WorkerProcess,
    counter_places,
    device_lock,
    machine_cpu_seconds,
    pinned,
    stoppable,
)


def test_a_lane_is_worked_in_order_and_each_ends_once() -> None:
    seen: list[tuple[str, int]] = []
    ended: list[str] = []
    lanes = {"a": [1, 2, 3], "b": [4, 5]}
    run_lanes(lanes, lambda lane, item, stopping: seen.append((lane, item)), ended.append, 2)
    assert [item for lane, item in seen if lane == "a"] == [1, 2, 3]
    assert [item for lane, item in seen if lane == "b"] == [4, 5]
    assert sorted(ended) == ["a", "b"]


def test_no_more_lanes_than_workers_are_at_work() -> None:
    at_work: list[str] = []
    most: list[int] = []

    def work(lane: str, item: int, stopping: Stopping) -> None:
        at_work.append(lane)
        most.append(len(at_work))
        time.sleep(0.01)
        at_work.remove(lane)

    run_lanes({name: [1, 2] for name in "abcd"}, work, lambda lane: None, 2)
    assert max(most) <= 2
    assert len(most) == 8


def test_an_error_in_one_lane_stops_the_others_and_is_raised() -> None:
    begun = threading.Event()
    stopped: list[bool] = []

    def work(lane: str, item: int, stopping: Stopping) -> None:
        if lane == "bad":
            begun.wait(10)
            raise ValueError("it broke")
        begun.set()
        stopping.pause(20)
        stopped.append(bool(stopping))

    ended: list[str] = []
    with pytest.raises(ValueError, match="it broke"):
        run_lanes({"bad": [1], "long": [1, 2, 3]}, work, ended.append, 2)
    assert (stopped, sorted(ended)) == ([True], ["bad", "long"])


def test_told_to_stop_workers_are_killed_and_no_new_one_starts() -> None:
    with stoppable() as stop:
        worker = WorkerProcess()
        stop()
        assert worker.wait(10).returncode == -9
        worker.close()
        with pytest.raises(Interrupted, match="told to stop"):
            WorkerProcess()
    later = WorkerProcess()
    later.close()


def test_who_waits_for_a_lock_ends_when_told_to_stop() -> None:
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            with device_lock("held", lambda text: None):
                pass
        except Interrupted as error:
            errors.append(error)

    with device_lock("held", print), stoppable() as stop:
        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.1)
        stop()
        waiter.join(10)
        assert not waiter.is_alive()
    assert len(errors) == 1


def test_devices_that_share_a_part_wait_for_each_other_and_others_do_not() -> None:
    told: list[str] = []
    code = """
from hwbench_mlflow.supervise import device_lock
with device_lock("cpu", lambda text: print(text, flush=True), ["cpu-1", "cpu-2"]):
    pass
"""
    with device_lock("cpu", told.append, ["cpu-0", "cpu-1"]):
        with device_lock("cpu", told.append, ["cpu-2", "cpu-3"]):
            assert told == []
        other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "another benchmark is running on cpu: waiting for it to end\n"
    other.communicate(timeout=30)
    assert other.returncode == 0


def test_a_processor_s_locks_are_its_physical_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    siblings = {0: "0,4", 4: "0,4", 1: "1-5", 5: "1-5"}
    monkeypatch.setattr(host, "_read", lambda path: siblings.get(int(str(path).split("/cpu")[-1].split("/")[0])))
    assert host.physical_cores([4, 5, 9]) == (0, 1, 9)
    cpu = Device(platform=Platform.CPU, id="cpu", name="c")
    assert lock_parts(cpu, [4, 1]) == ("cpu-0", "cpu-1")
    assert lock_parts(Device(platform=Platform.CUDA, id="cuda:0", name="g", uuid="GPU-0"), [1]) == ()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins nothing")
def test_what_starts_in_the_block_runs_on_those_cores_alone_and_others_are_refused() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    with pinned([core]):
        said = subprocess.check_output([sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"], text=True)
        assert said.strip() == f"{{{core}}}"
        assert host.usable_cores() == (core,)
    assert os.sched_getaffinity(0) == before
    with pytest.raises(BenchmarkFailed, match="cores 4096 are not to be had here"), pinned([4096]):
        raise AssertionError("it was pinned")


def test_the_time_of_one_core_is_part_of_the_machine_s() -> None:
    assert host.usable_cores() is None or counter_places(host.usable_cores() or ()) is not None
    busy, _, everything = machine_cpu_seconds([0])
    assert 0 <= busy <= everything < machine_cpu_seconds()[2] or os.cpu_count() == 1


STAT = """cpu  40 0 8 300 0 0 0 0 0 0
cpu0 10 0 2 100 0 0 0 0 0 0
cpu2 10 0 2 100 0 0 0 5 0 0
cpu16 20 0 4 100 0 0 0 0 0 0
intr 4 1 2
ctxt 1
"""
"""Linux's own, of a machine whose cores 1 and 3 to 15 are offline."""


def test_a_core_s_counter_is_found_by_its_number_where_others_are_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stat").write_text(STAT)
    monkeypatch.setattr(supervise, "PROC_STAT", tmp_path / "stat")
    assert counter_places([2, 16]) == (1, 2)
    assert counter_places([0, 1]) is None
    if sys.platform == "linux":
        monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
        ticks = os.sysconf("SC_CLK_TCK")
        assert machine_cpu_seconds(counter_places([2, 16])) == pytest.approx((36 / ticks, 5 / ticks, 241 / ticks))


def test_what_others_did_on_cores_that_are_not_counted_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "counter_places", lambda cores: None if cores == [7] else (0,))
    found = []
    for cores in ([7], [0], None):
        sampler = sampling.Sampler(os.getpid(), 0, time.monotonic_ns, None, cores)
        sampler.start()
        end = time.monotonic() + 0.1  # a tick of the counters is 10 ms
        while time.monotonic() < end:
            pass
        found.append(sampler.stop())
    assert [(f.foreign_cpu_fraction is None, f.steal_fraction is None) for f in found] == [
        (True, True), (False, sys.platform != "linux"), (False, sys.platform != "linux"),
    ]  # fmt: skip
