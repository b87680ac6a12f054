"""A batch while it runs: its parent, its lanes, what is done and what is missing. Wiring only."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click
import filelock

from hwbench_mlflow import evidence
from hwbench_mlflow.cli.batch_view import BatchProgress, LaneProgress, Outcome, entry, table
from hwbench_mlflow.cli.delivery import Delivery
from hwbench_mlflow.cli.session import failure_of, request_tags, run_name
from hwbench_mlflow.codec import decode, encode
from hwbench_mlflow.errors import (
    BenchmarkFailed,
    ExitCode,
    HardwareUnavailable,
    HwbenchError,
    Interrupted,
    Refused,
    StoreAway,
    StoreError,
    UsageError,
)
from hwbench_mlflow.evidence import ATTEMPT_TAG, CELLS_TAG, PROCESS_TAG, Judgement, judge
from hwbench_mlflow.host import process_alive
from hwbench_mlflow.lanes import Stopping, run_lanes
from hwbench_mlflow.model import Platform, RunRequest, VerdictState
from hwbench_mlflow.plan import Plan, cell_id
from hwbench_mlflow.spool import ParentPlace, Place
from hwbench_mlflow.supervise import lock_folder

if TYPE_CHECKING:
    from hwbench_mlflow.attest import Keyring, SigningKey
    from hwbench_mlflow.fleet.connection import Fleet
    from hwbench_mlflow.model import Availability

CELL_TAG = "hwbench.cell"
SEED_TAG = "hwbench.batch_seed"


@dataclass(slots=True)
class BatchSession:
    """One batch. Entered before it runs and left when it is over, however it ends."""

    tracking_uri: str | None
    experiment: str | None
    key: SigningKey
    keyring: Keyring
    max_workers: int
    fleet: str | None = None
    plan: Plan | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    _delivery: Delivery | None = None
    _todo: tuple[RunRequest, ...] = ()
    _absent: dict[tuple[Platform, str | None, str], HardwareUnavailable] = field(default_factory=dict)
    _pending: dict[str, tuple[Place, RunRequest, Judgement]] = field(default_factory=dict)
    _progress: BatchProgress | None = None
    _lanes: dict[str, LaneProgress] = field(default_factory=dict)
    _held: ExitStack = field(default_factory=ExitStack)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _entered: Fleet | None = None

    @property
    def delivery(self) -> Delivery:
        """Where results go."""
        if self._delivery is None:
            self._delivery = Delivery(self.tracking_uri, self.experiment, self.key, self.keyring, self._warn)
        return self._delivery

    def _warn(self, text: str) -> None:
        if self._progress is not None:
            self._progress.warn(text)
        else:
            click.echo(f"hwbench: warning: {text}", err=True)

    # --- a new one, or one that goes on --------------------------------------------------------------

    def begin(self, plan: Plan) -> None:
        """A new batch. Nothing is sent before the first cell is."""
        self.plan, self._todo = plan, plan.requests
        models = {request.workload.model for request in plan.requests}
        platforms = sorted({request.platform.value for request in plan.requests})
        name = f"batch-{len(models)}-models-{'-'.join(platforms)}"
        tags = {CELLS_TAG: str(len(plan.requests)), SEED_TAG: str(plan.seed), evidence.ROLE_TAG: "parent"}
        self.delivery.open_parent(name, tags, encode(plan))

    def resume(self, parent: str | None, *, take_over: bool) -> Plan:
        """Go on with a batch: what no finished run of it proves is to be measured. Returns its plan.

        First whatever waits in the spool is delivered; then runs that a dead process left RUNNING are ended. Raises
        UsageError where there is nothing to resume, Refused where it is running still, or may be, elsewhere.
        """
        self.delivery.flush()
        store = self.delivery.store()
        if parent is None:
            left = store.open_batches()
            if not left:
                raise UsageError(
                    "no batch of this experiment is unfinished", remedy="Name its parent run: --resume RUN"
                )
            parent = left[0].run_id
        index = store.run_index(parent)
        document = store.read_plan(parent)
        if document is None or CELLS_TAG not in index.tags:
            raise UsageError(f"run {parent} is no batch: it holds no plan", remedy="Name the parent run of a batch")
        if index.status == "RUNNING":
            self._refuse_live(parent, index.tags.get(PROCESS_TAG, ""), take_over=take_over)
        self._hold(parent)
        if self.fleet is not None:
            # From now on nothing that an earlier process gave away is delivered late; first what waits on the nodes is.
            self._enter_fleet().nodes()
            store.reopen(parent)
        self.plan = decode(document, Plan)
        self.delivery.parent = ParentPlace(
            attempt=index.tags.get(ATTEMPT_TAG, "0" * 32), name=index.run_id, started_ms=0, run_id=parent
        )
        proven = self._proven(parent)
        self.outcomes = [
            Outcome(request=request, state="kept", run_id=proven[key][0], judgement=proven[key][1])
            for request in self.plan.requests
            if (key := encode(request)) in proven
        ]
        self._todo = tuple(request for request in self.plan.requests if encode(request) not in proven)
        return self.plan

    def _refuse_live(self, parent: str, process: str, *, take_over: bool) -> None:
        alive = process_alive(process)
        if alive:
            raise Refused(f"batch {parent} is running: process {process.split(':')[2]} of this machine")
        if alive is None and not take_over:
            raise Refused(
                f"batch {parent} was started on another machine: whether it still runs cannot be told from here",
                remedy="If it does not, --yes takes it over",
            )

    def _hold(self, parent: str) -> None:
        """One process at a time goes on with a batch."""
        lock = filelock.FileLock(lock_folder() / f"batch-{parent}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise Refused(f"batch {parent} is running: another process of this machine holds it") from None
        self._held.callback(lock.release)

    def _proven(self, parent: str) -> dict[bytes, tuple[str, Judgement]]:
        """The configurations of which a finished run holds a result that its evidence proves, by their request.

        Tags only say where to look. A result that is simulated and otherwise sound counts: measuring again would
        give no other verdict.
        """
        store = self.delivery.store()
        proven: dict[bytes, tuple[str, Judgement]] = {}
        for child in store.nested(parent):
            if child.status == "RUNNING":
                if not process_alive(child.tags.get(PROCESS_TAG, "")):
                    store.end_killed(child.run_id, "its batch was killed")
                continue
            if child.status != "FINISHED":
                continue
            judged = judge(store.evidence_of(child.run_id), child, self.keyring)
            if judged.result is not None and sound(judged):
                proven.setdefault(encode(judged.result.request), (child.run_id, judged))
        return proven

    def earlier(self) -> dict[tuple[str, ...], float]:
        """Seconds that earlier runs took; nothing where the store cannot say: then all is guessed. Makes no store,
        and no experiment: a dry run asks for it."""
        from hwbench_mlflow.tracking import Store

        try:
            uri = self.delivery.uri()
            if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
                return {}
            return Store(self.tracking_uri, self.experiment, may_create=False).seconds_of_results()
        except StoreError as error:
            self._warn(f"no earlier runs to estimate by: {error}")
            return {}

    # --- running ---------------------------------------------------------------------------------------

    def __enter__(self) -> BatchSession:
        self._held.enter_context(self.delivery.spool.reserving())
        self._progress = self._held.enter_context(BatchProgress(len(self._todo)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
        self._progress = None

    def run_all(self) -> None:
        """Measure what is to be measured; failures stop nothing else, a refusing store and a signal stop all."""
        assert self.plan is not None
        assert self._progress is not None
        self.delivery.flush()
        if self.delivery.parent is not None and self.delivery.parent.run_id is not None and self._todo:
            with contextlib.suppress(StoreAway):
                self.delivery.store().reopen(self.delivery.parent.run_id)
        try:
            if self.fleet is not None:
                self._on_fleet()
            else:
                run_lanes(self._by_lane(), self._work, self._send_pending, self.max_workers)
        except StoreError:
            with contextlib.suppress(StoreError):
                self._end()
            raise
        except BaseException:
            self._end()
            raise
        self._end()

    def _end(self) -> None:
        assert self.plan is not None
        good = sum(outcome.state != "failed" for outcome in self.outcomes)
        self.delivery.end_parent(len(self.plan.requests), len(self.plan.requests) - good)

    def _enter_fleet(self) -> Fleet:
        from hwbench_mlflow.cli.fleet_batch import enter

        if self._entered is None:
            assert self.fleet is not None
            self._entered = self._held.enter_context(enter(self.fleet, self.delivery.uri(), self.experiment))
        return self._entered

    def _on_fleet(self) -> None:
        """The cells, each on a node that has its hardware."""
        from hwbench_mlflow.cli.fleet_batch import FleetCells

        assert self.plan is not None
        assert self._progress is not None
        if self._todo:
            cells = FleetCells(delivery=self.delivery, keyring=self.keyring, progress=self._progress, over=self._over)
            cells.run(
                self._enter_fleet(), self._todo, self.plan.cooldown_s, lambda request: {CELL_TAG: cell_id(request)}
            )

    def _by_lane(self) -> dict[str, list[RunRequest]]:
        """The cells by the device that they need. One worker needs no knowledge of devices: all are one lane.

        For several, each platform is probed once; what is unavailable is recorded by whichever lane comes first.
        """
        if self.max_workers == 1:
            return {"cells": list(self._todo)}
        from hwbench_mlflow.probing import probe_isolated

        backends = {request.platform: request.backend for request in self._todo}
        answers = {a.platform: a for a in probe_isolated(list(backends), backends=backends)}
        lanes: dict[str, list[RunRequest]] = {}
        for request in self._todo:
            lanes.setdefault(self._lane_of(request, answers), []).append(request)
        return merged(lanes)

    def _lane_of(self, request: RunRequest, answers: Mapping[Platform, Availability]) -> str:
        from hwbench_mlflow.runner import choose_device, lock_name, lock_parts

        try:
            device = choose_device(answers[request.platform], request.device)
        except HardwareUnavailable as error:
            self._absent[_hardware(request)] = error
            return "unavailable"
        return " ".join(lock_parts(device, request.cores)) or lock_name(device)

    def _work(self, lane: str, request: RunRequest, stopping: Stopping) -> None:
        """One cell, from its run to its result in the spool; the result before it is sent while this one starts."""
        from hwbench_mlflow import runner

        assert self.plan is not None
        assert self._progress is not None
        with self._lock:
            progress = self._lanes.setdefault(lane, self._progress.lane(lane))
        progress.cell = run_name(request)
        place: Place | None = None

        def prepare() -> None:
            nonlocal place
            self._send_pending(lane)
            if place is None:
                place = self.delivery.open(run_name(request), {**request_tags(request), CELL_TAG: cell_id(request)})

        try:
            known = self._absent.get(_hardware(request))
            if known is not None:
                raise known
            measured = runner.run(request, progress, prepare)
        except (HardwareUnavailable, BenchmarkFailed, UsageError) as error:
            if isinstance(error, HardwareUnavailable):
                self._absent.setdefault(_hardware(request), error)
            reported: HwbenchError = Interrupted("told to stop while it measured") if stopping else error
            prepare()
            assert place is not None
            self.delivery.fail(place, failure_of(reported, request), killed=bool(stopping))
            if not stopping:
                self._over(
                    Outcome(
                        request=request,
                        state="failed",
                        run_id=place.run_id,
                        reason=" ".join(str(error).split()),
                        unavailable=isinstance(error, HardwareUnavailable),
                    )
                )
        else:
            assert place is not None
            files = evidence.seal(measured.result, measured.samples, self.key)
            self.delivery.queue(place, files)
            self._pending[lane] = (place, request, judge(files, None, self.keyring))
            stopping.pause(self.plan.cooldown_s)

    def _send_pending(self, lane: str) -> None:
        """Send a lane's last result: while its next worker starts, or at its end, and never beside its window."""
        pending = self._pending.pop(lane, None)
        if pending is None:
            return
        place, request, judged = pending
        run_id = self.delivery.send(place)
        bad = judged.verdict.state is VerdictState.CONTRADICTED
        self._over(
            Outcome(
                request=request,
                state="failed" if bad else "queued" if run_id is None else "done",
                run_id=run_id,
                judgement=judged,
                reason="; ".join(judged.verdict.reasons) if bad else None,
            )
        )

    def _over(self, outcome: Outcome) -> None:
        assert self._progress is not None
        with self._lock:
            self.outcomes.append(outcome)
        self._progress.advance()

    # --- afterwards --------------------------------------------------------------------------------------

    def print_summary(self, *, as_json: bool) -> None:
        """Every cell, on standard output."""
        assert self.plan is not None
        parent = self.delivery.parent.run_id if self.delivery.parent is not None else None
        failed = sum(outcome.state == "failed" for outcome in self.outcomes)
        if as_json:
            document = {
                "schema_version": 1,
                "parent_run_id": parent,
                "seed": self.plan.seed,
                "failed": failed,
                "cells": [entry(outcome) for outcome in self.outcomes],
            }
            click.echo(encode(document).decode())
            return
        click.echo(table(self.outcomes))
        counts = {state: sum(o.state == state for o in self.outcomes) for state in ("done", "kept", "queued", "failed")}
        said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        click.echo(f"{len(self.outcomes)} cells: {said}; parent run {parent or '(waits in the spool)'}")

    def exit_code(self) -> ExitCode:
        """0, or 1 if a cell failed, or 4 if none could run for want of hardware."""
        failed = [outcome for outcome in self.outcomes if outcome.state == "failed"]
        if not failed:
            return ExitCode.DONE
        if len(failed) == len(self.outcomes) and all(outcome.unavailable for outcome in failed):
            return ExitCode.UNAVAILABLE
        return ExitCode.FAILED


def sound(judged: Judgement) -> bool:
    """Whether a result needs no second measurement: verified, or simulated and for no other reason than that."""
    state = judged.verdict.state
    simulated = all(finding.effect is VerdictState.SIMULATED for finding in judged.verdict.findings)
    return state is VerdictState.VERIFIED or (state is VerdictState.SIMULATED and simulated)


def merged(lanes: Mapping[str, list[RunRequest]]) -> dict[str, list[RunRequest]]:
    """Lanes that share a lock (the cores of a CPU, pinned or not) are one."""
    groups: list[tuple[set[str], list[RunRequest]]] = []
    for name, cells in lanes.items():
        locks, own = set(name.split(" ")), list(cells)
        apart = []
        for other, theirs in groups:
            if locks & other:
                locks, own = locks | other, [*theirs, *own]
            else:
                apart.append((other, theirs))
        groups = [*apart, (locks, own)]
    return {" ".join(sorted(locks)): cells for locks, cells in groups}


def _hardware(request: RunRequest) -> tuple[Platform, str | None, str]:
    return request.platform, request.device, request.backend
