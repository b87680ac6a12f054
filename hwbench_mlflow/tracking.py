"""MLflow: runs in, runs out. The only importer of mlflow.

Owns how a result becomes a run (section 5 of the design), how a run becomes evidence again, and the
mapping of MLflow's errors to one line. Uses the client only: no active run, no global state.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench_mlflow import documents, evidence
from hwbench_mlflow.attest import Keyring, SigningKey
from hwbench_mlflow.codec import encode, sha256
from hwbench_mlflow.errors import StoreAway, StoreError, UsageError
from hwbench_mlflow.estimate import ESTIMATE_ROLE, index_of_estimate
from hwbench_mlflow.evidence import FOLDER, ROLE_TAG, RunIndex
from hwbench_mlflow.figures import latency_figure, roofline_figure
from hwbench_mlflow.host import process_name
from hwbench_mlflow.index import ResultIndex, index_of
from hwbench_mlflow.metrics import ALL_METRICS
from hwbench_mlflow.model import (
    SCHEMA_VERSION,
    Availability,
    BenchmarkResult,
    Failure,
    FailureCategory,
    HostInfo,
    RunRequest,
    SampleSet,
    VerdictState,
)
from hwbench_mlflow.note import (
    dashboard_link,
    devices_note,
    escape,
    estimate_note,
    failure_note,
    result_note,
    roofline_note,
)
from hwbench_mlflow.remedies import suggested
from hwbench_mlflow.roofline import ROOFLINE_ROLE, index_of_roofline

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

NOTE_TAG = "mlflow.note.content"
PARENT_TAG = "mlflow.parentRunId"
KIND_TAG = "mlflow.experimentKind"
"""By it MLflow's UI decides what to open: runs with charts and comparisons, or traces of GenAI."""
TABLE_TAG = "mlflow.loggedArtifacts"
"""By it MLflow's UI finds the tables among the artifacts (what ``log_table`` sets, at the price of four requests)."""
ATTEMPT_TAG = "hwbench.attempt"
"""Drawn before a run is made: whoever sends again finds by it the run that an answer was lost of."""
PROCESS_TAG = "hwbench.process"
"""Which process of which machine writes the run: see :func:`.host.process_name`."""
CELLS_TAG = "hwbench.batch_cells"
"""On the parent of a batch: how many configurations it holds."""
PLAN_FILE = "plan.json"
RANDOM_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")
MAX_TABLE_ROWS = 5_000
MAX_ARTIFACT_BYTES = 256 * 1024 * 1024
MAX_TAG_CHARACTERS = 5000
READ_FILES = frozenset({*evidence.EVIDENCE_FILES, documents.ESTIMATE_FILE, documents.ROOFLINE_FILE})


