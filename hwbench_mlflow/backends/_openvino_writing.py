"""Models that write, on OpenVINO: one graph that reads tokens behind a key-value cache, and the loop over it.

Owns the conversion with an explicit cache (keys and values of each layer are inputs and outputs) and the session whose
run is a prefill, a decoding or a generation, as :mod:`hwbench_mlflow.workloads.generation` defines them for torch. The
prompt is the same graph behind an empty cache. Text decoders alone: an encoder would be a second graph. Imports
openvino, torch and transformers only inside functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.backends._reference import check_slots, sized_spec
from hwbench_mlflow.backends.openvino import OpenvinoSession, converted, translate
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import FailureCategory, Phase, Workload
from hwbench_mlflow.workloads.generation import LOGITS, raw
from hwbench_mlflow.workloads.inputs import FORCED

if TYPE_CHECKING:
    import torch

    from hwbench_mlflow.backends._reference import Array
    from hwbench_mlflow.workloads.base import LoadedModel

EXAMPLE_TOKENS, EXAMPLE_CACHED = 3, 5
"""What the graph is traced with: sizes that differ from each other and from 1, so that neither becomes a constant."""


def convert_writer(model: LoadedModel, workload: Workload) -> Any:
    """The graph: token ids (batch, any), then keys and values of each layer (batch, heads, any, width), to the logits
    of the last token and the longer keys and values. Raises BenchmarkFailed (``unsupported_operator``) for a model that
    is no text decoder, or whose cache does not keep everything."""
    import torch

    prompt = [item.name for item in model.input_spec if item.name != FORCED]
    if prompt != ["input_ids"]:
        raise BenchmarkFailed(
            f"on openvino, {workload.phase} is for models that read text alone; {workload.model} reads "
            f"{', '.join(prompt)}",
            FailureCategory.UNSUPPORTED_OPERATOR,
            remedy="Use --phase forward, or --hardware cpu",
        )
    module = raw(model.module)
    ids = torch.zeros((workload.batch_size, EXAMPLE_TOKENS), dtype=torch.int64)
    with torch.no_grad():
        layers = module(input_ids=ids, use_cache=True).past_key_values.layers
    if any(type(layer).__name__ != "DynamicLayer" for layer in layers):
        raise BenchmarkFailed(
            f"on openvino, {workload.phase} needs a cache that keeps every token, which {workload.model} has not",
            FailureCategory.UNSUPPORTED_OPERATOR,
        )
    shapes = [tuple(tensor.shape) for layer in layers for tensor in (layer.keys, layer.values)]
    past = [torch.randn(batch, heads, EXAMPLE_CACHED, width) for batch, heads, _, width in shapes]
    dynamic = [[batch, heads, -1, width] for batch, heads, _, width in shapes]
    return converted(_cached(module), (ids, *past), [[workload.batch_size, -1], *dynamic])


def _cached(module: torch.nn.Module) -> Any:
    """The model with its cache as flat tensors, as the tracer wants it."""
    import torch
    from transformers import DynamicCache

    model: Any = module

    class Cached(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, input_ids: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
            cache: Any = DynamicCache(config=model.config)
            for layer, keys, values in zip(cache.layers, past[::2], past[1::2], strict=True):
                # Not `update`: on a layer that was not used it concatenates with an empty tensor, and the converter
                # refuses that.
                layer.keys, layer.values, layer.is_initialized = keys, values, True
                layer.dtype, layer.device = keys.dtype, keys.device
            output = self.module(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            kept = [tensor for layer in output.past_key_values.layers for tensor in (layer.keys, layer.values)]
            return (output.logits[:, -1], *kept)

    return Cached().eval()


class Written:
    """The logits of each step, and for each token ns from the one before it."""

    __slots__ = ("steps", "token_ns")

    def __init__(self, steps: list[Array], token_ns: tuple[int, ...]) -> None:
        self.steps = steps
        self.token_ns = token_ns


class WriterSession(OpenvinoSession):
    """A compiled graph with a cache. What one request gives is what the next one takes, without a copy: two requests
    take turns, so that none writes over what it reads."""

    def __init__(self, core: Any, graph: Any, *, workload: Workload, model: LoadedModel, **others: Any) -> None:
        super().__init__(core, graph, workload=workload, model=model, **others)
        self._phase = workload.phase
        self._cached = workload.kv_cache is not False
        self._spec = sized_spec(model.input_spec, workload.batch_size)
        self._pair: list[Any] = []
        self._empty: list[Any] = []
        self._prompts: list[Any] = []
        self._forced: list[Any] = []
        self._prefixes: list[list[Any]] = []

    def stage(self, slots: Sequence[Mapping[str, Array]]) -> None:
        """Keep the prompts and the tokens that will be fed; of a decoding, also each prompt's cache."""
        import numpy as np
        import openvino as ov

        check_slots(self._spec, slots)
        shapes = [port.partial_shape for port in self._compiled.inputs[1:]]
        self._empty = [
            ov.Tensor(np.zeros((shape[0].get_length(), shape[1].get_length(), 0, shape[3].get_length()), np.float32))
            for shape in shapes
        ]
        self._pair = [self._compiled.create_infer_request() for _ in range(2)]
        self._prompts = [np.ascontiguousarray(slot["input_ids"], np.int64) for slot in slots]
        self._forced = [np.ascontiguousarray(slot[FORCED], np.int64) if FORCED in slot else None for slot in slots]
        self._inputs = [[ov.Tensor(prompt), *self._empty] for prompt in self._prompts]  # what the witness runs
        self._prefixes = []
        if self._phase is Phase.DECODE:
            for prompt in self._prompts:
                _, cache = self._step(0, prompt, self._empty)
                self._prefixes.append([ov.Tensor(np.array(tensor.data)) for tensor in cache])

    def _step(self, turn: int, ids: Any, cache: Sequence[Any]) -> tuple[Any, list[Any]]:
        """The logits after ``ids``, whose buffer the step after next overwrites, and the cache, longer by them."""
        import openvino as ov

        request = self._pair[turn % 2]
        request.set_input_tensor(0, ov.Tensor(ids))
        for index, tensor in enumerate(cache, 1):
            request.set_input_tensor(index, tensor)
        request.infer(share_outputs=True)
        grown = [request.get_output_tensor(index) for index in range(1, len(cache) + 1)]
        return request.get_output_tensor(0).data, grown

    def run(self, slot: int) -> object:
        """One prefill, decoding or generation."""
        if not self._open:
            raise BenchmarkFailed("the session is closed", FailureCategory.USAGE)
        try:
            return self._write(slot)
        except RuntimeError as error:
            raise translate(error, "openvino failed to run") from error

    def _write(self, slot: int) -> Written:
        import numpy as np

        prompt, forced = self._prompts[slot], self._forced[slot]
        steps: list[Array] = []
        stamps = [perf_counter_ns()]

        def arrive(logits: Array) -> None:
            logits.argmax(axis=-1)  # the token is chosen, on the host
            stamps.append(perf_counter_ns())
            steps.append(np.array(logits))

        if self._phase is Phase.DECODE:
            cache, count = self._prefixes[slot], forced.shape[1]
        else:
            logits, cache = self._step(0, prompt, self._empty)
            arrive(logits)
            count = forced.shape[1] - 1 if self._phase is Phase.GENERATE else 0
        for step in range(count):
            if self._cached:
                logits, cache = self._step(step + 1, np.ascontiguousarray(forced[:, step : step + 1]), cache)
            else:
                logits, _ = self._step(step + 1, np.concatenate((prompt, forced[:, : step + 1]), axis=1), self._empty)
            arrive(logits)
        token_ns = tuple(b - a for a, b in itertools.pairwise(stamps)) if self._phase is not Phase.PREFILL else ()
        return Written(steps, token_ns)

    def fetch(self, output: object) -> dict[str, Array]:
        """The logits (batch, step, vocabulary)."""
        import numpy as np

        if not isinstance(output, Written):
            raise TypeError("fetch takes what run returned")
        return {LOGITS: np.stack(output.steps, axis=1).astype(np.float32)}

    def close(self) -> None:
        """A later run fails."""
        super().close()
        self._pair, self._empty, self._prompts, self._forced, self._prefixes = [], [], [], [], []
