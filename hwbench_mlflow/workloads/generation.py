"""Models that write: prefill, decode and whole generations as modules that run like any other.

Owns the loop over tokens and the teacher-forced pass that it is compared with. torch is imported only inside functions.

The decoding is greedy, of a fixed length, and no token ends it. At each step the most likely token is chosen and its id
brought to the host, as for whoever reads along: a token counts from then. What is fed next, though, is the
challenge's token (``forced_ids``, drawn from the nonce), not the chosen one: every device then walks the same path, so
the logits of each step can be compared with those of one fp32 pass over that path, and two tokens that are equally
likely cannot make an honest device look wrong. The time is the same: what a dense model computes does not depend on
which token it reads.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Mapping
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from hwbench_mlflow.model import Phase, Workload
from hwbench_mlflow.workloads.inputs import FORCED

if TYPE_CHECKING:
    import torch

LOGITS = "logits"


@runtime_checkable
class Steps(Protocol):
    """What a run of one of these modules returns, beside being a mapping with ``logits`` (batch, step, vocabulary)."""

    token_ns: tuple[int, ...]
    """For each token written, ns from the one before it; the first from the beginning of the run."""


class _Written(Mapping[str, Any]):
    """Logits of each step, put together only when somebody asks: not while the clock is running."""

    def __init__(self, steps: list[Any], token_ns: tuple[int, ...]) -> None:
        self._steps = steps
        self.token_ns = token_ns

    def __getitem__(self, key: str) -> Any:
        import torch

        if key != LOGITS:
            raise KeyError(key)
        return torch.stack(self._steps, dim=1)

    def __iter__(self) -> Iterator[str]:
        return iter((LOGITS,))

    def __len__(self) -> int:
        return 1


def writer(module: torch.nn.Module, workload: Workload) -> torch.nn.Module:
    """``module`` so that one call of it is what ``workload.phase`` names; itself for a forward pass."""
    if workload.phase is Phase.FORWARD:
        return module
    made: torch.nn.Module = _writer_class()(module, workload.phase, cached=workload.kv_cache is not False)
    return made.eval()


def teacher_forced(module: torch.nn.Module, workload: Workload) -> torch.nn.Module:
    """What :func:`writer`'s outputs are compared with: the same logits from one pass without a cache."""
    if workload.phase is Phase.FORWARD:
        return module
    made: torch.nn.Module = _forced_class()(raw(module), workload.phase)
    return made.eval()


def raw(module: torch.nn.Module) -> torch.nn.Module:
    """The model itself."""
    inner: torch.nn.Module | None = getattr(module, "model_that_writes", None)
    return module if inner is None else inner


def weight_passes(workload: Workload) -> int:
    """How often the weights of the part that writes are read in one run."""
    if workload.phase in (Phase.FORWARD, Phase.PREFILL):
        return 1
    assert workload.output_tokens is not None
    return workload.output_tokens


def read_once(name: str) -> bool:
    """Whether a parameter of that name belongs to a part that runs once, however many tokens are written."""
    return any(part in f".{name}" for part in (".encoder.", ".vision_tower.", ".multi_modal_projector."))


