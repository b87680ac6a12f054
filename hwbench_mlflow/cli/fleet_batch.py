"""The cells of a batch, given to a fleet: which nodes may have any, and what their answers come to. Wiring only.

Owns what makes a cell count once. A node hands in only what was granted; where it is lost, the store is looked at
before the cell is given to another one, its attempt is given up there for good, and its run is ended as killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hwbench_mlflow import __version__
from hwbench_mlflow.cli.batch_session import CELL_TAG
from hwbench_mlflow.cli.batch_view import BatchProgress, LaneProgress, Outcome
from hwbench_mlflow.cli.delivery import Delivery
from hwbench_mlflow.cli.fleet_cell import Assignment, CellAnswer, Greeting, Question, greet, run_cell
from hwbench_mlflow.cli.session import failure_of, request_tags, run_name
from hwbench_mlflow.codec import decode, encode
from hwbench_mlflow.errors import (
    BenchmarkFailed,
    CorruptEvidence,
    HardwareUnavailable,
    HwbenchError,
    StoreAway,
    StoreError,
    UsageError,
)
from hwbench_mlflow.evidence import Judgement, judge
from hwbench_mlflow.fleet.connection import Fleet
from hwbench_mlflow.fleet.placing import Node, Piece, Placement
from hwbench_mlflow.host import host_id, process_name
from hwbench_mlflow.model import (
    Availability,
    AvailabilityStatus,
    FailureCategory,
    RunRequest,
    VerdictState,
)
from hwbench_mlflow.offers import Offered
from hwbench_mlflow.plan import cell_id
from hwbench_mlflow.spool import ParentPlace

if TYPE_CHECKING:
    from hwbench_mlflow.attest import Keyring

WHOLE_SECONDS = 10.0
"""How long a lost node's run is waited for, where the node was allowed to write it just before."""


def enter(address: str, tracking_uri: str | None, experiment: str | None) -> Fleet:
    """A connection to a fleet, whose nodes are asked to deliver first what waits on them for that store."""
    return Fleet(address, greet, encode(Question(tracking_uri=tracking_uri, experiment=experiment)))


def fits(request: RunRequest) -> Callable[[Offered], bool]:
    """Which devices a request may be measured on: the one it names, or the first of its platform; by its own code."""

    def fit(device: Offered) -> bool:
        named = device.first if request.device is None else device.device_id == request.device
        return named and device.platform is request.platform and device.backend == request.backend

    return fit


