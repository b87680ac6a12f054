"""What a workload module hands to a backend: a built model and its inputs.

torch and transformers are imported only inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench_mlflow.model import ModelInfo, Workload

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in host memory, in eval mode, at fp32, not yet on any device.

    ``module`` takes the named inputs as keyword arguments and returns a transformers ModelOutput;
    ``output_names`` are the tensors of it that are compared (``last_hidden_state``, ``logits``).
    ``workload`` is the request with every default resolved. ``warnings`` are sentences for the user
    and the result (random weights stood in, and why). ``attention`` is the attention implementation that
    transformers chose (``sdpa``, ``eager``).

    ``info.weights_sha256`` is empty until :func:`.build.with_digest` fills it: hashing may wait until after
    the measurement, but must see the module before anything changes its dtype in place.
    """

    module: torch.nn.Module
    workload: Workload
    info: ModelInfo
    input_spec: tuple[InputSpec, ...]
    output_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    attention: str | None = None


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One named input. ``shape`` includes the batch. ``kind``: ``token`` (integers in ``[low, high)``),
    ``ones`` (an all-ones integer mask), ``normal`` (float32 standard normal: pixels, spectrograms and waveforms are
    normalised before a network sees them) or ``constant`` (integers, ``values`` in each row).

    ``run`` of a token input is (start, count, token): in each row these places hold that token, an image's.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    low: int = 0
    high: int = 2
    run: tuple[int, int, int] | None = None
    values: tuple[int, ...] = ()
