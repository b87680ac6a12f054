"""One benchmark, from a request to a signed result.

Owns the order of things: probe, load, warm up, time, challenge, scale, refer, derive, sign. The parent
keeps its own time around every worker and draws the nonces. Knows no tracking store.
"""

from __future__ import annotations

import contextlib
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from hwbench_mlflow import __version__, protocol
from hwbench_mlflow.codec import encode, sha256
from hwbench_mlflow.errors import BenchmarkFailed, HardwareUnavailable
from hwbench_mlflow.generation import generation_stats
from hwbench_mlflow.host import (
    boot_id,
    cpu_governor,
    describe_host,
    load_average,
    physical_cores,
    thread_run_delay_ns,
    usable_cores,
)
from hwbench_mlflow.model import (
    SCHEMA_VERSION,
    Availability,
    AvailabilityStatus,
    BenchmarkResult,
    Conditions,
    Device,
    Energy,
    EnergyMethod,
    FailureCategory,
    ModelInfo,
    OutputCheck,
    ParentClock,
    Platform,
    RunRequest,
    SampleSet,
    Scenario,
    SystemSample,
    WeightsPolicy,
    WorkerRecord,
    WorkerSamples,
    Workload,
)
from hwbench_mlflow.neighbours import Look, busy_warning
from hwbench_mlflow.sampling import GpuWatch, Sampler, WindowConditions
from hwbench_mlflow.scenarios import busy_ns, derive
from hwbench_mlflow.supervise import WorkerProcess, device_lock, pinned
from hwbench_mlflow.workloads.build import locate_weights
from hwbench_mlflow.workloads.hub import Weights
from hwbench_mlflow.workloads.resolve import resolve

N = TypeVar("N", int, float)

SLOTS = 4
"""Distinct challenge inputs that alternate in the timed window."""

CALIBRATION_SECONDS = 1.0
PROBE_TIMEOUT_S = 120.0
LOAD_TIMEOUT_S = 1800.0
STEP_TIMEOUT_S = 900.0
"""Limits after which a silent worker counts as hung: importing and probing; building a model and
putting it on a device; anything else besides the window's own length."""


class Progress:
    """What a run tells whoever watches. The base class is silent."""

    def stage(self, text: str, seconds: float | None = None) -> None:
        """A new stage has begun; ``seconds`` is how long it should take, where that is known."""

    def warn(self, text: str) -> None:
        """Something the user should know."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A finished measurement: the result, its raw samples, and their bytes' digest inside it."""

    result: BenchmarkResult
    samples: SampleSet


@dataclass(frozen=True, slots=True)
class _WorkerOutcome:
    """What one measuring worker gave, before the reference is known."""

    loaded: protocol.Loaded
    first_ns: int
    ready: protocol.Ready
    answer: protocol.Answer
    scaled: protocol.Scaled
    nonce: str
    pid: int
    parent: ParentClock
    conditions: WindowConditions
    system: tuple[SystemSample, ...]
    warnings: tuple[str, ...]