@dataclass(slots=True, kw_only=True)
class FleetCells:
    """The handler of one batch's cells: :class:`.fleet.placing.Handler`."""

    delivery: Delivery
    keyring: Keyring
    progress: BatchProgress
    over: Callable[[Outcome], None]
    only_on: str | None = None
    refused: list[str] = field(default_factory=list)
    _requests: dict[int, RunRequest] = field(default_factory=dict)
    _lanes: dict[str, LaneProgress] = field(default_factory=dict)
    _absent: dict[int, CellAnswer] = field(default_factory=dict)
    _lost: bool = False

    def run(
        self,
        fleet: Fleet,
        requests: Sequence[RunRequest],
        cooldown_s: float,
        tags: Callable[[RunRequest], dict[str, str]],
    ) -> None:
        """Give every request to the fleet; returns when all are over. Raises StoreError where the store refuses."""
        parent = self._parent()
        experiment = self.delivery.store().experiment_name()  # a node's own environment may name another one
        pieces = []
        for request in requests:
            work = Assignment(
                request=request, tracking_uri=self.delivery.uri(), experiment=experiment, parent=parent,
                lease=process_name(), cooldown_s=cooldown_s, tags=tags(request),
            )  # fmt: skip
            piece = Piece(payload=encode(work), fits=fits(request), label=run_name(request))
            self._requests[id(piece)] = request
            pieces.append(piece)
        try:
            fleet.run(pieces, run_cell, self)
        finally:
            for line in fleet.silent:
                self.progress.warn(line)
        if self._lost:
            self._once(parent)

    def _parent(self) -> ParentPlace | None:
        """The parent as nodes are told of it: it has to be there before they are, or each would make its own."""
        if self.delivery.parent is not None:
            self.delivery.parent_run()
        return self.delivery.parent

    # --- nodes ---

    def admits(self, node: Node) -> bool:
        """A node of this very hwbench, whose key is trusted here, and that can reach where results go."""
        if self.only_on not in {None, node.joined.name}:
            return False
        reason = self._why_not(node)
        if reason is not None:
            self.refused.append(reason)
            self.progress.warn(f"node {node.joined.name} gets no cell: {reason}")
        return reason is None

    def _why_not(self, node: Node) -> str | None:  # noqa: PLR0911  # one return a reason
        try:
            greeting = decode(node.greeting, Greeting)
        except CorruptEvidence:
            return f"it does not answer as hwbench {__version__} does"
        if greeting.trouble is not None:
            return greeting.trouble
        if greeting.version != __version__:
            return f"it has hwbench {greeting.version}, this machine {__version__}"
        if greeting.keyid in self.keyring.revoked:
            return f"its key {greeting.keyid[:16]} was revoked here"
        if greeting.keyid not in self.keyring.keys:
            return (
                f"its key {greeting.keyid[:16]} is not trusted here, so nothing that it measures would count "
                f"(hwbench fleet key {node.joined.name} ADDRESS > key.json; hwbench keys trust key.json)"
            )
        scheme = urlsplit(self.delivery.uri()).scheme
        if scheme in {"sqlite", "file"} and greeting.host_id != host_id():
            return (
                f"{self.delivery.uri()} is a file of this machine, and it is another one "
                "(start `mlflow server`, and set MLFLOW_TRACKING_URI to its address)"
            )
        return None

    # --- cells ---

    def began(self, at: Placement) -> None:
        """A lane a device, as in a batch on one machine."""
        lane = self._lane(at)
        lane.cell = at.piece.label
        lane.stage("given to the node")

    def said(self, at: Placement, kind: str, text: str) -> None:
        """The node's progress and its warnings."""
        lane = self._lane(at)
        (lane.warn if kind == "warning" else lane.stage)(text)

    def _lane(self, at: Placement) -> LaneProgress:
        name = f"{at.node.joined.name} {at.device.lock}"
        if name not in self._lanes:
            self._lanes[name] = self.progress.lane(name)
        lane = self._lanes[name]
        lane.cell = at.piece.label
        return lane

    def declined(self, at: Placement, answer: bytes) -> bool:
        """A device that was there when its node joined, and is not now."""
        cell = decode(answer, CellAnswer)
        if cell.state != "unavailable":
            return False
        self.progress.warn(f"node {at.node.joined.name}: {cell.reason}")
        self._absent[id(at.piece)] = cell
        return True

    def finished(self, at: Placement, answer: bytes) -> None:
        """Judge the evidence by the keys that are trusted here."""
        cell = decode(answer, CellAnswer)
        if cell.state == "refused":
            raise StoreError(cell.reason or "the tracking store refused", remedy=f"See node {at.node.joined.name}")
        if cell.state in {"stopped", "dropped", "unavailable"}:
            return  # its run says so, and the cell is not over
        if cell.state == "failed":
            self._over(at, state="failed", run_id=cell.run_id, reason=cell.reason)
            return
        judged = judge({name: text.encode() for name, text in cell.files.items()}, None, self.keyring)
        self._judged(at, cell.state, cell.run_id, judged)

    def _judged(self, at: Placement, state: str, run_id: str | None, judged: Judgement) -> None:
        bad = judged.verdict.state is VerdictState.CONTRADICTED
        self.over(
            Outcome(
                request=self._requests[id(at.piece)], state="failed" if bad else state, run_id=run_id,
                judgement=judged, reason="; ".join(judged.verdict.reasons) if bad else None, node=at.node.joined.name,
            )
        )  # fmt: skip

    def _over(self, at: Placement, *, state: str, run_id: str | None, reason: str | None) -> None:
        request = self._requests[id(at.piece)]
        self.over(Outcome(request=request, state=state, run_id=run_id, reason=reason, node=at.node.joined.name))

    def lost(self, at: Placement, granted: bool, why: str) -> bool:
        """Take the result if all of it arrived; else give the attempt up for good, and say that it was killed."""
        self._lost = True
        try:
            run_id = self._whole(at.attempt, granted)
            if run_id is not None:
                return self._take(at, run_id)
            self._end(at.attempt, why)
        except StoreAway as error:
            reason = f"{why}, and whether its result arrived cannot be asked: {error.args[0]}"
            self._over(at, state="failed", run_id=None, reason=reason)
            return True
        self.progress.warn(f"{why}; {at.piece.label} is measured again elsewhere")
        return False

    def _whole(self, attempt: str, granted: bool) -> str | None:
        """The attempt's run if it holds its result. One that was being written is given a moment."""
        deadline = time.monotonic() + (WHOLE_SECONDS if granted else 0)
        store = self.delivery.store()
        while True:
            run_id = store.find_attempt(attempt)
            if run_id is not None and store.is_whole(run_id, "result"):
                return run_id
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.5)

    def _take(self, at: Placement, run_id: str) -> bool:
        index, files = self.delivery.store().read_run(run_id)
        self._judged(at, "done", run_id, judge(files, index, self.keyring))
        return True

    def _end(self, attempt: str, why: str) -> str | None:
        store, parent = self.delivery.store(), self.delivery.parent
        if parent is not None and parent.run_id is not None:
            store.give_up(parent.run_id, attempt, why)
        run_id = store.find_attempt(attempt)
        if run_id is not None:
            store.end_killed(run_id, why)
        return run_id

    def broke(self, at: Placement, why: str) -> None:
        """The run that the node may have made is ended, and the cell has failed."""
        reason = f"node {at.node.joined.name}: {why}"
        try:
            run_id = self._end(at.attempt, reason)
        except StoreAway:
            run_id = None
        self._over(at, state="failed", run_id=run_id, reason=reason)

    def nowhere(self, piece: Piece, why: str, *, lost: bool) -> None:
        """A FAILED run with the reason, as for hardware that this machine does not have."""
        request, said = self._requests[id(piece)], self._absent.get(id(piece))
        if said is not None:  # by a node, in a run of its own
            outcome = Outcome(request=request, state="failed", run_id=said.run_id, reason=said.reason, unavailable=True)
            self.over(outcome)
            return
        named = request.platform if request.device is None else request.device
        error: HwbenchError
        if lost:
            error = BenchmarkFailed(why, FailureCategory.CRASH)
        else:
            absent = Availability(platform=request.platform, status=AvailabilityStatus.NO_DEVICE, reason=why)
            error = HardwareUnavailable(f"{named} is unavailable: {why}", absent, remedy="See `hwbench fleet status`")
        tags = {**request_tags(request), CELL_TAG: cell_id(request)}
        place = self.delivery.open(run_name(request), tags)
        self.delivery.fail(place, failure_of(error, request))
        self.progress.warn(str(error))
        self.over(
            Outcome(
                request=request, state="failed", run_id=place.run_id, reason=" ".join(str(error).split()),
                unavailable=isinstance(error, HardwareUnavailable),
            )
        )  # fmt: skip

    def _once(self, parent: ParentPlace | None) -> None:
        """After a loss: of two runs of one cell that both ended well, the later one is ended as killed. It can be only
        where a node that was thought lost wrote its last words at the very moment when it was given up."""
        if parent is None or parent.run_id is None:
            return
        store, seen = self.delivery.store(), set[str]()
        for child in store.nested(parent.run_id):
            cell = child.tags.get(CELL_TAG)
            if child.status != "FINISHED" or cell is None:
                continue
            if cell in seen:
                store.end_killed(child.run_id, "its cell was measured elsewhere: its node was thought lost")
            seen.add(cell)


def the_node(nodes: list[Node], name: str) -> Node:
    """The node of that name. Raises UsageError."""
    found = [node for node in nodes if node.joined.name == name]
    if len(found) != 1:
        listed = ", ".join(sorted({node.joined.name for node in nodes})) or "none"
        said = "no node" if not found else f"{len(found)} nodes"
        raise UsageError(f"{said} of the fleet: {name!r}", remedy=f"There are: {listed}")
    return found[0]
