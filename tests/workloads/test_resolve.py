from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwbench_mlflow.errors import ExitCode, UnknownModel, UsageError
from hwbench_mlflow.model import WeightsPolicy, Workload
from hwbench_mlflow.workloads import hub
from hwbench_mlflow.workloads.base import InputSpec
from hwbench_mlflow.workloads.inputs import max_positions
from hwbench_mlflow.workloads.resolve import resolve
from tests.workloads.conftest import TINY_BERT, TINY_GPT2, TINY_RESNET, TINY_VIT, MakeFolder, put_in_cache


def test_an_alias_gets_its_default_sequence_length() -> None:
    resolved = resolve(Workload(model="bert", batch_size=4))
    assert resolved.name == "bert"
    assert resolved.workload.sequence_length == 128
    assert resolved.workload.image_size is None
    assert resolved.input_spec == (
        InputSpec("input_ids", "token", (4, 128), 0, 30522),
        InputSpec("attention_mask", "ones", (4, 128)),
    )


def test_an_image_alias_gets_its_default_image_size() -> None:
    resolved = resolve(Workload(model="resnet-50", batch_size=2))
    assert resolved.workload.image_size == 224
    assert resolved.workload.sequence_length is None
    assert resolved.input_spec == (InputSpec("pixel_values", "normal", (2, 3, 224, 224)),)


def test_a_convolutional_model_takes_any_image_size() -> None:
    assert resolve(Workload(model="resnet-50", image_size=160)).input_spec[0].shape == (1, 3, 160, 160)


def test_a_folder_is_a_model_with_the_head_its_checkpoint_was_saved_with(make_folder: MakeFolder) -> None:
    resolved = resolve(Workload(model=str(make_folder(TINY_GPT2))))
    assert (resolved.name, resolved.source) == ("tiny", "folder:tiny")
    assert (resolved.spec.kind, resolved.spec.task) == ("text", "text-generation")
    assert resolved.spec.auto_class == "AutoModelForCausalLM"
    assert resolved.workload.sequence_length == 64  # its positions, fewer than the default


def test_a_folder_with_an_image_model_is_recognised(make_folder: MakeFolder) -> None:
    resolved = resolve(Workload(model=str(make_folder(TINY_VIT))))
    assert resolved.spec.auto_class == "AutoModelForImageClassification"
    assert resolved.workload.image_size == 16


def test_a_cached_hub_name_needs_no_network(hub_cache: Path) -> None:
    put_in_cache(hub_cache, "some/model", {"config.json": json.dumps(TINY_BERT).encode()})
    resolved = resolve(Workload(model="some/model"))
    assert resolved.name == "some/model"
    assert resolved.source == "hub:some/model@0123456789abcdef"


def test_an_alias_never_asks_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_require_reachable", lambda: pytest.fail("asked the network"))
    resolve(Workload(model="bert", weights=WeightsPolicy.PRETRAINED))


def test_resolving_imports_neither_torch_nor_transformers() -> None:
    program = (
        "import sys; from hwbench_mlflow.model import Workload; from hwbench_mlflow.workloads.resolve import resolve; "
        "resolve(Workload(model='bert')); "
        "print([m for m in ('torch', 'transformers', 'numpy', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_gives_one_line_with_the_known_ones_and_the_close_one() -> None:
    with pytest.raises(UnknownModel) as caught:
        resolve(Workload(model="distilbrt"))
    line = str(caught.value)
    assert "\n" not in line
    assert "Did you mean 'distilbert'?" in line
    assert "HF_HUB_OFFLINE" in line
    assert all(alias in line for alias in ("bert-tiny", "gpt2", "vit", "resnet-50"))
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("name", ["", "-bert", "a b", "/no/such/folder", "./nowhere", "a/b/c"])
def test_a_name_that_cannot_be_a_hub_name_never_asks_the_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_require_reachable", lambda: pytest.fail("asked the network"))
    with pytest.raises(UnknownModel, match="Known: bert"):
        resolve(Workload(model=name))


def test_a_folder_without_a_config_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"has no config\.json"):
        resolve(Workload(model=str(tmp_path)))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": 3}'])
def test_a_config_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"config\.json"):
        resolve(Workload(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"model": "bert", "batch_size": 0}, "batch size 0"),
        ({"model": "bert", "batch_size": -3}, "batch size -3"),
        ({"model": "bert", "sequence_length": 0}, "sequence length 0"),
        ({"model": "bert", "sequence_length": 513}, "at most 512 tokens, not 513"),
        ({"model": "gpt2", "sequence_length": 1025}, "at most 1024 tokens"),
        ({"model": "bert", "image_size": 224}, "takes no image size"),
        ({"model": "vit", "sequence_length": 128}, "takes no sequence length"),
        ({"model": "vit", "image_size": 256}, "takes images of 224 pixels, not 256"),
        ({"model": "resnet-50", "image_size": 0}, "image size 0"),
    ],
)
def test_a_size_the_model_cannot_take_is_a_usage_error(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(Workload(**request_))


def test_the_longest_sequence_is_accepted() -> None:
    assert resolve(Workload(model="bert", sequence_length=512)).workload.sequence_length == 512


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"vision_config": {"image_size": 4}}, "multimodal"),
    ],
)
def test_models_hwbench_cannot_run_are_refused_by_what_they_are(
    extra: dict[str, Any], message: str, make_folder: MakeFolder
) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(Workload(model=str(make_folder({**TINY_BERT, **extra}))))


def test_a_config_without_known_inputs_is_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(UsageError, match="its inputs are unknown"):
        resolve(Workload(model=str(make_folder({"model_type": "wav2vec3"}))))


def test_images_that_are_not_square_are_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(UsageError, match="square"):
        resolve(Workload(model=str(make_folder({**TINY_VIT, "image_size": [16, 32]}))))


def test_roberta_has_fewer_positions_than_its_table() -> None:
    assert max_positions({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}) == 512
    assert max_positions({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}) == 512
    assert max_positions(TINY_RESNET) is None


# --- folders that are not what they seem --------------------------------------------------------

TINY_WAV2VEC2 = {
    "architectures": ["Wav2Vec2ForCTC"],
    "model_type": "wav2vec2",
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "vocab_size": 32,
}


def test_audio_without_its_processors_config_is_refused_and_with_it_taken(make_folder: MakeFolder) -> None:
    folder = make_folder(TINY_WAV2VEC2)
    with pytest.raises(UsageError, match=r"no preprocessor_config\.json with a usable sampling_rate") as caught:
        resolve(Workload(model=str(folder)))
    assert "\n" not in str(caught.value)
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    resolved = resolve(Workload(model=str(folder), audio_seconds=0.5))
    assert resolved.input_spec == (InputSpec("input_values", "normal", (1, 4000)),)


@pytest.mark.parametrize("text", ["{", "[]", '{"sampling_rate": 0}', '{"sampling_rate": "fast"}', "{}"])
def test_a_processors_config_of_no_use_is_one_line(text: str, make_folder: MakeFolder) -> None:
    folder = make_folder(TINY_WAV2VEC2)
    (folder / "preprocessor_config.json").write_text(text)
    with pytest.raises(UsageError, match=r"preprocessor_config\.json") as caught:
        resolve(Workload(model=str(folder)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bart", "vocab_size": 9, "is_encoder_decoder": True}, "an encoder-decoder of type 'bart'"),
        ({"model_type": "blip", "vision_config": {"image_size": 4}}, "multimodal of type 'blip'"),
        ({"model_type": "clip", "text_config": {"vocab_size": 9}}, "has no vision_config"),
        ({"model_type": "clip", "vision_config": {"image_size": 8}, "text_config": {"a": 1}}, "no usable vocab_size"),
        ({"model_type": "whisper", "vocab_size": 9, "num_mel_bins": 8}, "no usable max_source_positions"),
        ({"model_type": "llava", "vision_config": {"image_size": 8}, "text_config": {}}, "no usable patch_size"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "no usable vocab_size"),
        ({"model_type": "t5", "vocab_size": "many"}, "no usable vocab_size"),
    ],
)
def test_a_config_that_lacks_what_its_inputs_need_is_one_line(
    config: dict[str, Any], message: str, make_folder: MakeFolder
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolve(Workload(model=str(make_folder(config))))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"model": "resnet-50", "image_size": 1_000_000}, "beyond any benchmark"),
        ({"model": "llava-next", "image_size": 100_000}, "beyond any benchmark"),
        ({"model": "wav2vec2", "audio_seconds": 1e9}, "of audio are not possible"),
        ({"model": "wav2vec2", "audio_seconds": 0.001}, "takes at least 0.025 s"),
        ({"model": "whisper-tiny", "audio_seconds": 10.0}, "takes 30 s of audio, not 10"),
        ({"model": "clap", "audio_seconds": 11.0}, "takes 10 s of audio, not 11"),
        ({"model": "clip", "sequence_length": 78}, "at most 77 tokens"),
        ({"model": "clap", "sequence_length": 513}, "at most 512 tokens"),
        ({"model": "bert", "audio_seconds": 1.0}, "takes no audio length"),
        ({"model": "t5-small", "output_tokens": 0}, "0 output tokens"),
    ],
)
def test_a_size_beyond_the_model_is_one_line(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolve(Workload(**request_))
    assert "\n" not in str(caught.value)
