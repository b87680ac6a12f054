"""From what the user asked for to one model with every default filled.

Owns the names ``--model`` takes (alias, hub name, folder) and the checks of a workload against its model.
Light: imports neither torch nor transformers, and asks the network only for a hub name that neither the
registry nor the local cache knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwbench_mlflow.errors import UnknownModel, UsageError
from hwbench_mlflow.model import Workload
from hwbench_mlflow.workloads import hub, registry
from hwbench_mlflow.workloads.base import InputSpec
from hwbench_mlflow.workloads.inputs import fill, input_spec
from hwbench_mlflow.workloads.registry import Kind, ModelSpec

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")

# The class a checkpoint was saved with ends so -> what builds it, and its task in the hub's words.
_HEADS: tuple[tuple[str, str, str], ...] = (
    ("ForCausalLM", "AutoModelForCausalLM", "text-generation"),
    ("LMHeadModel", "AutoModelForCausalLM", "text-generation"),
    ("ForMaskedLM", "AutoModelForMaskedLM", "fill-mask"),
    ("ForSequenceClassification", "AutoModelForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "AutoModelForTokenClassification", "token-classification"),
    ("ForQuestionAnswering", "AutoModelForQuestionAnswering", "question-answering"),
    ("ForImageClassification", "AutoModelForImageClassification", "image-classification"),
    ("ForObjectDetection", "AutoModelForObjectDetection", "object-detection"),
)


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A request that can be built. ``name`` is the alias, the hub name, or the folder's own name;
    ``folder`` is set for a model in a local folder; ``source`` says where the architecture comes from."""

    name: str
    workload: Workload
    spec: ModelSpec
    source: str
    input_spec: tuple[InputSpec, ...]
    folder: Path | None = None


def resolve(workload: Workload) -> ResolvedModel:
    """Check ``workload`` and fill its defaults. Raises :class:`UnknownModel` for a name that leads nowhere and
    :class:`UsageError` for a size the model cannot take. At most about 5 s, spent only on an uncached hub name."""
    spec, source, folder = _look_up(workload.model)
    workload = fill(workload, spec)
    return ResolvedModel(spec.alias, workload, spec, source, input_spec(workload, spec), folder)


def _look_up(name: str) -> tuple[ModelSpec, str, Path | None]:
    spec = registry.find(name)
    if spec is not None:
        return spec, f"bundled:{spec.hub_ids[0] if spec.hub_ids else spec.alias}", None
    folder = Path(name).expanduser()
    if folder.is_dir():
        config = _read_config(folder / "config.json", name)
        spec = _spec_of(folder.resolve().name, (), config, _read_processor(folder, name))
        return spec, f"folder:{folder.resolve().name}", folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UnknownModel(f"there is no folder '{name}'", remedy=_known(name))
    if not _HUB_NAME.fullmatch(name):
        raise UnknownModel(f"'{name}' is not a model", remedy=_known(name))
    path = hub.cached_file([name], "config.json")
    if path is None:
        try:
            path = hub.download_config(name)
        except hub.Unreachable as error:
            raise UnknownModel(
                f"'{name}' is neither a known model nor a folder, and as a hub name it cannot be resolved: {error}",
                remedy=_known(name),
            ) from error
    spec = _spec_of(name, (name,), _read_config(path, name), _read_processor(path.parent, name))
    return spec, f"hub:{name}@{path.parent.name}", None


def _known(name: str) -> str:
    known = f"Known: {', '.join(registry.known_aliases())}; or a hub name, or a folder with a config.json"
    close = registry.closest(name)
    return f"Did you mean '{close}'? {known}" if close else known


def _read_config(path: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnknownModel(f"the folder '{name}' has no config.json", remedy=_known(name)) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"the config.json of '{name}' cannot be read: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UsageError(f"the config.json of '{name}' names no model_type, so its architecture is unknown")
    return config


def _spec_of(
    name: str, hub_ids: tuple[str, ...], config: Mapping[str, Any], processor: Mapping[str, Any] | None = None
) -> ModelSpec:
    if config.get("quantization_config"):
        raise UsageError(f"'{name}' is quantized, which hwbench cannot run yet", remedy="Use the unquantized model")
    like = registry.of_type(config["model_type"])
    if like is not None and like.kind not in ("text", "image"):
        return replace(
            like, alias=name, hub_ids=hub_ids, config=config, processor=processor or {}, tiny=None, tiny_processor=None
        )
    architecture = str((config.get("architectures") or [""])[0])
    kind = _kind(name, config)
    plain = ("AutoModel", "feature-extraction" if kind == "text" else "image-feature-extraction")
    heads = ((builder, task) for suffix, builder, task in _HEADS if architecture.endswith(suffix))
    auto_class, task = next(heads, plain)
    return ModelSpec(
        alias=name,
        hub_ids=hub_ids,
        kind=kind,
        task=task,
        auto_class=auto_class,
        config=config,
        writes=auto_class == "AutoModelForCausalLM",
        image_size=like.image_size if like is not None else 224,
    )


def _kind(name: str, config: Mapping[str, Any]) -> Kind:
    unsupported = [
        why
        for key, why in (
            ("is_encoder_decoder", "an encoder-decoder"),
            ("vision_config", "multimodal"),
            ("audio_config", "multimodal"),
        )
        if config.get(key)
    ]
    known = sorted({str(spec.config["model_type"]) for spec in registry.BUILT_IN})
    if unsupported and config["model_type"] != "detr":
        raise UsageError(
            f"'{name}' is {unsupported[0]} of type '{config['model_type']}', which hwbench cannot run yet",
            remedy=f"Use a text encoder or decoder, an image model, or one of type {', '.join(known)}",
        )
    text = "vocab_size" in config
    image = not text and ("num_channels" in config or "image_size" in config)
    if text:
        return "text"
    if image:
        return "image"
    raise UsageError(f"the config.json of '{name}' has neither vocab_size nor num_channels: its inputs are unknown")


def _read_processor(folder: Path, name: str) -> dict[str, Any]:
    """What says how raw audio becomes an input; empty where there is none, and whoever needs it says so."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the preprocessor_config.json of '{name}' cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"the preprocessor_config.json of '{name}' holds no object")
    return found
