"""What others do on the machine: counted without ours, named so that no terminal obeys it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from hwbench_mlflow import neighbours
from hwbench_mlflow.neighbours import Look, Others, busy_warning

ME = os.getpid()
SPIN = "import time; end = time.time() + 60\nwhile time.time() < end: pass"


class Machine:
    """A machine of made-up processes: (pid, parent, name, own seconds, seconds of children that it waited for)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[tuple[int, int, str, float, float]] = []
        self.busy, self.stolen = 0.0, None if sys.platform == "darwin" else 0.0
        self.now = 0.0
        monkeypatch.setattr(neighbours, "_walk", self.walk)
        monkeypatch.setattr(neighbours, "machine_cpu_seconds", lambda _: (self.busy, self.stolen, 2 * self.now))
        monkeypatch.setattr(neighbours, "counter_places", lambda cores: tuple(range(len(cores))))
        monkeypatch.setattr(neighbours.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(neighbours.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def walk(self) -> Any:
        return {
            (pid, float(pid)): neighbours._Seen(parent, name, own, own + reaped)
            for pid, parent, name, own, reaped in self.rows
        }


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_what_we_and_our_children_take_is_ours_and_the_rest_others(machine: Machine) -> None:
    machine.rows = [(ME, 1, "hwbench", 5.0, 90.0), (70, ME, "python", 50.0, 0.0), (80, 1, "stress", 40.0, 0.0)]
    look = Look((0, 1))
    machine.now, machine.busy = 2.0, 3.5
    # One child has ended and was waited for, and another has come with one of its own.
    machine.rows = [
        (ME, 1, "hwbench", 5.1, 140.4), (71, ME, "python", 0.7, 0.0), (72, 71, "chromium", 0.3, 0.0),
        (80, 1, "stress", 41.8, 0.0),
    ]  # fmt: skip
    found = look.others()
    assert (round(found.cores, 3), found.of, found.most, found.pid) == (1.0, 2, "'stress'", 80)
    assert found.most_cores == pytest.approx(0.9)
    assert found.busy


def test_with_cores_of_its_own_only_this_process_and_its_worker_are_ours(machine: Machine) -> None:
    machine.rows = [(ME, 1, "hwbench", 0.0, 0.0), (70, ME, "worker", 0.0, 0.0), (71, ME, "on other cores", 0.0, 0.0)]
    look = Look((0,), 70)
    machine.now, machine.busy = 1.0, 1.0
    machine.rows = [(ME, 1, "hwbench", 0.0, 0.0), (70, ME, "worker", 0.2, 0.0), (71, ME, "on other cores", 0.9, 0.0)]
    assert look.others().cores == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("stolen", "most"),
    [(0.0, None), (0.9, "other guests of its hypervisor"), (None, None)],
    ids=["short-lived", "stolen", "steal is not told"],
)
def test_what_no_process_took_is_named_after_none(machine: Machine, stolen: float | None, most: str | None) -> None:
    machine.stolen = None if stolen is None else 0.0
    machine.rows = [(80, 1, "make", 0.0, 0.0)]
    look = Look((0, 1))
    machine.now, machine.busy, machine.stolen = 1.0, 1.0, stolen
    machine.rows = [(80, 1, "make", 0.1, 0.0)]
    found = look.others()
    assert (found.most, found.pid) == (most, None)
    assert ("no process that lives for long" in str(found)) is (most is None)


def test_cores_without_counters_of_their_own_are_looked_at_with_the_whole_machine(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "counter_places", lambda cores: (0, 1) if cores == (2, 3) else None)
    monkeypatch.setattr(neighbours.psutil, "cpu_count", lambda: 4)
    assert [Look(cores).others().of for cores in ((2, 3), (16, 17))] == [2, 4]


def test_a_look_that_is_too_short_is_waited_out(machine: Machine) -> None:
    look = Look((0, 1))
    machine.busy = 0.15
    assert look.others().cores == pytest.approx(0.15 / neighbours.SHORTEST_LOOK_S)
    assert machine.now == pytest.approx(neighbours.SHORTEST_LOOK_S)


def test_a_calm_machine_is_no_warning_and_a_busy_one_is_one_line_that_a_terminal_does_not_obey() -> None:
    assert busy_warning(Others(cores=neighbours.BUSY_CORES, of=64)) is None
    name = neighbours._escaped("\x1b[2Jst\u202eress\n" + "x" * 100)
    line = busy_warning(Others(cores=1.04, of=64, most=name, most_cores=1.0, pid=9))
    assert line is not None
    assert line.isprintable()
    assert line.startswith("this machine is busy: other processes take 1.0 of 64 cores, most of it '")
    assert "'\\x1b[2Jst\\u202eress\\nx" in line
    assert len(name) == neighbours.NAME_CHARACTERS + 2


def test_a_real_neighbour_is_seen_and_a_real_child_is_not() -> None:
    look = Look()
    child = subprocess.Popen([sys.executable, "-c", SPIN])
    orphan = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SPIN!r}], stdout=2).pid)"
    started = subprocess.run([sys.executable, "-c", orphan], check=True, stdout=subprocess.PIPE, text=True)
    other = psutil.Process(int(started.stdout))
    try:
        while other.cpu_times().user < 0.1 or psutil.Process(child.pid).cpu_times().user < 0.1:
            time.sleep(0.02)
        walk = neighbours._walk()
        by_pid = {key[0]: key for key in walk}
        ours = look._ours(walk)
        assert by_pid[child.pid] in ours
        assert by_pid[other.pid] not in ours
        assert look._since(by_pid[other.pid], walk[by_pid[other.pid]]) >= 0.1
        assert look._ours_s(walk) - look._ours_s(look._before) >= 0.1
        assert look.others().cores > 0
    finally:
        other.kill()
        child.kill()
        child.wait()