def run(
    request: RunRequest, progress: Progress | None = None, before_timing: Callable[[], None] | None = None
) -> Measured:
    """Measure. ``before_timing`` is called once in the parent while the first worker starts: for imports
    that would disturb a window.

    Raises :class:`HardwareUnavailable` with the probe's answer, :class:`BenchmarkFailed` with a category,
    :class:`UsageError` for a request that cannot be right.
    """
    say = progress or Progress()
    started_at, origin, load_before = _now(), time.perf_counter_ns(), load_average()
    with pinned(request.cores), contextlib.ExitStack() as stack:
        availability, device = None, None
        outcomes: list[_WorkerOutcome] = []
        located: Weights | None = None
        workload, warnings = request.workload, tuple[str, ...]()
        for index in range(request.profile.workers):
            with _worker() as worker:
                say.stage(f"worker {index + 1} of {request.profile.workers}: probing {request.platform}")
                worker.say(protocol.Measure(request=request))
                if before_timing is not None and index == 0:
                    before_timing()
                if located is None:  # while the worker imports its libraries
                    located = locate_weights(resolve(request.workload))
                found = _probe(worker, request.platform)
                if availability is None or device is None:
                    availability, device = found, choose_device(found, request.device)
                    workload, warnings = settle_weights(request.workload, located)
                    for warning in warnings:
                        say.warn(warning)
                    stack.enter_context(device_lock(lock_name(device), say.warn, lock_parts(device)))
                rate = _rate(outcomes)
                outcomes.append(_measure(worker, index, request, work=workload, device=device, rate=rate, say=say))
        assert availability is not None
        assert device is not None
        say.stage("reference outputs and the device's peak, in a process of their own")
        with _worker() as worker:
            referred = _refer(worker, request, device, outcomes)
    model = _agreed(outcomes, referred)
    workers = tuple(_record(index, outcome, referred) for index, outcome in enumerate(outcomes))
    samples = SampleSet(
        schema_version=SCHEMA_VERSION,
        result_id=uuid.uuid4().hex,
        workers=tuple(_raw(index, outcome) for index, outcome in enumerate(outcomes)),
        system=tuple(sample for outcome in outcomes for sample in outcome.system),
    )
    conditions = _conditions([o.conditions for o in outcomes], load_before)
    workload = outcomes[0].loaded.workload
    warnings += tuple(warning for outcome in outcomes for warning in outcome.warnings)
    result = BenchmarkResult(
        schema_version=SCHEMA_VERSION,
        result_id=samples.result_id,
        hwbench_version=__version__,
        started_at=started_at,
        finished_at=_now(),
        monotonic_ns=time.perf_counter_ns() - origin,
        request=request,
        availability=availability,
        device=device,
        model=model,
        workload=workload,
        effective_precision=outcomes[0].loaded.facts.effective_precision,
        host=describe_host(),
        workers=workers,
        conditions=conditions,
        aggregates=derive(workload, workers, samples.workers, conditions),
        samples_sha256=sha256(encode(samples)),
        is_simulated=device.emulation_reason is not None,
        simulation_reason=device.emulation_reason,
        calibration=referred.calibration,
        energy=_energy(device, outcomes),
        warnings=tuple(dict.fromkeys(warnings)),
        generation=generation_stats(
            workload, [raw.samples_ns for raw in samples.workers], [raw.token_ns for raw in samples.workers]
        ),
    )
    return Measured(result=result, samples=samples)


def choose_device(found: Availability, asked: str | None) -> Device:
    """The device to measure on: the one asked for, or the platform's first. Never another one.

    Raises :class:`HardwareUnavailable` where it is not there or no operation could be checked on it.
    """
    if found.status is not AvailabilityStatus.AVAILABLE or not found.devices:
        raise HardwareUnavailable(f"{found.platform} is unavailable: {found.reason}", found, remedy=found.remedy)
    wanted = asked if asked is not None else found.devices[0].id
    if all(device.id != wanted for device in found.devices):
        listed = ", ".join(device.id for device in found.devices)
        absent = replace(found, status=AvailabilityStatus.NO_DEVICE, reason=f"there is no device {wanted}")
        raise HardwareUnavailable(
            f"{found.platform} has no device {wanted} ({found.reason})", absent, remedy=f"It has: {listed}"
        )
    device = found.verified_device(wanted)
    if device is None:
        reasons = "; ".join(check.reason for check in found.checks if check.device_id == wanted)
        broken = replace(
            found, status=AvailabilityStatus.PROBE_FAILED, reason=reasons or "no operation was checked on it"
        )
        raise HardwareUnavailable(f"{wanted} is there, but failed its check: {broken.reason}", broken)
    return device


