"""The machine a benchmark ran on, and the counters that say what disturbed it.

Owns everything read from the operating system that is not a benchmarked device. Imports psutil and
the words of :mod:`.model`; no vendor SDK, no torch. Every reader returns None where this system does
not say: unknown is never zero.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from hwbench_mlflow.model import HostInfo

RECORDED_PACKAGES = (
    "hwbench-mlflow",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "openvino",
    "onnxruntime",
    "onnxruntime-qnn",
    "onnx",
    "onnxscript",
    "playwright",
    "mlflow",
    "nvidia-ml-py",
    "amdsmi",
    "psutil",
    "triton",
)
"""Distributions whose version can change a number or how it was recorded."""

_SALT = b"hwbench-mlflow host id v1\0"
# /etc/machine-id is confidential by machine-id(5): only a salted digest of it may leave the host.


@dataclass(frozen=True, slots=True)
class CpuTicks:
    """Cumulated scheduler ticks of the whole machine (``/proc/stat``): ``steal`` of ``total``."""

    steal: int
    total: int


def describe_host(directory: Path | None = None) -> HostInfo:
    """The machine, its software, and the git state of ``directory`` (the working directory)."""
    commit, dirty = git_state(directory or Path.cwd())
    return HostInfo(
        hostname=platform.node(),
        host_id=host_id(),
        os=_os_name(),
        kernel=platform.release(),
        machine=platform.machine(),
        cpu_name=cpu_name(),
        cpu_count_logical=psutil.cpu_count(logical=True) or os.cpu_count() or 1,
        cpu_count_physical=psutil.cpu_count(logical=False),
        memory_bytes=int(psutil.virtual_memory().total),
        boot_id=boot_id(),
        virtualization=virtualization(),
        python=platform.python_version(),
        packages=package_versions(),
        git_commit=commit,
        git_dirty=dirty,
    )


def _read(path: str | Path) -> str | None:
    """A small text file's content, stripped; None where it is absent, unreadable or empty."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _command(*arguments: str, cwd: Path | None = None, timeout_s: float = 5.0) -> str | None:
    """Standard output of a command; None if it is not there, fails, or takes too long."""
    executable = shutil.which(arguments[0])
    if executable is None:
        return None
    try:
        done = subprocess.run(
            (executable, *arguments[1:]), cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _os_name() -> str:
    if sys.platform == "linux":
        try:
            release = platform.freedesktop_os_release()
        except OSError:
            return "Linux"
        return release.get("PRETTY_NAME", "Linux")
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    return platform.platform(terse=True)


def _machine_identifier() -> tuple[str, str]:
    """Where the identifier comes from, and it. Weaker sources are named in the host id."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        if (found := _read(path)) is not None:
            return "", found
    if sys.platform == "darwin":
        listing = _command("ioreg", "-rd1", "-c", "IOPlatformExpertDevice") or ""
        for line in listing.splitlines():
            if "IOPlatformUUID" in line:
                return "", line.rpartition("=")[2].strip(' "')
    node = uuid.getnode()
    # RFC 9562 §6.10: a node id that is not a hardware address has its multicast bit set, and then
    # Python draws it anew in each process.
    if not node >> 40 & 1:
        return "mac-", f"{node:012x}"
    return "hostname-", platform.node()


def host_id() -> str:
    """A salted digest of the machine's identifier: the same machine gives the same value.

    A prefix (``mac-``, ``hostname-``) says that a weaker source than a machine id was all there was.
    Containers made from one image may share their machine id.
    """
    prefix, identifier = _machine_identifier()
    return prefix + hashlib.sha256(_SALT + identifier.encode()).hexdigest()[:32]


def boot_id() -> str | None:
    """What tells one boot of this machine from another."""
    if sys.platform == "darwin":
        return _command("sysctl", "-n", "kern.bootsessionuuid")
    return _read("/proc/sys/kernel/random/boot_id")


def _cpuinfo_field(name: str) -> str | None:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip() or None
    return None


def cpu_name() -> str:
    """The processor's name as the system gives it; the architecture where it gives none."""
    if sys.platform == "darwin" and (brand := _command("sysctl", "-n", "machdep.cpu.brand_string")):
        return brand
    name = _cpuinfo_field("model name") or _read("/proc/device-tree/model")
    return (name or platform.processor() or platform.machine()).strip("\0")


def cpu_vendor() -> str | None:
    """``AuthenticAMD``, ``GenuineIntel``, ...; None where the system does not say."""
    if sys.platform == "darwin":
        return _command("sysctl", "-n", "machdep.cpu.vendor") or "Apple"
    implementer = _cpuinfo_field("CPU implementer")
    return _cpuinfo_field("vendor_id") or (f"ARM implementer {implementer}" if implementer else None)


def cpu_emulation_reason() -> str | None:
    """Why this process's instructions are translated by software, or None if nothing says so.

    Hardware virtualisation is no emulation: the instructions run on the CPU itself.
    """
    name = _cpuinfo_field("model name") or ""
    if "TCG" in name:
        return f"the CPU calls itself {name!r}: QEMU's software translation"
    if sys.platform == "darwin" and _command("sysctl", "-n", "sysctl.proc_translated") == "1":
        return "this process runs under Rosetta translation"
    if platform.machine() in ("x86_64", "AMD64") and _cpuinfo_field("CPU implementer"):
        return "an x86-64 process on an ARM kernel: user-mode translation"
    return None


def virtualization() -> str | None:
    """What kind of guest this is, as far as files say: ``container:docker``, ``vm:QEMU``; None if nothing does."""
    found = []
    if (container := _container()) is not None:
        found.append(f"container:{container}")
    if "hypervisor" in (_cpuinfo_field("flags") or "").split():
        product = _read("/sys/class/dmi/id/sys_vendor") or _read("/sys/hypervisor/type")
        found.append(f"vm:{product or 'unknown hypervisor'}")
    return ", ".join(found) or None


def _container() -> str | None:
    if (named := _read("/run/systemd/container")) is not None:
        return named
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    return "kubernetes" if "KUBERNETES_SERVICE_HOST" in os.environ else None


def package_versions() -> dict[str, str]:
    """Versions of the recorded distributions that are installed; an absent one has no key."""
    found: dict[str, str] = {}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state(directory: Path) -> tuple[str | None, bool | None]:
    """The commit checked out in ``directory`` and whether tracked or new files differ from it."""
    commit = _command("git", "rev-parse", "--verify", "HEAD", cwd=directory)
    if not commit:
        return None, None
    status = _command("git", "status", "--porcelain", cwd=directory)
    return commit, None if status is None else bool(status)


def load_average() -> float | None:
    """Runnable processes, averaged over one minute."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def cpu_ticks() -> CpuTicks | None:
    """Ticks since boot. Guest time is already inside user and nice (proc_stat(5)), so it is left out."""
    first = (_read("/proc/stat") or "").partition("\n")[0].split()
    if len(first) < 9 or first[0] != "cpu":
        return None
    ticks = [int(field) for field in first[1:9]]
    return CpuTicks(steal=ticks[7], total=sum(ticks))


def cpu_governor() -> str | None:
    """The frequency governors in force, joined with commas where cores differ."""
    found = {_read(path) for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return ",".join(sorted(g for g in found if g)) or None


def cpu_throttle_events() -> int | None:
    """Thermal throttle events since boot: each core's, and each package's once."""
    events = 0
    known = False
    packages: set[str] = set()
    for directory in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle"):
        core = _read(directory / "core_throttle_count")
        if core is not None and core.isdigit():
            known, events = True, events + int(core)
        package = _read(directory.parent / "topology" / "physical_package_id") or ""
        shared = _read(directory / "package_throttle_count")
        if shared is not None and shared.isdigit() and package not in packages:
            packages.add(package)
            known, events = True, events + int(shared)
    return events if known else None


def thread_run_delay_ns() -> int | None:
    """Time this process's live threads were runnable but waited for a core, in ns since each started
    (second field of ``/proc/<pid>/task/<tid>/schedstat``; Documentation/scheduler/sched-stats)."""
    try:
        tasks = os.listdir("/proc/self/task")
    except OSError:
        return None
    delay = None
    for task in tasks:
        fields = (_read(f"/proc/self/task/{task}/schedstat") or "").split()
        if len(fields) == 3:  # a thread that ended in between has no file any more
            delay = (delay or 0) + int(fields[1])
    return delay


CGROUP = Path("/sys/fs/cgroup")


def available_memory_bytes() -> int:
    """Memory that this process can still take without pushing others out: what the kernel calls available, or what its
    cgroup (v2, then v1) leaves, whichever is less."""
    left = [int(psutil.virtual_memory().available)]
    for limit, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        maximum, current = _read(CGROUP / limit), _read(CGROUP / used)
        if maximum is None or current is None or not maximum.isdigit() or not current.isdigit():
            continue  # "max": no limit
        # Cached files count as used, and are given back on demand.
        fields = (line.split() for line in (_read(CGROUP / stat) or "").splitlines())
        cached = next((int(pair[1]) for pair in fields if pair[0] in ("inactive_file", "total_inactive_file")), 0)
        left.append(max(0, int(maximum) - int(current) + cached))
    return min(left)


def cpu_turbo() -> bool | None:
    """Whether cores may run above their base frequency; None where the system does not say (Linux cpufreq)."""
    off = _read("/sys/devices/system/cpu/intel_pstate/no_turbo")
    if off in {"0", "1"}:
        return off == "0"
    on = _read("/sys/devices/system/cpu/cpufreq/boost")
    return on == "1" if on in {"0", "1"} else None


def cpu_smt() -> bool | None:
    """Whether two threads share a core; None where the system does not say."""
    active = _read("/sys/devices/system/cpu/smt/active")
    return active == "1" if active in {"0", "1"} else None


def usable_cores() -> tuple[int, ...] | None:
    """The logical cores that this thread may run on; None where the system does not say (macOS)."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


def physical_cores(logical: Sequence[int]) -> tuple[int, ...]:
    """The physical cores under some logical ones, each by its lowest logical core: threads of one core share it.

    A core whose siblings the system does not tell (Linux sysfs, ``thread_siblings_list``) stands for itself.
    """
    found = set()
    for core in logical:
        listed = _read(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list") or str(core)
        first = listed.split(",", maxsplit=1)[0].split("-", maxsplit=1)[0]
        found.add(int(first) if first.isdigit() else core)
    return tuple(sorted(found))


def process_name(pid: int | None = None) -> str:
    """A process by name, this one if no other is given: ``host_id:boot_id:pid:start``; unknown parts are ``-``.

    ``start`` is ms since the epoch: a pid that was given away again is another process.
    """
    pid = os.getpid() if pid is None else pid
    return f"{host_id()}:{boot_id() or '-'}:{pid}:{round(psutil.Process(pid).create_time() * 1000)}"


def process_alive(name: str) -> bool | None:
    """Whether the process of that name runs. None where this machine cannot know: it is another machine's."""
    parts = name.split(":")
    if len(parts) != 4 or parts[0] != host_id() or not parts[2].isdigit() or not parts[3].isdigit():
        return None
    if parts[1] != (boot_id() or "-"):
        return False  # before the last boot
    try:
        process = psutil.Process(int(parts[2]))
        started_ms = round(process.create_time() * 1000)
        return abs(started_ms - int(parts[3])) < 2000 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
