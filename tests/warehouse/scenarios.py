"""The traps of MLflow, one function each: what is done to a store between two syncs.

Each takes a :class:`Bench` (a client on some store and the runs made in it) and returns the kinds of event that the
next sync must record. They go through the real client, so they run on every kind of store.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

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
