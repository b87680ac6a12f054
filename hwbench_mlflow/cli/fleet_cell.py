"""A cell of a batch on a node of a fleet: measured by the very runner, signed with the node's key, logged from here.

Runs in a process of Ray's, on a thread of its own. What it answers is bytes of :class:`CellAnswer`: whoever runs the
batch judges the evidence again, by the keys that are trusted there.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench_mlflow import __version__, evidence
from hwbench_mlflow.cli.delivery import Delivery
from hwbench_mlflow.cli.session import failure_of, request_tags, run_name
from hwbench_mlflow.codec import decode, encode
from hwbench_mlflow.errors import (
    BenchmarkFailed,
    CorruptEvidence,
    HardwareUnavailable,
    HwbenchError,
    Interrupted,
    StoreError,
    UsageError,
)
from hwbench_mlflow.host import host_id, process_alive, process_name
from hwbench_mlflow.keystore import load_keyring, signing_key
from hwbench_mlflow.model import RunRequest
from hwbench_mlflow.runner import Progress
from hwbench_mlflow.spool import ParentPlace, Place
from hwbench_mlflow.supervise import lock_folder, stoppable

if TYPE_CHECKING:
    from hwbench_mlflow.fleet.on_node import OnNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a node is given. ``lease`` names the process that runs the batch."""

    request: RunRequest
    tracking_uri: str
    experiment: str | None
    parent: ParentPlace | None
    lease: str
    cooldown_s: float
    tags: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellAnswer:
    """What became of it. ``state``: ``done``, ``queued`` (in the node's spool), ``failed``, ``unavailable``,
    ``refused`` (the store said no), ``stopped``, or ``dropped``: given up, and done elsewhere. ``began_s`` and
    ``ended_s``: seconds since the epoch, by the node's clock."""

    state: str
    began_s: float
    ended_s: float
    run_id: str | None = None
    reason: str | None = None
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a node is asked before it gets anything: ``tracking_uri`` is where results will go, if anywhere."""

    tracking_uri: str | None = None
    experiment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """How a node is now. ``key`` is its public key as ``hwbench keys trust`` takes it; ``running`` what it measures for
    any fleet; ``delivered`` and ``waiting`` count results that an earlier batch left in its spool; ``trouble`` says why
    it could measure nothing."""

    version: str
    host_id: str
    keyid: str
    key: str
    running: tuple[str, ...]
    delivered: int
    waiting: int
    trouble: str | None = None


class NodeProgress(Progress):
    """What the runner tells, passed on to whoever runs the batch."""

    def __init__(self, node: OnNode) -> None:
        self._node = node

    def stage(self, text: str, seconds: float | None = None) -> None:
        """Between measurements only: nothing is sent while a window is timed."""
        del seconds
        self._node.say("stage", text)

    def warn(self, text: str) -> None:
        """The same."""
        self._node.say("warning", text)


def greet(payload: bytes) -> bytes:
    """Answer a :class:`Question`; first deliver what an earlier batch left here for the same store."""
    question = decode(payload, Question)
    trouble, delivered, waiting, keyid, key = None, 0, 0, "", ""
    try:
        own = signing_key()
        keyid, key = own.keyid, own.public.to_json()
        if question.tracking_uri is not None:
            delivery = Delivery(question.tracking_uri, question.experiment, own, load_keyring(), lambda _: None)
            delivered = len(delivery.flush())
            waiting = len(delivery.spool.waiting())
    except HwbenchError as error:
        trouble = " ".join(str(error).split())
    return encode(
        Greeting(
            version=__version__, host_id=host_id(), keyid=keyid, key=key, running=tuple(_running()),
            delivered=delivered, waiting=waiting, trouble=trouble,
        )
    )  # fmt: skip


_deliveries: dict[tuple[str, str | None], tuple[Delivery, list[OnNode]]] = {}


def _delivery(work: Assignment, node: OnNode) -> Delivery:
    """One a store, for as long as the process lives: opening a store takes seconds, and asks the server things."""
    address = (work.tracking_uri, work.experiment)
    if address not in _deliveries:
        told: list[OnNode] = []
        made = Delivery(*address, signing_key(), load_keyring(), lambda text: told[-1].say("warning", text))
        _deliveries[address] = made, told
    delivery, told = _deliveries[address]
    told[:] = [node]
    delivery.parent = work.parent
    return delivery


def run_cell(payload: bytes, node: OnNode) -> bytes:
    """Measure what was assigned; a :class:`CellAnswer`."""
    work, began_s = decode(payload, Assignment), time.time()
    with _noted(run_name(work.request)):
        try:
            state, run_id, reason, files = _measure(work, node)
        except StoreError as error:
            state, run_id, reason, files = "refused", None, " ".join(str(error).split()), {}
    answer = CellAnswer(
        state=state, began_s=began_s, ended_s=time.time(), run_id=run_id, reason=reason,
        files={name: data.decode() for name, data in files.items()},
    )  # fmt: skip
    if state == "done" and work.cooldown_s:
        node.stopped.wait(work.cooldown_s)
    return encode(answer)


def _measure(work: Assignment, node: OnNode) -> tuple[str, str | None, str | None, dict[str, bytes]]:
    from hwbench_mlflow import runner

    delivery = _delivery(work, node)
    place: Place | None = None

    def prepare() -> None:
        nonlocal place
        if place is None:
            tags = {**request_tags(work.request), **work.tags}
            place = delivery.open(run_name(work.request), tags, attempt=node.attempt, lease=work.lease)

    try:
        with stoppable() as stop, node.stoppable(stop):
            measured = runner.run(work.request, NodeProgress(node), prepare)
    except (HardwareUnavailable, BenchmarkFailed, UsageError) as error:
        stopped = node.stopped.is_set()
        reported: HwbenchError = Interrupted("told to stop while it measured") if stopped else error
        prepare()
        assert place is not None
        if node.may_deliver() is False:
            return "dropped", place.run_id, None, {}
        delivery.fail(place, failure_of(reported, work.request), killed=stopped)
        state = "unavailable" if isinstance(error, HardwareUnavailable) else "failed"
        return "stopped" if stopped else state, place.run_id, " ".join(str(reported).split()), {}
    assert place is not None
    files = evidence.seal(measured.result, measured.samples, signing_key())
    delivery.queue(place, files)
    granted = node.may_deliver()
    if granted is False:
        delivery.drop(place)
        return "dropped", place.run_id, None, {}
    if granted is None:  # nobody is there to say; whoever goes on with the batch asks this node for it first
        return "queued", None, None, dict(files)
    run_id = delivery.send(place)
    return "queued" if run_id is None else "done", run_id, None, dict(files)


# --- what runs here, for `hwbench fleet status` --------------------------------------------------------------


@contextlib.contextmanager
def _noted(what: str) -> Iterator[None]:
    """A file that says what this process measures, while it does."""
    path = lock_folder() / f"fleet-{os.getpid()}.json"
    path.write_bytes(encode({"what": what, "process": process_name()}))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _running() -> Iterator[str]:
    for path in sorted(Path(lock_folder()).glob("fleet-*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, CorruptEvidence):
            said = json.loads(path.read_bytes())
            if process_alive(str(said["process"])):
                yield str(said["what"])
