"""Probes in child processes, so that one vendor's library cannot take the others down.

Owns the child's command line (``python -m hwbench_mlflow.probing``), its time limit, and what a
crash, a hang or nonsense means: that platform's ``PROBE_FAILED``. Imports no vendor SDK; the child
imports one backend.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from hwbench_mlflow import host
from hwbench_mlflow.backends.base import Backend
from hwbench_mlflow.model import Availability, AvailabilityStatus, FailureCategory, Platform
from hwbench_mlflow.remedies import suggested

_GRACE_S = 5
"""How much longer than its limit a child lives if its parent died and cannot end it."""


def probe_here(backend: Backend) -> Availability:
    """Probe in this process and stamp the answer: for a worker that is a process of its own already."""
    started_at, begin = _now(), time.perf_counter_ns()
    answer = backend.probe()
    return _stamp(answer, started_at, time.perf_counter_ns() - begin)


def probe_isolated(
    platforms: Sequence[Platform],
    timeout_s: float = 60.0,
    jobs: int = 2,
    *,
    backends: Mapping[Platform, str] | None = None,
    on_answer: Callable[[Availability], None] | None = None,
) -> list[Availability]:
    """Each platform's answer, in the order asked, from a fresh process each, ``jobs`` at a time.

    ``backends`` names the code of a platform (``package.module:Class``) where it is not the one found
    by the platform's name. ``on_answer`` is called in this thread as each answer comes.
    """
    running: set[subprocess.Popen[bytes]] = set()
    answers: dict[int, Availability] = {}
    pool = ThreadPoolExecutor(max_workers=max(1, jobs))
    try:
        pending = {
            pool.submit(_probe_one, platform, (backends or {}).get(platform, platform.value), timeout_s, running): index
            for index, platform in enumerate(platforms)
        }
        for done in as_completed(pending):
            answer = answers[pending[done]] = done.result()
            if on_answer is not None:
                on_answer(answer)
    finally:
        # Only an interruption leaves anything here to cancel or to end.
        pool.shutdown(wait=False, cancel_futures=True)
        for child in list(running):
            _end(child)
    return [answers[index] for index in range(len(platforms))]


def _probe_one(
    platform: Platform, backend: str, timeout_s: float, running: set[subprocess.Popen[bytes]]
) -> Availability:
    started_at, begin = _now(), time.perf_counter_ns()
    command = [sys.executable, "-m", "hwbench_mlflow.probing", backend, str(math.ceil(timeout_s) + _GRACE_S)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_child_environment(),
        start_new_session=True,  # so that what it starts can be ended with it
    )
    running.add(child)
    try:
        output, errors = child.communicate(timeout=timeout_s)
        answer = interpret(platform, child.returncode, output, errors)
    except subprocess.TimeoutExpired:
        _end(child)
        answer = _failed(platform, f"the probe did not answer within {timeout_s:g} s and was ended", hang=True)
    finally:
        running.discard(child)
    return _stamp(answer, started_at, time.perf_counter_ns() - begin)


def interpret(platform: Platform, returncode: int, output: bytes, errors: bytes) -> Availability:
    """What a child that ended has to say. Anything but one well-formed answer is PROBE_FAILED."""
    lines = errors.decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    said = f": {last[:300]}" if last else ""
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = f"signal {-returncode}"
        return _failed(platform, f"the probe died of {name}{said}")
    if returncode > 0:
        return _failed(platform, f"the probe failed with exit status {returncode}{said}")
    try:
        answer = msgspec.json.decode(output, type=Availability)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _failed(platform, f"the probe answered with something unreadable ({error}){said}")
    if answer.platform is not platform:
        return _failed(platform, f"the probe answered for {answer.platform}")
    return answer


def consistent(answer: Availability) -> Availability:
    """The answer, or PROBE_FAILED in its place if it claims more than it shows.

    AVAILABLE needs a device of that platform whose check passed; anything else has no passed check.
    """
    strangers = [device.id for device in answer.devices if device.platform is not answer.platform]
    if strangers:
        return _failed(answer.platform, f"the probe listed devices of other platforms: {', '.join(strangers)}")
    checked = [device.id for device in answer.devices if answer.verified_device(device.id) is not None]
    if answer.status is AvailabilityStatus.AVAILABLE and not checked:
        return _failed(answer.platform, "the probe said available without an operation that ran on a device")
    return answer


def _failed(platform: Platform, reason: str, *, hang: bool = False) -> Availability:
    remedy = "Raise --timeout, or check the vendor's driver" if hang else "Check the vendor's driver and library"
    return Availability(platform=platform, status=AvailabilityStatus.PROBE_FAILED, reason=reason, remedy=remedy)


def _stamp(answer: Availability, started_at: str, duration_ns: int) -> Availability:
    answer = consistent(answer)
    if answer.status is not AvailabilityStatus.AVAILABLE:
        category = FailureCategory(answer.status.lower())
        answer = dataclasses.replace(answer, remedy=suggested(category, answer.remedy))
    return dataclasses.replace(
        answer,
        probe_id=uuid.uuid4().hex,
        started_at=started_at,
        duration_ns=duration_ns,
        boot_id=host.boot_id(),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and everything in its session, and take what is left in its pipes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    # A grandchild that left the session may still hold the pipes: it is not waited for.
    with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
        child.communicate(timeout=2)


def _child_environment() -> dict[str, str]:
    """This environment; a source tree that is not installed is put on the child's path."""
    root = str(Path(__file__).resolve().parent.parent)
    if Path(root).name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    inherited = os.environ.get("PYTHONPATH")
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join([root, inherited] if inherited else [root])}


@contextlib.contextmanager
def _private_output() -> Iterator[int]:
    """A descriptor of the real standard output, while fd 1 goes to stderr: vendors' libraries print."""
    private = os.dup(1)
    os.dup2(2, 1)
    yield private


def main(arguments: Sequence[str]) -> None:
    """The child: probe one backend and write the answer. Leaves without running exit handlers,
    because a vendor's library that crashes in one would turn a good answer into a failure."""
    backend, limit_s = arguments
    if hasattr(signal, "alarm"):
        # The default action ends the process even while a library holds the interpreter's lock.
        signal.alarm(int(limit_s))
    with _private_output() as private:
        from hwbench_mlflow.backends import lookup

        payload = msgspec.json.encode(lookup.find(backend).probe())
        while payload:
            payload = payload[os.write(private, payload) :]
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
