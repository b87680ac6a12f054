"""Many machines: who offers which device, and which piece of work is done where. The only importer of ray.

Owns what a node says of itself when it joins, the resources that stand for its devices, and the placement of pieces of
work: one at a time on a device, again elsewhere when a node is lost, and never handed in twice. Ray carries bytes and
runs a function on a node; what the pieces are, and where their results go, is the caller's. Imports no tracking store.

A device is one resource of capacity 1 (``hwbench:cpu``, named by its lock), so that two batches, and two programs of
anybody's that ask for it, take turns. The runner's own lock on the node stands behind it. A piece that waits for a
device which somebody else holds is taken back, and given to a free one of its kind, if it has not begun.

Ray trusts whoever reaches its ports: a fleet is started with Ray's token authentication, or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from hwbench_mlflow.codec import decode, encode
from hwbench_mlflow.errors import CorruptEvidence, FleetError
from hwbench_mlflow.model import Platform
from hwbench_mlflow.offers import OFFER_VARIABLE, RESOURCE, Joined, Offered, as_joined, resources

if TYPE_CHECKING:
    from collections.abc import Awaitable

RAY_SETTINGS = {
    "RAY_usage_stats_enabled": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or a task without Ray's own GPUs sees none
    "RAY_memory_monitor_refresh_ms": "0",  # memory is refused before a model is loaded, not by killing a measurement
}
OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""About the least that Ray takes: what travels is a result, some 100 KB."""

LOOK_SECONDS = 0.2
MEET_SECONDS = 5.0
ANSWER_SECONDS = 60.0
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


def join_command(address: str, joined: Joined, *, head: bool, ip: str | None) -> tuple[list[str], dict[str, str]]:
    """Ray's command that makes this machine a node until it is ended, and its environment.

    Raises FleetError where ray is not installed, or nobody would have to show who they are.
    """
    _installed()
    host, port = parse_address(address)
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
        "--object-store-memory", str(OBJECT_STORE_BYTES), "--num-cpus", str(max(1, len(resources(joined.devices)))),
        "--num-gpus", "0", "--resources", encode(resources(joined.devices)).decode(),
    ]  # fmt: skip
    command += ["--head", "--port", str(port), "--include-dashboard", "false"] if head else ["--address", address]
    if ip is not None or head:
        command += ["--node-ip-address", ip or host]
    environ = {**os.environ, **RAY_SETTINGS, OFFER_VARIABLE: encode(joined).decode()}
    environ["RAY_AUTH_MODE"] = _auth_mode()
    return command, environ


def _auth_mode() -> str:
    """``token``, or what the user has set. Raises FleetError where there is neither: it is never off by default."""
    asked = os.environ.get("RAY_AUTH_MODE")
    if asked is not None:
        return asked
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled

    if not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        raise FleetError(
            "whoever reaches a fleet's ports runs code on its nodes, and this machine has no token for it",
            remedy="Once: ray get-auth-token --generate; then copy ~/.ray/auth_token to every node",
        )
    return "token"


def parse_address(address: str) -> tuple[str, int]:
    """``HOST:PORT``. Raises FleetError."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise FleetError(f"{address!r} is no address of a fleet", remedy="Write HOST:PORT, as lab-1:6379")
    return host, int(port)


def _installed() -> None:
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise FleetError("ray is not installed here", remedy="pip install 'hwbench-mlflow[fleet]'") from error


# --- on a node ---------------------------------------------------------------------------------------------


class OnNode:
    """What a piece of work may ask of the one who placed it. ``attempt`` is what it is known by."""

    def __init__(self, attempt: str, board: Any) -> None:
        self.attempt = attempt
        self.stopped = threading.Event()
        self._board = board

    def say(self, kind: str, text: str) -> None:
        """A ``stage`` or a ``warning``; nobody waits for it to arrive."""
        self._board.say.remote(self.attempt, kind, text)

    def may_deliver(self) -> bool | None:
        """Whether what it found may be handed in: False if it was given up, and is done elsewhere; None if nobody is
        there to say."""
        import ray

        try:
            return bool(ray.get(self._board.grant.remote(self.attempt), timeout=ANSWER_SECONDS))
        except ray.exceptions.RayError:
            return None

    @contextlib.contextmanager
    def stoppable(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call ``stop`` when the batch is told to stop, or is gone, while the block runs."""
        import ray

        def wait() -> None:
            try:
                told = bool(ray.get(self._board.until.remote(self.attempt)))
            except ray.exceptions.RayError:
                told = True
            if told:
                self.stopped.set()
                stop()

        thread = threading.Thread(target=wait, daemon=True, name="hwbench-fleet-stop")
        thread.start()
        try:
            yield
        finally:
            self._board.over.remote(self.attempt)
            thread.join(ANSWER_SECONDS)


