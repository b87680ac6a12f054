"""The worker: a fresh process that opens one session and times it.

Owns the timed loop, warm-up, the challenge's answers and the scaling probe; the server scenario's open loop is
:mod:`.loadgen`'s. Everything it says is a claim until the parent (:mod:`.runner`) bounds it. Started as
``python -m hwbench_mlflow.worker``; not for people.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter_ns, process_time_ns
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import msgspec

from hwbench_mlflow import protocol
from hwbench_mlflow.backends.base import Converts, MeasuresMemory, SelfTimed
from hwbench_mlflow.backends.lookup import load as load_backend
from hwbench_mlflow.errors import BenchmarkFailed, HardwareUnavailable, HwbenchError, UsageError
from hwbench_mlflow.host import available_memory_bytes, thread_run_delay_ns
from hwbench_mlflow.loadgen import Server
from hwbench_mlflow.model import (
    Availability,
    Calibration,
    CompileMode,
    Device,
    FailureCategory,
    Phase,
    Precision,
    RunRequest,
    ScalingPoint,
    Scenario,
    Workload,
)
from hwbench_mlflow.probing import probe_here
from hwbench_mlflow.scenarios import DEFAULT_PERCENTILE, MAX_STRETCH
from hwbench_mlflow.stats import PERCENTILE_MIN_SAMPLES, is_flat, median
from hwbench_mlflow.workloads.generation import teacher_forced
from hwbench_mlflow.workloads.memory import Admit, Room, kept_caches, require_room
from hwbench_mlflow.writing import require_writer, timed_generations

if TYPE_CHECKING:
    from hwbench_mlflow.backends.base import Backend, Session
    from hwbench_mlflow.workloads.base import InputSpec, LoadedModel

WARMUP_BLOCKS_MIN = 3
OFFLINE_SAMPLE_NS = 50_000_000
"""An offline sample is a block of inferences at least this long, so that the one synchronisation at its
end is lost in it."""

SCALING_FACTORS = (1, 4, 16, 64)
SCALING_ENOUGH = 1.5
SCALING_SAMPLES = 5
SCALING_SECONDS = 20.0
"""The probe stops at the first batch that shows growth; larger ones are for devices that small batches
leave idle. It stops as well when the next batch would take longer than this."""

SCALING_RETRIES = 4
SCALING_NEAR = 1.5
"""The first point is measured again while it is this much slower than the window: another program was at it."""

CALIBRATION_RETRIES = 9

QUERIES = frozenset({Scenario.SERVER, Scenario.MULTISTREAM})
"""Scenarios whose loops are here and nowhere else: a session that keeps its own time has none of them."""

CommandT = TypeVar("CommandT")


class Channel:
    """The private line to the parent."""

    def __init__(self, commands: BinaryIO, events: BinaryIO) -> None:
        self._commands = commands
        self._events = events

    def say(self, event: protocol.Event) -> None:
        self._events.write(protocol.write(event))
        self._events.flush()

    def expect(self, kind: type[CommandT]) -> CommandT:
        """The next command, which has to be of that kind. A parent that went away ends the worker."""
        line = self._commands.readline()
        if not line:
            raise SystemExit(1)
        command = protocol.read_command(line)
        if not isinstance(command, kind):
            raise UsageError(f"the parent said {type(command).__name__}, not {kind.__name__}")
        return command


def main() -> int:
    """Serve one order and leave."""
    _die_with_parent()
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    channel = Channel(sys.stdin.buffer, events)
    line = sys.stdin.buffer.readline()
    if not line:
        return 1
    try:
        order = protocol.read_command(line)
        if isinstance(order, protocol.Measure):
            _measure(order, channel)
        elif isinstance(order, protocol.Reference):
            _refer(order, channel)
        elif isinstance(order, protocol.Calibrate):
            _calibrate(order, channel)
        else:
            raise UsageError(f"a worker's first order cannot be {type(order).__name__}")
    except HardwareUnavailable as error:
        channel.say(_failed(FailureCategory(error.availability.status.lower()), error))
        return 1
    except BenchmarkFailed as error:
        channel.say(_failed(error.category, error))
        return 1
    except HwbenchError as error:
        channel.say(_failed(FailureCategory.USAGE, error))
        return 1
    except MemoryError as error:
        channel.say(_failed(FailureCategory.OUT_OF_MEMORY, HwbenchError(f"out of memory: {error}")))
        return 1
    return 0


def _failed(category: FailureCategory, error: HwbenchError) -> protocol.Failed:
    return protocol.Failed(category=category, message=str(error.args[0]), remedy=error.remedy)


def _measure(order: protocol.Measure, channel: Channel) -> None:
    """Probe, load, warm up, time, answer the challenge, scale."""
    backend = load_backend(order.request.backend)
    import_ns = _import_libraries()
    found = probe_here(backend)
    channel.say(protocol.Probed(availability=found, import_ns=import_ns))
    opening = channel.expect(protocol.Open)
    device = _device(found, opening.device_id)
    require_writer(backend, opening.workload)
    room = _room(backend, device)
    model = _load(opening.workload, _admitted(backend, opening.workload, room, slots=opening.slots))
    with backend.open(device, model.workload, model, order.request.threads) as session:
        if isinstance(session, SelfTimed) and order.request.workload.scenario in QUERIES:
            raise UsageError(f"scenario {order.request.workload.scenario} is not measured in a browser")
        channel.say(
            protocol.Loaded(
                import_ns=import_ns,
                facts=session.facts(),
                model=model.info,
                workload=model.workload,
                warnings=model.warnings,
            )
        )
        base = _time_session(session, model, opening, order.request, channel)
    points = [base]
    if opening.scaling:
        points += _scale(backend, device, model, opening.nonce, points[0], threads=order.request.threads)
    channel.say(protocol.Scaled(points=tuple(points)))


def _time_session(
    session: Session, model: LoadedModel, opening: protocol.Open, request: RunRequest, channel: Channel
) -> ScalingPoint:
    """Everything that happens in the main session; returns its point of the scaling probe."""
    staged = _stage(session, model.input_spec, opening.nonce, opening.slots)
    first_ns = _timed_run(session, 0)
    channel.say(protocol.FirstInference(duration_ns=first_ns))
    warm = _warm_up(session, opening.slots, request.profile.max_warmup_seconds)
    runs_per_sample = _runs_per_sample(request.workload, median(warm.tail))
    opening = msgspec.structs.replace(
        opening, min_samples=_min_samples(request, opening, median(warm.tail) * runs_per_sample)
    )
    # The capacity that the search starts from is an upper end: a machine that was busy just now must not lower it.
    server = _server(session, opening, request, min(median(warm.tail), median(warm.samples_ns)))
    # Before the parent reads its clock: with torch and transformers loaded this takes 0.2 s, and the parent
    # would see a window that much longer than the worker's.
    gc.collect()
    channel.say(protocol.Ready(warmup_ns=tuple(warm.samples_ns), flat=warm.flat))
    again = True
    while again:
        channel.expect(protocol.Go)
        window = _window(session, opening, runs_per_sample, server)
        again = server is not None and server.step_down()
        channel.say(protocol.WindowOver(again=again))
    if isinstance(session, SelfTimed):
        samples, window.outputs = session.timed_samples()
        window.samples_ns = array("q", samples)
    witness = session.witness_end(window.wall_ns, window.cpu_ns, window.run_delay_ns)
    served = server.last if server is not None else None
    if served is not None:
        witness = replace(witness, busy_cpu_ns=served.busy_cpu_ns)
    timed = tuple(
        _sampled(session, output, opening.nonce, slot, staged[slot])
        for slot, output in enumerate(window.outputs)
        if output is not None
    )
    nonce = channel.expect(protocol.Challenge).nonce
    fresh = _stage(session, model.input_spec, nonce, 1)
    output = session.run(0)
    session.synchronize()
    after = (_sampled(session, output, nonce, 0, fresh[0]),)
    channel.say(
        protocol.Answer(
            samples_ns=tuple(window.samples_ns),
            runs_per_sample=runs_per_sample,
            window_ns=window.wall_ns,
            witness=witness,
            timed=timed,
            after=after,
            token_ns=tuple(window.token_ns),
            arrivals_ns=server.arrivals_ns if server is not None else (),
            starts_ns=tuple(served.starts_ns) if served is not None else (),
            ends_ns=tuple(served.ends_ns) if served is not None else (),
            server=server.record() if server is not None else None,
        )
    )
    return first_point(session, model.workload.batch_size, median(window.samples_ns) / runs_per_sample)


def _runs_per_sample(work: Workload, service_ns: float) -> int:
    """Inferences in a sample: one, a block of them (offline), or as many as a query's samples take (multistream)."""
    if work.scenario is Scenario.OFFLINE:
        return max(1, round(OFFLINE_SAMPLE_NS / service_ns))
    return work.query_size // work.batch_size if work.query_size is not None else 1


