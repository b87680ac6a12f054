"""What ``hwbench doctor`` looks at. Each check is a function that says what it saw, and what to do about it.

Owns the checks, and nothing that they look at. A check that crashes is ``unknown``, with its error: never ok. Nothing
here changes anything.
"""

from __future__ import annotations

import email.utils
import importlib.metadata
import os
import shutil
import stat
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench_mlflow import host
from hwbench_mlflow.errors import HwbenchError, StoreError
from hwbench_mlflow.evidence import PROCESS_TAG

if TYPE_CHECKING:
    from hwbench_mlflow.evidence import RunIndex
    from hwbench_mlflow.tracking import Store

DISTRIBUTION = "hwbench-mlflow"
LOW_DISK_BYTES = 2 * 1024**3
FULL_DISK_BYTES = 200 * 1024**2
DRIFT_SECONDS = 0.2
DRIFT_LIMIT_S = 0.005
"""NTP slews by at most 0.5 ms a second (adjtimex(2)): more in :data:`DRIFT_SECONDS` is a clock that was set."""
SKEW_LIMIT_S = 120.0
STUCK_HOURS = 6.0
BUSY_LOAD = 0.5
"""Of the logical cores: above it, others compute while we would measure."""


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    UNKNOWN = "unknown"
    ABSENT = "absent"
    """Not here, or not yet, and nothing is wrong with that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at: what was seen, and what to do where something is to be done."""

    check: str
    level: Level
    seen: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is to be looked at."""

    tracking_uri: str | None
    db: Path
    published: Path
    stuck_hours: float
    probe: bool


Check = Callable[[Setup], Iterator[Finding]]


def run_checks(setup: Setup, checks: dict[str, Check]) -> list[Finding]:
    """Every check's findings, in order. One that raises, or that says nothing, is unknown."""
    found: list[Finding] = []
    for name, check in checks.items():
        try:
            said = list(check(setup))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is shown, and it is not ok
            text = " ".join(str(error).split())[:300] or type(error).__name__
            said = [Finding(check=name, level=Level.UNKNOWN, seen=f"the check failed: {type(error).__name__}: {text}")]
        found += said or [Finding(check=name, level=Level.UNKNOWN, seen="the check saw nothing")]
    return found


def versions(setup: Setup) -> Iterator[Finding]:
    """Installed packages against what hwbench's own metadata asks for."""
    del setup
    from packaging.requirements import Requirement

    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            check="versions", level=Level.UNKNOWN, seen="hwbench itself is not installed: its requirements are unknown",
            remedy="pip install -c constraints.txt .",
        )  # fmt: skip
        return
    wrong, right = [], 0
    for text in declared:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            have = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is not installed ({wanted.specifier})")
            continue
        if wanted.specifier.contains(have, prereleases=True):
            right += 1
        else:
            wrong.append(f"{wanted.name} {have} is not {wanted.specifier}")
    if wrong:
        yield Finding(
            check="versions", level=Level.PROBLEM, seen="; ".join(wrong), remedy="pip install -c constraints.txt ."
        )
    else:
        yield Finding(check="versions", level=Level.OK, seen=f"{right} packages are within what hwbench asks for")


def store(setup: Setup) -> Iterator[Finding]:
    """Whether the tracking store answers, with a schema that this MLflow knows; and the trap of a stale ./mlruns."""
    trap = Path("mlruns") / "0" / "meta.yaml"
    if trap.exists() and setup.tracking_uri is None and "MLFLOW_TRACKING_URI" not in os.environ:
        yield Finding(
            check="store", level=Level.PROBLEM, seen=f"{trap} makes MLflow take ./mlruns for the store, and refuse it",
            remedy="Move ./mlruns away, or set MLFLOW_TRACKING_URI=sqlite:///mlflow.db",
        )  # fmt: skip
        return
    if (absent := no_store_yet(setup)) is not None:
        yield Finding(check="store", level=Level.ABSENT, seen=f"no {absent} yet (the first run makes it)")
        return
    try:
        opened = _store(setup)
        experiments = opened.count_experiments()
    except StoreError as error:
        yield Finding(check="store", level=Level.PROBLEM, seen=_said(error), remedy=error.remedy or "Check its address")
        return
    shown = _without_password(opened.uri)
    yield Finding(check="store", level=Level.OK, seen=f"{shown} answers: {experiments} experiment(s)")


