"""Looking at the machine while a worker measures: power, temperature, memory, other processes.

Owns the sampler thread of the parent and the differences over a window. Runs in the parent, never in
the worker: it takes under 1% of one core (a look costs 0.3 to 0.5 ms with cold caches, ten times a second;
``tests/benchmarks/overhead.py`` measures it).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from hwbench_mlflow.host import cpu_throttle_events
from hwbench_mlflow.model import SystemSample
from hwbench_mlflow.supervise import counter_places, machine_cpu_seconds

INTERVAL_S = 0.1
POWERCAP = Path("/sys/class/powercap")

THROTTLE_BITS = {
    0x0000000000000004: "power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000020: "software thermal slowdown",
    0x0000000000000040: "hardware thermal slowdown",
    0x0000000000000080: "power brake",
}
"""NVML's nvmlClocksEventReason* bits that mean the device was held back (nvml.h)."""


class GpuWatch:
    """NVML's view of one NVIDIA device, by UUID. Only made where there is one."""

    def __init__(self, nvml: ModuleType, uuid: str) -> None:
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)

    @classmethod
    def of(cls, uuid: str | None) -> GpuWatch | None:
        """A watch of that device, or None where NVML does not know it."""
        if uuid is None:
            return None
        try:
            import pynvml

            pynvml.nvmlInit()
            return cls(pynvml, uuid)
        except (ImportError, OSError):
            return None
        except pynvml.NVMLError:
            return None

    def _read(self, name: str, *arguments: object) -> Any:
        """One value of the device, or None where this device does not report it."""
        try:
            return getattr(self._nvml, name)(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None

    def power_w(self) -> float | None:
        """Board power, watts."""
        milliwatts = self._read("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1000

    def utilization(self) -> float | None:
        """Share of the last sampling period in which a kernel ran, 0..1."""
        rates = self._read("nvmlDeviceGetUtilizationRates")
        return None if rates is None else rates.gpu / 100

    def temperature_c(self) -> float | None:
        """Core temperature, degrees Celsius."""
        value = self._read("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU)
        return None if value is None else float(value)

    def clock_mhz(self) -> float | None:
        """Clock of the multiprocessors, MHz."""
        value = self._read("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM)
        return None if value is None else float(value)

    def throttle_reasons(self) -> tuple[str, ...]:
        """What holds the device back now, in words."""
        bits = self._read("nvmlDeviceGetCurrentClocksEventReasons")
        return tuple(text for bit, text in THROTTLE_BITS.items() if bits is not None and bits & bit)

    def processes(self) -> tuple[int, ...]:
        """Processes with a context on the device."""
        running = self._read("nvmlDeviceGetComputeRunningProcesses")
        return tuple(process.pid for process in running) if running is not None else ()


@dataclass(frozen=True, slots=True)
class WindowConditions:
    """Differences over one timed window. None: this machine does not say."""

    wall_s: float
    steal_fraction: float | None
    foreign_cpu_fraction: float | None
    involuntary_switches: int | None
    throttle_events: int | None
    throttle_reasons: tuple[str, ...]
    foreign_device_pids: tuple[int, ...]
    package_joules: float | None
    integrated_joules: float | None


@dataclass(frozen=True, slots=True)
class _Counters:
    busy_s: float
    steal_s: float | None
    total_s: float
    ours_s: float | None
    switches: int | None
    throttles: int | None
    package_uj: dict[str, int] | None


class Sampler:
    """Looks at the machine from :meth:`start` to :meth:`stop`, on a thread of the parent."""

    def __init__(
        self,
        pid: int,
        worker: int,
        clock: Callable[[], int],
        gpu: GpuWatch | None,
        cores: Sequence[int] | None = None,
    ) -> None:
        """``cores``: what the worker is pinned to; then what others do elsewhere is no disturbance. Where the system
        does not count those cores under their numbers, what others did is unknown."""
        self._process = psutil.Process(pid)
        self._parent = psutil.Process()
        self._worker = worker
        self._clock = clock
        self._gpu = gpu
        self._places = None if cores is None else counter_places(cores)
        self._is_counted = cores is None or self._places is not None
        self._has_frequency = _frequency_mhz() is not None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True, name="hwbench-sampler")
        self._begin_ns = 0
        self._before: _Counters | None = None
        self._throttled: set[str] = set()
        self._foreign: set[int] = set()
        self.samples: list[SystemSample] = []

    def start(self) -> None:
        """Read the counters and start looking."""
        psutil.cpu_percent(None)
        self._before = self._counters()
        self._begin_ns = self._clock()
        self._thread.start()

    def stop(self) -> WindowConditions:
        """Stop looking; what changed since the start."""
        wall_s = (self._clock() - self._begin_ns) / 1e9
        after = self._counters()
        self._stop.set()
        self._thread.join()
        before = self._before
        assert before is not None
        total = after.total_s - before.total_s
        ours = _minus(after.ours_s, before.ours_s) if self._is_counted else None
        steal = _minus(after.steal_s, before.steal_s) if self._is_counted else None
        return WindowConditions(
            wall_s=wall_s,
            steal_fraction=steal / total if steal is not None and total > 0 else None,
            foreign_cpu_fraction=max(0.0, (after.busy_s - before.busy_s - ours) / total)
            if ours is not None and total > 0
            else None,
            involuntary_switches=_minus(after.switches, before.switches),
            throttle_events=_minus(after.throttles, before.throttles),
            throttle_reasons=tuple(sorted(self._throttled)),
            foreign_device_pids=tuple(sorted(self._foreign)),
            package_joules=_package_joules(before.package_uj, after.package_uj),
            integrated_joules=self._integrate(),
        )

    def _loop(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            try:
                rss = self._process.memory_info().rss
            except psutil.NoSuchProcess:
                return
            gpu = self._gpu
            self.samples.append(
                SystemSample(
                    worker=self._worker,
                    t_ns=self._clock(),
                    cpu_percent=psutil.cpu_percent(None),
                    rss_bytes=rss,
                    freq_mhz=_frequency_mhz() if self._has_frequency else None,
                    device_power_w=gpu.power_w() if gpu else None,
                    device_utilization=gpu.utilization() if gpu else None,
                    device_temperature_c=gpu.temperature_c() if gpu else None,
                    device_clock_mhz=gpu.clock_mhz() if gpu else None,
                )
            )
            if gpu:
                self._throttled.update(gpu.throttle_reasons())
                running = gpu.processes()
                # In a container NVML may list host pids: where ours is not among them, none can be called foreign.
                if self._process.pid in running:
                    self._foreign.update(pid for pid in running if pid != self._process.pid)

    def _counters(self) -> _Counters:
        busy, steal, total = machine_cpu_seconds(self._places)
        ours: float | None
        switches: int | None
        try:
            # The worker's children work for it: a browser, say.
            mine = [self._process, self._parent, *self._process.children(recursive=True)]
            ours = sum(times.user + times.system for times in map(_cpu_times, mine))
            switches = self._process.num_ctx_switches().involuntary
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            ours = switches = None
        return _Counters(
            busy_s=busy,
            steal_s=steal,
            total_s=total,
            ours_s=ours,
            switches=switches,
            throttles=cpu_throttle_events(),
            package_uj=_package_microjoules(),
        )

    def _integrate(self) -> float | None:
        """Trapezoids of the device's power over the window; its ends take the nearest sample."""
        points = [(s.t_ns, s.device_power_w) for s in self.samples if s.device_power_w is not None]
        if len(points) < 2:
            return None
        joules = sum((b[0] - a[0]) / 1e9 * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
        return joules + (points[0][0] - self._begin_ns) / 1e9 * points[0][1]


def _cpu_times(process: psutil.Process) -> Any:
    return process.cpu_times()


def _minus(after: Any, before: Any) -> Any:
    return None if after is None or before is None else after - before


def _frequency_mhz() -> float | None:
    try:
        return int(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq").read_text()) / 1000
    except (OSError, ValueError):
        return None


def _package_microjoules() -> dict[str, int] | None:
    """RAPL's energy counters of the CPU packages (Linux powercap); None where they cannot be read."""
    found = {}
    for zone in sorted(POWERCAP.glob("intel-rapl:?")):
        try:
            found[zone.name] = int((zone / "energy_uj").read_text())
        except (OSError, ValueError):
            return None
    return found or None


def _package_joules(before: dict[str, int] | None, after: dict[str, int] | None) -> float | None:
    """None too where a counter wrapped: a difference that cannot be told is not told."""
    if before is None or after is None or before.keys() != after.keys():
        return None
    deltas = [after[name] - before[name] for name in before]
    return sum(deltas) / 1e6 if min(deltas) >= 0 else None
