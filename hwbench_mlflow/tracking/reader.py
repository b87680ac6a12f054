"""A tracking store, read: runs as their index, their evidence, and the searches that commands make. Writes nothing but
the experiment that it was asked to open.
"""

from __future__ import annotations

import logging
import os
import re
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from hwbench_mlflow import documents, evidence
from hwbench_mlflow.errors import UsageError
from hwbench_mlflow.evidence import ATTEMPT_TAG, CELLS_TAG, GIVEN_UP_TAG, PROCESS_TAG, ROLE_TAG, RunIndex
from hwbench_mlflow.metrics import ALL_METRICS
from hwbench_mlflow.note import dashboard_link
from hwbench_mlflow.tracking.artifacts import ArtifactFiles
from hwbench_mlflow.tracking.boundary import check_sqlite, store_errors

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PARENT_TAG = "mlflow.parentRunId"
PLAN_FILE = "plan.json"
HISTORIES_AT_A_TIME = 8
"""Below what MLflow's client keeps open (``MLFLOW_HTTP_POOL_MAXSIZE``, 10): no connection is made twice."""
READ_FILES = (*evidence.EVIDENCE_FILES, documents.ESTIMATE_FILE, documents.ROOFLINE_FILE)


class Reader:
    """One tracking store, seen through MLflow's client."""

    def __init__(
        self, tracking_uri: str | None = None, experiment: str | None = None, *, may_create: bool = True
    ) -> None:
        """``may_create`` False: an experiment that is not there is not made; the default one stands in to read."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        # With a server, the client prints links on standard output, which holds our data and nothing else.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        # A server that is away should be said within seconds; MLflow's own default is minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        self._dashboard = os.environ.get("HWBENCH_DASHBOARD_URL")
        if self._dashboard and dashboard_link(self._dashboard, "") is None:
            raise UsageError(
                f"HWBENCH_DASHBOARD_URL is no http(s) address without user and query: {self._dashboard[:80]!r}",
                remedy="For example http://127.0.0.1:5050; unset it for notes without a link",
            )
        with store_errors():
            from mlflow.tracking import MlflowClient, get_tracking_uri

            for name in ("mlflow", "alembic"):  # a new store's migrations are no news for the user
                logging.getLogger(name).setLevel(logging.WARNING)

            check_sqlite(tracking_uri or get_tracking_uri())
            self.client: MlflowClient = MlflowClient(tracking_uri)
            self.uri: str = self.client.tracking_uri
            self._adopted = os.environ.get("MLFLOW_RUN_ID")
            self._shown = False
            self._artifact_uris: dict[str, str] = {}
            self._experiment_id = self._find_experiment(experiment, may_create=may_create)

    def _find_experiment(self, name: str | None, *, may_create: bool) -> str:
        if self._adopted is not None:
            adopted = self.client.get_run(self._adopted).info.experiment_id
            if name is not None and self.client.get_experiment(adopted).name != name:
                raise UsageError(
                    "the run that `mlflow run` made is in another experiment",
                    remedy="Give the experiment to `mlflow run --experiment-name`",
                )
            return str(adopted)
        name = name if name is not None else os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if name is None:
            return os.environ.get("MLFLOW_EXPERIMENT_ID", "0")
        known = self.client.get_experiment_by_name(name)
        if known is None and not may_create:
            return "0"
        return str(known.experiment_id if known is not None else self.client.create_experiment(name))

    def run_index(self, run_id: str) -> RunIndex:
        """A run as the store shows it, the latest point of each metric alone. Raises UsageError where there is none."""
        with store_errors(missing=f"there is no run {run_id!r} in {self.uri}"):
            return _index(self.client.get_run(run_id))

    def read_run(self, run_id: str) -> tuple[RunIndex, dict[str, bytes]]:
        """A run as the store has it now, with every metric point ever logged, and its evidence files."""
        with store_errors(missing=f"there is no run {run_id!r} in {self.uri}"):
            run = self.client.get_run(run_id)
            ours = [name for name in run.data.metrics if name in ALL_METRICS]
            index = RunIndex(
                run_id=run.info.run_id,
                status=run.info.status,
                params=dict(run.data.params),
                tags=dict(run.data.tags),
                metrics=self._histories(run_id, ours),
            )
            return index, ArtifactFiles(self.uri).fetch(run_id, run.info.artifact_uri, READ_FILES)

    def _histories(self, run_id: str, names: Sequence[str]) -> dict[str, list[float]]:
        """Every point of each metric. MLflow tells them a key a request: a server is asked for several at a time."""

        def history(name: str) -> list[float]:
            return [float(point.value) for point in self.client.get_metric_history(run_id, name)]

        if not self.uri.startswith(("http://", "https://")):
            return {name: history(name) for name in names}
        with ThreadPoolExecutor(HISTORIES_AT_A_TIME) as threads:
            return dict(zip(names, threads.map(history, names), strict=True))

    def is_whole(self, run_id: str, role: str) -> bool:
        """Whether a run has ended with all that it was to hold: a ``result`` and its index, or a ``failure``.

        One that was ended as killed meanwhile does not hold the result that turns up later.
        """
        with store_errors(missing=f"there is no run {run_id!r} in {self.uri}"):
            run = self.client.get_run(run_id)
        return bool(run.info.status != "RUNNING" and run.data.tags.get(ROLE_TAG) == role)

    def is_wanted(self, parent: str, attempt: str, lease: str) -> bool:
        """Whether a batch still waits for an attempt: it was not given up, and no other process runs the batch now."""
        tags = self.run_index(parent).tags
        return f"{GIVEN_UP_TAG}{attempt}" not in tags and tags.get(PROCESS_TAG) == lease

    def experiment_name(self) -> str:
        """What the experiment that runs are made in is called."""
        with store_errors():
            return str(self.client.get_experiment(self._experiment_id).name)

    def nested(self, run_id: str) -> list[RunIndex]:
        """The runs nested in one, oldest first, as a search shows them: the latest point of each metric alone."""
        if not re.fullmatch(r"[0-9A-Za-z_-]+", run_id):
            raise UsageError(f"{run_id!r} is not a run id")
        found = self._search(f"tags.`{PARENT_TAG}` = '{run_id}'", active=True)
        for run in found:
            self._artifact_uris[run.info.run_id] = run.info.artifact_uri
        return [_index(run) for run in found]

    def children(self, run_id: str) -> list[str]:
        """Ids of the runs nested in one, oldest first."""
        if not re.fullmatch(r"[0-9A-Za-z_-]+", run_id):
            raise UsageError(f"{run_id!r} is not a run id")
        return [run.info.run_id for run in self._search(f"tags.`{PARENT_TAG}` = '{run_id}'")]

    def evidence_of(self, run_id: str) -> dict[str, bytes]:
        """The evidence files of a run that :meth:`nested` has found."""
        return ArtifactFiles(self.uri).fetch(run_id, self._artifact_uris[run_id], evidence.EVIDENCE_FILES)

    def read_plan(self, run_id: str) -> bytes | None:
        """The plan of a batch, or None where the run has none."""
        with store_errors(missing=f"there is no run {run_id!r} in {self.uri}"):
            uri = self.client.get_run(run_id).info.artifact_uri
        return ArtifactFiles(self.uri).fetch(run_id, uri, [PLAN_FILE]).get(PLAN_FILE)

    def open_batches(self) -> list[RunIndex]:
        """Batches of this experiment that are RUNNING, or ended with something missing; the newest first."""
        with store_errors():
            found = self.client.search_runs(
                [self._experiment_id],
                f"tags.`{CELLS_TAG}` LIKE '%' and attributes.status != 'FINISHED'",
                max_results=100,
                order_by=["attributes.start_time DESC"],
            )
        return [_index(run) for run in found]

    def running(self, before_ms: int) -> list[RunIndex]:
        """Runs of hwbench in any experiment that are RUNNING and began before that moment (ms since the epoch)."""
        found = self._search(
            f"attributes.status = 'RUNNING' and attributes.start_time < {before_ms} "
            "and tags.`mlflow.source.name` = 'hwbench'",
            active=True,
        )
        return [_index(run) for run in found]

    def find_attempt(self, attempt: str) -> str | None:
        """The run that was made for this attempt; None if there is none."""
        if not re.fullmatch(r"[0-9a-f]{32}", attempt):
            raise UsageError(f"{attempt!r} is no attempt")
        found = self._search(f"tags.`{ATTEMPT_TAG}` = '{attempt}'")
        return str(found[0].info.run_id) if found else None

    def find_result(self, result_id: str) -> str | None:
        """The finished run that already holds this result, deleted ones included; None if there is none.

        A push that was cut off leaves a run that is RUNNING, or one that says why it failed: they do not count.
        """
        if not re.fullmatch(r"[0-9a-f]{32}", result_id):
            raise UsageError(f"{result_id!r} is not a result's id")
        found = self._search(f"params.`{evidence.RESULT_ID_PARAM}` = '{result_id}'")
        whole = [run for run in found if run.info.status in {"FINISHED", "FAILED"}]
        return next((run.info.run_id for run in whole if run.data.tags.get(ROLE_TAG) == "result"), None)

    def seconds_of_results(self) -> dict[tuple[str, ...], float]:
        """Median seconds that runs of a configuration took, of the latest 1000 of this experiment: for estimates alone.

        The keys are as :func:`.plan.configuration` makes them.
        """
        with store_errors():
            found = self.client.search_runs(
                [self._experiment_id],
                f"tags.`{ROLE_TAG}` = 'result' and attributes.status = 'FINISHED'",
                max_results=1000,
            )
        names = (
            "model", "platform", "batch_size", "scenario", "compile_mode", "profile", "sequence_length", "image_size",
        )  # fmt: skip
        taken: dict[tuple[str, ...], list[float]] = {}
        for run in found:
            key = tuple(run.data.params.get(f"hwbench.{name}", "None") for name in names)
            if run.info.end_time is not None and run.info.end_time > run.info.start_time:
                taken.setdefault(key, []).append((run.info.end_time - run.info.start_time) / 1000)
        return {key: statistics.median(values) for key, values in taken.items()}

    def count_experiments(self) -> int:
        """How many there are: that the store can say so shows that it answers, with a schema that MLflow knows."""
        with store_errors():
            return len(self.client.search_experiments())

    def _search(self, condition: str, *, active: bool = False) -> list[Run]:
        """Runs of every experiment, oldest first, deleted ones included unless only ``active`` ones are asked for."""
        with store_errors():
            from mlflow.entities import ViewType

            view = ViewType.ACTIVE_ONLY if active else ViewType.ALL
            experiments = [e.experiment_id for e in self.client.search_experiments(view_type=view)]
            found: list[Run] = []
            token = None
            while True:
                page = self.client.search_runs(
                    experiments, condition, view, max_results=1000, order_by=["attributes.start_time ASC"],
                    page_token=token,
                )  # fmt: skip
                found += page
                token = page.token
                if not token:
                    return found


def _index(run: Run) -> RunIndex:
    """A run as a search shows it."""
    return RunIndex(
        run_id=run.info.run_id,
        status=run.info.status,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        metrics={name: [float(value)] for name, value in run.data.metrics.items() if name in ALL_METRICS},
    )