def stuck(setup: Setup) -> Iterator[Finding]:
    """Runs of hwbench that are RUNNING and should not be."""
    if no_store_yet(setup) is not None:
        yield Finding(check="runs", level=Level.ABSENT, seen="no store yet: no run")
        return
    try:
        found = left_running(_store(setup), setup.stuck_hours)
    except StoreError:
        yield Finding(check="runs", level=Level.UNKNOWN, seen="the store does not say: see above")
        return
    if not found:
        yield Finding(check="runs", level=Level.OK, seen=f"no run has been RUNNING for {setup.stuck_hours:g} hours")
        return
    dead = [run for run in found if is_dead(run)]
    other = [run.run_id for run in found if run not in dead]
    if dead:
        names = ", ".join(run.run_id for run in dead)
        yield Finding(
            check="runs", level=Level.PROBLEM, seen=f"RUNNING, and their process on this machine is gone: {names}",
            remedy="hwbench doctor --fix ends them (first: hwbench push --spool, which completes those it can)",
        )  # fmt: skip
    if other:
        yield Finding(
            check="runs", level=Level.WARNING,
            seen=f"RUNNING for more than {setup.stuck_hours:g} hours, here or elsewhere: {', '.join(other)}",
            remedy="Look at the machine that runs them",
        )  # fmt: skip


def left_running(opened: Store, hours: float) -> list[RunIndex]:
    """Runs that have been RUNNING for so long, or whose process of this machine is gone."""
    now_ms = round(time.time() * 1000)
    old = {run.run_id for run in opened.running(round(now_ms - hours * 3_600_000))}
    return [run for run in opened.running(now_ms) if run.run_id in old or is_dead(run)]


def is_dead(run: RunIndex) -> bool:
    """Whether this machine knows that the process that writes a run is gone."""
    return host.process_alive(run.tags.get(PROCESS_TAG, "")) is False


def spool(setup: Setup) -> Iterator[Finding]:
    """Results that wait for their store."""
    del setup
    from hwbench_mlflow.spool import Spool

    queue = Spool()
    waiting = queue.waiting()
    if waiting:
        yield Finding(
            check="spool", level=Level.WARNING, seen=f"{len(waiting)} results wait in {queue.folder}",
            remedy="hwbench push --spool",
        )  # fmt: skip
    else:
        yield Finding(check="spool", level=Level.OK, seen="nothing waits to be delivered")


def keys(setup: Setup) -> Iterator[Finding]:
    """The signing key: there, private, trusted here."""
    del setup
    from hwbench_mlflow.keystore import existing_key, load_keyring

    try:
        key, ring = existing_key(), load_keyring()
    except HwbenchError as error:
        yield Finding(check="keys", level=Level.PROBLEM, seen=_said(error), remedy=error.remedy)
        return
    if key is None:
        yield Finding(
            check="keys",
            level=Level.WARNING,
            seen="no signing key yet",
            remedy="The first run makes one; or: hwbench keys make",
        )
    elif key.keyid in ring.revoked or key.keyid not in ring.keys:
        yield Finding(
            check="keys", level=Level.PROBLEM, seen=f"this machine's key {key.keyid[:16]} is not trusted here",
            remedy="The next run trusts it again, or makes another if it was revoked",
        )  # fmt: skip
    else:
        yield Finding(check="keys", level=Level.OK, seen=f"key {key.keyid[:16]}; {len(ring.keys)} trusted")


def tags(setup: Setup) -> Iterator[Finding]:
    """What other MLflow runs on this machine are tagged with: only looked at where that was asked for."""
    del setup
    from hwbench_mlflow.keystore import load_keyring
    from hwbench_mlflow.last_probe import SWITCH, hardware_words, recall
    from hwbench_mlflow.model import Platform

    asked = os.environ.get(SWITCH)
    if asked != "1":
        said = "is not set" if not asked else f"is {asked[:20]!r}, not '1'"
        level = Level.WARNING if asked and asked != "0" else Level.OK
        yield Finding(check="tags", level=level, seen=f"{SWITCH} {said}: other runs are not tagged with hardware")
        return
    keyring, used = load_keyring(), []
    for platform in Platform:
        try:
            kept = recall(platform, keyring)
        except HwbenchError as error:
            yield Finding(
                check="tags", level=Level.WARNING, seen=f"the last probe of {platform} is not used: {_said(error)}",
                remedy=f"hwbench devices --platform {platform}",
            )  # fmt: skip
            continue
        if kept is not None and (words := hardware_words(kept)) is not None:
            used.append(f"{platform}: {words}")
    if used:
        yield Finding(check="tags", level=Level.OK, seen="; ".join(used))
    else:
        yield Finding(
            check="tags", level=Level.WARNING, seen="no hardware is known: no run is tagged", remedy="hwbench devices"
        )


def clocks(setup: Setup) -> Iterator[Finding]:
    """This machine's wall clock against its monotonic one, and against the tracking server's."""
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


