"""The models hwbench knows by name, as facts.

Owns the table of built-in models, the entry point group ``hwbench.models`` and the lookup by alias or
hub name. Imports neither torch nor transformers.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal

from hwbench_mlflow.errors import UsageError

ENTRY_POINT_GROUP = "hwbench.models"
"""Each entry point loads to a :class:`ModelSpec` or an iterable of them."""

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


_BERT = {
    "model_type": "bert",
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}

BUILT_IN: tuple[ModelSpec, ...] = (
    ModelSpec(
        alias="bert",
        hub_ids=("google-bert/bert-base-uncased", "bert-base-uncased"),
        kind="text",
        task="feature-extraction",
        auto_class="AutoModel",
        output_names=("last_hidden_state", "pooler_output"),
        config={
            **_BERT,
            "gradient_checkpointing": False,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "position_embedding_type": "absolute",
            "use_cache": True,
        },
    ),
    ModelSpec(
        alias="bert-tiny",
        hub_ids=("prajjwal1/bert-tiny",),
        kind="text",
        task="feature-extraction",
        auto_class="AutoModel",
        output_names=("last_hidden_state", "pooler_output"),
        config={
            **_BERT,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
        },
    ),
    ModelSpec(
        alias="distilbert",
        hub_ids=("distilbert/distilbert-base-uncased", "distilbert-base-uncased"),
        kind="text",
        task="feature-extraction",
        auto_class="AutoModel",
        output_names=("last_hidden_state",),
        config={
            "model_type": "distilbert",
            "activation": "gelu",
            "attention_dropout": 0.1,
            "dim": 768,
            "dropout": 0.1,
            "hidden_dim": 3072,
            "initializer_range": 0.02,
            "max_position_embeddings": 512,
            "n_heads": 12,
            "n_layers": 6,
            "pad_token_id": 0,
            "qa_dropout": 0.1,
            "seq_classif_dropout": 0.2,
            "sinusoidal_pos_embds": False,
            "tie_weights_": True,
            "vocab_size": 30522,
        },
    ),
    ModelSpec(
        alias="gpt2",
        hub_ids=("openai-community/gpt2", "gpt2"),
        kind="text",
        task="text-generation",
        auto_class="AutoModelForCausalLM",
        output_names=("logits",),
        config={
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "attn_pdrop": 0.1,
            "bos_token_id": 50256,
            "embd_pdrop": 0.1,
            "eos_token_id": 50256,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-5,
            "n_ctx": 1024,
            "n_embd": 768,
            "n_head": 12,
            "n_layer": 12,
            "n_positions": 1024,
            "resid_pdrop": 0.1,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "vocab_size": 50257,
        },
    ),
    ModelSpec(
        alias="vit",
        hub_ids=("google/vit-base-patch16-224",),
        kind="image",
        task="image-classification",
        auto_class="AutoModelForImageClassification",
        output_names=("logits",),
        config={
            "model_type": "vit",
            "attention_probs_dropout_prob": 0.0,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "hidden_size": 768,
            "image_size": 224,
            "initializer_range": 0.02,
            "intermediate_size": 3072,
            "layer_norm_eps": 1e-12,
            "num_attention_heads": 12,
            "num_channels": 3,
            "num_hidden_layers": 12,
            "num_labels": 1000,
            "patch_size": 16,
            "qkv_bias": True,
        },
    ),
    ModelSpec(
        alias="resnet-50",
        hub_ids=("microsoft/resnet-50",),
        kind="image",
        task="image-classification",
        auto_class="AutoModelForImageClassification",
        output_names=("logits",),
        config={
            "model_type": "resnet",
            "depths": [3, 4, 6, 3],
            "downsample_in_first_stage": False,
            "embedding_size": 64,
            "hidden_act": "relu",
            "hidden_sizes": [256, 512, 1024, 2048],
            "layer_type": "bottleneck",
            "num_channels": 3,
            "num_labels": 1000,
        },
    ),
)


@cache
def registry() -> dict[str, ModelSpec]:
    """Alias -> spec: the built-in ones, then those of installed packages. :class:`UsageError` names a package
    whose entry point does not load, is no :class:`ModelSpec`, or takes a name that is taken."""
    table: dict[str, ModelSpec] = {}
    for spec in BUILT_IN:
        _add(table, spec, "hwbench")
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
        origin = f"entry point '{point.name} = {point.value}' of {ENTRY_POINT_GROUP}"
        try:
            loaded = point.load()
        except (ImportError, AttributeError) as error:
            raise UsageError(f"{origin} does not load: {error}", remedy="Fix or uninstall its package") from error
        specs = [loaded] if isinstance(loaded, ModelSpec) else loaded
        if not isinstance(specs, Iterable):
            raise UsageError(f"{origin} is {type(specs).__name__}, not a ModelSpec")
        for spec in specs:
            if not isinstance(spec, ModelSpec):
                raise UsageError(f"{origin} holds {type(spec).__name__}, not a ModelSpec")
            _add(table, spec, origin)
    return table


def _add(table: dict[str, ModelSpec], spec: ModelSpec, origin: str) -> None:
    taken = {name for other in table.values() for name in (other.alias, *other.hub_ids)}
    clash = sorted(taken & {spec.alias, *spec.hub_ids})
    if clash:
        raise UsageError(f"{origin} takes the model name '{clash[0]}', which is taken")
    table[spec.alias] = spec


def find(name: str) -> ModelSpec | None:
    """The spec of that alias or hub name, else None."""
    table = registry()
    if name in table:
        return table[name]
    return next((spec for spec in table.values() if name in spec.hub_ids), None)


def known_aliases() -> tuple[str, ...]:
    """The names ``--model`` takes, besides hub names and folders."""
    return tuple(registry())


def closest(name: str) -> str | None:
    """The known alias or hub name that ``name`` was likely meant to be."""
    names = [n for spec in registry().values() for n in (spec.alias, *spec.hub_ids)]
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return matches[0] if matches else None
