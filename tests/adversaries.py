"""Backends that cheat, each in its own way. None of them may ever be verified."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from hwbench_mlflow import worker
from hwbench_mlflow.backends.cpu import CpuBackend
from hwbench_mlflow.model import (
    Availability,
    AvailabilityStatus,
    Calibration,
    Device,
    ExecutionWitness,
    Platform,
    Precision,
    SessionFacts,
)


class _Wrapped:
    """A session that passes everything on."""

    def __init__(self, inner: Any, batch_size: int) -> None:
        self.inner = inner
        self.batch_size = batch_size

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _Wrapping(CpuBackend):
    session: ClassVar[type[_Wrapped]] = _Wrapped

    @contextmanager
    def open(self, device: Any, workload: Any, model: Any, threads: int | None) -> Iterator[Any]:
        with super().open(device, workload, model, threads) as inner:
            yield self.session(inner, workload.batch_size)


class _Sleeping(_Wrapped):
    """Computes each input once, then sleeps in proportion to the batch and gives the right output again."""

    def stage(self, slots: Any) -> None:
        self.inner.stage(slots)
        self.kept = [self.inner.run(slot) for slot in range(len(slots))]

    def run(self, slot: int) -> object:
        time.sleep(0.004 * self.batch_size)
        return self.kept[slot]


class Sleeper(_Wrapping):
    session = _Sleeping


class _Remembering(_Wrapped):
    """Computes once in its life and returns that."""

    kept: object = None

    def run(self, slot: int) -> object:
        if self.kept is None:
            self.kept = self.inner.run(slot)
        return self.kept


class CachedOutput(_Wrapping):
    session = _Remembering


class TimerPatcher(_Wrapping):
    """Makes the worker's clock run at a quarter of its speed."""

    @contextmanager
    def open(self, device: Any, workload: Any, model: Any, threads: int | None) -> Iterator[Any]:
        real = time.perf_counter_ns
        begin = real()
        for module in (worker, sys.modules["__main__"]):  # a worker runs as __main__: the other one is a copy
            module.perf_counter_ns = lambda: begin + (real() - begin) // 4  # type: ignore[attr-defined]
        with super().open(device, workload, model, threads) as inner:
            yield inner


CUDA_DEVICE = Device(platform=Platform.CUDA, id="cuda:0", name="NVIDIA H100", vendor="NVIDIA", uuid="GPU-42")


class _CallsItselfCuda(_Wrapped):
    def facts(self) -> SessionFacts:
        return dataclasses.replace(self.inner.facts(), device=CUDA_DEVICE)

    def witness_end(self, *arguments: Any) -> ExecutionWitness:
        seen: ExecutionWitness = self.inner.witness_end(*arguments)
        return dataclasses.replace(seen, device_identity="GPU-42", kernel_count=0, utilization_max=0.0)


class CpuCalledCuda(CpuBackend):
    """Computes on the CPU and says that it was an H100."""

    platform: ClassVar[Platform] = Platform.CUDA

    def probe(self) -> Availability:
        honest = CpuBackend().probe()
        checks = tuple(dataclasses.replace(check, device_id="cuda:0") for check in honest.checks)
        return dataclasses.replace(honest, platform=Platform.CUDA, devices=(CUDA_DEVICE,), checks=checks)

    @contextmanager
    def open(self, device: Any, workload: Any, model: Any, threads: int | None) -> Iterator[Any]:
        cpu = CpuBackend()
        with cpu.open(cpu.probe().devices[0], workload, model, threads) as inner:
            yield _CallsItselfCuda(inner, workload.batch_size)

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:
        return Calibration(
            device_id="cuda:0", device_uuid="GPU-42", precision=precision, peak_flops_per_s=1e15, source="claimed"
        )


class _DyingSession(_Wrapped):
    def synchronize(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class KilledInTheMiddle(_Wrapping):
    """Its worker is killed while it computes, as the kernel does when memory runs out."""

    session = _DyingSession


class CrashingProbe(CpuBackend):
    def probe(self) -> Availability:
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError


class HangingProbe(CpuBackend):
    def probe(self) -> Availability:
        time.sleep(600)
        raise AssertionError


class NoisyProbe(CpuBackend):
    """A vendor's library that prints on standard output."""

    def probe(self) -> Availability:
        os.write(1, b"Vendor SDK 1.0 {\n")
        return super().probe()


class BoastingProbe(CpuBackend):
    """Available, it says, without an operation that ran."""

    def probe(self) -> Availability:
        return dataclasses.replace(super().probe(), status=AvailabilityStatus.AVAILABLE, checks=())