BEGUN = "begun"
"""The news, for the loop alone, that a node has begun with an attempt."""

Work = Callable[[bytes, OnNode], bytes]
Greet = Callable[[bytes], bytes]


def _do(work: Work, payload: bytes, attempt: str, board: Any) -> bytes:
    """Nothing, and nobody waits for the answer, if the piece was taken back before it could begin."""
    import ray

    try:
        if not ray.get(board.begin.remote(attempt), timeout=ANSWER_SECONDS):
            return b""
    except ray.exceptions.RayActorError:  # who gave it away is gone
        return b""
    return _off_main(lambda: work(payload, OnNode(attempt, board)))


def _greet(greet: Greet, payload: bytes) -> tuple[str, bytes]:
    """What the node said when it joined ("" for one that joined otherwise), and its answer."""
    said = os.environ.get(OFFER_VARIABLE, "")
    return said, _off_main(lambda: greet(payload)) if said else b""


def _off_main(what: Callable[[], bytes]) -> bytes:
    """Run it on a thread of its own, with the environment that the node joined with: signals are Ray's."""
    done: list[bytes] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            done.append(what())
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            errors.append(error)

    with as_joined():
        thread = threading.Thread(target=run, daemon=True, name="hwbench-fleet-work")
        thread.start()
        thread.join()
    if errors:
        raise errors[0]
    return done[0]


