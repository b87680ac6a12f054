"""What ``hwbench doctor`` looks at on the machine itself: clocks, disk, processor, load, threads, locks.

Nothing here changes anything.
"""

from __future__ import annotations

import email.utils
import os
import shutil
import stat
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from hwbench_mlflow import host
from hwbench_mlflow.cli.findings import Finding, Level, Setup

LOW_DISK_BYTES = 2 * 1024**3
FULL_DISK_BYTES = 200 * 1024**2
DRIFT_SECONDS = 0.2
DRIFT_LIMIT_S = 0.005
"""NTP slews by at most 0.5 ms a second (adjtimex(2)): more in :data:`DRIFT_SECONDS` is a clock that was set."""
SKEW_LIMIT_S = 120.0
ZONES_S = 86_400.0
"""An archive can give files the time of another zone: up to 14 hours."""
BUSY_LOAD = 0.5
"""Of the logical cores: above it, others compute while we would measure."""


def clocks(setup: Setup) -> Iterator[Finding]:
    """This machine's wall clock against its own files, its monotonic clock, and the tracking server's clock."""
    behind = Path(__file__).stat().st_mtime - time.time()
    if behind > ZONES_S:
        today = time.strftime("%Y-%m-%d", time.gmtime())
        yield Finding(
            check="clocks", level=Level.PROBLEM,
            seen=f"it is {today} by this machine's clock: before hwbench was installed",
            remedy="Set the clock: runs are ordered, and certificates checked, by it",
        )  # fmt: skip
    mono, wall = time.monotonic(), time.time()
    time.sleep(DRIFT_SECONDS)
    drift = (time.time() - wall) - (time.monotonic() - mono)
    if abs(drift) > DRIFT_LIMIT_S:
        yield Finding(
            check="clocks", level=Level.WARNING,
            seen=f"the wall clock moved {drift * 1e3:+.1f} ms beside the monotonic one",
            remedy="Wait until time synchronisation has settled",
        )  # fmt: skip
    else:
        yield Finding(
            check="clocks", level=Level.OK, seen=f"wall and monotonic clock agree within {DRIFT_LIMIT_S * 1e3:g} ms"
        )
    uri = setup.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("http://", "https://")):
        return
    import requests

    asked = time.time()
    try:
        stated = requests.get(uri.rstrip("/") + "/health", timeout=10).headers.get("Date")
    except requests.RequestException:
        yield Finding(check="clocks", level=Level.UNKNOWN, seen="the server does not answer: its clock is not known")
        return
    if stated is None:
        yield Finding(check="clocks", level=Level.UNKNOWN, seen="the server does not say what time it is there")
        return
    skew = email.utils.parsedate_to_datetime(stated).timestamp() - (asked + time.time()) / 2
    level = Level.OK if abs(skew) < SKEW_LIMIT_S else Level.PROBLEM
    yield Finding(
        check="clocks", level=level, seen=f"the server's clock is {skew:+.0f} s from ours",
        remedy=None if level is Level.OK else "Synchronise both: runs from two machines are ordered by their times",
    )  # fmt: skip


def timer(setup: Setup) -> Iterator[Finding]:
    """How finely this machine's monotonic clock moves: it bounds what can be timed."""
    del setup
    steps = []
    for _ in range(200):
        begun = time.perf_counter_ns()
        while (now := time.perf_counter_ns()) == begun:
            pass
        steps.append(now - begun)
    step = statistics.median(steps)
    coarse = step > 10_000
    yield Finding(
        check="timer", level=Level.WARNING if coarse else Level.OK, seen=f"the clock moves in steps of {step:.0f} ns",
        remedy="Look at /sys/devices/system/clocksource: tsc is fine" if coarse else None,
    )  # fmt: skip


