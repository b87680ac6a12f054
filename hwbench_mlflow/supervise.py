"""A worker process as its parent sees it, the machine around it, and one lock a device.

Owns spawning, the parent's clock, the operating system's accounting, time limits, and what a worker's
death means. Knows nothing of models or of what is measured.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import filelock
import msgspec
import platformdirs
import psutil

from hwbench_mlflow import protocol
from hwbench_mlflow.errors import BenchmarkFailed, Interrupted
from hwbench_mlflow.model import FailureCategory

EventT = TypeVar("EventT", bound=protocol.Event)

GRACE_SECONDS = 5.0
LOCK_LOOK_SECONDS = 1.0
PROC_STAT = Path("/proc/stat")

_living: set[WorkerProcess] = set()
_stopping = threading.Event()


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended, by the operating system. ``returncode`` is negative for a signal."""

    returncode: int
    at_ns: int
    cpu_ns: int | None
    max_rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class Seen:
    """An event and when it reached the parent, ns since the spawn."""

    event: protocol.Event
    at_ns: int


class WorkerProcess:
    """One fresh process. Times are ns on the parent's monotonic clock since the spawn."""

    def __init__(self) -> None:
        _refuse_when_stopping()
        # A file, not a pipe: a vendor's library that prints a lot must not block, nor wake the parent.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the worker; close() ends it
        self._oom_kills = _oom_kills()
        self._origin = time.perf_counter_ns()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hwbench_mlflow.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env=worker_environment(),
        )
        self._exit: Exit | None = None
        _living.add(self)
        self._lines: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True, name="hwbench-worker-events")
        self._reader.start()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def now_ns(self) -> int:
        """The parent's clock."""
        return time.perf_counter_ns() - self._origin

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put((self.now_ns(), line))
        self._lines.put((self.now_ns(), b""))

    def say(self, command: protocol.Command) -> int:
        """Send a command; returns the parent's clock from just before."""
        assert self._process.stdin is not None
        at_ns = self.now_ns()
        try:
            self._process.stdin.write(protocol.write(command))
            self._process.stdin.flush()
        except BrokenPipeError:
            self._raise_death()
        return at_ns

    def expect(self, kind: type[EventT], timeout_s: float, doing: str) -> tuple[EventT, int]:
        """The next event, which has to be of that kind, and when it came.

        Raises :class:`BenchmarkFailed` for what the worker says, for its death and for silence.
        """
        try:
            at_ns, line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self.kill()
            raise BenchmarkFailed(
                f"the worker said nothing for {timeout_s:.0f} s while {doing}", FailureCategory.TIMEOUT
            ) from None
        if not line:
            self._raise_death(doing)
        try:
            event = protocol.read_event(line)
        except msgspec.DecodeError as error:
            self.kill()
            raise BenchmarkFailed(f"the worker sent nonsense while {doing}: {error}", FailureCategory.CRASH) from error
        if isinstance(event, protocol.Failed):
            self.wait()
            raise BenchmarkFailed(event.message, event.category, remedy=event.remedy)
        if not isinstance(event, kind):
            self.kill()
            raise BenchmarkFailed(f"the worker sent {type(event).__name__} while {doing}", FailureCategory.CRASH)
        return event, at_ns

    def wait(self, timeout_s: float = 60.0) -> Exit:
        """Reap the worker, with its CPU time and peak memory where the system accounts them."""
        if self._exit is not None:
            return self._exit
        if not hasattr(os, "wait4"):  # Windows
            code = self._process.wait(timeout_s)
            self._exit = Exit(returncode=code, at_ns=self.now_ns(), cpu_ns=None, max_rss_bytes=None)
            return self._exit
        deadline = time.monotonic() + timeout_s
        while True:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
                deadline = float("inf")
            time.sleep(0.005)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code
        rss_unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB elsewhere
        self._exit = Exit(
            returncode=code,
            at_ns=self.now_ns(),
            cpu_ns=round((usage.ru_utime + usage.ru_stime) * 1e9),
            max_rss_bytes=usage.ru_maxrss * rss_unit,
        )
        return self._exit

    def kill(self) -> None:
        """End the worker and everything it started; safe to call at any time."""
        if self._exit is None:
            self._signal(signal.SIGKILL)
            self.wait(GRACE_SECONDS)

    def close(self) -> None:
        """Kill what is left and give the files back."""
        self.kill()
        _living.discard(self)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._reader.join(GRACE_SECONDS)
        self._errors.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, number)
            else:
                self._process.kill()

    def _raise_death(self, doing: str = "working") -> None:
        ended = self.wait()
        last = self.last_words()
        said = f": {last}" if last else ""
        if ended.returncode < 0:
            name = signal.Signals(-ended.returncode).name
            if ended.returncode == -signal.SIGKILL and _oom_kills() != self._oom_kills:
                raise BenchmarkFailed(
                    f"the system killed the worker while {doing}: out of memory",
                    FailureCategory.OUT_OF_MEMORY,
                    remedy="Take a smaller batch, length or model",
                )
            raise BenchmarkFailed(f"the worker was killed by {name} while {doing}{said}", FailureCategory.CRASH)
        raise BenchmarkFailed(
            f"the worker ended with exit code {ended.returncode} while {doing}{said}", FailureCategory.CRASH
        )

    def last_words(self) -> str:
        """The last line of the worker's standard error."""
        lines = self.stderr().strip().splitlines()
        return lines[-1][:500] if lines else ""

    def stderr(self) -> str:
        """What the worker printed, its last 64 KiB."""
        with open(os.dup(self._errors.fileno()), "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 65536))
            return stream.read().decode("utf-8", "replace")


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Gives what ends every worker of this process, and refuses new ones until the block is left.

    For measurements on several threads: a signal reaches the main one alone.
    """

    def stop() -> None:
        _stopping.set()
        for worker in list(_living):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)

    _stopping.clear()
    try:
        yield stop
    finally:
        _stopping.clear()


def _refuse_when_stopping() -> None:
    if _stopping.is_set():
        raise Interrupted("told to stop")


@contextlib.contextmanager
def pinned(cores: Sequence[int] | None) -> Iterator[None]:
    """Let this thread, and the processes that it starts in the block, run on those logical cores alone.

    Raises BenchmarkFailed for cores that are not there or not ours, and where the system pins nothing.
    """
    if cores is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise BenchmarkFailed("this system cannot pin processes to cores", FailureCategory.USAGE)
    before = os.sched_getaffinity(0)
    if not set(cores) <= before:
        raise BenchmarkFailed(
            f"cores {','.join(map(str, sorted(set(cores) - before)))} are not to be had here",
            FailureCategory.USAGE,
            remedy=f"There are: {','.join(map(str, sorted(before)))}",
        )
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def worker_environment() -> dict[str, str]:
    """The parent's environment, with this package importable from wherever the parent found it."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, path] if path else [root]),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "1",  # the parent has fetched what there is; no worker waits for a network
        "TRANSFORMERS_VERBOSITY": os.environ.get("TRANSFORMERS_VERBOSITY", "error"),
    }