def _writer_class() -> Any:
    import torch

    class Writer(torch.nn.Module):
        """The loop over tokens."""

        def __init__(self, module: torch.nn.Module, phase: Phase, *, cached: bool) -> None:
            super().__init__()
            self.model_that_writes = module
            self._phase = phase
            self._cached = cached
            self._prefixes: dict[int, tuple[weakref.ref[Any], Any]] = {}

        def forward(self, **inputs: Any) -> _Written:
            forced = inputs.pop(FORCED, None)
            if self._phase is Phase.DECODE:
                return self._decode(inputs, forced)
            begin = perf_counter_ns()
            state, logits = self._read(inputs)
            steps, stamps = [logits], [begin, _arrive(logits)]
            for step in range(forced.shape[1] - 1 if self._phase is Phase.GENERATE else 0):
                logits = self._step(state, forced[:, : step + 1])
                steps.append(logits)
                stamps.append(_arrive(logits))
            return _Written(steps, _between(stamps) if self._phase is Phase.GENERATE else ())

        def prepare(self, **inputs: Any) -> None:
            """Of a decoding, what comes before it: the prompt, in the cache."""
            inputs.pop(FORCED, None)
            if self._phase is Phase.DECODE:
                self._prefix(inputs)

        def cache_bytes(self, **inputs: Any) -> int:
            """Bytes of one prompt's key-value cache when all tokens are written; 0 for a run that keeps none.

            Of keys and values alike: layers x key-value heads x their size x tokens x batch x bytes a number, so twice
            that (Kwon et al. 2023, PagedAttention, arXiv:2309.06180, section 3). Read off the cache that the model
            itself makes of the prompt; an encoder's part of it does not grow. A sliding window would hold less.
            """
            forced = inputs.pop(FORCED, None)
            if not self._cached or forced is None:
                return 0
            cache = self._read(inputs)[0]["cache"]
            growing = _self_attention(cache)
            fed = forced.shape[1] - (self._phase is Phase.GENERATE)  # the last token that is chosen is not fed
            length = cache.get_seq_length()
            held: int = _held_bytes(growing) * (length + fed) // length
            return held + (_held_bytes(cache.cross_attention_cache) if growing is not cache else 0)

        def _decode(self, inputs: dict[str, Any], forced: Any) -> _Written:
            state = self._prefix(inputs)
            length = state["cache"].get_seq_length()
            begin = perf_counter_ns()
            steps, stamps = [], [begin]
            for step in range(forced.shape[1]):
                logits = self._step(state, forced[:, : step + 1])
                steps.append(logits)
                stamps.append(_arrive(logits))
            # Back to the prompt, whose part of the cache was not written to. Negative: so many tokens less.
            _self_attention(state["cache"]).crop(length - state["cache"].get_seq_length())
            return _Written(steps, _between(stamps))

        def _prefix(self, inputs: dict[str, Any]) -> dict[str, Any]:
            """The prompt's state, kept for as long as these very inputs are staged."""
            key = next(iter(inputs.values()))
            self._prefixes = {k: v for k, v in self._prefixes.items() if v[0]() is not None}
            known = self._prefixes.get(id(key))
            if known is not None and known[0]() is key:
                found: dict[str, Any] = known[1]
                return found
            state, _ = self._read(inputs)
            self._prefixes[id(key)] = (weakref.ref(key), state)
            return state

        def _read(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
            """The prompt: its state, and the logits of the first new token."""
            model: Any = self.model_that_writes
            # With a cache the prompt is not read again; a state that held it would keep itself in _prefixes for ever.
            state: dict[str, Any] = {} if self._cached else {"inputs": inputs}
            if "decoder_input_ids" in inputs:
                output = model(**inputs, use_cache=self._cached)
                state["encoded"] = (output.encoder_last_hidden_state,)
            else:
                output = model(**inputs, use_cache=self._cached, logits_to_keep=1)
            state["cache"] = output.past_key_values if self._cached else None
            return state, output.logits[:, -1]

        def _step(self, state: dict[str, Any], written: Any) -> Any:
            """The logits after ``written``, of which only the last token is new."""
            from transformers.modeling_outputs import BaseModelOutput

            model: Any = self.model_that_writes
            cache = state["cache"]
            if "encoded" in state:
                before = None if self._cached else state["inputs"]["decoder_input_ids"]
                ids = written[:, -1:] if before is None else torch.cat((before, written), dim=1)
                encoded = BaseModelOutput(last_hidden_state=state["encoded"][0])
                output = model(
                    encoder_outputs=encoded, decoder_input_ids=ids, past_key_values=cache, use_cache=self._cached
                )
            elif self._cached:
                output = model(input_ids=written[:, -1:], past_key_values=cache, use_cache=True, logits_to_keep=1)
            else:
                inputs = state["inputs"]
                ids = torch.cat((inputs["input_ids"], written), dim=1)
                output = model(**{**inputs, "input_ids": ids}, use_cache=False, logits_to_keep=1)
            return output.logits[:, -1]

    return Writer


def _forced_class() -> Any:
    import torch

    class TeacherForced(torch.nn.Module):
        """One pass over the prompt and the tokens that were forced."""

        def __init__(self, module: torch.nn.Module, phase: Phase) -> None:
            super().__init__()
            self.model_that_writes = module
            self._phase = phase

        def forward(self, **inputs: Any) -> dict[str, Any]:
            model: Any = self.model_that_writes
            forced = inputs.pop(FORCED, None)
            if forced is None:
                fed, kept = None, 1
            else:
                kept = forced.shape[1]
                fed = forced if self._phase is Phase.DECODE else forced[:, :-1]
            name = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
            if fed is not None:
                inputs[name] = torch.cat((inputs[name], fed), dim=1)
            return {LOGITS: model(**inputs, use_cache=False).logits[:, -kept:]}

    return TeacherForced


def _arrive(logits: Any) -> int:
    """Choose the token, wait until its id is on the host, and look at the clock."""
    chosen = logits.argmax(dim=-1)
    if chosen.device.type != "meta":
        chosen.cpu()
    return perf_counter_ns()


def _between(stamps: list[int]) -> tuple[int, ...]:
    return tuple(b - a for a, b in itertools.pairwise(stamps))


def _held_bytes(cache: Any) -> int:
    tensors = (tensor for layer in cache.layers for tensor in (layer.keys, layer.values) if tensor is not None)
    return sum({tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def _self_attention(cache: Any) -> Any:
    """Of an encoder-decoder's two caches the one that grows."""
    return getattr(cache, "self_attention_cache", cache)
