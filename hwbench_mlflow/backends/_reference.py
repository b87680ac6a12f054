"""What a backend's own checks are compared with, and the checks of what it is given.

Owns the pure-Python reference of the probe's operation, the shape checks of staged inputs and the
example inputs that a compiler is warmed with. Imports numpy only inside functions, no vendor SDK.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.errors import HardwareUnavailable, UsageError
from hwbench_mlflow.model import Availability, AvailabilityStatus, Device, DeviceCheck, Platform

if TYPE_CHECKING:
    import numpy as np

    from hwbench_mlflow.workloads.base import InputSpec

    Array = np.ndarray[Any, Any]

CHECK_DIM = 32
CHECK_OPERATION = f"matmul int-valued fp32 {CHECK_DIM}x{CHECK_DIM}"
_CHECK_SEED = 20_260
# |values| <= 8, so every partial sum is an integer below 32 * 64 = 2048: exact in fp32, in TF32's and
# fp16's products, and in the float64 of the reference. The tolerance is therefore zero.
_CHECK_RANGE = 8
CHECK_TOLERANCE = 0.0

Matrix = list[list[float]]


def check_matrices() -> tuple[Matrix, Matrix, Matrix]:
    """``a``, ``b`` and ``a @ b`` (float64, pure Python), the same in every process."""
    draw = random.Random(_CHECK_SEED)  # noqa: S311  (a fixed test pattern, no secret)
    a, b = (
        [[float(draw.randint(-_CHECK_RANGE, _CHECK_RANGE)) for _ in range(CHECK_DIM)] for _ in range(CHECK_DIM)]
        for _ in range(2)
    )
    columns = list(zip(*b, strict=True))
    product = [[sum(x * y for x, y in zip(row, column, strict=True)) for column in columns] for row in a]
    return a, b, product


def judge_product(
    device_id: str,
    observed: Sequence[Sequence[float]],
    reference: Matrix,
    *,
    identity: str,
    enumerated: str,
    tolerance: float = CHECK_TOLERANCE,
) -> DeviceCheck:
    """A check's result. ``identity`` is what the device said after the product, ``enumerated`` before."""
    shapes_agree = [len(row) for row in observed] == [len(row) for row in reference]
    errors = (
        [abs(o - r) for seen, row in zip(observed, reference, strict=True) for o, r in zip(seen, row, strict=True)]
        if shapes_agree
        else []
    )
    # max() passes over a NaN that is not first, and JSON has no infinity: no finite error, no number.
    error = max(errors) if errors and all(math.isfinite(e) for e in errors) else None
    right = error is not None and error <= tolerance
    same = identity == enumerated
    if not right:
        reason = "the product is wrong" if shapes_agree else "the product has the wrong shape"
    elif not same:
        reason = f"the device enumerated as {enumerated} answered as {identity}"
    else:
        near = "equal to" if tolerance == 0 else f"within {tolerance:g} of"
        reason = f"executed, {near} the reference, identity read back"
    return DeviceCheck(
        device_id=device_id,
        operation=CHECK_OPERATION,
        passed=right and same,
        reason=reason,
        max_abs_error=error,
        tolerance=tolerance,
        identity=identity,
    )


def failed_check(device_id: str, reason: str) -> DeviceCheck:
    """A check that could not be carried out."""
    return DeviceCheck(device_id=device_id, operation=CHECK_OPERATION, passed=False, reason=reason)


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """A vendor's message as one line; the last lines of theirs say the most, so those are kept."""
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, str) else type(error).__name__
    if not text:
        return kind
    return text if len(text) <= limit else f"...{text[-limit:]}"


def refuse(device: Device, platform: Platform, known: Sequence[str]) -> HardwareUnavailable:
    """The error for a device that this backend did not enumerate."""
    listed = ", ".join(known) or "none"
    reason = f"{device.platform}:{device.id} is not a device of platform {platform} (there: {listed})"
    absent = Availability(platform=platform, status=AvailabilityStatus.NO_DEVICE, reason=reason)
    return HardwareUnavailable(reason, absent, remedy="`hwbench devices` lists what is there")


def sized_spec(spec: Sequence[InputSpec], batch_size: int) -> tuple[InputSpec, ...]:
    """The same inputs at another batch size; the batch is every input's first dimension."""
    return tuple(dataclasses.replace(item, shape=(batch_size, *item.shape[1:])) for item in spec)


def check_slots(spec: Sequence[InputSpec], slots: Sequence[Mapping[str, Array]]) -> None:
    """Refuse inputs that are not the workload's: a batch cut short would be timed as a whole one."""
    expected = {item.name: item.shape for item in spec}
    for index, slot in enumerate(slots):
        given = {name: tuple(array.shape) for name, array in slot.items()}
        if given != expected:
            raise UsageError(f"input set {index} has shapes {given}, the workload needs {expected}")


def example_arrays(spec: Sequence[InputSpec], seed: int = 0) -> dict[str, Array]:
    """Inputs of the workload's shapes, for compilers that trace or specialise; never measured."""
    from hwbench_mlflow.workloads.challenge import make_inputs

    try:
        return make_inputs(spec, f"example {seed}", 0)
    except ValueError as error:
        raise UsageError(str(error)) from error