def settle_weights(workload: Workload, found: Weights) -> tuple[Workload, tuple[str, ...]]:
    """What the policy comes to, decided once for all workers, with the warnings to give.

    Raises :class:`BenchmarkFailed` (``hub_unreachable``) where pretrained weights were asked for and are nowhere.
    """
    if found.folder is not None or workload.weights is WeightsPolicy.RANDOM:
        return workload, ()
    if workload.weights is WeightsPolicy.PRETRAINED:
        raise BenchmarkFailed(
            f"no pretrained weights for {workload.model}: {found.reason}",
            FailureCategory.HUB_UNREACHABLE,
            remedy="Fill the Hugging Face cache or name a folder with safetensors, or use --weights random",
        )
    warning = f"{workload.model} runs with random weights (seed {workload.weights_seed}): {found.reason}"
    return replace(workload, weights=WeightsPolicy.RANDOM), (warning,)


def lock_name(device: Device) -> str:
    """What two benchmarks must not share: one name for every platform that computes on the host's CPU."""
    computes = (device.platform, device.id) in ((Platform.OPENVINO, "CPU"), (Platform.WEBNN, "cpu"))
    if device.platform is Platform.CPU or computes or device.emulation_reason is not None:
        return "cpu"
    return device.uuid or f"{device.platform}-{device.id}"


def lock_parts(device: Device, cores: Sequence[int] | None = None) -> tuple[str, ...]:
    """The cores that a device computes on, as locks: those given, or all that this thread may use. None for a device
    of its own, and where the system does not tell: then the name is the lock."""
    if lock_name(device) != "cpu":
        return ()
    usable = cores if cores is not None else usable_cores()
    return () if usable is None else tuple(f"cpu-{core}" for core in physical_cores(usable))


@contextlib.contextmanager
def _worker() -> Iterator[WorkerProcess]:
    worker = WorkerProcess()
    try:
        yield worker
    finally:
        worker.close()


def _probe(worker: WorkerProcess, platform: Platform) -> Availability:
    """What the worker's probe says; its death or silence is an answer as well."""
    started_at, begun = _now(), worker.now_ns()
    try:
        probed, _ = worker.expect(protocol.Probed, PROBE_TIMEOUT_S, f"probing {platform}")
    except BenchmarkFailed as error:
        if error.category not in {FailureCategory.CRASH, FailureCategory.TIMEOUT}:
            raise
        failed = Availability(
            platform=platform,
            status=AvailabilityStatus.PROBE_FAILED,
            reason=str(error),
            probe_id=uuid.uuid4().hex,
            started_at=started_at,
            duration_ns=worker.now_ns() - begun,
            boot_id=boot_id(),
        )
        raise HardwareUnavailable(f"{platform} is unavailable: its probe failed: {error}", failed) from error
    return probed.availability


