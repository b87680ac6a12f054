"""From a measured result to its tracking store, by way of the spool. Shared by the commands that measure or push.

Owns the order of things that loses nothing and doubles nothing: an attempt is drawn, its run is made with the attempt
as a tag, the result is written to the spool, sent, and removed from the spool. Killed between any two of these, the
next command goes on where this one ended.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hwbench_mlflow.cli.signals import undisturbed
from hwbench_mlflow.errors import HwbenchError, StoreAway, StoreError
from hwbench_mlflow.evidence import ATTEMPT_TAG
from hwbench_mlflow.spool import SPOOL_VERSION, ParentEnd, ParentPlace, Place, Spool

if TYPE_CHECKING:
    from hwbench_mlflow.attest import Keyring, SigningKey
    from hwbench_mlflow.model import Failure
    from hwbench_mlflow.tracking import Store

AWAY_SECONDS = 60.0
"""How long a store that did not answer is not asked again by the same command: each time costs seconds."""

Warn = Callable[[str], None]


@dataclass(slots=True)
class Delivery:
    """The store that a command logs to, and the spool before it. May be used by several threads."""

    tracking_uri: str | None
    experiment: str | None
    key: SigningKey
    keyring: Keyring
    warn: Warn
    spool: Spool = field(default_factory=Spool)
    parent: ParentPlace | None = None
    _store: Store | None = None
    _away_until: float = 0.0
    _fresh: set[str] = field(default_factory=set)
    _parents: dict[str, str] = field(default_factory=dict)
    _told: bool = False
    _used: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def store(self) -> Store:
        """The tracking store, imported and opened when it is first needed. Raises StoreError, StoreAway."""
        with self._lock:
            if self._store is None:
                from hwbench_mlflow.tracking import Store

                self._store = Store(self.tracking_uri, self.experiment)
            return self._store

    def uri(self) -> str:
        """The store's address, complete: the spool outlives the folder that this command was started in."""
        from hwbench_mlflow.tracking import whole_uri

        return whole_uri(self.tracking_uri)

    # --- before the measurement -------------------------------------------------------------------

    def open_parent(self, name: str, tags: Mapping[str, str], plan: bytes | None = None) -> None:
        """The run that holds those which are opened from now on. It is made when the first of them is, or later."""
        self.parent = ParentPlace(
            attempt=uuid.uuid4().hex,
            name=name,
            started_ms=round(time.time() * 1000),
            run_id=None,
            tags=dict(tags),
        )
        self._fresh.add(self.parent.attempt)
        if plan is not None:
            self.spool.put_plan(self.parent.attempt, plan)

    def parent_run(self) -> str | None:
        """The run of what was opened as parent, made now if it is not there. Raises StoreError, StoreAway."""
        with self._lock, undisturbed(), self._answering():
            return self._parent_of(self._place("", {})) if self.parent is not None else None

    def open(
        self, name: str, tags: Mapping[str, str], *, attempt: str | None = None, lease: str | None = None
    ) -> Place:
        """A run for what is about to be measured, where the store answers; else a place for the spool alone.

        ``attempt`` and ``lease`` are of a batch that runs on another machine: see :class:`.spool.Place`. Raises
        StoreError where the store refuses: what cannot be logged need not be measured.
        """
        with self._lock, undisturbed():
            place = replace(self._place(name, tags), lease=lease)
            place = place if attempt is None else replace(place, attempt=attempt)
            try:
                with self._answering():
                    parent = self._parent_of(place)
                    run_id = self.store().start(name, parent=parent, tags={**tags, ATTEMPT_TAG: place.attempt})
                    return replace(place, run_id=run_id, parent=self.parent)
            except StoreAway:
                # What `mlflow run` has made for this process is there, whether it answers or not.
                adopted = os.environ.get("MLFLOW_RUN_ID") if self.parent is None else None
                return replace(place, run_id=adopted, parent=self.parent)

    def _place(self, name: str, tags: Mapping[str, str]) -> Place:
        return Place(
            spool_version=SPOOL_VERSION,
            attempt=uuid.uuid4().hex,
            tracking_uri=self.uri(),
            experiment=self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME"),
            name=name,
            started_ms=round(time.time() * 1000),
            parent=self.parent,
            tags=dict(tags),
        )

    # --- after it -----------------------------------------------------------------------------------

    def keep(self, place: Place, files: Mapping[str, bytes]) -> str | None:
        """Queue a result and deliver it; the run that holds it, or None while it waits in the spool.

        Raises StoreError where the store refuses it (it waits in the spool, which the error says), and where it can
        be kept nowhere.
        """
        self.queue(place, files)
        return self.send(place)

    def queue(self, place: Place, files: Mapping[str, bytes]) -> None:
        """Write a result to the spool, not yet to the store."""
        with undisturbed(), self._lock:
            self.spool.put(place, files)
            self._fresh.add(place.attempt)
            self._used = True

    def fail(self, place: Place, failure: Failure, *, killed: bool = False) -> None:
        """Queue the reason why a run has no result, and deliver it."""
        with undisturbed(), self._lock:
            self.spool.put_failure(replace(place, killed=killed), failure)
            self._fresh.add(place.attempt)
            self._used = True
        self.send(place)

    def end_parent(self, configurations: int, failed: int) -> None:
        """Queue the end of the parent, and deliver it. Of one that never came to hold anything there is no end."""
        if self.parent is None:
            return
        if not self._used and self.parent.run_id is None:
            self.spool.remove_plan(self.parent.attempt)
            return
        place = self._place("", {})
        with undisturbed(), self._lock:
            self.spool.put_end(place, ParentEnd(configurations=configurations, failed=failed))
        self.send(place)

    def send(self, place: Place) -> str | None:
        """Deliver one entry of the spool now; the run that holds it, or None where the store is away.

        Another command may have been faster: it delivers what waits, ours too.
        """
        with undisturbed(), self._lock:
            try:
                with self._answering(), self.spool.delivering():
                    if self.spool.has(place.attempt):
                        return self._deliver(place.attempt)
                    return place.run_id or self.store().find_attempt(place.attempt)
            except StoreAway:
                return None
            except StoreError as error:
                raise StoreError(
                    f"{error.args[0]}; the result is kept in {self.spool.folder}",
                    remedy="When the store takes it: hwbench push --spool",
                ) from error

    def flush(self, *, everywhere: bool = False) -> list[tuple[str, str]]:
        """Deliver what waits from before for this store, or for any; (attempt, run) of each. Quiet where nothing does.

        An entry that cannot be read, or that the store refuses, stays with a warning and stops no other.
        """
        done: list[tuple[str, str]] = []
        others: dict[tuple[str, str | None], Delivery] = {}
        for attempt in self.spool.waiting():
            try:
                place = self.spool.place(attempt)
                if not everywhere and place.tracking_uri != self.uri():
                    continue
                address = (place.tracking_uri, place.experiment)
                if address not in others:
                    others[address] = Delivery(*address, self.key, self.keyring, self.warn, self.spool)
                run_id = others[address].redeliver(attempt)
                if run_id is not None:
                    done.append((attempt, run_id))
            except StoreAway:
                continue
            except HwbenchError as error:
                self.warn(f"{attempt} stays in {self.spool.folder}: {error}")
        return done

    def redeliver(self, attempt: str) -> str | None:
        """Deliver what an earlier command left; None where another process was faster. Raises StoreAway, StoreError."""
        with undisturbed(), self._lock, self._answering(), self.spool.delivering():
            if not self.spool.has(attempt):
                return None
            place = self.spool.place(attempt)
            parent = place.parent.run_id if place.parent is not None else None
            leased = place.lease is not None and parent is not None
            if leased and not self.store().is_wanted(parent or "", attempt, place.lease or ""):
                self.spool.remove(attempt)
                self.warn(f"{attempt} was measured again elsewhere meanwhile: it is not delivered")
                return None
            return self._deliver(attempt)

    def drop(self, place: Place) -> None:
        """Take a result out of the spool that was given up while it was measured."""
        with undisturbed(), self._lock:
            self.spool.remove(place.attempt)

    # --- one entry ----------------------------------------------------------------------------------

    def _deliver(self, attempt: str) -> str:
        """Make the entry's run hold it, whatever an earlier delivery has done of it, and take it out of the spool."""
        entry = self.spool.read(attempt)
        place, fresh = entry.place, attempt in self._fresh
        self._fresh.discard(attempt)
        parent = self._parent_of(place)
        if entry.end is not None:
            assert parent is not None
            self.store().end_parent(parent, entry.end.configurations, entry.end.failed)
            self.spool.remove(attempt)
            return parent
        run_id, whole = place.run_id, False
        if run_id is None:
            found = self.store().find_attempt(attempt)
            run_id = found if found is not None else self._start(place, parent)
        if not fresh:
            whole = self.store().is_whole(run_id, "failure" if entry.failure is not None else "result")
        if not whole and entry.failure is not None:
            self.store().fail(run_id, entry.failure, killed=place.killed)
        elif not whole:
            assert entry.files is not None
            self.store().log_result(run_id, entry.files, self.key, self.keyring, with_inputs=parent is None)
        self.spool.remove(attempt)
        return run_id

    def _start(self, place: Place, parent: str | None) -> str:
        tags = {**place.tags, ATTEMPT_TAG: place.attempt}
        return self.store().start(place.name, parent=parent, start_ms=place.started_ms, tags=tags)

    def _parent_of(self, place: Place) -> str | None:
        """The parent's run, found or made; None for a run without one."""
        parent = place.parent
        if parent is None:
            return None
        if parent.run_id is not None:
            return parent.run_id
        if parent.attempt in self._parents:
            return self._parents[parent.attempt]
        run_id = None
        if parent.attempt not in self._fresh:
            run_id = self.store().find_attempt(parent.attempt)
        self._fresh.discard(parent.attempt)  # from here on, a run may be there without our knowing
        if run_id is None:
            tags = {**parent.tags, ATTEMPT_TAG: parent.attempt}
            start_ms = None if parent == self.parent else parent.started_ms  # now: it may adopt `mlflow run`'s
            run_id = self.store().start(parent.name, start_ms=start_ms, tags=tags)
        plan = self.spool.plan(parent.attempt)
        if plan is not None:
            self.store().log_plan(run_id, plan)
            self.spool.remove_plan(parent.attempt)
        self._parents[parent.attempt] = run_id
        if parent == self.parent:
            self.parent = replace(parent, run_id=run_id)
        return run_id

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Raise StoreAway at once while the store has just not answered; say once where results wait."""
        if time.monotonic() < self._away_until:
            raise StoreAway("the tracking store did not answer a moment ago")
        try:
            yield
        except StoreAway as error:
            self._away_until = time.monotonic() + AWAY_SECONDS
            if not self._told:
                self.warn(f"{error.args[0]}; results wait in {self.spool.folder} (hwbench push --spool delivers them)")
            self._told = True
            raise
