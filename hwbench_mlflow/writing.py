"""The timed window of a model that writes, and who can run one.

Owns the loop whose samples are whole generations with a time stamp for each token. Part of the worker; imports no SDK.
"""

from __future__ import annotations

from array import array
from time import perf_counter_ns
from typing import TYPE_CHECKING

from hwbench_mlflow import protocol
from hwbench_mlflow.backends.base import Writes
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import FailureCategory, Phase, Workload

if TYPE_CHECKING:
    from hwbench_mlflow.backends.base import Backend, Session


def require_writer(backend: Backend, workload: Workload) -> None:
    """Raise :class:`BenchmarkFailed` (``unsupported_operator``) where the platform runs graphs of one pass only."""
    if workload.phase is Phase.FORWARD or (isinstance(backend, Writes) and backend.writes):
        return
    raise BenchmarkFailed(
        f"{backend.platform} runs one forward pass; {workload.phase} needs a loop that keeps a key-value cache, which "
        "hwbench has for torch and openvino only",
        FailureCategory.UNSUPPORTED_OPERATOR,
        remedy="Use --phase forward, or --hardware cpu, openvino, cuda, rocm or mps",
    )


def timed_generations(
    session: Session, opening: protocol.Open, outputs: list[object | None]
) -> tuple[array[int], int, array[int]]:
    """One generation a sample: (ns of each sample, of the window, of each token). The tokens' times are read from what
    a run returns, outside the timed span."""
    run, synchronize, clock, slots = session.run, session.synchronize, perf_counter_ns, opening.slots
    samples, tokens = array("q"), array("q")
    slot = 0
    begin = clock()
    deadline = begin + int(opening.seconds * 1e9)
    left = max(opening.min_samples, slots)
    while True:
        start = clock()
        output = run(slot)
        synchronize()
        stop = clock()
        samples.append(stop - start)
        tokens.extend(output.token_ns)  # type: ignore[attr-defined]  # workloads.generation.Steps
        outputs[slot] = output
        slot = slot + 1 if slot + 1 < slots else 0
        left -= 1
        if left <= 0 and stop >= deadline:
            return samples, clock() - begin, tokens
