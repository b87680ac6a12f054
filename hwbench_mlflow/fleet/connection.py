"""A connection to a fleet, from a machine that is one of its nodes; and a batch's signals while it runs there."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

from hwbench_mlflow.codec import decode
from hwbench_mlflow.errors import CorruptEvidence, FleetError
from hwbench_mlflow.fleet.joining import RAY_SETTINGS, auth_mode, parse_address, require_ray
from hwbench_mlflow.fleet.on_node import ANSWER_SECONDS, Board, Greet, Work, greet_node
from hwbench_mlflow.fleet.placing import Handler, Loop, Node, Piece
from hwbench_mlflow.offers import Joined


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
        require_ray()
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
        os.environ.setdefault("RAY_AUTH_MODE", auth_mode())
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

        asked = {self.ask(node["NodeID"]): node for node in ray.nodes() if node["Alive"]}
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
        found = [self.answered(asked[ref], ref) for ref in done]
        return sorted((node for node in found if node is not None), key=lambda node: (node.joined.name, node.node_id))

    def ask(self, node_id: str) -> Any:
        """Greet a node; a reference to its answer."""
        return self.remote(greet_node, node_id, {}).remote(self.greet, self.payload)

    def answered(self, node: Mapping[str, Any], ref: Any) -> Node | None:
        """What the answer comes to; None if it is no node of ours, or ``silent`` says why it does not answer."""
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

    def remote(self, function: Callable[..., Any], node_id: str, needs: Mapping[str, float]) -> Any:
        """A function that is to run on that node, and holds so much of its resources meanwhile."""
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
        loop = Loop(self, work, handler, deque(pieces), self._board)
        try:
            with _held_signals() as check:
                loop.run(check)
        except BaseException:
            loop.stop()
            raise
        finally:
            ray.kill(self._board)


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
