"""Runs for the gate: honest ones of every kind, and everything that was ever forged, in a real MLflow store.

A forger here holds a trusted key and knows hwbench: what they log has every param, tag and metric that fits.
Only what the evidence itself says can give them away.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from mlflow.entities import Metric, Param, RunTag

from hwbench_mlflow.attest import SigningKey
from hwbench_mlflow.codec import sha256
from hwbench_mlflow.evidence import BINDING_FILE, RESULT_FILE, RunIndex, bind, seal
from hwbench_mlflow.index import index_of
from hwbench_mlflow.model import (
    PROFILES,
    BenchmarkResult,
    Device,
    Platform,
    SampleSet,
)
from hwbench_mlflow.verdict import judge_result
from tests.honest import honest, honest_multistream, honest_server, resealed
from tests.warehouse.results import Lab, distinct, write

replace = dataclasses.replace
Logged = tuple[dict[str, bytes], RunIndex]
Made = tuple[BenchmarkResult, SampleSet]


def renamed(result: BenchmarkResult, samples: SampleSet, seed: int) -> Made:
    """The same measurement as a result of its own."""
    result_id = sha256(f"corpus {seed}".encode())[:32]
    samples = replace(samples, result_id=result_id)
    return resealed(replace(result, result_id=result_id), samples), samples


def noisy(result: BenchmarkResult, samples: SampleSet) -> Made:
    """On a machine that did much else; the result says so."""
    conditions = replace(result.conditions, steal_fraction=0.2, foreign_cpu_fraction=0.6, load_after=9.0)
    return resealed(replace(result, conditions=conditions), samples), samples


def short(result: BenchmarkResult, samples: SampleSet) -> Made:
    """Twelve samples under the profile that asks for no more."""
    one, worker = samples.workers[0], result.workers[0]
    few = replace(one, samples_ns=one.samples_ns[:12])
    window = sum(few.samples_ns) + 2_000
    worker = replace(
        worker, sample_count=12, window_ns=window,
        witness=replace(worker.witness, wall_ns=window, process_cpu_ns=round(1.9 * window)),
        parent=replace(worker.parent, window_end_ns=worker.parent.window_begin_ns + window + 1_000_000),
    )  # fmt: skip
    samples = replace(samples, workers=(few,))
    request = replace(result.request, profile=PROFILES["smoke"])
    return resealed(replace(result, workers=(worker,), request=request), samples), samples


def restarted(result: BenchmarkResult, samples: SampleSet) -> Made:
    """The same machine after a reboot."""
    boot = "99999999-2222-3333-4444-555555555555"
    probe = replace(result.availability, boot_id=boot, probe_id="ba" * 16)
    return replace(result, availability=probe, host=replace(result.host, boot_id=boot)), samples


def other_machine(result: BenchmarkResult, samples: SampleSet) -> Made:
    """Elsewhere, on another device, without a boot id."""
    device = Device(
        platform=Platform.CPU, id="cpu", name="Other CPU", vendor=None, driver=None, memory_bytes=8_000_000_000
    )
    host = replace(
        result.host, hostname="made-by-another-test", host_id="other", boot_id=None, memory_bytes=8_000_000_000
    )
    worker = result.workers[0]
    check = replace(result.availability.checks[0], identity="Other CPU")
    return replace(
        result, device=device, host=host,
        availability=replace(result.availability, devices=(device,), checks=(check,), boot_id=None, probe_id="bb" * 16),
        workers=(replace(worker, facts=replace(worker.facts, device=device)),),
    ), samples  # fmt: skip


def overlapped(result: BenchmarkResult, samples: SampleSet) -> Made:
    """Four inferences in a sample: throughput is known, the latency of one is not."""
    worker = replace(result.workers[0], runs_per_sample=4)
    return resealed(replace(result, workers=(worker,)), samples), samples


def named(model: str) -> Callable[[BenchmarkResult, SampleSet], Made]:
    """A model that is called that."""

    def change(result: BenchmarkResult, samples: SampleSet) -> Made:
        work = replace(result.workload, model=model)
        request = replace(result.request, workload=replace(result.request.workload, model=model))
        return replace(result, workload=work, request=request, model=replace(result.model, name=model)), samples

    return change


HOSTILE = {
    "script": "<script>alert(1)</script>",
    "sql": "'; DROP TABLE performance_results; --",
    "right-to-left": "\u202egpj.ezis\u202c\u0661",
    "long": "m" * 250,
    "format": "{0.__class__} %s ${jndi:x} {{7*7}}",
}

HONEST: dict[str, Callable[[BenchmarkResult, SampleSet], Made]] = {
    "plain": lambda r, s: (r, s),
    "noisy": noisy,
    "short": short,
    "restarted": restarted,
    "another machine": other_machine,
    "overlapped": overlapped,
    "device named": lambda r, s: (replace(r, request=replace(r.request, device="cpu")), s),
    "a warning": lambda r, s: (replace(r, warnings=("the governor is powersave", "<b>")), s),
    **{f"called {kind}": named(name) for kind, name in HOSTILE.items()},
}
"""Honest results of every kind; none may be refused."""

PLATFORMS = (Platform.CUDA, Platform.OPENVINO, Platform.MPS)


def honest_results() -> dict[str, Made]:
    """Every honest result, each its own."""
    made = {}
    for seed, (name, change) in enumerate(HONEST.items(), start=100):
        made[name] = change(*distinct(seed))
    for seed, platform in enumerate(PLATFORMS, start=200):
        made[f"on {platform}"] = renamed(*honest(platform), seed)
    made["server"] = renamed(*honest_server(), 210)
    made["multistream"] = renamed(*honest_multistream(), 211)
    return made


def claimed(result: BenchmarkResult, samples: SampleSet, run_id: str, key: SigningKey) -> Logged:
    """What hwbench would log of that result, were it asked to: signed, bound, indexed to the letter."""
    files = seal(result, samples, key)
    files[BINDING_FILE] = bind(files, result.result_id, run_id, result.finished_at, key)
    index = index_of(result, sha256(files[RESULT_FILE]), judge_result(result, samples))
    run = RunIndex(
        run_id=run_id, status="FINISHED", params=index.params, tags=index.tags,
        metrics={name: [value] for name, value in index.metrics.items()},
    )  # fmt: skip
    return files, run


def plant(lab: Lab, make: Callable[[str], Logged]) -> str:
    """Put a run into the store exactly as it is; its id, which ``make`` is given."""
    run_id = lab.log.start("planted")
    files, run = make(run_id)
    folder = lab.folder(run_id)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write(folder / name, data)
    now = int(time.time() * 1000)
    points = [(name, values, n) for name, values in run.metrics.items() for n in range(len(values))]
    lab.client.log_batch(
        run_id,
        params=[Param(k, v) for k, v in run.params.items()],
        tags=[RunTag(k, v) for k, v in run.tags.items() if not k.startswith("mlflow.")],
        metrics=[Metric(name, values[n], now + n, n) for name, values, n in points],
    )
    if run.status != "RUNNING":
        lab.client.set_terminated(run_id, run.status)
    return run_id
