"""A torch session on a device that torch calls ``cuda``: NVIDIA's, or AMD's under ROCm.

Owns what both have: events on the work's stream, the profiled pass, the allocator's peak. The
vendor's identity, energy and process list come from the platform's own file. Imports torch only
inside functions.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.backends import _torch
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import Device, ExecutionWitness, FailureCategory

if TYPE_CHECKING:
    import torch

PROFILED_RUNS = 3
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO of Linux's include/linux/proc_ns.h: the host's own pid namespace."""


class CudaLikeSession(_torch.TorchSession):
    """Adds the device's synchronisation and witness to the shared session."""

    _started: torch.cuda.Event | None = None
    _energy_mj: int | None = None

    def synchronize(self) -> None:
        """Wait for the device; an error of an asynchronous kernel surfaces here."""
        import torch

        with _torch.torch_errors():
            torch.cuda.synchronize(self._torch_device)

    def granted_device(self) -> Device:
        """Where the parameters are, and the UUID that the runtime gives for that device now."""
        device = super().granted_device()
        found = self.read_identity()
        if device.uuid is not None and found != device.uuid:
            raise BenchmarkFailed(
                f"{device.id} was probed as {device.uuid} and is now {found}", FailureCategory.FALLBACK_DETECTED
            )
        return device

    def read_identity(self) -> str | None:
        """The identity of the device in use, in the words of :attr:`Device.uuid`."""
        raise NotImplementedError

    def read_energy_mj(self) -> int | None:
        """The device's energy counter in mJ; None if it has none."""
        return None

    def read_utilization(self) -> float | None:
        """Share of the last sampling period in which a kernel ran, 0..1; None if unknown."""
        return None

    def read_processes(self) -> tuple[int, ...] | None:
        """Process ids that the driver lists on this device; None if it does not say."""
        return None

    def witness_begin(self) -> None:
        """Start an event on the stream and read the energy counter."""
        import torch

        self._started = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch ships no types here
        self._energy_mj = self.read_energy_mj()
        self._started.record(torch.cuda.current_stream(self._torch_device))

    def witness_end(self, wall_ns: int, process_cpu_ns: int, run_delay_ns: int | None) -> ExecutionWitness:
        """Events and counters over the window, then a profiled pass that is not timed.

        The events bracket the worker's window from outside, so ``event_window_ns`` exceeds the
        window by what recording them and reading the counter cost (well under a millisecond).
        """
        import torch

        if self._started is None:
            raise BenchmarkFailed("witness_end without witness_begin", FailureCategory.USAGE)
        ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch ships no types here
        ended.record(torch.cuda.current_stream(self._torch_device))
        ended.synchronize()
        event_window_ns = int(self._started.elapsed_time(ended) * 1e6)
        energy_mj = self.read_energy_mj()
        utilization = self.read_utilization()
        present, note = pid_present(os.getpid(), self.read_processes())
        kernels, pass_wall_ns = self._profiled_kernels()
        names = Counter(name for name, _ in kernels)
        return ExecutionWitness(
            wall_ns=wall_ns,
            process_cpu_ns=process_cpu_ns,
            run_delay_ns=run_delay_ns,
            threads=torch.get_num_threads(),
            kernel_count=len(kernels),
            kernel_busy_ns=sum(took for _, took in kernels),
            kernel_wall_ns=pass_wall_ns,
            kernel_names=tuple(name[:200] for name, _ in names.most_common(8)),
            event_window_ns=event_window_ns,
            pid_on_device=present,
            energy_j=None if energy_mj is None or self._energy_mj is None else (energy_mj - self._energy_mj) / 1000,
            utilization_max=utilization,
            device_identity=self.read_identity(),
            device_memory_peak_bytes=int(torch.cuda.max_memory_allocated(self._torch_device)),
            execution_devices=tuple(sorted(str(d) for d in _torch.parameter_devices(self._module))),
            properties=self.properties | {"pid_on_device": note, "profiled_runs": str(PROFILED_RUNS)},
        )

    def _profiled_kernels(self) -> tuple[list[tuple[str, int]], int]:
        """Name and ns of each kernel of a few inferences, and the wall time around them.

        Copies are no kernels: a device that only receives data has computed nothing.
        """
        from torch._C._autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        if not self._staged:
            raise BenchmarkFailed("nothing is staged to witness", FailureCategory.USAGE)
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            begin = time.perf_counter_ns()
            for index in range(PROFILED_RUNS):
                self.run(index % len(self._staged))
            self.synchronize()
            pass_wall_ns = time.perf_counter_ns() - begin
        return kernels_of(profiled.events() or [], DeviceType.CUDA), pass_wall_ns


def kernels_of(events: Any, on_device: object) -> list[tuple[str, int]]:
    """Kernels among a profile's events: on the device, and neither a copy nor a fill."""
    return [
        (event.name, int(event.device_time_total * 1000))
        for event in events
        if event.device_type == on_device and not event.name.startswith(("Memcpy", "Memset"))
    ]


def pid_present(pid: int, listed: tuple[int, ...] | None) -> tuple[bool | None, str]:
    """Whether ``pid`` is among the driver's processes, and how far that can be known.

    Drivers list host process ids; in a container's pid namespace ours is another number, so its
    absence from the list means nothing there.
    """
    if listed is None:
        return None, "the driver lists no processes"
    if pid in listed:
        return True, "listed by the driver"
    if not in_initial_pid_namespace():
        return None, f"{len(listed)} processes listed, in another pid namespace than this one"
    return False, f"{len(listed)} processes listed, not this one"


def in_initial_pid_namespace() -> bool:
    """Whether process ids here are the host's. False where that is unknown."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == _INITIAL_PID_NAMESPACE
    except OSError:
        return False


def pci_address(properties: Any) -> str | None:
    """``domain:bus:device.function`` of torch's device properties; None before torch had them."""
    numbers = [getattr(properties, name, None) for name in ("pci_domain_id", "pci_bus_id", "pci_device_id")]
    if any(number is None for number in numbers):
        return None
    domain, bus, device = (int(number) for number in numbers if number is not None)
    return f"{domain:08x}:{bus:02x}:{device:02x}.0"


def tf32_knobs() -> _torch.PrecisionKnobs:
    """What lets cuBLAS and cuDNN (hipBLAS, MIOpen) compute fp32 in less."""
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(cudnn, "conv"):  # torch >= 2.9; mixing these with allow_tf32 raises
        return {
            "cuda.matmul.fp32_precision": (matmul, "fp32_precision", "ieee"),
            "cudnn.conv.fp32_precision": (cudnn.conv, "fp32_precision", "ieee"),
            "cudnn.rnn.fp32_precision": (cudnn.rnn, "fp32_precision", "ieee"),
        }
    return {
        "cuda.matmul.allow_tf32": (matmul, "allow_tf32", False),
        "cudnn.allow_tf32": (cudnn, "allow_tf32", False),
    }


def free_memory_bytes(torch_device: torch.device) -> int:
    """What the driver says is free on the device: other processes' memory is not."""
    import torch

    free, _ = torch.cuda.mem_get_info(torch_device)
    return int(free)
