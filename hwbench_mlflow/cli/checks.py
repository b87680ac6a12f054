"""What ``hwbench doctor`` looks at. Each check is a function that says what it saw, and what to do about it.

Owns their table, and the checks of the set-up: packages, store, runs, keys, platforms, files. Those of the machine are
in :mod:`.machine_checks`. Nothing here changes anything.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench_mlflow import host
from hwbench_mlflow.cli import machine_checks
from hwbench_mlflow.cli.findings import Check, Finding, Level, Setup
from hwbench_mlflow.errors import HwbenchError, StoreError
from hwbench_mlflow.evidence import PROCESS_TAG

if TYPE_CHECKING:
    from hwbench_mlflow.evidence import RunIndex
    from hwbench_mlflow.tracking import Store

DISTRIBUTION = "hwbench-mlflow"


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
    try:
        keyring, used = load_keyring(), list[str]()
    except HwbenchError:
        yield Finding(check="tags", level=Level.UNKNOWN, seen="the keys do not say: see above")
        return
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


def browser(setup: Setup) -> Iterator[Finding]:
    """What webgpu and webnn are measured in. Not started here: the probes do that."""
    del setup
    from hwbench_mlflow.backends._browser import BROWSER_VARIABLE, BrowserMissing, find_browser, runtime_folder

    try:
        found = find_browser()
    except BrowserMissing as missing:
        # Most machines need none; but one that was named, and is not there, was meant to be.
        level = Level.PROBLEM if os.environ.get(BROWSER_VARIABLE) else Level.ABSENT
        yield Finding(check="browser", level=level, seen=str(missing), remedy=missing.remedy)
        return
    try:
        runtime = runtime_folder()
    except BrowserMissing as missing:
        yield Finding(check="browser", level=Level.ABSENT, seen=f"{found}; {missing}", remedy=missing.remedy)
        return
    yield Finding(check="browser", level=Level.OK, seen=f"{found}, with onnxruntime-web from {runtime}")


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


CHECKS: dict[str, Check] = {
    "versions": versions,
    "store": store,
    "runs": stuck,
    "spool": spool,
    "keys": keys,
    "tags": tags,
    "clocks": machine_checks.clocks,
    "timer": machine_checks.timer,
    "disk": machine_checks.disk,
    "processor": machine_checks.processor,
    "load": machine_checks.load,
    "threads": machine_checks.threads,
    "locks": machine_checks.temporary,
    "browser": browser,
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