def disk(setup: Setup) -> Iterator[Finding]:
    """Room where hwbench and a local store write."""
    from hwbench_mlflow.home import default_home

    places = {"working folder": Path.cwd(), "home": default_home(), "warehouse": setup.db.absolute().parent}
    for name, path in places.items():
        there = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(there).free
        level = Level.PROBLEM if free < FULL_DISK_BYTES else Level.WARNING if free < LOW_DISK_BYTES else Level.OK
        yield Finding(
            check="disk", level=level, seen=f"{name} ({there}): {_size(free)} free",
            remedy=None if level is Level.OK else "Free some",
        )  # fmt: skip


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
    busy = others.busy or (average is not None and cores is not None and average > BUSY_LOAD * cores)
    yield Finding(
        check="load", level=Level.WARNING if busy else Level.OK if known else Level.UNKNOWN, seen=said,
        remedy="Wait, or end what else runs: times may be far longer than on a calm machine" if busy else None,
    )  # fmt: skip


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


def platforms(setup: Setup) -> Iterator[Finding]:
    """What the probes say of every platform: drivers, browsers, WebNN."""
    if not setup.probe:
        yield Finding(
            check="platforms", level=Level.UNKNOWN, seen="not probed (--no-probe)", remedy="hwbench devices probes them"
        )
        return
    from hwbench_mlflow.model import AvailabilityStatus, Platform
    from hwbench_mlflow.probing import probe_isolated

    for answer in probe_isolated(list(Platform)):
        if answer.verified:
            level = Level.OK
        elif answer.status is AvailabilityStatus.PROBE_FAILED:
            level = Level.PROBLEM
        else:  # not here, and it says so: most machines lack most platforms
            level = Level.PROBLEM if answer.status is AvailabilityStatus.AVAILABLE else Level.ABSENT
        named = ", ".join(device.name for device in answer.devices) or str(answer.status)
        yield Finding(
            check=f"platform {answer.platform}", level=level, seen=f"{named}: {answer.reason}",
            remedy=answer.remedy if level is not Level.OK else None,
        )  # fmt: skip


def warehouse(setup: Setup) -> Iterator[Finding]:
    """The warehouse and the published file: readable, not locked, not stale."""
    from hwbench_mlflow.warehouse.database import latest_version, reader, version

    if not setup.db.exists():
        yield Finding(check="warehouse", level=Level.ABSENT, seen=f"no {setup.db} yet (hwbench sync makes it)")
        return
    try:
        with reader(setup.db) as connection:
            found, known = version(connection), latest_version()
    except StoreError as error:
        yield Finding(check="warehouse", level=Level.PROBLEM, seen=_said(error), remedy=error.remedy)
        return
    if found == known:
        yield Finding(check="warehouse", level=Level.OK, seen=f"{setup.db}: schema {found}")
    else:
        newer = found > known
        yield Finding(
            check="warehouse", level=Level.PROBLEM if newer else Level.WARNING,
            seen=f"{setup.db}: schema {found}, this hwbench has {known}",
            remedy="Use a later hwbench" if newer else "hwbench sync brings it up",
        )  # fmt: skip


def published(setup: Setup) -> Iterator[Finding]:
    """What reports read: whole, and as new as the warehouse."""
    from hwbench_mlflow.warehouse.published import open_published

    if not setup.published.exists():
        yield Finding(check="published", level=Level.ABSENT, seen=f"no {setup.published} yet (hwbench gate makes it)")
        return
    try:
        with open_published(setup.published) as opened:
            stale = opened.stale_against(setup.db) if setup.db.exists() else None
    except HwbenchError as error:
        yield Finding(check="published", level=Level.PROBLEM, seen=_said(error), remedy=error.remedy or "hwbench gate")
        return
    yield Finding(
        check="published", level=Level.WARNING if stale else Level.OK,
        seen=stale or f"{setup.published} is whole and current",
        remedy="hwbench gate" if stale else None,
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


CHECKS: dict[str, Check] = {
    "versions": versions,
    "store": store,
    "runs": stuck,
    "spool": spool,
    "keys": keys,
    "tags": tags,
    "clocks": clocks,
    "timer": timer,
    "disk": disk,
    "processor": processor,
    "load": load,
    "threads": threads,
    "locks": temporary,
    "platforms": platforms,
    "warehouse": warehouse,
    "published": published,
}
"""Name -> check, in the order in which they are shown."""


def no_store_yet(setup: Setup) -> Path | None:
    """The file that a first run makes; None for a store that is there, and for one that is no file. MLflow would make
    it for the asking, and a doctor changes nothing."""
    from hwbench_mlflow.tracking import whole_uri

    uri = whole_uri(setup.tracking_uri)
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    return path if uri.startswith("sqlite:///") and not path.exists() else None


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{count / 1024**2:.0f} MiB"


def _store(setup: Setup) -> Store:
    from hwbench_mlflow.tracking import Store

    return Store(setup.tracking_uri)


def _said(error: HwbenchError) -> str:
    return " ".join(str(error.args[0]).split())


def _without_password(uri: str) -> str:
    """The address as it may be shown."""
    scheme, separator, rest = uri.partition("://")
    login, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{login.partition(':')[0]}@{place}" if at else uri
