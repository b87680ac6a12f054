"""What a backend is, and how they are found.

Owns the two protocols every platform implements and the lookup by entry point. Imports no vendor
SDK: those are imported only inside the functions of the platform's own file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from hwbench_mlflow.model import (
    Availability,
    Calibration,
    Device,
    ExecutionWitness,
    Platform,
    Precision,
    SessionFacts,
    Workload,
)

if TYPE_CHECKING:
    import numpy as np

    from hwbench_mlflow.workloads.base import LoadedModel

    Tensors = Mapping[str, "np.ndarray[Any, Any]"]


class Session(Protocol):
    """A model ready to run on one device. The runner owns clocks, loops and nonces."""

    def stage(self, slots: Sequence[Tensors]) -> None:
        """Put input sets on the device, each at its index. Replaces what was staged before."""
        ...

    def run(self, slot: int) -> object:
        """One inference on the staged inputs of ``slot``; may be asynchronous."""
        ...

    def synchronize(self) -> None:
        """Return when everything submitted has finished on the device."""
        ...

    def fetch(self, output: object) -> dict[str, np.ndarray[Any, Any]]:
        """What :meth:`run` returned, as float32 host arrays by output name."""
        ...

    def facts(self) -> SessionFacts:
        """The device that was granted, the precision that is in force, load and compile times."""
        ...

    def witness_begin(self) -> None:
        """Called right before the timed window, for counters that are read as differences."""
        ...

    def witness_end(self, wall_ns: int, process_cpu_ns: int, run_delay_ns: int | None) -> ExecutionWitness:
        """Called after the timed window with what the worker measured of itself; may run further
        passes (a profiled one), which are not timed. Returns what was seen of where it ran."""
        ...


@runtime_checkable
class SelfTimed(Protocol):
    """A session whose work is out of this process's reach, such as a page's in a browser: asking for a run takes as
    long as a short run does, so the loop is there and the clock with it. Everything it says is bounded by the clocks
    of the worker and of its parent."""

    def timed_run(self, slot: int) -> int:
        """One inference, finished: ns on the session's own clock."""
        ...

    def timed_window(self, *, seconds: float, min_samples: int, runs_per_sample: int) -> int:
        """The timed window: inferences on alternating slots, ``runs_per_sample`` a sample. Returns its ns."""
        ...

    def timed_samples(self) -> tuple[Sequence[int], list[object | None]]:
        """The last window's samples in ns, and the last output of each slot, for :meth:`Session.fetch`."""
        ...


@runtime_checkable
class MeasuresMemory(Protocol):
    """A backend whose devices have memory of their own, apart from the host's."""

    def free_memory_bytes(self, device: Device) -> int | None:
        """What is free on ``device`` now; None if it does not say."""
        ...


@runtime_checkable
class Converts(Protocol):
    """A backend whose library makes a graph of its own from the torch module, and holds it beside the module."""

    converts: ClassVar[bool]


@runtime_checkable
class Writes(Protocol):
    """A backend whose sessions can run a loop over tokens."""

    writes: ClassVar[bool]


class Backend(Protocol):
    """One platform. Stateless: made anew in each process, without arguments."""

    platform: ClassVar[Platform]

    def probe(self) -> Availability:
        """Find out what is there, and execute an operation on each device. Expected absence is
        returned, never raised."""
        ...

    def open(
        self, device: Device, workload: Workload, model: LoadedModel, threads: int | None
    ) -> AbstractContextManager[Session]:
        """Put ``model`` on ``device`` (and nowhere else) at the workload's precision, or fail."""
        ...

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:
        """Measure the device's peak by matrix products, independent of any model; None if it cannot."""
        ...
