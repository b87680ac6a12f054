"""What a model is, as facts: the type of which the zoo holds instances.

Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hwbench_mlflow.model import TINY_SUFFIX

Kind = Literal[
    "text", "image", "seq2seq", "waveform", "speech", "image-text", "audio-text", "video-text", "vision-language"
]
"""What a model is given. ``text``: token ids. ``image``: pixels. ``seq2seq``: token ids, and the decoder's.
``waveform``: raw audio. ``speech``: a mel spectrogram, and the decoder's token ids. ``image-text``, ``audio-text``,
``video-text``: both, for two encoders. ``vision-language``: pixels, and a prompt that has places for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model as it is published.

    ``hub_ids`` are the names it goes by on the hub, the canonical one first. ``config`` is the content of
    its ``config.json`` (``model_type`` included, bookkeeping left out), ``processor`` what of its
    ``preprocessor_config.json`` decides the size of an input (of audio models: rates and lengths).
    ``auto_class`` names the transformers class that builds it, ``output_names`` the fields of its output that are
    compared; empty means: found out from a pass on meta tensors. ``writes`` is true for a model that can write text
    token by token. ``tiny`` (and ``tiny_...``) is what its variant for tests, :meth:`for_tests`, has otherwise.
    """

    alias: str
    hub_ids: tuple[str, ...]
    kind: Kind
    task: str
    auto_class: str
    config: Mapping[str, Any]
    output_names: tuple[str, ...] = ()
    sequence_length: int = 128
    image_size: int = 224
    audio_seconds: float = 10.0
    output_tokens: int = 32
    writes: bool = False
    processor: Mapping[str, Any] = field(default_factory=dict)
    tiny: Mapping[str, Any] | None = None
    tiny_processor: Mapping[str, Any] | None = None
    tiny_image_size: int = 32
    tiny_audio_seconds: float = 0.1

    def for_tests(self) -> ModelSpec | None:
        """The same architecture, small enough for a test: ``<alias>-tiny-test``. None without a ``tiny``."""
        if self.tiny is None:
            return None
        return replace(
            self,
            alias=self.alias + TINY_SUFFIX,
            hub_ids=(),
            config=_overlaid(self.config, self.tiny),
            processor={**self.processor, **(self.tiny_processor or {})},
            sequence_length=16,
            image_size=self.tiny_image_size,
            audio_seconds=self.tiny_audio_seconds,
            output_tokens=4,
            tiny=None,
        )


def _overlaid(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with ``changes``; a nested config is changed, not replaced."""
    merged = dict(config)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _overlaid(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
