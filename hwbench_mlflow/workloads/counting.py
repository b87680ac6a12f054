"""What a model must compute and move, counted from its architecture on meta tensors: never from a run.

Owns FLOP, parameter and byte counts. torch is imported only inside functions.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import FailureCategory, Precision
from hwbench_mlflow.workloads.base import InputSpec
from hwbench_mlflow.workloads.generation import read_once

if TYPE_CHECKING:
    import torch

BYTES_PER_ELEMENT = {Precision.FP32: 4, Precision.BF16: 2, Precision.FP16: 2, Precision.INT8: 1}
_TOKEN_BYTES = 8  # int64

_CHECK = "torch_compilable_check"

# Tried in this order when a model's outputs are not known beforehand.
_MAIN_OUTPUTS = (("logits",), ("start_logits", "end_logits"), ("last_hidden_state",))


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one batch. ``flops``: a multiply-add is 2, matrix products and convolutions only
    (``torch.utils.flop_counter``). ``parameters``: tied ones once. ``min_bytes``: a lower bound of memory
    traffic: weights once, except tables that are only looked up (a batch reads few of their rows, at
    least none), plus inputs and outputs. ``outputs``: name and shape of each tensor that is compared.
    ``activation_bytes``: the most that intermediate results hold at one time, at the precision, beside the weights;
    without a library's own work space. Scores of attention that a fused kernel never stores are counted.
    ``operators``: those that make a tensor of their own (views make none); each is launched once. ``cache_bytes``: of
    one prompt's key-value cache when all tokens are written, at fp32; a run that makes one has it among its
    activations, what is kept between runs has not."""

    parameters: int
    flops: int
    weight_bytes: int
    min_bytes: int
    outputs: dict[str, tuple[int, ...]]
    activation_bytes: int
    operators: int
    cache_bytes: int = 0