class Board:
    """Where nodes say what they do, and ask whether they still may. An actor, beside whoever runs the batch.

    Handing in is granted once for each attempt, and only to one that was not given up: whichever comes first holds. So
    it is with beginning: an attempt begins or is taken back, never both.
    """

    def __init__(self) -> None:
        self._news: list[tuple[str, str, str]] = []
        self._given_up: set[str] = set()
        self._granted: set[str] = set()
        self._begun: set[str] = set()
        self._ends: dict[str, asyncio.Event] = {}
        self._stopping = asyncio.Event()

    async def say(self, attempt: str, kind: str, text: str) -> None:
        """News for whoever runs the batch."""
        self._news.append((attempt, kind, text))

    async def news(self) -> list[tuple[str, str, str]]:
        """What was said since the last time."""
        taken, self._news = self._news, []
        return taken

    async def begin(self, attempt: str) -> bool:
        """Whether an attempt may begin; then it cannot be taken back any more."""
        if attempt in self._given_up:
            return False
        self._begun.add(attempt)
        self._news.append((attempt, BEGUN, ""))
        return True

    async def take_back(self, attempt: str) -> bool:
        """Whether an attempt had not begun; then it never will, and is granted nothing."""
        if attempt in self._begun:
            return False
        self._given_up.add(attempt)
        return True

    async def grant(self, attempt: str) -> bool:
        """Whether an attempt may hand in."""
        if attempt in self._given_up:
            return False
        self._granted.add(attempt)
        return True

    async def give_up(self, attempt: str) -> bool:
        """From now on it is granted nothing; whether it had been."""
        self._given_up.add(attempt)
        return attempt in self._granted

    async def until(self, attempt: str) -> bool:
        """Returns when that attempt is over (False), or everything is to stop (True)."""
        end = self._ends.setdefault(attempt, asyncio.Event())
        waits: list[Awaitable[bool]] = [asyncio.ensure_future(event.wait()) for event in (end, self._stopping)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
        for wait in waits:
            wait.cancel()  # type: ignore[attr-defined]
        self._ends.pop(attempt, None)
        return self._stopping.is_set()

    async def over(self, attempt: str) -> None:
        """Let :meth:`until` return."""
        self._ends.setdefault(attempt, asyncio.Event()).set()

    async def stop(self) -> None:
        """Everything is to stop."""
        self._stopping.set()


# --- whoever gives work away -------------------------------------------------------------------------------


@dataclass(slots=True)
class Fleet:
    """A connection to a fleet, from a machine that is one of its nodes. A context manager.

    ``greet`` is what every node is asked, with ``payload``. ``silent`` says of nodes that did not answer why.
    """

    address: str
    greet: Greet
    payload: bytes = b""
    silent: list[str] = field(default_factory=list)
    _board: Any = None
    _functions: dict[Callable[..., Any], Any] = field(default_factory=dict)

    def __enter__(self) -> Fleet:
        """Connect. Raises FleetError where there is none, or it lets us not in."""
        _installed()
        host, port = parse_address(self.address)
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            raise FleetError(
                f"no fleet answers at {self.address}: {error.strerror or error}",
                remedy=f"On its first machine: hwbench fleet join {self.address} --head",
            ) from error
        for name, value in RAY_SETTINGS.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("RAY_AUTH_MODE", _auth_mode())
        self._init()
        return self

    def _init(self) -> None:
        import ray
        from ray._private import worker

        # Ray prints a raylet's last 20 lines for every node that is lost; we say it in one.
        if hasattr(worker, "print_to_stdstream"):
            worker.print_to_stdstream = lambda *_, **__: None
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            ray.init(
                address=self.address, namespace="hwbench", log_to_driver=False, logging_level="CRITICAL",
                configure_logging=False,
            )  # fmt: skip
        except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())[:300]
            raise FleetError(
                f"cannot enter the fleet at {self.address}: {said}",
                remedy=f"This machine must be a node of it: hwbench fleet join {self.address} --hardware none",
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():  # Ray puts its own in their place
                    signal.signal(number, handler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        ray.shutdown()

    def nodes(self) -> list[Node]:
        """Every live node that joined as hwbench's, by name. One that does not answer in time is left out."""
        import ray

        asked = {self._ask(node["NodeID"]): node for node in ray.nodes() if node["Alive"]}
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
        found = [self._answered(asked[ref], ref) for ref in done]
        return sorted((node for node in found if node is not None), key=lambda node: (node.joined.name, node.node_id))

    def _ask(self, node_id: str) -> Any:
        return self._remote(_greet, node_id, {}).remote(self.greet, self.payload)

    def _answered(self, node: Mapping[str, Any], ref: Any) -> Node | None:
        import ray

        try:
            said, greeting = ray.get(ref)
            if not said:
                return None
            joined = decode(said.encode(), Joined)
        except (ray.exceptions.RayError, CorruptEvidence) as error:
            said = " ".join(str(error).split())[:200]
            self.silent.append(f"the node at {node['NodeManagerAddress']} does not answer as this hwbench does: {said}")
            return None
        return Node(node_id=node["NodeID"], address=node["NodeManagerAddress"], joined=joined, greeting=greeting)

    def _remote(self, function: Callable[..., Any], node_id: str, needs: Mapping[str, float]) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        if function not in self._functions:  # each time that one is made, Ray sends it to every node anew
            self._functions[function] = ray.remote(function)
        return self._functions[function].options(
            num_cpus=0, max_retries=0, resources=dict(needs), scheduling_strategy=there
        )

    def run(self, pieces: Sequence[Piece], work: Work, handler: Handler) -> None:
        """Do every piece, in order as far as devices allow, one at a time on each device; returns when all are over.

        An error of the handler's, and one that reaches this thread (a signal's), ends all: nodes are told to stop, and
        what they still say is handled before the error is raised.
        """
        import ray

        here = ray.get_runtime_context().get_node_id()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._board = (
            ray.remote(Board)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False))
            .remote()
        )
        loop = _Loop(self, work, handler, deque(pieces), self._board)
        try:
            with _held_signals() as check:
                loop.run(check)
        except BaseException:
            loop.stop()
            raise
        finally:
            ray.kill(self._board)


@dataclass(slots=True)
class _Loop:
    """One run of pieces. ``late_at``: of attempts that have not begun, when to look for another device."""

    fleet: Fleet
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
                    self._admit(self.fleet._answered(self.meeting.pop(ref), ref))
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
                self.meeting[self.fleet._ask(node["NodeID"])] = node
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
        remote = self.fleet._remote(_do, node.node_id, {f"{RESOURCE}{device.lock}": 1})
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


@contextlib.contextmanager
def _held_signals() -> Iterator[Callable[[], None]]:
    """Gives what lets a SIGTERM or Ctrl-C of before through: inside Ray's calls an error of a handler's comes out as
    another one, or not at all."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        del frame
        came.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def check() -> None:
        for number in came:
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, None)
            raise KeyboardInterrupt

    for number in before:
        signal.signal(number, hold)
    try:
        yield check
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is hold:  # else it was handled, and its handler has said what comes next
                signal.signal(number, handler)


def gone() -> tuple[type[Exception], ...]:
    """What Ray raises when a node, and not only a process on it, is gone."""
    from ray import exceptions

    return (exceptions.NodeDiedError, exceptions.TaskUnschedulableError, exceptions.LocalRayletDiedError)