def _min_samples(request: RunRequest, opening: protocol.Open, query_ns: float) -> int:
    """Fewest samples of the window. Multistream: enough for its percentile too, where that takes no more than
    :data:`.scenarios.MAX_STRETCH` times the window's seconds."""
    if request.workload.scenario is not Scenario.MULTISTREAM:
        return opening.min_samples
    enough = -(-PERCENTILE_MIN_SAMPLES[DEFAULT_PERCENTILE] // request.profile.workers)
    fitting = int(opening.seconds * MAX_STRETCH * 1e9 / query_ns)
    return max(opening.min_samples, min(enough, fitting))


def _server(session: Session, opening: protocol.Open, request: RunRequest, service_ns: float) -> Server | None:
    """The server scenario's load generator, with the rate found or given; None for another scenario."""
    if request.workload.scenario is not Scenario.SERVER:
        return None
    server = Server(
        session=session,
        workload=request.workload,
        profile=request.profile,
        nonce=opening.nonce,
        slots=opening.slots,
        service_ns=service_ns,
        rate_per_s=opening.rate_per_s,
    )
    gc.disable()
    try:
        server.search(quiet=gc.collect)
    finally:
        gc.enable()
    return server


@dataclass(slots=True)
class _WarmUp:
    samples_ns: list[int]
    tail: list[int]
    flat: bool


def _warm_up(session: Session, slots: int, max_seconds: float) -> _WarmUp:
    """Run until the medians of blocks flatten, or the time is up. A block is about a twentieth of the
    time allowed and never fewer than 3 inferences; every slot is run at least once."""
    samples: list[int] = []
    blocks: list[float] = []
    block_ns = max_seconds * 1e9 / 20
    limit = perf_counter_ns() + int(max_seconds * 1e9)
    while True:
        block: list[int] = []
        while len(block) < 3 or (sum(block) < block_ns and len(block) < 50):
            block.append(_timed_run(session, (len(samples) + len(block)) % slots))
        samples += block
        blocks.append(median(block))
        flat = is_flat(blocks)
        if (flat or perf_counter_ns() > limit) and len(blocks) >= WARMUP_BLOCKS_MIN and len(samples) >= slots:
            return _WarmUp(samples_ns=samples, tail=block, flat=flat)


@dataclass(slots=True)
class _Window:
    samples_ns: array[int]
    wall_ns: int
    cpu_ns: int
    run_delay_ns: int | None
    outputs: list[object | None]
    token_ns: array[int]


def _window(session: Session, opening: protocol.Open, runs_per_sample: int, server: Server | None) -> _Window:
    """The timed window. Inputs alternate between the slots; the last output of each is kept for the
    comparison with the reference, assigned outside the timed span."""
    outputs: list[object | None] = [None] * opening.slots
    tokens = array("q")
    session.witness_begin()
    gc.disable()
    delay = thread_run_delay_ns()
    cpu = process_time_ns()
    try:
        if isinstance(session, SelfTimed):
            samples, wall = array("q"), _their_window(session, opening, runs_per_sample)
        elif opening.workload.phase is not Phase.FORWARD:
            samples, wall, tokens = timed_generations(session, opening, outputs)
        elif server is not None:
            samples, wall = server.window(outputs)
        else:
            loop = _single_runs if runs_per_sample == 1 else _blocks
            samples, wall = loop(session, opening, runs_per_sample, outputs)
    finally:
        gc.enable()
    cpu = process_time_ns() - cpu
    after = thread_run_delay_ns()
    return _Window(
        samples_ns=samples,
        wall_ns=wall,
        cpu_ns=cpu,
        run_delay_ns=after - delay if after is not None and delay is not None else None,
        outputs=outputs,
        token_ns=tokens,
    )


def _single_runs(
    session: Session, opening: protocol.Open, runs_per_sample: int, outputs: list[object | None]
) -> tuple[array[int], int]:
    """One inference a sample: latency (MLPerf's SingleStream). Locals only: the loop is the harness."""
    assert runs_per_sample == 1
    run, synchronize, clock, slots = session.run, session.synchronize, perf_counter_ns, opening.slots
    samples = array("q")
    append = samples.append
    slot = 0
    begin = clock()
    deadline = begin + int(opening.seconds * 1e9)
    left = max(opening.min_samples, slots)
    while True:
        start = clock()
        output = run(slot)
        synchronize()
        stop = clock()
        append(stop - start)
        outputs[slot] = output
        slot = slot + 1 if slot + 1 < slots else 0
        left -= 1
        if left <= 0 and stop >= deadline:
            return samples, clock() - begin


def _blocks(
    session: Session, opening: protocol.Open, runs_per_sample: int, outputs: list[object | None]
) -> tuple[array[int], int]:
    """A block of inferences a sample, one synchronisation at its end: throughput (MLPerf's Offline)."""
    run, synchronize, clock, slots = session.run, session.synchronize, perf_counter_ns, opening.slots
    samples = array("q")
    order = [i % slots for i in range(runs_per_sample)]
    begin = clock()
    deadline = begin + int(opening.seconds * 1e9)
    left = opening.min_samples
    while True:
        start = clock()
        for slot in order:
            outputs[slot] = run(slot)
        synchronize()
        stop = clock()
        samples.append(stop - start)
        left -= 1
        if left <= 0 and stop >= deadline:
            return samples, clock() - begin


def _their_window(session: SelfTimed, opening: protocol.Open, runs_per_sample: int) -> int:
    """A window on the session's own clock, which cannot have seen more time go by than this one."""
    begin = perf_counter_ns()
    wall = session.timed_window(
        seconds=opening.seconds,
        min_samples=max(opening.min_samples, opening.slots),
        runs_per_sample=runs_per_sample,
    )
    seen = perf_counter_ns() - begin
    if not 0 < wall <= seen:
        raise BenchmarkFailed(
            f"the session's clock says {wall / 1e9:.3f} s for a window of {seen / 1e9:.3f} s",
            FailureCategory.WRONG_OUTPUT,
        )
    return wall


def _timed_run(session: Session, slot: int) -> int:
    if isinstance(session, SelfTimed):
        return session.timed_run(slot)
    start = perf_counter_ns()
    session.run(slot)
    session.synchronize()
    return perf_counter_ns() - start


def _point(session: Session, batch_size: int) -> ScalingPoint:
    """Median of a few single inferences; one first, untimed, for what is compiled per shape."""
    session.run(0)
    session.synchronize()
    times = [_timed_run(session, 0) for _ in range(SCALING_SAMPLES)]
    return ScalingPoint(batch_size=batch_size, median_ns=round(median(times)), samples=len(times))


def first_point(session: Session, batch_size: int, expected_ns: float) -> ScalingPoint:
    """The point at the window's own batch: the fastest of a few tries, as another program can only slow one down.

    ``expected_ns`` is what an inference took in the window. A faster first point asks no less growth of the others.
    """
    best = _point(session, batch_size)
    for _ in range(SCALING_RETRIES):
        if best.median_ns <= SCALING_NEAR * expected_ns:
            break
        if best.median_ns * (SCALING_SAMPLES + 1) > SCALING_SECONDS * 1e9 / SCALING_RETRIES:
            break
        best = min(best, _point(session, batch_size), key=lambda point: point.median_ns)
    return best


def _scale(
    backend: Backend, device: Device, model: LoadedModel, nonce: str, base: ScalingPoint, *, threads: int | None
) -> list[ScalingPoint]:
    """Time at larger batches until it has grown. Running out of device memory ends the probe."""
    points: list[ScalingPoint] = []
    last = base
    for factor in SCALING_FACTORS[1:]:
        batch = base.batch_size * factor
        growth = batch / last.batch_size
        if last.median_ns * growth * (SCALING_SAMPLES + 1) > SCALING_SECONDS * 1e9 and points:
            break
        larger = at_batch(model, batch)
        try:
            with backend.open(device, larger.workload, larger, threads) as session:
                _stage(session, larger.input_spec, nonce, 1)
                last = _point(session, batch)
        except BenchmarkFailed as error:
            if error.category is not FailureCategory.OUT_OF_MEMORY:
                raise
            break
        points.append(last)
        if last.median_ns >= SCALING_ENOUGH * base.median_ns:
            break
    return points


def at_batch(model: LoadedModel, batch_size: int) -> LoadedModel:
    """The same model with inputs of another batch size. Its ``info`` still counts the first one's."""
    return replace(
        model,
        workload=replace(model.workload, batch_size=batch_size),
        input_spec=tuple(replace(spec, shape=(batch_size, *spec.shape[1:])) for spec in model.input_spec),
    )


def _stage(session: Session, spec: Sequence[InputSpec], nonce: str, slots: int) -> list[str]:
    """Put the challenge's inputs on the device; returns their digests."""
    from hwbench_mlflow.workloads.challenge import inputs_digest, make_inputs

    inputs = [make_inputs(spec, nonce, slot) for slot in range(slots)]
    session.stage(inputs)
    return [inputs_digest(one) for one in inputs]


def _sampled(session: Session, output: object, nonce: str, slot: int, inputs_sha256: str) -> protocol.OutputSample:
    from hwbench_mlflow.workloads.challenge import sample_output

    elements, digest, size = sample_output(session.fetch(output), nonce, slot)
    return protocol.OutputSample(
        nonce=nonce, slot=slot, inputs_sha256=inputs_sha256, elements=elements, sha256=digest, size=size
    )


def _refer(order: protocol.Reference, channel: Channel) -> None:
    """Outputs of torch on the CPU in fp32, and the peak of the device, in a process of their own."""
    from hwbench_mlflow.backends.cpu import CpuBackend
    from hwbench_mlflow.workloads.challenge import inputs_digest, make_inputs

    # The reference is torch's, on the host, whatever measured.
    referee = _admitted(CpuBackend(), order.workload, Room(available_memory_bytes()), referee=True)
    model = _load(order.workload, referee)
    eager = replace(model.workload, precision=Precision.FP32, compile_mode=CompileMode.EAGER)
    plain = replace(model, workload=eager, module=teacher_forced(model.module, eager))
    cpu = CpuBackend()
    outputs = []
    with cpu.open(_device(cpu.probe(), "cpu"), plain.workload, plain, None) as session:
        for nonce, slot in order.challenges:
            inputs = make_inputs(plain.input_spec, nonce, slot)
            session.stage([inputs])
            outputs.append(_sampled(session, session.run(0), nonce, slot, inputs_digest(inputs)))
    backend = load_backend(order.request.backend)
    calibration = calibrated(backend, _device(backend.probe(), order.device_id), order)
    channel.say(
        protocol.Referred(outputs=tuple(outputs), weights_sha256=_weights_digest(model), calibration=calibration)
    )


def _calibrate(order: protocol.Calibrate, channel: Channel) -> None:
    """Probe, then products and streaming kernels on one device, in a process that has done nothing else."""
    import torch

    from hwbench_mlflow.backends import _roofline

    import_ns = _import_libraries()
    found = probe_here(load_backend(order.backend))
    channel.say(protocol.Probed(availability=found, import_ns=import_ns))
    device = _device(found, channel.expect(protocol.CalibrateOn).device_id)
    where = _roofline.torch_device(device)
    if order.threads is not None:
        torch.set_num_threads(order.threads)
    cache = _roofline.cache_bytes(where)
    begin = perf_counter_ns()
    products, skipped = _roofline.measure_products(where, order.precisions, order.seconds)
    streams = _roofline.measure_streams(where, cache, order.seconds)
    channel.say(
        protocol.Calibrated(
            device=device,
            method=f"torch {torch.__version__!s} on {where}: mm, copy_, add(out=)",
            products=products,
            streams=streams,
            skipped=dict(skipped),
            cache_bytes=cache,
            threads=torch.get_num_threads(),
            worker_ns=perf_counter_ns() - begin,
        )
    )


def calibrated(backend: Backend, device: Device, order: protocol.Reference) -> Calibration | None:
    """The device's peak: the best of a few calibrations, where the first is below what was achieved.

    A peak is a maximum, so measuring again can only bring it nearer to the truth; one calibration on a busy
    machine can be a hundred times too low, and would contradict an honest result.
    """
    best = backend.calibrate(device, order.precision, order.calibration_seconds)
    for _ in range(CALIBRATION_RETRIES):
        if best is None or best.peak_flops_per_s >= order.fastest_flops_per_s:
            break
        again = backend.calibrate(device, order.precision, order.calibration_seconds)
        if again is not None and again.peak_flops_per_s > best.peak_flops_per_s:
            best = again
    return best


def _load(workload: Workload, admit: Admit) -> LoadedModel:
    from hwbench_mlflow.workloads.build import load

    return load(workload, ask_hub=False, admit=admit)  # the parent has asked


def _room(backend: Backend, device: Device) -> Room:
    """What is free now, before the model is loaded. A device of its own that does not say has its whole memory."""
    host = available_memory_bytes()
    if not isinstance(backend, MeasuresMemory):
        return Room(host)
    free = backend.free_memory_bytes(device)
    return Room(host, device.memory_bytes if free is None else free, own_memory=True)


def _admitted(backend: Backend, workload: Workload, room: Room, *, slots: int = 1, referee: bool = False) -> Admit:
    """What refuses a model that does not fit there, with both numbers, before it is in memory."""
    converted = isinstance(backend, Converts) and backend.converts
    return partial(
        require_room, precision=workload.precision, room=room, converted=converted, referee=referee,
        caches=kept_caches(workload.phase, slots=slots, converted=converted),
    )  # fmt: skip


def _weights_digest(model: LoadedModel) -> str:
    from hwbench_mlflow.workloads.build import weights_digest

    return weights_digest(model.module)


def _device(found: Availability, device_id: str) -> Device:
    """The device of that id, if this process's own probe checked it."""
    device = found.verified_device(device_id)
    if device is None:
        raise HardwareUnavailable(f"no verified device {device_id} on {found.platform}: {found.reason}", found)
    return device


def _import_libraries() -> int:
    """Import what every session needs, timed; a missing one is the probe's to report."""
    start = perf_counter_ns()
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401
        import transformers  # noqa: F401
    return perf_counter_ns() - start


def _die_with_parent() -> None:
    """On Linux, ask the kernel to kill this process when its parent dies (prctl PR_SET_PDEATHSIG),
    so that a killed benchmark leaves nothing running on the device."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BrokenPipeError, msgspec.DecodeError) as error:
        print(f"hwbench worker: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