def count(
    module: torch.nn.Module,
    input_spec: Sequence[InputSpec],
    output_names: Sequence[str],
    precision: Precision,
    *,
    passes: int = 1,
) -> Counts:
    """Count ``module``, whose parameters are on the meta device; nothing is computed and no memory is taken.

    ``passes``: how often the weights are read in one run, except those of parts that run once.

    Raises :class:`BenchmarkFailed` (``unsupported_operator``) if the model cannot run on meta tensors.
    """
    flops, fields, live, operators, cache = _pass(module, input_spec)
    names = tuple(output_names) or _main_outputs(fields)
    missing = [name for name in names if name not in fields]
    if missing or not names:
        raise BenchmarkFailed(
            f"{type(module).__name__} returns {sorted(fields)}, not {list(missing)}",
            FailureCategory.UNSUPPORTED_OPERATOR,
        )
    outputs = {name: tuple(fields[name].shape) for name in names}
    size = BYTES_PER_ELEMENT[precision]
    parameters = {id(p): p.numel() for p in module.parameters()}
    looked_up = _lookup_only(module)
    once = {id(p) for name, p in module.named_parameters() if read_once(name)}
    read = sum(n * (1 if key in once else passes) for key, n in parameters.items() if key not in looked_up)
    moved = sum(_elements(s.shape) * (size if s.kind == "normal" else _TOKEN_BYTES) for s in input_spec)
    moved += sum(_elements(shape) * size for shape in outputs.values())
    total = sum(parameters.values())
    # The pass is in fp32.
    return Counts(total, flops, total * size, read * size + moved, outputs, live * size // 4, operators, cache)


def _elements(shape: Sequence[int]) -> int:
    product = 1
    for n in shape:
        product *= n
    return product


def _lookup_only(module: torch.nn.Module) -> set[int]:
    """Parameters that only embedding lookups use; a table tied to an output head is not one of them."""
    from torch import nn

    tables: set[int] = set()
    others: set[int] = set()
    for part in module.modules():
        mine = {id(p) for p in part.parameters(recurse=False)}
        (tables if isinstance(part, nn.Embedding) else others).update(mine)
    return tables - others


def _pass(module: torch.nn.Module, input_spec: Sequence[InputSpec]) -> tuple[int, dict[str, Any], int, int, int]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    inputs = _meta_inputs(input_spec)
    # Not inference mode, whose tensors a dispatch mode sees less of.
    prepare = getattr(module, "prepare", None)
    before = cache = 0
    if prepare is not None:
        with torch.no_grad(), _unasked(module):
            with _live_bytes() as reading:
                prepare(**inputs)
            before = reading.peak  # a decoding's prompt is read with it, and takes more than a token
            cache = getattr(module, "cache_bytes")(**inputs)  # noqa: B009  # a Writer, as prepare says
    with torch.no_grad(), _unasked(module), _live_bytes() as live, FlopCounterMode(display=False) as counter:
        try:
            output = module(**inputs)
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BenchmarkFailed(
                f"{type(module).__name__} cannot be counted on meta tensors: {reason}",
                FailureCategory.UNSUPPORTED_OPERATOR,
            ) from error
    fields = {n: v for n, v in output.items() if isinstance(v, torch.Tensor) and v.dtype.is_floating_point}
    return int(counter.get_total_flops()), fields, max(live.peak, before), live.operators, cache


def _live_bytes() -> Any:
    """A mode that follows what is alive among the results of operations: ``peak`` is the most, in bytes. It counts the
    ``operators`` that make a tensor of their own, too."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch ships no types here
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.now = self.peak = self.operators = 0
            self._holders: dict[int, int] = {}

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            given = {leaf.untyped_storage()._cdata for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)}
            tensors = [leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
            fresh = any(leaf.untyped_storage()._cdata not in given for leaf in tensors)
            self.operators += fresh and func.namespace == "aten"
            for leaf in tensors:
                storage = leaf.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key in given and key not in self._holders:
                    continue  # a view of a weight or of an input
                self._holders[key] = self._holders.get(key, 0) + 1
                if self._holders[key] == 1:
                    self.now += size
                    self.peak = max(self.peak, self.now)
                weakref.finalize(leaf, self._gone, key, size)
            return made

        def _gone(self, key: int, size: int) -> None:
            self._holders[key] -= 1
            if not self._holders[key]:
                del self._holders[key]
                self.now -= size

    return Live()


def _meta_inputs(input_spec: Sequence[InputSpec]) -> dict[str, torch.Tensor]:
    """Inputs without data. An all-ones mask is left out: transformers looks into one (is it all ones?), which meta
    tensors cannot answer, and without it computes the same. Constants are sizes that a model reads: they are real."""
    import torch

    inputs: dict[str, torch.Tensor] = {}
    for spec in input_spec:
        if spec.kind == "constant":
            values = torch.tensor(spec.values, dtype=torch.int64).expand(spec.shape)
            inputs[spec.name] = values if spec.name.endswith("_sizes") else values.to("meta")
        elif spec.kind != "ones":
            dtype = torch.int64 if spec.kind == "token" else torch.float32
            inputs[spec.name] = torch.zeros(spec.shape, dtype=dtype, device="meta")
    return inputs


@contextlib.contextmanager
def _unasked(module: torch.nn.Module) -> Iterator[None]:
    """Without transformers' questions about data, which meta tensors cannot answer and inputs are made to satisfy: is
    a mask all ones, are sequences packed, has a prompt as many places as its image has features. As when tracing."""
    from transformers import masking_utils, modeling_utils

    homes = [sys.modules[type(part).__module__] for part in module.modules()]
    replaced: list[tuple[Any, str, Any]] = [
        (masking_utils, "is_tracing", lambda *_: True),
        (modeling_utils.PreTrainedModel, "warn_if_padding_and_no_attention_mask", lambda *_: None),
        *((home, _CHECK, lambda *_: None) for home in dict.fromkeys(homes) if _CHECK in vars(home)),
    ]
    before = [(holder, name, getattr(holder, name)) for holder, name, _ in replaced]
    for holder, name, value in replaced:
        setattr(holder, name, value)
    try:
        yield
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)


def _main_outputs(fields: dict[str, Any]) -> tuple[str, ...]:
    for names in _MAIN_OUTPUTS:
        if all(name in fields for name in names):
            return names
    return tuple(fields)