def _measure(
    worker: WorkerProcess,
    index: int,
    request: RunRequest,
    *,
    work: Workload,
    device: Device,
    rate: float | None,
    say: Progress,
) -> _WorkerOutcome:
    """Drive one worker from opening the session to its last word. ``rate``: of a server, if it is known."""
    profile = request.profile
    name = f"worker {index + 1} of {profile.workers}"
    nonce = secrets.token_hex(16)
    seconds = profile.seconds / profile.workers
    say.stage(f"{name}: loading {work.model} on {device.id}")
    look = Look(request.cores, worker.pid) if index == 0 else None
    worker.say(
        protocol.Open(
            device_id=device.id,
            workload=work,
            nonce=nonce,
            slots=SLOTS,
            min_samples=-(-profile.min_samples // profile.workers),
            seconds=seconds,
            scaling=index == 0,
            rate_per_s=rate,
        )
    )
    loaded, _ = worker.expect(protocol.Loaded, LOAD_TIMEOUT_S, f"loading {work.model}")
    if index == 0:
        for warning in loaded.warnings:
            say.warn(warning)
    first, _ = worker.expect(protocol.FirstInference, STEP_TIMEOUT_S, "running the first inference")
    busy = busy_warning(look.others()) if look is not None else None
    if busy is not None:  # it warms up meanwhile: what is said in time can be acted on
        say.warn(busy)
    searching = work.scenario is Scenario.SERVER and rate is None
    say.stage(f"{name}: warming up" + (", then finding the rate that holds the bound" if searching else ""))
    ready, _ = worker.expect(protocol.Ready, STEP_TIMEOUT_S + profile.max_warmup_seconds, "warming up")
    again = True
    while again:
        say.stage(f"{name}: measuring", seconds)
        sampler = Sampler(worker.pid, index, worker.now_ns, GpuWatch.of(device.uuid), request.cores)
        sampler.start()
        waited = thread_run_delay_ns()
        begin_ns = worker.say(protocol.Go())
        over, end_ns = worker.expect(protocol.WindowOver, STEP_TIMEOUT_S + 3 * seconds, "measuring")
        waited_after = thread_run_delay_ns()
        conditions = sampler.stop()
        again = over.again
        if again:
            say.stage(f"{name}: the bound was not held; again, at a lower rate")
    say.stage(f"{name}: challenging and scaling")
    worker.say(protocol.Challenge(nonce=secrets.token_hex(16)))
    answer, _ = worker.expect(protocol.Answer, STEP_TIMEOUT_S, "answering the challenge")
    scaled, _ = worker.expect(protocol.Scaled, STEP_TIMEOUT_S, "measuring larger batches")
    ended = worker.wait()
    return _WorkerOutcome(
        loaded=loaded,
        first_ns=first.duration_ns,
        ready=ready,
        answer=answer,
        scaled=scaled,
        nonce=nonce,
        pid=worker.pid,
        parent=ParentClock(
            window_begin_ns=begin_ns,
            window_end_ns=end_ns,
            exited_ns=ended.at_ns,
            cpu_ns=ended.cpu_ns,
            max_rss_bytes=ended.max_rss_bytes,
            run_delay_ns=waited_after - waited if waited_after is not None and waited is not None else None,
        ),
        conditions=conditions,
        system=tuple(sampler.samples),
        warnings=(*loaded.warnings, *(() if busy is None else (busy,))),
    )


def _refer(
    worker: WorkerProcess, request: RunRequest, device: Device, outcomes: Sequence[_WorkerOutcome]
) -> protocol.Referred:
    """Outputs for every challenge by torch on the CPU in fp32, and the device's peak."""
    loaded = outcomes[0].loaded
    challenges = [(s.nonce, s.slot) for o in outcomes for s in (*o.answer.timed, *o.answer.after)]
    # Whatever `auto` came to in the first worker: the reference must not choose again.
    weights = WeightsPolicy(loaded.model.weights_source.value)
    worker.say(
        protocol.Reference(
            request=request,
            workload=replace(loaded.workload, weights=weights),
            challenges=tuple(challenges),
            device_id=device.id,
            precision=loaded.facts.effective_precision,
            calibration_seconds=CALIBRATION_SECONDS,
            fastest_flops_per_s=max(
                o.loaded.model.flops * o.answer.runs_per_sample / max(1, min(busy_ns(_raw(0, o)), default=1)) * 1e9
                for o in outcomes
            ),
        )
    )
    referred, _ = worker.expect(protocol.Referred, LOAD_TIMEOUT_S, "computing the reference")
    worker.wait()
    return referred


def _rate(outcomes: Sequence[_WorkerOutcome]) -> float | None:
    """The rate that the first worker of a server found; the others are offered the same."""
    found = outcomes[0].answer.server if outcomes else None
    return found.rate_per_s if found is not None else None


def _raw(index: int, outcome: _WorkerOutcome) -> WorkerSamples:
    answer = outcome.answer
    return WorkerSamples(
        index=index,
        warmup_ns=outcome.ready.warmup_ns,
        samples_ns=answer.samples_ns,
        arrivals_ns=answer.arrivals_ns,
        starts_ns=answer.starts_ns,
        ends_ns=answer.ends_ns,
        token_ns=answer.token_ns,
    )


def _agreed(outcomes: Sequence[_WorkerOutcome], referred: protocol.Referred) -> ModelInfo:
    """The model that every worker ran, with the digest of its weights."""
    models = {replace(o.loaded.model, weights_sha256="") for o in outcomes}
    if len(models) != 1 or len({o.loaded.workload for o in outcomes}) != 1:
        raise BenchmarkFailed("the workers ran different models", FailureCategory.WRONG_OUTPUT)
    return replace(models.pop(), weights_sha256=referred.weights_sha256)


def _record(index: int, outcome: _WorkerOutcome, referred: protocol.Referred) -> WorkerRecord:
    by_challenge = {(s.nonce, s.slot): s for s in referred.outputs}
    answer = outcome.answer

    def check(sample: protocol.OutputSample, phase: str) -> OutputCheck:
        reference = by_challenge.get((sample.nonce, sample.slot))
        comparable = (
            reference is not None and reference.inputs_sha256 == sample.inputs_sha256 and reference.size == sample.size
        )
        return OutputCheck(
            nonce=sample.nonce,
            slot=sample.slot,
            phase=phase,
            inputs_sha256=sample.inputs_sha256,
            observed_sha256=sample.sha256,
            observed=sample.elements,
            reference=reference.elements if reference is not None and comparable else (),
            elements=sample.size,
        )

    return WorkerRecord(
        index=index,
        pid=outcome.pid,
        nonce=outcome.nonce,
        facts=outcome.loaded.facts,
        import_ns=outcome.loaded.import_ns,
        first_inference_ns=outcome.first_ns,
        warmup_count=len(outcome.ready.warmup_ns),
        warmup_flat=outcome.ready.flat,
        sample_count=len(answer.samples_ns),
        runs_per_sample=answer.runs_per_sample,
        window_ns=answer.window_ns,
        witness=answer.witness,
        outputs=(*(check(s, "timed") for s in answer.timed), *(check(s, "after") for s in answer.after)),
        parent=outcome.parent,
        scaling=outcome.scaled.points,
        server=answer.server,
    )


def _conditions(windows: Sequence[WindowConditions], load_before: float | None) -> Conditions:
    """The worst of the windows for fractions, the sum for counts; None where no window could say."""
    return Conditions(
        load_before=load_before,
        load_after=load_average(),
        steal_fraction=_known(max, [w.steal_fraction for w in windows]),
        foreign_cpu_fraction=_known(max, [w.foreign_cpu_fraction for w in windows]),
        involuntary_switches=_known(sum, [w.involuntary_switches for w in windows]),
        throttle_events=_known(sum, [w.throttle_events for w in windows]),
        throttle_reasons=tuple(sorted({reason for w in windows for reason in w.throttle_reasons})),
        foreign_device_pids=tuple(sorted({pid for w in windows for pid in w.foreign_device_pids})),
        governor=cpu_governor(),
    )


def _known(fold: Callable[[list[N]], N], values: Sequence[N | None]) -> N | None:
    known = [value for value in values if value is not None]
    return fold(known) if known else None


def _energy(device: Device, outcomes: Sequence[_WorkerOutcome]) -> Energy | None:
    """A counter's energy where every window has one, else integrated power, else nothing."""
    on_cpu = lock_name(device) == "cpu"
    scope = "CPU packages (RAPL), everything on the machine" if on_cpu else f"device {device.uuid or device.id}"
    counted = [o.conditions.package_joules if on_cpu else o.answer.witness.energy_j for o in outcomes]
    integrated = [o.conditions.integrated_joules for o in outcomes]
    for method, joules in ((EnergyMethod.COUNTER, counted), (EnergyMethod.INTEGRATED, integrated)):
        known = [value for value in joules if value is not None and value > 0]
        if len(known) == len(outcomes):
            return Energy(joules=sum(known), method=method, scope=scope)
    return None


def _now() -> str:
    return datetime.now(UTC).isoformat()
