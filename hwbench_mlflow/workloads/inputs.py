"""What each kind of model is given: the defaults of a workload, its limits, and the named inputs that follow.

Owns the sizes: tokens, pixels, frames of audio, places of an image in a prompt. Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hwbench_mlflow.errors import UsageError
from hwbench_mlflow.model import CompileMode, Phase, Scenario, Workload
from hwbench_mlflow.workloads.base import InputSpec
from hwbench_mlflow.workloads.spec import Kind, ModelSpec

MAX_IMAGE_SIZE = 8192
MAX_AUDIO_SECONDS = 3600.0
"""Beyond any benchmark; a larger number is a slip of the hand, and would be found out only by running out of memory."""

PROMPT_TOKENS = 64
"""Of a prompt beside the places of its image, where nothing else is asked for."""

FORCED = "forced_ids"
"""The tokens that a generation is made to follow, see :mod:`.generation`."""

# These number positions from pad_token_id + 1, as fairseq did.
_OFFSET_POSITIONS = {
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "roberta-prelayernorm",
    "longformer",
    "clap_text_model",
}

_TAKES: dict[Kind, frozenset[str]] = {
    "text": frozenset({"sequence_length"}),
    "image": frozenset({"image_size"}),
    "seq2seq": frozenset({"sequence_length", "output_tokens"}),
    "waveform": frozenset({"audio_seconds"}),
    "speech": frozenset({"audio_seconds", "output_tokens"}),
    "image-text": frozenset({"sequence_length", "image_size"}),
    "audio-text": frozenset({"sequence_length", "audio_seconds"}),
    "video-text": frozenset({"sequence_length", "image_size"}),
    "vision-language": frozenset({"sequence_length", "image_size"}),
}
_OPTIONS = {
    "sequence_length": ("sequence length", "--sequence-length"),
    "image_size": ("image size", "--image-size"),
    "audio_seconds": ("audio length", "--audio-seconds"),
    "output_tokens": ("output length", "--output-tokens"),
}


def fill(workload: Workload, spec: ModelSpec) -> Workload:
    """``workload`` with every size that ``spec`` takes filled. :class:`UsageError` for one that it does not take, or
    cannot: one line, with what would be right."""
    if workload.batch_size < 1:
        raise UsageError(f"batch size {workload.batch_size} is not possible", remedy="Use 1 or more")
    workload = _phase(workload, spec)
    takes = _TAKES[spec.kind] | ({"output_tokens"} if workload.phase is not Phase.FORWARD else set())
    if workload.phase is Phase.PREFILL:
        takes = takes - {"output_tokens"}
    for name, (words, _) in _OPTIONS.items():
        if getattr(workload, name) is not None and name not in takes:
            better = ", ".join(option for key, (_, option) in _OPTIONS.items() if key in takes)
            kind = f"{_article(spec.kind)} model" + ("" if workload.phase is Phase.FORWARD else f" in {workload.phase}")
            raise UsageError(f"'{spec.alias}' is {kind} and takes no {words}", remedy=f"Use {better}")
    fillers: dict[str, Callable[[Workload, ModelSpec], Workload]] = {
        "image_size": _image_size,
        "sequence_length": _sequence_length,
        "audio_seconds": _audio_seconds,
        "output_tokens": _output_tokens,
    }
    for name, filler in fillers.items():
        if name in takes:
            workload = filler(workload, spec)
    return workload


def input_spec(workload: Workload, spec: ModelSpec) -> tuple[InputSpec, ...]:
    """The named inputs of a workload that :func:`fill` has filled. The batch is each one's first dimension."""
    made = _BUILDERS[spec.kind](workload, spec)
    if workload.phase is Phase.FORWARD:
        return made
    # All ones: the same as none, and it would have to grow with every token.
    made = tuple(item for item in made if item.kind != "ones")
    text = text_config(spec.config)
    vocabulary = _integer(spec, text, "vocab_size")
    if spec.kind in ("seq2seq", "speech"):
        start = int(spec.config.get("decoder_start_token_id") or 0)
        first = InputSpec("decoder_input_ids", "constant", (workload.batch_size, 1), values=(start,))
        made = (*(item for item in made if item.name != first.name), first)
    if workload.phase is Phase.PREFILL:
        return made
    assert workload.output_tokens is not None
    forced = InputSpec(FORCED, "token", (workload.batch_size, workload.output_tokens), 0, vocabulary)
    return (*made, forced)


