"""Whether a model fits before it is loaded: what it needs, counted on meta tensors, and what is free.

Owns the arithmetic and the refusal. Imports neither torch nor transformers; who calls says what is free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import FailureCategory, Phase, Precision
from hwbench_mlflow.workloads.counting import BYTES_PER_ELEMENT, Counts

LIBRARY_BYTES = 512 * 2**20
"""What torch, transformers and a platform's own library hold on the host once they are at work."""

MARGIN = 0.10
"""On top of weights and activations: allocators round up and keep, and a kernel wants work space."""

GIB = 2**30

Admit = Callable[[str, Counts], None]
"""Called with a model's name and counts before anything of it is in memory; raises to keep it out."""


@dataclass(frozen=True, slots=True)
class Room:
    """What is free in bytes, on the host and on the device; ``own_memory`` says whether the device has memory of its
    own. What is unknown (None) refuses nothing: running out is then found out by running."""

    host: int | None
    device: int | None = None
    own_memory: bool = False


def weight_copies(*, precision: Precision, own_memory: bool, converted: bool) -> tuple[int, ...]:
    """Bytes a parameter of each copy of the weights that the host holds at one time.

    The fp32 one that is made or read is always there, since the digest and the reference are of it. On the host's own
    CPU a reduced precision is a second copy; a runtime that converts holds its graph and what it compiled as well.
    """
    full, reduced = BYTES_PER_ELEMENT[Precision.FP32], BYTES_PER_ELEMENT[precision]
    if converted:
        return (full, full) if own_memory else (full, full, reduced)
    return (full,) if own_memory or precision is Precision.FP32 else (full, reduced)


def kept_caches(phase: Phase, *, slots: int, converted: bool) -> int:
    """Key-value caches that are held beside the one inside the run, which is among the activations.

    A decoding keeps the prompt's cache of each staged input, and one grows while it runs. A runtime that converts keeps
    all of them apart from the one that grows, and gives what it grows to two requests in turn.
    """
    if phase is Phase.DECODE:
        return slots + 1 if converted else slots - 1
    return 1 if converted and phase is Phase.GENERATE else 0


def require_room(
    name: str, counts: Counts, *, precision: Precision, room: Room, converted: bool = False, referee: bool = False,
    caches: int = 0,
) -> None:  # fmt: skip
    """Raise :class:`BenchmarkFailed` (``model_too_large``), with needed and available bytes, if it cannot fit.

    ``counts`` are at ``precision``. The reference in fp32 is computed on the host afterwards, by a process that comes
    when the measuring one has gone: the larger of the two has to fit. ``referee`` is for that process itself.
    ``caches``: of :func:`kept_caches`. They are at the precision; those of a runtime that converts at fp32, as it takes
    and gives them. The reference has none.
    """
    size = BYTES_PER_ELEMENT[precision]
    full = BYTES_PER_ELEMENT[Precision.FP32]
    reference = (counts.parameters * full, counts.activation_bytes * full // size, 0)
    kept = caches * (counts.cache_bytes if converted else counts.cache_bytes * size // full)
    copies = weight_copies(precision=precision, own_memory=room.own_memory, converted=converted)
    here = (0, 0) if room.own_memory else (counts.activation_bytes, kept)
    measuring = (counts.parameters * sum(copies), *here)
    held = reference if referee else max(measuring, reference, key=sum)
    why = "its reference in fp32 on the host" if held is reference else f"{precision} on the host"
    _refuse(name, why, held, library=LIBRARY_BYTES, available=room.host)
    if room.own_memory:
        on_device = (counts.weight_bytes, counts.activation_bytes, kept)
        _refuse(name, f"{precision} on the device", on_device, library=0, available=room.device)


def _refuse(name: str, why: str, held: tuple[int, int, int], *, library: int, available: int | None) -> None:
    weights, activations, caches = held
    needed = int((weights + activations + caches) * (1 + MARGIN)) + library
    if available is None or needed <= available:
        return
    kept = f"{caches / GIB:.1f} of key-value caches, " if caches else ""
    extra = f", {library / GIB:.1f} of the libraries" if library else ""
    raise BenchmarkFailed(
        f"'{name}' does not fit: {why} needs {needed} bytes ({needed / GIB:.1f} GiB: {weights / GIB:.1f} of weights, "
        f"{activations / GIB:.1f} of activations, {kept}{MARGIN:.0%} margin{extra}); "
        f"{available} bytes ({available / GIB:.1f} GiB) are available",
        FailureCategory.MODEL_TOO_LARGE,
        remedy="Take a smaller model, batch or length, or a machine with more memory",
    )
