"""The searches that docs/mlflow.md promises, each against a store of known runs: what it finds, and nothing else."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest

from hwbench_mlflow.evidence import seal
from hwbench_mlflow.host import describe_host
from hwbench_mlflow.keystore import load_keyring
from hwbench_mlflow.model import (
    Availability,
    AvailabilityStatus,
    BenchmarkResult,
    Failure,
    FailureCategory,
    Platform,
    Precision,
    SampleSet,
)
from tests.commands import ROOT
from tests.documents import estimate, log_estimate, log_roofline, roofline
from tests.gates.conftest import emulated
from tests.gates.corpus import named, noisy, other_machine, renamed
from tests.honest import honest, resealed
from tests.warehouse.results import Lab, distinct, make_lab

TEXT = (ROOT / "docs" / "mlflow.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (.+?) \| (`+)(.+)\2 \|$", re.MULTILINE)
SEARCHES = {found[1]: found[3] for found in ROW.finditer(TEXT.partition("## Searches")[2].partition("\n## ")[0])}
VERIFIED = {"plain", "slow", "batch 8", "bf16", "bert", "noisy", "elsewhere", "many samples"}
FINDS = {
    "results that were verified when they were logged": VERIFIED,
    "the same, and measured peaks of devices": {*VERIFIED, "roofline"},
    "one model on one platform": {"bert"},
    "one precision": {"bf16"},
    "one batch size": {"batch 8"},
    "fast ones": VERIFIED - {"slow"},
    "enough samples for a p99": {"many samples"},
    "one machine": {"elsewhere"},
    "one device, by its name": {"elsewhere"},
    "noisy measurements": {"noisy"},
    "what is a result and not verified": {"emulated", "forged"},
    "evidence that disagrees with itself": {"forged"},
    "emulated or estimated, and said so": {"emulated", "estimate"},
    "roofline estimates": {"estimate"},
    "measured peaks of devices": {"roofline"},
    "attempts that failed": {"failure"},
    "failures for want of a driver": {"failure"},
    "what `hwbench devices --log` found": {"devices"},
    "machines whose GPU computed": {"devices"},
    "the runs of a batch": {"batch 8"},
    "any run on verified hardware (below)": {"training"},
}

replace = dataclasses.replace
Made = tuple[BenchmarkResult, SampleSet]


def asked(result: BenchmarkResult, samples: SampleSet, **changes: object) -> Made:
    """The same, had another workload been asked for and run."""
    request = replace(result.request, workload=replace(result.request.workload, **changes))
    return resealed(replace(result, request=request, workload=replace(result.workload, **changes)), samples), samples


def in_bf16(result: BenchmarkResult, samples: SampleSet) -> Made:
    result, samples = asked(result, samples, precision=Precision.BF16)
    [worker] = result.workers
    assert result.calibration is not None
    return replace(
        result, effective_precision=Precision.BF16, calibration=replace(result.calibration, precision=Precision.BF16),
        workers=(replace(worker, facts=replace(worker.facts, effective_precision=Precision.BF16)),),
    ), samples  # fmt: skip


def twice_as_long(result: BenchmarkResult, samples: SampleSet) -> Made:
    [worker], [raw] = result.workers, samples.workers
    samples = replace(samples, workers=(replace(raw, samples_ns=tuple(2 * ns for ns in raw.samples_ns)),))
    window, parent, seen = 2 * worker.window_ns, worker.parent, worker.witness
    worker = replace(
        worker, window_ns=window, witness=replace(seen, wall_ns=window, process_cpu_ns=2 * seen.process_cpu_ns),
        parent=replace(
            parent, window_end_ns=parent.window_end_ns + window // 2, exited_ns=parent.exited_ns + window // 2
        ),
    )  # fmt: skip
    return resealed(replace(result, workers=(worker,)), samples), samples


def elsewhere(result: BenchmarkResult, samples: SampleSet) -> Made:
    result, samples = other_machine(result, samples)
    return replace(result, host=replace(result.host, hostname="lab-2")), samples


def forged(result: BenchmarkResult, samples: SampleSet) -> Made:
    return replace(result, aggregates=replace(result.aggregates, p50_ms=0.001)), samples


RESULTS = {
    "plain": lambda r, s: (r, s),
    "slow": twice_as_long,
    "batch 8": lambda r, s: asked(r, s, batch_size=8),
    "bf16": in_bf16,
    "bert": named("bert"),
    "noisy": noisy,
    "elsewhere": elsewhere,
    "many samples": lambda r, s: renamed(*honest(), 1),
    "emulated": emulated,
    "forged": forged,
}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory, blank_store: Path) -> tuple[Lab, dict[str, str]]:
    """A store of one run of each kind: run id -> what it is called here."""
    folder = tmp_path_factory.mktemp("searches")
    lab = make_lab(Path(shutil.copyfile(blank_store, folder / "mlflow.db")), folder / "home", folder / "artifacts")
    parent = lab.log.start("batch")
    names = {parent: "batch"}
    for seed, (name, change) in enumerate(RESULTS.items()):
        result, samples = change(*distinct(seed))
        run_id = lab.log.start(name, parent=parent if name == "batch 8" else None)
        lab.log.log_result(run_id, seal(result, samples, lab.key), lab.key, load_keyring(lab.home))
        names[run_id] = name
    lab.log.end_parent(parent, 1, 0)
    request = honest(Platform.CUDA)[0].request
    failed = lab.log.start("failure")
    names[failed] = "failure"
    failure = Failure(
        schema_version=1, category=FailureCategory.NO_DRIVER, reason="no driver", remedy=None, request=request,
        availability=None, host=None,
    )  # fmt: skip
    lab.log.fail(failed, failure)
    found = Availability(platform=Platform.CUDA, status=AvailabilityStatus.AVAILABLE, reason="made by a test")
    names[lab.log.log_devices([found], describe_host())] = "devices"
    names[log_estimate(lab, estimate())] = "estimate"
    names[log_roofline(lab, roofline())] = "roofline"
    tags = {"hwbench.hardware.cuda": "2 x NVIDIA L4; verified 2026-11-25T09:00:00.000+00:00"}
    experiment = lab.client.get_experiment_by_name("bench").experiment_id
    names[lab.client.create_run(experiment, tags=tags).info.run_id] = "training"
    names["parent"] = parent
    return lab, names


def found_by(known: tuple[Lab, dict[str, str]], condition: str) -> set[str]:
    lab, names = known
    experiment = lab.client.get_experiment_by_name("bench").experiment_id
    return {names[run.info.run_id] for run in lab.client.search_runs([experiment], condition)}


def test_every_documented_search_has_its_answer_here() -> None:
    assert SEARCHES.keys() == FINDS.keys()


def test_the_store_holds_what_the_searches_are_to_tell_apart(known: tuple[Lab, dict[str, str]]) -> None:
    assert found_by(known, "") == {*RESULTS, "batch", "failure", "devices", "estimate", "roofline", "training"}
    assert all(wanted and wanted != found_by(known, "") for wanted in FINDS.values())


@pytest.mark.parametrize("what", SEARCHES)
def test_a_documented_search_finds_what_it_says(known: tuple[Lab, dict[str, str]], what: str) -> None:
    assert found_by(known, SEARCHES[what].replace("RUN_ID", known[1]["parent"])) == FINDS[what]


def test_a_documented_name_is_one_that_runs_have(known: tuple[Lab, dict[str, str]]) -> None:
    """The names in "What a run holds", against the runs: a tag that was renamed would be noticed."""
    lab, names = known
    held: set[str] = set()
    for run_id in names:
        if run_id != "parent":
            run = lab.client.get_run(run_id)
            held |= {*run.data.tags, *run.data.params}
    section = TEXT.partition("## What a run holds")[2].partition("\n## ")[0]
    rows = {row.split("|")[1].strip(): row for row in section.splitlines() if row.startswith("| ")}
    shown = {
        name for row in ("tags for people", "other tags", "params") for name in re.findall(r"`([\w.]+)`", rows[row])
    }
    sizes_of_images = {"hwbench.image_size"}  # no run here is given one
    roles = {"result", "failure", "parent", "devices", "estimate", "roofline"}
    assert roles <= shown
    assert shown - roles - sizes_of_images - held == set()
    plain = next(run_id for run_id, name in names.items() if name == "plain")
    files = {item.path for folder in (None, "hwbench") for item in lab.client.list_artifacts(plain, folder)}
    assert set(re.findall(r"`([\w./]+)`", rows["artifacts"])) == files - {"hwbench"}
