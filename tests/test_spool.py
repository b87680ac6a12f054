"""The spool: whole or not there, kept on a full disk, and delivered once, wherever a delivery is cut off."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwbench_mlflow import spool as spool_module
from hwbench_mlflow.cli.delivery import Delivery
from hwbench_mlflow.errors import CorruptEvidence, StoreAway, StoreError
from hwbench_mlflow.evidence import judge, seal
from hwbench_mlflow.keystore import load_keyring, signing_key
from hwbench_mlflow.model import FailureCategory, VerdictState
from hwbench_mlflow.spool import SPOOL_VERSION, ParentEnd, ParentPlace, Place, Spool
from hwbench_mlflow.tracking import Store, failure_of
from tests.honest import honest

RESULT, SAMPLES = honest()


@pytest.fixture
def files() -> dict[str, bytes]:
    return seal(RESULT, SAMPLES, signing_key())


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "home")


def place(uri: str = "sqlite:///x", **changes: Any) -> Place:
    made = Place(
        spool_version=SPOOL_VERSION, attempt=uuid.uuid4().hex, tracking_uri=uri, experiment=None, name="x", started_ms=1
    )
    return replace(made, **changes)


def delivery(uri: str, spool: Spool, warnings: list[str] | None = None) -> Delivery:
    told = warnings if warnings is not None else []
    return Delivery(uri, None, signing_key(), load_keyring(), told.append, spool)


def test_what_is_queued_comes_back_byte_for_byte_oldest_first(spool: Spool, files: dict[str, bytes]) -> None:
    first, second, third = place(), place(), place()
    spool.put(first, files)
    failure = failure_of(ValueError("no"), FailureCategory.CRASH, None, None)
    spool.put_failure(second, failure)
    spool.put_end(third, ParentEnd(configurations=2, failed=1))
    assert spool.waiting() == [first.attempt, second.attempt, third.attempt]
    assert spool.read(first.attempt).files == files
    assert spool.read(second.attempt).failure == failure
    assert spool.read(third.attempt).end == ParentEnd(configurations=2, failed=1)
    for entry in (first, second, third):
        spool.remove(entry.attempt)
    assert list(spool.folder.iterdir()) == []


def test_others_cannot_read_where_an_entry_belongs(spool: Spool, files: dict[str, bytes]) -> None:
    made = place("postgresql://me:secret@db/x")
    spool.put(made, files)
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((spool.folder / f"{made.attempt}.place.json").stat().st_mode) == 0o600


def test_a_place_without_a_result_is_no_entry_and_an_edited_one_is_refused(
    spool: Spool, files: dict[str, bytes]
) -> None:
    made = place()
    spool.put(made, files)
    (spool.folder / f"{made.attempt}.json").unlink()
    assert spool.waiting() == []
    spool.put(made, files)
    path = spool.folder / f"{made.attempt}.place.json"
    path.write_bytes(path.read_bytes().replace(b'"name":"x"', b'"name":"x", "more":1'))
    with pytest.raises(CorruptEvidence):
        spool.read(made.attempt)


def test_on_a_full_disk_the_reserve_is_given_up_and_nothing_is_lost(
    spool: Spool, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if list(spool.folder.glob("reserve-*")):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    made = place()
    with spool.reserving():
        spool.put(made, files)
        assert list(spool.folder.glob("reserve-*")) == []
    assert spool.read(made.attempt).files == files


def test_a_disk_that_is_full_without_a_reserve_is_one_line(
    spool: Spool, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Any, target: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left on device"):
        spool.put(place(), files)
    monkeypatch.undo()
    monkeypatch.setattr(spool_module, "RESERVE_BYTES", 2**62)
    with pytest.raises(StoreError, match="no room for results"), spool.reserving():
        raise AssertionError("it began")


class Cut(BaseException):
    """The process is gone."""


STEPS: list[Callable[[pytest.MonkeyPatch, Callable[..., None]], None]] = [
    lambda patch, cut: patch.setattr(Store, "log_plan", cut),
    lambda patch, cut: patch.setattr(Store, "_log_files", cut),
    lambda patch, cut: patch.setattr(Store, "_log", cut),
    lambda patch, cut: patch.setattr("mlflow.tracking.MlflowClient.set_terminated", cut),
    lambda patch, cut: patch.setattr(Spool, "remove", cut),
]


@pytest.mark.parametrize("at", range(len(STEPS)))
def test_a_delivery_cut_off_at_any_step_is_made_whole_by_the_next_and_doubles_nothing(
    at: int, store_uri: str, spool: Spool, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = ParentPlace(attempt=uuid.uuid4().hex, name="p", started_ms=1, run_id=None)
    spool.put_plan(parent.attempt, b"{}")
    made = place(store_uri, parent=parent)
    spool.put(made, files)
    with monkeypatch.context() as patched:

        def cut(*arguments: Any, **settings: Any) -> None:
            raise Cut

        STEPS[at](patched, cut)
        with pytest.raises(Cut):
            delivery(store_uri, spool).flush()
    ((attempt, run_id),) = delivery(store_uri, spool).flush()
    assert attempt == made.attempt
    store = Store(store_uri)
    assert len(store.client.search_runs(["0"])) == 2
    index, kept = store.read_run(run_id)
    assert judge(kept, index, load_keyring()).verdict.state is VerdictState.VERIFIED
    assert {name: kept[name] for name in files} == files
    assert store.read_plan(index.tags["mlflow.parentRunId"]) == b"{}"
    assert delivery(store_uri, spool).flush() == []


def test_an_answer_that_is_lost_makes_no_second_run(
    store_uri: str, spool: Spool, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Store.start

    def start(self: Store, *arguments: Any, **settings: Any) -> str:
        real(self, *arguments, **settings)
        raise StoreAway("the answer did not come")

    told: list[str] = []
    sender = delivery(store_uri, spool, told)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "start", start)
        made = sender.open("x", {})
        assert made.run_id is None
        assert sender.keep(made, files) is None
    assert len(told) == 1
    assert "results wait in" in told[0]
    ((_, run_id),) = delivery(store_uri, spool).flush()
    (run,) = Store(store_uri).client.search_runs(["0"])
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")


def test_an_entry_that_cannot_be_delivered_stays_and_stops_no_other(
    store_uri: str, spool: Spool, files: dict[str, bytes]
) -> None:
    bad, good, elsewhere = place(store_uri, run_id="f" * 32), place(store_uri), place("sqlite:////nowhere/else.db")
    for entry in (bad, good, elsewhere):
        spool.put(entry, files)
    told: list[str] = []
    assert [attempt for attempt, _ in delivery(store_uri, spool, told).flush()] == [good.attempt]
    assert spool.waiting() == [bad.attempt, elsewhere.attempt]
    assert f"{bad.attempt} stays in" in told[0]
    assert f"there is no run '{'f' * 32}'" in told[0]


def test_what_another_command_has_delivered_is_not_delivered_again(
    store_uri: str, spool: Spool, files: dict[str, bytes]
) -> None:
    sender = delivery(store_uri, spool)
    made = sender.open("x", {})
    sender.queue(made, files)
    assert [attempt for attempt, _ in delivery(store_uri, spool).flush()] == [made.attempt]
    assert sender.send(made) == made.run_id
    assert sender.send(replace(made, run_id=None)) == made.run_id
    assert len(Store(store_uri).client.search_runs(["0"])) == 1


def test_a_result_that_turns_up_after_its_run_was_ended_as_killed_is_not_lost(
    store_uri: str, spool: Spool, files: dict[str, bytes]
) -> None:
    sender = delivery(store_uri, spool)
    made = sender.open("x", {})
    sender.queue(made, files)
    store = Store(store_uri)
    assert made.run_id is not None
    store.end_killed(made.run_id, "its process is gone")
    assert delivery(store_uri, spool).flush() == [(made.attempt, made.run_id)]
    index, kept = store.read_run(made.run_id)
    assert (index.status, index.tags["hwbench.role"]) == ("FINISHED", "result")
    assert judge(kept, index, load_keyring()).verdict.state is VerdictState.VERIFIED
