"""Backends that fail, each in one way. Named to a worker as ``module:Class``; driven by the real command."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from hwbench_mlflow.backends.cpu import CpuBackend
from hwbench_mlflow.backends.qnn import QnnBackend, _Profiled
from hwbench_mlflow.model import Availability, AvailabilityStatus, Platform
from tests.adversaries import _Wrapped, _Wrapping


class Absent(CpuBackend):
    """Is whatever the test says that it is, without a remedy of its own."""

    def probe(self) -> Availability:
        status = AvailabilityStatus(os.environ["FAILING_STATUS"])
        return Availability(platform=Platform.CPU, status=status, reason=f"the test says {status}")


class _Greedy(_Wrapped):
    def run(self, slot: int) -> object:
        return bytearray(1 << 62)


class OutOfMemory(_Wrapping):
    """Asks for more memory than there is."""

    session: ClassVar[type[_Wrapped]] = _Greedy


class _Silent(_Wrapped):
    def witness_begin(self) -> None:
        time.sleep(600)


class Silent(_Wrapping):
    """Says nothing any more, in the middle of the window."""

    session: ClassVar[type[_Wrapped]] = _Silent


class _Ahead(_Wrapped):
    """Keeps its own time, and says that more of it went by than did."""

    def timed_run(self, slot: int) -> int:
        return 1000

    def timed_window(self, *, seconds: float, min_samples: int, runs_per_sample: int) -> int:
        return 10**13

    def timed_samples(self) -> tuple[list[int], list[object | None]]:
        return [], []


class ClockAhead(_Wrapping):
    session: ClassVar[type[_Wrapped]] = _Ahead


class LeftToTheCpu(QnnBackend):
    """QNN whose model ran on onnxruntime's CPU, as its own profile says."""

    @contextmanager
    def open(self, device: Any, workload: Any, model: Any, threads: int | None) -> Iterator[Any]:
        honest = self.probe()
        _Profiled.placement = lambda _: {"CPUExecutionProvider": 40}  # type: ignore[method-assign]
        self.probe = lambda: honest  # type: ignore[method-assign]
        with super().open(device, workload, model, threads) as session:
            yield session
