"""How a result becomes a run (section 5 of the design), and how runs that hold none are made and ended."""

from __future__ import annotations

import io
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwbench_mlflow import documents, evidence
from hwbench_mlflow.attest import Keyring, SigningKey
from hwbench_mlflow.codec import encode, sha256
from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.estimate import ESTIMATE_ROLE, index_of_estimate
from hwbench_mlflow.evidence import ATTEMPT_TAG, FOLDER, GIVEN_UP_TAG, PROCESS_TAG, ROLE_TAG
from hwbench_mlflow.figures import latency_figure, roofline_figure
from hwbench_mlflow.host import process_name
from hwbench_mlflow.index import ResultIndex, index_of
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
from hwbench_mlflow.tracking.boundary import store_errors
from hwbench_mlflow.tracking.reader import PARENT_TAG, PLAN_FILE, Reader

NOTE_TAG = "mlflow.note.content"
KIND_TAG = "mlflow.experimentKind"
"""By it MLflow's UI decides what to open: runs with charts and comparisons, or traces of GenAI."""
TABLE_TAG = "mlflow.loggedArtifacts"
"""By it MLflow's UI finds the tables among the artifacts (what ``log_table`` sets, at the price of four requests)."""
TABLE_TAG_VALUE = '[{"path": "samples_table.json", "type": "table"}]'
RANDOM_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")
MAX_TABLE_ROWS = 5_000
MAX_TAG_CHARACTERS = 5000


class Store(Reader):
    """One tracking store, read and written."""

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

    def reopen(self, run_id: str) -> None:
        """A parent is RUNNING again, in this process."""
        with store_errors():
            self.client.update_run(run_id, "RUNNING")
            self._log(run_id, tags={PROCESS_TAG: process_name()})

    def give_up(self, parent: str, attempt: str, why: str) -> None:
        """Say on a batch that an attempt of it is not to be delivered any more, whoever turns up with it."""
        self._log(parent, tags={f"{GIVEN_UP_TAG}{attempt}": why})

    def log_plan(self, run_id: str, plan: bytes) -> None:
        """What a batch is going to measure: whoever resumes it reads this."""
        with store_errors():
            self._log_files(run_id, {PLAN_FILE: plan})

    def end_killed(self, run_id: str, reason: str) -> None:
        """End a run whose process is gone: KILLED, with the reason, and no result."""
        tags = {ROLE_TAG: "failure", "hwbench.failure_category": "interrupted", "hwbench.failure_reason": reason}
        with store_errors():
            self._log(run_id, tags=tags)
            self.client.set_terminated(run_id, "KILLED")

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


def log_devices(found: Sequence[Availability], host: HostInfo, tracking_uri: str | None, experiment: str | None) -> str:
    """Log probes' answers to a store; the run's id."""
    return Store(tracking_uri, experiment).log_devices(found, host)


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


def _milliseconds(instant: str) -> int:
    return round(datetime.fromisoformat(instant).timestamp() * 1000)
