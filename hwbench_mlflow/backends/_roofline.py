"""A device's roofline through torch: products at each precision, and streaming kernels over arrays past its caches.

One code path for every platform whose device torch can address. Owns which those are. Imports torch only inside
functions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from hwbench_mlflow.backends import _torch
from hwbench_mlflow.backends._reference import one_line
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import Device, FailureCategory, Platform, Precision
from hwbench_mlflow.roofline import Products, Stream

if TYPE_CHECKING:
    import torch

ARRAY_BYTES = 256 * 1024 * 1024
CACHES = 4
"""STREAM's rule: each array at least four times the last-level cache."""
MEMORY_SHARE = 8
"""Of free memory, no array takes more than a part this small: three are held."""
MIN_PASSES = 11
SCALE = 3.0

ON_HOST_CPU = {(Platform.CPU, "cpu"), (Platform.OPENVINO, "CPU"), (Platform.WEBNN, "cpu")}
"""Devices that are this machine's CPU under another platform's name: torch measures them all alike."""


def torch_device(device: Device) -> torch.device:
    """torch's name of a device. Raises BenchmarkFailed (``unsupported_operator``) where torch cannot address it."""
    import torch

    index = device.id.partition(":")[2]
    if (device.platform, device.id) in ON_HOST_CPU:
        return torch.device("cpu")
    if device.platform in {Platform.CUDA, Platform.ROCM} and index.isdecimal():
        return torch.device("cuda", int(index))  # ROCm's devices have CUDA's name in torch
    if device.platform is Platform.MPS:
        return torch.device("mps")
    raise BenchmarkFailed(
        f"torch cannot address {device.platform}:{device.id}, so its roofline cannot be measured",
        FailureCategory.UNSUPPORTED_OPERATOR,
        remedy="Platforms with a roofline: cpu, cuda, rocm, mps, and openvino's CPU",
    )


def plain_fp32_knobs(where: torch.device) -> _torch.PrecisionKnobs:
    """What must be off for fp32 to be fp32 there."""
    from hwbench_mlflow.backends import _torch_cuda
    from hwbench_mlflow.backends.cpu import cpu_knobs

    if where.type == "cuda":
        return _torch_cuda.tf32_knobs()
    return cpu_knobs() if where.type == "cpu" else {}


def cache_bytes(where: torch.device) -> int | None:
    """The last-level cache that this machine or GPU tells of; None where it does not."""
    import torch

    if where.type == "cuda":
        size = getattr(torch.cuda.get_device_properties(where), "L2_cache_size", None)
        return int(size) if size else None
    if where.type != "cpu" or "SC_LEVEL3_CACHE_SIZE" not in os.sysconf_names:
        return None
    size = os.sysconf("SC_LEVEL3_CACHE_SIZE")
    return size if size > 0 else None


def measure_products(
    where: torch.device, precisions: Sequence[Precision], seconds: float
) -> tuple[tuple[Products, ...], Mapping[str, str]]:
    """Raw timings at each precision, and why a precision has none. fp32 must be possible."""
    found, skipped = [], {}
    for precision in precisions:
        try:
            with _torch.plain_fp32(plain_fp32_knobs(where)):
                timed = _torch.timed_products(where, _torch.torch_dtype(precision), seconds)
        except (BenchmarkFailed, RuntimeError) as error:  # a RuntimeError of torch's that has no other meaning here
            lacking = not isinstance(error, BenchmarkFailed) or error.category is FailureCategory.UNSUPPORTED_OPERATOR
            if precision is Precision.FP32 or not lacking:
                raise
            skipped[precision.value] = one_line(error)
            continue
        found.append(
            Products(
                precision=precision,
                dims=tuple(dim for dim, _ in timed),
                took_ns=tuple(took for _, took in timed),
            )
        )
    return tuple(found), skipped


def array_bytes(cache: int | None, free: int) -> int:
    """The size of one array: past the caches, and no more than a part of the free memory."""
    wanted = max(ARRAY_BYTES, CACHES * cache if cache is not None else 0)
    return min(wanted, free // MEMORY_SHARE) // 4 * 4


def measure_streams(where: torch.device, cache: int | None, seconds: float) -> tuple[Stream, ...]:
    """Raw timings of a copy and of a triad in fp32, each for about ``seconds`` and at least ``MIN_PASSES`` times."""
    import torch

    size = array_bytes(cache, free_bytes(where))
    with _torch.torch_errors(), torch.inference_mode():
        a, b, c = (torch.full((size // 4,), value, dtype=torch.float32, device=where) for value in (0.0, 1.0, 2.0))

        def copy() -> None:
            a.copy_(b)

        def triad() -> None:
            torch.add(b, c, alpha=SCALE, out=a)

        kernels: Mapping[str, Callable[[], None]] = {"copy": copy, "triad": triad}
        expected = {"copy": 1.0, "triad": 1.0 + SCALE * 2.0}
        streams = []
        for name, kernel in kernels.items():
            kernel()  # the first pass touches the pages
            _torch.synchronize_device(where)
            took: list[int] = []
            deadline = time.perf_counter_ns() + int(seconds * 1e9)
            while len(took) < MIN_PASSES or time.perf_counter_ns() < deadline:
                begin = time.perf_counter_ns()
                kernel()
                _torch.synchronize_device(where)
                took.append(time.perf_counter_ns() - begin)
            if float(a[-1].item()) != expected[name] or float(a[0].item()) != expected[name]:
                raise BenchmarkFailed(f"the {name} over {size} bytes gave a wrong result", FailureCategory.WRONG_OUTPUT)
            streams.append(Stream(kernel=name, array_bytes=size, took_ns=tuple(took)))
    return tuple(streams)


def free_bytes(where: torch.device) -> int:
    """Memory that is free where the arrays will be."""
    import psutil
    import torch

    if where.type == "cuda":
        return int(torch.cuda.mem_get_info(where)[0])
    return int(psutil.virtual_memory().available)
