"""What a machine offers to others: the devices that it has made to compute, and the environment to measure in.

Owns the devices' resources, by the lock that they share, and what of the environment a measurement is to see. Knows no
engine: :mod:`.fleet` carries it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hwbench_mlflow.codec import decode
from hwbench_mlflow.model import Availability, AvailabilityStatus, Platform
from hwbench_mlflow.runner import lock_name

RESOURCE = "hwbench:"
"""Before a device's lock in the name of its resource."""

OFFER_VARIABLE = "HWBENCH_FLEET_OFFER"
"""In the environment of a node's processes: what the node said when it joined, as JSON."""

CHANGED_BY_RAY = (
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ONEAPI_DEVICE_SELECTOR",
    "PYTHONBREAKPOINT", "PYTHONUNBUFFERED", "PYTHONPATH", "LD_PRELOAD",
)  # fmt: skip
"""Variables of a user's that the engine sets in its workers. A measurement must see those that the node joined with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """One device that was made to compute when its node joined. ``lock`` names what it shares: the cores of a CPU."""

    platform: Platform
    backend: str
    device_id: str
    device_name: str
    vendor: str | None
    first: bool
    lock: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What a node says of itself. ``names`` and ``values``: its environment as it was before Ray changed it."""

    name: str
    hwbench_version: str
    host_id: str
    devices: tuple[Offered, ...]
    names: tuple[str, ...]
    values: dict[str, str]


def offered(answers: Sequence[Availability], backends: Mapping[Platform, str], *, emulated: bool) -> list[Offered]:
    """The devices to offer: those on which an operation was executed and checked, in this probe, and no other.

    What software emulates is offered only if that is asked for: what it measures is simulated.
    """
    found = []
    for answer in answers:
        if answer.status is not AvailabilityStatus.AVAILABLE:
            continue
        for number, device in enumerate(answer.devices):
            if answer.verified_device(device.id) is None or (device.emulation_reason is not None and not emulated):
                continue
            found.append(
                Offered(
                    platform=answer.platform, backend=backends[answer.platform], device_id=device.id,
                    device_name=device.name, vendor=device.vendor, first=number == 0, lock=lock_name(device),
                )
            )  # fmt: skip
    return found


def resources(devices: Sequence[Offered]) -> dict[str, float]:
    """One resource of capacity 1 for each lock: devices that share one are one."""
    return {f"{RESOURCE}{device.lock}": 1.0 for device in devices}


def this_node(name: str, version: str, host_id: str, devices: Sequence[Offered]) -> Joined:
    """What this machine will say, with the environment that measurements on it are to have."""
    values = {key: os.environ[key] for key in CHANGED_BY_RAY if key in os.environ}
    return Joined(
        name=name, hwbench_version=version, host_id=host_id, devices=tuple(devices), names=tuple(sorted(os.environ)),
        values=values,
    )  # fmt: skip


_engines: dict[str, str] = {}


@contextlib.contextmanager
def as_joined() -> Iterator[None]:
    """The environment that this node joined with, while the block runs in a process of the engine's.

    What the engine has put in is taken out and put back; what the block sets stays, as it would without an engine.
    """
    joined = decode(os.environ[OFFER_VARIABLE].encode(), Joined)
    if not _engines:  # as the process began: later there is what our own code has set since
        theirs = (name for name in os.environ if name not in joined.names or name in CHANGED_BY_RAY)
        _engines.update({name: os.environ[name] for name in theirs})
    for name in _engines:
        os.environ.pop(name, None)
    os.environ.update(joined.values)
    try:
        yield
    finally:
        os.environ.update(_engines)
