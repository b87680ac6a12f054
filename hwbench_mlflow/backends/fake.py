"""The platform that is not there: for tests, and for people who write a backend.

It behaves as a backend should, and its one device says that software stands in for hardware, so no
verdict on its results can be ``verified``. Imports no vendor SDK; torch only if the model it is
given is a torch module.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from hwbench_mlflow.backends._reference import (
    check_matrices,
    check_slots,
    judge_product,
    refuse,
    sized_spec,
)
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import (
    Availability,
    AvailabilityStatus,
    Calibration,
    Device,
    ExecutionWitness,
    FailureCategory,
    Platform,
    Precision,
    SessionFacts,
    Workload,
)

if TYPE_CHECKING:
    from hwbench_mlflow.backends._reference import Array
    from hwbench_mlflow.backends.base import Session
    from hwbench_mlflow.workloads.base import LoadedModel

EMULATION_REASON = "fake backend: nothing is executed on hardware"
SECONDS_PER_ITEM = 0.0002
"""Slept for each item of the batch before the host computes the outputs, so that time grows with work."""

DEVICE = Device(
    platform=Platform.CPU,
    id="fake:0",
    name="hwbench fake device",
    emulation_reason=EMULATION_REASON,
)


class FakeBackend:
    """A backend whose device is software, and says so."""

    platform: ClassVar[Platform] = Platform.CPU
    writes: ClassVar[bool] = True

    def probe(self) -> Availability:
        """Always there. The check's product is the reference itself: a pure-Python device is never wrong."""
        _, _, product = check_matrices()
        check = judge_product(DEVICE.id, product, product, identity=DEVICE.name, enumerated=DEVICE.name)
        return Availability(
            platform=self.platform,
            status=AvailabilityStatus.AVAILABLE,
            reason=EMULATION_REASON,
            devices=(DEVICE,),
            checks=(check,),
        )

    @contextmanager
    def open(self, device: Device, workload: Workload, model: LoadedModel, threads: int | None) -> Iterator[Session]:
        """A session that computes on the host, whatever the precision asked for."""
        if (device.platform, device.id) != (DEVICE.platform, DEVICE.id):
            raise refuse(device, self.platform, [DEVICE.id])
        session = FakeSession(model, workload, threads or 1)
        try:
            yield session
        finally:
            session.close()

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:  # noqa: ARG002
        """Software has no peak worth a bound."""
        return None


class FakeSession:
    """Sleeps a little, then lets the host compute. Deterministic."""

    def __init__(self, model: LoadedModel, workload: Workload, threads: int) -> None:
        self._model = model
        self._workload = workload
        self._threads = threads
        self._spec = sized_spec(model.input_spec, workload.batch_size)
        self._staged: list[dict[str, Any]] = []
        self._open = True

    def stage(self, slots: Sequence[Mapping[str, Array]]) -> None:
        """Keep copies of the input sets; a torch module gets tensors, any other callable the arrays."""
        check_slots(self._spec, slots)
        self._staged = [{name: self._convert(array.copy()) for name, array in slot.items()} for slot in slots]

    def _convert(self, array: Array) -> Any:
        if not hasattr(self._model.module, "parameters"):
            return array
        import torch

        return torch.from_numpy(array)

    def run(self, slot: int) -> object:
        """One inference, after a sleep in proportion to the batch."""
        if not self._open:
            raise BenchmarkFailed("the session is closed", FailureCategory.USAGE)
        time.sleep(SECONDS_PER_ITEM * self._workload.batch_size)
        return self._model.module(**self._staged[slot])

    def synchronize(self) -> None:
        """Nothing is ever pending."""

    def fetch(self, output: object) -> dict[str, Array]:
        """The compared outputs as float32 arrays."""
        import numpy as np

        fetched: dict[str, Array] = {}
        for name in self._model.output_names:
            value = output[name] if isinstance(output, Mapping) else getattr(output, name)
            host_value = value.detach().numpy() if hasattr(value, "detach") else value
            fetched[name] = np.array(host_value, dtype=np.float32)
        return fetched

    def facts(self) -> SessionFacts:
        """It computes in fp32, whatever was asked for, and says so."""
        return SessionFacts(
            device=DEVICE,
            effective_precision=Precision.FP32,
            threads=self._threads,
            load_ns=0,
            compile_ns=None,
            properties={"backend": EMULATION_REASON},
        )

    def witness_begin(self) -> None:
        """No counters."""

    def witness_end(self, wall_ns: int, process_cpu_ns: int, run_delay_ns: int | None) -> ExecutionWitness:
        """What the worker measured, and nothing about a device: there is none."""
        return ExecutionWitness(
            wall_ns=wall_ns,
            process_cpu_ns=process_cpu_ns,
            run_delay_ns=run_delay_ns,
            threads=self._threads,
            device_identity=DEVICE.name,
            properties={"backend": EMULATION_REASON},
        )

    def close(self) -> None:
        """A later run fails."""
        self._open = False
        self._staged = []
