"""The traps of MLflow, one function each: what is done to a store between two syncs.

Each takes a :class:`Bench` (a client on some store and the runs made in it) and returns the kinds of event that the
next sync must record. They go through the real client, so they run on every kind of store.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

HOSTILE = 'quote\' "double" \\ back/slash; DROP TABLE runs; -- \U0001f600 \u202e \x01 é'


@dataclass
class Bench:
    """A store under test: ``gc`` is None where the store cannot be reached by ``mlflow gc``."""

    client: MlflowClient
    experiment: str
    runs: list[str]
    gc: Callable[[], None] | None = None

    @property
    def run(self) -> str:
        return self.runs[0]


def fill(client: MlflowClient, experiment: str, count: int = 4) -> list[str]:
    """``count`` finished runs with two tags, two params, two metrics of three points each."""
    made = []
    for n in range(count):
        run = client.create_run(experiment, run_name=f"run {n}", start_time=1_700_000_000_000 + n)
        run_id = run.info.run_id
        client.log_batch(
            run_id,
            metrics=[Metric(k, n + s / 10, 1_700_000_000_000 + s, s) for k in ("a_ms", "b_ms") for s in range(3)],
            params=[Param("p", str(n)), Param("q", "x")],
            tags=[RunTag("t", str(n)), RunTag("u", "old")],
        )
        client.set_terminated(run_id, "FINISHED", 1_700_000_000_900 + n)
        made.append(run_id)
    return made


def tag_added(b: Bench) -> set[str]:
    b.client.set_tag(b.run, "new", "v")
    return {"tag_added"}


def tag_edited_after_the_end(b: Bench) -> set[str]:
    b.client.set_tag(b.run, "u", "new")
    return {"tag_changed"}


def tag_deleted(b: Bench) -> set[str]:
    b.client.delete_tag(b.run, "u")
    return {"tag_deleted"}


def late_param(b: Bench) -> set[str]:
    b.client.log_param(b.run, "late", "1")
    return {"param_added"}


def late_metric(b: Bench) -> set[str]:
    b.client.log_metric(b.run, "late_ms", 3.0, timestamp=5, step=0)
    return {"metric_added", "points_added"}


def late_point_at_a_lower_step(b: Bench) -> set[str]:
    b.client.log_metric(b.run, "a_ms", 99.0, timestamp=5, step=-7)
    return {"points_added"}


def renamed(b: Bench) -> set[str]:
    b.client.update_run(b.run, name="another name")
    return {"run_changed", "tag_changed"}


def resumed_with_its_old_end_time(b: Bench) -> set[str]:
    b.client.update_run(b.run, status="RUNNING")
    return {"run_changed"}


def deleted(b: Bench) -> set[str]:
    b.client.delete_run(b.run)
    return {"run_changed"}


def backfilled(b: Bench) -> set[str]:
    b.client.create_run(b.experiment, start_time=1_000)
    return {"run_added"}


def not_a_number_and_infinities(b: Bench) -> set[str]:
    b.client.log_batch(
        b.run,
        metrics=[Metric("n", float("nan"), 1, 0), Metric("i", float("inf"), 1, 0), Metric("j", float("-inf"), 1, 0)],
    )
    return {"metric_added", "points_added"}


def hostile_text(b: Bench) -> set[str]:
    b.client.set_tag(b.run, "k/with sla.sh-es", HOSTILE)
    b.client.set_tag(b.run, "long", "é" * 8_000)
    return {"tag_added"}


def collected(b: Bench) -> set[str]:
    assert b.gc is not None
    b.client.delete_run(b.run)
    b.gc()
    return {"run_removed"}


def experiment_renamed(b: Bench) -> set[str]:
    b.client.rename_experiment(b.experiment, f"renamed {time.time_ns()}")
    return {"experiment_changed"}


SCENARIOS = (
    tag_added, tag_edited_after_the_end, tag_deleted, late_param, late_metric, late_point_at_a_lower_step, renamed,
    resumed_with_its_old_end_time, deleted, backfilled, not_a_number_and_infinities, hostile_text, collected,
    experiment_renamed,
)  # fmt: skip


class RandomOperations:
    """Whatever users do to a store, drawn at random; the same seed does the same."""

    def __init__(self, client: MlflowClient, gc: Callable[[], None], *, seed: int) -> None:
        self.client, self.gc, self.draw = client, gc, random.Random(seed)
        self.experiments = [client.create_experiment(f"e0 {time.time_ns()}")]
        self.runs, self.dead = fill(client, self.experiments[0], 3), list[str]()
        draw = self.draw
        self.operations: list[tuple[int, Callable[[], object]]] = [
            (8, self._add),
            (4, self._remove),
            (2, self._restore),
            (1, self._collect),
            (25, lambda: client.set_tag(self._run(), draw.choice("abcdef"), draw.choice(["x", "y", HOSTILE]))),
            (10, self._untag),
            (10, lambda: client.log_param(self._run(), f"p{draw.randrange(10**6)}", "v")),
            (25, lambda: client.log_metric(
                self._run(), draw.choice("mnk"), draw.choice([1.0, float("nan"), float("inf"), draw.random()]),
                timestamp=draw.randrange(100), step=draw.randrange(-5, 5))),
            (6, lambda: client.update_run(self._run(), status=draw.choice(["RUNNING", "FINISHED", "KILLED"]))),
            (4, lambda: client.update_run(self._run(), name=f"n{draw.random()}")),
            (1, lambda: self.experiments.append(client.create_experiment(f"e{draw.random()} {time.time_ns()}"))),
            (1, lambda: client.rename_experiment(draw.choice(self.experiments), f"r{draw.random()} {time.time_ns()}")),
        ]  # fmt: skip

    def make(self, count: int) -> None:
        """``count`` operations."""
        weights = [w for w, _ in self.operations]
        for _, operation in self.draw.choices(self.operations, weights, k=count):
            operation()

    def _run(self) -> str:
        return self.draw.choice(self.runs)

    def _add(self) -> None:
        run = self.client.create_run(self.draw.choice(self.experiments), start_time=self.draw.randrange(2**41))
        self.runs.append(run.info.run_id)

    def _remove(self) -> None:
        if len(self.runs) > 2:
            run = self.runs.pop(self.draw.randrange(len(self.runs)))
            self.client.delete_run(run)
            self.dead.append(run)

    def _restore(self) -> None:
        if self.dead:
            run = self.dead.pop()
            self.client.restore_run(run)
            self.runs.append(run)

    def _collect(self) -> None:
        self.gc()
        self.dead.clear()

    def _untag(self) -> None:
        run = self._run()
        keys = [k for k in self.client.get_run(run).data.tags if not k.startswith("mlflow.")]
        if keys:
            self.client.delete_tag(run, self.draw.choice(keys))


CRASHER = """
import os, signal, sys
from pathlib import Path
from hwbench_mlflow.warehouse.readers.choose import open_reader
from hwbench_mlflow.warehouse.sync import SyncOptions, sync
at = int(sys.argv[3]); seen = []
def die(step):
    seen.append(step)
    if len(seen) == at:
        os.kill(os.getpid(), signal.SIGKILL)
sync(open_reader(sys.argv[1]), Path(sys.argv[2]), SyncOptions(batch_runs=2), at_step=die)
"""


def crash(uri: str, db: Path, at: int) -> int:
    """A sync in a process of its own that kills itself at its ``at``-th step; 0 if it ended before that."""
    done = subprocess.run(
        [sys.executable, "-c", CRASHER, uri, str(db), str(at)], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode
