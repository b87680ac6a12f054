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
)

# These number positions from pad_token_id + 1, as fairseq did.
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "longformer"}


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
    if workload.batch_size < 1:
        raise UsageError(f"batch size {workload.batch_size} is not possible", remedy="Use 1 or more")
    spec, source, folder = _look_up(workload.model)
    fill = _text_workload if spec.kind == "text" else _image_workload
    workload = fill(workload, spec)
    return ResolvedModel(spec.alias, workload, spec, source, _input_spec(workload, spec), folder)


def _look_up(name: str) -> tuple[ModelSpec, str, Path | None]:
    spec = registry.find(name)
    if spec is not None:
        return spec, f"bundled:{spec.hub_ids[0] if spec.hub_ids else spec.alias}", None
    folder = Path(name).expanduser()
    if folder.is_dir():
        config = _read_config(folder / "config.json", name)
        return _spec_of(folder.resolve().name, (), config), f"folder:{folder.resolve().name}", folder
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
    return _spec_of(name, (name,), _read_config(path, name)), f"hub:{name}@{path.parent.name}", None


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


def _spec_of(name: str, hub_ids: tuple[str, ...], config: Mapping[str, Any]) -> ModelSpec:
    architecture = str((config.get("architectures") or [""])[0])
    kind = _kind(name, config)
    plain = ("AutoModel", "feature-extraction" if kind == "text" else "image-feature-extraction")
    heads = ((builder, task) for suffix, builder, task in _HEADS if architecture.endswith(suffix))
    auto_class, task = next(heads, plain)
    return ModelSpec(alias=name, hub_ids=hub_ids, kind=kind, task=task, auto_class=auto_class, config=config)


def _kind(name: str, config: Mapping[str, Any]) -> Kind:
    unsupported = [
        why
        for key, why in (
            ("is_encoder_decoder", "an encoder-decoder"),
            ("quantization_config", "quantized"),
            ("vision_config", "multimodal"),
            ("audio_config", "multimodal"),
        )
        if config.get(key)
    ]
    if unsupported:
        raise UsageError(
            f"'{name}' is {unsupported[0]}, which hwbench cannot run yet",
            remedy="Use a text encoder or decoder, or an image model",
        )
    text = "vocab_size" in config
    image = not text and ("num_channels" in config or "image_size" in config)
    if text:
        return "text"
    if image:
        return "image"
    raise UsageError(f"the config.json of '{name}' has neither vocab_size nor num_channels: its inputs are unknown")


def _text_workload(workload: Workload, spec: ModelSpec) -> Workload:
    if workload.image_size is not None:
        raise UsageError(f"'{spec.alias}' is a text model and takes no image size", remedy="Use --seq-length")
    limit = max_positions(spec.config)
    length = workload.sequence_length
    if length is None:
        length = spec.sequence_length if limit is None else min(spec.sequence_length, limit)
    if length < 1:
        raise UsageError(f"sequence length {length} is not possible", remedy="Use 1 or more")
    if limit is not None and length > limit:
        raise UsageError(
            f"'{spec.alias}' takes at most {limit} tokens, not {length}", remedy="Use a shorter --seq-length"
        )
    return replace(workload, sequence_length=length)


def _image_workload(workload: Workload, spec: ModelSpec) -> Workload:
    if workload.sequence_length is not None:
        raise UsageError(f"'{spec.alias}' is an image model and takes no sequence length", remedy="Use --image-size")
    fixed = spec.config.get("image_size")
    if isinstance(fixed, (list, tuple)):
        if len(set(fixed)) != 1:
            raise UsageError(f"'{spec.alias}' takes images of {fixed}; hwbench makes square ones only")
        fixed = fixed[0]
    size = workload.image_size
    if size is None:
        size = spec.image_size if fixed is None else int(fixed)
    if size < 1:
        raise UsageError(f"image size {size} is not possible", remedy="Use 1 or more")
    if fixed is not None and size != fixed:
        raise UsageError(f"'{spec.alias}' takes images of {fixed} pixels, not {size}", remedy="Leave --image-size out")
    return replace(workload, image_size=size)


def max_positions(config: Mapping[str, Any]) -> int | None:
    """The longest sequence the model has positions for, in tokens; None where its config sets no limit."""
    limit = config.get("max_position_embeddings", config.get("n_positions"))
    if not isinstance(limit, int) or limit < 1:
        return None
    if config.get("model_type") in _OFFSET_POSITIONS:
        limit -= int(config.get("pad_token_id") or 0) + 1
    return limit


def _input_spec(workload: Workload, spec: ModelSpec) -> tuple[InputSpec, ...]:
    if spec.kind == "text":
        assert workload.sequence_length is not None
        shape = (workload.batch_size, workload.sequence_length)
        return (
            InputSpec("input_ids", "token", shape, 0, int(spec.config["vocab_size"])),
            InputSpec("attention_mask", "ones", shape),
        )
    assert workload.image_size is not None
    channels = int(spec.config.get("num_channels", 3))
    return (
        InputSpec("pixel_values", "normal", (workload.batch_size, channels, workload.image_size, workload.image_size)),
    )