def _oom_kills() -> int | None:
    """How often the kernel has killed for memory since boot, of this control group where it says."""
    for path in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        try:
            text = Path(path).read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


@contextlib.contextmanager
def device_lock(name: str, waiting: Callable[[str], None], parts: Sequence[str] = ()) -> Iterator[None]:
    """Hold the lock of one device of this machine. Benchmarks side by side on it disturb each other.

    ``waiting`` is told once when somebody else holds it. The lock goes with the process that holds it. A device of
    ``parts`` is held by its parts, which other devices may share: the cores of a CPU.
    """
    told = False
    with contextlib.ExitStack() as held:
        for part in sorted(parts) or [name]:  # in one order, so that no two wait for each other
            lock = filelock.FileLock(
                lock_folder() / ("".join(c if c.isalnum() or c in "-._" else "_" for c in part) + ".lock")
            )
            while True:
                try:
                    lock.acquire(timeout=LOCK_LOOK_SECONDS if told else 0)
                    break
                except filelock.Timeout:
                    if not told:
                        waiting(f"another benchmark is running on {name}: waiting for it to end")
                    told = True
                    _refuse_when_stopping()
            held.callback(lock.release)
        yield


def lock_folder() -> Path:
    """Where the locks of this machine's devices are, made if it is not there."""
    base = os.environ.get("HWBENCH_HOME")
    folder = (Path(base) if base else Path(platformdirs.user_state_dir("hwbench"))) / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def counter_places(cores: Sequence[int]) -> tuple[int, ...] | None:
    """Where each of those cores stands among the system's counters, for :func:`machine_cpu_seconds`.

    Linux leaves out cores that are offline, so a core's number is not its place. None where a core has no counter of
    its number: a container may be shown its own cores under other numbers.
    """
    try:
        shown = [int(number) for number in re.findall(r"^cpu(\d+) ", PROC_STAT.read_text(), re.MULTILINE)]
    except OSError:  # not Linux
        shown = list(range(len(psutil.cpu_times(percpu=True))))
    places = {core: place for place, core in enumerate(shown)}
    return tuple(places[core] for core in cores) if places.keys() >= set(cores) else None


def machine_cpu_seconds(places: Sequence[int] | None = None) -> tuple[float, float | None, float]:
    """CPU seconds of the machine, or of the cores at those places alone (:func:`counter_places`), since boot: busy,
    stolen (None where unknown), and all."""
    if places is not None:
        each = psutil.cpu_times(percpu=True)
        parts = [_cpu_seconds(each[place]) for place in places]
        stolen = [part[1] for part in parts if part[1] is not None]
        return sum(p[0] for p in parts), sum(stolen) if len(stolen) == len(parts) else None, sum(p[2] for p in parts)
    return _cpu_seconds(psutil.cpu_times())


def _cpu_seconds(times: Any) -> tuple[float, float | None, float]:
    steal: float | None = getattr(times, "steal", None)
    idle = times.idle + getattr(times, "iowait", 0.0)
    everything = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return everything - idle - (steal or 0.0), steal, everything
