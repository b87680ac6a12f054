"""Inputs that a nonce determines, and the few output elements that are compared for them.

numpy and the standard library only: a verifier without torch draws the same inputs and positions. Uses
numpy's PCG64, whose stream numpy guarantees (NEP 19); of the methods on it only ``integers`` and
``standard_normal``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.workloads.base import InputSpec

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SAMPLE_COUNT = 64
"""Elements of an output that are compared: few enough to store, drawn after the work was committed to."""


def make_inputs(spec: Sequence[InputSpec], nonce: str, slot: int) -> dict[str, Array]:
    """One set of inputs: int64 tokens in ``[low, high)``, ones or constants, or float32 standard normals, by kind.

    The same nonce and slot give the same bytes everywhere; another slot, name or nonce gives others.
    """
    import numpy as np

    inputs: dict[str, Array] = {}
    for one in spec:
        if one.kind == "token":
            drawn = _rng(nonce, slot, one.name).integers(one.low, one.high, one.shape, dtype=np.int64)
            if one.run is not None:
                start, count, token = one.run
                drawn[:, start : start + count] = token
            inputs[one.name] = drawn
        elif one.kind == "ones":
            inputs[one.name] = np.ones(one.shape, dtype=np.int64)
        elif one.kind == "normal":
            inputs[one.name] = _rng(nonce, slot, one.name).standard_normal(one.shape, dtype=np.float32)
        elif one.kind == "constant":
            inputs[one.name] = np.broadcast_to(np.array(one.values, dtype=np.int64), one.shape).copy()
        else:
            raise ValueError(f"input '{one.name}' is of unknown kind '{one.kind}'")
    return inputs


def inputs_digest(inputs: Mapping[str, Array]) -> str:
    """SHA-256 over the arrays in name order: name, dtype, shape, bytes (little-endian)."""
    return _digest(inputs)


def pick_positions(nonce: str, slot: int, size: int, count: int = SAMPLE_COUNT) -> tuple[int, ...]:
    """``count`` distinct flat positions in ``range(size)``, sorted; all of them if ``size`` is no more."""
    if size <= count:
        return tuple(range(size))
    rng = _rng(nonce, slot, "positions")
    chosen: set[int] = set()
    while len(chosen) < count:
        chosen.update(int(i) for i in rng.integers(0, size, count - len(chosen)))
    return tuple(sorted(chosen))


def sample_output(outputs: Mapping[str, Array], nonce: str, slot: int) -> tuple[tuple[float, ...], str, int]:
    """What is kept of one inference: (elements at the nonce's positions, digest of all, number of all).

    Positions are flat ones in the concatenation of the outputs in name order, so the reference's and the
    device's are the same elements. Non-finite elements are returned as they are.
    """
    import numpy as np

    flat = [np.ascontiguousarray(outputs[name]).reshape(-1) for name in sorted(outputs)]
    total = sum(part.size for part in flat)
    if total == 0:
        raise ValueError("there are no output elements to sample")
    ends = np.cumsum([part.size for part in flat])
    elements: list[float] = []
    for position in pick_positions(nonce, slot, total):
        which = int(np.searchsorted(ends, position, side="right"))
        elements.append(float(flat[which][position - (int(ends[which]) - flat[which].size)]))
    return tuple(elements), _digest(outputs), total


def _rng(nonce: str, slot: int, name: str) -> np.random.Generator:
    import numpy as np

    seed = hashlib.sha256(f"{nonce}|{slot}|{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))


def _digest(arrays: Mapping[str, Array]) -> str:
    import numpy as np

    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