def disk(setup: Setup) -> Iterator[Finding]:
    """Room where hwbench and a local store write."""
    from hwbench_mlflow.home import default_home

    places = {
        "working folder": Path.cwd(), "home": default_home(), "warehouse": setup.db.absolute().parent,
        "temporary files": Path(os.environ.get("TMPDIR") or "/tmp"),  # noqa: S108  # looked at, not written to
    }  # fmt: skip
    file_systems: dict[int, tuple[list[str], Path]] = {}
    for name, path in places.items():
        there = next(p for p in (path, *path.parents) if p.exists())
        file_systems.setdefault(there.stat().st_dev, ([], there))[0].append(name)
    for names, there in file_systems.values():
        free = shutil.disk_usage(there).free
        level = Level.PROBLEM if free < FULL_DISK_BYTES else Level.WARNING if free < LOW_DISK_BYTES else Level.OK
        said, remedy = f"{_size(free)} free", "Free some: a result that cannot be written is lost"
        files = os.statvfs(there) if hasattr(os, "statvfs") else None
        if files is not None and files.f_files and not files.f_favail:
            level, said, remedy = Level.PROBLEM, f"{said}, and not one more file", "Remove files: it has no inode left"
        yield Finding(
            check="disk", level=level, seen=f"{', '.join(names)} ({there}): {said}",
            remedy=None if level is Level.OK else remedy,
        )  # fmt: skip


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{count / 1024**2:.0f} MiB"


def processor(setup: Setup) -> Iterator[Finding]:
    """What makes a CPU's times vary: governor, turbo, SMT."""
    del setup
    governor = host.cpu_governor()
    if governor is None:
        yield Finding(check="processor", level=Level.UNKNOWN, seen="this system does not tell the frequency governor")
    else:
        fixed = governor == "performance"
        yield Finding(
            check="processor", level=Level.OK if fixed else Level.WARNING, seen=f"governor {governor}",
            remedy=None if fixed else "cpupower frequency-set -g performance",
        )  # fmt: skip
    turbo, smt = host.cpu_turbo(), host.cpu_smt()
    notes = {"turbo": turbo, "SMT": smt}
    for name, on in notes.items():
        said = f"{name}: {'unknown' if on is None else 'on' if on else 'off'}"
        yield Finding(check="processor", level=Level.UNKNOWN if on is None else Level.OK, seen=said)


def load(setup: Setup) -> Iterator[Finding]:
    """What else computes here now, as a run looks for it, and what did in the last minute."""
    del setup
    from hwbench_mlflow.neighbours import Look

    look = Look()
    average, cores = host.load_average(), os.cpu_count()
    others = look.others()
    said = str(others) if others.busy else f"other processes take {others.cores:.1f} of {others.of} cores"
    known = average is not None and cores is not None
    said += f"; load {average:.2f} over the last minute" if known else "; this system does not tell its load"
    was_busy = average is not None and cores is not None and average > BUSY_LOAD * cores
    remedy = None
    if others.busy:
        remedy = "Wait, or end what else runs: times may be far longer than on a calm machine"
    elif was_busy:
        remedy = "Wait a minute: what ran here, a benchmark of ours perhaps, may come again"
    level = Level.WARNING if remedy is not None else Level.OK if known else Level.UNKNOWN
    yield Finding(check="load", level=level, seen=said, remedy=remedy)


def threads(setup: Setup) -> Iterator[Finding]:
    """torch's threads, in a process as a worker would have it."""
    del setup
    import torch

    count, usable = torch.get_num_threads(), host.usable_cores()
    forced = os.environ.get("OMP_NUM_THREADS")
    said = f"torch takes {count} threads" + (f" (OMP_NUM_THREADS={forced})" if forced else "")
    over = usable is not None and count > len(usable)
    yield Finding(
        check="threads", level=Level.WARNING if over else Level.OK,
        seen=said + (f", and may use {len(usable)} cores" if usable is not None else ""),
        remedy="Set --threads, or unset OMP_NUM_THREADS" if over else None,
    )  # fmt: skip


def temporary(setup: Setup) -> Iterator[Finding]:
    """The folder of locks: others' rights on it would let them hold our devices."""
    del setup
    from hwbench_mlflow.supervise import lock_folder

    folder = lock_folder()
    mode = stat.S_IMODE(folder.stat().st_mode)
    open_to_all = bool(mode & stat.S_IWOTH)
    yield Finding(
        check="locks", level=Level.WARNING if open_to_all else Level.OK, seen=f"{folder} (mode {mode:04o})",
        remedy=f"chmod o-w {folder}" if open_to_all else None,
    )  # fmt: skip
