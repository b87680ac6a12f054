"""What a model is, as facts: the type of which the zoo holds instances.

Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model as it is published.

    ``hub_ids`` are the names it goes by on the hub, the canonical one first. ``config`` is the content of
    its ``config.json`` (``model_type`` included, bookkeeping left out). ``auto_class`` names the
    transformers class that builds it, ``output_names`` the fields of its output that are compared;
    empty means: found out from a pass on meta tensors.
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
