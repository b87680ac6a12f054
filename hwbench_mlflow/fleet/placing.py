"""Which piece of work is done on which device, one at a time on each, again elsewhere, and never handed in twice.

Owns the words for it (nodes, pieces, placements, who is told), and the loop that runs until all of them are over. How a
node is reached is the connection's: :class:`Nodes`.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hwbench_mlflow.fleet.on_node import BEGUN, Work, do
from hwbench_mlflow.model import Platform
from hwbench_mlflow.offers import RESOURCE, Joined, Offered

LOOK_SECONDS = 0.2
MEET_SECONDS = 5.0
STOP_SECONDS = 30.0
HELD_SECONDS = 1.0
"""A piece that was given to a device which somebody held, as far as Ray knew, is taken back after so long if another
device is free. What Ray knows is a moment old: a device of which this very batch was just done looks held."""
UNBEGUN_SECONDS = 20.0
"""The same where the device looked free: a node's process takes seconds to start, and there it is not faster."""
MOST_LOSSES = 3
"""A piece that was lost with its node so often is not tried again: it may be what ends them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A live node. ``greeting`` is what the caller's function answered on it."""

    node_id: str
    address: str
    joined: Joined
    greeting: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Something to be done on a device for which ``fits`` is true."""

    payload: bytes
    fits: Callable[[Offered], bool]
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A piece on a node's device. ``attempt`` is drawn anew each time it is placed."""

    piece: Piece
    node: Node
    device: Offered
    attempt: str


class Handler(Protocol):
    """Who gave the pieces away."""

    def admits(self, node: Node) -> bool:
        """Whether this node may have any; says why not."""

    def began(self, at: Placement) -> None:
        """It was handed to a node."""

    def said(self, at: Placement, kind: str, text: str) -> None:
        """What it says while it runs: a ``stage``, or a ``warning``."""

    def declined(self, at: Placement, answer: bytes) -> bool:
        """Whether this device could not do it: then it gets no more, and another one is found. Quick to say."""

    def finished(self, at: Placement, answer: bytes) -> None:
        """It is over."""

    def lost(self, at: Placement, granted: bool, why: str) -> bool:
        """Its node is gone, and will not be allowed to hand anything in, unless it was ``granted`` that before.

        True if it is over nevertheless; False if it is to be done again.
        """

    def broke(self, at: Placement, why: str) -> None:
        """The node's own code failed."""

    def nowhere(self, piece: Piece, why: str, *, lost: bool) -> None:
        """It will not be done: no live node can, or (``lost``) too many ended under it."""


class Nodes(Protocol):
    """How the loop reaches nodes."""

    def nodes(self) -> list[Node]:
        """Those that are there, greeted."""

    def ask(self, node_id: str) -> Any:
        """Greet one; a reference to its answer."""

    def answered(self, node: Mapping[str, Any], ref: Any) -> Node | None:
        """What such an answer comes to; None if it is no node of ours."""

    def remote(self, function: Callable[..., Any], node_id: str, needs: Mapping[str, float]) -> Any:
        """A function that is to run on that node, and holds so much of its resources meanwhile."""


