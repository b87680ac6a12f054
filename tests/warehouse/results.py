"""hwbench's own runs in a real store, made without measuring: an honest result, sealed, bound and logged."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from hwbench_mlflow import tracking
from hwbench_mlflow.attest import SigningKey
from hwbench_mlflow.codec import encode, sha256
from hwbench_mlflow.evidence import bind, seal
from hwbench_mlflow.keystore import load_keyring, signing_key
from hwbench_mlflow.model import BenchmarkResult, Platform, SampleSet
from tests.honest import honest, resealed

Change = Callable[[BenchmarkResult, SampleSet], tuple[BenchmarkResult, SampleSet]]


def same(result: BenchmarkResult, samples: SampleSet) -> tuple[BenchmarkResult, SampleSet]:
    """No change."""
    return result, samples


def distinct(seed: int, platform: Platform = Platform.CPU) -> tuple[BenchmarkResult, SampleSet]:
    """The honest result with an id of its own and 40 samples, so that a store of them stays small."""
    result, samples = honest(platform)
    result_id = hashlib.sha256(str(seed).encode()).hexdigest()[:32]
    one = samples.workers[0]
    few = dataclasses.replace(one, samples_ns=one.samples_ns[:40], warmup_ns=one.warmup_ns[:2])
    samples = dataclasses.replace(samples, result_id=result_id, workers=(few,))
    window = sum(few.samples_ns) + 2_000
    worker = result.workers[0]
    worker = dataclasses.replace(
        worker,
        sample_count=40,
        warmup_count=2,
        window_ns=window,
        witness=dataclasses.replace(worker.witness, wall_ns=window, process_cpu_ns=round(1.9 * window)),
        parent=dataclasses.replace(
            worker.parent,
            window_end_ns=worker.parent.window_begin_ns + window + 1_000_000,
            exited_ns=worker.parent.window_begin_ns + window + 4_000_000_000,
        ),
    )
    return resealed(dataclasses.replace(result, result_id=result_id, workers=(worker,)), samples), samples


@dataclass
class Lab:
    """A store, its client and a machine's key."""

    path: Path
    client: MlflowClient
    log: tracking.Store
    home: Path
    key: SigningKey
    runs: list[str]

    def add(self, seed: int = 0, change: Change = same, *, key: SigningKey | None = None) -> str:
        """One finished result run, logged as ``hwbench push`` does; its id."""
        result, samples = change(*distinct(seed))
        signer = key or self.key
        run_id = self.log.start_pushed(result)
        self.log.log_result(run_id, seal(result, samples, signer), signer, load_keyring(self.home))
        return run_id

    def forge(self, seed: int, change: Callable[[BenchmarkResult], BenchmarkResult]) -> str:
        """A run whose well-formed, signed files say what no honest run could; hwbench itself would not log it."""
        result, samples = distinct(seed)
        files = seal(change(result), samples, self.key)
        run_id = self.log.start(f"forged {seed}")
        folder = self.folder(run_id)
        folder.mkdir(parents=True)
        for name, data in files.items():
            write(folder / name, data)
        write(folder / "binding.dsse.json", bind(files, result.result_id, run_id, result.finished_at, self.key))
        self.client.log_param(run_id, "hwbench.result_sha256", sha256(files["result.json"]))
        self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def folder(self, run_id: str) -> Path:
        """Where the run's evidence lies."""
        return Path(self.client.get_run(run_id).info.artifact_uri) / "hwbench"


def make_lab(store: Path, home: Path, artifacts: Path, runs: list[str] | None = None, name: str = "bench") -> Lab:
    """A lab on that store; its experiment keeps its artifacts in that folder."""
    client = MlflowClient(f"sqlite:///{store}")
    if client.get_experiment_by_name(name) is None:
        client.create_experiment(name, artifact_location=str(artifacts))
    log = tracking.Store(f"sqlite:///{store}", name)
    return Lab(store, client, log, home, signing_key(home), list(runs or []))


def write(path: Path, value: object) -> None:
    """Put another file in an artifact's place."""
    path.write_bytes(value if isinstance(value, bytes) else encode(value))
