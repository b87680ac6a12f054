"""What others do on this machine just before a measurement, and which of them does most.

Owns the look at other processes' CPU time, and the line that says so. Ours are this process and all that it started.
Nothing is refused for it: what the window itself saw is in the result's conditions. Knows no model and no device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from hwbench_mlflow.host import usable_cores
from hwbench_mlflow.supervise import counter_places, machine_cpu_seconds

BUSY_CORES = 0.5
"""Above it the machine is busy, however many cores it has: a parallel region waits for the slowest of its threads, and
OpenMP's threads spin while they wait. One busy process beside two threads on two cores made them 100 times slower."""

SHORTEST_LOOK_S = 0.2
"""A kernel counts CPU time in ticks of 10 ms: over less than this, a look says nothing."""

NAMED_SHARE = 0.25
"""Of what others took: a process that took less of it is not what makes the machine busy."""

NAME_CHARACTERS = 40
HYPERVISOR = "other guests of its hypervisor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """What others took, in cores' worth of CPU time, of the ``of`` cores that we may use; stolen time is among it.

    ``most`` names the largest of them, escaped, with its share and, of a process, its pid; None where no one process
    took much: many short ones, or another container's.
    """

    cores: float
    of: int
    most: str | None = None
    most_cores: float | None = None
    pid: int | None = None

    @property
    def busy(self) -> bool:
        """Whether a measurement would feel it."""
        return self.cores > BUSY_CORES

    def __str__(self) -> str:
        """``other processes take 1.2 of 2 cores, most of it 'stress' (process 4711, 1.0)``."""
        if self.most is None:
            who = "no process that lives for long, or that can be seen from here"
        else:
            who = self.most if self.pid is None else f"{self.most} (process {self.pid}, {self.most_cores:.1f})"
        return f"other processes take {self.cores:.1f} of {self.of} cores, most of it {who}"


def busy_warning(others: Others) -> str | None:
    """The line to give before a measurement; None where the machine is calm."""
    if not others.busy:
        return None
    return f"this machine is busy: {others}; times may be far longer than on a calm one"


@dataclass(frozen=True, slots=True)
class _Seen:
    """A process at one moment: CPU seconds of its own, and with those of children that it has waited for."""

    parent: int
    name: str
    own_s: float
    with_reaped_s: float


_Walk = dict[tuple[int, float], _Seen]
"""Processes by pid and start: pids are given again."""


class Look:
    """From now until :meth:`others` is asked. Costs two walks over the processes, 5 ms for a hundred of them."""

    def __init__(self, cores: Sequence[int] | None = None, worker: int | None = None) -> None:
        """``cores``: those that are measured on; all that may be used if not given. Where they are given, ours is only
        what this process and ``worker``'s tree take: what else we started has other cores."""
        looked_at = cores if cores is not None else usable_cores()
        # Where their counters cannot be told apart, the whole machine is looked at.
        self._places = None if looked_at is None else counter_places(looked_at)
        self._count = len(self._places) if self._places is not None else psutil.cpu_count() or 1
        self._worker = worker if cores is not None else None
        self._before = _walk()
        self._machine = machine_cpu_seconds(self._places)
        self._begun = time.monotonic()

    def others(self) -> Others:
        """What others took since. Waits where that was too short a time ago to tell."""
        time.sleep(max(0.0, SHORTEST_LOOK_S - (time.monotonic() - self._begun)))
        seconds = time.monotonic() - self._begun
        busy, stolen, _ = machine_cpu_seconds(self._places)
        after = _walk()
        took = busy - self._machine[0] - max(0.0, self._ours_s(after) - self._ours_s(self._before))
        lost = stolen - self._machine[1] if stolen is not None and self._machine[1] is not None else 0.0
        cores = max(0.0, took + lost) / seconds
        ours = self._ours(after)
        rows = [(self._since(key, seen), key[0], seen.name) for key, seen in after.items() if key not in ours]
        largest, pid, name = max([*rows, (lost, None, HYPERVISOR)], key=lambda row: row[0])
        if largest / seconds < NAMED_SHARE * cores or largest <= 0:
            return Others(cores=cores, of=self._count)
        shown = name if pid is None else _escaped(name)
        return Others(cores=cores, of=self._count, most=shown, most_cores=min(largest / seconds, cores), pid=pid)

    def _ours(self, walk: _Walk) -> set[tuple[int, float]]:
        """This process and its descendants; or this one, and the worker's tree."""
        me = os.getpid()
        children: dict[int, list[tuple[int, float]]] = {}
        for key, seen in walk.items():
            children.setdefault(seen.parent, []).append(key)
        found = {key for key in walk if key[0] == me}
        todo = [key for key in walk if key[0] == (me if self._worker is None else self._worker)]
        while todo:
            found.add(key := todo.pop())
            todo += [child for child in children.get(key[0], ()) if child not in found]
        return found

    def _ours_s(self, walk: _Walk) -> float:
        """CPU seconds of ours. With what was waited for: so they are not less when one has ended."""
        alone = None if self._worker is None else os.getpid()
        return sum(walk[key].own_s if key[0] == alone else walk[key].with_reaped_s for key in self._ours(walk))

    def _since(self, key: tuple[int, float], now: _Seen) -> float:
        """What a process took since the look began; all of it, if it has begun since."""
        before = self._before.get(key)
        return now.own_s - (before.own_s if before is not None else 0.0)


def _walk() -> _Walk:
    """Every process that can be seen."""
    found = {}
    for process in psutil.process_iter(["ppid", "name", "cpu_times", "create_time"]):
        said = process.info
        times = said["cpu_times"]
        if times is None:  # access denied (macOS)
            continue
        own = times.user + times.system
        reaped = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        found[process.pid, said["create_time"]] = _Seen(said["ppid"], said["name"] or "?", own, own + reaped)
    return found


def _escaped(name: str) -> str:
    """A process names itself, with whatever it likes: what a terminal would obey is spelled out."""
    spelled = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return f"'{spelled[:NAME_CHARACTERS]}'"