class Store:
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

            _check_sqlite(tracking_uri or get_tracking_uri())
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

    # --- runs that are being made ---------------------------------------------------------------

    def start(
        self,
        name: str,
        *,
        parent: str | None = None,
        start_ms: int | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """A new run, or the one that ``mlflow run`` has made for this process; its id."""
        ours = {PROCESS_TAG: process_name(), **(tags or {})}
        with store_errors():
            if self._adopted is not None and parent is None and start_ms is None:
                run_id, self._adopted = self._adopted, None
                self._show_as_runs()
                if RANDOM_NAME.fullmatch(self.client.get_run(run_id).info.run_name or ""):
                    self.client.update_run(run_id, name=name)
                self._log(run_id, tags=ours)
                return run_id
            from mlflow.tracking.context import registry

            self._show_as_runs()
            every = {**registry.resolve_tags(), "mlflow.source.name": "hwbench", **ours}
            if parent is not None:
                every[PARENT_TAG] = parent
            run = self.client.create_run(
                self._experiment_id,
                start_time=start_ms,
                tags={key: value[:MAX_TAG_CHARACTERS] for key, value in every.items()},
                run_name=name[:250],
            )
            self._artifact_uris[run.info.run_id] = run.info.artifact_uri
            return str(run.info.run_id)

    def _show_as_runs(self) -> None:
        """Let the UI open the experiment on its runs, where nobody has said otherwise."""
        if not self._shown and KIND_TAG not in self.client.get_experiment(self._experiment_id).tags:
            self.client.set_experiment_tag(self._experiment_id, KIND_TAG, "custom_model_development")
        self._shown = True

    def start_pushed(self, result: BenchmarkResult) -> str:
        """A new run for a result that was measured elsewhere, at the time when it was."""
        work = result.workload
        name = f"{work.model}-{result.request.platform}-{work.precision}-b{work.batch_size}"
        tags = {ATTEMPT_TAG: result.result_id}
        return self.start(name, start_ms=_milliseconds(result.started_at), tags=tags)

    def log_result(
        self,
        run_id: str,
        files: Mapping[str, bytes],
        key: SigningKey,
        keyring: Keyring,
        *,
        with_inputs: bool = True,
    ) -> VerdictState:
        """Evidence first, then its index, then the end of the run. Returns the verdict as logged.

        A contradicted result keeps its evidence and its reasons, but no metric, and the run ends FAILED. May be
        called again for a run that an earlier call was cut off from: every point is logged at the time when the
        result was finished, and the same point twice is one. ``with_inputs``: name the inputs as a dataset.
        """
        judged = evidence.judge(files, None, keyring)
        result, samples, verdict = judged.result, judged.samples, judged.verdict
        if result is None or samples is None:
            raise StoreError(f"there is no readable result to log: {'; '.join(verdict.reasons)}")
        bound = evidence.bind(files, result.result_id, run_id, datetime.now(UTC).isoformat(), key)
        index = index_of(result, sha256(files[evidence.RESULT_FILE]), verdict)
        contradicted = verdict.state is VerdictState.CONTRADICTED
        with store_errors():
            self._log_files(run_id, {**files, evidence.BINDING_FILE: bound})
            self._log_files(run_id, _views(result, samples), None)
            if with_inputs:
                self._log_workload(run_id, result)
            link = dashboard_link(self._dashboard, run_id) if self._dashboard else None
            tags = {**index.tags, NOTE_TAG: result_note(result, verdict, link), TABLE_TAG: TABLE_TAG_VALUE}
            if verdict.reasons:
                tags["hwbench.reasons"] = "; ".join(verdict.reasons)
            metrics = {} if contradicted else index.metrics
            self._log(run_id, params=index.params, tags=tags, metrics=metrics, at=result.finished_at)
            self.client.set_terminated(
                run_id,
                "FAILED" if contradicted else "FINISHED",
                end_time=_milliseconds(result.finished_at),
            )
        return verdict.state

    def fail(self, run_id: str, failure: Failure, *, killed: bool = False) -> None:
        """End a run without a result: the reason, its category, and no performance metric."""
        found = failure.availability
        tags = {
            ROLE_TAG: "failure",
            "hwbench.failure_category": str(failure.category),
            "hwbench.failure_reason": failure.reason,
            NOTE_TAG: failure_note(failure),
        }
        if found is not None:
            tags["hardware_available"] = str(found.status == "AVAILABLE").lower()
            tags["availability_verified"] = str(found.verified).lower()
            tags["hwbench.availability_status"] = str(found.status)
        with store_errors():
            self._log_files(run_id, {evidence.FAILURE_FILE: encode(failure)})
            self._log(run_id, tags=tags)
            self.client.set_terminated(run_id, "KILLED" if killed else "FAILED")

    def end_parent(self, run_id: str, configurations: int, failed: int) -> None:
        """End the run that holds a run for each configuration."""
        note = f"{configurations} configurations, {failed} without a result: see the nested runs."
        self._log(run_id, tags={ROLE_TAG: "parent", NOTE_TAG: note})
        with store_errors():
            self.client.set_terminated(run_id, "FAILED" if failed else "FINISHED")

    def _log(
        self,
        run_id: str,
        *,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        at: str | None = None,
    ) -> None:
        with store_errors():
            from mlflow.entities import Metric, Param, RunTag

            now = int(time.time() * 1000) if at is None else _milliseconds(at)
            self.client.log_batch(
                run_id,
                params=[Param(key, value) for key, value in (params or {}).items()],
                tags=[RunTag(key, value[:MAX_TAG_CHARACTERS]) for key, value in (tags or {}).items()],
                metrics=[Metric(key, value, now, 0) for key, value in (metrics or {}).items()],
            )

    def _log_files(self, run_id: str, files: Mapping[str, bytes], folder: str | None = FOLDER) -> None:
        """Files of a run, each by one request: the client's own way asks for the run before each."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if run_id not in self._artifact_uris:
            self._artifact_uris[run_id] = self.client.get_run(run_id).info.artifact_uri
        repository: Any = get_artifact_repository(self._artifact_uris[run_id], tracking_uri=self.uri)
        with tempfile.TemporaryDirectory(prefix="hwbench-") as here:
            for name, data in files.items():
                path = Path(here, name)
                path.write_bytes(data)
                repository.log_artifact(str(path), folder)

    def _log_workload(self, run_id: str, result: BenchmarkResult) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        work = result.workload
        sizes = ("batch_size", "sequence_length", "image_size", "audio_seconds", "output_tokens")
        shape = {name: getattr(work, name) for name in sizes}
        dataset = Dataset(
            name=f"challenge inputs for {work.model}"[:250],
            digest=result.workers[0].nonce[:32],
            source_type="hwbench-challenge",
            source=encode({"nonces": [w.nonce for w in result.workers]}).decode(),
            profile=encode({k: v for k, v in shape.items() if v is not None}).decode(),
        )
        context = InputTag("mlflow.data.context", "benchmark")
        self.client.log_inputs(run_id, [DatasetInput(dataset, [context])])

    # --- batches and what was left behind ---------------------------------------------------------

    def reopen(self, run_id: str) -> None:
        """A parent is RUNNING again, in this process."""
        with store_errors():
            self.client.update_run(run_id, "RUNNING")
            self._log(run_id, tags={PROCESS_TAG: process_name()})

    def log_plan(self, run_id: str, plan: bytes) -> None:
        """What a batch is going to measure: whoever resumes it reads this."""
        with store_errors():
            self._log_files(run_id, {PLAN_FILE: plan})

    def read_plan(self, run_id: str) -> bytes | None:
        """The plan of a batch, or None where the run has none."""
        with store_errors(missing=f"there is no run {run_id!r} in {self.uri}"):
            uri = self.client.get_run(run_id).info.artifact_uri
        return ArtifactFiles(self.uri).fetch(run_id, uri, [PLAN_FILE]).get(PLAN_FILE)

    def find_attempt(self, attempt: str) -> str | None:
        """The run that was made for this attempt; None if there is none."""
        if not re.fullmatch(r"[0-9a-f]{32}", attempt):
            raise UsageError(f"{attempt!r} is no attempt")
        found = self._search(f"tags.`{ATTEMPT_TAG}` = '{attempt}'")
        return str(found[0].info.run_id) if found else None

    def is_whole(self, run_id: str, role: str) -> bool:
        """Whether a run has ended with all that it was to hold: a ``result`` and its index, or a ``failure``.

        One that was ended as killed meanwhile does not hold the result that turns up later.
        """
        with store_errors(missing=f"there is no run {run_id!r} in {self.uri}"):
            run = self.client.get_run(run_id)
        return bool(run.info.status != "RUNNING" and run.data.tags.get(ROLE_TAG) == role)

    def run_index(self, run_id: str) -> RunIndex:
        """A run as the store shows it, the latest point of each metric alone. Raises UsageError where there is none."""
        with store_errors(missing=f"there is no run {run_id!r} in {self.uri}"):
            return _index(self.client.get_run(run_id))

    def nested(self, run_id: str) -> list[RunIndex]:
        """The runs nested in one, oldest first, as a search shows them: the latest point of each metric alone."""
        if not re.fullmatch(r"[0-9A-Za-z_-]+", run_id):
            raise UsageError(f"{run_id!r} is not a run id")
        found = self._search(f"tags.`{PARENT_TAG}` = '{run_id}'", active=True)
        for run in found:
            self._artifact_uris[run.info.run_id] = run.info.artifact_uri
        return [_index(run) for run in found]

    def evidence_of(self, run_id: str) -> dict[str, bytes]:
        """The evidence files of a run that :meth:`nested` has found."""
        return ArtifactFiles(self.uri).fetch(run_id, self._artifact_uris[run_id], evidence.EVIDENCE_FILES)

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

    def end_killed(self, run_id: str, reason: str) -> None:
        """End a run whose process is gone: KILLED, with the reason, and no result."""
        tags = {ROLE_TAG: "failure", "hwbench.failure_category": "interrupted", "hwbench.failure_reason": reason}
        with store_errors():
            self._log(run_id, tags=tags)
            self.client.set_terminated(run_id, "KILLED")

    # --- evidence in and out --------------------------------------------------------------------

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
                metrics={name: self._history(run_id, name) for name in ours},
            )
            return index, self._read_files(run_id)

    def _history(self, run_id: str, name: str) -> list[float]:
        return [float(point.value) for point in self.client.get_metric_history(run_id, name)]

    def _read_files(self, run_id: str) -> dict[str, bytes]:
        names = {
            Path(item.path).name: item.file_size
            for item in self.client.list_artifacts(run_id, FOLDER)
            if not item.is_dir and Path(item.path).name in READ_FILES
        }
        files = {}
        with tempfile.TemporaryDirectory(prefix="hwbench-") as folder:
            for name, size in names.items():
                if size is not None and size > MAX_ARTIFACT_BYTES:
                    raise StoreError(f"{FOLDER}/{name} of run {run_id} has {size} bytes: hwbench writes none so large")
                files[name] = Path(self.client.download_artifacts(run_id, f"{FOLDER}/{name}", folder)).read_bytes()
        return files

    def children(self, run_id: str) -> list[str]:
        """Ids of the runs nested in one, oldest first."""
        if not re.fullmatch(r"[0-9A-Za-z_-]+", run_id):
            raise UsageError(f"{run_id!r} is not a run id")
        return [run.info.run_id for run in self._search(f"tags.`{PARENT_TAG}` = '{run_id}'")]

    def find_result(self, result_id: str) -> str | None:
        """The finished run that already holds this result, deleted ones included; None if there is none.

        A push that was cut off leaves a run that is RUNNING, or one that says why it failed: they do not count.
        """
        if not re.fullmatch(r"[0-9a-f]{32}", result_id):
            raise UsageError(f"{result_id!r} is not a result's id")
        found = self._search(f"params.`{evidence.RESULT_ID_PARAM}` = '{result_id}'")
        whole = [run for run in found if run.info.status in {"FINISHED", "FAILED"}]
        return next((run.info.run_id for run in whole if run.data.tags.get(ROLE_TAG) == "result"), None)

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

    # --- probes ---------------------------------------------------------------------------------

    def log_devices(self, found: Sequence[Availability], host: HostInfo) -> str:
        """The answers of probes as a run of their own; its id."""
        run_id = self.start("devices")
        with store_errors():
            document = {"schema_version": SCHEMA_VERSION, "host": host, "platforms": list(found)}
            self._log_files(run_id, {evidence.DEVICES_FILE: encode(document)})
            tags = {ROLE_TAG: "devices", "hwbench.host": host.hostname, NOTE_TAG: devices_note(list(found))}
            for availability in found:
                tags[f"hwbench.devices.{availability.platform}"] = str(availability.status)
            self._log(run_id, tags=tags)
            self.client.set_terminated(run_id, "FINISHED")
        return run_id

    # --- documents that are no results ----------------------------------------------------------

    def log_estimate(self, run_id: str, files: Mapping[str, bytes], key: SigningKey, keyring: Keyring) -> str:
        """An estimate: simulated, in every tag, under metric names of its own. Returns its state."""
        judged = documents.judge_estimate_run(files, None, keyring)
        if judged.estimate is None:
            raise StoreError(f"there is no readable estimate to log: {'; '.join(judged.verdict.reasons)}")
        digest = sha256(files[documents.ESTIMATE_FILE])
        index = index_of_estimate(judged.estimate, digest)
        self._log_document(run_id, ESTIMATE_ROLE, files, index, estimate_note(judged.estimate), key)
        return str(judged.verdict.state)

    def log_roofline(self, run_id: str, files: Mapping[str, bytes], key: SigningKey, keyring: Keyring) -> VerdictState:
        """A calibration, with its figure. Returns the verdict as logged."""
        judged = documents.judge_roofline_run(files, None, keyring)
        found, state = judged.roofline, judged.verdict.state
        if found is None or state is VerdictState.CONTRADICTED:
            raise StoreError(f"there is no sound roofline to log: {'; '.join(judged.verdict.reasons)}")
        index = index_of_roofline(found, sha256(files[documents.ROOFLINE_FILE]), state)
        with store_errors():
            self.client.log_figure(run_id, roofline_figure(found), "roofline.png")
        self._log_document(run_id, ROOFLINE_ROLE, files, index, roofline_note(found), key)
        return state

    def _log_document(  # noqa: PLR0917 -- two callers, a few lines above
        self, run_id: str, role: str, files: Mapping[str, bytes], index: ResultIndex, note: str, key: SigningKey
    ) -> None:
        bound = documents.bind_document(files, role, run_id, datetime.now(UTC).isoformat(), key)
        with store_errors():
            self._log_files(run_id, {**files, evidence.BINDING_FILE: bound})
            self._log(run_id, params=index.params)
            self._log(run_id, tags={**index.tags, NOTE_TAG: note}, metrics=index.metrics)
            self.client.set_terminated(run_id, "FINISHED")

    def log_report(self, path: Path, note: str) -> str:
        """A report's file as the artifact of a run of its own; its id. It has no metric and is no result."""
        run_id = self.start("report")
        with store_errors():
            self.client.log_artifact(run_id, str(path))
            self._log(run_id, tags={NOTE_TAG: escape(note)})
            self.client.set_terminated(run_id, "FINISHED")
        return run_id


def whole_uri(tracking_uri: str | None = None) -> str:
    """The address of the store that :class:`Store` would open: complete, wherever this process was started."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with store_errors():
        from mlflow.tracking import get_tracking_uri

        uri = tracking_uri or str(get_tracking_uri())
    scheme, separator, path = uri.partition(":///")
    if scheme == "sqlite" and separator and path and not path.startswith("/"):
        return f"sqlite:///{Path.cwd() / path}"
    return uri


class ArtifactFiles:
    """Evidence in an artifact store, read by a run's artifact URI; the tracking store itself is not opened.

    Opening it through MLflow would migrate it. May be used from several threads at once.
    """

    def __init__(self, tracking_uri: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        self.uri = tracking_uri

    def fetch(self, run_id: str, artifact_uri: str, names: Sequence[str]) -> dict[str, bytes]:
        """The files of those names under ``hwbench/``; absent ones are left out. Raises StoreError."""
        with store_errors(), tempfile.TemporaryDirectory(prefix="hwbench-") as folder:
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            try:
                repository: Any = get_artifact_repository(artifact_uri, tracking_uri=self.uri)
                listed = {Path(f.path).name: f for f in repository.list_artifacts(FOLDER) if not f.is_dir}
                files = {}
                for name in names:
                    if name not in listed:
                        continue
                    size = listed[name].file_size
                    if size is not None and size > MAX_ARTIFACT_BYTES:
                        raise StoreError(
                            f"{FOLDER}/{name} of run {run_id} has {size} bytes: hwbench writes none so large"
                        )
                    files[name] = Path(repository.download_artifacts(f"{FOLDER}/{name}", folder)).read_bytes()
            except ImportError as error:
                raise StoreError(f"the artifacts at {artifact_uri} need a package: {_one_line(error)}") from error
            return files


def log_devices(found: Sequence[Availability], host: HostInfo, tracking_uri: str | None, experiment: str | None) -> str:
    """Log probes' answers to a store; the run's id."""
    return Store(tracking_uri, experiment).log_devices(found, host)


@contextlib.contextmanager
def store_errors(missing: str | None = None) -> Iterator[None]:
    """Raise MLflow's and the network's errors as one line of hwbench's. ``missing`` is said instead
    where what was asked for does not exist."""
    try:
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise StoreError(
            "mlflow is not installed here", remedy="Write the result to a file with --out, and push it elsewhere"
        ) from error
    try:
        yield
    except _database_errors() as error:  # MLflow lets them through while it opens a store
        said = _one_line(getattr(error, "orig", None) or error)
        raise StoreError(f"the tracking store cannot be used: {said}") from error
    except MlflowException as error:
        if missing is not None and error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise UsageError(missing) from error
        if _AWAY.match(str(error)) or error.error_code == "TEMPORARILY_UNAVAILABLE":
            raise StoreAway(f"the tracking store cannot be reached: {_one_line(error)}") from error
        raise StoreError(f"the tracking store refused: {_one_line(error)}") from error
    except OSError as error:  # requests' errors are some; so is a full disk
        raise _network_error(error) from error


_AWAY = re.compile(r"API request to \S+ failed with (exception|timeout exception) |.* failed with error code 50[234] ")
"""How MLflow says that a server does not answer (``mlflow.utils.rest_utils``), or that a proxy before it does."""


def _network_error(error: OSError) -> StoreError:
    """Away, or a refusal: only the first is worth waiting for."""
    answer = getattr(error, "response", None)
    if answer is not None:  # requests.HTTPError: somebody answered
        said = f"the tracking store refused: {_one_line(error)}"
        return StoreAway(said) if answer.status_code in {502, 503, 504} else StoreError(said)
    said = f"the tracking store cannot be reached: {_one_line(error)}"
    return StoreAway(said) if type(error).__module__.startswith(("requests.", "urllib3.")) else StoreError(said)


def _index(run: Run) -> RunIndex:
    """A run as a search shows it."""
    return RunIndex(
        run_id=run.info.run_id,
        status=run.info.status,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        metrics={name: [float(value)] for name, value in run.data.metrics.items() if name in ALL_METRICS},
    )


TABLE_TAG_VALUE = '[{"path": "samples_table.json", "type": "table"}]'


def _views(result: BenchmarkResult, samples: SampleSet) -> dict[str, bytes]:
    """What people look at: a figure, and a table of the samples (thinned evenly where they are many)."""
    total = sum(len(raw.samples_ns) for raw in samples.workers)
    step = max(1, -(-total // MAX_TABLE_ROWS))
    rows = [
        (raw.index, number, ns / worker.runs_per_sample / 1e6)
        for raw, worker in zip(samples.workers, result.workers, strict=True)
        for number, ns in list(enumerate(raw.samples_ns))[::step]
    ]
    drawn = io.BytesIO()
    latency_figure(result, samples).savefig(drawn, format="png")
    table = {"columns": ["worker", "sample", "latency_ms"], "data": rows}
    return {"latency.png": drawn.getvalue(), "samples_table.json": encode(table)}


def _database_errors() -> tuple[type[Exception], ...]:
    """The base of SQLAlchemy's errors; nothing where MLflow came without it (mlflow-skinny)."""
    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        return ()
    return (SQLAlchemyError,)


def _check_sqlite(uri: str) -> None:
    """Refuse what is no MLflow store before MLflow touches it.

    MLflow would put its tables into any SQLite database, and tries for minutes to open what it cannot.
    """
    if not uri.startswith("sqlite:///"):
        return
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    remedy = "Check --tracking-uri: it names a file that MLflow made, or one that does not exist yet"
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return
    if path.is_dir():
        raise StoreError(f"the tracking store {path} is a folder", remedy=remedy)
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            remedy = "Another program holds it: try again when that is done"
        raise StoreError(f"the tracking store {path} cannot be used: {error}", remedy=remedy) from error
    if tables and "alembic_version" not in tables:
        raise StoreError(f"{path} is a SQLite database of something else than MLflow", remedy=remedy)


def failure_of(
    error: Exception, category: FailureCategory, request: RunRequest | None, host: HostInfo | None
) -> Failure:
    """What is stored of a run that has no result."""
    return Failure(
        schema_version=SCHEMA_VERSION,
        category=category,
        reason=str(error.args[0]) if error.args else str(error),
        remedy=suggested(category, getattr(error, "remedy", None)),
        request=request,
        availability=getattr(error, "availability", None),
        host=host,
    )


def _milliseconds(instant: str) -> int:
    return round(datetime.fromisoformat(instant).timestamp() * 1000)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