@dataclass(slots=True)
class Loop:
    """One run of pieces. ``late_at``: of attempts that have not begun, when to look for another device."""

    fleet: Nodes
    work: Work
    handler: Handler
    waiting: deque[Piece]
    board: Any
    nodes: dict[str, Node] = field(default_factory=dict)
    running: dict[Any, Placement] = field(default_factory=dict)
    meeting: dict[Any, Mapping[str, Any]] = field(default_factory=dict)
    met: set[str] = field(default_factory=set)
    losses: dict[int, int] = field(default_factory=dict)
    late_at: dict[str, float] = field(default_factory=dict)
    withdrawn: set[tuple[str, str, Platform]] = field(default_factory=set)
    look_again: float = 0.0

    def run(self, check: Callable[[], None]) -> None:
        import ray

        for node in self.fleet.nodes():
            self._admit(node)
        while self.waiting or self.running:
            check()
            self._meet()
            self._place()
            refs = [*self.running, *self.meeting]
            if not refs:
                continue
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            if not ready:
                ready, _ = ray.wait(refs, timeout=LOOK_SECONDS)
            over = [(self.running.pop(ref), ref) for ref in ready if ref in self.running]
            for ref in ready:
                if ref in self.meeting:
                    self._admit(self.fleet.answered(self.meeting.pop(ref), ref))
            ended = [(at, self._answer(at, ref)) for at, ref in over]
            ended = [(at, answer) for at, answer in ended if not self._declined(at, answer)]
            self._place()  # devices first: what the answers say is looked at while they work
            self._hear([at for at, _ in ended])
            for at, answer in ended:
                self._handle(at, answer)

    # --- nodes ---

    def _admit(self, node: Node | None) -> None:
        if node is not None:
            self.met.add(node.node_id)
            if self.handler.admits(node):
                self.nodes[node.node_id] = node

    def _meet(self) -> None:
        """Ask the nodes that have come since."""
        import ray

        if time.monotonic() < self.look_again:
            return
        self.look_again = time.monotonic() + MEET_SECONDS
        for node in ray.nodes():
            if node["Alive"] and node["NodeID"] not in self.met:
                self.met.add(node["NodeID"])
                self.meeting[self.fleet.ask(node["NodeID"])] = node
            elif not node["Alive"]:
                self.nodes.pop(node["NodeID"], None)

    # --- placement ---

    def _place(self) -> None:
        busy = {(at.node.node_id, at.device.lock) for at in self.running.values()}
        idle = self._idle() if self.waiting or self._late() else set[tuple[str, str]]()
        later: deque[Piece] = deque()
        while self.waiting:
            piece = self.waiting.popleft()
            places = self._places(piece)
            free = [place for place in places if _key(place) not in busy]
            if free:
                at = self._start(piece, *next((place for place in free if _key(place) in idle), free[0]), idle)
                busy.add((at.node.node_id, at.device.lock))
            elif places or self.meeting:
                later.append(piece)
            else:
                self.handler.nowhere(piece, "no live node that may measure offers it", lost=False)
        self.waiting = later
        for ref in self._late():
            self._move(ref, idle, busy)

    def _places(self, piece: Piece) -> list[tuple[Node, Offered]]:
        return [
            (node, device)
            for node in self.nodes.values()
            for device in node.joined.devices
            if piece.fits(device) and (node.node_id, device.lock, device.platform) not in self.withdrawn
        ]

    def _idle(self) -> set[tuple[str, str]]:
        """The devices that nobody holds, this batch or another, as far as Ray knows."""
        from ray._private import state

        return {
            (node_id, name.removeprefix(RESOURCE))
            for node_id, left in state.available_resources_per_node().items()
            for name, amount in left.items()
            if name.startswith(RESOURCE) and amount >= 1
        }

    def _late(self) -> list[Any]:
        """What was given away, and should have begun by now."""
        now = time.monotonic()
        return [ref for ref, at in self.running.items() if self.late_at.get(at.attempt, now) < now]

    def _move(self, ref: Any, idle: set[tuple[str, str]], busy: set[tuple[str, str]]) -> None:
        """Give it to a device that is idle, if there is one and it has not begun meanwhile."""
        import ray

        at = self.running[ref]
        place = next((place for place in self._places(at.piece) if _key(place) in idle - busy), None)
        if place is None:
            return
        del self.late_at[at.attempt]
        if not ray.get(self.board.take_back.remote(at.attempt)):
            return
        del self.running[ref]
        ray.cancel(ref)
        self.handler.said(at, "stage", f"somebody else holds {at.device.device_name}: given to {place[0].joined.name}")
        self._start(at.piece, *place, idle)
        busy.add(_key(place))

    def _start(self, piece: Piece, node: Node, device: Offered, idle: set[tuple[str, str]]) -> Placement:
        at = Placement(piece=piece, node=node, device=device, attempt=uuid.uuid4().hex)
        remote = self.fleet.remote(do, node.node_id, {f"{RESOURCE}{device.lock}": 1})
        self.handler.began(at)
        patience = UNBEGUN_SECONDS if (node.node_id, device.lock) in idle else HELD_SECONDS
        self.late_at[at.attempt] = time.monotonic() + patience
        self.running[remote.remote(self.work, piece.payload, at.attempt, self.board)] = at
        return at

    # --- answers ---

    def _answer(self, at: Placement, ref: Any) -> bytes | Exception:
        import ray

        try:
            answer: bytes = ray.get(ref)
        except ray.exceptions.RayError as raised:
            error: Exception = raised
            if isinstance(error, gone()):
                self.nodes.pop(at.node.node_id, None)
            return error
        return answer

    def _declined(self, at: Placement, answer: bytes | Exception) -> bool:
        if not isinstance(answer, bytes) or not self.handler.declined(at, answer):
            return False
        self.withdrawn.add((at.node.node_id, at.device.lock, at.device.platform))
        self.waiting.appendleft(at.piece)
        return True

    def _handle(self, at: Placement, answer: bytes | Exception) -> None:
        import ray

        if isinstance(answer, bytes):
            self.handler.finished(at, answer)
            return
        if isinstance(answer, ray.exceptions.RayTaskError):
            ray.get(self.board.give_up.remote(at.attempt))
            self.handler.broke(at, " ".join(str(answer.cause or answer).split())[-300:])
            return
        why = f"node {at.node.joined.name} was lost: {type(answer).__name__}"
        granted = bool(ray.get(self.board.give_up.remote(at.attempt)))
        if self.handler.lost(at, granted, why):
            return
        count = self.losses[id(at.piece)] = self.losses.get(id(at.piece), 0) + 1
        if count >= MOST_LOSSES:
            why = f"its node was lost {count} times; the last was {at.node.joined.name}"
            self.handler.nowhere(at.piece, why, lost=True)
        else:
            self.waiting.appendleft(at.piece)

    def _hear(self, ended: Sequence[Placement]) -> None:
        import ray

        places = {at.attempt: at for at in (*ended, *self.running.values())}
        for attempt, kind, text in ray.get(self.board.news.remote()):
            if kind == BEGUN:
                self.late_at.pop(attempt, None)
            elif attempt in places:
                self.handler.said(places[attempt], kind, text)

    def stop(self) -> None:
        """Tell the nodes, and hear what they still say."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.board.stop.remote())
            if not self.running:
                return
            done, late = ray.wait(list(self.running), num_returns=len(self.running), timeout=STOP_SECONDS)
            for ref in late:
                at = self.running.pop(ref)
                self.handler.lost(at, bool(ray.get(self.board.give_up.remote(at.attempt))), "it did not stop in time")
            for ref in done:
                at = self.running.pop(ref)
                self._handle(at, self._answer(at, ref))


def _key(place: tuple[Node, Offered]) -> tuple[str, str]:
    node, device = place
    return node.node_id, device.lock


def gone() -> tuple[type[Exception], ...]:
    """What Ray raises when a node, and not only a process on it, is gone."""
    from ray import exceptions

    return (exceptions.NodeDiedError, exceptions.TaskUnschedulableError, exceptions.LocalRayletDiedError)