def max_positions(config: Mapping[str, Any]) -> int | None:
    """The longest sequence the model has positions for, in tokens; None where its config sets no limit."""
    limit = config.get("max_position_embeddings", config.get("n_positions"))
    if config.get("model_type") == "t5":
        return None  # relative positions: its n_positions is the length it was trained at
    if not isinstance(limit, int) or limit < 1:
        return None
    if config.get("model_type") in _OFFSET_POSITIONS:
        limit -= int(config.get("pad_token_id") or 0) + 1
    return limit


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a model with several parts, the config of the one that reads text."""
    found = config.get("text_config")
    return found if isinstance(found, Mapping) else config


def image_tokens(spec: ModelSpec, image_size: int) -> int:
    """Places that one image takes in the prompt of a ``vision-language`` model."""
    vision = _part(spec, "vision_config")
    side = _integer(spec, vision, "image_size") // _integer(spec, vision, "patch_size")
    if "image_grid_pinpoints" not in spec.config:
        return side * side
    rows, columns = _tiles(spec, image_size)
    # The whole image once, then its tiles without what pads them, and one new line for each row of patches.
    height, width = _unpadded(image_size, image_size, rows * side, columns * side)
    return side * side + height * (width + 1)


# --- sizes --------------------------------------------------------------------------------------


def _phase(workload: Workload, spec: ModelSpec) -> Workload:
    if workload.phase is Phase.FORWARD:
        if workload.kv_cache is not None:
            raise UsageError(
                "a forward pass has no key-value cache", remedy="Use --phase prefill, decode or generate beside it"
            )
        return workload
    if not spec.writes:
        raise UsageError(f"'{spec.alias}' writes no text: it has no {workload.phase}", remedy="Leave --phase out")
    if workload.scenario is not Scenario.LATENCY:
        raise UsageError(f"--phase {workload.phase} goes with --scenario latency", remedy="Leave --scenario out")
    if workload.compile_mode is not CompileMode.EAGER:
        raise UsageError(f"--phase {workload.phase} goes with --compile-mode eager", remedy="Leave --compile-mode out")
    cache = True if workload.kv_cache is None else workload.kv_cache
    if not cache and workload.phase is not Phase.GENERATE:
        raise UsageError(
            f"--phase {workload.phase} is about the key-value cache", remedy="Use --phase generate with --no-kv-cache"
        )
    return replace(workload, kv_cache=cache)


def _sequence_length(workload: Workload, spec: ModelSpec) -> Workload:
    places, limit = 0, max_positions(text_config(spec.config))
    default = spec.sequence_length
    if spec.kind == "vision-language":
        assert workload.image_size is not None
        places = image_tokens(spec, workload.image_size)
        default = places + PROMPT_TOKENS
    elif spec.kind in ("image-text", "video-text"):
        default = limit or default
    writes = (workload.output_tokens or spec.output_tokens) if workload.phase in (Phase.DECODE, Phase.GENERATE) else 0
    written = 0 if spec.kind in ("seq2seq", "speech") else writes
    length = workload.sequence_length
    if length is None:
        length = default if limit is None else min(default, limit - written)
    if length < 1:
        raise UsageError(f"sequence length {length} is not possible", remedy="Use 1 or more")
    if length <= places:
        raise UsageError(
            f"'{spec.alias}' needs {places} tokens for the image alone, {length} leaves none for text",
            remedy=f"Use --sequence-length {places + 1} or more",
        )
    if limit is not None and length + written > limit:
        asked = f"{length} and {written} new ones" if written else f"{length}"
        raise UsageError(
            f"'{spec.alias}' takes at most {limit} tokens, not {asked}", remedy="Use a shorter --sequence-length"
        )
    return replace(workload, sequence_length=length)


def _image_size(workload: Workload, spec: ModelSpec) -> Workload:
    config = spec.config if spec.kind == "image" else _part(spec, "vision_config")
    fixed = config.get("image_size")
    if isinstance(fixed, (list, tuple)):
        if len(set(fixed)) != 1:
            raise UsageError(f"'{spec.alias}' takes images of {fixed}; hwbench makes square ones only")
        fixed = fixed[0]
    if "image_grid_pinpoints" in spec.config:
        fixed = None  # any size: it is cut into tiles
    size = workload.image_size
    if size is None:
        size = spec.image_size if fixed is None else int(fixed)
    if size < 1:
        raise UsageError(f"image size {size} is not possible", remedy="Use 1 or more")
    if fixed is not None and size != fixed:
        raise UsageError(f"'{spec.alias}' takes images of {fixed} pixels, not {size}", remedy="Leave --image-size out")
    if size > MAX_IMAGE_SIZE:
        raise UsageError(f"images of {size} pixels are beyond any benchmark", remedy=f"Use at most {MAX_IMAGE_SIZE}")
    return replace(workload, image_size=size)


def _audio_seconds(workload: Workload, spec: ModelSpec) -> Workload:
    fixed = _fixed_audio_seconds(spec)
    seconds = workload.audio_seconds
    if seconds is None:
        seconds = spec.audio_seconds if fixed is None else fixed
    if not 0 < seconds <= MAX_AUDIO_SECONDS:
        raise UsageError(f"{seconds:g} s of audio are not possible", remedy=f"Use at most {MAX_AUDIO_SECONDS:g} s")
    if fixed is not None and seconds != fixed:
        raise UsageError(f"'{spec.alias}' takes {fixed:g} s of audio, not {seconds:g}", remedy="Leave the length out")
    if fixed is None:
        shortest = _shortest_waveform(spec) / _number(spec, "sampling_rate")
        if seconds < shortest:
            raise UsageError(f"'{spec.alias}' takes at least {shortest:g} s of audio, not {seconds:g}")
    return replace(workload, audio_seconds=seconds)


def _fixed_audio_seconds(spec: ModelSpec) -> float | None:
    if spec.kind == "speech":
        # Two frames a position: the encoder's second convolution has stride 2.
        frames = 2 * _integer(spec, spec.config, "max_source_positions")
        return frames * _number(spec, "hop_length") / _number(spec, "sampling_rate")
    return _number(spec, "max_length_s") if spec.kind == "audio-text" else None


def _shortest_waveform(spec: ModelSpec) -> int:
    """Samples that the strided convolutions of the feature encoder turn into one frame."""
    needed = 1
    pairs = list(zip(spec.config.get("conv_kernel", ()), spec.config.get("conv_stride", ()), strict=True))
    for kernel, stride in reversed(pairs):
        needed = (needed - 1) * int(stride) + int(kernel)
    return needed


def _output_tokens(workload: Workload, spec: ModelSpec) -> Workload:
    limit = spec.config.get("max_target_positions") if spec.kind == "speech" else None
    tokens = workload.output_tokens
    if tokens is None:
        tokens = spec.output_tokens
    least = 2 if workload.phase is Phase.GENERATE else 1
    if tokens < least:
        raise UsageError(f"{tokens} output tokens are not possible", remedy=f"Use {least} or more")
    if isinstance(limit, int) and tokens > limit:
        raise UsageError(f"'{spec.alias}' writes at most {limit} tokens, not {tokens}", remedy="Use --output-tokens")
    return replace(workload, output_tokens=tokens)


# --- inputs -------------------------------------------------------------------------------------


def _text(workload: Workload, spec: ModelSpec) -> tuple[InputSpec, ...]:
    assert workload.sequence_length is not None
    shape = (workload.batch_size, workload.sequence_length)
    vocabulary = _integer(spec, text_config(spec.config), "vocab_size")
    return (InputSpec("input_ids", "token", shape, 0, vocabulary), InputSpec("attention_mask", "ones", shape))


def _image(workload: Workload, spec: ModelSpec) -> tuple[InputSpec, ...]:
    return (_pixels(workload, int(spec.config.get("num_channels", 3))),)


def _pixels(workload: Workload, channels: int, *several: int) -> InputSpec:
    assert workload.image_size is not None
    side = workload.image_size
    return InputSpec("pixel_values", "normal", (workload.batch_size, *several, channels, side, side))


def _seq2seq(workload: Workload, spec: ModelSpec) -> tuple[InputSpec, ...]:
    return (*_text(workload, spec), *_decoder_ids(workload, spec))


def _decoder_ids(workload: Workload, spec: ModelSpec) -> tuple[InputSpec, ...]:
    shape = (workload.batch_size, workload.output_tokens or 1)
    return (InputSpec("decoder_input_ids", "token", shape, 0, _integer(spec, spec.config, "vocab_size")),)


def _waveform(workload: Workload, spec: ModelSpec) -> tuple[InputSpec, ...]:
    assert workload.audio_seconds is not None
    samples = round(workload.audio_seconds * _number(spec, "sampling_rate"))
    return (InputSpec("input_values", "normal", (workload.batch_size, samples)),)


def _speech(workload: Workload, spec: ModelSpec) -> tuple[InputSpec, ...]:
    frames = 2 * _integer(spec, spec.config, "max_source_positions")
    mel = InputSpec(
        "input_features", "normal", (workload.batch_size, _integer(spec, spec.config, "num_mel_bins"), frames)
    )
    (ids,) = _decoder_ids(workload, spec)
    # Without a mask transformers asks whether sequences are packed, in operations that OpenVINO cannot convert.
    return mel, ids, InputSpec("decoder_attention_mask", "ones", ids.shape)


def _image_text(workload: Workload, spec: ModelSpec) -> tuple[InputSpec, ...]:
    return (*_text(workload, spec), _pixels(workload, int(_part(spec, "vision_config").get("num_channels", 3))))


def _audio_text(workload: Workload, spec: ModelSpec) -> tuple[InputSpec, ...]:
    assert workload.audio_seconds is not None
    # One frame a hop, and one more: the transform is centred.
    frames = round(workload.audio_seconds * _number(spec, "sampling_rate") / _number(spec, "hop_length")) + 1
    bins = _integer(spec, _part(spec, "audio_config"), "num_mel_bins")
    return (*_text(workload, spec), InputSpec("input_features", "normal", (workload.batch_size, 1, frames, bins)))


def _video_text(workload: Workload, spec: ModelSpec) -> tuple[InputSpec, ...]:
    vision = _part(spec, "vision_config")
    frames = _integer(spec, vision, "num_frames")
    return (*_text(workload, spec), _pixels(workload, int(vision.get("num_channels", 3)), frames))


def _vision_language(workload: Workload, spec: ModelSpec) -> tuple[InputSpec, ...]:
    assert workload.image_size is not None
    ids, mask = _text(workload, spec)
    token = spec.config.get("image_token_id", spec.config.get("image_token_index"))
    if not isinstance(token, int):
        raise UsageError(f"the config.json of '{spec.alias}' names no image_token_index")
    # The image's own token must not be drawn by chance: the vocabulary ends with it, and with what pads it.
    ids = replace(ids, high=min(ids.high, token), run=(1, image_tokens(spec, workload.image_size), token))
    vision = _part(spec, "vision_config")
    channels, side = int(vision.get("num_channels", 3)), _integer(spec, vision, "image_size")
    if "image_grid_pinpoints" not in spec.config:
        return ids, mask, InputSpec("pixel_values", "normal", (workload.batch_size, channels, side, side))
    rows, columns = _tiles(spec, workload.image_size)
    shape = (workload.batch_size, rows * columns + 1, channels, side, side)
    sizes = InputSpec(
        "image_sizes", "constant", (workload.batch_size, 2), values=(workload.image_size, workload.image_size)
    )
    return ids, mask, InputSpec("pixel_values", "normal", shape), sizes


_BUILDERS: dict[Kind, Callable[[Workload, ModelSpec], tuple[InputSpec, ...]]] = {
    "text": _text,
    "image": _image,
    "seq2seq": _seq2seq,
    "waveform": _waveform,
    "speech": _speech,
    "image-text": _image_text,
    "audio-text": _audio_text,
    "video-text": _video_text,
    "vision-language": _vision_language,
}


def _tiles(spec: ModelSpec, size: int) -> tuple[int, int]:
    """Rows and columns of tiles for a square image: the offered canvas that keeps most of its pixels, and of those the
    one that wastes least (LLaVA-NeXT's "AnyRes", llava-vl.github.io/blog/2024-01-30-llava-next)."""
    side = _integer(spec, _part(spec, "vision_config"), "image_size")

    def kept_and_wasted(canvas: tuple[int, int]) -> tuple[int, int]:
        scaled = int(size * min(canvas[0] / size, canvas[1] / size))
        kept = min(scaled * scaled, size * size)
        return kept, -(canvas[0] * canvas[1] - kept)

    height, width = max((tuple(canvas) for canvas in spec.config["image_grid_pinpoints"]), key=kept_and_wasted)
    return height // side, width // side


def _unpadded(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of patches that hold the image when it was scaled into a canvas and centred."""
    if width / height > columns / rows:
        padding = (rows - int(round(height * (columns / width), 7))) // 2
        return rows - 2 * padding, columns
    padding = (columns - int(round(width * (rows / height), 7))) // 2
    return rows, columns - 2 * padding


def _part(spec: ModelSpec, name: str) -> Mapping[str, Any]:
    found = spec.config.get(name)
    if not isinstance(found, Mapping):
        raise UsageError(f"the config.json of '{spec.alias}' has no {name}")
    return found


def _integer(spec: ModelSpec, config: Mapping[str, Any], name: str) -> int:
    found = config.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UsageError(f"the config.json of '{spec.alias}' has no usable {name}: its inputs are unknown")
    return found


def _number(spec: ModelSpec, name: str) -> float:
    found = spec.processor.get(name)
    if not isinstance(found, (int, float)) or isinstance(found, bool) or found <= 0:
        raise UsageError(
            f"'{spec.alias}' has no preprocessor_config.json with a usable {name}: the size of its audio is unknown",
            remedy="Copy preprocessor_config.json from where the model is published",
        )
    return float(found)


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
